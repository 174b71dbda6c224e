"""What a gate is: one question to a pipeline, one file, one class."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

from seriatim.gates.verdict import Finding, Status, Verdict, conclude

if TYPE_CHECKING:
    from pathlib import Path

    from seriatim.gates.context import Context


class Skip(Exception):
    """The question does not apply to this pipeline; the message says why."""


class Gate(ABC):
    """One question. A subclass gives the class attributes and `examine`.

    Attributes:
        name: of the gate, its folder and its file.
        question: in one sentence.
        fast: whether it is one of `--gates fast`.
        stops: whether its failure makes the later gates pointless (they would repeat it).
        keys: prefixes of the config keys on which the verdict depends.
        packages: prefixes of the modules on whose source it depends. The user's own modules, which
            are those outside of site-packages, always count, unless this is empty.
        needs_data: whether it depends on annotations and images.
    """

    name: ClassVar[str]
    question: ClassVar[str]
    fast: ClassVar[bool] = True
    stops: ClassVar[bool] = True
    keys: ClassVar[tuple[str, ...]] = ("",)
    packages: ClassVar[tuple[str, ...]] = ("seriatim", "dataset_tools")
    needs_data: ClassVar[bool] = True

    def __init__(self) -> None:
        self.findings: list[Finding] = []
        self.numbers: dict[str, Any] = {}
        self.evidence: list[str] = []

    @abstractmethod
    def examine(self, context: Context, folder: Path) -> str:
        """Measure: add to `findings`, `numbers` and `evidence` (files written into `folder`).

        Returns:
            The one line that is said if there are no findings.

        Raises:
            Skip: the question does not apply.
        """

    def run(self, context: Context, folder: Path) -> Verdict:
        """The verdict on the pipeline of `context`; nothing that it tests is changed."""
        try:
            with context.untouched():
                healthy = self.examine(context, folder)
            self.findings.sort(key=lambda finding: not finding.fails)
            status, summary = conclude(self.findings, healthy)
        except Skip as reason:
            status, summary = Status.SKIP, str(reason)
        return Verdict(
            self.name, self.question, status, summary, self.findings, self.numbers, self.evidence
        )
