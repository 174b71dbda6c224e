"""What was found, as a table for the terminal and as the page docs/bug_zoo.md."""

from __future__ import annotations

import subprocess
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.table import Table

from seriatim.gates.runner import ORDER
from tests.bug_zoo.marks import ROOT
from tests.bug_zoo.pipeline import FAST, SLOW
from tests.bug_zoo.registry import GROUPS, Bug
from tests.bug_zoo.runner import Result

PAGE: Path = ROOT / "docs" / "bug_zoo.md"
_OF_RESULTS = ("first_run.json", "bug_zoo.md")
_HEADER = """\
# The bug zoo

*Written by `make zoo`; do not edit.*

Silent bugs are planted, one at a time, into healthy pipelines on drawn shapes (48 to 128 px, tiny
backbones). The gates are asked in their order until one fails: first those that do not train, then
(`ARGS="--gates all"`) blind, overfit1 and overfit10. A bug counts as **caught for the right
reason** only if one of the first two causes that the failing gate names is the planted one. A
warning does not count. Loss watching, for comparison, trains 40 steps with three healthy seeds and
once with the bug: it notices the bug if the final loss lies outside of where 95 of 100 healthy runs
would end. A bug of checkpoints is watched over a run that is broken off and resumed.

There are three groups. *Tuning*: thresholds may be set on it. *Held out*: by a hash of the name;
but gates were mended after misses in it had been seen, so it is no clean test. *Held out, new*:
written and committed before any gate was run on it, many after threads of public projects. Its
**first run** is the clean test. After it the gates were mended once more, and then it is one more
group that they were made with. First runs are written down once, in `tests/bug_zoo/first_run.json`,
and never overwritten. The sources are in `tests/bug_zoo/`.
"""


def table(results: Sequence[Result]) -> Table:
    """One line a case."""
    grid = Table("case", "gate", "right cause", "s", "loss watching", "first run", "group")
    for result in results:
        grid.add_row(*_cells(result))
    return grid


def summary(results: Sequence[Result]) -> str:
    """The score in a few lines."""
    return "\n".join(f"{' '.join(row)}" for row in _scores(results))


def markdown(results: Sequence[Result]) -> str:
    """The page."""
    planted = [r for r in results if isinstance(r.case, Bug)]
    bugs = [r for r in planted if r.asked]
    healthy = [r for r in results if not isinstance(r.case, Bug)]
    sound = [r for r in healthy if r.asked]
    head = ("", "bugs", "first run: caught", "right reason", "now: caught", "right reason")
    sections = [
        _HEADER,
        "## Score\n",
        _grid((*head, "noticed by loss watching"), _scores(results)),
        f"False alarms on healthy pipelines: **{_share(r.caught for r in sound)}**.\n",
        *_staleness(results),
        "## By gate\n",
        _grid(("gate", "bugs it caught", "for the right reason"), _by_gate(bugs)),
        "## By area\n",
        _grid(("area", "bugs", "caught", "right reason", "loss watching"), _by_area(bugs)),
        "## Missed\n",
        "\n".join(_missed(bugs)) + "\n",
        "## Bugs\n",
        _grid(
            (
                "bug",
                "area",
                "gate",
                "right cause",
                "s",
                "loss watching",
                "first run",
                "group",
                "seen in",
            ),
            [_bug_row(r) for r in planted],
        ),
        "## Healthy pipelines\n",
        _grid(
            ("pipeline", "what", "false alarm", "s"),
            [(r.case.name, r.case.what, _gate(r), f"{r.seconds:.0f}") for r in healthy],
        ),
        "## What each bug is\n",
        *(_told(r) for r in planted),
    ]
    return "\n".join(sections).rstrip() + "\n"


def _staleness(results: Sequence[Result]) -> list[str]:
    """Which sources the page is of, and how much of it is not."""
    older = sum(r.stale for r in results)
    if not older:
        return [f"All results are of the sources of one commit, {_commit()}.\n", *_unasked(results)]
    alone = sum(r.stale and _asked_in_part(r) for r in results)
    return [
        f"{older} of {len(results)} results are older than the last change of the sources"
        " (`ARGS=--keep`): what had been caught was not asked again after every mend. "
        f"{alone} of them are the answer of some of the gates alone, without those before.\n"
    ]


def _unasked(results: Sequence[Result]) -> list[str]:
    """How many cases have no result, and what was left out for the others."""
    asked = [r for r in results if r.asked]
    slow = [r for r in asked if set(SLOW) & set(r.outcome["seconds"])]
    silent = [r for r in asked if not r.caught or set(SLOW) & set(r.outcome["seconds"])]
    watched = sum(r.watching is not None for r in results)
    lines = []
    if len(asked) < len(results):
        lines.append(
            f"**{len(asked)} of the {len(results)} cases were asked** at that commit; the numbers"
            " under *now* are theirs.\n"
        )
    lines.append(
        f"Where the fast gates found nothing, the slow ones were asked of {len(slow)} of"
        f" {len(silent)}. {watched} bugs were also watched by their loss.\n"
    )
    return lines


