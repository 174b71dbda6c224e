"""The command line."""

import subprocess
import sys
import time

import pytest

from seriatim.engine.arguments import parse_arguments

from .support import ROOT


def test_help_is_quick_shows_examples_and_imports_nothing_heavy():
    start = time.perf_counter()
    result = subprocess.run(
        [sys.executable, "-X", "importtime", "train_net.py", "--help"],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert time.perf_counter() - start < 3  # 0.15 s on an idle machine
    assert result.returncode == 0 and "--resume" in result.stdout and "examples" in result.stdout
    modules = {line.rpartition("|")[2].strip() for line in result.stderr.splitlines()}
    assert not modules & {"torch", "numpy", "detectron2", "yaml"}


def test_training_starts_without_what_it_does_not_need():
    """Each of these costs a second or more, and is imported where it is used."""
    heavy = ["captum", "matplotlib", "onnx", "onnxruntime", "openvino", "pandas", "scipy"]
    heavy += ["sklearn", "tensorboard", "tensorflow", "flwr", "rich"]
    needed = "run, setup, trainer, hooks"
    code = (
        f"from seriatim.engine import {needed}; import seriatim.data.loader, sys;"
        f" print([name for name in {heavy} if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert result.stdout.strip() == "[]", result.stdout + result.stderr


def test_options_may_stand_anywhere():
    args = parse_arguments(
        ["SOLVER.MAX_ITER", "5", "--config-file", "a.yaml", "--resume", "SEED", "-1"]
    )
    assert args.resume and args.opts == ["SOLVER.MAX_ITER", "5", "SEED", "-1"]


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--config-file", "a.yaml", "--resume", "--overwrite"],
        ["--config-file", "a.yaml", "--eval-only", "--dry-run"],
        ["--config-file", "a.yaml", "--num-gpus", "0"],
    ],
)
def test_contradictions_end_with_code_2(words, capsys):
    with pytest.raises(SystemExit) as caught:
        parse_arguments(words)
    assert caught.value.code == 2
