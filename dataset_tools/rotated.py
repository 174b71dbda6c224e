"""Rotated boxes, as Detectron2's `RotatedBoxes` have them, and the quadrangles that they are drawn
as.

A rotated box is (centre x, centre y, width, height, angle): px and degrees, counter-clockwise as
one looks at the image, whose y axis points down. At angle 0 width lies along x.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from dataset_tools.coco import Annotation, annotation_box
from dataset_tools.rle import polygons_box

RotatedBox = tuple[float, float, float, float, float]


def corners(box: Sequence[float]) -> list[float]:
    """[x1, y1, …, x4, y4]: at angle 0 top left, top right, bottom right, bottom left."""
    x, y, width, height, angle = box
    cosine, sine = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    across = (width / 2 * cosine, -width / 2 * sine)  # from the centre to the middle of a side
    along = (height / 2 * sine, height / 2 * cosine)
    return [
        coordinate
        for i, j in ((-1, -1), (1, -1), (1, 1), (-1, 1))
        for coordinate in (x + i * across[0] + j * along[0], y + i * across[1] + j * along[1])
    ]


def from_corners(quad: Sequence[float]) -> tuple[RotatedBox, float]:
    """The rotated box of four corners in order (either sense), and how far they are from its own,
    px.

    A quadrangle that is a rectangle gives that rectangle, with the first side as its width. Of
    another one the middles of opposite sides are joined; the second value tells how far that is
    from the truth.
    """
    points = [(quad[i], quad[i + 1]) for i in range(0, 8, 2)]
    if _signed_area(points) < 0:  # counter-clockwise on the screen: the other way round
        points = [points[1], points[0], points[3], points[2]]
    (ax, ay), (bx, by), (cx, cy), (dx, dy) = points
    across = ((bx + cx - ax - dx) / 2, (by + cy - ay - dy) / 2)
    along = ((cx + dx - ax - bx) / 2, (cy + dy - ay - by) / 2)
    # Width and height are at right angles; the angle is that of the longer one, which is surer.
    if math.hypot(*across) >= math.hypot(*along):
        angle = math.degrees(math.atan2(-across[1], across[0]))
    else:
        angle = math.degrees(math.atan2(along[0], along[1]))
    centre = (ax + bx + cx + dx) / 4, (ay + by + cy + dy) / 4
    box = (*centre, math.hypot(*across), math.hypot(*along), angle)
    own = corners(box)
    error = max(math.hypot(x - own[2 * i], y - own[2 * i + 1]) for i, (x, y) in enumerate(points))
    return box, error


def quad_annotation(
    category: str, quad: Sequence[float], attributes: dict[str, Any], source: str
) -> tuple[Annotation, bool]:
    """The annotation of four corners in order, and whether they are a rectangle.

    Its segmentation is the corners as given, its box the tight one, its attribute `rbox` the
    rotated box of `from_corners`. A rectangle's corners may be off by a pixel and a half, or 5 % of
    its diagonal: they are drawn by hand, on whole pixels mostly.
    """
    corners_given = [float(value) for value in quad]
    box, error = from_corners(corners_given)
    annotation = Annotation(
        category,
        polygons_box([corners_given]),
        [corners_given],
        attributes=attributes | {"rbox": list(box)},
        source=source,
    )
    return annotation, error <= max(1.5, 0.05 * math.hypot(box[2], box[3]))


def annotation_corners(annotation: Annotation) -> tuple[list[float] | None, bool]:
    """The four corners that an annotation is drawn as, and whether they say all of its outline.

    They are its polygon if that has four corners, else those of its attribute `rbox`, else those of
    its box; None if it has no box at all.
    """
    mask = annotation.segmentation
    if isinstance(mask, list) and len(mask) == 1 and len(mask[0]) == 8:
        return list(mask[0]), True
    rotated = annotation.attributes.get("rbox")
    if rotated is not None:
        return corners(rotated), not mask
    box = annotation_box(annotation)
    if box is None:
        return None, False
    left, top, right, bottom = box
    return [left, top, right, top, right, bottom, left, bottom], not mask


def with_rotated_boxes(content: dict[str, Any]) -> dict[str, Any]:
    """The JSON value of a COCO file with each annotation's attribute `rbox` as its `bbox`.

    A `bbox` of five numbers is how Detectron2 knows rotated boxes in JSON. An annotation without
    the attribute gets its upright box at angle 0.
    """
    annotations = [
        annotation | {"bbox": _rotated_bbox(annotation)}
        for annotation in content.get("annotations") or []
    ]
    return content | {"annotations": annotations}


def _rotated_bbox(annotation: dict[str, Any]) -> Any:
    rotated = (annotation.get("attributes") or {}).get("rbox")
    if rotated is not None or len(annotation.get("bbox") or ()) != 4:
        return rotated or annotation.get("bbox")
    x, y, width, height = annotation["bbox"]
    return [x + width / 2, y + height / 2, width, height, 0]


def _signed_area(points: Sequence[tuple[float, float]]) -> float:
    """Twice the area; positive if the corners run clockwise on the screen."""
    following = [*points[1:], points[0]]
    return sum(x * v - u * y for (x, y), (u, v) in zip(points, following, strict=True))
