"""What an optimizer holds and how its schedule runs, before any step is taken."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import torch
from detectron2.solver import LRMultiplier
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from seriatim.gates.naming import some_of
from seriatim.gates.verdict import Cause, Finding

# Steps after which weight decay alone has shrunk weights to 1/e: 1 / (rate × decay). In use:
# 20,000 (AdamW at 1e-3 and 0.05) to a million (SGD at 0.01 and 1e-4).
SHORTEST_MEMORY = 300
# Of the peak rate: the mean over a run. Cosine has 0.5, steps at 2/3 and 8/9 of it 0.7.
LEAST_MEAN_RATE = 0.05
MOMENTS = 20_000  # at which a schedule is looked at
LEAST_PEAK = 0.5  # of the configured rate, that the schedule must reach
LONGEST_REST = 0.3  # of a run, at a rate of 0
LONGEST_WARM_UP = 0.6  # of a run; one-cycle schedules rise for up to half of it
LARGEST_PEAK = 1.5  # of the configured rate; a schedule scales it down
# Rates of the groups: a layer-wise decay of 0.65 over 24 layers spreads them by 3e4.
WIDEST_RATES = 5e4
LONGEST_MOMENTUM = 0.995  # 0.9 to 0.99 are in use: the step is 1 / (1 - momentum) times the rate
# The weights that a moving average began with, after the whole run: less than this share.
LARGEST_START = 0.1
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


def driven(
    scheduler: torch.optim.lr_scheduler.LRScheduler, optimizer: torch.optim.Optimizer
) -> Iterator[Finding]:
    """The schedule sets the rates of the optimizer that steps."""
    if getattr(scheduler, "optimizer", optimizer) is not optimizer:
        yield Finding(
            "the schedule sets the learning rate of an optimizer that takes no steps.",
            "that of the trainer's own.",
            [
                Cause("the schedule was built for another optimizer", "build_lr_scheduler"),
                Cause("the optimizer was replaced after the schedule was built"),
            ],
        )


def moments(optimizer: torch.optim.Optimizer) -> Iterator[Finding]:
    """Momentum and Adam's betas: over how many steps an optimizer averages."""
    group = optimizer.param_groups[0]
    first, second = group.get("betas", (group.get("momentum", 0.0), None))[:2]
    if second is not None and first > second:
        yield Finding(
            f"the optimizer's betas are {first:g} and {second:g}.",
            "the first below the second: (0.9, 0.999) is usual.",
            [
                Cause("the betas are exchanged", "build_optimizer"),
                Cause("the first is a momentum of another optimizer"),
            ],
        )
    elif first > LONGEST_MOMENTUM:
        yield Finding(
            f"with a momentum of {first:g} a steady gradient moves weights by"
            f" {1 / max(1 - first, 1e-12):.0f} times the learning rate.",
            f"a momentum of at most {LONGEST_MOMENTUM:g}; 0.9 is usual.",
            [
                Cause("the momentum is too near to 1", "SOLVER.MOMENTUM"),
                Cause("a decay of a moving average was taken for it", "build_optimizer"),
            ],
        )


def spread(model: nn.Module, optimizer: torch.optim.Optimizer) -> Iterator[Finding]:
    """No part of the model is left behind by a rate that is next to nothing."""
    rates = {}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            rates[id(parameter)] = group.get("initial_lr", group["lr"])
    moving = {n: rates[id(p)] for n, p in model.named_parameters() if rates.get(id(p))}
    if not moving or max(moving.values()) <= WIDEST_RATES * min(moving.values()):
        return
    slow = [name for name, rate in moving.items() if rate * WIDEST_RATES < max(moving.values())]
    yield Finding(
        f"the learning rate of {some_of(slow, moving)} is {min(moving.values()):.2g}, that of the"
        f" fastest part {max(moving.values()):.2g}.",
        f"rates that differ by less than {WIDEST_RATES:g}.",
        [
            Cause(
                "the rate of a group is too low, or two groups' are exchanged", "build_optimizer"
            ),
            Cause("a multiplier is applied twice", "SERIATIM.SOLVER.BACKBONE_MULTIPLIER"),
        ],
    )


def memory(decay_at: Callable[[int], float], steps: int) -> Iterator[Finding]:
    """A moving average must have forgotten where it began when the run ends."""
    left = math.exp(sum(math.log(max(decay_at(step), 1e-12)) for step in range(1, steps)))
    if steps >= LEAST_RUN and left > LARGEST_START:
        yield Finding(
            f"after all {steps} steps {left:.0%} of the moving average are still the weights that"
            " the run began with.",
            f"less than {LARGEST_START:.0%}.",
            [
                Cause("its decay is made for a longer run", "SERIATIM.SOLVER.EMA_DECAY"),
                Cause("the run is too short for an average", "SOLVER.MAX_ITER"),
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
    if peak > LARGEST_PEAK:
        first = shares.index(peak) < len(shares) / 10
        grows = Cause("the rate is multiplied where it should be divided", "SOLVER.GAMMA")
        starts = Cause("the warm-up begins above the rate", "SOLVER.WARMUP_FACTOR")
        yield Finding(
            f"the schedule takes the learning rate to {peak:.3g} times the configured one.",
            "at most to the configured one.",
            [starts, grows] if first else [grows, starts],
        )
        return
    rest = sum(share <= 0 for share in shares) / len(shares)
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
    elif mean < LEAST_MEAN_RATE or rest > LONGEST_REST:
        ends = Cause("the schedule ends, and the rate is zero too early", "build_lr_scheduler")
        yield Finding(
            f"over {steps} steps the learning rate is {mean:.2g} of its peak on average, and zero"
            f" in {rest:.0%} of them.",
            f"at least {LEAST_MEAN_RATE:g} (cosine has 0.5), and zero in at most"
            f" {LONGEST_REST:.0%}.",
            [
                *([ends] if rest > LONGEST_REST else []),
                Cause("steps of the schedule are in epochs, not in iterations", "SOLVER.STEPS"),
                Cause("the rate falls to zero too early, or too far", "SOLVER.GAMMA, MAX_ITER"),
            ],
        )


def rates_of(scheduler: torch.optim.lr_scheduler.LRScheduler, steps: int) -> list[float]:
    """The learning rate at up to MOMENTS of `steps` steps, as parts of the configured one.

    For schedules that are a function of the step, as Detectron2's are; [] for others.
    """
    if not isinstance(scheduler, LRMultiplier | LambdaLR) or not any(scheduler.base_lrs):
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
