"""Consensus focus: how much each source adds to the vote, and what weight that gives it.

The public code takes the Shapley value (Shapley 1953): what a source adds to a coalition, averaged
over all orders in which coalitions can grow. It walks through K! orders; the same number follows
from the 2^K coalitions themselves. The paper leaves one out: the worth of all sources less that of
all but one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

# 2^12 coalitions take a few milliseconds a batch; beyond it orders are drawn.
MOST_EXACT = 12
MOMENTUM = 0.9


def all_coalitions(sources: int) -> Tensor:
    """(2^K, K) bool; row s holds the binary digits of s, the lowest first."""
    return torch.arange(1 << sources)[:, None].bitwise_right_shift(torch.arange(sources)) % 2 == 1


def shapley_values(values: Tensor) -> Tensor:
    """The Shapley value of each source from the worth of all coalitions.

    Args:
        values: (2^K,) float64, as `coalition_values(…, all_coalitions(K))` gives them.

    Returns:
        (K,) float64; they add up to the worth of all sources less that of none.
    """
    sources = (len(values) - 1).bit_length()
    if len(values) != 1 << sources:
        raise ValueError(f"there are 2^K coalitions, not {len(values)}")
    members = all_coalitions(sources)
    size = members.sum(1)
    # A coalition of s before the source comes in s!·(K-1-s)! of the K! orders.
    share = torch.tensor(
        [1 / (sources * math.comb(sources - 1, s)) for s in range(sources)], dtype=torch.float64
    )
    with_source = share[(size - 1).clamp(min=0)]
    without = share[size.clamp(max=sources - 1)]
    coefficients = torch.where(members, with_source[:, None], -without[:, None])
    return values.double() @ coefficients


@dataclass(frozen=True)
class Estimate:
    """Values with the standard error that drawing orders leaves, both (K,) float64."""

    values: Tensor
    errors: Tensor


class SampledOrders:
    """Coalitions along orders drawn at random, for more than `MOST_EXACT` sources (Castro et al.
    2009).

    Orders come in pairs, each with its reverse, which lowers the variance: errors are of the pairs'
    means.

    Attributes:
        members: (2·P·(K+1), K) bool, the growing coalitions of every order.
    """

    def __init__(self, sources: int, pairs: int, seed: int) -> None:
        if pairs < 2:
            raise ValueError("a standard error needs at least two pairs of orders")
        rng = np.random.default_rng(seed)
        orders = np.stack([rng.permutation(sources) for _ in range(pairs)])
        self._orders = torch.from_numpy(np.stack([orders, orders[:, ::-1]], 1).reshape(-1, sources))
        rank = self._orders.argsort(1)  # when each source comes
        self.members = (rank[:, None, :] < torch.arange(sources + 1)[:, None]).reshape(-1, sources)

    def estimate(self, values: Tensor) -> Estimate:
        """Shapley values from the worth of `members`, (…,) float64."""
        count, sources = self._orders.shape
        added = values.double().reshape(count, sources + 1).diff(dim=1)
        by_source = torch.empty_like(added).scatter_(1, self._orders, added)
        pairs = by_source.reshape(-1, 2, sources).mean(1)
        return Estimate(pairs.mean(0), pairs.std(0) / math.sqrt(len(pairs)))


def all_but_one(sources: int) -> Tensor:
    """(K + 1, K) bool: the coalition of all sources, then those of all but the first, second, …"""
    return torch.cat(
        [torch.ones(1, sources, dtype=torch.bool), ~torch.eye(sources, dtype=torch.bool)]
    )


def leave_one_out(values: Tensor) -> Tensor:
    """(K,) float64: what the vote of all loses without each source.

    Args:
        values: (K + 1,), as `coalition_values(…, all_but_one(K))` gives them.
    """
    return values[0] - values[1:]


def domain_weights(
    focus: Tensor, coverage: float, previous: Tensor | None = None, samples: Tensor | None = None
) -> Tensor:
    """Weights of the target and of each source in the average of models, which add up to 1.

    The target gets coverage / (K + 1), the sources share the rest by their focus (times their
    number of samples, where the paper's variant gives it); a moving average steadies them. A source
    that harms the vote has no share; where none helps, all have the same.

    Args:
        focus: (K,) what each source adds.
        coverage: mean weight of the target's images in the vote, in [0, 1].
        previous: (K + 1,) weights of the round before.

    Returns:
        (K + 1,) float64, the target's first.
    """
    sources = len(focus)
    shares = focus.double().clamp(min=0)
    if samples is not None:
        shares = shares * samples.double()
    if shares.sum() <= 0:
        shares = torch.ones(sources, dtype=torch.float64)
    target = coverage / (sources + 1)
    weights = torch.cat([shares.new_tensor([target]), (1 - target) * shares / shares.sum()])
    if previous is not None:
        weights = MOMENTUM * previous.double() + (1 - MOMENTUM) * weights
    return weights / weights.sum()
