"""One case of the zoo, built and asked: what runs in a process of its own."""

from __future__ import annotations

import logging
import math
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from detectron2.utils.events import EventWriter, get_event_storage

from dataset_tools.errors import InputError
from seriatim.engine.train_step import NonFiniteError
from seriatim.gates.context import Context
from seriatim.gates.runner import make_gate
from seriatim.gates.verdict import Finding, Status, Verdict
from seriatim.testing.shapes import make_shapes
from tests.bug_zoo.registry import Bug, Case
from tests.seriatim.gates.pipelines import pipeline

FAST = ("data", "oracle", "inputs", "init", "independence", "gradients", "repeat")
SLOW = ("blind", "overfit1", "overfit10")
BROKEN = "traceback.txt"  # among a verdict's evidence
STEPS, LAST = 40, 10  # of plain training, and over how many of them the final loss is the mean


@dataclass
class Outcome:
    """What the gates said of a case.

    Attributes:
        gate: that failed first; "" if none did.
        cause: of its findings' first two causes one with a word of the bug, else the first.
        right: whether that cause is the planted one.
        measured: what the gate measured, in its words.
        warnings: gate → what it warned of.
        seconds: of each gate that was asked.
        error: the pipeline or a gate raised this instead of answering.
    """

    gate: str = ""
    cause: str = ""
    right: bool = False
    measured: str = ""
    warnings: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    error: str = ""


def draw_plain(folder: Path, size: tuple[int, int] = (64, 64), train: int = 32, val: int = 8):
    """Shapes on `size` (height, width) px: enough images to ask whether labels belong to them."""
    make_shapes(folder / "train", train, 1, size=size)
    make_shapes(folder / "val", val, 2, size=size)


def build(case: Case, folder: Path, planted: bool = True) -> Context:
    """The pipeline of a case in `folder`; not `planted`: without its bug."""
    (case.draw or draw_plain)(folder)
    bug = case if isinstance(case, Bug) and planted else None
    if bug and bug.files:
        bug.files(folder)
    changes = {**case.base, **(bug.changes if bug else {})}
    trainer = case.trainer if planted or not isinstance(case, Bug) else None
    context = pipeline(folder, case.kind, trainer, **changes)
    context.processes = case.processes
    if bug and bug.catalog:
        bug.catalog(context.cfg)
    return context


def ask_gates(case: Case, gates: Sequence[str]) -> dict[str, Any]:
    """The gates in order until one fails, as an `Outcome` in JSON's types."""
    outcome = Outcome()
    with tempfile.TemporaryDirectory(prefix="zoo_") as name, _quiet():
        folder = Path(name) / "zoo"  # the datasets are called after it
        folder.mkdir()
        try:
            context = build(case, folder)
            for gate in gates:
                verdict = _ask(gate, context, folder / f"gate_{gate}")
                outcome.seconds[gate] = round(verdict.seconds, 2)
                if BROKEN in verdict.evidence:  # the case is, or the gate: no answer
                    outcome.error = verdict.summary
                    break
                if verdict.status is Status.WARN:
                    outcome.warnings[gate] = verdict.summary
                if verdict.status is Status.FAIL:
                    _judge(outcome, case, verdict)
                    break
        except InputError as error:  # refused in words: not silent any more
            outcome.gate, outcome.measured, outcome.cause = "refused", str(error), str(error)
            outcome.right = isinstance(case, Bug) and _names(case, str(error))
        except Exception as error:
            outcome.error = f"{type(error).__name__}: {error}"
    return asdict(outcome)


def _ask(gate: str, context: Context, folder: Path) -> Verdict:
    folder.mkdir()
    started = time.perf_counter()
    verdict = make_gate(gate).run(context, folder)
    verdict.seconds = time.perf_counter() - started
    return verdict


def _judge(outcome: Outcome, case: Case, verdict: Verdict) -> None:
    findings: list[Finding] = [finding for finding in verdict.findings if finding.fails]
    causes = [str(cause) for finding in findings for cause in finding.causes[:2]]
    right = [cause for cause in causes if isinstance(case, Bug) and _names(case, cause)]
    outcome.gate, outcome.measured = verdict.gate, verdict.summary
    outcome.right, outcome.cause = bool(right), (right or causes or [""])[0]


def _names(bug: Bug, cause: str) -> bool:
    return any(word.lower() in cause.lower() for word in bug.causes)


def final_loss(case: Case, planted: bool, seed: int) -> float:
    """The mean total loss of the last steps of a short training; NaN if it broke down.

    A training whose bug is one of checkpoints is broken off in the middle and resumed.
    """
    losses = Losses()
    with tempfile.TemporaryDirectory(prefix="zoo_") as name, _quiet():
        folder = Path(name) / "zoo"
        folder.mkdir()
        context = build(case, folder, planted)
        cfg = context.variant(
            "SEED", seed, "SOLVER.MAX_ITER", STEPS, "SERIATIM.HOOKS.LOG_PERIOD", 1,
            "SOLVER.CHECKPOINT_PERIOD", 10 * STEPS, "TEST.EVAL_PERIOD", 0, "DATASETS.TEST", (),
        )  # fmt: skip
        torch.manual_seed(seed)

        class Watched(context.trainer_class):
            def build_writers(self):
                return [losses]

        breaks = [STEPS // 2, STEPS] if getattr(case, "area", "") == "checkpoint" else [STEPS]
        try:
            for number, end in enumerate(breaks):
                trainer = Watched(cfg)
                trainer.resume_or_load(resume=number > 0)
                trainer.max_iter = end
                trainer.train()
        except NonFiniteError:
            return math.nan
    return sum(losses.values[-LAST:]) / LAST


class Losses(EventWriter):
    """Keeps the total loss of every step, as a person who watches it would see it."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def write(self) -> None:
        self.values.append(get_event_storage().latest()["total_loss"][0])


@contextmanager
def _quiet() -> Iterator[None]:
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
