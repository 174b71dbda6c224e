"""Keep the weights that scored best."""

from __future__ import annotations

import logging
from typing import Any

from detectron2.engine import HookBase
from detectron2.utils import comm

from seriatim.engine.hooks.metric import is_better, pick_metric

logger = logging.getLogger(__name__)


class BestCheckpoint(HookBase):
    """Export model_best.pth whenever the metric reaches a new best. Listens to an Evaluation hook.

    Detectron2's BestCheckpointer does not serve: it makes `last_checkpoint` point to the best
    weights, so that a resumed run starts from there; it forgets its best when resumed; and to it a
    misspelt metric is only worth a warning.

    Args:
        metric: flat name, such as "bbox/AP".
        mode: "max" or "min".
    """

    def __init__(self, metric: str, mode: str) -> None:
        self._metric, self._mode = metric, mode
        self._best: float | None = None
        self._best_steps = 0

    def on_evaluation(self, metrics: dict[str, float], steps: int) -> None:
        if not comm.is_main_process():
            return
        value = pick_metric(metrics, self._metric)
        if not is_better(value, self._best, self._mode):
            if self._best is not None:
                logger.info(
                    f"{self._metric} {value:.4g}; the best is {self._best:.4g}"
                    f" at step {self._best_steps}"
                )
            return
        self._best, self._best_steps = value, steps
        path = self.trainer.export("model_best", iteration=steps - 1, metric={self._metric: value})
        logger.info(f"{self._metric} {value:.4g} is the best so far: saved as {path}")

    def state_dict(self) -> dict[str, Any]:
        return {"best": self._best, "best_steps": self._best_steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._best, self._best_steps = state["best"], state["best_steps"]
