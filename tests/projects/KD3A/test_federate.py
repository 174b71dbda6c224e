"""The command line of federations between processes: Ctrl-C leaves nothing behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import yaml
from kd3a.demo import write_places
from kd3a.domains import drawn_domains, folder_domains
from kd3a.federation import CHECKPOINT
from kd3a.hosts import PROJECT, Host, free_port, stay

from dataset_tools.errors import InputError

ROOT = PROJECT.parents[1]


@contextmanager
def federate(*words: str) -> Iterator[subprocess.Popen]:
    """A command, which ends with all that it has started."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(PROJECT / "federate.py"), *words]
    pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    run = subprocess.Popen(command, env=env, text=True, start_new_session=True, **pipe)
    try:
        yield run
    finally:
        # What it has started ends when it does.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(run.pid, signal.SIGKILL)
        run.wait()


def processes_of(folder: Path) -> list[str]:
    """Command lines of the processes that were told of a folder."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes()
            told = words + (entry / "environ").read_bytes()
        except OSError:
            continue
        if str(folder).encode() in told and int(entry.name) != os.getpid():
            found.append(words.replace(b"\0", b" ").decode())
    return found


@pytest.mark.slow
@pytest.mark.processes
@pytest.mark.timeout(600)
def test_ctrl_c_ends_all_processes(tmp_path):
    output = tmp_path / "demo"
    logs = [output / "coordinator" / "coordinator.log"]
    logs += [output / "parties" / n / f"{n}.log" for n in ("plain", "inverted", "noisy", "turned")]
    with federate("demo", "--output", str(output)) as demo:
        wait_for(lambda: all(log.exists() for log in logs) or demo.poll() is not None, 300)
        assert demo.poll() is None, demo.communicate(timeout=60)[0]
        assert len(processes_of(output)) > 5
        demo.send_signal(signal.SIGINT)
        said, _ = demo.communicate(timeout=120)
        assert demo.returncode == 130 and "interrupted" in said
        # Those that were being started see that their parents are gone.
        wait_for(lambda: processes_of(output) == [], 60)


def wait_for(condition, seconds: float) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not within {seconds} s"
        time.sleep(0.2)


def test_hosts_end_with_whoever_started_them(tmp_path):
    code = (
        "import time; from pathlib import Path; from kd3a.hosts import Host;"
        f"host = Host('x', Path({str(tmp_path)!r})); host.start(['sleep', '1000']);"
        "print(host.process.pid, flush=True); time.sleep(1000)"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(PROJECT)])}
    run = subprocess.Popen([sys.executable, "-c", code], env=env, text=True, stdout=subprocess.PIPE)
    pid = int(run.stdout.readline())
    assert Path(f"/proc/{pid}").exists()
    run.kill()
    run.wait()
    end = time.monotonic() + 30
    while Path(f"/proc/{pid}/cmdline").exists() and time.monotonic() < end:
        if not Path(f"/proc/{pid}/cmdline").read_bytes():
            break  # a zombie, which nobody is left to ask for
        time.sleep(0.1)
    else:
        assert not Path(f"/proc/{pid}").exists()


def test_ctrl_c_is_not_lost_while_a_host_is_started(tmp_path):
    """Python ignores the exceptions of functions that it calls at a fork, KeyboardInterrupt too."""
    called = []
    os.register_at_fork(before=lambda: called.append("before"))
    host = Host("x", tmp_path)
    host.start(["true"])
    assert host.process.wait(60) == 0 and called == []


def test_a_supernode_that_ends_is_followed_by_another():
    lives = iter([7, 7, 7])
    with pytest.raises(StopIteration):
        stay(lambda: next(lives), short=0, most=1, pause=0)
    lives = iter([7, 8, 9])
    assert stay(lambda: next(lives), short=60, most=2, pause=0) == 8


def test_every_party_has_a_folder_of_its_own(tmp_path):
    configs = write_places(tmp_path, drawn_domains(), target="turned")
    assert list(configs) == ["plain", "inverted", "noisy", "turned", "coordinator"]
    for name, path in configs.items():
        content = yaml.safe_load(path.read_text())
        told = [entry["LABELS"] for entry in content["SERIATIM"]["DATASETS"]]
        assert set(told) == ({str(path.parent / "digits.npz")} if name != "coordinator" else set())
        assert content["OUTPUT_DIR"] == str(path.parent)
        assert content["KD3A"] == {"PARTIES": list(configs)[:4], "TARGET": "turned"}


def test_drawn_domains_share_no_digit():
    domains = drawn_domains()
    assert sum(len(labels) for _, labels in domains.values()) == 1797
    for images, labels in domains.values():
        assert images.shape[1:] == (32, 32) and images.dtype == np.uint8
        assert np.bincount(labels, minlength=10).min() > 20
    plain, inverted = domains["plain"][0], domains["inverted"][0]
    assert plain.mean() < 127 < inverted.mean()


def test_domains_of_a_folder(tmp_path):
    for name in ("mnist", "usps"):
        np.savez(tmp_path / f"{name}.npz", images=np.zeros((9, 4, 4), np.uint8), labels=range(9))
    with pytest.raises(InputError, match=r"mnist_m\.npz"):
        folder_domains(tmp_path, most=5)
    np.savez(tmp_path / "mnist_m.npz", images=np.ones((9, 4, 4, 3), np.uint8), labels=range(9))
    found = folder_domains(tmp_path, most=5)
    assert list(found) == ["mnist", "usps", "mnist_m", "optdigits"]
    assert all(len(images) == len(labels) == 5 for images, labels in found.values())


def test_what_is_missing_is_said(tmp_path):
    address = f"127.0.0.1:{free_port()}"
    party = ["party", "--name", "a", "--superlink", address, "--root-certificates", "none.crt"]
    with federate(*party, "--config-file", str(tmp_path / "none.yaml")) as run:
        assert "There is no file" in run.communicate(timeout=120)[0] and run.returncode == 2
    configs = write_places(tmp_path, drawn_domains(), target="turned")
    (tmp_path / "coordinator" / CHECKPOINT).touch()
    with federate("coordinator", "--config-file", str(configs["coordinator"])) as run:
        assert "holds a federation" in run.communicate(timeout=120)[0] and run.returncode == 2
