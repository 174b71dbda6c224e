"""A recipe from the data and the time there is, for `--auto MINUTES` (SERIATIM.AUTO_MINUTES).

Sizes of objects decide how large images are made and on which strides they are looked for; the time
of a step, measured on this machine, decides how many steps of how many images fit; both decide the
learning rate. What the config file itself (not its bases) or the command line says stays.
"""

from __future__ import annotations

import argparse
import logging
import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from detectron2.evaluation import inference_context
from detectron2.structures import BoxMode
from detectron2.utils import comm

from dataset_tools.errors import InputError
from seriatim.config import explicit_keys

logger = logging.getLogger(__name__)

# A small object should cover so many cells of the finest level: fewer, and its edges are guessed;
# more, and most of the time goes into large ones.
CELLS_OF_SMALL = 3
# What a level sees well is at most so many of its cells wide.
CELLS_OF_LARGE = 8
STRIDES = (4, 8, 16, 32)
# Enlarging beyond this adds pixels, but no detail.
LARGEST_SCALE = 1.5
# Images whose longer side would be larger than this are trained by crops and tested by tiles.
LARGEST_SIDE = 1024
# Training should see every image so often; smaller images make room for it.
LEAST_PASSES = 10
SMALLEST_SHRINK = 0.6
# Gradients of fewer images are noisier, but in the same time there are more of them: blood cells
# reach 54 AP in 340 steps of 8, 59 in 1300 of 2, with the same rate (docs/detector.md).
BATCHES = (8, 4, 2)
LEAST_STEPS = 1000
# Timings vary: so much of the time is planned.
PLANNED = 0.93
TIMED_IMAGES = 4
SAMPLE = 5000  # images whose objects are measured


@dataclass(frozen=True)
class Shape:
    """What the data looks like. Sizes of objects are square roots of their boxes' areas, px.

    Attributes:
        images: in training.
        height, width: medians over the training images, px.
        small, large: 10 % of objects are smaller, 5 % larger, where every class counts alike.
        crowd: most objects of an image.
        test_images: in DATASETS.TEST.
        test_side: the longest side of a test image, px.
        bitmaps: some masks are bitmaps.
    """

    images: int
    height: float
    width: float
    small: float
    large: float
    crowd: int
    test_images: int
    test_side: float
    bitmaps: bool = False


@dataclass(frozen=True)
class Choice:
    """A value for a config key, and the reason."""

    key: str
    value: Any
    why: str


@dataclass(frozen=True)
class Pace:
    """Seconds of a training step for each of its images, and of a test image."""

    train: float
    test: float


def resolve_auto(cfg: CfgNode, args: argparse.Namespace) -> None:
    """Where SERIATIM.AUTO_MINUTES asks for it, choose what the user has left open, and say why.

    A resumed run takes what it had chosen when it started.

    Raises:
        InputError: the minutes make no sense, or there is nothing to choose from.
    """
    minutes = cfg.SERIATIM.AUTO_MINUTES
    if minutes == 0:
        return
    _check(cfg, args)
    fixed = explicit_keys(args.config_file, args.opts)
    if "SERIATIM.SOLVER.EPOCHS" in fixed and cfg.SERIATIM.SOLVER.EPOCHS > 0:
        raise InputError("SERIATIM.SOLVER.EPOCHS and --auto both say how long. Leave one away.")
    if getattr(args, "resume", False) and _take_over(cfg, fixed):
        return
    started = time.monotonic()
    shape = shape_of_data(cfg)
    chosen = choose_inputs(shape, cfg, fixed)
    apply(cfg, chosen, fixed)
    pace = measure(cfg)
    shrunk = choose_shrink(shape, pace, cfg, fixed)
    if shrunk:
        apply(cfg, shrunk, fixed)
        replaced = {choice.key for choice in shrunk}
        chosen = [choice for choice in chosen if choice.key not in replaced] + shrunk
        pace = measure(cfg)
    seconds = 60 * minutes - (time.monotonic() - started)
    timed = choose_schedule(shape, pace, seconds, cfg, fixed)
    apply(cfg, timed, fixed)
    _tell(cfg, shape, [*chosen, *timed], fixed)


