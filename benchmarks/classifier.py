"""Steps of training a classifier: ours, a plain PyTorch loop's, and one of timm's parts.

    python benchmarks/classifier.py
    python benchmarks/classifier.py --networks wrn --rounds 8 --steps 2

All three train the same network by SGD with Nesterov momentum under a cosine schedule on the same
32×32 images, shifted by up to 4 px and flipped, 128 a step. The plain loop is what one would write:
a DataLoader, torchvision's transforms, zero_grad, backward, step. timm's is its loader, transforms,
optimizer, loss and scheduler, put together as its train.py does. Ours is the whole trainer with all
its hooks, but for those that save and evaluate.

The three take turns, and each turn is measured in processor seconds of this process, loading
included, so that other programs on the machine matter little. The last figure is how long a step of
ours waits for a worker process to hand it its batch, by the clock.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import yaml
from _machine import describe_machine
from detectron2.utils.events import EventStorage
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from dataset_tools import errors
from seriatim.engine.setup import setup
from seriatim.engine.trainer import Trainer
from seriatim.testing.labelled import make_labelled, write_cifar

BATCH, IMAGES = 128, 2560
RATE, MOMENTUM, DECAY, STEPS = 0.1, 0.9, 5e-4, 1000
MEAN, STD = 125.0, 60.0
LEAST = 0.95  # of the plain loop's speed
MOST_WAITING = 0.05  # of a step
NETWORKS = {
    "wrn": ("WRN-16-2", "build_wide_resnet_backbone", {"WIDE_RESNET": {"DEPTH": 16}}),
    "preact": ("PreActResNet-18", "build_preact_resnet_backbone", {}),
}
Step = Callable[[], None]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--steps", type=int, default=1, help="of each, in a round")
    args = parser.parse_args()
    print(f"{describe_machine()}, {torch.get_num_threads()} threads", flush=True)
    good = True
    with tempfile.TemporaryDirectory() as folder:
        write_cifar(Path(folder) / "cifar", IMAGES, 100)
        for name in args.networks:
            good &= compare(name, Path(folder), args.rounds, args.steps)
        good &= waiting(Path(folder))
    return 0 if good else 1


def compare(name: str, folder: Path, rounds: int, steps: int) -> bool:
    """Print the seconds of a step of each way; whether ours is fast enough."""
    trainer = Trainer(config(name, folder, workers=0))
    plain_model, timm_model = (Network(Trainer.build_model(trainer.cfg)) for _ in range(2))
    ways = {
        "ours": ours(trainer),
        "plain": plain(plain_model),
        "timm": timm_way(timm_model),
    }
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for step in ways.values():
        step()  # allocations and the choice of kernels
    for number in range(rounds):
        order = list(ways)[number % 3 :] + list(ways)[: number % 3]
        for way in order:
            start = time.process_time()
            for _ in range(steps):
                ways[way]()
            seconds[way].append((time.process_time() - start) / steps)
    middle = {way: statistics.median(values) for way, values in seconds.items()}
    ratios = {way: ratio(seconds[way], seconds["ours"]) for way in ("plain", "timm")}
    told = ", ".join(f"{way} {value:.3f} s" for way, value in middle.items())
    speeds = " and ".join(f"{value:.2f}× {way}'s speed" for way, value in ratios.items())
    print(f"{NETWORKS[name][0]}, {BATCH} images a step: {told}; ours has {speeds}", flush=True)
    return ratios["plain"] >= LEAST


def ratio(theirs: list[float], ours: list[float]) -> float:
    """Median over the rounds of their seconds by ours: neighbours in time share the machine."""
    return statistics.median(a / b for a, b in zip(theirs, ours, strict=True))


def config(name: str, folder: Path, workers: int) -> Any:
    _, backbone, options = NETWORKS[name]
    content = {
        "MODEL": {
            "META_ARCHITECTURE": "ImageClassifier",
            "BACKBONE": {"NAME": backbone},
            "PIXEL_MEAN": [MEAN] * 3,
            "PIXEL_STD": [STD] * 3,
            **options,
        },
        "INPUT": {"FORMAT": "RGB"},
        "DATASETS": {"TRAIN": ["benchmark"]},
        "SOLVER": {
            "IMS_PER_BATCH": BATCH,
            "BASE_LR": RATE,
            "MOMENTUM": MOMENTUM,
            "NESTEROV": True,
            "WEIGHT_DECAY": DECAY,
            "LR_SCHEDULER_NAME": "WarmupCosineLR",
            "WARMUP_ITERS": 0,
            "MAX_ITER": STEPS,
        },
        "DATALOADER": {"NUM_WORKERS": workers},
        "SEED": 0,
        "OUTPUT_DIR": str(folder / "output"),
        "SERIATIM": {
            "DATASETS": [
                {"NAME": "benchmark", "LABELS": str(folder / "cifar"), "SPLIT": "train"},
            ],
            "CLASSIFICATION": {"CROP": "pad", "HFLIP": 0.5},
            "SOLVER": {"PRECISION": "float32"},
        },
    }
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(content))
    return setup(SimpleNamespace(config_file=str(path), opts=[], resume=False))


# The three ways


def ours(trainer: Trainer) -> Step:
    left_out = ("Checkpoint", "Interrupt")
    trainer._hooks = [h for h in trainer._hooks if type(h).__name__ not in left_out]
    trainer.iter = 0
    trainer.storage = EventStorage().__enter__()
    trainer.before_train()

    def step() -> None:
        trainer.before_step()
        trainer.run_step()
        trainer.after_step()
        trainer.iter += 1

    return step


class Network(nn.Module):
    """A classifier as a plain module: normalised images → logits."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.model.logits(images)


