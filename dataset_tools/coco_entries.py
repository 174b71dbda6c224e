"""Entries of a COCO file as they are written: records with ids, XYWH, and no noise in the numbers.

Encoders know the keys of these types beforehand, which makes them several times as fast as dicts.
"""

from __future__ import annotations

import math
from math import floor
from typing import Any

from msgspec import UNSET, Struct

from dataset_tools.coco import (
    IMAGE_EXTRAS,
    LARGEST,
    Annotation,
    Image,
    annotation_area,
    annotation_box,
)

_TIDY_BELOW = 1e9  # px, px²: a float still knows millionths of these
_NEAR = 1e4  # px: areas of boxes within this are such


class ImageEntry(Struct, gc=False, omit_defaults=True):
    """An entry of "images"."""

    id: int
    file_name: str
    width: int
    height: int
    license: Any = UNSET
    flickr_url: Any = UNSET
    coco_url: Any = UNSET
    date_captured: Any = UNSET
    attributes: Any = UNSET


class AnnotationEntry(Struct, gc=False, omit_defaults=True):
    """An entry of "annotations", but for its category."""

    id: int
    image_id: int
    bbox: Any = UNSET  # XYWH px
    segmentation: Any = UNSET
    keypoints: Any = UNSET
    num_keypoints: Any = UNSET
    area: float = UNSET
    iscrowd: int = UNSET
    attributes: Any = UNSET


def image_entry(image: Image, image_id: int) -> ImageEntry:
    """The entry of an image; attributes that COCO has keys for stand there."""
    entry = ImageEntry(image_id, image.file_name, image.width, image.height)
    if image.attributes:
        attributes = dict(image.attributes)
        for key in IMAGE_EXTRAS:
            if key in attributes:
                setattr(entry, key, attributes.pop(key))
        if attributes:
            entry.attributes = attributes
    return entry


def annotation_entry(annotation: Annotation, annotation_id: int, image_id: int) -> AnnotationEntry:
    """The entry of an annotation."""
    segmentation, box, area = annotation.segmentation, annotation.bbox, annotation.area
    if box is None:
        box = annotation_box(annotation)
    xywh, own_area = (UNSET, 0) if box is None else _xywh_and_area(*box)
    if area is None:
        area = tidy(annotation_area(annotation)) if segmentation else own_area
    else:
        area = tidy(area)
    entry = AnnotationEntry(
        annotation_id,
        image_id,
        xywh,
        segmentation or UNSET,
        UNSET,
        UNSET,
        area,
        1 if annotation.iscrowd else 0,
        annotation.attributes or UNSET,
    )
    if annotation.keypoints is not None:
        entry.keypoints = annotation.keypoints
        entry.num_keypoints = sum(visibility > 0 for visibility in annotation.keypoints[2::3])
    return entry


def _xywh_and_area(
    left: float, top: float, right: float, bottom: float
) -> tuple[tuple[float, ...], float]:
    """COCO's box of an XYXY one and its area, which is 0 if it is inverted; tidy."""
    width, height = right - left, bottom - top
    if not (-_NEAR < left <= right < _NEAR and -_NEAR < top <= bottom < _NEAR):
        area = width * height if width > 0 and height > 0 else 0
        return (tidy(left), tidy(top), tidy(width), tidy(height)), tidy(area)
    area = width * height
    if type(area) is int:
        return (left, top, width, height), area
    # What `tidy` does with such numbers, without a call for each.
    x, y = floor(left * 1e6 + 0.5), floor(top * 1e6 + 0.5)
    w, h, a = floor(width * 1e6 + 0.5), floor(height * 1e6 + 0.5), floor(area * 1e6 + 0.5)
    xywh = (
        x / 1e6 if x % 1_000_000 else x // 1_000_000,
        y / 1e6 if y % 1_000_000 else y // 1_000_000,
        w / 1e6 if w % 1_000_000 else w // 1_000_000,
        h / 1e6 if h % 1_000_000 else h // 1_000_000,
    )
    return xywh, a / 1e6 if a % 1_000_000 else a // 1_000_000


def tidy(value: float) -> float:
    """Without the noise that XYXY ↔ XYWH adds: a millionth of a pixel is less than any label
    means. Whole numbers become integers."""
    if -_TIDY_BELOW < value < _TIDY_BELOW:
        if type(value) is int:
            return value
        if type(value) is float:
            # As round(value, 6), but for ties, in a third of the time.
            millionths = floor(value * 1e6 + 0.5)
            return millionths / 1e6 if millionths % 1_000_000 else millionths // 1_000_000
    if isinstance(value, int) and abs(value) <= LARGEST:
        return value
    try:
        value = round(float(value), 6)
    except OverflowError:  # a whole number of hundreds of digits, which JSON's writer refuses
        return math.inf
    return int(value) if value.is_integer() and abs(value) <= LARGEST else value
