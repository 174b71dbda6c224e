"""Short trainings on a few images, by the user's own trainer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from detectron2.utils.events import EventStorage
from torch import nn

from seriatim.gates.context import Context, Record
from seriatim.gates.labelled import ALL_LABELLED
from seriatim.gates.quiet import quiet

if TYPE_CHECKING:
    from seriatim.engine.trainer import Trainer

WARMUP = 10
FIRST, LAST = 5, 10  # steps over which a term is averaged to tell how it began and ended


@dataclass
class Practice:
    """A trainer on a few fixed images, without augmentation or shuffling.

    Attributes:
        trainer: of the user's class; dataset: the name that the images are registered under.
        losses: the loss terms of each step so far.
    """

    trainer: Trainer
    dataset: str
    losses: list[dict[str, float]] = field(default_factory=list)

    @property
    def model(self) -> nn.Module:
        return self.trainer.bare_model

    def total(self) -> list[float]:
        """The sum of the loss terms of each step."""
        return [sum(terms.values()) for terms in self.losses]

    def ends(self) -> dict[str, tuple[float, float]]:
        """Of each loss term its mean over the first steps and over the last ones."""
        parts = self.losses[:FIRST], self.losses[-LAST:]
        return {
            name: tuple(float(np.mean([terms.get(name, 0.0) for terms in part])) for part in parts)
            for name in self.losses[0]
        }

    def run(self, steps: int, before: Callable[[int], None] | None = None) -> None:
        """So many steps more. `before` is called with the number of each step.

        Raises:
            NonFiniteError: the loss or the gradient became NaN or infinite.
        """
        trainer = self.trainer
        trainer.model.train()
        first = len(self.losses)
        with EventStorage(first) as storage:
            trainer.storage = storage
            for trainer.iter in range(first, first + steps):
                if before:
                    before(trainer.iter)
                trainer.run_step()
                latest = {k: v for k, (v, _) in storage.latest().items()}
                self.losses.append(_terms(latest))
                trainer.scheduler.step()
                storage.step()


def _terms(latest: dict[str, float]) -> dict[str, float]:
    terms = {k: v for k, v in latest.items() if k.startswith("loss")}
    return terms or {"total_loss": latest["total_loss"]}


def practise(
    context: Context,
    records: Sequence[Record],
    steps: int,
    batch: int,
    name: str,
    *overrides: Any,
    alter: Callable[[Record], Record] | None = None,
) -> Practice:
    """A trainer on `records`; `steps` is what its schedule is made for, `run` does them.

    Args:
        batch: images per step.
        name: of the dataset that the records are registered as.
        overrides: further KEY, VALUE of the config.
        alter: changes every mapped input, such as to a black image.
    """
    metadata_of = (context.cfg.DATASETS.TRAIN or context.cfg.DATASETS.TEST)[0]
    dataset = context.dataset_of(records, metadata_of, name)
    cfg = context.variant(
        "DATASETS.TRAIN", (dataset,), "DATASETS.TEST", (dataset,),
        "SERIATIM.DETERMINISTIC_DEBUG", True, "SERIATIM.DATASET_WEIGHTS", (),
        "SERIATIM.SOLVER.ACCUMULATE", 1, "DATALOADER.NUM_WORKERS", 0,
        "SOLVER.IMS_PER_BATCH", min(batch, len(records)), "SOLVER.MAX_ITER", steps,
        "SOLVER.WARMUP_ITERS", min(WARMUP, steps // 2), "SOLVER.STEPS", (), *ALL_LABELLED,
        *overrides,
    )  # fmt: skip
    torch.manual_seed(context.SEED)
    with quiet():
        trainer = context.trainer_class(cfg)
        trainer.resume_or_load(resume=False)
    if alter is not None:
        step = trainer._trainer
        step.data_loader = _Altered(step.data_loader, alter)
        # Detectron2 0.6 has made its iterator by now, later ones make it in the first step.
        if "_data_loader_iter" in vars(step):
            step._data_loader_iter = iter(step.data_loader)
        else:
            step._data_loader_iter_obj = None
    return Practice(trainer, dataset)


class _Altered:
    """A loader whose every input is changed."""

    def __init__(self, loader: Any, alter: Callable[[Record], Record]) -> None:
        self._loader, self._alter = loader, alter

    def __iter__(self) -> Iterator[list[Record]]:
        for batch in self._loader:
            yield [self._alter(item) for item in batch]


def smoothed(values: Sequence[float], weight: float = 0.9) -> np.ndarray:
    """Exponential moving average, corrected for its start."""
    average, result = 0.0, []
    for step, value in enumerate(values, start=1):
        average = weight * average + (1 - weight) * value
        result.append(average / (1 - weight**step))
    return np.asarray(result)
