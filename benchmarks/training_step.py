"""A step of training a detector: Detectron2's trainer, ours, and the bare network.

    python benchmarks/training_step.py
    python benchmarks/training_step.py --config-file FILE --rounds 8

All train the same network from the same weights on the same batches, by turns:

- detectron2: its SimpleTrainer with its optimizer, as DefaultTrainer puts them together
- bare:       forwards and backwards only, in our memory format: no optimizer, no records
- ours:       the whole trainer: clipping, optimizer, moving average, schedule, records, watching;
              all hooks but those that save and evaluate
- with data:  the same, and each batch is decoded and augmented in this process

Each turn is measured in processor seconds of this process, so that other programs matter little.
--compile also says what torch.compile would gain a step of the bare network, and what it costs.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from types import SimpleNamespace
from typing import Any

import torch
from _machine import describe_machine
from detectron2.engine import SimpleTrainer
from detectron2.solver import build_optimizer
from detectron2.utils.events import EventStorage

from dataset_tools import errors
from seriatim.data.loader import build_train_loader
from seriatim.engine.setup import setup
from seriatim.engine.trainer import Trainer
from seriatim.hardware import native_bf16

WANTED, MOST = 1.8, 1.25  # times Detectron2's speed; times the bare network's time
BATCHES = 2
Step = Callable[[], None]


def main() -> int:
    args = parse()
    bf16 = "native" if native_bf16("cpu") else "emulated, not used"
    print(f"{describe_machine()}, {torch.get_num_threads()} threads, bfloat16 {bf16}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        opts = [*args.opts, "OUTPUT_DIR", folder, "DATALOADER.NUM_WORKERS", "0"]
        cfg = setup(SimpleNamespace(config_file=args.config_file, opts=opts, resume=False))
        batches = list(itertools.islice(build_train_loader(cfg), BATCHES))
        ways = {
            "detectron2": detectron2(cfg, batches),
            "bare": bare(cfg, batches),
            "ours": ours(cfg, batches),
            "with data": ours(cfg, None),
        }
        if args.compile:
            ways["compiled"] = bare(cfg, batches, compiled=True)
        speeds = compare(ways, args.rounds)
    share = speeds["bare"] / speeds["with data"]
    print(f"a step with its data takes {share:.2f} × the time of the bare network")
    return 0 if speeds["ours"] >= WANTED and share <= MOST else 1


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", default="configs/BCCD-TaskAligned.yaml", metavar="FILE")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE")
    return parser.parse_args()


def compare(ways: dict[str, Step], rounds: int) -> dict[str, float]:
    """Print the seconds of each way and its speed by Detectron2's, which is returned."""
    for name, step in ways.items():
        start = time.process_time()
        step()  # allocations and the choice of kernels
        if name == "compiled":
            print(f"compiling took {time.process_time() - start:.0f} s", flush=True)
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, step in ways.items():
            start = time.process_time()
            step()
            seconds[name].append(time.process_time() - start)
    speeds = {}
    for name in ways:
        pairs = zip(seconds["detectron2"], seconds[name], strict=True)
        speeds[name] = statistics.median(a / b for a, b in pairs)
        middle = statistics.median(seconds[name])
        print(f"{name:<11} {middle:6.3f} s a step, {speeds[name]:4.2f} × detectron2", flush=True)
    return speeds


def detectron2(cfg: Any, batches: list[list[dict]]) -> Step:
    model = Trainer.build_model(cfg).train()
    cfg = cfg.clone()
    cfg.defrost()
    cfg.SOLVER.CLIP_GRADIENTS.ENABLED = False  # it does not clip the norm over all gradients
    trainer = SimpleTrainer(model, Endless(batches), build_optimizer(cfg, model))
    storage = EventStorage()

    def step() -> None:
        with storage:
            trainer.iter = storage.iter
            trainer.run_step()
            storage.step()

    return step


def bare(cfg: Any, batches: list[list[dict]], compiled: bool = False) -> Step:
    model = Trainer.build_model(cfg).train().to(memory_format=Trainer.memory_format(cfg))
    if compiled:
        model.backbone.compile(dynamic=False)
        model.head.compile(dynamic=False)
    following = itertools.cycle(batches)
    storage = EventStorage()

    def step() -> None:
        model.zero_grad()
        with storage:
            sum(model(next(following)).values()).backward()

    return step


def ours(cfg: Any, batches: list[list[dict]] | None) -> Step:
    """The trainer on `batches`, or on those that it makes itself."""

    class OnBatches(Trainer):
        @classmethod
        def build_train_loader(cls, cfg: Any, start_iteration: int = 0) -> Iterable:
            return Endless(batches)

    trainer = (Trainer if batches is None else OnBatches)(cfg)
    left_out = ("Checkpoint", "Interrupt", "Evaluation", "BestCheckpoint", "Pictures", "Progress")
    trainer._hooks = [h for h in trainer._hooks if type(h).__name__ not in left_out]
    trainer.iter = 0
    trainer.storage = EventStorage()
    with trainer.storage:
        trainer.before_train()

    def step() -> None:
        with trainer.storage:
            trainer.before_step()
            trainer.run_step()
            trainer.after_step()
        trainer.iter += 1

    return step


class Endless:
    """The batches again and again; each is another list, as of a loader."""

    def __init__(self, batches: list[list[dict]]) -> None:
        self._batches = batches

    def __iter__(self) -> Iterator[list[dict]]:
        for batch in itertools.cycle(self._batches):
            yield [dict(item) for item in batch]


if __name__ == "__main__":
    sys.exit(errors.run(main))
