"""Do gradients reach every parameter, and are they finite?"""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import torch
from torch import nn

from seriatim.gates.context import Batch, Context
from seriatim.gates.expectations import zero_weights
from seriatim.gates.naming import some_of
from seriatim.gates.steps import STEPS
from seriatim.gates.verdict import Cause, Finding

PARTS = 5
# Between the first and the last part of the layers. Healthy fresh detectors measured 8e-4 (an RPN,
# Cascade R-CNN: last layers of small weights) to 1; a fresh classifier whose residual branches
# start as 0, behind a last layer of weights of 0.01, 7e-6.
WIDEST = 1e6
# Of the gradient of each parameter, in the order of the forward pass, in each step; NaN for none.
Norms = dict[str, list[float]]


def flow(context: Context, model: nn.Module, norms: Norms, batch: Batch) -> Iterator[Finding]:
    """Every trainable parameter gets a gradient, which is not 0."""
    excused = _excused(model)
    none = [n for n, v in norms.items() if all(math.isnan(x) for x in v) and not excused(n)]
    zero = [
        name
        for name, values in norms.items()
        if name not in none and not any(x > 0 for x in values) and not excused(name)
    ]
    # A bias whose weight learns stands before a norm, and a single number belongs to a level or
    # class that these images do not show.
    learning = {name for name, values in norms.items() if any(x > 0 for x in values)}
    sizes = {name: p.numel() for name, p in model.named_parameters()}
    zero = [
        name
        for name in zero
        if sizes[name] > 1
        and not (name.endswith("bias") and name[: -len("bias")] + "weight" in learning)
    ]
    if none:
        yield from _detached(context, model, none, norms, batch)
    if zero:
        yield Finding(
            f"the gradient of {some_of(zero, norms)} is exactly 0 in {STEPS} steps.",
            "a gradient that is not 0.",
            [
                *zero_weights(context.cfg),
                Cause("their output is multiplied by 0 or cut off: dead ReLU, clamp, mask"),
                Cause("the loss that they serve finds nothing: no object is assigned"),
            ],
        )


def scale(model: nn.Module, norms: Norms, numbers: dict[str, Any]) -> Iterator[Finding]:
    """Gradients, relative to weights, neither vanish nor explode on their way to the first layers.

    A single layer may differ by much and be right, such as one in a branch that starts as 0. So the
    layers are taken in their order, in PARTS, and of each part the largest gradient.
    """
    ratios = []
    parameters = dict(model.named_parameters())
    for name, values in norms.items():
        p, norm = parameters[name], max((x for x in values if x > 0), default=0.0)
        size = float(p.detach().norm())
        if p.ndim > 1 and norm and size > 0:
            ratios.append(norm / size)
    if len(ratios) < 2 * PARTS:
        return
    bounds = [round(i * len(ratios) / PARTS) for i in range(PARTS + 1)]
    largest = [max(ratios[a:b]) for a, b in pairwise(bounds)]
    numbers["gradient / weight from the first layers to the last"] = largest
    share = largest[0] / largest[-1]
    if 1 / WIDEST <= share <= WIDEST:
        return
    vanish = share < 1
    yield Finding(
        f"gradients (relative to weights) {'vanish' if vanish else 'explode'} on their way back: in"
        f" the first layers they are {share:.1e} of those in the last.",
        f"{1 / WIDEST:g} to {WIDEST:g}.",
        [
            Cause("activations saturate (sigmoid, tanh), or norms and shortcuts are missing")
            if vanish
            else Cause("norms are missing, or activations grow from layer to layer"),
            Cause("features or gradients are scaled by a tiny or a huge number on the way"),
            Cause("weights are initialised at the wrong scale"),
        ],
    )


def _detached(
    context: Context, model: nn.Module, names: list[str], norms: Norms, batch: Batch
) -> Iterator[Finding]:
    called = _called(context, model, batch)
    owners = {name: name.rpartition(".")[0] for name in names}
    unused = [name for name in names if owners[name] not in called]
    cut = [name for name in names if owners[name] in called]
    if unused:
        # Levels that no head reads are a waste, and no fault of the training.
        waste = all(".fpn_" in f".{n}" or ".top_block" in n for n in unused)
        yield Finding(
            f"{some_of(unused, norms)} get no gradient: their modules are never called.",
            "every trainable parameter takes part.",
            [
                Cause("a level of the neck that no head reads", "…IN_FEATURES")
                if waste
                else Cause("a module that is built but not used in forward"),
                Cause("a branch of the model that this config does not take"),
            ],
            fails=not waste,
        )
    if cut:
        yield Finding(
            f"{some_of(cut, norms)} get no gradient, although their modules are called.",
            "every trainable parameter gets one.",
            [
                Cause(
                    "their output is detached: .detach(), .data, no_grad, argmax or NumPy",
                    cut[-1],
                ),
                Cause("the loss that they serve is not in the loss dict, or is a plain number"),
                Cause("the backward pass starts from only some of the losses"),
            ],
        )


def not_finite(message: str, norms: dict[str, float]) -> Iterator[Finding]:
    """A loss or a gradient is NaN or infinite. `message` is the trainer's."""
    bad = [name for name, norm in norms.items() if not math.isfinite(norm)]
    where = f"the gradient of {some_of(bad, bad)}" if bad else "the loss"
    yield Finding(
        f"{where} is not finite within {STEPS} steps. {message.partition('. ')[0]}.",
        "finite losses and gradients.",
        [
            Cause("a square root, logarithm or division at 0, whose gradient is infinite", bad[-1])
            if bad
            else Cause("a logarithm or a division by 0 in the loss"),
            Cause("a learning rate that is too high", "SOLVER.BASE_LR, SOLVER.WARMUP_ITERS"),
            Cause("numbers too large for the precision", "SERIATIM.SOLVER.PRECISION"),
        ],
    )


def _excused(model: nn.Module):
    """Whether the model itself says that a parameter may get no gradient."""
    told = getattr(model, "parameters_without_gradient", None)
    patterns = list(told()) if told is not None else []
    return lambda name: any(fnmatch.fnmatch(name, pattern) for pattern in patterns)


def _called(context: Context, model: nn.Module, batch: Batch) -> set[str]:
    """Names of the modules that take part in a training forward pass."""
    called: set[str] = set()
    handles = [
        module.register_forward_pre_hook(lambda m, inputs, name=name: called.add(name))
        for name, module in model.named_modules()
    ]
    try:
        with torch.no_grad():
            context.losses(model, batch)
    finally:
        for handle in handles:
            handle.remove()
    return called
