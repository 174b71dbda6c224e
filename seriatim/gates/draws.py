"""Is what should be random random: augmentations, and the order of the images?"""

from __future__ import annotations

import copy
from collections.abc import Iterator

import numpy as np
from detectron2.data import transforms as T

from seriatim.data.loader import seeded
from seriatim.gates.context import Context, Record
from seriatim.gates.samples import source_image
from seriatim.gates.verdict import Cause, Finding

DRAWS = 6  # of a flip with probability 0.5 all are alike once in 32
ORDERED = 8  # images; two of their orders are equal by chance once in 40,320


def findings(context: Context, record: Record) -> Iterator[Finding]:
    """Seeds that a mapper sets itself, and a shuffle that is always the same."""
    yield from _augmentations(context, record)
    yield from _order(context)


def _augmentations(context: Context, record: Record) -> Iterator[Finding]:
    mapper = context.train_mapper()
    augmentations = getattr(mapper, "augmentations", None)
    if not isinstance(augmentations, T.Augmentation):
        return
    image = source_image(record)
    alone, mapped = set(), set()
    for number in range(DRAWS):
        with seeded(context.SEED, number):
            given = T.AugInput(image.copy())
            augmentations(given)
            alone.add(_print(given.image))
        with seeded(context.SEED, number):
            mapped.add(_print(mapper(copy.deepcopy(record))["image"].numpy()))
    if len(alone) > 1 and len(mapped) == 1:
        yield Finding(
            f"the mapper augments one image {DRAWS} times in the same way, whatever the seed.",
            f"the {len(alone)} ways of its augmentations.",
            [
                Cause("the mapper sets the seed itself, anew for every image", "build_mapper"),
                Cause("what was drawn once is kept for all images"),
            ],
        )


def _print(image: np.ndarray) -> tuple[tuple[int, ...], bytes]:
    return image.shape, np.ascontiguousarray(image).tobytes()


def _order(context: Context) -> Iterator[Finding]:
    """Two passes over a few images come in two orders."""
    cfg, records = context.cfg, context.train_records[:ORDERED]
    if len(records) < ORDERED or cfg.SERIATIM.DETERMINISTIC_DEBUG:
        return
    name = context.dataset_of(records, cfg.DATASETS.TRAIN[0], "order")
    small = context.variant(
        "DATASETS.TRAIN", (name,), "SOLVER.IMS_PER_BATCH", 2, "SERIATIM.DATASET_WEIGHTS", (),
        "DATALOADER.SAMPLER_TRAIN", "TrainingSampler",
        "SERIATIM.SEMI.LABELS_PER_CLASS", 0, "SERIATIM.SEMI.VALIDATION_PER_CLASS", 0,
    )  # fmt: skip
    batches = context.batches(ORDERED, small)
    files = [str(image.get("file_name", "")) for batch in batches for image in batch]
    own = {str(record["file_name"]) for record in records}
    if len(files) < 2 * ORDERED or set(files) != own:
        return  # a loader that does not take another dataset, or draws with replacement
    if files[:ORDERED] == files[ORDERED : 2 * ORDERED]:
        yield Finding(
            "two passes over the training images come in the same order.",
            "an order of its own for every epoch.",
            [
                Cause("the shuffle does not know the epoch (set_epoch), or there is none"),
                Cause("the sampler is made anew from the same seed", "build_train_loader"),
            ],
        )
