"""Send the metrics to their writers."""

from __future__ import annotations

from collections.abc import Callable

from detectron2.engine import hooks
from detectron2.utils.events import EventWriter


class Writers(hooks.PeriodicWriter):
    """Detectron2's PeriodicWriter, whose writers open their files when training starts.

    Args:
        build: gives the writers; called in `before_train`, when the trainer knows its first step.
        period: steps between two writes.
    """

    def __init__(self, build: Callable[[], list[EventWriter]], period: int) -> None:
        super().__init__([], period)
        self._build = build

    def before_train(self) -> None:
        self._writers = self._build()
