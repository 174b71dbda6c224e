"""Models that change something of their own after each step."""

from __future__ import annotations

from detectron2.engine import HookBase


class ModelStep(HookBase):
    """Calls `after_step()` of the model after each step of the optimizer.

    A model that keeps a teacher, or a schedule, updates it there: `forward` is also called by
    gates, and several times a step where gradients are accumulated. What it keeps belongs in its
    `state_dict`, or is a plain number, so that checkpoints have it. This hook belongs before every
    hook that saves or evaluates.
    """

    def after_step(self) -> None:
        self.trainer.bare_model.after_step()
