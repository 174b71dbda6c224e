"""Train configs on the same data, one after the other, and print AP and minutes side by side.

    python benchmarks/accuracy.py configs/BCCD-TaskAligned.yaml --seeds 0 1 2
    python benchmarks/accuracy.py configs/BCCD-TaskAligned.yaml configs/BCCD-RetinaNet-R50-FPN.yaml

The blood cells (BCCD, MIT licence) are converted by
`python -m dataset_tools convert voc FOLDER -o datasets/bccd` from a copy of the dataset in FOLDER.
Each run is a process of its own (train_net.py), so that the minutes hold all that a user waits for:
start, training, evaluation and checkpoints.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from _machine import describe_machine

from dataset_tools import errors
from dataset_tools.errors import InputError

ROOT = Path(__file__).resolve().parents[1]
DEFAULT = ["configs/BCCD-TaskAligned.yaml", "configs/BCCD-RetinaNet-Lite0-FPN.yaml"]


@dataclass(frozen=True)
class Run:
    """One training: its last evaluation in percent, and its wall time."""

    metrics: dict[str, float]
    minutes: float


def main() -> int:
    args = parse()
    print(describe_machine(), flush=True)
    if args.configs == DEFAULT and not (ROOT / "datasets" / "bccd").is_dir():
        print("not measured: datasets/bccd is not there. --help says how to make it.")
        return 0
    rows = []
    for config in args.configs:
        runs = [train(config, seed, args.opts) for seed in args.seeds]
        rows.append((Path(config).stem, runs))
    print(table(rows, args.seeds))
    return 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("configs", nargs="*", default=DEFAULT, metavar="CONFIG")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--opts", nargs="+", default=[], metavar="KEY VALUE")
    return parser.parse_args()


def train(config: str, seed: int, opts: list[str]) -> Run:
    """Train `config` with `seed` in output/bench and read what it wrote.

    Raises:
        InputError: the training failed; its own message is above.
    """
    folder = ROOT / "output" / "bench" / Path(config).stem / f"seed{seed}"
    # Without gates: the minutes are those of training.
    command = [sys.executable, "train_net.py", "--config-file", config, "--overwrite"]
    command += ["--gates", "off", *opts]
    started = time.monotonic()
    done = subprocess.run([*command, "SEED", str(seed), "OUTPUT_DIR", str(folder)], cwd=ROOT)
    if done.returncode:
        raise InputError(f"{config} with seed {seed} ended with exit code {done.returncode}.")
    minutes = (time.monotonic() - started) / 60
    lines = (folder / "metrics.json").read_text().splitlines()
    last = [line for line in map(json.loads, lines) if any(k.endswith("/AP") for k in line)][-1]
    wanted = {k: v for k, v in last.items() if k.split("/")[-1] in ("AP", "AP50")}
    return Run(wanted, minutes)


def table(rows: list[tuple[str, list[Run]]], seeds: list[int]) -> str:
    """Mean and standard deviation over the seeds, a line a config."""
    lines = [f"seeds {', '.join(map(str, seeds))}; mean ± standard deviation"]
    for name, runs in rows:
        values = [f"{key} {spread([run.metrics[key] for run in runs])}" for key in runs[0].metrics]
        values.append(f"{spread([run.minutes for run in runs])} minutes")
        lines.append(f"{name}: {', '.join(values)}")
    return "\n".join(lines)


def spread(values: list[float]) -> str:
    if len(values) == 1:
        return f"{values[0]:.1f}"
    return f"{statistics.mean(values):.1f} ± {statistics.stdev(values):.1f}"


if __name__ == "__main__":
    sys.exit(errors.run(main))
