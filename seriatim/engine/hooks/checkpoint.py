"""Save checkpoints while training, and the finished weights at its end."""

from __future__ import annotations

from detectron2.engine import HookBase


class Checkpoint(HookBase):
    """Save model_NNNNNNN.pth every `period` steps and after the last one; export model_final.pth.

    model_NNNNNNN.pth holds all that `--resume` needs. model_final.pth holds the evaluated weights
    alone (the moving average where there is one), for any DetectionCheckpointer. It runs in all
    processes.

    Args:
        period: steps of the optimizer between two checkpoints; 0 saves after the last step only.
    """

    def __init__(self, period: int) -> None:
        self._period = period

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        if (self._period > 0 and done % self._period == 0) or done >= self.trainer.max_iter:
            self.trainer.save_checkpoint()

    def after_train(self) -> None:
        if self.trainer.finished:
            self.trainer.export("model_final", iteration=self.trainer.iter - 1)
