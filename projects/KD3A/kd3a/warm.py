"""Forks the process of each message from one that has imported everything.

A SuperNode starts the command `flwr-clientapp` for every message, and PyTorch and Detectron2 take
it some seconds to import before it reads the message. A `WarmProcess` imports them once. Its folder
holds a command of that name which asks it to fork: put that folder first in the SuperNode's PATH.
"""

from __future__ import annotations

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
from pathlib import Path
from typing import IO

COMMAND = "flwr-clientapp"
_SEND = """\
import json, socket, sys
with socket.socket(socket.AF_UNIX) as warm:
    warm.connect({address!r})
    warm.sendall(json.dumps(sys.argv[1:]).encode())
"""


class WarmProcess:
    """Ends with this process, or by `stop`.

    Args:
        modules: what it imports before the first message.
        output: a file that the output of all messages' processes goes to.

    Attributes:
        folder: of the command.
    """

    def __init__(self, modules: list[str], output: IO[str] | None = None) -> None:
        # Paths of sockets must be short, and no other user may connect.
        self.folder = Path(tempfile.mkdtemp(prefix="warm-"))
        address = self.folder / "socket"
        _write_command(self.folder, address)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "kd3a.warm", str(address), *modules],
            stdin=subprocess.PIPE,  # that it ends tells the process that we are gone
            stdout=output,
            stderr=output,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


def _write_command(folder: Path, address: Path) -> None:
    script = folder / "send.py"
    script.write_text(_SEND.format(address=str(address)), encoding="utf-8")
    command = folder / COMMAND
    run = shlex.join([sys.executable, "-I", "-S", str(script)])
    command.write_text(f'#!/bin/sh\nexec {run} "$@"\n', encoding="utf-8")
    command.chmod(0o700)


def serve(address: str, modules: list[str]) -> None:
    """Fork a process for each list of arguments that comes, until standard input ends."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(address)
        server.listen()  # who comes while modules are imported waits
        from flwr.supernode.cli.flwr_clientapp import flwr_clientapp

        for module in modules:
            importlib.import_module(module)
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody asks how children ended
        while server in select.select([server, sys.stdin], [], [])[0]:
            connection, _ = server.accept()
            with connection, connection.makefile("rb") as file:
                arguments = json.loads(file.read())
            if os.fork() == 0:
                server.close()
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                sys.argv = [COMMAND, *arguments]
                flwr_clientapp()  # exits


if __name__ == "__main__":
    serve(sys.argv[1], sys.argv[2:])
