"""What a gate is: one question to a pipeline, one file, one class."""

from __future__ import annotations

import traceback
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

from dataset_tools.errors import InputError, users_place
from seriatim.gates.verdict import Cause, Finding, Status, Verdict, conclude

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
        packages: prefixes of the modules on whose source it depends. The user's own modules, which
            are those outside of site-packages, always count, unless this is empty.
    """

    name: ClassVar[str]
    question: ClassVar[str]
    fast: ClassVar[bool] = True
    stops: ClassVar[bool] = True
    packages: ClassVar[tuple[str, ...]] = ("seriatim", "dataset_tools")

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
        except (InputError, KeyboardInterrupt):
            raise
        except Exception as error:
            # A gate that breaks has shown nothing about the pipeline: that is told, and no more.
            (folder / "traceback.txt").write_text(traceback.format_exc(), encoding="utf-8")
            self.evidence.append("traceback.txt")
            self.findings.append(_broken(error))
            status, summary = conclude(self.findings, "")
        return Verdict(
            self.name, self.question, status, summary, self.findings, self.numbers, self.evidence
        )


def _broken(error: Exception) -> Finding:
    place = users_place(error)
    what = f"{type(error).__name__}: {error}".rstrip(": ")
    yours = Cause("your own code raises this, as it would in training; traceback.txt", place or "")
    ours = Cause("a fault of the gate: please report it with traceback.txt")
    theirs = Cause("the pipeline raises this where training would, too", "traceback.txt")
    return Finding(
        f"{place} raised {what}" if place else f"the gate itself broke: {what}",
        "an answer.",
        [yours if place else theirs, ours],
        fails=False,
    )
