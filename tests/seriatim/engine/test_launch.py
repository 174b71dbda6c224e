"""Several processes on CPU."""

import json
import multiprocessing
import os
import sys
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from detectron2.utils import comm

from dataset_tools.errors import InputError
from seriatim.engine.launch import launch

from .support import train_net, write_config

ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def test_one_process_is_called_directly():
    assert launch(lambda code: code, args=(5,)) == 5


def test_several_machines_need_an_address():
    with pytest.raises(InputError, match="--dist-url"):
        launch(print, num_processes=1, num_machines=2)


def note_ranks(folder):
    total = torch.tensor(float(comm.get_rank() + 1))
    dist.all_reduce(total)
    facts = [comm.get_rank(), comm.get_local_rank(), comm.get_local_size(), comm.get_world_size()]
    (folder / f"{comm.get_rank()}.json").write_text(json.dumps([*facts, total.item()]))


def complain_in_one(rank):
    if comm.get_rank() == rank:
        raise InputError("the one complaint")
    dist.barrier()  # waits for a process that never comes


def leave_with(code):
    sys.exit(code)


@pytest.mark.slow
def test_processes_know_each_other(tmp_path):
    assert launch(note_ranks, num_processes=2, args=(tmp_path,)) == 0
    facts = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    assert facts == [[0, 0, 2, 2, 3.0], [1, 1, 2, 2, 3.0]]


@pytest.mark.slow
def test_a_complaint_of_any_process_is_told_once_and_ends_all():
    with pytest.raises(InputError, match=r"^the one complaint$"):
        launch(complain_in_one, num_processes=2, args=(1,))


@pytest.mark.slow
def test_the_exit_code_of_a_process_is_passed_on():
    assert launch(leave_with, num_processes=2, args=(130,)) == 130


def tell_pid_and_sleep(folder):
    (folder / f"{comm.get_rank()}.pid").write_text(str(os.getpid()))
    time.sleep(60)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="prctl is Linux")
def test_no_process_outlives_its_parent(tmp_path):
    parent = multiprocessing.get_context("spawn").Process(
        target=launch, args=(tell_pid_and_sleep, 2), kwargs={"args": (tmp_path,)}
    )
    parent.start()
    paths = [tmp_path / f"{rank}.pid" for rank in range(2)]
    while not all(path.exists() and path.read_text() for path in paths):
        assert parent.is_alive()
        time.sleep(0.05)
    parent.kill()
    parent.join()
    deadline = time.monotonic() + 20
    while any(_is_running(int(path.read_text())) for path in paths):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _is_running(pid):
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False
    return "State:\tZ" not in status


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_processes_give_the_losses_of_one(tmp_path):
    """The detector's normaliser is reduced over processes, and no BatchNorm is in training."""
    config = write_config(
        tmp_path,
        MODEL__META_ARCHITECTURE="TaskAlignedDetector",
        MODEL__TIMM__NORM="GN",
        MODEL__TASK_ALIGNED__CHANNELS=16,
        DATASETS__TEST=[],
        SOLVER__MAX_ITER=3,
        SOLVER__CHECKPOINT_PERIOD=0,
        SERIATIM__SOLVER__ACCUMULATE=2,
    )
    losses, weights = [], []
    for processes in (1, 2):
        output = tmp_path / f"output{processes}"
        result = train_net(
            *("--config-file", config, "--num-processes", processes, "OUTPUT_DIR", output),
            env=ENVIRONMENT,
        )
        assert result.returncode == 0, result.stdout + result.stderr
        lines = [json.loads(line) for line in (output / "metrics.json").read_text().splitlines()]
        names = sorted(n for n in lines[0] if n.startswith("loss"))
        losses.append([[line[n] for n in (*names, "gradient_norm")] for line in lines[:3]])
        weights.append(torch.load(output / "model_final.pth", weights_only=True)["model"])
    torch.testing.assert_close(
        torch.tensor(losses[0]), torch.tensor(losses[1]), rtol=1e-4, atol=1e-5
    )
    for name, value in weights[0].items():
        torch.testing.assert_close(value, weights[1][name], rtol=1e-3, atol=1e-4)
