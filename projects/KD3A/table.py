#!/usr/bin/env python
"""The tables of README.md: four domains of digits, each in turn the one without labels.

A run that is done is kept as a JSON and not done again: stop and start as you like. The digits are
in datasets/digits of the working directory (prepare_digits.py).
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import kd3a  # noqa: F401 (registers the project's keys, meta-architecture and backbones)
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from kd3a.app import initial_weights, simulate_here
from kd3a.command import history, open_config
from kd3a.messages import SOURCE, Work
from kd3a.party import PartyTrainer, TrainerParty
from kd3a.results import (
    DOMAINS,
    METHODS,
    Results,
    Run,
    load_run,
    main_table,
    plot_shares,
    rows_table,
)
from torch import Tensor, nn

from dataset_tools.errors import run
from dataset_tools.files import write_text
from dataset_tools.table import insert

HERE = Path(__file__).resolve().parent
CONFIG = HERE / "configs" / "Digits.yaml"
SEEDS = (0, 1, 2)
DEFAULT = "kd3a-code"
FEDERATED = {
    "fedavg": ["KD3A.STRATEGY", "fedavg"],
    "fedprox": ["KD3A.STRATEGY", "fedprox"],
    "kd3a-code": ["KD3A.VARIANT", "code"],
    "kd3a-paper": ["KD3A.VARIANT", "paper"],
}
ROUNDS = ("0.2", "0.5", "1", "2")
ROUNDS_TARGET = "usps"
ATTACKED, ATTACK_TARGET, LEVELS = "mnist", "usps", ("0.3", "0.5")


@dataclass(frozen=True)
class Job:
    """A run that the tables need; `opts` change Digits.yaml."""

    row: str
    target: str
    opts: tuple[str, ...] = ()


def jobs() -> Iterator[Job]:
    """In the order of what is wanted first."""
    yield Job("singles", "")
    for target in DOMAINS:
        yield Job("combined", target)
        for row, opts in FEDERATED.items():
            yield Job(row, target, tuple(opts))
    for level in LEVELS:
        attack = ("KD3A.ATTACK_DOMAIN", ATTACKED, "KD3A.ATTACK_LEVEL", level)
        for row in ("fedavg", DEFAULT):
            yield Job(f"{row}-attack-{level}", ATTACK_TARGET, (*FEDERATED[row], *attack))
    for rounds in ROUNDS:
        if rounds != "1":
            opts = (*FEDERATED[DEFAULT], "KD3A.ROUNDS_PER_EPOCH", rounds)
            yield Job(f"{DEFAULT}-rounds-{rounds}", ROUNDS_TARGET, opts)


def train(job: Job, seed: int, output: Path) -> Run:
    """Do a job in a folder of its own, which is removed: its result is what is kept."""
    folder = output / f"{job.row}-{job.target}-seed{seed}"
    shutil.rmtree(folder, ignore_errors=True)
    start = time.process_time()
    if job.row == "singles":
        found = Run(job.row, job.target, seed, train_singles(seed, folder))
    elif job.row == "combined":
        found = Run(job.row, job.target, seed, train_combined(job.target, seed, folder))
    else:
        found = train_federation(job, seed, folder)
    shutil.rmtree(folder, ignore_errors=True)
    return replace(found, seconds=round(time.process_time() - start, 1))


def train_federation(job: Job, seed: int, folder: Path) -> Run:
    simulate_here(load([*job.opts, "KD3A.TARGET", job.target], seed, folder))
    lines = history(folder)
    metrics = lines[-1]["metrics"]
    return Run(
        job.row,
        job.target,
        seed,
        {domain: round(metrics[f"{domain}/top1"], 3) for domain in DOMAINS},
        [{name: round(share, 4) for name, share in line["shares"].items()} for line in lines],
        [round(line["parties"].get(job.target, {}).get("coverage", 0.0), 4) for line in lines],
    )


def train_singles(seed: int, folder: Path) -> dict[str, float]:
    """A model of each domain alone, on all domains; "average": the mean of the sources' logits."""
    logits = {}
    for domain in DOMAINS:
        cfg, model = train_alone([domain], seed, folder / domain)
        logits |= {(domain, other): logits_on(cfg, model, other) for other in DOMAINS}
    for target in DOMAINS:
        sources = [logits[name, target] for name in DOMAINS if name != target]
        logits["average", target] = torch.stack(sources).mean(0)
    return {f"{a}>{b}": percent_right(found, b) for (a, b), found in logits.items()}


def train_combined(target: str, seed: int, folder: Path) -> dict[str, float]:
    """A model of all sources' images at one place."""
    cfg, model = train_alone([name for name in DOMAINS if name != target], seed, folder)
    return {target: percent_right(logits_on(cfg, model, target), target)}


