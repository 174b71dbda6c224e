"""The command line of a federation on one machine."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode

from dataset_tools.errors import InputError
from dataset_tools.table import text_table
from kd3a.app import all_datasets, check_config, simulate, simulate_here
from kd3a.federation import CHECKPOINT, HISTORY
from seriatim.config import load_config
from seriatim.engine.setup import setup

EPILOG = """\
examples:
  train_net.py --config-file projects/KD3A/configs/Digits.yaml KD3A.TARGET usps
  train_net.py --config-file … KD3A.STRATEGY fedavg OUTPUT_DIR output/fedavg
  train_net.py --config-file … --resume          (after Ctrl-C: bit for bit as if nothing had been)
"""


def main() -> int:
    """Run or go on with a federation; print what it reached."""
    args = _parse()
    cfg = open_config(args.config_file, args.opts)
    folder = Path(cfg.OUTPUT_DIR)
    if (folder / CHECKPOINT).exists() and not args.resume:
        raise InputError(
            f"{folder} holds a federation. Go on with it by --resume, or give another OUTPUT_DIR."
        )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(cfg.dump(), encoding="utf-8")
    if args.in_process:
        simulate_here(cfg)
    else:
        simulate(cfg, args.processes)
    print(summary(folder))
    return 0


def open_config(file: str | Path, opts: Sequence[str]) -> CfgNode:
    """The frozen config of a federation whose parties' data are all here."""
    plan = load_config(str(file), list(opts))
    check_config(plan)
    datasets = all_datasets(plan.KD3A.PARTIES)
    return setup(argparse.Namespace(config_file=str(file), opts=[*opts, *datasets]))


def history(folder: Path) -> list[dict[str, Any]]:
    """The rounds of the federation in `folder`."""
    lines = (folder / HISTORY).read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def summary(folder: Path) -> str:
    """The last round of the federation in `folder` as a table."""
    last = history(folder)[-1]
    metrics: dict[str, dict[str, float]] = {}
    for key, value in last["metrics"].items():
        party, _, name = key.partition("/")
        metrics.setdefault(party, {})[name] = value
    rows = [
        (party, f"{last['shares'].get(party, 0):.3f}", f"{found.get('top1', float('nan')):.2f}")
        for party, found in sorted(metrics.items())
    ]
    table = text_table(("party", "share", "top-1 %"), rows)
    return f"after round {last['round']}:\n{table}\nall rounds: {folder / HISTORY}"


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="train_net.py",
        description="Train a federation of parties, simulated on this machine by Flower.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--config-file", required=True, metavar="FILE", help="with the group KD3A")
    add("--resume", action="store_true", help="go on where OUTPUT_DIR was left")
    add(
        "--processes",
        type=int,
        default=len(os.sched_getaffinity(0)),
        help="parties that work at the same time (default: %(default)s)",
    )
    add(
        "--in-process",
        action="store_true",
        help="without Flower's engine: parties one after the other in this process, with the same"
        " result; quicker where models are small",
    )
    add("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="overrides of the config")
    return parser.parse_args()
