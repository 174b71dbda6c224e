"""The gates as a list that fills in while they run; plain lines where there is no terminal."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from seriatim.gates.base import Gate
from seriatim.gates.runner import Listener
from seriatim.gates.verdict import Status, Verdict

_SIGNS = {Status.PASS: "✓", Status.WARN: "!", Status.FAIL: "✗", Status.SKIP: "–"}
_STYLES = {Status.PASS: "green", Status.WARN: "yellow", Status.FAIL: "bold red", Status.SKIP: "dim"}


class GateList(Listener):
    """Use as a context manager around `run(…, listener=…)`; `names` are the gates to come."""

    def __init__(self, names: list[str]) -> None:
        self._names = names
        self._verdicts: dict[str, Verdict] = {}
        self._running: tuple[str, float] | None = None
        console = Console(file=sys.stdout)
        self._live = (
            Live(get_renderable=self._table, console=console, refresh_per_second=4)
            if console.is_terminal
            else None
        )

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._live:
            self._live.stop()

    def started(self, gate: Gate) -> None:
        self._running = (gate.name, time.monotonic())

    def ended(self, verdict: Verdict) -> None:
        self._verdicts[verdict.gate] = verdict
        self._running = None
        if self._live is None:
            sign, seconds = _SIGNS[verdict.status], _seconds(verdict)
            head = f"gate {verdict.gate:<12} {sign} {verdict.status:<4} {seconds:>6}"
            print(f"{head}  {verdict.summary}", flush=True)

    def _table(self) -> Table:
        table = Table.grid(padding=(0, 1))
        for name in self._names:
            verdict = self._verdicts.get(name)
            if verdict is not None:
                style = _STYLES[verdict.status]
                sign, seconds, text = _SIGNS[verdict.status], _seconds(verdict), verdict.summary
            elif self._running and self._running[0] == name:
                style, sign, text = "bold", "▸", "…"
                seconds = f"{time.monotonic() - self._running[1]:.0f} s"
            else:
                style, sign, seconds, text = "dim", " ", "", ""
            table.add_row(Text(sign, style), Text(name, style), Text(seconds, "dim"), Text(text))
        return table


def _seconds(verdict: Verdict) -> str:
    return "known" if verdict.cached else f"{verdict.seconds:.1f} s"
