"""Checkpoints that are whole or not there."""

import errno

import pytest
import torch
from torch import nn

from dataset_tools.errors import InputError
from seriatim.engine import checkpointer as module
from seriatim.engine.checkpointer import AtomicCheckpointer, remove_leftovers


def files(folder):
    return sorted(p.name for p in folder.iterdir())


def test_save_and_tag(tmp_path):
    model = nn.Linear(2, 2)
    AtomicCheckpointer(model, str(tmp_path)).save("model_0000001", iteration=1)
    assert files(tmp_path) == ["last_checkpoint", "model_0000001.pth"]
    other = AtomicCheckpointer(nn.Linear(2, 2), str(tmp_path))
    assert other.resume_or_load("", resume=True)["iteration"] == 1
    assert torch.equal(other.model.weight, model.weight)


@pytest.mark.parametrize(
    "error, words",
    [
        (OSError(errno.ENOSPC, "No space left on device"), "the disk is full"),
        (OSError(errno.EACCES, "Permission denied"), "Permission denied"),
    ],
)
def test_a_failed_save_leaves_the_last_one_whole(tmp_path, monkeypatch, error, words):
    checkpointer = AtomicCheckpointer(nn.Linear(2, 2), str(tmp_path))
    checkpointer.save("model_0000001")

    def half(data, file):
        file.write(b"half a checkpoint")
        raise error

    monkeypatch.setattr(module.torch, "save", half)
    with pytest.raises(InputError, match=words):
        checkpointer.save("model_0000002")
    assert files(tmp_path) == ["last_checkpoint", "model_0000001.pth"]
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000001.pth"


def test_a_full_disk_through_torchs_own_writer(tmp_path, monkeypatch):
    """/dev/full fails every write as a full disk does; torch hides the reason."""
    from contextlib import contextmanager
    from pathlib import Path

    @contextmanager
    def full(path):
        yield Path("/dev/full")

    monkeypatch.setattr(module, "atomic_path", full)
    with pytest.raises(InputError, match="disk is full"):
        module.save_atomically(tmp_path / "model.pth", {"model": {"w": torch.zeros(1 << 20)}})


def test_leftovers_of_a_kill_are_removed(tmp_path):
    (tmp_path / ".model_0000001.abc.pth").touch()
    (tmp_path / "model_0000001.pth").touch()
    remove_leftovers(tmp_path)
    assert files(tmp_path) == ["model_0000001.pth"]
