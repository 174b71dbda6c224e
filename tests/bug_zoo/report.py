"""What was found, as a table for the terminal and as the page docs/bug_zoo.md."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.table import Table

from tests.bug_zoo.registry import GROUPS, Bug
from tests.bug_zoo.runner import ROOT, Result

PAGE: Path = ROOT / "docs" / "bug_zoo.md"
_HEADER = """\
# The bug zoo

*Written by `make zoo`; do not edit.*

Silent bugs are planted, one at a time, into healthy pipelines on drawn shapes (64 to 128 px, tiny
backbones). The gates are asked in their order until one fails. A bug counts as **caught for the
right reason** only if one of the first two causes that the failing gate names is the planted one.
Loss watching, for comparison, trains the same steps with three healthy seeds and once with the bug:
it notices the bug if the final loss lies outside of where 95 of 100 healthy runs would end.

Which half a bug belongs to follows from a hash of its name. Gates were mended after misses in both
halves had been seen, so the second is not a clean test; only new bugs would be. The sources are in
`tests/bug_zoo/`.
"""


def table(results: Sequence[Result]) -> Table:
    """One line a case."""
    grid = Table("case", "gate", "right cause", "s", "loss watching", "half")
    for result in results:
        grid.add_row(*_cells(result))
    return grid


def summary(results: Sequence[Result]) -> str:
    """The score in a few lines."""
    return "\n".join(f"{name}: {value}" for name, value in _scores(results))


def markdown(results: Sequence[Result]) -> str:
    """The page."""
    sections = [_HEADER, "## Score\n", _grid(("", ""), _scores(results))]
    sections += ["## By gate\n", _grid(("gate", "bugs it caught"), _by_gate(results))]
    for title, wanted in (("Bugs", True), ("Healthy pipelines", False)):
        chosen = [r for r in results if isinstance(r.case, Bug) is wanted]
        sections += [f"## {title}\n"]
        if wanted:
            head = ("bug", "area", "gate", "right cause", "s", "loss watching", "half", "seen in")
            rows = [_bug_row(r) for r in chosen]
        else:
            head = ("pipeline", "what", "false alarm", "s")
            rows = [(r.case.name, r.case.what, _gate(r), f"{r.seconds:.0f}") for r in chosen]
        sections.append(_grid(head, rows))
    sections += ["## What each bug is\n", *(_told(r) for r in results if isinstance(r.case, Bug))]
    return "\n".join(sections).rstrip() + "\n"


def _told(result: Result) -> str:
    bug = result.case
    said = (
        "" if not result.caught else f" Gate {result.outcome['gate']}: *{result.outcome['cause']}*."
    )
    return f"- **{bug.name}** ({bug.kind}): {bug.what}{said}"


def _bug_row(result: Result) -> tuple[str, ...]:
    name, gate, right, seconds, watching, half = _cells(result)
    return name, result.case.area, gate, right, seconds, watching, half, ", ".join(result.case.seen)


def _cells(result: Result) -> tuple[str, ...]:
    case, watching = result.case, result.watching
    if not isinstance(case, Bug):
        return case.name, _gate(result), "", f"{result.seconds:.0f}", "", "healthy"
    told = "" if watching is None else ("noticed" if watching.notices else "not noticed")
    right = ("yes" if result.outcome["right"] else "no") if result.caught else ""
    return case.name, _gate(result), right, f"{result.seconds:.0f}", told, case.group


def _gate(result: Result) -> str:
    outcome = result.outcome
    if outcome["error"]:
        return f"broke down: {outcome['error'][:60]}"
    if result.caught or not outcome["warnings"] or not isinstance(result.case, Bug):
        return outcome["gate"] or "—"
    return "— (warned: " + ", ".join(outcome["warnings"]) + ")"


def _scores(results: Sequence[Result]) -> list[tuple[str, str]]:
    planted = [r for r in results if isinstance(r.case, Bug)]
    sound = [r for r in results if not isinstance(r.case, Bug)]
    watched = [r for r in planted if r.watching is not None]
    rows = []
    for half in GROUPS:
        mine = [r for r in planted if r.case.group == half]
        rows.append((f"caught, {half} half", _share(r.caught for r in mine)))
        rows.append(
            (f"caught for the right reason, {half} half", _share(r.outcome["right"] for r in mine))
        )
    if watched:
        rows.append(("noticed by watching the loss", _share(r.watching.notices for r in watched)))
    rows.append(("false alarms on healthy pipelines", _share(r.caught for r in sound)))
    return rows


def _by_gate(results: Sequence[Result]) -> list[tuple[str, str]]:
    caught = Counter(r.outcome["gate"] for r in results if isinstance(r.case, Bug) and r.caught)
    return [(gate, str(count)) for gate, count in caught.most_common()]


def _share(values: Iterable[bool]) -> str:
    values = list(values)
    return f"{sum(values)} of {len(values)}"


def _grid(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"
