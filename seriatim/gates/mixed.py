"""Do the objects of images that were put together from several lie where their pixels do?"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence

import numpy as np
from detectron2.structures import BoxMode

from seriatim.data.loader import seeded
from seriatim.gates.context import Context, Record, is_upright
from seriatim.gates.verdict import Cause, Finding

IMAGES = 8
BOX_TOLERANCE = 2.5  # px of the input
BAD_SHARE = 0.1  # of the objects, above which it is no rounding


def findings(context: Context, records: Sequence[Record]) -> Iterator[Finding]:
    """Boxes of mosaics and of pasted objects, each taken from its own image to the input."""
    mapper = context.train_mapper()
    if getattr(mapper, "mixing", None) is None:
        return
    mapper.keep_transforms = True
    mapper.use_pool(context.train_records)
    files = {str(record["file_name"]): record for record in context.train_records}
    objects = bad = 0
    for position, record in enumerate(records[:IMAGES]):
        with seeded(context.SEED, position):
            item = mapper(copy.deepcopy(record))
        distances = _distances(item, files)
        objects += len(distances)
        bad += int((np.array(distances) > BOX_TOLERANCE).sum())
    if bad > BAD_SHARE * objects:
        yield Finding(
            f"in images put together from several, {bad} of {objects} boxes are not where the"
            " transforms of their own image take them.",
            f"within {BOX_TOLERANCE:g} px.",
            [
                Cause("boxes of a mosaic's parts are not moved with the image", "build_mapper"),
                Cause("objects are assigned to another of the images", "build_mapper"),
            ],
        )


def _distances(item: Record, files: dict[str, Record]) -> list[float]:
    """Of each object, px between its box and the one that its source's transforms give; of boxes
    around masks that were cut none, which may rightly shrink."""
    truth = item.get("instances")
    if truth is None or not truth.has("gt_source") or not is_upright(truth.gt_boxes):
        return []
    if truth.has("gt_masks"):
        return []
    found = []
    for number, box in enumerate(truth.gt_boxes.tensor.double().numpy()):
        source = item["sources"][int(truth.gt_source[number])]
        annotation = files[str(source.file_name)]["annotations"][int(truth.gt_annotation[number])]
        own = BoxMode.convert(list(annotation["bbox"]), annotation["bbox_mode"], BoxMode.XYXY_ABS)
        moved = np.asarray(source.transforms.apply_box(np.array([own]))).reshape(4)
        x0, y0, x1, y1 = source.window
        found.append(float(np.abs(moved.clip((x0, y0) * 2, (x1, y1) * 2) - box).max()))
    return found