def _check(cfg: CfgNode, args: argparse.Namespace) -> None:
    minutes = cfg.SERIATIM.AUTO_MINUTES
    if not (minutes > 0 and math.isfinite(minutes)):
        raise InputError(f"SERIATIM.AUTO_MINUTES is {minutes}; minutes of training are above 0.")
    if cfg.MODEL.META_ARCHITECTURE != "TaskAlignedDetector":
        raise InputError(
            "--auto knows how to set TaskAlignedDetector, not"
            f" {cfg.MODEL.META_ARCHITECTURE}. Take configs/Base-TaskAligned.yaml as _BASE_."
        )
    if not cfg.DATASETS.TRAIN:
        raise InputError("--auto looks at the training data, but DATASETS.TRAIN is empty.")
    if getattr(args, "eval_only", False):
        raise InputError("--auto sets a training; leave it away with --eval-only.")


def _take_over(cfg: CfgNode, fixed: set[str]) -> bool:
    """Read what the run in OUTPUT_DIR had chosen; False if it has left no config."""
    saved = Path(cfg.OUTPUT_DIR) / "config.yaml"
    if not saved.is_file():
        return False
    values = yaml.safe_load(saved.read_text(encoding="utf-8"))
    for key in KEYS:
        if key not in fixed:
            node = values
            for part in key.split("."):
                node = node[part]
            _set(cfg, key, node)
    logger.info(f"--auto: what was chosen when this run started is taken from {saved}")
    return True


# The data


def shape_of_data(cfg: CfgNode) -> Shape:
    """Measure DATASETS.TRAIN and TEST; of large sets a regular sample.

    Raises:
        InputError: the training set has no object.
    """
    from seriatim.data.loader import training_records

    records = training_records(cfg)[1]
    sample = _spread(records, SAMPLE)
    tests = [r for name in cfg.DATASETS.TEST for r in _spread(DatasetCatalog.get(name), SAMPLE)]
    sizes: dict[int, list[float]] = {}
    bitmaps = False
    for record in sample:
        for item in record["annotations"]:
            box = BoxMode.convert(item["bbox"], item["bbox_mode"], BoxMode.XYWH_ABS)
            width, height = box[2:]
            if item.get("iscrowd", 0) == 0 and width > 0 and height > 0:
                sizes.setdefault(item["category_id"], []).append(math.sqrt(width * height))
            bitmaps |= isinstance(item.get("segmentation"), dict)
    if not sizes:
        raise InputError(f"{', '.join(cfg.DATASETS.TRAIN)}: there is no object to choose sizes by.")
    small, large = balanced_quantiles(list(sizes.values()), (0.1, 0.95))
    return Shape(
        images=len(records),
        height=float(np.median([r["height"] for r in sample])),
        width=float(np.median([r["width"] for r in sample])),
        small=small,
        large=large,
        crowd=max(len(r["annotations"]) for r in sample),
        test_images=sum(len(DatasetCatalog.get(name)) for name in cfg.DATASETS.TEST),
        test_side=max((max(r["height"], r["width"]) for r in tests), default=0),
        bitmaps=bitmaps,
    )


def balanced_quantiles(classes: Sequence[Sequence[float]], at: Iterable[float]) -> list[float]:
    """Quantiles of all values, those of each class weighing 1 together.

    So a rare class of small objects is not drowned by a frequent one.
    """
    values = np.concatenate([np.asarray(values, float) for values in classes])
    weights = np.concatenate([np.full(len(values), 1 / len(values)) for values in classes])
    order = values.argsort()
    share = weights[order].cumsum() / len(classes)
    last = len(values) - 1
    return [float(values[order][min(np.searchsorted(share, q - 1e-9), last)]) for q in at]


# The choices


