"""Runs every case of the zoo in a process of its own, remembers the results, tells the score."""

from __future__ import annotations

import hashlib
import importlib
import json
import math
import multiprocessing
import os
import re
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from dataset_tools.files import write_json
from tests.bug_zoo.pipeline import ask_gates, final_loss
from tests.bug_zoo.registry import Bug, Case, bugs, healthy, module_of

ROOT = Path(__file__).parents[2]
CACHE = ROOT / ".cache" / "bug_zoo"
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
    """A case and what was found; `watching` is None where it was not asked for."""

    case: Case
    outcome: dict[str, Any]
    watching: Watching | None = None

    @property
    def caught(self) -> bool:
        return bool(self.outcome["gate"])

    @property
    def seconds(self) -> float:
        return sum(self.outcome["seconds"].values())


def run_cases(
    cases: Iterable[Case], gates: Sequence[str], *, watch: bool = False, keep: bool = False
) -> Iterable[Result]:
    """The result of each case as it comes, from the cache where nothing it depends on has changed.

    Args:
        gates: names, asked in order until one fails.
        watch: train plainly too, with and without the bug.
        keep: take results from the cache even if the sources have changed since.
    """
    for case in cases:
        outcome = _remembered(
            case.name,
            f"{len(gates)}_gates",
            partial(ask_gates, case, gates),
            fingerprint(case),
            keep,
        )
        watching = _watch(case, keep) if watch and isinstance(case, Bug) else None
        yield Result(case, outcome, watching)


def _watch(bug: Bug, keep: bool) -> Watching:
    ends = [_final_loss(bug, False, seed, keep) for seed in SEEDS]
    mean = statistics.mean(ends)
    margin = T_95 * statistics.stdev(ends) * math.sqrt(1 + 1 / len(ends))
    return Watching(_final_loss(bug, True, SEEDS[0], keep), mean - margin, mean + margin)


def _final_loss(bug: Bug, planted: bool, seed: int, keep: bool) -> float:
    """Remembered; the healthy trainings are shared by the bugs of one base."""
    base = (bug.kind, sorted(bug.base.items()), getattr(bug.draw, "__qualname__", ""))
    name = bug.name if planted else "base " + hashlib.sha256(repr(base).encode()).hexdigest()[:12]
    mark = fingerprint(bug) if planted else ""
    answer = _remembered(name, f"loss_{seed}", partial(_trained, bug, planted, seed), mark, keep)
    return math.nan if answer.get("loss") is None else answer["loss"]


def _trained(bug: Bug, planted: bool, seed: int) -> dict[str, Any]:
    loss = final_loss(bug, planted, seed)
    return {"loss": loss if math.isfinite(loss) else None}


def _remembered(
    name: str, task: str, work: Callable[[], dict[str, Any]], mark: str, keep: bool
) -> dict[str, Any]:
    """The answer of `work`, from the cache if it was given under the same `mark`."""
    path = CACHE / f"{re.sub(r'[^a-z0-9]+', '_', name.lower())}.{task}.json"
    if path.is_file():
        found = json.loads(path.read_text(encoding="utf-8"))
        if keep or found["mark"] == mark:
            return found["answer"]
    answer = _in_process(work)
    CACHE.mkdir(parents=True, exist_ok=True)
    write_json(path, {"mark": mark, "answer": answer})
    return answer


def _in_process(work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What `work` gives in a forked process: no case touches the next or imports all anew."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_send, args=(work, sender))
    process.start()
    sender.close()
    try:
        if not receiver.poll(TIMEOUT):
            return _broken(f"took more than {TIMEOUT} s")
        return receiver.recv()
    except EOFError:
        return _broken("its process died")
    finally:
        process.kill()
        process.join()


def _send(work: Callable[[], dict[str, Any]], sender: Any) -> None:
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
    torch.set_num_threads(1)
    sender.send(work())


def _broken(error: str) -> dict[str, Any]:
    empty = {"gate": "", "cause": "", "right": False, "measured": "", "warnings": {}, "seconds": {}}
    return {**empty, "error": error, "loss": None}


def fingerprint(case: Case) -> str:
    """Of all sources that the result of a case depends on."""
    files = sorted((ROOT / "seriatim").rglob("*.py"))
    files += [Path(__file__).with_name("pipeline.py"), Path(__file__).with_name("registry.py")]
    module = importlib.import_module(f"tests.bug_zoo.{module_of(case)}")
    files.append(Path(module.__file__))
    mark = hashlib.sha256(case.name.encode())
    for file in files:
        mark.update(file.read_bytes())
    return mark.hexdigest()[:16]


def all_cases() -> list[Case]:
    """Every bug, then every healthy pipeline."""
    return [*bugs().values(), *healthy().values()]
