"""What a round of a federation costs beside the same algorithm as a plain loop.

    python benchmarks/federation.py
    python benchmarks/federation.py --without-engine

Three sources and a target train by KD3A on drawn images (the light CNN, 32×32), and all are
evaluated after each round. The loop calls the parties itself. Around the same parties come Flower's
messages, the strategy, its checkpoint, its history and TensorBoard, in one process ("messages"),
and then its simulation engine with one process for the parties ("engine"). All reach the same
weights, which is checked. Processor seconds of this process, and seconds by the clock; medians of
the rounds after the first.
"""

from __future__ import annotations

import argparse
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from _machine import describe_machine

from dataset_tools import errors
from dataset_tools.table import text_table
from seriatim.testing.labelled import make_labelled

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "projects" / "KD3A"))
import kd3a  # noqa: F401 (registers the project's keys, meta-architecture and backbones)
from detectron2.config import CfgNode
from kd3a.app import build_strategy, initial_weights, open_party
from kd3a.averaging import average
from kd3a.command import history, open_config
from kd3a.config import rounds
from kd3a.federation import CHECKPOINT, run_rounds
from kd3a.focus import domain_weights
from kd3a.local import InProcessGrid, server_identity
from kd3a.messages import Work

ROOT = Path(__file__).resolve().parents[1]
SOURCES, TARGET = ("a", "b", "c"), "t"
IMAGES = 1000  # of a party


@dataclass
class Clock:
    """Processor seconds and seconds by the clock of each round."""

    processor: list[float]
    clock: list[float]

    def median(self) -> tuple[float, float]:
        return statistics.median(self.processor[1:]), statistics.median(self.clock[1:])


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--steps", type=int, default=16, help="of a party in a round, batch 32")
    parser.add_argument("--without-engine", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(describe_machine(), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        config = write_config(Path(folder), args.rounds, args.steps)
        logging.disable(logging.WARNING)
        expected, loop = plain_loop(open_config(config, ["OUTPUT_DIR", f"{folder}/loop"]))
        found, messages = with_messages(open_config(config, ["OUTPUT_DIR", f"{folder}/messages"]))
        check_same(expected, found)
        base = loop.median()
        rows = [row("plain loop", loop.median(), base), row("messages", messages.median(), base)]
        if not args.without_engine:
            found, seconds = with_engine(config, Path(folder) / "engine")
            check_same(expected, found)
            rows.append(
                ("engine, a process at a time", "–", f"{seconds:.2f}", f"{seconds / base[1]:.2f}")
            )
    print(text_table(("round", "processor s", "clock s", "× the loop"), rows))
    return 0


def row(name: str, found: tuple[float, float], base: tuple[float, float]) -> tuple[str, ...]:
    return name, f"{found[0]:.3f}", f"{found[1]:.3f}", f"{found[0] / base[0]:.3f}"


def write_config(folder: Path, number: int, steps: int) -> Path:
    """Data of all parties and a config of `number` rounds."""
    datasets = []
    for seed, name in enumerate((*SOURCES, TARGET)):
        images, labels = make_labelled(IMAGES, size=32, channels=1, seed=seed)
        np.savez(folder / f"{name}.npz", images=images, labels=labels)
        shares = "{train: 0.8, test: 0.2}"
        datasets += [
            f"    - {{NAME: {name}_{split}, LABELS: {folder / name}.npz, SPLIT: {split},"
            f" FRACTIONS: {shares}}}"
            for split in ("train", "test")
        ]
    path = folder / "config.yaml"
    path.write_text(
        f"_BASE_: {ROOT}/projects/KD3A/configs/Base-KD3A.yaml\n"
        "MODEL: {DEVICE: cpu}\n"
        "SOLVER: {IMS_PER_BATCH: 32}\n"
        "SERIATIM:\n  DATASETS:\n" + "\n".join(datasets) + "\n"
        f"KD3A: {{PARTIES: [a, b, c, t], TARGET: t, EPOCHS: {number}, VOTE_PICTURES: 0,"
        f" EPOCH_IMAGES: {32 * steps}, GATE: '(0.5, 0.6)'}}\n"
    )
    return path


def plain_loop(cfg: CfgNode) -> tuple[dict[str, torch.Tensor], Clock]:
    """KD3A without messages: the parties' own functions, one after the other."""
    parties = {name: open_party(cfg, name) for name in (*SOURCES, TARGET)}
    state, shares, clock = initial_weights(cfg).to_torch_state_dict(), None, Clock([], [])
    begin, end = cfg.KD3A.GATE
    for number in range(1, rounds(cfg) + 1):
        start = time.process_time(), time.perf_counter()
        models = {name: parties[name].train(Work(number, state, {}, {}))[0] for name in SOURCES}
        gate = begin + (end - begin) * (number - 1) / rounds(cfg)
        student, scalars, voted = parties[TARGET].distil(
            Work(number, state, {"gate": gate}, models)
        )
        focus = torch.tensor(scalars["focus"], dtype=torch.float64)
        previous = None if shares is None else shares / shares.sum()
        shares = domain_weights(focus, scalars["coverage"], previous)
        state = average([student, *({**models[n], **voted[n]} for n in SOURCES)], shares)
        for party in parties.values():
            party.evaluate(Work(number, state, {}, {}))
        clock.processor.append(time.process_time() - start[0])
        clock.clock.append(time.perf_counter() - start[1])
    return state, clock


def with_messages(cfg: CfgNode) -> tuple[dict[str, torch.Tensor], Clock]:
    """Flower's messages and the strategy in this process."""
    parties = [open_party(cfg, name) for name in (*SOURCES, TARGET)]
    strategy, clock = build_strategy(cfg), Clock([], [])
    Path(cfg.OUTPUT_DIR).mkdir(parents=True, exist_ok=True)
    with server_identity():
        grid = InProcessGrid(parties)
        initial = initial_weights(cfg)
        for number in range(
            1, rounds(cfg) + 1
        ):  # each goes on from the checkpoint of the one before
            start = time.process_time(), time.perf_counter()
            result = run_rounds(strategy, strategy, grid, initial, number)
            clock.processor.append(time.process_time() - start[0])
            clock.clock.append(time.perf_counter() - start[1])
    return result.arrays.to_torch_state_dict(), clock


def with_engine(config: Path, output: Path) -> tuple[dict[str, torch.Tensor], float]:
    """Flower's simulation engine with one process at a time, in a process of its own."""
    command = [sys.executable, str(ROOT / "projects/KD3A/train_net.py"), "--config-file"]
    command += [str(config), "--processes", "1", "OUTPUT_DIR", str(output)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    subprocess.run(command, check=True, capture_output=True, env=environment)
    seconds = [line["seconds"] for line in history(output)]
    state = torch.load(output / CHECKPOINT, weights_only=True)["weights"]
    return state, statistics.median(seconds[1:])


def check_same(expected: dict[str, torch.Tensor], found: dict[str, torch.Tensor]) -> None:
    different = [name for name in expected if not torch.equal(expected[name], found[name])]
    if different:
        raise AssertionError(f"The weights differ in {different}")


if __name__ == "__main__":
    sys.exit(errors.run(main))
