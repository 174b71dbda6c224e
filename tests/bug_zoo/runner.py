"""Runs every case of the zoo in a process of its own, remembers the results, tells the score."""

from __future__ import annotations

import hashlib
import json
import math
import multiprocessing
import os
import re
import statistics
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from dataset_tools.files import write_json
from tests.bug_zoo.marks import ROOT, unchanged, used
from tests.bug_zoo.pipeline import FAST, SLOW, ask_gates, final_loss
from tests.bug_zoo.registry import Bug, Case, bugs, healthy, module_of

CACHE = ROOT / ".cache" / "bug_zoo"
# What the gates said of each bug when they saw it first. Written once, never overwritten.
FIRST_RUN = Path(__file__).with_name("first_run.json")
TIMEOUT = 300  # s of a process; a case is meant to take less than 20 on a machine that is not busy
SEEDS = (1, 2, 3)
# The healthy runs' spread: where 95 of 100 further healthy runs would end (Student's t for 3 runs).
T_95 = 4.303


@dataclass(frozen=True)
class Watching:
    """Plain loss watching: the final loss with the bug, and where healthy runs end."""

    loss: float
    low: float
    high: float

    @property
    def notices(self) -> bool:
        return not self.low <= self.loss <= self.high  # NaN is noticed


@dataclass(frozen=True)
class Result:
    """A case and what was found.

    Attributes:
        outcome: an `Outcome` in JSON's types.
        watching: None where it was not asked for.
        first: gate and right of a bug's first run.
        stale: the outcome is from the cache, and what it depends on has changed since.
    """

    case: Case
    outcome: dict[str, Any]
    watching: Watching | None = None
    first: dict[str, Any] | None = None
    stale: bool = False

    @property
    def asked(self) -> bool:
        """Whether there is an outcome at all."""
        return bool(self.outcome["seconds"] or self.outcome["gate"] or self.outcome["error"])

    @property
    def caught(self) -> bool:
        return bool(self.outcome["gate"])

    @property
    def right(self) -> bool:
        return self.outcome["right"]

    @property
    def seconds(self) -> float:
        return sum(self.outcome["seconds"].values())


def run_cases(
    cases: Iterable[Case],
    *,
    slow: bool = False,
    watch: bool = False,
    keep: bool = False,
    known: bool = False,
) -> Iterator[Result]:
    """The result of each case as it comes, from the cache where nothing it depends on has changed.

    Args:
        slow: where no gate of FAST fails, ask those of SLOW too.
        watch: train plainly too, with and without the bug; else only what was trained is told.
        keep: take results from the cache even if the sources have changed since.
        known: run nothing; a case that the present sources have not answered is not asked.
    """
    for case in cases:
        if known and not _is_known(case, "fast"):
            first = _first_runs().get(case.name) if isinstance(case, Bug) else None
            yield Result(case, _broken(""), first=first)
            continue
        outcome = _ask(case, "fast", FAST, keep)
        if isinstance(case, Bug):
            _remember_first(case, outcome)
        unanswered = not outcome["gate"] and not outcome["error"]
        if slow and unanswered and (not known or _is_known(case, "slow")):
            outcome = _joined(outcome, _ask(case, "slow", SLOW, keep))
        planted = isinstance(case, Bug)
        yield Result(
            case,
            outcome,
            _watch(case, keep) if planted and (watch or _was_watched(case, keep)) else None,
            _first_runs().get(case.name) if planted else None,
            keep and not unchanged(_sources_of(case, "fast")),
        )


def _ask(case: Case, task: str, gates: tuple[str, ...], keep: bool) -> dict[str, Any]:
    return _remembered(case.name, task, partial(ask_gates, case, gates), case, keep)


def _joined(fast: dict[str, Any], slow: dict[str, Any]) -> dict[str, Any]:
    """One outcome of both, of which the second was asked after the first found nothing."""
    both = {key: fast[key] | slow[key] for key in ("warnings", "seconds")}
    return slow | both


# First runs


def _first_runs() -> dict[str, dict[str, Any]]:
    return json.loads(FIRST_RUN.read_text(encoding="utf-8")) if FIRST_RUN.is_file() else {}


def _remember_first(bug: Bug, outcome: dict[str, Any]) -> None:
    known = _first_runs()
    if bug.name not in known and not outcome["error"]:
        known[bug.name] = {key: outcome[key] for key in ("gate", "right")}
        write_json(FIRST_RUN, known)


