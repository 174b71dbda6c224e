"""Interpolation consistency training (Verma 2019, arXiv 1903.03825)."""

from __future__ import annotations

from typing import Any

from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from torch import Tensor

from dataset_tools.errors import InputError
from mixup.functions import CONSISTENCIES, consistency
from mixup.semi_supervised import Batch, SemiSupervisedClassifier
from seriatim.modeling.mixing import Mixer


@META_ARCH_REGISTRY.register()
class ICTClassifier(SemiSupervisedClassifier):
    """The prediction for a mixture of two unlabelled images should be the mixture of the guesses.

    Labelled images are mixed as SERIATIM.MIX says (its ALPHA is the paper's α for labelled ones,
    and "" leaves them unmixed), unlabelled ones in the same way with an α of their own. With
    "manifold" both are mixed at a random layer. Labelled and unlabelled images go through the
    network apart, as in the paper and in mixupfamily, and batch norms see each by itself.
    """

    @configurable
    def __init__(self, *, unlabelled_mixer: Mixer, consistency: str, **kwargs: Any) -> None:
        """
        Args:
            unlabelled_mixer: of unlabelled images and their guesses.
            consistency: one of `functions.CONSISTENCIES`.
        """
        super().__init__(**kwargs)
        if consistency not in CONSISTENCIES:
            raise InputError(
                f"MIXUP.CONSISTENCY is {consistency!r}; it can be {' or '.join(CONSISTENCIES)}."
            )
        unlabelled_mixer.check_layers(self.blocks)
        self.unlabelled_mixer, self.consistency = unlabelled_mixer, consistency

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        mix = cfg.SERIATIM.MIX
        return {
            **super().from_config(cfg),
            "unlabelled_mixer": Mixer(
                mix.NAME or "mixup", cfg.MIXUP.ALPHA_U, tuple(mix.LAYERS), mix.PER_SAMPLE
            ),
            "consistency": cfg.MIXUP.CONSISTENCY,
        }

    def losses(self, labelled: Batch, unlabelled: Batch) -> tuple[Tensor, Tensor]:
        logits, targets = self.mixed(self.pixels(labelled), self.targets(labelled))
        supervised = self.supervised_loss(logits, targets)
        images = self.pixels(unlabelled)
        guesses = self.guess(images).softmax(-1)
        self.record_guesses(guesses)
        logits, targets = self.unlabelled_mixer(self.logits, self.blocks, images, guesses)
        return supervised, consistency(logits, targets, self.consistency)
