"""Stop when training no longer helps."""

from __future__ import annotations

import logging
from typing import Any

from detectron2.engine import HookBase
from detectron2.utils import comm

from seriatim.engine.hooks.metric import is_better, pick_metric

logger = logging.getLogger(__name__)


class EarlyStopping(HookBase):
    """End the training after `patience` evaluations without improvement.

    It listens to an Evaluation hook.

    Args:
        metric: flat name, such as "bbox/AP".
        mode: "max" or "min".
        min_delta: the smallest change that counts, in the metric's unit.
    """

    def __init__(self, metric: str, mode: str, patience: int, min_delta: float = 0.0) -> None:
        self._metric, self._mode = metric, mode
        self._patience, self._min_delta = patience, min_delta
        self._best: float | None = None
        self._waited = 0

    def before_train(self) -> None:
        if self._waited >= self._patience:
            logger.warning(
                f"This run had already stopped early: {self._waited} evaluations did not improve"
                f" {self._metric}. A larger SERIATIM.HOOKS.EARLY_STOPPING_PATIENCE lets it go on."
            )
            self.trainer.max_iter = self.trainer.start_iter

    def on_evaluation(self, metrics: dict[str, float], steps: int) -> None:
        if comm.is_main_process():
            value = pick_metric(metrics, self._metric)
            if is_better(value, self._best, self._mode, self._min_delta):
                self._best, self._waited = value, 0
            else:
                self._waited += 1
        self._waited = comm.all_gather(self._waited)[0]
        if self._waited < self._patience or steps >= self.trainer.max_iter:
            return
        best = "was never a number" if self._best is None else f"stays at {self._best:.4g} at best"
        logger.warning(
            f"Stopping early after step {steps}: {self._metric} {best}"
            f" ({self._waited} evaluations without improvement)"
        )
        self.trainer.max_iter = steps
        if self.trainer.iter == steps - 1:  # in `after_step`
            self.trainer.save_checkpoint()

    def state_dict(self) -> dict[str, Any]:
        return {"best": self._best, "waited": self._waited}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._best, self._waited = state["best"], state["waited"]