# Loss watching


def _watch(bug: Bug, keep: bool) -> Watching:
    ends = [_final_loss(bug, False, seed, keep) for seed in SEEDS]
    mean = statistics.mean(ends)
    margin = T_95 * statistics.stdev(ends) * math.sqrt(1 + 1 / len(ends))
    return Watching(_final_loss(bug, True, SEEDS[0], keep), mean - margin, mean + margin)


def _was_watched(bug: Bug, keep: bool) -> bool:
    runs = [(False, seed) for seed in SEEDS] + [(True, SEEDS[0])]
    paths = [_path(_run_name(bug, planted), f"loss_{seed}") for planted, seed in runs]
    return all(path.is_file() and (keep or unchanged(_recorded(path))) for path in paths)


def _run_name(bug: Bug, planted: bool) -> str:
    """Of a training; the healthy ones are shared by the bugs of one base."""
    draw = getattr(bug.draw, "__qualname__", "")
    base = (bug.kind, sorted(bug.base.items()), draw, bug.processes, bug.area == "checkpoint")
    return bug.name if planted else "base " + hashlib.sha256(repr(base).encode()).hexdigest()[:12]


def _final_loss(bug: Bug, planted: bool, seed: int, keep: bool) -> float:
    work = partial(_trained, bug, planted, seed)
    answer = _remembered(_run_name(bug, planted), f"loss_{seed}", work, bug, keep, gates=False)
    return math.nan if answer.get("loss") is None else answer["loss"]


def _trained(bug: Bug, planted: bool, seed: int) -> dict[str, Any]:
    loss = final_loss(bug, planted, seed)
    return {"loss": loss if math.isfinite(loss) else None}


# Processes and the cache


def _remembered(
    name: str,
    task: str,
    work: Callable[[], dict[str, Any]],
    case: Case,
    keep: bool,
    gates: bool = True,
) -> dict[str, Any]:
    """The answer of `work`, from the cache if nothing that was used for it has changed.

    What broke down is not remembered.
    """
    path = _path(name, task)
    if path.is_file():
        found = json.loads(path.read_text(encoding="utf-8"))
        if keep or unchanged(found["sources"]):
            return found["answer"]
    answer, sources = _in_process(work, partial(used, module_of(case), gates))
    if sources:
        CACHE.mkdir(parents=True, exist_ok=True)
        write_json(path, {"sources": sources, "answer": answer})
    return answer


def _path(name: str, task: str) -> Path:
    return CACHE / f"{re.sub(r'[^a-z0-9]+', '_', name.lower())}.{task}.json"


def _sources_of(case: Case, task: str) -> dict[str, str]:
    return _recorded(_path(case.name, task))


def _recorded(path: Path) -> dict[str, str]:
    return json.loads(path.read_text(encoding="utf-8"))["sources"]


def _in_process(
    work: Callable[[], dict[str, Any]], sources: Callable[[], dict[str, str]]
) -> tuple[dict[str, Any], dict[str, str]]:
    """What `work` and then `sources` give in a forked process: no case touches the next or imports
    all anew. Without sources if it broke down."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_send, args=(work, sources, sender))
    process.start()
    sender.close()
    try:
        if not receiver.poll(TIMEOUT):
            return _broken(f"took more than {TIMEOUT} s"), {}
        return receiver.recv()
    except EOFError:
        return _broken("its process died"), {}
    finally:
        process.kill()
        process.join()


def _send(
    work: Callable[[], dict[str, Any]], sources: Callable[[], dict[str, str]], sender: Any
) -> None:
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
    torch.set_num_threads(1)
    answer = work()
    sender.send((answer, sources()))


def _broken(error: str) -> dict[str, Any]:
    empty = {"gate": "", "cause": "", "right": False, "measured": "", "warnings": {}, "seconds": {}}
    return {**empty, "error": error, "loss": None}


def _is_known(case: Case, task: str) -> bool:
    """Whether there is an answer, and nothing that was used for it has changed."""
    path = _path(case.name, task)
    return path.is_file() and unchanged(_recorded(path))


def all_cases() -> list[Case]:
    """Every bug, then every healthy pipeline."""
    return [*bugs().values(), *healthy().values()]
