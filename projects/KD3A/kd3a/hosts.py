"""Coordinator and parties as processes that speak over TLS: Flower's SuperLink and SuperNodes.

Each keeps its log in a file, is in a process group of its own, which `stop` ends as a whole, and
is waited for no longer than a deadline.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from dataset_tools.errors import InputError
from kd3a.certificates import Certificates
from kd3a.federation import HISTORY
from kd3a.warm import WarmProcess, ending_with_us

logger = logging.getLogger(__name__)

PROJECT = Path(__file__).parents[1]
# Below those that a system gives to connections that go out, which would take them meanwhile.
_PORTS = range(20_000, 32_000)
# A coordinator's name for its SuperLink, in its own Flower settings.
_CONNECTION = "coordinator"


def free_port() -> int:
    """A port of this machine on which nobody listens."""
    for port in random.SystemRandom().sample(_PORTS, 100):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise InputError(f"Ports {_PORTS.start} to {_PORTS.stop} of this machine are in use.")


@dataclass
class Host:
    """Processes with one log, in a group of their own.

    Attributes:
        name: what messages call it.
        folder: of the log and of what Flower keeps.
    """

    name: str
    folder: Path
    process: subprocess.Popen = field(init=False, repr=False)

    @property
    def log(self) -> Path:
        return self.folder / f"{self.name}.log"

    def start(self, command: Sequence[str], first_in_path: Path | None = None) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        with self.log.open("a", encoding="utf-8") as log:
            self.process = subprocess.Popen(
                ending_with_us(command),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment(self.folder, first_in_path),
                start_new_session=True,
            )

    def alive(self) -> bool:
        return self.process.poll() is None

    def kill(self) -> None:
        """As a power failure would: all its processes, at once."""
        _signal_group(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def last_words(self, lines: int = 15) -> str:
        """The end of its log."""
        return "\n".join(self.log.read_text("utf-8", errors="replace").splitlines()[-lines:])


def stop(hosts: Sequence[Host], seconds: float = 10.0) -> None:
    """Ask the processes of `hosts` to end, and kill those that have not after `seconds`."""
    for host in hosts:
        _signal_group(host.process.pid, signal.SIGTERM)
    end = time.monotonic() + seconds
    for host in hosts:
        while _signal_group(host.process.pid, 0) and time.monotonic() < end:
            host.process.poll()  # or it would stay in the group as a zombie
            time.sleep(0.1)
        host.kill()


@contextmanager
def ended_with() -> Iterator[list[Host]]:
    """A list for hosts, which are stopped at the end, however it comes."""
    hosts: list[Host] = []
    try:
        yield hosts
    finally:
        stop(hosts)


class SuperLink(Host):
    """The coordinator's side of the network: parties come to it, and it runs `kd3a.deploy`.

    Args:
        folder: of its log and its settings.
        certificates: what it shows; valid for `host` and, for its own use, for 127.0.0.1.
        host: name or address that parties come to; one of this machine's own (127.0.0.1,
            localhost) is not listened at from outside.
        port: 0 takes a free one.
    """

    def __init__(
        self, folder: Path, certificates: Certificates, host: str = "127.0.0.1", port: int = 0
    ) -> None:
        super().__init__("superlink", folder)
        self.certificates = certificates
        self.port = port or free_port()
        self.address = f"{host}:{self.port}"
        listen = "127.0.0.1" if host in ("127.0.0.1", "localhost") else "0.0.0.0"
        folder.mkdir(parents=True, exist_ok=True)
        with self.log.open("a", encoding="utf-8") as log:
            self.warm = WarmProcess(["kd3a.deploy"], environment(folder), log)
        self.start(
            [
                *_command("flower-superlink"),
                *("--host", listen, "--port", str(self.port)),
                *("--ssl-ca-certfile", str(certificates.authority)),
                *("--ssl-certfile", str(certificates.certificate)),
                *("--ssl-keyfile", str(certificates.key)),
                "--disable-runtime-dependency-installation",
            ],
            first_in_path=self.warm.folder,
        )

    def kill(self) -> None:
        super().kill()
        self.warm.stop()

    def wait(self, seconds: float = 120.0) -> None:
        """Return when it listens. InputError: it ended, or does not within `seconds`."""
        end = time.monotonic() + seconds
        while self.alive() and time.monotonic() < end:
            with socket.socket() as probe:
                probe.settimeout(1)
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.2)
        raise InputError(
            f"The SuperLink does not listen at {self.address} after {seconds:.0f} s. Its log"
            f" {self.log} ends with:\n{_indented(self.last_words())}"
        )

    def run(self, config: Path, name: str = "coordinator", app: Path = PROJECT) -> Host:
        """Start a coordinator with this config; it ends when its rounds are done.

        Args:
            name: of its log.
            app: the project whose apps coordinator and parties run.
        """
        connection = (
            f'[superlink]\ndefault = "{_CONNECTION}"\n[superlink.{_CONNECTION}]\n'
            f'address = "127.0.0.1:{self.port}"\n'
            f'root-certificates = "{self.certificates.authority.absolute()}"\n'
        )
        (self.folder / "config.toml").write_text(connection, encoding="utf-8")
        run = Host(name, self.folder)
        setting = f'config="{config.absolute()}"'
        run.start([*_command("flwr"), "run", str(app), _CONNECTION, "--stream", "-c", setting])
        return run


class Party(Host):
    """A party's side: a SuperNode, and the process from which those of its messages are forked.

    Args:
        folder: of its log and its settings.
        name: of the party.
        config: its config, which describes its own data only.
        authority: the certificate that it trusts the coordinator by.
        address: HOST:PORT of the SuperLink.
    """

    def __init__(
        self, folder: Path, name: str, config: Path, authority: Path, address: str
    ) -> None:
        super().__init__(name, folder)
        self.start(
            [
                *(sys.executable, str(PROJECT / "federate.py"), "party", "--name", name),
                *("--config-file", str(config), "--root-certificates", str(authority)),
                *("--superlink", address),
            ]
        )


def supernode(name: str, config: Path, authority: Path, address: str) -> list[str]:
    """The command of a party's SuperNode."""
    node = f'party="{name}" config="{config.absolute()}"'
    return [
        *_command("flower-supernode"),
        *("--root-certificates", str(authority), "--superlink", address),
        *("--port", str(free_port()), "--node-config", node),
    ]


