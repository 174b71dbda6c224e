"""What the rules found, and the registry that the rules stand in."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dataset_tools.checks.subject import Subject

PLACES_KEPT = 10


class Severity(StrEnum):
    """How much a finding matters.

    error: training would stop, would silently leave objects out, or would learn something false;
    warning: training works, but somebody should look; note: good to know.
    """

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"


@dataclass(slots=True)
class Finding:
    """One rule that the dataset does not keep.

    Attributes:
        rule: the rule's name, such as "zero-area-box".
        severity: see Severity.
        count: how often.
        places: the first ten places, each with what was seen there.
        mend: what `--fix` does about it; empty where only a person can decide.
        why: why it matters, in a sentence or two.
    """

    rule: str
    severity: Severity
    count: int
    places: list[str]
    mend: str = ""
    why: str = ""


@dataclass
class Report:
    """The findings about one or several annotation files, worst first."""

    files: list[str]
    images: int = 0
    annotations: int = 0
    categories: int = 0
    findings: list[Finding] = field(default_factory=list)
    limits: list[str] = field(default_factory=list)  # what was not looked at, and why

    @property
    def errors(self) -> list[Finding]:
        """The findings that a training run must not start with."""
        return [finding for finding in self.findings if finding.severity is Severity.ERROR]

    def as_dict(self) -> dict[str, Any]:
        """The report in JSON's types."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Rule:
    """A named question to a dataset; `find` yields one place for every answer that is not well."""

    name: str
    severity: Severity
    why: str
    mend: str
    find: Callable[[Sequence[Subject]], Iterator[str]]

    def finding(self, subjects: Sequence[Subject]) -> Finding | None:
        """Count what the rule finds; None if that is nothing."""
        found = self.find(subjects)
        places = list(itertools.islice(found, PLACES_KEPT))
        if not places:
            return None
        count = len(places) + sum(1 for _ in found)
        return Finding(self.name, self.severity, count, places, self.mend, self.why)


RULES: list[Rule] = []


def rule(severity: Severity, mend: str = "") -> Callable:
    """Register a rule about one file: a generator of places from a Subject.

    Its name is the function's, its docstring says why it matters, `mend` what `--fix` does.
    """

    def register(find: Callable[[Subject], Iterator[str]]) -> Callable:
        def in_each(subjects: Sequence[Subject]) -> Iterator[str]:
            for subject in subjects:
                prefix = f"{subject.path.name}: " if len(subjects) > 1 else ""
                for place in find(subject):
                    yield prefix + place

        _register(find, in_each, severity, mend)
        return find

    return register


def rule_across(severity: Severity) -> Callable:
    """Register a rule about all files together: a generator of places from the list of Subjects."""

    def register(find: Callable[[Sequence[Subject]], Iterator[str]]) -> Callable:
        _register(find, find, severity, "")
        return find

    return register


def _register(named: Callable, find: Callable, severity: Severity, mend: str) -> None:
    why = " ".join(inspect.cleandoc(named.__doc__ or "").split())
    RULES.append(Rule(named.__name__.replace("_", "-"), severity, why, mend, find))