def choose_inputs(shape: Shape, cfg: CfgNode, fixed: set[str]) -> list[Choice]:
    """Levels, sizes of images, and limits on detections, from the data alone."""
    finest = 8 if shape.small * LARGEST_SCALE >= 0.8 * CELLS_OF_SMALL * 8 else 4
    levels = ("MODEL.FPN.IN_FEATURES", "MODEL.TASK_ALIGNED.IN_FEATURES")
    given = [name for key in levels if key in fixed for name in _get(cfg, key)]
    if given:
        finest = min(2 ** int(name[-1]) for name in given)
    scale = min(LARGEST_SCALE, CELLS_OF_SMALL * finest / shape.small)
    small = f"a small object ({shape.small:.0f} px)"
    first = f"{small}, scaled by {scale:.2f}, covers {shape.small * scale / finest:.1f} cells"
    coarsest = next((s for s in STRIDES if shape.large * scale <= CELLS_OF_LARGE * s), STRIDES[-1])
    coarsest = min(STRIDES[-1], max(coarsest, 2 * finest))
    numbers = [int(math.log2(s)) for s in STRIDES if finest <= s <= coarsest]
    why = f"{first} of {finest} px; a large one ({shape.large:.0f} px) is seen at {coarsest} px"
    chosen = (
        []
        if given
        else [
            Choice(levels[0], [f"res{number}" for number in numbers], why),
            Choice(levels[1], tuple(f"p{number}" for number in numbers), why),
        ]
    )
    return [
        *chosen,
        *_sizes(shape, scale, first),
        *_limits(shape, cfg),
    ]


def _sizes(shape: Shape, scale: float, why: str) -> list[Choice]:
    height, width = shape.height * scale, shape.width * scale
    if max(height, width) > LARGEST_SIDE:
        side = min(640, _multiple(min(height, width)))
        return [
            *_training_size((side, side), (0.8 * scale, 1.25 * scale), True, why),
            *_tiles(side, side / scale, f"a scaled image would be {max(height, width):.0f} px"),
        ]
    size = (_multiple(height), _multiple(width))
    chosen = _training_size(size, (0.8, 1.25), False, why)
    if shape.test_side > 1.5 * max(shape.height, shape.width):
        tile = max(shape.height, shape.width)
        larger = f"test images ({shape.test_side:.0f} px) are larger than those of training"
        return [*chosen, *_tiles(round(tile * scale), tile, larger)]
    return [
        *chosen,
        Choice("INPUT.MIN_SIZE_TEST", round(min(height, width)), "as in training"),
        Choice("INPUT.MAX_SIZE_TEST", round(max(height, width)), "as in training"),
    ]


def _training_size(
    size: tuple[int, int], scale: tuple[float, float], from_original: bool, why: str
) -> list[Choice]:
    jitter = "objects come nearer and go farther by a quarter"
    low, high = (round(s, 3) for s in scale)
    return [
        Choice("SERIATIM.AUG.ENABLED", True, "small data needs variety"),
        Choice("SERIATIM.AUG.SIZE", size, why),
        Choice("SERIATIM.AUG.SCALE", (low, high), jitter),
        Choice("SERIATIM.AUG.SCALE_FROM_ORIGINAL", from_original, "SCALE is of the original")
        if from_original
        else Choice("SERIATIM.AUG.SCALE_FROM_ORIGINAL", False, "SCALE is of the fitted image"),
    ]


def _tiles(network: int, tile: float, why: str) -> list[Choice]:
    return [
        Choice("SERIATIM.EVAL.TILE", round(tile), why),
        Choice("INPUT.MIN_SIZE_TEST", network, "a tile, scaled as in training"),
        Choice("INPUT.MAX_SIZE_TEST", network, "a tile, scaled as in training"),
    ]


def _limits(shape: Shape, cfg: CfgNode) -> list[Choice]:
    # An image in testing may be a larger piece of the same world.
    area = max(1.0, shape.test_side / max(shape.height, shape.width)) ** 2
    most = max(100, 100 * math.ceil(2 * shape.crowd * area / 100))
    why = f"a training image has up to {shape.crowd} objects, one in testing {area:.1f} times that"
    limits = [
        Choice("TEST.DETECTIONS_PER_IMAGE", most, why),
        Choice("SERIATIM.EVAL.MAX_DETECTIONS", most, why),
    ]
    if cfg.MODEL.MASK_ON and shape.bitmaps:
        limits.append(Choice("INPUT.MASK_FORMAT", "bitmask", "some masks are bitmaps"))
    return limits


