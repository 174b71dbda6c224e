"""Maps of instances: arrays that say of each pixel which object it belongs to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dataset_tools.coco import Annotation, Image, Segmentation
from dataset_tools.notes import Notes
from dataset_tools.rle import decode_mask

if TYPE_CHECKING:
    import numpy as np


def segmentation_mask(segmentation: Segmentation, height: int, width: int) -> np.ndarray:
    """Boolean HW array of polygons (filled as pycocotools does it) or an RLE."""
    import numpy as np
    from pycocotools import mask as coco_mask

    if isinstance(segmentation, dict):
        return decode_mask(segmentation).astype(bool)
    polygons = [polygon for polygon in segmentation if len(polygon) >= 6]
    if not polygons:
        return np.zeros((height, width), bool)
    parts = coco_mask.frPyObjects(polygons, height, width)
    return coco_mask.decode(coco_mask.merge(parts)).astype(bool)


def instance_map(image: Image, notes: Notes) -> tuple[np.ndarray, list[Annotation]]:
    """The HW int32 array that is k where the k-th of the returned objects is, and 0 elsewhere.

    A pixel belongs to one object: where masks overlap, to the smallest. Objects without a mask, and
    those of which no pixel is left, are noted as dropped.
    """
    import numpy as np

    masks: list[tuple[Annotation, np.ndarray]] = []
    for annotation in image.annotations:
        place = annotation.source or image.file_name
        if not annotation.segmentation:
            notes.drop("object without a mask", place)
            continue
        mask = segmentation_mask(annotation.segmentation, image.height, image.width)
        if mask.shape != (image.height, image.width):
            notes.drop("object whose mask has another size than its image", place)
        elif not mask.any():
            notes.drop("object whose mask has no pixel", place)
        else:
            masks.append((annotation, mask))
    owners = np.zeros((image.height, image.width), np.int32)
    for number in sorted(range(len(masks)), key=lambda n: -int(masks[n][1].sum())):
        annotation, mask = masks[number]
        if owners[mask].any():
            place = annotation.source or image.file_name
            notes.suspect("mask that overlaps a larger one (which loses the pixels)", place)
        owners[mask] = number + 1
    left = np.unique(owners[owners > 0]).tolist()
    for number, (annotation, _) in enumerate(masks, start=1):
        if number not in left:
            notes.drop("object hidden by smaller ones", annotation.source or image.file_name)
    renumbered = np.zeros(len(masks) + 1, np.int32)
    renumbered[left] = np.arange(1, len(left) + 1)
    return renumbered[owners], [masks[number - 1][0] for number in left]
