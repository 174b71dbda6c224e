"""The target's model: it learns what the sources' models agree on, and needs no label."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.utils.events import get_event_storage
from torch import Tensor, nn

from kd3a.focus import (
    MOST_EXACT,
    SampledOrders,
    all_but_one,
    all_coalitions,
    leave_one_out,
    shapley_values,
)
from kd3a.vote import Consensus, coalition_values, knowledge_vote
from seriatim.modeling.meta_arch.classifier import ImageClassifier

# Pairs of orders drawn for more than `MOST_EXACT` sources.
PAIRS = 500


@dataclass
class Teachers:
    """The sources' models and what their votes have been worth so far.

    Args:
        models: one of each source.
        gate: confidence that a vote needs.
        variant: "code" or "paper", see `kd3a.vote`.
    """

    models: Sequence[ImageClassifier]
    gate: float
    variant: str
    images: int = field(default=0, init=False)
    covered: float = field(default=0.0, init=False)
    worth: Tensor = field(init=False)

    def __post_init__(self) -> None:
        sources = len(self.models)
        self._orders: SampledOrders | None = None
        if self.variant == "paper":
            self._members = all_but_one(sources)
        elif sources <= MOST_EXACT:
            self._members = all_coalitions(sources)
        else:
            self._orders = SampledOrders(sources, PAIRS, seed=0)
            self._members = self._orders.members
        self.worth = torch.zeros(len(self._members), dtype=torch.float64)
        for model in self.models:
            model.eval()
            # The public code leaves the sources in training mode: their BatchNorms normalise the
            # target's images by these images' statistics, and draw their own towards them.
            for norm in _norms(model) if self.variant == "code" else ():
                norm.train()

    @torch.no_grad()
    def vote(self, images: Tensor) -> Consensus:
        """The consensus on normalised `images`, (N, C, H, W); adds it to the account."""
        probabilities, consensus = self.look(images)
        self.worth += coalition_values(probabilities, self.gate, self._members, self.variant)
        self.images += len(images)
        self.covered += consensus.coverage * len(images)
        return consensus

    @torch.no_grad()
    def look(self, images: Tensor) -> tuple[Tensor, Consensus]:
        """(N, K, C) probabilities and the consensus on normalised `images`, for no account."""
        probabilities = torch.stack([m.logits(images).float().softmax(-1) for m in self.models], 1)
        return probabilities, knowledge_vote(probabilities, self.gate, self.variant)

    @property
    def coverage(self) -> float:
        """Share of the images so far on which a source was confident."""
        return self.covered / max(1, self.images)

    def statistics(self) -> list[dict[str, Tensor]]:
        """Of each source the BatchNorm statistics that voting has changed: none in "paper"."""
        if self.variant == "paper":
            return [{} for _ in self.models]
        return [
            {
                name: value
                for name, value in model.state_dict().items()
                if name.endswith((".running_mean", ".running_var"))
            }
            for model in self.models
        ]

    def focus(self) -> Tensor:
        """(K,) float64: what each source has added to the votes so far."""
        if self.variant == "paper":
            return leave_one_out(self.worth)
        if self._orders is not None:
            return self._orders.estimate(self.worth).values
        return shapley_values(self.worth)


@META_ARCH_REGISTRY.register()
class ConsensusStudent(ImageClassifier):
    """An ImageClassifier that learns from `teachers` while it has some, and from labels else.

    The loss is the cross entropy of the consensus, weighted image by image and mixed pair by pair
    (mixup, λ ~ Beta(α, α)). Each half of a pair keeps its own weight; the public code gives both
    the weight of the first, so that images on which nobody was confident are learnt as well.

    Attributes:
        teachers: None, or who is asked. Its models are no part of this one.
    """

    @configurable
    def __init__(self, *, mix_alpha: float = 0.0, **kwargs: Any) -> None:
        """
        Args:
            mix_alpha: α of mixup on the consensus; 0 does not mix.
            kwargs: of ImageClassifier.
        """
        super().__init__(**kwargs)
        self.mix_alpha = mix_alpha
        self.teachers: Teachers | None = None

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        alpha = 0.0 if cfg.SERIATIM.DETERMINISTIC_DEBUG else cfg.KD3A.MIX_ALPHA
        return super().from_config(cfg) | {"mix_alpha": alpha}

    def forward(self, batch: Sequence[dict[str, Any]]) -> dict[str, Tensor] | list[dict[str, Any]]:
        if not self.training or self.teachers is None:
            return super().forward(batch)
        images = self.pixels(batch)
        consensus = self.teachers.vote(images)
        get_event_storage().put_scalar("vote/coverage", consensus.coverage)
        targets = consensus.targets * consensus.weights[:, None]
        if self.mix_alpha > 0:
            share = float(np.random.beta(self.mix_alpha, self.mix_alpha))
            other = torch.randperm(len(images)).to(images.device)
            images = images.lerp(images[other], 1 - share)
            targets = targets.lerp(targets[other], 1 - share)
        logits = self.logits(images)
        loss = -(targets * logits.float().log_softmax(-1)).sum(-1).mean()
        return {"loss_consensus": loss}


def _norms(model: nn.Module) -> Iterator[nn.Module]:
    return (m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm))
