"""Same seed, same numbers? And does a resumed run equal an unbroken one?"""

from __future__ import annotations

import math
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from detectron2.engine import HookBase
from torch import nn

from seriatim.engine.state import plain_numbers, preserve_rng, seed_everything
from seriatim.engine.trainer import Trainer
from seriatim.gates import processes
from seriatim.gates.base import Gate
from seriatim.gates.context import Context
from seriatim.gates.verdict import Cause, Finding

STEPS, BROKEN_AFTER = 4, 2
BATCH = 2
SHORT_EDGE = 160  # px of the training inputs: bits are the same or not at any size
EVALUATED = 3  # images; enough for an order that changes, or for statistics that move


class RepeatGate(Gate):
    name = "repeat"
    question = "same seed, same numbers?"
    fast = False
    packages = ("seriatim",)

    def examine(self, context: Context, folder: Path) -> str:
        with tempfile.TemporaryDirectory(dir=context.scratch) as scratch, preserve_rng():
            cfg = _short(context, f"{scratch}/straight")
            straight, again = (train(context, cfg, STEPS) for _ in range(2))
            self.numbers["losses"] = straight.losses
            self._compare_runs(straight, again)
            self._check_schedule(straight.trainer)
            if not self.findings:
                self._compare_resumed(context, _short(context, f"{scratch}/broken"), straight)
            self._check_evaluation(context, straight.trainer)
            if context.processes > 1 and not self.findings:
                self.findings += processes.findings(context)
        return (
            f"{STEPS} steps twice, and resumed after {BROKEN_AFTER}, are the same to the last bit;"
            " so is the evaluation"
        )

    def _say(self, measured: str, expected: str, causes: list[Cause]) -> None:
        self.findings.append(Finding(measured, expected, causes))

    # Two runs

    def _compare_runs(self, one: Run, two: Run) -> None:
        step = one.first_difference(two)
        weights = _different(
            one.trainer.bare_model.state_dict(), two.trainer.bare_model.state_dict()
        )
        if step is None and not weights:
            return
        step = STEPS - 1 if step is None else step
        self._say(
            f"two runs from the same seed part at step {step + 1}: loss {one.losses[step]!r} and"
            f" {two.losses[step]!r}.",
            f"the same bits in all of {STEPS} steps.",
            _causes_of_other_data(one, two, step)
            or [
                Cause("the model draws from a generator that is not seeded, or from the clock"),
                Cause(
                    "an algorithm that is not deterministic", "SERIATIM.SOLVER.DETERMINISTIC True"
                ),
                Cause("a global or class attribute outlives the run"),
            ],
        )

    def _check_schedule(self, trainer: Trainer) -> None:
        """Detectron2's schedules count steps of the optimizer."""
        taken = getattr(trainer.scheduler, "last_epoch", STEPS)
        if taken == STEPS:
            return
        self._say(
            f"after {STEPS} steps the schedule of the learning rate stands at {taken}.",
            f"{STEPS}: it counts iterations.",
            [
                Cause("the schedule is stepped more than once an iteration", "build_hooks")
                if taken > STEPS
                else Cause("the schedule is not stepped in every iteration", "build_hooks"),
                Cause("its steps are taken for epochs"),
            ],
        )

    # Broken and resumed

    def _compare_resumed(self, context: Context, cfg: CfgNode, straight: Run) -> None:
        broken = train(context, cfg, BROKEN_AFTER)
        with preserve_rng():
            seed_everything(context.SEED + 1)  # a new process is seeded as it comes
            resumed = context.trainer_class(cfg)
            resumed.resume_or_load(resume=True)
            lost = _lost_parts(broken.trainer, resumed)
            run = _watched(resumed)
            resumed.max_iter = STEPS
            resumed.train()
        if lost:
            self._say(
                f"a resumed run does not start as the broken one ended: another"
                f" {lost[0].what.partition(' is ')[0]}.",
                "the same state, to the last bit.",
                lost,
            )
            return
        rest = Run(straight.trainer, straight.losses[BROKEN_AFTER:], straight.data[BROKEN_AFTER:])
        step = rest.first_difference(run)
        weights = _different(
            straight.trainer.bare_model.state_dict(), resumed.bare_model.state_dict()
        )
        if step is None and not weights:
            return
        step = 0 if step is None else step
        self._say(
            f"a run resumed after {BROKEN_AFTER} steps gives the loss {run.losses[step]!r} at step"
            f" {BROKEN_AFTER + step + 1}, the unbroken one {rest.losses[step]!r}.",
            "the same bits.",
            _causes_of_other_data(rest, run, step)
            or [
                Cause("the random generators are not saved and restored"),
                Cause("a module keeps state in attributes that no checkpoint has"),
                Cause("a hook changes the model on its own count of steps"),
            ],
        )

    # Evaluation

    def _check_evaluation(self, context: Context, trainer: Trainer) -> None:
        names = context.cfg.DATASETS.TEST
        if not names:
            return
        records = DatasetCatalog.get(names[0])[:EVALUATED]
        dataset = context.dataset_of(records, names[0], "repeat")
        cfg = context.variant("DATASETS.TEST", (dataset,), "DATALOADER.NUM_WORKERS", 0)
        model = trainer.bare_model.train()
        modes = {name: module.training for name, module in model.named_modules()}
        weights = {name: t.clone() for name, t in model.state_dict().items()}
        first, second = (_flat(trainer.test(cfg, model)) for _ in range(2))
        stuck = [name for name, m in model.named_modules() if m.training != modes[name]]
        if stuck:
            self._say(
                f"{stuck[0] or 'the model'} is in another mode after the evaluation than before.",
                "training mode comes back.",
                [
                    Cause("model.eval() without going back to train()", "the evaluation"),
                    Cause("a module that overrides train()", stuck[-1]),
                ],
            )
        moved = _different(weights, model.state_dict())
        if moved:
            self._say(
                f"{moved[0]} is another after the evaluation than before.",
                "an evaluation changes nothing.",
                [
                    Cause("the model is evaluated in training mode: BatchNorm's statistics move")
                    if "running" in moved[0] or "num_batches" in moved[0]
                    else Cause("the model writes to its buffers in evaluation mode"),
                    Cause("weights are swapped for the evaluation and not swapped back"),
                ],
            )
        other = [key for key in first if not _equal(first[key], second.get(key))]
        if other:
            self._say(
                f"{other[0]} is {first[other[0]]!r}, and {second.get(other[0])!r} in a second"
                " evaluation of the same weights.",
                "the same number.",
                [
                    Cause(
                        "test-time randomness: dropout, augmentation or sampling in evaluation mode"
                    ),
                    Cause("the evaluator keeps what it saw before: reset() does not empty it"),
                ],
            )


