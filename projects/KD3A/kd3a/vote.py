"""Knowledge vote: what the source models agree on for images of the target, and how much each adds
to it.

Feng et al., "KD3A: Unsupervised Multi-Source Decentralized Domain Adaptation via Knowledge
Distillation", ICML 2021, arXiv 2011.09757. The paper and its public code differ; `VARIANTS` has
both.

Votes are a game: a coalition of sources is worth the support that its vote finds on a set of
images. What one source adds to it decides how much its weights count (`kd3a.focus`).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

VARIANTS = ("code", "paper")
# Of an image on which no source is confident: the paper distils from the mean of all, but hardly.
UNSURE_WEIGHT = 0.001
# Elements of the largest intermediate array; coalitions are taken in chunks of it.
_CHUNK = 1 << 24


@dataclass(frozen=True)
class Consensus:
    """What a vote found for N images.

    Attributes:
        targets: (N, C) float, the distribution to distil: one-hot ("code") or the mean of the
            sources that
            won the vote ("paper").
        weights: (N,) float, of each image's loss: 1 or 0 ("code"), the number of sources that won
            ("paper").
        support: (N,) float, what was found for the winning class; 0 where no source is confident in
            "code".
    """

    targets: Tensor
    weights: Tensor
    support: Tensor

    @property
    def coverage(self) -> float:
        """Share of the images on which a source was confident."""
        return (self.weights > UNSURE_WEIGHT).double().mean().item()


def knowledge_vote(probabilities: Tensor, gate: float, variant: str = "code") -> Consensus:
    """Let the sources vote for the class of each image.

    A source whose highest probability exceeds `gate` votes for its class with that probability
    ("code") or with its whole distribution ("paper"); the class with most support wins. Where no
    source passes, the image gets no weight ("code"), or `UNSURE_WEIGHT` and the mean of all sources
    ("paper").

    Args:
        probabilities: (N, K, C), softmax of K sources on N images.
        gate: in [0, 1).
    """
    _check(probabilities, variant)
    confidence, classes = probabilities.max(-1)  # (N, K)
    sure = confidence > gate
    any_sure = sure.any(1)
    voters = torch.where(any_sure[:, None], sure, True)
    if variant == "code":
        totals = torch.zeros_like(probabilities[:, 0])
        totals.scatter_add_(1, classes, confidence * voters)
        support, winner = totals.max(-1)
        targets = torch.nn.functional.one_hot(winner, probabilities.shape[-1]).to(probabilities)
        return Consensus(targets, any_sure.to(probabilities), support * any_sure)
    winner = (probabilities * voters[..., None]).sum(1).argmax(-1)
    winners = sure & (classes == winner[:, None])
    # The class that has most probability in the sum may be no one's first: then all voters made it.
    winners = torch.where(winners.any(1, keepdim=True), winners, voters)
    count = winners.sum(1).to(probabilities)
    targets = (probabilities * winners[..., None]).sum(1) / count[:, None]
    weights = torch.where(any_sure, count, torch.full_like(count, UNSURE_WEIGHT))
    return Consensus(targets, weights, weights * targets.amax(-1))


def coalition_values(
    probabilities: Tensor, gate: float, members: Tensor, variant: str = "code"
) -> Tensor:
    """What coalitions of sources are worth on these images: the support of their vote, summed over
    images.

    Values add up over batches, so that a round sums them and divides the worth among the sources
    once.

    Args:
        probabilities: (N, K, C), softmax of K sources on N images.
        members: (S, K) bool, which sources are in each coalition. The empty coalition is worth 0.

    Returns:
        (S,) float64.
    """
    _check(probabilities, variant)
    if variant == "paper":
        values = [
            knowledge_vote(probabilities[:, m], gate, variant).support.double().sum()
            if m.any()
            else 0.0
            for m in members
        ]
        return torch.tensor([float(v) for v in values], dtype=torch.float64)
    confidence, classes = probabilities.double().max(-1)
    # (N, K): what each source gives to its class.
    votes = torch.where(confidence > gate, confidence, 0.0)
    same = classes[:, :, None] == classes[:, None, :]
    # ballots[n, k, j]: what source j gives to the class of source k. A class is someone's, so that
    # the largest of K such sums is the largest of all classes, however many there are.
    ballots = votes[:, None, :] * same
    n, k, _ = ballots.shape
    flat, chosen = ballots.reshape(n * k, k), members.to(ballots).T  # (N·K, K) · (K, S)
    step = max(1, _CHUNK // (n * k))
    parts = [(flat @ part).reshape(n, k, -1).amax(1).sum(0) for part in chosen.split(step, dim=1)]
    return torch.cat(parts).cpu()


def _check(probabilities: Tensor, variant: str) -> None:
    if variant not in VARIANTS:
        raise ValueError(f"variant is one of {', '.join(VARIANTS)}, not {variant!r}")
    if probabilities.ndim != 3:
        raise ValueError(
            f"probabilities are (images, sources, classes), not {tuple(probabilities.shape)}"
        )
