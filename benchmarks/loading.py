"""Images a second of mapper and loader: Detectron2's own beside ours, with two workers.

    python benchmarks/loading.py
    python benchmarks/loading.py --images 60 --rounds 1

Both resize the shorter side and mirror at random, from the same records: blood cells (640×480,
where datasets/bccd is there) and generated photographs of 2000×1500. Measured is processor time of
this process and its workers, so that other programs matter little; starting the workers is
taken off. "from files" decodes each time, "cached" reads what SERIATIM.CACHE_MIB has kept. Boxes of
ours and theirs are compared with each other, and so are pixels.
"""

from __future__ import annotations

import argparse
import itertools
import resource
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _machine import describe_machine
from detectron2.data import (
    DatasetCatalog,
    DatasetMapper,
    MetadataCatalog,
    build_detection_train_loader,
)
from detectron2.data import transforms as T
from detectron2.structures import BoxMode
from PIL import Image

from dataset_tools import errors
from seriatim.config import get_cfg
from seriatim.data.catalog import register_datasets
from seriatim.data.loader import build_train_loader
from seriatim.data.mapper import SeriatimMapper

ROOT = Path(__file__).resolve().parents[1]
WORKERS, BATCH, WANTED = 2, 8, 3.0
CASES = {"bccd": (312, 416), "photographs": (640, 1333)}


def main() -> int:
    args = parse()
    print(describe_machine(), flush=True)
    good = True
    with tempfile.TemporaryDirectory() as folder:
        for name in CASES:
            cfg = config(name, Path(folder), args.images)
            if cfg is None:
                print("bccd: not measured: datasets/bccd is not there (see configs/data/bccd.yaml)")
                continue
            good &= compare(name, cfg, args)
            agree(name, cfg)
    return 0 if good else 1


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=96, help="of a measurement")
    parser.add_argument("--rounds", type=int, default=3)
    return parser.parse_args()


def config(name: str, folder: Path, images: int) -> Any:
    cfg = get_cfg()
    short, long = CASES[name]
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN = (short,), long
    cfg.INPUT.FORMAT = "BGR"
    cfg.SOLVER.IMS_PER_BATCH, cfg.SEED = BATCH, 0
    cfg.DATALOADER.NUM_WORKERS = WORKERS
    cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS = False
    cfg.SERIATIM.DATA.CACHE_DIR = str(folder / "cache")
    cfg.DATASETS.TRAIN = (f"loading_{name}",)
    if name == "bccd":
        if not (ROOT / "datasets" / "bccd").is_dir():
            return None
        entry = {"NAME": "loading_bccd", "JSON": str(ROOT / "datasets" / "bccd" / "train.json")}
        cfg.SERIATIM.DATASETS = [entry]
        register_datasets(cfg)
    else:
        records = photographs(folder, min(images, 24))
        DatasetCatalog.register("loading_photographs", lambda: records)
        MetadataCatalog.get("loading_photographs").thing_classes = ["thing"]
    return cfg


def photographs(folder: Path, count: int) -> list[dict[str, Any]]:
    """Records of JPEG files with large and small structure and a little noise, 2000×1500."""
    rng = np.random.default_rng(0)
    records = []
    for number in range(count):
        pixels = np.zeros((1500, 2000, 3))
        for cells, share in ((6, 0.6), (60, 0.3), (500, 0.1)):
            coarse = rng.integers(0, 256, (cells * 3 // 4, cells, 3), dtype=np.uint8)
            layer = Image.fromarray(coarse).resize((2000, 1500), Image.BICUBIC)
            pixels += share * np.asarray(layer)
        path = folder / f"{number}.jpg"
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path, quality=90)
        boxes = rng.uniform(0, 1400, (8, 4)).round(1)
        boxes[:, 2:] = 20 + boxes[:, 2:] / 16
        annotations = [
            {"bbox": b.tolist(), "bbox_mode": BoxMode.XYWH_ABS, "category_id": 0} for b in boxes
        ]
        records.append(
            {
                "file_name": str(path),
                "image_id": number,
                "width": 2000,
                "height": 1500,
                "annotations": annotations,
            }
        )
    return records


def compare(name: str, cfg: Any, args: argparse.Namespace) -> bool:
    """Print the images a second of each way; whether ours are fast enough."""
    cached = cfg.clone()
    cached.SERIATIM.CACHE_MIB = 4096
    ways: dict[str, Callable[[], Any]] = {
        "detectron2": lambda: build_detection_train_loader(cfg),
        "ours, from files": lambda: build_train_loader(cfg),
        "ours, cached": lambda: build_train_loader(cached),
    }
    drain(ways["ours, cached"], max(args.images, len(DatasetCatalog.get(cfg.DATASETS.TRAIN[0]))))
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(args.rounds):
        for way, build in ways.items():
            start = drain(build, 2 * BATCH)  # workers, and what they fetch ahead
            whole = drain(build, 2 * BATCH + args.images)
            seconds[way].append((whole - start) / args.images)
    speeds = {}
    for way in ways:
        pairs = zip(seconds["detectron2"], seconds[way], strict=True)
        speeds[way] = statistics.median(a / b for a, b in pairs)
        middle = statistics.median(seconds[way])
        print(
            f"{name}: {way:<17} {1000 * middle:6.2f} ms an image, {1 / middle:5.0f} images a second"
            f" of one core, {speeds[way]:5.2f} × detectron2",
            flush=True,
        )
    return min(speeds["ours, from files"], speeds["ours, cached"]) >= WANTED


def drain(build: Callable[[], Any], images: int) -> float:
    """Processor seconds of this process and of workers that have ended."""

    def used() -> float:
        both = (resource.getrusage(w) for w in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        return sum(usage.ru_utime + usage.ru_stime for usage in both)

    before = used()
    batches = iter(build())
    for _ in itertools.islice(batches, images // BATCH):
        pass
    del batches  # ends the workers
    return used() - before


def agree(name: str, cfg: Any) -> None:
    """Print how far boxes and pixels of the same records are apart."""
    augmentations = [T.ResizeShortestEdge(*CASES[name], "choice")]
    theirs = DatasetMapper(True, augmentations=augmentations, image_format="BGR")
    cfg = cfg.clone()
    cfg.INPUT.RANDOM_FLIP = "none"
    ours = SeriatimMapper(cfg, True)
    boxes, most, mean = 0.0, 0, []
    for record in list(DatasetCatalog.get(cfg.DATASETS.TRAIN[0]))[:12]:
        a, b = ours(record), theirs(record)
        pair = (x["instances"].gt_boxes.tensor for x in (a, b))
        boxes = max(boxes, float(torch.sub(*pair).abs().max()))
        apart = (a["image"].int() - b["image"].int()).abs()
        most, mean = max(most, int(apart.max())), [*mean, float(apart.float().mean())]
    print(
        f"{name}: boxes differ by {boxes:g} px, pixels by {statistics.mean(mean):.2f} of 255 on"
        f" average and {most} at most"
    )


if __name__ == "__main__":
    sys.exit(errors.run(main))