def _commit() -> str:
    """The commit that is checked out, and the tracked files that differ from it."""
    git = ["git", "-C", str(ROOT)]
    try:
        name = subprocess.check_output([*git, "rev-parse", "--short", "HEAD"], text=True).strip()
        changed = subprocess.check_output([*git, "diff", "--name-only", "HEAD"], text=True).split()
    except (OSError, subprocess.CalledProcessError):
        return "unknown: this is no repository"
    others = [file for file in changed if Path(file).name not in _OF_RESULTS]
    return f"{name}, with changes in {', '.join(others)}" if others else name


def _asked_in_part(result: Result) -> bool:
    """Whether gates were left out that come before the one that failed, or any if none did."""
    asked, gate = result.outcome["seconds"], result.outcome["gate"]
    if "all" in asked or gate == "refused":
        return False
    before = FAST[: FAST.index(gate)] if gate in FAST else FAST
    return not set(before) <= set(asked)


def _told(result: Result) -> str:
    bug = result.case
    said = (
        "" if not result.caught else f" Gate {result.outcome['gate']}: *{result.outcome['cause']}*."
    )
    return f"- **{bug.name}** ({bug.kind}): {bug.what}{said}"


def _missed(bugs: Sequence[Result]) -> list[str]:
    """The bugs that no gate fails on, and what was warned of."""
    lines = []
    for result in bugs:
        if not result.caught:
            warned = [f"{gate} warns: {text}" for gate, text in result.outcome["warnings"].items()]
            told = f" *{' '.join(warned)}*" if warned else ""
            lines.append(f"- {result.case.name} ({result.case.area}): {result.case.what}{told}")
    return lines or ["None."]


def _bug_row(result: Result) -> tuple[str, ...]:
    name, *rest = _cells(result)
    return name, result.case.area, *rest, ", ".join(result.case.seen)


def _cells(result: Result) -> tuple[str, ...]:
    """case, gate, right cause, s, loss watching, first run, group."""
    case, watching, first = result.case, result.watching, result.first
    seconds = f"{result.seconds:.0f}"
    if not isinstance(case, Bug):
        return case.name, _gate(result), "", seconds, "", "", "healthy"
    told = "" if watching is None else ("noticed" if watching.notices else "not noticed")
    right = ("yes" if result.right else "no") if result.caught else ""
    before = "" if first is None else first["gate"] or "—"
    return case.name, _gate(result), right, seconds, told, before, case.group


def _gate(result: Result) -> str:
    outcome = result.outcome
    if not result.asked:
        return "not asked"
    if outcome["error"]:
        error = outcome["error"].replace(f"{ROOT}/", "")
        return f"broke down: {error[:60]}"
    if result.caught or not outcome["warnings"] or not isinstance(result.case, Bug):
        return outcome["gate"] or "—"
    return "— (warned: " + ", ".join(outcome["warnings"]) + ")"


def _scores(results: Sequence[Result]) -> list[tuple[str, ...]]:
    """A line a group, and one for all; in the columns that `markdown` names."""
    planted = [r for r in results if isinstance(r.case, Bug)]
    rows = [
        _score(group, [r for r in planted if r.case.group == group])
        for group in GROUPS
        if any(r.case.group == group for r in planted)
    ]
    return [*rows, _score("all", planted)] if len(rows) > 1 else rows


def _score(name: str, bugs: Sequence[Result]) -> tuple[str, ...]:
    first = [r.first for r in bugs if r.first is not None]
    watched = [r.watching.notices for r in bugs if r.watching is not None]
    return (
        name,
        str(len(bugs)),
        _share(bool(f["gate"]) for f in first),
        _share(f["right"] for f in first),
        _share(r.caught for r in bugs if r.asked),
        _share(r.right for r in bugs if r.asked),
        _share(watched) if watched else "",
    )


def _by_gate(bugs: Sequence[Result]) -> list[tuple[str, str, str]]:
    caught = Counter(r.outcome["gate"] for r in bugs if r.caught)
    right = Counter(r.outcome["gate"] for r in bugs if r.right)
    return [(g, str(caught[g]), str(right[g])) for g in (*ORDER, "refused") if caught[g]]


def _by_area(bugs: Sequence[Result]) -> list[tuple[str, ...]]:
    rows = []
    for area in dict.fromkeys(r.case.area for r in bugs):
        mine = [r for r in bugs if r.case.area == area]
        watched = [r.watching.notices for r in mine if r.watching is not None]
        rows.append(
            (
                area,
                str(len(mine)),
                str(sum(r.caught for r in mine)),
                str(sum(r.right for r in mine)),
                _share(watched) if watched else "",
            )
        )
    return rows


def _share(values: Iterable[bool]) -> str:
    values = list(values)
    return f"{sum(values)} of {len(values)}"


def _grid(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"
