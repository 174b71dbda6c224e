"""What the semi-supervised methods share: two streams, a teacher, the weight of the guesses."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.utils.events import get_event_storage
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from dataset_tools.errors import InputError
from mixup.functions import RAMPS, guess_statistics, ramp_up
from seriatim.modeling.meta_arch.classifier import ImageClassifier

Batch = Sequence[dict[str, Any]]


class SemiSupervisedClassifier(ImageClassifier):
    """An ImageClassifier that also learns from images without a label (label -1).

    In training it gives {"loss_cls", "loss_unlabelled"}; a batch without unlabelled images gives
    what ImageClassifier does. In inference it is an ImageClassifier, and it is the model that
    answers, not the teacher: the average that is evaluated is SERIATIM.SOLVER.EMA_DECAY's.

    Attributes:
        teacher: the moving average of the model, or None. It is in the state_dict.
        steps: of the optimizer so far, as `after_step` counts them; a checkpoint has it.
    """

    @configurable
    def __init__(
        self,
        *,
        teacher_decay: float,
        weight: float,
        ramp_steps: float,
        ramp: str,
        threshold: float,
        **kwargs: Any,
    ) -> None:
        """
        Args:
            teacher_decay: of the teacher; 0: the model guesses itself.
            weight: of the loss on unlabelled images at its largest; 0: they are not used.
            ramp_steps: steps until then. ramp: one of `functions.RAMPS`.
            threshold: the confidence above which guesses count, or are counted.
        """
        super().__init__(**kwargs)
        if not 0 <= teacher_decay < 1:
            raise InputError(f"MIXUP.TEACHER_DECAY is {teacher_decay}; it is from 0 to below 1.")
        if ramp not in RAMPS:
            raise InputError(f"MIXUP.RAMP is {ramp!r}; it can be {' or '.join(RAMPS)}.")
        self.teacher_decay = teacher_decay
        self.weight, self.ramp_steps, self.ramp = weight, ramp_steps, ramp
        self.threshold = threshold
        self.steps = 0
        self.teacher = None
        if teacher_decay > 0:
            self.teacher = copy.deepcopy(self).requires_grad_(False)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        keys = cfg.MIXUP
        return {
            **super().from_config(cfg),
            "teacher_decay": keys.TEACHER_DECAY,
            "weight": 0.0 if cfg.SERIATIM.DETERMINISTIC_DEBUG else keys.WEIGHT,
            "ramp_steps": keys.RAMP_SHARE * cfg.SOLVER.MAX_ITER,
            "ramp": keys.RAMP,
            "threshold": keys.THRESHOLD,
        }

    def forward(self, batch: Batch) -> dict[str, Tensor] | list[dict[str, Any]]:
        if not self.training:
            return super().forward(batch)
        labelled = [item for item in batch if int(item["label"]) >= 0]
        unlabelled = [item for item in batch if int(item["label"]) < 0]
        if not unlabelled or self.weight == 0:
            return super().forward(labelled)
        if self.teacher is not None and self.steps == 0:
            self._update_teacher(decay=0)  # weights may have been loaded meanwhile
        supervised, unsupervised = self.losses(labelled, unlabelled)
        weight = self.weight * ramp_up(self.steps, self.ramp_steps, self.ramp)
        get_event_storage().put_scalar("guess/weight", weight, smoothing_hint=False)
        return {"loss_cls": supervised, "loss_unlabelled": weight * unsupervised}

    def losses(self, labelled: Batch, unlabelled: Batch) -> tuple[Tensor, Tensor]:
        """The loss on labelled images and, without its weight, that on the others."""
        raise NotImplementedError

    @torch.no_grad()
    def guess(self, images: Tensor) -> Tensor:
        """(N, C) logits of (N, …) images by the teacher, or the model itself, without gradient.

        Batch norms normalise by the batch, as in the steps that the guesses are for; their running
        statistics, which are those of what the model learns from, stay as they are.
        """
        guesser = self if self.teacher is None else self.teacher
        with untracked_statistics(guesser):
            return guesser.logits(images).float()

    def record_guesses(self, guesses: Tensor) -> None:
        """Put `guess_statistics` of (N, C) probabilities into the event storage, as guess/…."""
        storage = get_event_storage()
        for name, value in guess_statistics(guesses, self.threshold).items():
            storage.put_scalar(f"guess/{name}", value)

    def after_step(self) -> None:
        """Called by the trainer after each step of the optimizer."""
        if self.teacher is not None:
            # The average of all weights so far, until its memory is full (Tarvainen 2017).
            self._update_teacher(min(self.teacher_decay, 1 - 1 / (self.steps + 1)))
        self.steps += 1

    @torch.no_grad()
    def _update_teacher(self, decay: float) -> None:
        own = self.state_dict()
        for name, average in self.teacher.state_dict().items():
            if average.is_floating_point():
                average.lerp_(own[name], 1 - decay)
            else:
                average.copy_(own[name])


@contextmanager
def untracked_statistics(model: nn.Module) -> Iterator[None]:
    """Within the body, batch norms in training leave their running statistics as they are."""
    norms = [m for m in model.modules() if isinstance(m, _NormBase) and m.track_running_stats]
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True
