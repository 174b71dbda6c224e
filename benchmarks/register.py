"""Registering a COCO file of COCO's own size: this project beside Detectron2's load_coco_json.

    python benchmarks/register.py
    python benchmarks/register.py --scale 0.1

Each is a process of its own, so that peak memory is its own too; of three runs the best counts.
Times are processor seconds: with one thread these are seconds, on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import _labels
from _arguments import scaled
from _machine import describe_machine
from _memory import peak_of

from dataset_tools import errors
from dataset_tools.table import text_table

IMAGES, ANNOTATIONS = 118_000, 860_000


def main() -> int:
    args = parse()
    if args.load:
        print(json.dumps(measure(LOADERS[args.load], args.file)))
        return 0
    print(describe_machine(), flush=True)
    images, annotations = round(IMAGES * args.scale), round(ANNOTATIONS * args.scale)
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        path = _labels.coco(Path(folder) / "coco", images, annotations, seed=0)
        print(f"{images:,} images, {annotations:,} polygons, {path.stat().st_size / 1e6:.0f} MB")
        found = {name: best_of(name, path, args.repeat) for name in LOADERS}
    print(text_table(("", "seconds", "peak MB", "image/s, all records"), rows(found)))
    ours, theirs = found["seriatim"], found["detectron2"]
    print(f"{theirs[0] / ours[0]:.1f} × faster, {theirs[1] / ours[1]:.1f} × less memory")
    return 0


def parse() -> argparse.Namespace:
    parser = scaled(__doc__)
    parser.add_argument("--load", choices=LOADERS, help=argparse.SUPPRESS)
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def with_seriatim(path: Path) -> Sequence[Any]:
    """From the config's entry to records that can be trained on, all checks included."""
    from detectron2.data import DatasetCatalog

    from seriatim.config import get_cfg
    from seriatim.data.catalog import register_datasets

    cfg = get_cfg()
    cfg.SERIATIM.DATASETS = [
        {"NAME": "made_up", "JSON": str(path), "IMAGES": str(path.parents[1] / "images")}
    ]
    register_datasets(cfg)
    return DatasetCatalog.get("made_up")


def with_detectron2(path: Path) -> Sequence[Any]:
    from detectron2.data.datasets import load_coco_json

    return load_coco_json(str(path), str(path.parents[1] / "images"), "made_up")


LOADERS = {"seriatim": with_seriatim, "detectron2": with_detectron2}


def measure(load: Callable[[Path], Sequence[Any]], path: Path) -> tuple[float, float, float]:
    """Processor seconds and peak MB (beyond the imports) of loading; records per second after."""
    import seriatim.data.catalog
    import seriatim.data.loader  # noqa: F401 (imports are not what is measured)

    records: Sequence[Any] = ()

    def load_all() -> None:
        nonlocal records
        records = load(path)

    start = time.process_time()
    peak = peak_of(load_all)
    seconds = time.process_time() - start
    start = time.process_time()
    for _ in records:
        pass
    return seconds, peak, len(records) / (time.process_time() - start)


def best_of(name: str, path: Path, repeat: int) -> tuple[float, float, float]:
    command = [sys.executable, __file__, "--load", name, "--file", path]
    runs = []
    for _ in range(repeat):
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise errors.InputError(f"{name} failed: {done.stderr[-500:]}")
        runs.append(json.loads(done.stdout.splitlines()[-1]))
    seconds, peaks, rates = zip(*runs, strict=True)
    return min(seconds), min(peaks), max(rates)


def rows(found: dict[str, tuple[float, float, float]]) -> list[tuple[str, ...]]:
    return [
        (name, f"{seconds:.2f}", f"{peak:.0f}", f"{rate:,.0f}")
        for name, (seconds, peak, rate) in found.items()
    ]


if __name__ == "__main__":
    sys.exit(errors.run(main))