def stay(live: Callable[[], int], short: float = 30.0, most: int = 5, pause: float = 3.0) -> int:
    """Call `live`, which returns when a SuperNode has ended, again and again.

    A SuperNode does not end when it cannot reach its SuperLink, but it does when a SuperLink tells
    it that it does not know it: the coordinator was killed and is back.

    Args:
        short: seconds; who ends sooner than that has done so by a fault of its own.
        most: calls in a row that are short before this gives up.
        pause: seconds between two calls.

    Returns:
        what `live` returned last.
    """
    in_vain = 0
    while True:
        start = time.monotonic()
        code = live()
        in_vain = in_vain + 1 if time.monotonic() - start < short else 0
        if in_vain == most:
            return code
        logger.warning(f"The SuperNode ended ({code}); another one follows in {pause:.0f} s")
        time.sleep(pause)


def check_finished(folder: Path, rounds: int, run: Host) -> None:
    """InputError, with the last words of the coordinator `run` whose OUTPUT_DIR is `folder`, unless
    all rounds are done."""
    history = folder / HISTORY
    lines = history.read_text(encoding="utf-8").splitlines() if history.exists() else []
    done = json.loads(lines[-1])["round"] if lines else 0
    if done < rounds:
        raise InputError(
            f"The coordinator ended after round {done} of {rounds}. Its log {run.log} ends with:\n"
            f"{_indented(run.last_words())}"
        )


def environment(folder: Path, first_in_path: Path | None = None) -> dict[str, str]:
    """For Flower's processes: nothing is sent to its makers, all is kept in `folder`."""
    scripts = Path(sys.executable).parent  # SuperLink and SuperNode look for others in PATH
    path = [str(place) for place in (first_in_path, scripts) if place]
    return {
        **os.environ,
        "PATH": os.pathsep.join([*path, os.environ.get("PATH", "")]),
        "FLWR_HOME": str(folder.absolute()),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.2",
        "PYTHONUNBUFFERED": "1",
    }


def _command(name: str) -> list[str]:
    """InputError: Flower is not installed beside this Python."""
    script = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    if script is None:
        raise InputError(f'There is no command {name}: pip install ".[federated]".')
    return [script]


def _signal_group(group: int, number: int) -> bool:
    """Whether there was anyone to take it."""
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return False
    return True


def _indented(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.splitlines())
