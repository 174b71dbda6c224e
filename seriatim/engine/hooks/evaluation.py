"""Evaluate while training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from detectron2.engine import HookBase
from detectron2.evaluation.testing import flatten_results_dict
from detectron2.utils import comm


class EvaluationListener(Protocol):
    """What wants to know each evaluation's metrics."""

    def on_evaluation(self, metrics: dict[str, float], steps: int) -> None:
        """`metrics` by flat name ("bbox/AP"; empty in all processes but 0) after `steps` steps."""


class Evaluation(HookBase):
    """Evaluate every `period` steps and after the last one.

    The metrics go to the event storage and the listeners. A run that was killed between a
    checkpoint and the evaluation due at the same step evaluates first when it is resumed, so that
    best checkpoint and early stopping go on as if nothing had happened.

    Args:
        period: steps between two evaluations; 0: only after the last step.
        evaluate: gives Detectron2's nested dict of metrics.
    """

    def __init__(
        self,
        period: int,
        evaluate: Callable[[], dict[str, Any]],
        listeners: Sequence[EvaluationListener] = (),
    ) -> None:
        self._period = period
        self._evaluate = evaluate
        self._listeners = listeners
        self._evaluated = 0  # steps done at the last evaluation

    def before_train(self) -> None:
        start = self.trainer.start_iter
        if 0 < start < self.trainer.max_iter and self._is_due(start):
            self.trainer.storage.iter = start - 1
            self._run(start)

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        if self._is_due(done) and done < self.trainer.max_iter:
            self._run(done)

    def after_train(self) -> None:
        if self.trainer.finished and self._evaluated != self.trainer.iter:
            self._run(self.trainer.iter)

    def _is_due(self, steps: int) -> bool:
        return self._period > 0 and steps % self._period == 0 and steps != self._evaluated

    def _run(self, steps: int) -> None:
        results = self._evaluate()
        self.trainer.last_results = results
        metrics = {name: float(value) for name, value in flatten_results_dict(results).items()}
        if metrics:
            self.trainer.storage.put_scalars(**metrics, smoothing_hint=False)
        self._evaluated = steps
        comm.synchronize()  # evaluation takes longer in some processes
        for listener in self._listeners:
            listener.on_evaluation(metrics, steps)

    def state_dict(self) -> dict[str, int]:
        return {"evaluated": self._evaluated}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self._evaluated = state["evaluated"]
