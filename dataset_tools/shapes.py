"""Shapes that label formats draw, in terms of records: what is shared by several formats."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, Literal

from dataset_tools.coco import Annotation, annotation_box
from dataset_tools.rle import polygons_box
from dataset_tools.rotated import corners

Kind = Literal["label", "rotated", "points", "mask", "polygons", "box", "nothing"]

ELLIPSE_CORNERS = 64  # inside an ellipse by at most 0.12 % of its radius

# Attributes that say what shape an annotation is, see `formats.base`.
_STRUCTURE = ("whole_image", "rbox", "points", "shape")


def ellipse_polygon(
    x: float, y: float, radius_x: float, radius_y: float, clockwise: float = 0
) -> list[float]:
    """A polygon of `ELLIPSE_CORNERS` corners on the ellipse around (x, y), turned by degrees."""
    cosine, sine = math.cos(math.radians(clockwise)), math.sin(math.radians(clockwise))
    polygon: list[float] = []
    for step in range(ELLIPSE_CORNERS):
        turn = 2 * math.pi * step / ELLIPSE_CORNERS
        across, down = radius_x * math.cos(turn), radius_y * math.sin(turn)
        polygon += (x + across * cosine - down * sine, y + across * sine + down * cosine)
    return polygon


def rotated_annotation(category: str, box: tuple[float, ...], **more: Any) -> Annotation:
    """The annotation of a rotated box (centre x, centre y, width, height, angle)."""
    quad = corners(box)
    more["attributes"] = more.get("attributes", {}) | {"rbox": list(box)}
    return Annotation(category, polygons_box([quad]), [quad], **more)


def points_annotation(
    category: str, points: list[float], shape: Literal["point", "line"], **more: Any
) -> Annotation:
    """The annotation of a point or a line of points [x, y, …]."""
    more["attributes"] = more.get("attributes", {}) | {"points": points, "shape": shape}
    return Annotation(category, polygons_box([points]), **more)


def polygon_annotation(category: str, polygon: list[float], **more: Any) -> Annotation:
    """The annotation of one polygon, with the tight box around it."""
    return Annotation(category, polygons_box([polygon]), [polygon], **more)


def rectangle_polygon(box: Sequence[float]) -> list[float]:
    """The four corners of an XYXY box, clockwise from the top left."""
    left, top, right, bottom = box
    return [left, top, right, top, right, bottom, left, bottom]


def pairs(values: Sequence[float]) -> Iterator[tuple[float, float]]:
    """(x1, y1), (x2, y2), … of [x1, y1, x2, y2, …]."""
    return zip(values[0::2], values[1::2], strict=True)


def same_box(one: Sequence[float], other: Sequence[float], tolerance: float = 1e-5) -> bool:
    """Whether no edge is off by more than `tolerance` px, by default no more than what becomes of
    XYXY that was written as XYWH."""
    return all(abs(own - its) <= tolerance for own, its in zip(one, other, strict=True))


def has_own_box(annotation: Annotation, tolerance: float = 0.01) -> bool:
    """Whether the box is another than that of the polygons or mask, by more than `tolerance` px."""
    if annotation.bbox is None or not annotation.segmentation:
        return False
    tight = annotation_box(Annotation("", segmentation=annotation.segmentation))
    return tight is None or not same_box(annotation.bbox, tight, tolerance)


def kind_of(annotation: Annotation) -> Kind:
    """The shape that an annotation is meant to be; keypoints may come on top of it."""
    if annotation.attributes.get("whole_image"):
        return "label"
    if annotation.attributes.get("rbox"):
        return "rotated"
    if annotation.attributes.get("points"):
        return "points"
    if isinstance(annotation.segmentation, dict):
        return "mask"
    if annotation.segmentation:
        return "polygons"
    return "nothing" if annotation.bbox is None else "box"


def plain_attributes(annotation: Annotation) -> dict[str, Any]:
    """Attributes besides those that say the shape; with `iscrowd` if it is one."""
    attributes = {k: v for k, v in annotation.attributes.items() if k not in _STRUCTURE}
    return attributes | ({"iscrowd": True} if annotation.iscrowd else {})


def take_crowd(attributes: dict[str, Any]) -> bool:
    """Take `iscrowd` out of attributes that `plain_attributes` made."""
    return bool(attributes.pop("iscrowd", False))
