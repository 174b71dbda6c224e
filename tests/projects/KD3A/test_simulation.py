"""The command, with Flower's simulation engine and without."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from kd3a.command import history
from kd3a.federation import CHECKPOINT, HISTORY

from tests.projects.KD3A.test_party import config, write_data

ROOT = Path(__file__).parents[3]
COMMAND = ROOT / "projects/KD3A/train_net.py"


def start(folder: Path, output: str, *arguments: str) -> subprocess.Popen:
    """Begin to train the federation of `folder` into folder/output."""
    path = folder / "config.yaml"
    if not path.exists():
        path.write_text(config(folder, folder / "none", EPOCHS=4).dump())
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    line = [sys.executable, str(COMMAND), "--config-file", str(path), *arguments]
    line += ["OUTPUT_DIR", str(folder / output)]
    pipe = subprocess.PIPE
    return subprocess.Popen(line, stdout=pipe, stderr=pipe, text=True, env=environment)


def finish(process: subprocess.Popen) -> tuple[int, str, str]:
    try:
        out, errors = process.communicate(timeout=400)
    finally:
        process.terminate()  # the engine ends its own processes
    return process.returncode, out, errors


def reached(folder: Path) -> tuple[dict, dict]:
    saved = torch.load(folder / CHECKPOINT, weights_only=True)
    return saved["weights"], saved["shares"]


def assert_same(folder: Path, other: Path) -> None:
    (weights, shares), (others, other_shares) = reached(folder), reached(other)
    assert shares == other_shares
    assert all(torch.equal(weights[name], others[name]) for name in weights)
    metrics = [[line["metrics"] for line in history(f)] for f in (folder, other)]
    assert metrics[0] == metrics[1]


@pytest.mark.slow
@pytest.mark.processes
@pytest.mark.timeout(900)
def test_killed_in_one_engine_and_resumed_in_the_other_is_as_if_nothing_had_been(tmp_path):
    write_data(tmp_path)
    code, _, errors = finish(start(tmp_path, "straight", "--in-process"))
    assert code == 0, errors

    killed = start(tmp_path, "killed", "--in-process")
    while killed.poll() is None and not (tmp_path / "killed" / HISTORY).exists():
        time.sleep(0.01)
    killed.kill()
    finish(killed)
    assert len(history(tmp_path / "killed")) < 4

    code, out, errors = finish(start(tmp_path, "killed", "--resume", "--processes", "2"))
    assert code == 0, errors
    assert "after round 4:" in out
    assert_same(tmp_path / "straight", tmp_path / "killed")

    code, _, errors = finish(start(tmp_path, "straight", "--in-process"))
    assert code == 2 and "Go on with it by --resume" in errors