def choose_shrink(shape: Shape, pace: Pace, cfg: CfgNode, fixed: set[str]) -> list[Choice]:
    """Smaller images, where the time would not let training see each one often enough."""
    keys = ("SERIATIM.AUG.SIZE", "INPUT.MIN_SIZE_TEST", "INPUT.MAX_SIZE_TEST")
    passes = 60 * cfg.SERIATIM.AUTO_MINUTES / (pace.train * shape.images)
    if passes >= LEAST_PASSES or any(key in fixed for key in keys) or cfg.SERIATIM.EVAL.TILE:
        return []
    factor = max(SMALLEST_SHRINK, math.sqrt(passes / LEAST_PASSES))
    why = f"made smaller by {factor:.2f}: only {passes:.1f} passes over the data would fit"
    size = tuple(_multiple(side * factor) for side in cfg.SERIATIM.AUG.SIZE)
    tests = [Choice(key, round(factor * _get(cfg, key)), why) for key in keys[1:]]
    return [Choice(keys[0], size, why), *tests]


def choose_schedule(
    shape: Shape, pace: Pace, seconds: float, cfg: CfgNode, fixed: set[str]
) -> list[Choice]:
    """Batch, steps, learning rate and average for what fits into so many seconds.

    Raises:
        InputError: not even a few steps fit.
    """
    evaluation = pace.test * shape.test_images
    left = PLANNED * (seconds - evaluation)
    batch = cfg.SOLVER.IMS_PER_BATCH
    if "SOLVER.IMS_PER_BATCH" not in fixed:
        least = comm.get_world_size()
        fit = [b for b in BATCHES if left / (pace.train * b) >= LEAST_STEPS]
        batch = least * math.ceil((fit or [BATCHES[-1]])[0] / least)
    seconds_a_step = pace.train * batch * cfg.SERIATIM.SOLVER.ACCUMULATE
    steps = int(left / seconds_a_step) if left > 0 else 0
    if "SOLVER.MAX_ITER" in fixed:
        steps = cfg.SOLVER.MAX_ITER
    if steps < 10:
        raise InputError(
            f"In {cfg.SERIATIM.AUTO_MINUTES:g} minutes {max(steps, 0)} steps of"
            f" {seconds_a_step:.1f} s fit beside the evaluation ({evaluation:.0f} s for"
            f" {shape.test_images} images). Give --auto more minutes."
        )
    time_left = f"{left:.0f} s are left beside an evaluation of {evaluation:.0f} s"
    passes = steps * batch * cfg.SERIATIM.SOLVER.ACCUMULATE / shape.images
    return [
        Choice(
            "SOLVER.IMS_PER_BATCH", batch, f"the largest that leaves {LEAST_STEPS} steps, up to 8"
        ),
        Choice(
            "SOLVER.MAX_ITER",
            steps,
            f"{seconds_a_step:.2f} s a step; {time_left}: {passes:.1f} passes over the data",
        ),
        Choice("SERIATIM.SOLVER.EPOCHS", 0.0, "time decides how long"),
        Choice("SOLVER.LR_SCHEDULER_NAME", "WarmupCosineLR", "needs no steps to be placed"),
        Choice("SERIATIM.SOLVER.REFERENCE_BATCH", 0, "the rate is for this batch"),
        Choice("SOLVER.BASE_LR", cfg.SOLVER.BASE_LR, "the same for 2 to 8 images"),
        *choose_memory(steps),
        Choice("TEST.EVAL_PERIOD", 0, "one evaluation, at the end"),
    ]


