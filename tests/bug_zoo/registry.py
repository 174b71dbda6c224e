"""The cases of the zoo: silent bugs planted into healthy pipelines, and healthy ones as they stand.

A bug is one small patch: other values in the config, a subclass of the trainer, an edit of the
dataset's files, or a change of the catalog. Modules of bugs hold a list BUGS, healthy.py a list
HEALTHY.
"""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

BUG_MODULES = (
    "bugs_data",
    "bugs_inputs",
    "bugs_evaluation",
    "bugs_model",
    "bugs_training",
    "bugs_classifier",
    "held_out_data",
    "held_out_model",
    "held_out_training",
    "held_out_distributed",
    "held_out_classifier",
)
# Thresholds may be set on the first group. The second is held out by a hash of the name; gates were
# mended after misses in it had been seen, and so the third was written, before any gate saw it.
TUNING, HELD_OUT, NEW = GROUPS = "tuning", "held out", "held out, new"


@dataclass(frozen=True)
class Bug:
    """A silent bug: the pipeline runs, its loss falls, and what it learns is worse or wrong.

    Attributes:
        name: unique; in words, as the table shows it.
        area: data, mapping, augmentation, model, loss, optimizer, schedule, evaluation, checkpoint
            or distributed.
        what: what it is, in a sentence.
        gates: those that ought to see it.
        causes: one of these words must be in the first or second cause of a finding.
        kind: of the pipeline, a key of tests.seriatim.gates.pipelines.KINDS, or CLASSIFIER.
        base: config of the healthy pipeline, keys with __ for a dot.
        draw: draws the dataset into the folders train and val of a folder; None: simple shapes.
        changes: the bug as config, keys with __ for a dot.
        trainer: the bug as a trainer class.
        files: the bug as an edit of the drawn dataset in the given folder.
        catalog: the bug as a change of the catalogs, after the datasets were registered; it
            gets the config.
        processes: that the training is meant to have.
        seen: public threads in which it was seen, as owner/project#number.
    """

    name: str
    area: str
    what: str
    gates: tuple[str, ...]
    causes: tuple[str, ...]
    kind: str = "retinanet"
    base: Mapping[str, Any] = field(default_factory=dict)
    draw: Callable[[Path], None] | None = None
    changes: Mapping[str, Any] = field(default_factory=dict)
    trainer: type | None = None
    files: Callable[[Path], None] | None = None
    catalog: Callable[[Any], None] | None = None
    processes: int = 1
    seen: tuple[str, ...] = ()

    @property
    def group(self) -> str:
        """One of GROUPS."""
        if module_of(self).startswith("held_out"):
            return NEW
        return TUNING if hashlib.sha256(self.name.encode()).digest()[0] % 2 else HELD_OUT


@dataclass(frozen=True)
class Healthy:
    """A pipeline that is right, however unusual: no gate may fail. Attributes as of `Bug`."""

    name: str
    what: str
    kind: str = "retinanet"
    base: Mapping[str, Any] = field(default_factory=dict)
    draw: Callable[[Path], None] | None = None
    trainer: type | None = None
    processes: int = 1


Case = Bug | Healthy


@cache
def bugs() -> dict[str, Bug]:
    """All bugs by name, module by module."""
    found: dict[str, Bug] = {}
    for module in BUG_MODULES:
        if importlib.util.find_spec(f"tests.bug_zoo.{module}") is None:
            continue
        for bug in importlib.import_module(f"tests.bug_zoo.{module}").BUGS:
            assert bug.name not in found, f"two bugs are called {bug.name}"
            found[bug.name] = bug
    return found


@cache
def healthy() -> dict[str, Healthy]:
    """All healthy pipelines by name."""
    from tests.bug_zoo.healthy import HEALTHY

    return {case.name: case for case in HEALTHY}


def module_of(case: Case) -> str:
    """Name of the module, within the zoo, that a case is written in."""
    if isinstance(case, Healthy):
        return "healthy"
    for module in BUG_MODULES:
        spec = importlib.util.find_spec(f"tests.bug_zoo.{module}")
        if spec and case in importlib.import_module(f"tests.bug_zoo.{module}").BUGS:
            return module
    raise KeyError(case.name)
