"""Commands that come before anything is imported are kept, and each gets a process of its own."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time

import pytest
from kd3a.warm import COMMANDS, WarmProcess


@pytest.fixture
def warm(tmp_path):
    # A stand-in for Flower's entry points, and a module that is slow to import.
    (tmp_path / "slow.py").write_text("import time\ntime.sleep(2)\nimported = time.time()\n")
    with (tmp_path / "out.txt").open("w") as output:
        process = WarmProcess(["slow"], {**os.environ}, output)
        yield process, tmp_path / "out.txt"
        process.stop()


@pytest.fixture(autouse=True)
def _path(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))


def said(path, count, seconds=120):
    end = time.monotonic() + seconds
    while (text := path.read_text()).count("usage:") < count and time.monotonic() < end:
        time.sleep(0.1)
    return text


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_wait_for_the_imports_and_are_run(warm, command):
    process, output = warm
    for _ in range(2):  # at once, long before Flower is imported
        subprocess.run([process.folder / command, "--help"], check=True, timeout=30)
    text = said(output, 2)
    assert text.count(f"usage: {command}") == 2
    assert process.process.poll() is None


def test_what_it_has_forked_ends_with_it(warm):
    process, _ = warm
    with socket.create_server(("127.0.0.1", 0)) as server:  # a SuperNode that never answers
        server.settimeout(120)
        address = f"127.0.0.1:{server.getsockname()[1]}"
        words = ["--runtime-api-address", address, "--token", "x", "--insecure"]
        subprocess.run([process.folder / COMMANDS[0], *words], check=True, timeout=30)
        connection, _ = server.accept()
        connection.settimeout(20)  # by itself it waits for 30 s
        process.stop()
        with connection, contextlib.suppress(ConnectionResetError):
            while connection.recv(1 << 16):
                pass


def test_it_ends_with_its_parent(tmp_path):
    code = (
        "import os, sys; from kd3a.warm import WarmProcess;"
        "print(WarmProcess([], {**os.environ}).process.pid, flush=True); os._exit(1)"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    run = subprocess.run(
        [sys.executable, "-c", code], env=env, text=True, stdout=subprocess.PIPE, timeout=120
    )
    pid, end = int(run.stdout), time.monotonic() + 120
    while os.path.exists(f"/proc/{pid}") and time.monotonic() < end:
        time.sleep(0.1)
    assert not os.path.exists(f"/proc/{pid}")
