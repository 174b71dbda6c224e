"""Runs the gates in their order, remembers verdicts, stops where going on would be pointless."""

from __future__ import annotations

import importlib
import json
import logging
import shutil
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from detectron2.config import CfgNode

from dataset_tools.errors import GateFailed, InputError
from dataset_tools.files import write_json
from seriatim.gates.base import Gate
from seriatim.gates.context import Context
from seriatim.gates.fingerprint import fingerprint, sources, unchanged, values
from seriatim.gates.places import locate
from seriatim.gates.quiet import quiet
from seriatim.gates.verdict import Status, Verdict

logger = logging.getLogger(__name__)

# In this order they run: each proves what the next takes for granted. Name → module.Class.
ORDER: dict[str, str] = {
    "data": "data.DataGate",
    "oracle": "oracle.OracleGate",
    "inputs": "inputs.InputsGate",
    "init": "init.InitGate",
    "independence": "independence.IndependenceGate",
    "gradients": "gradients.GradientsGate",
    "repeat": "repeat.RepeatGate",
    "blind": "blind.BlindGate",
    "overfit1": "overfit.Overfit1Gate",
    "overfit10": "overfit.Overfit10Gate",
    "lr": "lr.LearningRateGate",
}


def make_gate(name: str) -> Gate:
    """The gate called `name`. Its module is imported now: some are heavy."""
    module, _, class_name = ORDER[name].rpartition(".")
    return getattr(importlib.import_module(f"seriatim.gates.{module}"), class_name)()


def choose(names: str | Sequence[str]) -> list[str]:
    """Gates by "all", "fast", "off", or their names (a list, or with commas between), in order.

    Raises:
        InputError: there is no gate of a name.
    """
    if names == "off":
        return []
    if names == "all":
        return list(ORDER)
    if names == "fast":
        return [name for name in ORDER if make_gate(name).fast]
    wanted = names.split(",") if isinstance(names, str) else list(names)
    unknown = [name for name in wanted if name not in ORDER]
    if unknown:
        raise InputError(
            f"There is no gate {unknown[0]!r}. Give all, fast, off, or some of {', '.join(ORDER)}"
            " with commas between."
        )
    return [name for name in ORDER if name in wanted]


def run(
    cfg: CfgNode,
    only: str | Sequence[str] = "fast",
    *,
    trainer_class: type | None = None,
    processes: int = 1,
    fresh: bool = False,
    listener: Listener | None = None,
) -> list[Verdict]:
    """Ask the gates of `only`, in their order, and give their verdicts.

    Evidence goes to OUTPUT_DIR/gates/NAME, the verdicts to OUTPUT_DIR/gates/gates.json and
    index.html. After a failure the gates that would only repeat it are skipped.

    Args:
        cfg: resolved and frozen, as `seriatim.engine.setup.setup` gives it.
        only: "all", "fast", "off" or names.
        trainer_class: makes the parts; default `seriatim.engine.trainer.Trainer`.
        processes: that will train together; with more than one, gate repeat asks whether two give
            what one gives.
        fresh: ask again even where nothing has changed since the last verdict.
        listener: is told when a gate starts and ends.

    Raises:
        InputError: there is no gate of a name.
    """
    from seriatim.gates.report import write_report

    context = Context(cfg, trainer_class, processes)
    root = Path(cfg.OUTPUT_DIR) / "gates"
    mark = fingerprint(cfg, context.trainer_class) + (" together" if processes > 1 else "")
    memory = Memory(root / "gates.json", cfg, mark)
    verdicts: list[Verdict] = []
    for name in choose(only):
        gate = make_gate(name)
        if listener:
            listener.started(gate)
        verdict = _ask(gate, context, root, memory, fresh, _stopper(verdicts))
        verdicts.append(verdict)
        memory.write()
        if listener:
            listener.ended(verdict)
    if verdicts:
        shown = {v.gate: v for v in (*memory.verdicts(), *verdicts)}
        write_report(root, [shown[name] for name in ORDER if name in shown], cfg)
    return verdicts


class Listener:
    """What wants to follow the gates while they run."""

    def started(self, gate: Gate) -> None:
        """A gate begins."""

    def ended(self, verdict: Verdict) -> None:
        """A gate has answered."""


class Memory:
    """The verdicts of gates.json, each with what it depends on.

    Args:
        path: of gates.json.
        cfg: the present config; mark: the present `fingerprint`.
    """

    def __init__(self, path: Path, cfg: CfgNode, mark: str) -> None:
        self._path, self._cfg, self._mark = path, cfg, mark
        self._entries: dict[str, dict] = {}
        if path.is_file():
            try:
                self._entries = json.loads(path.read_text(encoding="utf-8"))
            except json.JSONDecodeError:
                logger.warning(f"{path} is not whole: all gates are asked anew")

    def recall(self, name: str) -> Verdict | None:
        """The verdict of a gate, if nothing that it depends on has changed and its evidence is
        still there. One that failed is none."""
        entry = self._entries.get(name)
        if entry is None or entry["fingerprint"] != self._mark:
            return None
        if entry["config"] != values(self._cfg, entry["config"]) or not unchanged(entry["sources"]):
            return None
        verdict = Verdict.from_dict(entry["verdict"])
        folder = self._path.parent / name
        if verdict.status is Status.FAIL or not all(
            (folder / f).exists() for f in verdict.evidence
        ):
            return None
        verdict.cached = True
        return verdict

    def keep(self, verdict: Verdict, keys: Iterable[str], used: dict[str, str]) -> None:
        """Remember a verdict with the config's `keys` that were read for it and the `sources` that
        were `used`."""
        self._entries[verdict.gate] = {
            "fingerprint": self._mark,
            "config": values(self._cfg, keys),
            "sources": used,
            "verdict": verdict.as_dict(),
        }

    def verdicts(self) -> list[Verdict]:
        """All that are remembered, in the gates' order."""
        return [
            Verdict.from_dict(self._entries[name]["verdict"])
            for name in ORDER
            if name in self._entries
        ]

    def write(self) -> None:
        write_json(self._path, self._entries)


def require(verdicts: Sequence[Verdict], folder: Path) -> None:
    """Nothing if no gate failed.

    Raises:
        GateFailed: the first that did, as a paragraph that one can act upon.
    """
    failed = next((verdict for verdict in verdicts if verdict.status is Status.FAIL), None)
    if failed is not None:
        others = sum(verdict.status is Status.FAIL for verdict in verdicts) - 1
        more = f" {others} more failed: see {folder}/index.html." if others else ""
        raise GateFailed(
            f"{failed.paragraph(str(folder / failed.gate))}{more}"
            f" All evidence: {folder}/index.html. To train nevertheless: --gates off."
        )


def _ask(
    gate: Gate, context: Context, root: Path, memory: Memory, fresh: bool, stopper: Verdict | None
) -> Verdict:
    if stopper is not None:
        reason = f"not asked: {stopper.gate} failed, and what it found would show here again"
        return Verdict(gate.name, gate.question, Status.SKIP, reason)
    known = None if fresh else memory.recall(gate.name)
    if known is not None:
        return known
    folder = root / gate.name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    started = time.perf_counter()
    with context.reads.collecting() as keys, quiet():
        verdict = gate.run(context, folder)
        locate(verdict.findings, context)
    verdict.seconds = time.perf_counter() - started
    memory.keep(verdict, keys, sources(gate))
    return verdict


def _stopper(verdicts: Sequence[Verdict]) -> Verdict | None:
    """The failed gate after which the others are pointless."""
    return next((v for v in verdicts if v.status is Status.FAIL and make_gate(v.gate).stops), None)