class Images(Dataset):
    """In memory, each through torchvision's transforms."""

    def __init__(self, transform: Callable) -> None:
        images, labels = make_labelled(IMAGES)
        self.images = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
        self.labels, self.transform = labels.tolist(), transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.transform(self.images[index]), self.labels[index]


def endless(loader: DataLoader) -> Iterator[Any]:
    while True:
        yield from loader


def plain(model: Network) -> Step:
    transform = v2.Compose(
        [
            v2.RandomCrop(32, padding=4),
            v2.RandomHorizontalFlip(),
            v2.ToDtype(torch.float32),
            v2.Normalize([MEAN] * 3, [STD] * 3),
        ]
    )
    batches = endless(DataLoader(Images(transform), BATCH, shuffle=True, drop_last=True))
    optimizer = torch.optim.SGD(
        model.parameters(), RATE, MOMENTUM, weight_decay=DECAY, nesterov=True
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    criterion = nn.CrossEntropyLoss()
    model.train()

    def step() -> None:
        images, labels = next(batches)
        loss = criterion(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        loss.item()

    return step


def timm_way(model: Network) -> Step:
    from timm.data import create_loader
    from timm.loss import LabelSmoothingCrossEntropy
    from timm.optim import create_optimizer_v2
    from timm.scheduler import CosineLRScheduler
    from timm.utils import AverageMeter
    from torchvision.transforms.functional import to_pil_image

    dataset = Images(None)
    pictures = [to_pil_image(image) for image in dataset.images]  # what timm's transforms take

    class Pictures(Images):
        def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
            return self.transform(pictures[index]), self.labels[index]

    loader = create_loader(
        Pictures(None),
        input_size=(3, 32, 32),
        batch_size=BATCH,
        is_training=True,
        no_aug=False,
        train_crop_mode="rkrc",
        scale=(1.0, 1.0),
        ratio=(1.0, 1.0),
        hflip=0.5,
        color_jitter=None,
        mean=(MEAN / 255,) * 3,
        std=(STD / 255,) * 3,
        num_workers=0,
        use_prefetcher=False,
        persistent_workers=False,
    )
    batches = endless(loader)
    optimizer = create_optimizer_v2(
        model, opt="sgd", lr=RATE, weight_decay=DECAY, momentum=MOMENTUM
    )
    schedule = CosineLRScheduler(optimizer, STEPS)
    criterion, losses = LabelSmoothingCrossEntropy(0.0), AverageMeter()
    model.train()
    done = 0

    def step() -> None:
        nonlocal done
        images, labels = next(batches)
        loss = criterion(model(images), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.update(loss.item(), len(images))
        done += 1
        schedule.step_update(done)

    return step


def waiting(folder: Path, steps: int = 12) -> bool:
    """Print how long a step waits for one worker; whether that is short enough."""
    trainer = Trainer(config("wrn", folder, workers=1))
    step = ours(trainer)
    shares = []
    for number in range(steps):
        start = time.perf_counter()
        step()
        whole = time.perf_counter() - start
        if number > 1:  # the worker starts
            shares.append(trainer.storage.latest()["data_time"][0] / whole)
    share = statistics.median(shares)
    print(f"WRN-16-2 with one worker: {share:.1%} of a step's time is waiting for data")
    return share < MOST_WAITING


if __name__ == "__main__":
    raise SystemExit(errors.run(main))
