"""A training step in a file: all that it takes to run it again, to the last bit."""

from __future__ import annotations

import pickle
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from detectron2.structures import (
    BitMasks,
    Boxes,
    BoxMode,
    Instances,
    Keypoints,
    PolygonMasks,
    RotatedBoxes,
)
from torch.serialization import safe_globals

from dataset_tools.errors import InputError
from seriatim.engine.checkpointer import save_atomically
from seriatim.engine.state import PlainNumbers, rng_state

if TYPE_CHECKING:
    from seriatim.engine.trainer import Trainer

# What batches are made of; a dump that holds any other class is not loaded.
_CLASSES = [
    Instances,
    Boxes,
    RotatedBoxes,
    BitMasks,
    PolygonMasks,
    Keypoints,
    BoxMode,
    np.ndarray,
    np.dtype,
    np.zeros(1).__reduce__()[0],  # what makes an array again
    np.float64(0).__reduce__()[0],  # and a scalar
    *{type(np.dtype(code)) for code in "?bBhHiIlLqQfdU"},
]


@dataclass
class Dump:
    """One step as it was before it ran.

    Attributes:
        iteration: of the step; error: what it ended with.
        config: YAML. model, train_step: their state dicts (the latter has the optimizer's).
        rng: as `rng_state` gives it; plain: the plain numbers of the modules, by dotted name.
        batches: the inputs that the step saw, up to the one that failed.
        losses: total of each batch, None where the model gave none.
        threads: that torch used; sums are rounded differently with another number.
    """

    iteration: int
    error: str
    config: str
    model: dict[str, torch.Tensor]
    train_step: dict[str, Any]
    rng: dict[str, Any]
    plain: dict[str, int | float]
    batches: list[list[dict[str, Any]]]
    losses: list[torch.Tensor | None]
    threads: int

    def save(self, path: Path) -> None:
        """Write it, whole or not at all.

        Raises:
            InputError: the disk is full or the folder cannot be written.
        """
        save_atomically(path, {field.name: getattr(self, field.name) for field in fields(self)})

    @classmethod
    def load(cls, path: str | Path) -> Dump:
        """Read a dump. Only tensors and what Detectron2's inputs are made of is unpickled.

        Raises:
            InputError: there is no such file, or it is no dump.
        """
        if not Path(path).is_file():
            raise InputError(f"There is no dump {path}.")
        try:
            with safe_globals(_CLASSES):
                values = torch.load(path, map_location="cpu", weights_only=True)
            return cls(**values)
        except (pickle.UnpicklingError, RuntimeError, EOFError, TypeError) as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else "it ends early"
            raise InputError(
                f"{path} is not a dump that can be read safely: {reason}. A dump is what training"
                " writes to OUTPUT_DIR/watch when a loss or a gradient is not finite."
            ) from None


class BeforeStep:
    """Remembers, before each step, what the step itself changes until its optimizer steps.

    Weights and the optimizer's state are as they were when a loss or gradient turns out not to be
    finite. Random generators, buffers (BatchNorm's averages) and plain numbers are not.
    """

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer
        saved = trainer.bare_model.state_dict()  # without buffers that are fixed
        buffers = trainer.bare_model.named_buffers()
        self._buffers = {name: buffer for name, buffer in buffers if name in saved}
        self._kept = {name: buffer.detach().clone() for name, buffer in self._buffers.items()}
        self._plain = PlainNumbers(trainer.bare_model)
        self._values: list[Any] = []
        self._rng: dict[str, Any] = {}
        self._iteration = -1

    @torch.no_grad()
    def remember(self) -> None:
        self._iteration = self._trainer.iter
        self._rng = rng_state()
        self._values = self._plain.read()
        if self._kept:
            torch._foreach_copy_(list(self._kept.values()), list(self._buffers.values()))

    def dump(self, error: Exception) -> Dump | None:
        """The present step as it was before it ran; None if it was not remembered."""
        trainer = self._trainer
        if self._iteration != trainer.iter:
            return None
        model = trainer.bare_model.state_dict()
        return Dump(
            iteration=trainer.iter,
            error=str(error),
            config=trainer.cfg.dump(),
            model={name: self._kept.get(name, tensor) for name, tensor in model.items()},
            train_step=trainer.train_step.state_dict(),
            rng=self._rng,
            plain=self._plain.named(self._values),
            batches=[batch for batch, _ in trainer.train_step.seen],
            losses=[loss for _, loss in trainer.train_step.seen],
            threads=torch.get_num_threads(),
        )