@dataclass
class Run:
    """Attributes:
    losses: total loss of each step.
    data: of each batch the files, and a checksum of pixels and boxes.
    """

    trainer: Trainer
    losses: list[float] = field(default_factory=list)
    data: list[tuple[tuple[str, ...], float]] = field(default_factory=list)

    def first_difference(self, other: Run) -> int | None:
        """The first step whose loss differs."""
        pairs = enumerate(zip(self.losses, other.losses, strict=True))
        return next((step for step, (a, b) in pairs if not _equal(a, b)), None)


def train(context: Context, cfg: CfgNode, steps: int) -> Run:
    """What train_net.py would do, for so many steps."""
    seed_everything(context.SEED)
    trainer = context.trainer_class(cfg)
    trainer.resume_or_load(resume=False)
    run = _watched(trainer)
    trainer.max_iter = steps
    trainer.train()
    return run


def _watched(trainer: Trainer) -> Run:
    run = Run(trainer)

    class Losses(HookBase):
        def after_step(self) -> None:
            run.losses.append(trainer.storage.latest()["total_loss"][0])

    def look(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        if module.training and inputs:
            names = tuple(str(image.get("file_name", "")) for image in inputs[0])
            run.data.append((names, sum(_checksum(image) for image in inputs[0])))

    trainer.bare_model.register_forward_pre_hook(look)
    trainer.register_hooks([Losses()])
    return run


def _checksum(image: dict[str, Any]) -> float:
    pixels = image["image"].double().flatten()
    return float(pixels @ torch.cos(torch.arange(len(pixels), dtype=torch.float64)))


def _short(context: Context, folder: str) -> CfgNode:
    """The config without what takes time and has no part in training."""
    cfg = context.variant("DATASETS.TEST", (), "SOLVER.IMS_PER_BATCH", BATCH)
    cfg.defrost()
    cfg.OUTPUT_DIR = folder
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.TEST.PRECISE_BN.ENABLED = False
    cfg.SOLVER.CHECKPOINT_PERIOD = 0
    cfg.SERIATIM.HOOKS.LOG_PERIOD = 10**6
    cfg.INPUT.MIN_SIZE_TRAIN = tuple(min(edge, SHORT_EDGE) for edge in cfg.INPUT.MIN_SIZE_TRAIN)
    smaller = min(1.0, SHORT_EDGE / min(cfg.SERIATIM.AUG.SIZE))
    cfg.SERIATIM.AUG.SIZE = [round(edge * smaller / 32) * 32 for edge in cfg.SERIATIM.AUG.SIZE]
    cfg.freeze()
    return cfg


def _causes_of_other_data(one: Run, two: Run, step: int) -> list[Cause]:
    """If the runs saw other data up to that step."""
    for (files, pixels), (other_files, other_pixels) in zip(one.data, two.data, strict=False):
        if files != other_files:
            return [
                Cause("the sampler takes other images: its position or seed is lost"),
                Cause("the order of files comes from a set or from the file system"),
            ]
        if pixels != other_pixels:
            return [
                Cause("augmentations draw from a generator that is not seeded"),
                Cause("the seed of a sample depends on the worker or the process"),
            ]
    return []


def _lost_parts(broken: Trainer, resumed: Trainer) -> list[Cause]:
    """What the resumed trainer does not have as the broken one left it."""
    found = []
    if resumed.start_iter != broken.iter:
        found.append(Cause(f"iteration is {resumed.start_iter} instead of {broken.iter}"))
    if _different(broken.bare_model.state_dict(), resumed.bare_model.state_dict()):
        found.append(Cause("model is not saved or loaded as a whole"))
    if _different(_flat(broken.optimizer.state_dict()), _flat(resumed.optimizer.state_dict())):
        found.append(Cause("optimizer state is not saved or not loaded: momentum starts at 0"))
    if broken.scheduler.state_dict()["last_epoch"] != resumed.scheduler.state_dict()["last_epoch"]:
        found.append(Cause("scheduler state is not saved or not loaded: warm-up starts again"))
    if broken.average is not None and resumed.average is not None:
        pair = (_flat(t.average.state_dict()) for t in (broken, resumed))
        if _different(*pair):
            found.append(Cause("moving average is not saved or not loaded"))
    numbers = (dict(plain_numbers(t.bare_model)) for t in (broken, resumed))
    if _different(*numbers):
        found.append(Cause("plain number of a module is not saved, such as a loss normaliser"))
    return found


def _flat(values: Any, prefix: str = "") -> dict[str, Any]:
    """Nested dicts and lists as one dict of dotted names."""
    if not isinstance(values, dict | list | tuple):
        return {prefix: values}
    items = values.items() if isinstance(values, dict) else enumerate(values)
    found: dict[str, Any] = {}
    for key, value in items:
        found |= _flat(value, f"{prefix}.{key}" if prefix else str(key))
    return found


def _different(one: dict[str, Any], two: dict[str, Any]) -> list[str]:
    """Names of what is not the same in both."""
    names = dict.fromkeys((*one, *two))
    return [n for n in names if n not in one or n not in two or not _equal(one[n], two[n])]


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return torch.equal(a.cpu(), b.cpu())
    both_nan = isinstance(a, float) and isinstance(b, float) and math.isnan(a) and math.isnan(b)
    return both_nan or a == b
