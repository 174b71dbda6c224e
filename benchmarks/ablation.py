"""What each part of TaskAlignedDetector is worth: variants trained for the same processor time.

    python benchmarks/ablation.py                               # all that is missing, 3 seeds
    python benchmarks/ablation.py --rows atss simota --seeds 0  # some of it
    python benchmarks/ablation.py --docs                        # the table into docs/detector.md

Each variant changes a few keys of the config, and gets as many steps as --seconds of processor time
allow at its own pace, measured before it starts; so what makes a step dearer has to earn that. The
warm-up and the average of the weights follow the number of steps. Every result is a file of its own
in --results, and is not measured again. Variants are compared on a list of images that is not the
config's own validation list, so that nothing is chosen by the numbers that are reported elsewhere.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from _machine import describe_machine

from dataset_tools import errors
from dataset_tools.errors import InputError
from dataset_tools.files import write_json, write_text

ROOT = Path(__file__).resolve().parents[1]
PAGE, BEGIN, END = ROOT / "docs" / "detector.md", "<!-- ablation -->\n", "<!-- /ablation -->"
TIMED_STEPS = 3
DETECTOR = "MODEL.TASK_ALIGNED"
# Variant → the keys that it changes.
ROWS: dict[str, dict[str, Any]] = {
    "as it is": {},
    "atss": {f"{DETECTOR}.ASSIGNER": "atss"},
    "simota": {f"{DETECTOR}.ASSIGNER": "simota"},
    "bce": {f"{DETECTOR}.CLS_FOCUS": 0.0},
    "focus 1": {f"{DETECTOR}.CLS_FOCUS": 1.0},
    "diou": {f"{DETECTOR}.BOX_LOSS": "diou"},
    "ciou": {f"{DETECTOR}.BOX_LOSS": "ciou"},
    "fpn": {"MODEL.BACKBONE.NAME": "build_timm_fpn_backbone"},
    "256 × 352": {
        "SERIATIM.AUG.SIZE": (256, 352),
        "INPUT.MIN_SIZE_TEST": 256,
        "INPUT.MAX_SIZE_TEST": 342,
    },
    "384 × 512": {
        "SERIATIM.AUG.SIZE": (384, 512),
        "INPUT.MIN_SIZE_TEST": 384,
        "INPUT.MAX_SIZE_TEST": 512,
    },
    "no average": {"SERIATIM.SOLVER.EMA_DECAY": 0.0},
    "no jitter": {"SERIATIM.AUG.SCALE": (1.0, 1.0)},
    "jitter 0.5–1.5": {"SERIATIM.AUG.SCALE": (0.5, 1.5)},
    "mosaic 0.5": {"SERIATIM.AUG.MOSAIC": 0.5},
    "backbone's rate × 0.3": {"SERIATIM.SOLVER.BACKBONE_MULTIPLIER": 0.3},
    "nothing frozen": {"MODEL.TIMM.FREEZE_AT": 0},
    "frozen to stride 8": {"MODEL.TIMM.FREEZE_AT": 3},
    "frozen BatchNorm": {"MODEL.TIMM.NORM": "FrozenBN"},
    "batch 4": {"SOLVER.IMS_PER_BATCH": 4},
    "batch 8": {"SOLVER.IMS_PER_BATCH": 8},
    "rate 0.0005": {"SOLVER.BASE_LR": 0.0005},
    "rate 0.002": {"SOLVER.BASE_LR": 0.002},
}


def main() -> int:
    args = parse()
    if args.measure:
        measure(args)
        return 0
    if not args.list.is_file():
        raise InputError(f"{args.list} is not there: configs/data/bccd.yaml says how to make it.")
    print(describe_machine(), flush=True)
    for seed in args.seeds:  # all rows once, before any gets its second seed
        for row in args.rows:
            if not result_file(args, row, seed).is_file():
                run(args, row, seed)
    table = format_table(args)
    print(table)
    if args.docs:
        replace_table(PAGE, f"{description(args)}\n\n{table}\n")
    return 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--config", default="configs/BCCD-TaskAligned.yaml", metavar="FILE")
    add("--list", type=Path, default=ROOT / "datasets" / "bccd" / "test.json", metavar="JSON",
        help="the images that variants are compared on")  # fmt: skip
    add("--rows", nargs="+", default=list(ROWS), choices=list(ROWS), metavar="ROW",
        help=f"of: {', '.join(ROWS)}")  # fmt: skip
    add("--seeds", type=int, nargs="+", default=[0, 1, 2])
    add("--seconds", type=float, default=240.0, help="of processor time to train (default: 240)")
    add("--results", type=Path, default=ROOT / "output" / "ablation", metavar="FOLDER")
    add("--docs", action="store_true", help="write the table into docs/detector.md")
    add("--measure", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def result_file(args: argparse.Namespace, row: str, seed: int) -> Path:
    return args.results / f"{args.seconds:g}s" / f"{row}, seed {seed}.json"


def run(args: argparse.Namespace, row: str, seed: int) -> None:
    """One training, in a process of its own."""
    words = [f"--{key}={getattr(args, key)}" for key in ("config", "list", "seconds", "results")]
    words += ["--rows", row, "--seeds", str(seed), "--measure"]
    done = subprocess.run([sys.executable, __file__, *words], cwd=ROOT)
    if done.returncode:
        raise InputError(f"{row} with seed {seed} ended with exit code {done.returncode}.")


def measure(args: argparse.Namespace) -> None:
    """Time the variant's steps, train it, and write what it scored."""
    from seriatim.engine.arguments import parse_arguments
    from seriatim.engine.auto import Choice, apply, choose_memory
    from seriatim.engine.setup import setup
    from seriatim.engine.state import seed_everything
    from seriatim.engine.trainer import Trainer

    row, seed = args.rows[0], args.seeds[0]
    changes = ROWS[row]
    folder = result_file(args, row, seed).with_suffix("")
    fixed_here = {
        "SEED": seed,
        "OUTPUT_DIR": folder,
        "DATALOADER.NUM_WORKERS": 0,  # so that processor time holds the data path
        "TEST.EVAL_PERIOD": 0,
        "SOLVER.CHECKPOINT_PERIOD": 10**9,
        "SERIATIM.HOOKS.WATCH": False,
        "SERIATIM.HOOKS.PICTURE_PERIOD": 0,
    }
    words = [str(word) for pair in (fixed_here | changes).items() for word in pair]
    cfg = setup(parse_arguments(["--config-file", args.config, *on_list(args), *words])).clone()
    pace = seconds_of_a_step(Trainer(cfg))
    steps = max(10, int(args.seconds / pace))
    cfg.defrost()
    apply(cfg, [Choice("SOLVER.MAX_ITER", steps, ""), *choose_memory(steps)], set(changes))
    cfg.freeze()
    seed_everything(seed)
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=False)
    started = time.process_time()
    scores = {k: float(v) for k, v in trainer.train()["bbox"].items() if math.isfinite(v)}
    spent = time.process_time() - started
    content = {"scores": scores, "steps": steps, "seconds": round(spent, 1), "changes": changes}
    write_json(result_file(args, row, seed), content)
    for path in folder.glob("model_*.pth"):
        os.remove(path)


