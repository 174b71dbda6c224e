"""What a gate says of a pipeline."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any


class Status(StrEnum):
    """fail stops the run; warn deserves a look; skip: the question does not apply here."""

    PASS = "pass"
    WARN = "warn"
    FAIL = "fail"
    SKIP = "skip"


@dataclass(frozen=True)
class Cause:
    """A likely cause of what was measured: what it is, and where to look (key, file, line)."""

    what: str
    where: str = ""

    def __str__(self) -> str:
        return f"{self.what} ({self.where})" if self.where else self.what


@dataclass
class Finding:
    """One thing that was measured and is not as it should be.

    Attributes:
        measured: the number and what it is of, in words.
        expected: what a healthy pipeline gives.
        causes: the likeliest first.
        fails: whether training must not start with it; else it is a warning.
        pictures: paths relative to the gate's folder.
    """

    measured: str
    expected: str
    causes: list[Cause]
    fails: bool = True
    pictures: list[str] = field(default_factory=list)


@dataclass
class Verdict:
    """The answer of one gate.

    Attributes:
        gate: its name; question: what it asks.
        status: see Status.
        summary: one line for the terminal.
        findings: what is wrong, the gravest first; empty if all is well.
        numbers: everything measured, by name, in JSON's types.
        evidence: files in the gate's folder, relative to it.
        seconds: what it took.
        cached: it was not run, because nothing that it depends on has changed since.
    """

    gate: str
    question: str
    status: Status
    summary: str
    findings: list[Finding] = field(default_factory=list)
    numbers: dict[str, Any] = field(default_factory=dict)
    evidence: list[str] = field(default_factory=list)
    seconds: float = 0.0
    cached: bool = False

    def as_dict(self) -> dict[str, Any]:
        """In JSON's types; numbers that JSON has not (an AP of nothing is NaN) as texts."""
        return asdict(self) | {"numbers": _writable(self.numbers)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Verdict:
        """What `as_dict` gave."""
        findings = [
            Finding(**{**finding, "causes": [Cause(**cause) for cause in finding["causes"]]})
            for finding in values["findings"]
        ]
        return cls(**{**values, "status": Status(values["status"]), "findings": findings})

    def paragraph(self, folder: str) -> str:
        """What was asked, measured and expected, what to suspect, and where the pictures are."""
        parts = [f"Gate {self.gate} ({self.question})"]
        for finding in self.findings:
            causes = "; ".join(f"{i}. {cause}" for i, cause in enumerate(finding.causes, start=1))
            parts.append(
                f"Measured: {finding.measured} Expected: {finding.expected}"
                f" The likeliest causes: {causes}."
            )
            parts += [f"Picture: {folder}/{picture}." for picture in finding.pictures]
        return " ".join(parts)


def _writable(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _writable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_writable(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def conclude(findings: list[Finding], healthy: str) -> tuple[Status, str]:
    """Status and one-line summary that follow from the findings; `healthy` is for none."""
    grave = [finding for finding in findings if finding.fails]
    if grave:
        return Status.FAIL, grave[0].measured
    if findings:
        return Status.WARN, findings[0].measured
    return Status.PASS, healthy
