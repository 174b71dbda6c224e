"""Where pixels wait: SERIATIM.DATA.STORAGE memory, mmap and disk, beside torchvision's own dataset.

    python benchmarks/storage.py
    python benchmarks/storage.py --images 10000 --steps 20

CIFAR-10's files with made-up pixels, and the same images as PNG files, each storage in a process of
its own: seconds until the dataset is registered (the first time, and with its cache there), memory
beyond the imports, and images per second of the loader with CIFAR's augmentation. torchvision reads
the same files and augments them by its transforms v2. Then the share that data takes of a training
step of WideResNet-16-2 at batch 128. Times are processor seconds but for that share, which compares
seconds of one run.
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from _machine import describe_machine

from dataset_tools import errors
from dataset_tools.table import text_table

BATCH = 128
STORAGES = ("memory", "mmap", "disk")


def main() -> int:
    args = parse()
    if args.run:
        print(json.dumps(RUNS[args.run](args)))
        return 0
    print(describe_machine(), flush=True)
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        args.folder = Path(folder)
        make_data(args.folder, args.images)
        rows = [
            row(kind, storage, in_process("loading", args, kind, storage))
            for kind in ("cifar", "files")
            for storage in STORAGES
        ]
        rows.append(row("cifar", "torchvision", in_process("peer", args)))
        header = ("images", "storage", "first s", "again s", "MB", "images/s")
        print(text_table(header, rows), flush=True)
        shares = [
            (name, *(f"{value:.1f}" for value in in_process("share", args, "cifar", name)))
            for name in ("memory", "mmap", "memory, RandAugment", "memory, 1 worker")
        ]
        print(text_table(("WideResNet-16-2", "ms data", "ms step", "% data"), shares))
    return 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--batches", type=int, default=100, help="that are timed of each loader")
    parser.add_argument("--steps", type=int, default=30, help="of training that are timed")
    parser.add_argument("--folder", type=Path, help="where to make the data for the time being")
    parser.add_argument("--run", choices=RUNS, help=argparse.SUPPRESS)
    parser.add_argument("--kind", help=argparse.SUPPRESS)
    parser.add_argument("--storage", help=argparse.SUPPRESS)
    return parser.parse_args()


def make_data(folder: Path, count: int) -> None:
    """CIFAR-10's files, and a tenth of the images as PNG files by class."""
    from seriatim.testing.labelled import write_cifar, write_image_folder

    write_cifar(folder / "cifar-10-batches-py", train=count, test=10)
    write_image_folder(folder / "files", train=count // 10, test=10)


def in_process(run: str, args: argparse.Namespace, kind: str = "", storage: str = "") -> list:
    command = [sys.executable, __file__, "--run", run, "--folder", args.folder]
    command += ["--kind", kind, "--storage", storage]
    for name in ("images", "batches", "steps"):
        command += [f"--{name}", str(getattr(args, name))]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    if done.returncode:
        raise errors.InputError(f"{run} {kind} {storage} failed: {done.stderr[-800:]}")
    return json.loads(done.stdout.splitlines()[-1])


def row(kind: str, storage: str, found: list) -> tuple[str, ...]:
    first, again, memory, rate = found
    return kind, storage, f"{first:.2f}", f"{again:.2f}", f"{memory:.0f}", f"{rate:,.0f}"


def config(args: argparse.Namespace, storage: str) -> Any:
    """A config that trains on the data with CIFAR's augmentation."""
    from seriatim.config import get_cfg

    folder = args.folder / ("cifar-10-batches-py" if args.kind == "cifar" else "files")
    cfg = get_cfg()
    cfg.SERIATIM.DATASETS = [{"NAME": "train", "LABELS": str(folder), "SPLIT": "train"}]
    cfg.SERIATIM.DATA.STORAGE = storage
    cfg.SERIATIM.DATA.CACHE_DIR = str(args.folder / "cache")
    cfg.SERIATIM.CLASSIFICATION.CROP, cfg.SERIATIM.CLASSIFICATION.HFLIP = "pad", 0.5
    cfg.DATASETS.TRAIN = ("train",)
    cfg.INPUT.FORMAT = "RGB"
    cfg.SOLVER.IMS_PER_BATCH = BATCH
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.SEED = 0
    return cfg


def loading(args: argparse.Namespace) -> tuple[float, float, float, float]:
    """Processor seconds to register twice, MB that are held then, images per second."""
    from seriatim.data.catalog import register_datasets, unregister_datasets
    from seriatim.data.loader import build_train_loader

    cfg = config(args, args.storage)
    before = held()
    first = seconds(lambda: register_datasets(cfg))
    unregister_datasets(["train"])
    again = seconds(lambda: register_datasets(cfg))
    batches = iter(build_train_loader(cfg))
    rate = images_per_second(batches, args.batches)
    return first, again, held() - before, rate


def peer(args: argparse.Namespace) -> tuple[float, float, float, float]:
    """The same of torchvision's dataset, read without its check of the checksums."""
    import torch
    from torch.utils.data import DataLoader
    from torchvision.datasets import CIFAR10
    from torchvision.transforms import v2

    class Files(CIFAR10):
        def _check_integrity(self) -> bool:
            return True  # the pixels are made up

        def _load_meta(self) -> None:
            self.classes = []

    crop = v2.RandomCrop(32, padding=4, padding_mode="reflect")
    transform = v2.Compose([crop, v2.RandomHorizontalFlip(), v2.PILToTensor()])
    before = held()
    made: list[Files] = []
    first = seconds(lambda: made.append(Files(str(args.folder), transform=transform)))
    again = seconds(lambda: made.append(Files(str(args.folder), transform=transform)))
    loader = DataLoader(
        made[0], BATCH, shuffle=True, drop_last=True, generator=torch.Generator().manual_seed(0)
    )
    endless = itertools.chain.from_iterable(itertools.repeat(loader))
    return first, again, (held() - before) / 2, images_per_second(endless, args.batches)


def share(args: argparse.Namespace) -> tuple[float, float, float]:
    """Median ms for a batch and for the rest of a training step, and the share of the first."""
    import torch

    from seriatim.data.catalog import register_datasets
    from seriatim.data.loader import build_train_loader
    from seriatim.engine.trainer import Trainer

    storage, _, more = args.storage.partition(", ")
    cfg = config(args, storage)
    cfg.DATALOADER.NUM_WORKERS = int("worker" in more)
    cfg.SERIATIM.CLASSIFICATION.RANDAUGMENT = 2 if more == "RandAugment" else 0
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.META_ARCHITECTURE = "ImageClassifier"
    cfg.MODEL.CLASSIFIER.NUM_CLASSES = 10
    cfg.MODEL.BACKBONE.NAME = "build_wide_resnet_backbone"
    cfg.MODEL.WIDE_RESNET.DEPTH, cfg.MODEL.WIDE_RESNET.WIDTH = 16, 2
    register_datasets(cfg)
    model = Trainer.build_model(cfg).train().to(memory_format=Trainer.memory_format(cfg))
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, nesterov=True)
    batches = iter(build_train_loader(cfg))
    times = []
    for _ in range(args.steps + 3):
        start = time.perf_counter()
        batch = next(batches)
        loaded = time.perf_counter()
        optimizer.zero_grad()
        sum(model(batch).values()).backward()
        optimizer.step()
        times.append((loaded - start, time.perf_counter() - loaded))
    data, step = 1000 * np.median(times[3:], axis=0)
    return float(data), float(step), float(100 * data / (data + step))


RUNS: dict[str, Callable[[argparse.Namespace], Any]] = {
    "loading": loading,
    "peer": peer,
    "share": share,
}


def seconds(run: Callable[[], Any]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


def images_per_second(batches: Iterator, count: int) -> float:
    """Of processor time, after some batches to warm up."""
    batches = iter(batches)
    for _ in range(3):
        next(batches)
    return count * BATCH / seconds(lambda: [next(batches) for _ in range(count)])


def held() -> float:
    """MB of memory that this process holds, without what is mapped from files."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon:")) * 1024 / 1e6


if __name__ == "__main__":
    sys.exit(errors.run(main))
