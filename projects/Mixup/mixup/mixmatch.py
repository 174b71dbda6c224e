"""MixMatch (Berthelot 2019, arXiv 1905.02249)."""

from __future__ import annotations

from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from torch import Tensor

from dataset_tools.errors import InputError
from mixup.functions import average_guess, consistency, larger_half, sharpen
from mixup.semi_supervised import Batch, SemiSupervisedClassifier
from seriatim.modeling.mixing import draw_lambda, draw_partners, mixup


@META_ARCH_REGISTRY.register()
class MixMatchClassifier(SemiSupervisedClassifier):
    """Sharpened guesses averaged over views, and mixup of all images with all.

    The views are the image and those of SERIATIM.SEMI.VIEWS, ("weak",) for the paper's two. λ is
    drawn for each image. All go through the network at once.
    """

    @configurable
    def __init__(self, *, alpha: float, temperature: float, **kwargs: Any) -> None:
        """
        Args:
            alpha: λ ~ Beta(α, α).
            temperature: below 1 sharpens the guesses.
        """
        super().__init__(**kwargs)
        if self.mixer is not None:
            raise InputError("MixMatch mixes by itself: SERIATIM.MIX.NAME has to be ''.")
        self.alpha, self.temperature = alpha, temperature

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        return {
            **super().from_config(cfg),
            "alpha": cfg.MIXUP.ALPHA_U,
            "temperature": cfg.MIXUP.TEMPERATURE,
        }

    def losses(self, labelled: Batch, unlabelled: Batch) -> tuple[Tensor, Tensor]:
        views = all_views(unlabelled)
        images = self.pixels([*labelled, *(item for view in views for item in view)])
        guesses = average_guess(self.guess(images[len(labelled) :]), len(views))
        self.record_guesses(guesses)
        guesses = sharpen(guesses, self.temperature).repeat(len(views), 1)
        targets = torch.cat([self.targets(labelled), guesses])
        count = len(images)
        lam = larger_half(draw_lambda(self.alpha, count, True, images.device))
        mixed, targets = mixup(images, targets, lam, draw_partners(count, images.device))
        logits = self.logits(mixed)
        return (
            self.supervised_loss(logits[: len(labelled)], targets[: len(labelled)]),
            consistency(logits[len(labelled) :], targets[len(labelled) :], "mse"),
        )


def all_views(batch: Batch) -> list[Batch]:
    """The batch, then for each further view a batch with that in place of the images."""
    further = zip(*(item.get("views", ()) for item in batch), strict=True)
    return [batch, *([{"image": image} for image in images] for images in further)]
