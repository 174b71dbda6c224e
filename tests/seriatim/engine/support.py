"""A tiny training set-up that the engine's tests share."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import yaml

from seriatim.testing.labelled import write_cifar
from seriatim.testing.shapes import make_shapes

ROOT = Path(__file__).parents[3]


def write_config(folder: Path, **changes) -> Path:
    """A RetinaNet of 0.4 M parameters on drawn shapes; `changes` are keys with __ for a dot."""
    for split, images, seed in (("train", 12, 1), ("val", 4, 2)):
        if not (folder / split).exists():
            make_shapes(folder / split, images, seed, size=(64, 64))
    config = {
        "MODEL": {
            "META_ARCHITECTURE": "RetinaNet",
            "DEVICE": "cpu",
            "BACKBONE": {"NAME": "build_timm_fpn_backbone"},
            "TIMM": {"NAME": "test_resnet"},
            "FPN": {"IN_FEATURES": ["res3", "res4", "res5"], "OUT_CHANNELS": 16},
            "RETINANET": {"NUM_CONVS": 1, "IN_FEATURES": ["p3", "p4", "p5"]},
            "ANCHOR_GENERATOR": {"SIZES": [[16], [32], [64]]},
        },
        "DATASETS": {"TRAIN": [f"{folder.name}_train"], "TEST": [f"{folder.name}_val"]},
        "INPUT": {"MIN_SIZE_TRAIN": [64], "MIN_SIZE_TEST": 64},
        "SOLVER": {
            "IMS_PER_BATCH": 4,
            "BASE_LR": 0.001,
            "MAX_ITER": 6,
            "STEPS": [],
            "WARMUP_ITERS": 2,
            "CHECKPOINT_PERIOD": 2,
        },
        "DATALOADER": {"NUM_WORKERS": 0},
        "SEED": 7,
        "OUTPUT_DIR": str(folder / "output"),
        "SERIATIM": {
            "DATASETS": [
                {
                    "NAME": f"{folder.name}_{split}",
                    "JSON": str(folder / split / "shapes.json"),
                    "IMAGES": str(folder / split / "images"),
                }
                for split in ("train", "val")
            ],
            "SOLVER": {"OPTIMIZER": "AdamW"},
            "HOOKS": {"LOG_PERIOD": 1},
        },
    }
    return _write(folder, config, changes)


def write_classifier_config(folder: Path, **changes) -> Path:
    """A WideResNet-10-1 on drawn images in CIFAR-10's files; `changes` as in `write_config`."""
    if not (folder / "cifar").exists():
        write_cifar(folder / "cifar", 120, 40)
    config = {
        "MODEL": {
            "META_ARCHITECTURE": "ImageClassifier",
            "DEVICE": "cpu",
            "BACKBONE": {"NAME": "build_wide_resnet_backbone"},
            "WIDE_RESNET": {"DEPTH": 10, "WIDTH": 1},
            "CLASSIFIER": {"INIT": "kaiming"},
            "PIXEL_MEAN": [127.0, 127.0, 127.0],
            "PIXEL_STD": [55.0, 55.0, 55.0],
        },
        "INPUT": {"FORMAT": "RGB"},
        "DATASETS": {"TRAIN": [f"{folder.name}_train"], "TEST": [f"{folder.name}_test"]},
        "SOLVER": {
            "IMS_PER_BATCH": 16,
            "BASE_LR": 0.05,
            "NESTEROV": True,
            "MAX_ITER": 200,
            "STEPS": [],
            "WARMUP_ITERS": 5,
        },
        "DATALOADER": {"NUM_WORKERS": 0},
        "SEED": 7,
        "OUTPUT_DIR": str(folder / "output"),
        "SERIATIM": {
            "DATASETS": [
                {
                    "NAME": f"{folder.name}_{split}",
                    "LABELS": str(folder / "cifar"),
                    "SPLIT": split,
                }
                for split in ("train", "test")
            ],
            "CLASSIFICATION": {"CROP": "pad", "HFLIP": 0.5},
        },
    }
    return _write(folder, config, changes)


def _write(folder: Path, config: dict, changes: dict) -> Path:
    for name, value in changes.items():
        node = config
        *groups, key = name.split("__")
        for group in groups:
            node = node.setdefault(group, {})
        node[key] = value
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def arguments(config_file: Path, *words: str) -> argparse.Namespace:
    """What train_net.py would parse."""
    from seriatim.engine.arguments import parse_arguments

    return parse_arguments(["--config-file", str(config_file), *_without_gates(words)])


def load(config_file: Path, *overrides: str):
    """The resolved, frozen config."""
    from seriatim.engine.setup import setup

    return setup(arguments(config_file, *overrides))


def train_net(*words: str | Path, timeout: float = 400, **kwargs) -> subprocess.CompletedProcess:
    """Run train_net.py in a process of its own."""
    return subprocess.run(
        command(words), cwd=ROOT, timeout=timeout, capture_output=True, text=True, **kwargs
    )


def command(words: Sequence[str | Path]) -> list[str]:
    return [sys.executable, "train_net.py", *_without_gates(list(map(str, words)))]


def _without_gates(words: Sequence[str]) -> list[str]:
    """Gates have tests of their own; here they cost time, unless a test asks for them."""
    return list(words) if "--gates" in words else ["--gates", "off", *words]