def on_list(args: argparse.Namespace) -> list[str]:
    """The overrides that make a config test on --list."""
    from seriatim.config import load_config

    entries = load_config(args.config).SERIATIM.DATASETS
    entries = [*map(dict, entries), {"NAME": "ablation", "JSON": str(args.list)}]
    return ["SERIATIM.DATASETS", repr(entries), "DATASETS.TEST", "('ablation',)"]


def seconds_of_a_step(trainer: Any) -> float:
    """Processor seconds of all threads; the first step, which is slower, apart."""
    from detectron2.utils.events import EventStorage

    with EventStorage():
        trainer.iter = 0
        trainer.run_step()
        started = time.process_time()
        for trainer.iter in range(1, TIMED_STEPS + 1):
            trainer.run_step()
        return (time.process_time() - started) / TIMED_STEPS


def description(args: argparse.Namespace) -> str:
    return (
        f"{Path(args.config).stem} on `{args.list.name}`, {args.seconds:g} s of processor time"
        f" each; {describe_machine()}. Mean ± standard deviation; the difference is of runs with"
        " the same seed."
    )


def format_table(args: argparse.Namespace) -> str:
    """A line for each variant that has a result."""
    results: dict[str, dict[int, Any]] = {}
    for row in ROWS:
        files = {seed: result_file(args, row, seed) for seed in args.seeds}
        results[row] = {s: json.loads(f.read_text()) for s, f in files.items() if f.is_file()}
    base = results["as it is"]
    lines = [
        "| variant | steps | seeds | AP | AP50 | difference of AP |",
        "|---|---|---|---|---|---|",
    ]
    for row, runs in results.items():
        if not runs:
            continue
        ap, ap50 = ([run["scores"][key] for run in runs.values()] for key in ("AP", "AP50"))
        paired = [runs[s]["scores"]["AP"] - base[s]["scores"]["AP"] for s in runs if s in base]
        difference = "" if row == "as it is" or not paired else spread(paired, "+")
        steps = round(statistics.mean(run["steps"] for run in runs.values()))
        cells = (row, steps, len(runs), spread(ap), spread(ap50), difference)
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def spread(values: list[float], sign: str = "") -> str:
    mean = f"{statistics.mean(values):{sign}.1f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.1f}"


def replace_table(page: Path, content: str) -> None:
    """Put `content` between the marks of the page."""
    before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    write_text(page, f"{before}{BEGIN}{content}{END}{rest.partition(END)[2]}")


if __name__ == "__main__":
    sys.exit(errors.run(main))
