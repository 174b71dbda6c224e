"""Runs that are killed or interrupted, as processes of their own."""

import os
import signal
import subprocess
import time

import pytest
import torch

from .support import ROOT, command, train_net, write_config

pytestmark = pytest.mark.slow
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def leaves(value, path=""):
    if isinstance(value, dict | list | tuple):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, item in items:
            yield from leaves(item, f"{path}/{key}")
    else:
        yield path, value


def assert_same(a, b):
    """Two checkpoint files hold the same, to the last bit."""
    a, b = (dict(leaves(torch.load(path, weights_only=True))) for path in (a, b))
    assert a.keys() == b.keys()
    same = {
        name: torch.equal(a[name], b[name])
        if isinstance(a[name], torch.Tensor)
        else a[name] == b[name] or a[name] != a[name]
        for name in a
    }
    assert [name for name, equal in same.items() if not equal] == []


def start(config, *words):
    return subprocess.Popen(
        command(["--config-file", config, *words]),
        cwd=ROOT,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait_for(process, path, seconds=300):
    deadline = time.monotonic() + seconds
    while not path.exists():
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.timeout(900)
def test_killed_and_resumed_equals_unbroken(tmp_path):
    config = write_config(
        tmp_path,
        SOLVER__MAX_ITER=12,
        SOLVER__CHECKPOINT_PERIOD=4,
        TEST__EVAL_PERIOD=4,
        SERIATIM__SOLVER__EMA_DECAY=0.9,
        SERIATIM__HOOKS__VALIDATION_LOSS_PERIOD=3,
        SERIATIM__HOOKS__WATCH_PERIOD=3,
        MODEL__TIMM__DROP_PATH=0.2,
        DATALOADER__NUM_WORKERS=1,
    )
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    result = train_net("--config-file", config, "OUTPUT_DIR", whole, env=ENVIRONMENT)
    assert result.returncode == 0, result.stderr
    process = start(config, "OUTPUT_DIR", broken)
    wait_for(process, broken / "model_0000003.pth")
    time.sleep(0.2)  # wherever it is by now: saving, evaluating, or some steps on
    process.kill()
    process.wait()
    assert not (broken / "model_final.pth").exists()
    resumed = train_net("--config-file", config, "--resume", "OUTPUT_DIR", broken, env=ENVIRONMENT)
    assert resumed.returncode == 0, resumed.stderr
    for name in ("model_0000011.pth", "model_final.pth", "model_best.pth"):
        if (whole / name).exists():  # no best where nothing was detected
            assert_same(whole / name, broken / name)


@pytest.mark.timeout(900)
def test_ctrl_c_saves_and_says_how_to_go_on(tmp_path):
    config = write_config(tmp_path, SOLVER__MAX_ITER=100000, SOLVER__CHECKPOINT_PERIOD=0)
    process = start(config)
    wait_for(process, tmp_path / "output" / "metrics.json")
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=200)
    assert process.returncode == 130
    assert "--resume" in output and "Traceback" not in output
    tag = (tmp_path / "output" / "last_checkpoint").read_text()
    step = int(tag.removeprefix("model_").removesuffix(".pth"))
    resumed = train_net(
        "--config-file", config, "--resume", "SOLVER.MAX_ITER", str(step + 3), env=ENVIRONMENT
    )
    assert resumed.returncode == 0, resumed.stderr
    assert f"Training from step {step + 1} to {step + 3}" in resumed.stdout
