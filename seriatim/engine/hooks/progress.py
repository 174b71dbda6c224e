"""How far training has come: a bar on a terminal, log lines elsewhere."""

from __future__ import annotations

import logging
import sys
from datetime import timedelta

from detectron2.engine import HookBase

logger = logging.getLogger(__name__)
WINDOW = 20  # steps over which the numbers shown are smoothed by their median


class Progress(HookBase):
    """A progress bar with losses and remaining time; a log line every `period` steps elsewhere."""

    def __init__(self, period: int) -> None:
        self._period = period
        self._bar = None
        self._task = None

    def before_train(self) -> None:
        if sys.stdout.isatty():
            self._bar = _make_bar()
            self._task = self._bar.add_task(
                "training",
                total=self.trainer.max_iter,
                completed=self.trainer.start_iter,
                numbers="",
            )
            self._bar.start()

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        if self._bar is not None:
            self._bar.update(
                self._task, completed=done, total=self.trainer.max_iter, numbers=self._numbers()
            )
        elif done % self._period == 0 or done >= self.trainer.max_iter:
            steps = f"step {done}/{self.trainer.max_iter}"
            logger.info(f"{steps}  eta {self._remaining(done)}  {self._numbers()}")

    def after_train(self) -> None:
        if self._bar is not None:
            self._bar.stop()

    def _numbers(self) -> str:
        histories = self.trainer.storage.histories()
        names = [n for n in histories if "loss" in n and "/" not in n]
        parts = [f"{name} {histories[name].median(WINDOW):.4g}" for name in names]
        if "lr" in histories:
            parts.append(f"lr {histories['lr'].latest():.3g}")
        if "time" in histories:
            seconds = histories["time"].median(WINDOW)
            parts.append(f"{seconds:.2f} s/step")
            parts.append(f"data {min(1.0, histories['data_time'].median(WINDOW) / seconds):.0%}")
        return "  ".join(parts)

    def _remaining(self, done: int) -> str:
        histories = self.trainer.storage.histories()
        if "time" not in histories:
            return "?"
        seconds = histories["time"].median(1000) * (self.trainer.max_iter - done)
        return str(timedelta(seconds=round(seconds)))


def _make_bar():
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    return Progress(
        MofNCompleteColumn(),
        BarColumn(bar_width=None),
        TimeRemainingColumn(),
        TextColumn("{task.fields[numbers]}"),
        expand=True,
    )
