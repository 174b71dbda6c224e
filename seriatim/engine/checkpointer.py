"""Checkpoints that are whole or not there; `last_checkpoint` names none that is not."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dataset_tools.errors import InputError
from dataset_tools.files import atomic_path, write_text
from seriatim.checkpoint import SafeCheckpointer


class AtomicCheckpointer(SafeCheckpointer):
    """A SafeCheckpointer that a kill at any moment leaves with a valid last checkpoint."""

    def save(self, name: str, **kwargs: Any) -> None:
        """Save model, checkpointables and `kwargs` as NAME.pth; tag it as the last checkpoint."""
        if not self.save_dir or not self.save_to_disk:
            return
        data = {"model": self.model.state_dict()}
        data |= {key: obj.state_dict() for key, obj in self.checkpointables.items()}
        save_atomically(Path(self.save_dir) / f"{name}.pth", data | kwargs)
        self.tag_last_checkpoint(f"{name}.pth")

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        write_text(Path(self.save_dir) / "last_checkpoint", last_filename_basename)


def save_atomically(path: Path, data: dict[str, Any]) -> None:
    """`torch.save`, on the disk before the file gets its name.

    Raises:
        InputError: the disk is full or the folder cannot be written.
    """
    try:
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            torch.save(data, file)
            file.flush()
            os.fsync(file.fileno())
    except (OSError, RuntimeError) as error:
        # torch's zip writer hides what the file object raised behind a RuntimeError of its own.
        cause = error if isinstance(error, OSError) else error.__cause__ or error.__context__
        if isinstance(error, RuntimeError) and "write" not in str(error):
            raise
        full = isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT)
        what = "the disk is full" if full or not isinstance(cause, OSError) else cause.strerror
        raise InputError(
            f"The checkpoint {path} could not be written: {what}. The checkpoints before it are"
            " whole. Free some space and go on with --resume."
        ) from error


def remove_leftovers(folder: str | Path) -> None:
    """Remove the half-written files that a kill in the middle of a save left behind."""
    for path in Path(folder).glob(".model_*.pth"):
        path.unlink()


class _EvaluationCheckpointer(SafeCheckpointer):
    """Reads the averaged weights of a checkpoint that has them."""

    def _load_file(self, filename: str) -> dict[str, Any]:
        data = super()._load_file(filename)
        if "ema" in data:
            data["model"] = data["ema"]["model"]
        return data


def load_evaluated_weights(model: nn.Module, path: str | Path) -> None:
    """Load what evaluation uses from a checkpoint: the moving average where it has one.

    Raises:
        InputError: the checkpoint does not have all weights of the model.
    """
    checkpointer = _EvaluationCheckpointer(model)
    checkpointer.load(str(path), checkpointables=[])
    report = checkpointer.report
    if report.reshaped or report.initial:
        table = "\n".join(f"  {line}" for line in report.table().splitlines())
        raise InputError(
            f"{path} cannot be evaluated: parts of the model would stay as they were initialised."
            f" Use the config that it was trained with.\n{table}"
        )
