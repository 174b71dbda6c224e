"""Send the metrics to their writers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from detectron2.engine import hooks
from detectron2.utils.events import EventWriter

from dataset_tools.files import write_text


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


def drop_later_metrics(path: Path, start: int) -> None:
    """Remove the lines of a metrics.json that a run resumed at `start` will write once more."""
    if not path.is_file():
        return
    lines = path.read_text(encoding="utf-8").splitlines()
    kept = [line for line in lines if _step(line) < start]
    if len(kept) < len(lines):
        write_text(path, "".join(f"{line}\n" for line in kept))


def _step(line: str) -> float:
    """The step of a line; infinity where a kill cut the line off."""
    try:
        return json.loads(line)["iteration"]
    except (ValueError, KeyError):
        return float("inf")