def choose_memory(steps: int) -> list[Choice]:
    """What goes with so many steps: warm-up, and how far back the average of the weights looks."""
    return [
        Choice("SOLVER.WARMUP_ITERS", min(100, steps // 6), "at most a sixth of the steps"),
        Choice(
            "SERIATIM.SOLVER.EMA_DECAY",
            round(max(0.9, 1 - 3.4 / steps), 4),
            "the average remembers the last third",
        ),
        Choice("SERIATIM.SOLVER.EMA_WARMUP", max(1, steps // 3), "a third of the steps"),
    ]


KEYS = (
    "MODEL.FPN.IN_FEATURES",
    "MODEL.TASK_ALIGNED.IN_FEATURES",
    "SERIATIM.AUG.ENABLED",
    "SERIATIM.AUG.SIZE",
    "SERIATIM.AUG.SCALE",
    "SERIATIM.AUG.SCALE_FROM_ORIGINAL",
    "SERIATIM.EVAL.TILE",
    "INPUT.MIN_SIZE_TEST",
    "INPUT.MAX_SIZE_TEST",
    "TEST.DETECTIONS_PER_IMAGE",
    "SERIATIM.EVAL.MAX_DETECTIONS",
    "INPUT.MASK_FORMAT",
    "SOLVER.IMS_PER_BATCH",
    "SOLVER.MAX_ITER",
    "SERIATIM.SOLVER.EPOCHS",
    "SOLVER.LR_SCHEDULER_NAME",
    "SERIATIM.SOLVER.REFERENCE_BATCH",
    "SOLVER.BASE_LR",
    "SOLVER.WARMUP_ITERS",
    "SERIATIM.SOLVER.EMA_DECAY",
    "SERIATIM.SOLVER.EMA_WARMUP",
    "TEST.EVAL_PERIOD",
)
"""All that may be chosen."""


def _multiple(side: float) -> int:
    """The nearest multiple of the largest stride, at least one of it."""
    return max(1, round(side / STRIDES[-1])) * STRIDES[-1]


# The machine


def measure(cfg: CfgNode) -> Pace:
    """Time steps and test images as the run will see them; over all processes the slowest's."""
    from seriatim.engine.dry_run import time_steps
    from seriatim.engine.trainer import Trainer

    cfg = cfg.clone()
    cfg.SERIATIM.HOOKS.WATCH = False
    cfg.freeze()
    trainer = Trainer(cfg)
    step = time_steps(trainer) / (cfg.SOLVER.IMS_PER_BATCH * cfg.SERIATIM.SOLVER.ACCUMULATE)
    names = cfg.DATASETS.TEST[:1]
    records = [r for name in names for r in _spread(DatasetCatalog.get(name), TIMED_IMAGES)]
    model = trainer.wrap_for_evaluation(cfg, trainer.evaluation_model)
    mapper = trainer.build_mapper(cfg, is_train=False)
    test = 0.0
    with inference_context(model), torch.no_grad():
        for number, record in enumerate([*records[:1], *records]):
            started = time.perf_counter()
            model([mapper(record)])
            if number > 0:  # the first one warms up
                test += (time.perf_counter() - started) / len(records)
    return Pace(*(max(times) for times in zip(*comm.all_gather((step, test)), strict=True)))


def _spread(records: Sequence[dict[str, Any]], most: int) -> list[dict[str, Any]]:
    """At most so many of the records, evenly spaced."""
    step = max(1, -(-len(records) // most))
    return [records[index] for index in range(0, len(records), step)]


# The config


def apply(cfg: CfgNode, choices: Iterable[Choice], fixed: set[str]) -> None:
    """Set the keys that are not `fixed`."""
    for choice in choices:
        if choice.key not in fixed:
            _set(cfg, choice.key, choice.value)


def _set(cfg: CfgNode, key: str, value: Any) -> None:
    *groups, name = key.split(".")
    for group in groups:
        cfg = cfg[group]
    # Of a key's type: a saved config has lists where a tuple is meant.
    cfg[name] = type(cfg[name])(value) if isinstance(value, list | tuple) else value


def _get(cfg: CfgNode, key: str) -> Any:
    for part in key.split("."):
        cfg = cfg[part]
    return cfg


def _tell(cfg: CfgNode, shape: Shape, chosen: list[Choice], fixed: set[str]) -> None:
    logger.info(
        f"--auto: {shape.images} training images of about {shape.width:.0f} ×"
        f" {shape.height:.0f} px, objects of {shape.small:.0f} to {shape.large:.0f} px,"
        f" {cfg.SERIATIM.AUTO_MINUTES:g} minutes"
    )
    for choice in chosen:
        why = "you say so" if choice.key in fixed else choice.why
        logger.info(f"--auto: {choice.key} {_get(cfg, choice.key)} ({why})")
