"""FixMatch (Sohn 2020, arXiv 2001.07685)."""

from __future__ import annotations

from detectron2.modeling import META_ARCH_REGISTRY
from torch import Tensor

from dataset_tools.errors import InputError
from mixup.functions import pseudo_label_loss
from mixup.mixmatch import all_views
from mixup.semi_supervised import Batch, SemiSupervisedClassifier


@META_ARCH_REGISTRY.register()
class FixMatchClassifier(SemiSupervisedClassifier):
    """What the model is sure of for an image should hold for a strongly augmented view of it.

    SERIATIM.SEMI.VIEWS is ("strong",). Labelled images may be mixed by SERIATIM.MIX.
    """

    def losses(self, labelled: Batch, unlabelled: Batch) -> tuple[Tensor, Tensor]:
        weak, *others = all_views(unlabelled)
        if len(others) != 1:
            raise InputError(
                "FixMatch needs one further view of each unlabelled image, a strong one:"
                ' SERIATIM.SEMI.VIEWS ("strong",).'
            )
        guesses = self.guess(self.pixels(weak)).softmax(-1)
        self.record_guesses(guesses)
        logits, targets = self.mixed(self.pixels(labelled), self.targets(labelled))
        strong = self.logits(self.pixels(others[0]))
        return (
            self.supervised_loss(logits, targets),
            pseudo_label_loss(strong, guesses, self.threshold),
        )