def train_alone(domains: Sequence[str], seed: int, folder: Path) -> tuple[CfgNode, nn.Module]:
    """A model trained on all images of `domains`, with as many steps as their parties take together
    in a federation: one party in one long round."""
    cfg = load(["KD3A.STRATEGY", "fedavg"], seed, folder)
    cfg.defrost()
    cfg.DATASETS.TRAIN = tuple(f"{name}_train" for name in domains)
    cfg.KD3A.EPOCH_IMAGES *= cfg.KD3A.EPOCHS * len(domains)
    cfg.KD3A.EPOCHS, cfg.KD3A.ROUNDS_PER_EPOCH = 1, 1.0
    folder.mkdir(parents=True, exist_ok=True)
    party = TrainerParty("+".join(domains), SOURCE, cfg)
    start = initial_weights(cfg).to_torch_state_dict()
    weights, _ = party.train(Work(1, start, {}, {}))
    model = PartyTrainer.build_model(cfg)
    model.load_state_dict(weights)
    return cfg, model.eval()


def logits_on(cfg: CfgNode, model: nn.Module, domain: str) -> Tensor:
    """(N, C) of a domain's test images."""
    loader = PartyTrainer.build_test_loader(cfg, f"{domain}_test")
    with torch.no_grad():
        return torch.stack([out["logits"] for batch in loader for out in model(batch)])


def percent_right(logits: Tensor, domain: str) -> float:
    labels = DatasetCatalog.get(f"{domain}_test").labels
    return round(100 * (logits.argmax(1) == labels).double().mean().item(), 3)


def load(opts: Sequence[str], seed: int, folder: Path) -> CfgNode:
    """Digits.yaml with changes, for all domains, evaluated at the end."""
    fixed = ["SEED", str(seed), "OUTPUT_DIR", str(folder), "MODEL.DEVICE", "cpu"]
    seldom = ["KD3A.EVALUATE_EVERY", "1000000", "KD3A.VOTE_PICTURES", "0"]
    return open_config(CONFIG, [*fixed, *seldom, *opts])


def text(results: Results) -> str:
    """All tables in Markdown."""
    by_rounds = {
        "KD3A, `code`": [DEFAULT if r == "1" else f"{DEFAULT}-rounds-{r}" for r in ROUNDS],
    }
    attacked = {
        METHODS[row]: [row, *(f"{row}-attack-{level}" for level in LEVELS)]
        for row in ("fedavg", DEFAULT)
    }
    wrong = " | ".join(map(attack_title, LEVELS))
    return "\n\n".join(
        [
            main_table(results, DEFAULT),
            rows_table(
                results, ROUNDS_TARGET, f"| rounds in an epoch | {' | '.join(ROUNDS)} |", by_rounds
            ),
            rows_table(results, ATTACK_TARGET, f"| labels | right | {wrong} |", attacked),
        ]
    )


def attack_title(level: str) -> str:
    return f"{100 * float(level):.0f} % of {ATTACKED} wrong"


def parse() -> argparse.Namespace:
    rows = list(dict.fromkeys(job.row for job in jobs()))
    parser = argparse.ArgumentParser(prog="table.py", description=__doc__.partition("\n")[0])
    add = parser.add_argument
    add("--rows", nargs="+", choices=rows, default=rows, metavar="ROW", help=", ".join(rows))
    add("--targets", nargs="+", choices=DOMAINS, default=DOMAINS, metavar="DOMAIN")
    add("--seeds", nargs="+", type=int, default=SEEDS, metavar="N")
    add("--results", type=Path, default=HERE / "results", metavar="DIR")
    add("--output", type=Path, default=Path("output/kd3a-table"), metavar="DIR")
    add("--print", action="store_true", help="print the tables, train nothing")
    add("--readme", action="store_true", help="write them into README.md, and the plot beside it")
    return parser.parse_args()


def main() -> int:
    args = parse()
    for seed in () if args.print else args.seeds:
        for job in jobs():
            wanted = job.row in args.rows and (not job.target or job.target in args.targets)
            if wanted and load_run(args.results, job.row, job.target, seed) is None:
                done = train(job, seed, args.output)
                done.save(args.results)
                print(job.row, job.target, seed, dict(done.top1), f"{done.seconds} s", flush=True)
    results = Results(args.results, args.seeds)
    tables = text(results)
    print(tables)
    if args.readme:
        page = HERE / "README.md"
        write_text(page, insert(page.read_text(encoding="utf-8"), tables))
        titles = {attack_title(level): f"{DEFAULT}-attack-{level}" for level in LEVELS}
        panels = {"all labels right": DEFAULT, **titles}
        if all(results.runs(row, ATTACK_TARGET) for row in panels.values()):
            plot_shares(results, ATTACK_TARGET, panels, HERE / "docs" / "attack.png")
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
