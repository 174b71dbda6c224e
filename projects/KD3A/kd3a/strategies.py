"""The strategies: FedAvg is `Federation` itself; KD3A, FedProx and Flower's robust averages."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace

import torch
from flwr.serverapp.strategy import Strategy

from dataset_tools.errors import InputError
from kd3a.averaging import State
from kd3a.federation import Federation, Settings, Update
from kd3a.focus import domain_weights
from kd3a.messages import DISTIL, TARGET, Scalars, Work, requests

logger = logging.getLogger(__name__)


class KD3A(Federation):
    """Sources train; the target distils what they agree on; shares follow what each adds to that.

    Feng et al., ICML 2021, arXiv 2011.09757. See `kd3a.vote` and `kd3a.focus`.

    Args:
        gate: confidence that a source's vote needs, at the first round and at the last one.
        rounds: number of all rounds.
        by_size: shares of sources are also by their number of images, as the paper has it.
    """

    def __init__(
        self, settings: Settings, gate: tuple[float, float], rounds: int, by_size: bool = False
    ) -> None:
        super().__init__(settings)
        self._gate, self._rounds, self._by_size = gate, rounds, by_size

    def gate(self, round_: int) -> float:
        """The public code's ramp: it begins at the first value and would end after the last
        round."""
        begin, end = self._gate
        return begin + (end - begin) * (round_ - 1) / self._rounds

    def combine(self, round_: int, updates: Mapping[str, Update]) -> State:
        sources = {name: update.weights for name, update in updates.items()}
        name, student = self._distil(round_, sources)
        everyone = [name, *sources]
        before = [self.progress.shares.get(party, 0.0) for party in everyone]
        previous = torch.tensor(before, dtype=torch.float64)
        shares = domain_weights(
            torch.tensor(student.scalars["focus"], dtype=torch.float64),
            float(student.scalars["coverage"]),
            previous / previous.sum() if previous.sum() > 0 else None,
            torch.tensor([update.images for update in updates.values()]) if self._by_size else None,
        )
        self._shares = dict(zip(everyone, shares.tolist(), strict=True))
        voted = {
            source: replace(update, weights={**update.weights, **student.sources.get(source, {})})
            for source, update in updates.items()
        }
        return super().combine(round_, {name: student, **voted})

    def shares(self, updates: Mapping[str, Update]) -> dict[str, float]:
        return self._shares

    def _distil(self, round_: int, sources: Mapping[str, State]) -> tuple[str, Update]:
        """The target's name and its update."""
        for node, who in self.present(TARGET):
            scalars = {"gate": self.gate(round_)}
            work = Work(round_, self.progress.weights, scalars, sources)
            replies = self.ask(requests(DISTIL, [node], work))
            updates = self.accept(round_, [who.name], replies)
            if who.name in updates:
                return who.name, updates[who.name]
        said = "; ".join(str(fault) for fault in self.faults if fault.round == round_)
        raise InputError(
            f"Round {round_} has no valid update of the target, without which sources cannot be"
            f" weighted: {said or 'no target is here'}. What was reached is saved: mend it and"
            " start the coordinator again."
        )


class FedProx(Federation):
    """FedAvg of sources that are drawn to the global weights (Li et al. 2020, arXiv 1812.06127).

    Args:
        mu: weight of mu / 2 · ‖w - w_global‖² in the sources' loss.
    """

    def __init__(self, settings: Settings, mu: float) -> None:
        super().__init__(settings)
        self._mu = mu

    def scalars(self) -> Scalars:
        return {"proximal-mu": self._mu}


class Robust(Federation):
    """An average of Flower's that bears a few wrong updates: Krum, Bulyan, FedTrimmedAvg, …

    Args:
        rule: the strategy whose `aggregate_train` combines the valid updates. Counts are not
            averaged: the largest is kept.
    """

    def __init__(self, settings: Settings, rule: Strategy) -> None:
        super().__init__(settings)
        self._rule = rule

    def combine(self, round_: int, updates: Mapping[str, Update]) -> State:
        arrays, _ = self._rule.aggregate_train(round_, [u.message for u in updates.values()])
        if arrays is None:
            raise InputError(f"{type(self._rule).__name__} found no average in round {round_}.")
        self.progress.shares = {}  # these rules choose and trim: no party has a share
        combined = arrays.to_torch_state_dict()
        for name, reference in self.progress.weights.items():
            if not reference.is_floating_point():
                counts = [update.weights[name] for update in updates.values()]
                combined[name] = torch.stack(counts).amax(0)
            combined[name] = combined[name].to(reference.dtype)
        return combined
