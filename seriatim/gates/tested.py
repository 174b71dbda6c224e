"""Does testing see what training saw?

What the loader for testing gives is held against what the mapper for training makes of the same
record without its augmentations: the same pixels, of the same size, in the same order of channels.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch

from seriatim.data.loader import seeded
from seriatim.gates.context import Context, Record, is_upright
from seriatim.gates.pixels import PIXEL_TOLERANCE
from seriatim.gates.samples import Sample
from seriatim.gates.verdict import Cause, Finding

IMAGES = 4
# Between the scale of training and that of testing, of images and of the objects in them: ranges of
# scales in training reach twofold to either side of it.
SCALE = 3.0


def images(context: Context) -> Iterator[Finding]:
    """The loader for testing gives every image of the test set once."""
    names = context.cfg.DATASETS.TEST
    records = context.test_records
    if not names or not records:
        return
    loader = context.trainer_class.build_test_loader(_alone(context), names[0])
    try:
        batches = len(loader)
    except TypeError:
        return
    size = getattr(loader, "batch_size", None) or len(next(iter(loader), ()))
    expected = math.ceil(len(records) / max(size, 1))
    if batches != expected:
        yield Finding(
            f"the loader for testing gives {batches} batches of {size}, for {len(records)} images.",
            f"{expected}: every image once.",
            [
                Cause("the loader leaves images out, or repeats them", "build_test_loader"),
                Cause("a subset that was made for a test is still used", names[0]),
            ],
        )


def inputs(context: Context) -> Iterator[Finding]:
    """Pixels in testing are those that training without augmentation would have."""
    reference = context.train_mapper(augment=False)
    names = context.cfg.DATASETS.TEST
    if not names or not hasattr(reference, "augmentations") or context.restless:
        return
    records = context.test_records[:IMAGES]
    name = context.dataset_of(records, names[0], "tested")
    loader = context.trainer_class.build_test_loader(_alone(context), name)
    by_file = {str(record["file_name"]): record for record in records}
    pairs = []
    for item in (item for batch in loader for item in batch):
        record = by_file.get(str(item.get("file_name")))
        if record is not None:
            with seeded(context.SEED, len(pairs)):
                pairs.append((item["image"], reference(copy.deepcopy(record))["image"]))
        if len(pairs) == len(records):
            break
    if not pairs:
        return
    causes = list(_causes(pairs))
    if causes:
        yield Finding(
            "images in testing are not as in training without augmentation:"
            f" {_told(*max(pairs, key=lambda pair: _difference(*pair)))}.",
            f"the same pixels, within {PIXEL_TOLERANCE:g} of 255.",
            causes,
        )


def _alone(context: Context):
    return context.variant("DATALOADER.NUM_WORKERS", 0)


def _difference(tested: torch.Tensor, trained: torch.Tensor) -> float:
    if tested.shape != trained.shape:
        return math.inf
    return float((tested.double() - trained.double()).abs().mean())


def _told(tested: torch.Tensor, trained: torch.Tensor) -> str:
    if tested.shape != trained.shape:
        return f"{tuple(tested.shape)} where training has {tuple(trained.shape)}"
    return f"{_difference(tested, trained):.0f} of 255 levels apart"


def _causes(pairs: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> Iterator[Cause]:
    def apart(change: Callable[[torch.Tensor], torch.Tensor]) -> float:
        return float(np.median([_difference(change(one), other) for one, other in pairs]))

    off = apart(lambda image: image)
    if off <= PIXEL_TOLERANCE:
        return
    mapper = "build_mapper, build_test_loader"
    if math.isinf(off):
        yield Cause("the size differs: testing resizes images in another way", mapper)
    elif apart(lambda image: image.flip(0)) < off / 2:
        yield Cause("channels are in another order in testing (RGB, BGR)", mapper)
    elif apart(lambda image: image.double() * 255) < off / 2:
        yield Cause("pixels are divided by 255 in testing, and 0–255 in training", mapper)
    else:
        yield Cause("augmentation in testing, or another normalisation", mapper)
    yield Cause(
        "the mapper changes images in testing, or in training, outside of its augmentations"
    )


def scales(context: Context, samples: Sequence[Sample]) -> Iterator[Finding]:
    """Images and objects have about the size in testing that they have in training."""
    if context.cfg.SERIATIM.EVAL.TILE > 0 or not context.test_records or context.restless:
        return
    mapper = context.train_mapper(augment=False)
    trained, seen = [], []
    for sample in samples:
        if sample.transforms is not None and sample.truth is not None:
            trained.append(_scale(sample))
            seen += _sides(sample.item)
    tested, asked = [], []
    for record in context.test_records[: len(samples)]:
        item = mapper(copy.deepcopy(record))
        tested.append(item["image"].shape[-2] / item["height"])
        asked += _sides(item)
    if not trained or not seen or not asked:
        return
    of_images = float(np.median(tested) / max(np.median(trained), 1e-9))
    of_objects = float(np.median(asked) / max(np.median(seen), 1e-9))
    if all(x > SCALE for x in (of_images, of_objects)) or all(
        x < 1 / SCALE for x in (of_images, of_objects)
    ):
        yield Finding(
            f"in testing images are scaled {of_images:.2g} times as much as in training, and"
            f" objects are {of_objects:.2g} times as large.",
            f"within a factor of {SCALE:g}: a detector finds the sizes that it was trained on.",
            [
                Cause(
                    "the size of testing is that of another model",
                    "INPUT.MIN_SIZE_TEST, INPUT.MIN_SIZE_TRAIN",
                ),
                Cause("the range of scales in training is off", "SERIATIM.AUG.SIZE, SCALE"),
            ],
        )


def _scale(sample: Sample) -> float:
    """By how much its transforms enlarge the middle of an image."""
    height, width = sample.item["height"], sample.item["width"]
    middle = np.array([width / 2, height / 2])
    points = middle + np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    origin, x, y = np.asarray(sample.transforms.apply_coords(points))
    (a, b), (c, d) = x - origin, y - origin
    return math.sqrt(abs(a * d - b * c))


def _sides(item: Record) -> list[float]:
    """Square roots of the areas of an input's objects, px."""
    truth = item.get("instances")
    if truth is None or not truth.has("gt_boxes") or not is_upright(truth.gt_boxes):
        return []
    return truth.gt_boxes.area().sqrt().tolist()
