"""A real trainer of the pipeline, taken through single steps on chosen batches."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from detectron2.utils.events import EventStorage
from torch import nn

from seriatim.engine.ema import EMAHook
from seriatim.engine.trainer import Trainer
from seriatim.gates.context import Batch, Context

STEPS = 3  # residual branches start as 0: their inner layers get a gradient from the second step on


def small_trainer(context: Context, *overrides: object) -> Trainer:
    """The pipeline's own trainer as a run would start it, in a scratch folder and this process."""
    cfg = context.variant("DATALOADER.NUM_WORKERS", 0, "SOLVER.IMS_PER_BATCH", 2, *overrides)
    trainer = context.trainer_class(cfg)
    trainer.resume_or_load(resume=False)
    trainer.bare_model.train()
    return trainer


def take_steps(trainer: Trainer, batches: Iterable[Batch], seed: int | None = None) -> None:
    """One optimizer step for each of `batches`, which every micro-batch of the step repeats.

    Raises:
        InputError: a loss or gradient is not finite.
    """
    inner, times = trainer._trainer, trainer._trainer.accumulate
    # Detectron2's main branch makes the iterator when it is first asked for, v0.6 at once.
    lazy = hasattr(type(inner), "_data_loader_iter")
    batches = list(batches)
    feed = (copy.deepcopy(batch) for batch in batches for _ in range(times))
    setattr(inner, "_data_loader_iter_obj" if lazy else "_data_loader_iter", feed)
    average = [hook for hook in trainer._hooks if isinstance(hook, EMAHook)]
    with EventStorage() as trainer.storage:
        for hook in average:
            hook.before_train()
        for number in range(len(batches)):
            if seed is not None:
                torch.manual_seed(seed)
            trainer.iter = number
            trainer.run_step()
            for hook in average:
                hook.after_step()


@contextmanager
def gradient_norms(model: nn.Module) -> Iterator[dict[str, float]]:
    """Name of a parameter → norm of the gradient that its last backward pass left."""
    norms: dict[str, float] = {}

    def keep(name: str):
        def hook(parameter: torch.Tensor) -> None:
            norms[name] = float(parameter.grad.norm())

        return hook

    handles = [
        p.register_post_accumulate_grad_hook(keep(n))
        for n, p in model.named_parameters()
        if p.requires_grad
    ]
    try:
        yield norms
    finally:
        for handle in handles:
            handle.remove()
