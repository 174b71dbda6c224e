#!/usr/bin/env python
"""A detector over parties beside the same detector on all their images.

    compare_detection.py fedavg | fedprox | central [KEY VALUE ...]
    compare_detection.py table

The central run takes as many images as the parties do together, by the same optimizer and
schedule, in batches of SOLVER.IMS_PER_BATCH. The federation runs in one process, which gives the
weights of Flower's simulation engine bit for bit. Both are evaluated on all validation images.
First deal the images out to the parties, by a hash of their names:

    python -m dataset_tools split datasets/bccd/train.json -o datasets/bccd-parties/train \\
        --split a=0.34,b=0.33,c=0.33
    python -m dataset_tools split datasets/bccd/val.json -o datasets/bccd-parties/val \\
        --split a=0.34,b=0.33,c=0.33
"""

import argparse
import json
import sys
import time
from pathlib import Path

import torch
from detectron2.config import CfgNode
from kd3a.app import simulate_here
from kd3a.config import rounds, steps
from kd3a.federation import CHECKPOINT
from kd3a.party import PartyTrainer

from dataset_tools.errors import InputError, run
from dataset_tools.files import write_json
from dataset_tools.table import text_table
from seriatim.engine.setup import setup

CONFIG = Path(__file__).parent / "configs" / "BCCD-Detection.yaml"
RESULTS = Path(__file__).parent / "results" / "detection"
RUNS = ("central", "fedavg", "fedprox")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", choices=(*RUNS, "table"))
    parser.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE")
    args = parser.parse_args()
    if args.run == "table":
        print(table())
        return 0
    cfg = resolved(args.run, args.opts)
    start = time.process_time()
    weights = central(cfg) if args.run == "central" else federated(cfg)
    seconds = time.process_time() - start
    found = evaluate(cfg, weights)
    passes = len(cfg.KD3A.PARTIES) * rounds(cfg) * steps(cfg, target=False)
    record = {
        "run": args.run,
        "images": passes * cfg.SOLVER.IMS_PER_BATCH,
        "rounds": rounds(cfg),
        "batch": cfg.SOLVER.IMS_PER_BATCH,
        "seconds": round(seconds),
        **{name: round(found[name], 2) for name in ("AP", "AP50", "AP75")},
    }
    key = f"batch{cfg.SOLVER.IMS_PER_BATCH}-rounds{rounds(cfg)}-seed{cfg.SEED}"
    write_json(RESULTS / f"{args.run}-{key}.json", record)
    print(record)
    return 0


def resolved(name: str, opts: list[str]) -> CfgNode:
    parties = ("a", "b", "c")
    strategy = "fedavg" if name == "central" else name
    sets = [str(tuple(f"{party}_{split}" for party in parties)) for split in ("train", "test")]
    own = ["DATASETS.TRAIN", sets[0], "DATASETS.TEST", sets[1], "KD3A.STRATEGY", strategy]
    cfg = setup(argparse.Namespace(config_file=str(CONFIG), opts=[*own, *opts])).clone()
    cfg.defrost()
    cfg.OUTPUT_DIR = str(Path(cfg.OUTPUT_DIR) / name)
    return cfg


def federated(cfg: CfgNode) -> dict[str, torch.Tensor]:
    simulate_here(cfg)
    return torch.load(Path(cfg.OUTPUT_DIR) / CHECKPOINT, weights_only=True)["weights"]


def central(cfg: CfgNode) -> dict[str, torch.Tensor]:
    own = cfg.clone()
    own.SOLVER.MAX_ITER = len(cfg.KD3A.PARTIES) * rounds(cfg) * steps(cfg, target=False)
    own.SOLVER.CHECKPOINT_PERIOD, own.DATASETS.TEST = 0, ()
    Path(own.OUTPUT_DIR).mkdir(parents=True, exist_ok=True)
    trainer = PartyTrainer(own)
    trainer.train()
    return trainer.bare_model.state_dict()


def evaluate(cfg: CfgNode, weights: dict[str, torch.Tensor]) -> dict[str, float]:
    """On all validation images as one dataset: the mean of the parties' AP would be another one."""
    own = cfg.clone()
    own.DATASETS.TEST = ("bccd_val",)
    model = PartyTrainer.build_model(own)
    model.load_state_dict(weights)
    return PartyTrainer.test(own, model)["bbox"]


def table() -> str:
    records = [json.loads(path.read_text("utf-8")) for path in sorted(RESULTS.glob("*.json"))]
    if not records:
        raise InputError(f"There is no result in {RESULTS}: run {', '.join(RUNS)} first.")
    keys = ("run", "images", "batch", "rounds", "AP", "AP50", "AP75")
    return text_table(keys, [[str(record[key]) for key in keys] for record in records])


if __name__ == "__main__":
    sys.exit(run(main))
