"""The command, with Flower's simulation engine and without."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from kd3a.command import history
from kd3a.federation import CHECKPOINT, HISTORY

from tests.projects.KD3A.test_party import config, write_data

ROOT = Path(__file__).parents[3]
COMMAND = ROOT / "projects/KD3A/train_net.py"
ROUNDS = 6
SECONDS = 400.0  # for one run; the machine may be busy
ENGINE = ("--processes", "2")
IN_PROCESS = ("--in-process",)


@dataclass
class Runs:
    """Runs of the federation in `folder`, which end with this object."""

    folder: Path
    _processes: list[subprocess.Popen] = field(default_factory=list)

    def start(self, output: str, *arguments: str) -> subprocess.Popen:
        """Begin to train into folder/output; what it says goes to a file."""
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        line = [sys.executable, str(COMMAND), "--config-file", str(self.folder / "config.yaml")]
        line += [*arguments, "OUTPUT_DIR", str(self.folder / output)]
        with self._log(output).open("w") as log:
            run = subprocess.Popen(
                line, stdout=log, stderr=log, env=environment, start_new_session=True
            )
        self._processes.append(run)
        return run

    def finish(self, output: str, *arguments: str) -> tuple[int, str]:
        """The exit code of a run, and what it said."""
        code = self.start(output, *arguments).wait(SECONDS)
        return code, self._log(output).read_text()

    def kill_after_a_round(self, output: str, *arguments: str) -> None:
        run = self.start(output, *arguments)
        end = time.monotonic() + SECONDS
        while not (self.folder / output / HISTORY).exists():
            assert run.poll() is None and time.monotonic() < end, self._log(output).read_text()
            time.sleep(0.01)
        self._kill(run)

    def end(self) -> None:
        for run in self._processes:
            self._kill(run)

    def _kill(self, run: subprocess.Popen) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(run.pid, signal.SIGKILL)
        run.wait()

    def _log(self, output: str) -> Path:
        return self.folder / f"{output}.log"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("simulation")
    write_data(folder)
    text = config(folder, folder / "none", EPOCHS=ROUNDS, EVALUATE_EVERY=2).dump()
    (folder / "config.yaml").write_text(text)
    found = Runs(folder)
    yield found
    found.end()


@pytest.fixture(scope="module")
def straight(runs):
    """Where a run that nobody has disturbed, in one process, has led to."""
    code, said = runs.finish("straight", *IN_PROCESS)
    assert code == 0, said
    return runs.folder / "straight"


def reached(folder: Path) -> tuple[dict, dict]:
    saved = torch.load(folder / CHECKPOINT, weights_only=True)
    return saved["weights"], saved["shares"]


def assert_same(folder: Path, other: Path) -> None:
    (weights, shares), (others, other_shares) = reached(folder), reached(other)
    assert shares == other_shares
    assert [name for name in weights if not torch.equal(weights[name], others[name])] == []
    metrics = [[line["metrics"] for line in history(f)] for f in (folder, other)]
    assert metrics[0] == metrics[1]


@pytest.mark.slow
@pytest.mark.processes
@pytest.mark.timeout(1300)
@pytest.mark.parametrize(
    ("first", "second"), [(IN_PROCESS, ENGINE), (ENGINE, IN_PROCESS)], ids=["here", "engine"]
)
def test_killed_in_one_engine_and_resumed_in_the_other_is_as_if_nothing_had_been(
    runs, straight, first, second
):
    output = f"killed{first[0]}"
    runs.kill_after_a_round(output, *first)
    assert len(history(runs.folder / output)) < ROUNDS
    code, said = runs.finish(output, "--resume", *second)
    assert code == 0, said
    assert f"after round {ROUNDS}:" in said
    assert_same(straight, runs.folder / output)


@pytest.mark.slow
@pytest.mark.processes
@pytest.mark.timeout(900)
def test_a_federation_that_is_there_is_not_begun_again(runs, straight):
    code, said = runs.finish("straight", *IN_PROCESS)
    assert code == 2 and "Go on with it by --resume" in " ".join(said.split())
