"""What an optimizer holds and how its schedule runs, before any step is taken."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch
from detectron2.solver import LRMultiplier
from torch import nn

from seriatim.gates.naming import some_of
from seriatim.gates.verdict import Cause, Finding

# Steps after which weight decay alone has shrunk weights to 1/e: 1 / (rate × decay). In use:
# 20,000 (AdamW at 1e-3 and 0.05) to a million (SGD at 0.01 and 1e-4).
SHORTEST_MEMORY = 300
# Of the peak rate: the mean over a run. Cosine has 0.5, steps at 2/3 and 8/9 of it 0.7.
LEAST_MEAN_RATE = 0.05
MOMENTS = 20_000  # at which a schedule is looked at
LEAST_PEAK = 0.5  # of the configured rate, that the schedule must reach
LONGEST_WARM_UP = 0.6  # of a run; one-cycle schedules rise for up to half of it
LEAST_RUN = 100  # steps; a shorter run is a trial, whose schedule is of no account


def membership(model: nn.Module, optimizer: torch.optim.Optimizer) -> Iterator[Finding]:
    """Every trainable parameter is in the optimizer, once, with a rate."""
    times = Counter(id(p) for group in optimizer.param_groups for p in group["params"])
    trainable = {n: p for n, p in model.named_parameters() if p.requires_grad}
    missing = [name for name, p in trainable.items() if not times[id(p)]]
    twice = [name for name, p in trainable.items() if times[id(p)] > 1]
    idle = [
        name
        for name, p in trainable.items()
        for group in optimizer.param_groups
        if group.get("initial_lr", group["lr"]) == 0 and any(p is q for q in group["params"])
    ]
    if missing:
        whole = len(missing) == len(trainable)
        rebuilt = Cause("the optimizer was built for another copy of the model")
        left_out = Cause("the optimizer leaves them out", "build_optimizer")
        yield Finding(
            f"{some_of(missing, trainable)} are trainable but not in the optimizer.",
            "every trainable parameter is in it, once.",
            [rebuilt, left_out]
            if whole
            else [
                left_out,
                Cause("they were made, or unfrozen, after the optimizer was built"),
            ],
        )
    if twice:
        yield Finding(
            f"{some_of(twice, trainable)} are in the optimizer twice.",
            "every trainable parameter is in it, once: it would take two steps at a time.",
            [
                Cause("two parameter groups overlap", "build_optimizer"),
                Cause("a module that is shared was counted under both of its names"),
            ],
        )
    if idle:
        yield Finding(
            f"the learning rate of {some_of(idle, trainable)} is 0.",
            "a rate above 0 for what is trainable; what is not has requires_grad False.",
            [
                Cause(
                    "a multiplier of the learning rate is 0",
                    "SERIATIM.SOLVER.BACKBONE_MULTIPLIER, SOLVER.BIAS_LR_FACTOR",
                ),
                Cause("the optimizer's groups set it", "build_optimizer"),
            ],
        )


def decay(optimizer: torch.optim.Optimizer) -> Iterator[Finding]:
    """Weight decay alone must not forget what is learnt."""
    fastest = max(
        group.get("initial_lr", group["lr"]) * group.get("weight_decay", 0.0)
        for group in optimizer.param_groups
    )
    if fastest * SHORTEST_MEMORY > 1:
        yield Finding(
            f"weight decay alone shrinks weights to a third within {1 / fastest:.0f} steps.",
            f"more than {SHORTEST_MEMORY} steps.",
            [
                Cause("weight decay is too strong", "SOLVER.WEIGHT_DECAY"),
                Cause("the learning rate is too high", "SOLVER.BASE_LR"),
            ],
        )


def schedule(
    scheduler: torch.optim.lr_scheduler.LRScheduler, steps: int, numbers: dict[str, Any]
) -> Iterator[Finding]:
    """The learning rate over the whole run, as a part of the configured one."""
    shares = rates_of(scheduler, steps)
    if not shares:
        return
    peak, mean = max(shares), sum(shares) / len(shares)
    warm = next(i for i, share in enumerate(shares) if share > 0.9 * peak) / len(shares)
    numbers["peak and mean of the schedule"] = [peak, mean]
    if warm > LONGEST_WARM_UP or peak < LEAST_PEAK:
        yield Finding(
            f"of {steps} steps the learning rate takes {warm:.0%} to rise to its peak,"
            f" {peak:.2g} of the configured one.",
            f"at most {LONGEST_WARM_UP:.0%}, and all of it.",
            [
                Cause("the warm-up takes longer than the training", "SOLVER.WARMUP_ITERS"),
                Cause("MAX_ITER was lowered, and the schedule was not", "SOLVER.MAX_ITER"),
            ],
            fails=steps >= LEAST_RUN,
        )
    elif mean < LEAST_MEAN_RATE:
        yield Finding(
            f"over {steps} steps the learning rate is {mean:.2g} of its peak on average.",
            f"at least {LEAST_MEAN_RATE:g}: cosine has 0.5.",
            [
                Cause("steps of the schedule are in epochs, not in iterations", "SOLVER.STEPS"),
                Cause("the rate falls too early or too far", "SOLVER.GAMMA"),
            ],
        )


def rates_of(scheduler: torch.optim.lr_scheduler.LRScheduler, steps: int) -> list[float]:
    """The learning rate at up to MOMENTS of `steps` steps, as parts of the configured one.

    For schedules that are a function of the step, as Detectron2's are; [] for others.
    """
    if not isinstance(scheduler, LRMultiplier) or not any(scheduler.base_lrs):
        return []
    now, base = scheduler.last_epoch, max(scheduler.base_lrs)
    try:
        found = []
        for moment in range(min(steps, MOMENTS)):
            scheduler.last_epoch = moment * steps // min(steps, MOMENTS)
            found.append(max(scheduler.get_lr()) / base)
        return found
    finally:
        scheduler.last_epoch = now
