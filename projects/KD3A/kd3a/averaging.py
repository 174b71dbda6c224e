"""Weighted averages of models, BatchNorm's statistics included."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

State = Mapping[str, Tensor]


def average(states: Sequence[State], weights: Tensor) -> dict[str, Tensor]:
    """The weighted average of models, name by name.

    Parameters and running statistics are averaged in float64 and keep their dtype: KD3A's
    "BatchNorm MMD" is the average of the statistics, which draws the domains' features together. Of
    a count (an integer, like BatchNorm's num_batches_tracked) the largest is kept: a fraction of a
    batch is none.

    Args:
        states: state dicts with the same names and shapes.
        weights: (len(states),), not negative, with sum 1.

    Raises:
        ValueError: the weights are no shares, or the models differ.
    """
    if len(states) != len(weights):
        raise ValueError(f"{len(states)} models and {len(weights)} weights")
    if not torch.isfinite(weights).all() or (weights < 0).any() or abs(weights.sum() - 1) > 1e-6:
        raise ValueError(f"weights are shares of 1, not {weights.tolist()}")
    first = states[0]
    for number, state in enumerate(states):
        check_like(state, first, f"model {number}")
    return {name: _average([state[name] for state in states], weights) for name in first}


def check_like(state: State, reference: State, who: str) -> None:
    """ValueError, which names `who` and the tensor, unless `state` has the names, shapes and kinds
    of numbers of `reference`, and all of it is finite."""
    missing, extra = reference.keys() - state.keys(), state.keys() - reference.keys()
    if missing or extra:
        raise ValueError(f"{who} lacks {sorted(missing)[:3]} and has {sorted(extra)[:3]} besides")
    for name, value in state.items():
        other = reference[name]
        if value.shape != other.shape or value.dtype != other.dtype:
            raise ValueError(
                f"{who}: {name} is {value.dtype} {tuple(value.shape)}, not {other.dtype}"
                f" {tuple(other.shape)}"
            )
        if not torch.isfinite(value).all():
            raise ValueError(f"{who}: {name} holds NaN or infinity")


def _average(values: Sequence[Tensor], weights: Tensor) -> Tensor:
    stacked = torch.stack(list(values))
    if not stacked.is_floating_point():
        return stacked.amax(0)
    shares = weights.to(device=stacked.device, dtype=torch.float64)
    return torch.tensordot(shares, stacked.double(), 1).to(stacked.dtype)
