"""One forward pass, looked at closely: losses, what the model logged, what its modules gave."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from detectron2.modeling.poolers import ROIPooler
from detectron2.utils.events import EventStorage
from torch import nn

from seriatim.gates.context import Batch, Context


@dataclass
class Observation:
    """Attributes:
    losses: of the loss dict, as numbers.
    scalars: what the model put into the event storage.
    outputs: name of a watched module → what its first call gave.
    pooled: name of a pooler of regions → widths of the levels that it was first given.
    """

    losses: dict[str, float]
    scalars: dict[str, float]
    outputs: dict[str, Any] = field(default_factory=dict)
    pooled: dict[str, list[int]] = field(default_factory=dict)


def observe(
    context: Context,
    model: nn.Module,
    batch: Batch,
    watched: Callable[[str, nn.Module], bool] = lambda name, module: False,
) -> Observation:
    """Forward `batch` through `model` in its present mode, without gradients."""
    storage = EventStorage()
    with watch(model, watched) as outputs, _poolers(model) as pooled, torch.no_grad():
        losses = context.losses(model, batch, storage)
    scalars = {name: float(value) for name, (value, _) in storage.latest().items()}
    return Observation({k: float(v) for k, v in losses.items()}, scalars, outputs, pooled)


@contextmanager
def watch(model: nn.Module, watched: Callable[[str, nn.Module], bool]) -> Iterator[dict[str, Any]]:
    """Collects the first output of every module that `watched` (name, module) chooses."""
    outputs: dict[str, Any] = {}

    def keep(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            outputs.setdefault(name, output)

        return hook

    handles = [
        module.register_forward_hook(keep(name))
        for name, module in model.named_modules()
        if watched(name, module)
    ]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _poolers(model: nn.Module) -> Iterator[dict[str, list[int]]]:
    """Collects the widths of the levels that poolers get, after all that changes them."""
    widths: dict[str, list[int]] = {}

    def keep(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: tuple[Any, ...]) -> None:
            widths.setdefault(name, [level.shape[-1] for level in inputs[0]])

        return hook

    handles = [
        module.register_forward_pre_hook(keep(name))
        for name, module in model.named_modules()
        if isinstance(module, ROIPooler)
    ]
    try:
        yield widths
    finally:
        for handle in handles:
            handle.remove()


def some_records(context: Context, count: int) -> list[dict[str, Any]]:
    """Training records that cover classes; the first ones where nothing has objects."""
    return context.covering(context.train_records, count) or context.train_records[:count]


def is_finite(losses: dict[str, float]) -> bool:
    return all(math.isfinite(value) for value in losses.values())


def tensors_in(output: object) -> Iterator[torch.Tensor]:
    """All floating-point tensors in nested lists, tuples and dicts."""
    if isinstance(output, torch.Tensor):
        if output.is_floating_point():
            yield output
    elif isinstance(output, dict):
        yield from tensors_in(list(output.values()))
    elif isinstance(output, list | tuple):
        for item in output:
            yield from tensors_in(item)
