"""Forks the processes of Flower's apps from one that has imported everything.

A SuperNode starts the command `flwr-clientapp` for every message, a SuperLink `flwr-serverapp` for
every run, and PyTorch and Detectron2 take them some seconds to import before they say anything. A
`WarmProcess` imports them once. Its folder holds commands of these names which ask it to fork: put
that folder first in the PATH of SuperNode or SuperLink.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import select
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

COMMANDS = ("flwr-clientapp", "flwr-serverapp")
_PR_SET_PDEATHSIG = 1  # of Linux's prctl
_END_WITH_PARENT = f"""\
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl({_PR_SET_PDEATHSIG}, signal.SIGTERM)
if os.getppid() == int(sys.argv[1]):
    os.execvp(sys.argv[2], sys.argv[2:])
"""
_SEND = """\
import json, socket, sys
with socket.socket(socket.AF_UNIX) as warm:
    warm.connect({address!r})
    warm.sendall(json.dumps([{name!r}, *sys.argv[1:]]).encode())
"""


class WarmProcess:
    """Ends with this process, or by `stop`, and with it all that it has forked.

    Args:
        modules: what it imports before the first fork.
        environment: of what it forks.
        output: a file that their output goes to; None is this process's own.

    Attributes:
        folder: of the commands.
    """

    def __init__(
        self, modules: list[str], environment: Mapping[str, str], output: IO[str] | None = None
    ) -> None:
        # Paths of sockets must be short, and no other user may connect.
        self.folder = Path(tempfile.mkdtemp(prefix="warm-"))
        address = self.folder / "socket"
        for command in COMMANDS:
            _write_command(self.folder / command, address)
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(address))
            server.listen()  # who comes while modules are imported waits
            self.process = subprocess.Popen(
                [sys.executable, "-m", "kd3a.warm", str(server.fileno()), *modules],
                stdin=subprocess.PIPE,  # that it ends tells the process that we are gone
                stdout=output,
                stderr=output,
                env={**environment, "PYTHONPATH": os.pathsep.join(sys.path)},
                pass_fds=[server.fileno()],
            )

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


def _write_command(command: Path, address: Path) -> None:
    script = command.with_suffix(".py")
    script.write_text(_SEND.format(address=str(address), name=command.name), encoding="utf-8")
    run = shlex.join([sys.executable, "-I", "-S", str(script)])
    command.write_text(f'#!/bin/sh\nexec {run} "$@"\n', encoding="utf-8")
    command.chmod(0o700)


def ending_with_us(command: Sequence[str]) -> list[str]:
    """The command as one that the kernel ends when this process ends, however it does.

    Not by `preexec_fn` of `subprocess`: with that Python calls functions at the fork in which
    exceptions are ignored, and a Ctrl-C that comes just then is lost.
    """
    return [sys.executable, "-I", "-S", "-c", _END_WITH_PARENT, str(os.getpid()), *command]


def serve(server: socket.socket, modules: list[str]) -> None:
    """Fork a process for each list of words that comes, until standard input ends."""
    with server:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for whoever started it
        from flwr.superlink.cli.flwr_serverapp import flwr_serverapp
        from flwr.supernode.cli.flwr_clientapp import flwr_clientapp

        entries = dict(zip(COMMANDS, (flwr_clientapp, flwr_serverapp), strict=True))
        for module in modules:
            importlib.import_module(module)
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody asks how children ended
        while server in select.select([server, sys.stdin], [], [])[0]:
            connection, _ = server.accept()
            with connection, connection.makefile("rb") as file:
                words = json.loads(file.read())
            if os.fork() == 0:
                ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
                server.close()
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                signal.signal(signal.SIGINT, signal.default_int_handler)
                sys.argv = words
                entries[words[0]]()  # exits


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])), sys.argv[2:])
