"""What must stand still in a step and what must not: frozen parameters, BatchNorm's statistics."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

from seriatim.engine.state import preserve_rng
from seriatim.gates.context import Context
from seriatim.gates.naming import some_of
from seriatim.gates.steps import STEPS
from seriatim.gates.verdict import Cause, Finding

# Images a step. ResNet-50's error on ImageNet is 23.6 % with 32 images a worker, 24.8 with 8, 27.3
# with 4 and 34.7 with 2 (Wu & He 2018, Group Normalization, arXiv 1803.08494). That is without
# pretrained weights: with them blood cells reach more AP with 2 than with 4 or 8
# (docs/detector.md).
FEWEST_IMAGES = 2
LARGEST_DROPOUT = 0.8  # 0.5 is the most that is usual
LARGEST_MOMENTUM = 0.5  # of BatchNorm: 0.1 is usual, TensorFlow writes it as 0.9


def frozen(model: nn.Module, before: dict[str, torch.Tensor]) -> Iterator[Finding]:
    """What has requires_grad False stays, with its statistics."""
    now = model.state_dict()
    parameters = dict(model.named_parameters())
    moved = [n for n in _moved(model, before) if not parameters[n].requires_grad]
    if moved:
        yield Finding(
            f"{some_of(moved, parameters)} are frozen, and moved within {STEPS} steps.",
            "what has requires_grad False stays.",
            [
                Cause("weight decay or momentum of the optimizer moves them", "build_optimizer"),
                Cause("a hook, or the model itself, writes to them"),
            ],
        )
    means = []
    for name, module in batch_norms(model, now):
        weights = list(module.parameters(recurse=False))
        mean = f"{name}.running_mean"
        still = weights and not any(p.requires_grad for p in weights)
        if still and not torch.equal(now[mean], before[mean]):
            means.append(mean)
    if means:
        yield Finding(
            f"the statistics of {len(means)} frozen BatchNorms move ({means[0]}).",
            "a frozen layer is frozen with its statistics.",
            [
                Cause(
                    "requires_grad is False, but BatchNorm is still in training mode and"
                    " follows every batch",
                    "MODEL.BACKBONE.FREEZE_AT, MODEL.TIMM.FREEZE_AT, MODEL.TIMM.NORM FrozenBN",
                ),
                Cause("train() of the whole model undoes eval() of the frozen part"),
            ],
        )


def random_and_frozen(context: Context) -> Iterator[Finding]:
    """What is frozen was loaded: random numbers that are never trained teach nothing."""
    model = context.new_model()
    frozen = {n: p for n, p in model.named_parameters() if not p.requires_grad and p.ndim > 1}
    if not frozen:
        return
    with preserve_rng():
        torch.manual_seed(context.SEED + 1)
        other = dict(context.trainer_class.build_model(context.cfg).named_parameters())
    started = dict(context.starting_model().named_parameters())
    random = [
        name
        for name, p in frozen.items()
        if not torch.equal(p.to("cpu"), other[name].detach().to("cpu"))
        and torch.equal(p, started[name].to(p))
    ]
    if not random:
        return
    yield Finding(
        f"{some_of(random, dict(model.named_parameters()))} are frozen at random numbers.",
        "what is frozen has been trained elsewhere, and its weights are loaded.",
        [
            Cause(
                "layers are frozen as for pretrained weights, which are not loaded",
                "MODEL.WEIGHTS, MODEL.TIMM.WEIGHTS, …FREEZE_AT",
            ),
            Cause("requires_grad is False by a pattern of names that fits too much"),
        ],
    )


def dropout(model: nn.Module) -> Iterator[Finding]:
    """Dropout that leaves something."""
    high = {
        name: module.p
        for name, module in model.named_modules()
        if isinstance(module, nn.modules.dropout._DropoutNd) and module.p > LARGEST_DROPOUT
    }
    if high:
        name = next(iter(high))
        yield Finding(
            f"dropout of {name} takes away {high[name]:.0%} of the features.",
            f"at most {LARGEST_DROPOUT:.0%}.",
            [
                Cause("a dropout that is given the probability to keep, not to drop", name),
                Cause("a value that was set for a test"),
            ],
        )


def hooks(before: int, after: int) -> Iterator[Finding]:
    """No step leaves hooks behind, whose effects would multiply."""
    if after > before:
        yield Finding(
            f"a step leaves {after - before} more hooks on the model than there were.",
            "as many as before.",
            [
                Cause("a hook is registered in every step, and its effects pile up", "run_step"),
                Cause("a handle is not removed"),
            ],
        )


def count_hooks(model: nn.Module) -> int:
    """Of modules and parameters."""
    tables = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    found = sum(len(getattr(m, t, None) or ()) for m in model.modules() for t in tables)
    return found + sum(len(p._backward_hooks or ()) for p in model.parameters())


def learning(model: nn.Module, before: dict[str, torch.Tensor]) -> Iterator[Finding]:
    """At least something of what is trainable moves."""
    trainable = {name for name, p in model.named_parameters() if p.requires_grad}
    if not trainable or not trainable.isdisjoint(_moved(model, before)):
        return
    yield Finding(
        f"no weight has changed after {STEPS} steps.",
        "a step of the optimizer changes weights.",
        [
            Cause("the optimizer's step is not taken, or its rate is 0", "SOLVER.BASE_LR"),
            Cause("gradients are cleared after the backward pass, before the step"),
            Cause("the optimizer holds another copy of the model"),
        ],
    )


def statistics(model: nn.Module, before: dict[str, torch.Tensor]) -> Iterator[Finding]:
    """BatchNorms that learn must gather statistics, and over more than one batch."""
    now = model.state_dict()
    idle, hasty = [], []
    for name, module in batch_norms(model, now):
        mean, var = f"{name}.running_mean", f"{name}.running_var"
        if not any(p.requires_grad for p in module.parameters(recurse=False)):
            continue
        still = torch.equal(now[mean], before[mean]) and torch.equal(now[var], before[var])
        if still and not now[mean].any() and bool((now[var] == 1).all()):
            idle.append(name)
        if module.momentum is not None and module.momentum > LARGEST_MOMENTUM:
            hasty.append(name)
    if idle:
        yield Finding(
            f"after {STEPS} steps {len(idle)} BatchNorms ({idle[0]}) still have the mean 0 and"
            " the variance 1 that they were made with.",
            "statistics of the data: evaluation normalises with them.",
            [
                Cause(
                    "statistics stand still: the momentum is 0, or train() leaves BatchNorm in"
                    " evaluation mode",
                    idle[0],
                ),
                Cause("BatchNorm is frozen although no weights are loaded"),
            ],
        )
    if hasty:
        yield Finding(
            f"{len(hasty)} BatchNorms ({hasty[0]}) have a momentum of"
            f" {model.get_submodule(hasty[0]).momentum:g}: their statistics are those of the"
            " last batch.",
            f"at most {LARGEST_MOMENTUM:g}; 0.1 is usual.",
            [
                Cause("a momentum in TensorFlow's sense: its 0.99 is 0.01 in torch", hasty[0]),
                Cause("a momentum that was set for a test"),
            ],
        )


def small_batches(model: nn.Module, images: int) -> Iterator[Finding]:
    """BatchNorm that learns takes its statistics from the `images` of a step."""
    training = [n for n, m in batch_norms(model, model.state_dict()) if m.training]
    learning = [
        n for n in training if any(p.requires_grad for p in model.get_submodule(n).parameters())
    ]
    if not learning or images >= FEWEST_IMAGES:
        return
    yield Finding(
        f"{len(learning)} BatchNorms ({learning[0]}) take statistics of {images} image a step.",
        f"{FEWEST_IMAGES} or more: the statistics of one are noise, and others in evaluation.",
        [
            Cause("batches are too small for BatchNorm", "SOLVER.IMS_PER_BATCH"),
            Cause("BatchNorm is to be frozen, or another norm", "MODEL.TIMM.NORM FrozenBN or GN"),
        ],
        fails=False,
    )


def batch_norms(
    model: nn.Module, state: dict[str, torch.Tensor]
) -> Iterator[tuple[str, nn.modules.batchnorm._BatchNorm]]:
    """Name and module of each BatchNorm that keeps statistics."""
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and f"{name}.running_mean" in state:
            yield name, module


def _moved(model: nn.Module, before: dict[str, torch.Tensor]) -> list[str]:
    """Names of the parameters that are not as they were."""
    return [n for n, p in model.named_parameters() if not torch.equal(p.detach(), before[n])]
