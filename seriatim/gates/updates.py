"""How far and where to a step moves the weights."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from detectron2.utils.events import EventStorage
from torch import nn

from seriatim.engine.trainer import Trainer
from seriatim.gates.context import Batch, Context
from seriatim.gates.steps import STEPS, gradient_norms, take_steps
from seriatim.gates.verdict import Cause, Finding

# Median over the weights of |step at the peak rate| / |weight|; 1e-3 is usual (Karpathy). Outside
# of the usual it deserves a look. It fails further out, for healthy runs come near: 1e-5 for SGD on
# a fresh detector, whose gradients grow later, 5e-2 for AdamW, whose first steps are the rate.
USUAL_UPDATE = (1e-5, 1e-1)
LEAST_UPDATE, LARGEST_UPDATE = 1e-6, 3e-1
# The same batch and weights give the same gradient, but for running normalisers (one step of
# RetinaNet's moves by 10 %) and rounding; a gradient that is added up or not averaged doubles.
SAME_GRADIENT = 1.5
# |average - start| / |weights - start| of a moving average lies between 0 and 1.
FARTHEST_AVERAGE = 2.0


def descent(model: nn.Module, start: dict[str, torch.Tensor]) -> Iterator[Finding]:
    """The very first step of any optimizer goes against the gradient."""
    along = sum(
        float((p.detach() - start[name]).double().flatten() @ p.grad.double().flatten())
        for name, p in model.named_parameters()
        if p.requires_grad and p.grad is not None
    )
    if along > 0:
        yield Finding(
            "the first step goes along the gradient, not against it.",
            "a step that lowers the loss.",
            [
                Cause("the optimizer climbs: it maximises, or its rate is negative"),
                Cause("weight decay outweighs the gradient", "SOLVER.WEIGHT_DECAY"),
            ],
        )


def update(
    model: nn.Module,
    before: dict[str, torch.Tensor],
    rate: float,
    asleep: set[str],
    numbers: dict[str, Any],
) -> Iterator[Finding]:
    """What a step at the peak rate would do to weights, from those that were taken.

    Weights that are `asleep`, behind a layer that starts at 0, cannot be judged so soon.
    """
    ratios = []
    for name, p in model.named_parameters():
        size = float(before[name].norm())
        if p.requires_grad and p.ndim > 1 and size > 0 and name not in asleep:
            ratios.append(float((p.detach() - before[name]).norm()) / size / STEPS * rate)
    if not ratios:
        return
    update = sorted(ratios)[len(ratios) // 2]
    numbers["update at the peak rate"] = update
    low, most = USUAL_UPDATE
    if low <= update <= most:
        return
    high = update > most
    yield Finding(
        f"the median step at the peak learning rate is {update:.1e} of the weights.",
        f"{low:g} to {most:g}; about 1e-3 is usual.",
        [
            Cause(f"the learning rate is too {'high' if high else 'low'}", "SOLVER.BASE_LR"),
            Cause("the loss is summed instead of averaged")
            if high
            else Cause("gradients are clipped to almost nothing", "SOLVER.CLIP_GRADIENTS"),
            Cause("weight decay is too strong", "SOLVER.WEIGHT_DECAY"),
        ],
        fails=not LEAST_UPDATE <= update <= LARGEST_UPDATE,
    )


def average(
    trainer: Trainer, before: dict[str, torch.Tensor], numbers: dict[str, Any]
) -> Iterator[Finding]:
    """The moving average lies between where the weights started and where they are."""
    if trainer.average is None:
        return
    averaged = dict(trainer.average.model.named_parameters())
    way, live = 0.0, 0.0
    for name, p in trainer.bare_model.named_parameters():
        if p.requires_grad and name in averaged:
            way += float((averaged[name].detach() - before[name]).square().sum())
            live += float((p.detach() - before[name]).square().sum())
    share = math.sqrt(way / live) if live else 0.0
    numbers["way of the average"] = share
    if 0 < share <= FARTHEST_AVERAGE:
        return
    still = share == 0
    yield Finding(
        f"after {STEPS} steps the moving average is {share:.2g} times as far from the start as"
        " the weights are.",
        "more than 0 and at most 1: it follows them.",
        [
            Cause("the average is never updated: its hook is missing", "build_hooks")
            if still
            else Cause("the average starts from other weights than the model"),
            Cause("the average is of another copy of the model")
            if still
            else Cause("weights are loaded into the model alone, after the average was made"),
        ],
    )


def repetition(trainer: Trainer, batch: Batch, numbers: dict[str, Any]) -> Iterator[Finding]:
    """At a learning rate of 0 the same batch gives the same gradient, and that of its loss."""
    if trainer._trainer.grad_scaler.is_enabled():
        return  # what the hooks would see is scaled
    for group in trainer.optimizer.param_groups:
        group["lr"] = 0.0
    model = trainer.bare_model
    _forget_gradients(model)
    sizes = []
    for _ in range(2):
        with gradient_norms(model) as norms:
            take_steps(trainer, [batch], seed=Context.SEED)
        sizes.append(_total(norms))
    _forget_gradients(model)
    with gradient_norms(model) as norms:
        take_alone(trainer, batch)
    single = _total(norms)
    _forget_gradients(model)
    numbers["gradient of a batch, again, and of its loss alone"] = [*sizes, single]
    if sizes[1] > SAME_GRADIENT * sizes[0]:
        yield Finding(
            f"the gradient of the same batch is {sizes[0]:.4g}, and {sizes[1]:.4g} in the next"
            " step, with the same weights.",
            "the same gradient.",
            [
                Cause("gradients are not set to zero between steps", "run_step: zero_grad"),
                Cause("the loss grows with the number of calls: it keeps earlier ones"),
            ],
        )
        return
    ratio = sizes[0] / single if single else 1.0
    if not 1 / SAME_GRADIENT < ratio < SAME_GRADIENT:
        times = trainer._trainer.accumulate
        summed = Cause(
            f"gradients of {times} micro-batches are summed, not averaged",
            "SERIATIM.SOLVER.ACCUMULATE",
        )
        scaled = Cause("the step scales the losses before the backward pass", "run_step")
        likely = times > 1 and 1 / SAME_GRADIENT < ratio / times < SAME_GRADIENT
        one = times > 1 and 1 / SAME_GRADIENT < ratio * times < SAME_GRADIENT
        last = Cause(f"gradients of one of {times} micro-batches count: zero_grad between them")
        yield Finding(
            f"the gradient that a step uses is {ratio:.3g} times that of its loss.",
            "the gradient of the mean loss of its images.",
            [last, scaled] if one else [summed, scaled] if likely else [scaled, summed],
        )


def take_alone(trainer: Trainer, batch: Batch) -> None:
    """The gradient of the batch's losses, without the trainer's step."""
    with EventStorage():
        torch.manual_seed(Context.SEED)
        sum(trainer.compute_losses(trainer.bare_model, batch).values()).backward()


def _forget_gradients(model: nn.Module) -> None:
    for parameter in model.parameters():
        parameter.grad = None


def _total(norms: dict[str, float]) -> float:
    return math.sqrt(sum(norm * norm for norm in norms.values()))
