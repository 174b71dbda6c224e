"""Rules over boxes, masks and keypoints.

`subject.tolerance` (px) is how far a coordinate may be off before it counts: labels drawn by hand
or rounded to whole pixels are off by up to one.
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Iterator, Sequence

from dataset_tools.checks.report import Severity, rule
from dataset_tools.checks.subject import AnnotationRow, Box, Subject, is_number, once
from dataset_tools.coco import Segmentation
from dataset_tools.rle import polygons_box, rle_area, rle_box

SIDE_SHARE = 0.05  # of a box's side that its mask may differ by, besides the tolerance
SAME_BOX_IOU = 0.95  # from here on two boxes of a class are thought to be one object labelled twice
_POLYGONS_AT_ONCE = 50_000
_ROWS_AT_ONCE = 256


@rule(Severity.ERROR, mend="the corners are swapped")
def inverted_box(subject: Subject) -> Iterator[str]:
    """A box of negative width or height has its corners swapped; its loss is meaningless."""
    for row in _with_box(subject):
        width, height = _sides(row.box)
        if width < 0 or height < 0:
            yield f"{row.place}: {_size(row.box)} px"


@rule(
    Severity.ERROR,
    mend="taken from the mask; without one the annotation is dropped: it has no pixel",
)
def zero_area_box(subject: Subject) -> Iterator[str]:
    """A box without area has no pixel to learn from; Detectron2 leaves it out without a word, and
    in evaluation it can never be found."""
    for row in _with_box(subject):
        width, height = _sides(row.box)
        if min(width, height) == 0:
            yield f"{row.place}: {_size(row.box)} px"


@rule(Severity.WARNING, mend="clipped to the image")
def box_outside_image(subject: Subject) -> Iterator[str]:
    """A box that reaches out of its image asks the network for pixels that it does not see."""
    for row, box in _solid_boxes(subject):
        if row.image is not None and row.image.size is not None:
            excess = reach_outside(box, row.image.size)
            if excess > subject.tolerance and touches(box, row.image.size):
                yield f"{row.place}: {excess:g} px outside"


@rule(Severity.ERROR, mend="dropped: no pixel of it is in the image")
def box_beyond_image(subject: Subject) -> Iterator[str]:
    """A box wholly outside of its image labels nothing: often the image was cropped or resized
    after labelling, and the other boxes are wrong too."""
    for row, box in _solid_boxes(subject):
        if (
            row.image is not None
            and row.image.size is not None
            and not touches(box, row.image.size)
        ):
            yield f"{row.place}: {_xyxy(box)} in an image of {'×'.join(map(str, row.image.size))}"


@rule(Severity.WARNING, mend="all but the first are dropped")
def duplicate_annotation(subject: Subject) -> Iterator[str]:
    """An object labelled twice counts twice in the loss, and can be found once only: recall
    drops."""
    for _, row in duplicates(subject):
        yield row.place


@rule(Severity.WARNING)
def nearly_duplicate_annotation(subject: Subject) -> Iterator[str]:
    """Two boxes of one class that nearly coincide are mostly one object labelled twice."""
    exact = {id(row) for pair in duplicates(subject) for row in pair}
    for rows in _by_image(subject).values():
        rows = [row for row in rows if id(row) not in exact and not row.entry.get("iscrowd")]
        for first, second, iou in _overlapping(rows):
            if first.category is second.category:
                yield f"{second.place}: IoU {iou:.2f} with id {first.id}"


@rule(Severity.WARNING)
def one_box_two_categories(subject: Subject) -> Iterator[str]:
    """The same box with two classes: at most one is right, unless the task has several labels."""
    seen: dict[tuple, AnnotationRow] = {}
    for row, box in _solid_boxes(subject):
        if row.image is None or row.category is None or subject.panoptic:
            continue
        first = seen.setdefault((id(row.image), *_rounded(box)), row)
        if first.category is not row.category:
            names = f"{row.category.name!r}, but id {first.id} says {first.category.name!r}"
            yield f"{row.place}: {names}"


@rule(Severity.ERROR, mend="removed; the box stays")
def mask_without_area(subject: Subject) -> Iterator[str]:
    """A polygon of fewer than three points or on one line, or an RLE without a pixel, is no mask.
    Detectron2 leaves the object out; pycocotools takes four numbers for a box."""
    for row in subject.annotations:
        if isinstance(row.segmentation, dict) and rle_area(row.segmentation) == 0:
            yield f"{row.place}: an RLE without a pixel"
    for row, polygon, area, _ in _judged_polygons(subject):
        if area == 0:
            yield f"{row.place}: a polygon of {len(polygon) // 2} points and no area"


@rule(Severity.WARNING)
def self_crossing_polygon(subject: Subject) -> Iterator[str]:
    """Where a polygon crosses itself, inside and outside are swapped: its mask has holes."""
    for row, _, area, reason in _judged_polygons(subject):
        # A ring that only touches itself (as traced contours do) has a clear inside.
        if area > 0 and reason.startswith("Self-intersection"):
            yield f"{row.place}: at {reason.removeprefix('Self-intersection')}"


@rule(Severity.ERROR)
def broken_mask(subject: Subject) -> Iterator[str]:
    """A segmentation that is neither polygons nor an RLE whose runs fill the mask cannot be
    drawn."""
    yield from subject.faults["broken-mask"]


@rule(Severity.ERROR)
def mask_of_other_size(subject: Subject) -> Iterator[str]:
    """An RLE has as many pixels as its image, or it belongs to another one."""
    for row in subject.annotations:
        if (
            isinstance(row.segmentation, dict)
            and row.image is not None
            and row.image.size is not None
        ):
            height, width = row.segmentation["size"]
            if (width, height) != row.image.size:
                real = "×".join(map(str, row.image.size))
                yield f"{row.place}: a mask of {width}×{height} in an image of {real}"


@rule(Severity.WARNING)
def mask_box_disagreement(subject: Subject) -> Iterator[str]:
    """The mask and the box are of one object; if they differ, one of them is wrong or an edit was
    made to one only."""
    for row, box in _solid_boxes(subject):
        mask_box = segmentation_box(row.segmentation)
        if mask_box is None or _area(mask_box) == 0:
            continue
        if row.image is not None and row.image.size is not None:
            box, mask_box = clip(box, row.image.size), clip(mask_box, row.image.size)
        off = max(
            abs(edge - other) - SIDE_SHARE * side
            for edge, other, side in zip(box, mask_box, _sides(box) * 2, strict=True)
        )
        if off > subject.tolerance:
            yield f"{row.place}: the box is {_xyxy(box)}, the mask's {_xyxy(mask_box)}"


@rule(Severity.WARNING)
def partly_masked(subject: Subject) -> Iterator[str]:
    """If some objects have a mask and others do not, Mask R-CNN stops at the first image with
    both."""
    bare = [row for row in subject.annotations if not row.entry.get("segmentation")]
    if not subject.panoptic and len(bare) < len(subject.annotations):
        yield from (row.place for row in bare)


@rule(Severity.WARNING, mend="recomputed from the mask, else from the box")
def impossible_area(subject: Subject) -> Iterator[str]:
    """COCO sorts objects into small, medium and large by their area: with a wrong one (none, or
    more than the box holds) AP by size is of the wrong objects."""
    for row, box in _solid_boxes(subject):
        area = row.entry.get("area")
        # NaN is another rule's.
        if not is_number(area) or math.isnan(area):
            continue
        if not 0 < area <= most_area(box, subject.tolerance):
            yield f"{row.place}: area {area:g} in a box of {_size(box)} px"


@rule(Severity.ERROR)
def keypoint_count(subject: Subject) -> Iterator[str]:
    """Every object has as many keypoints as its category names, in their order."""
    for row in _with_keypoints(subject):
        count, named = len(row.keypoints) // 3, row.category.keypoints if row.category else None
        if named is not None and count != named:
            yield f"{row.place}: {count} keypoints, its category names {named}"


@rule(Severity.ERROR)
def keypoint_visibility(subject: Subject) -> Iterator[str]:
    """Visibility is 0 (not labelled), 1 (hidden) or 2 (visible); readers take other values for one
    of these, each in its own way."""
    for row in _with_keypoints(subject):
        odd = [value for value in row.keypoints[2::3] if value not in (0, 1, 2)]
        if odd:
            yield f"{row.place}: {odd[0]!r}"


@rule(Severity.NOTE)
def absent_keypoint_with_place(subject: Subject) -> Iterator[str]:
    """A keypoint that is not labelled (visibility 0) but has a place is either absent or was meant
    to be hidden (1)."""
    for row in _with_keypoints(subject):
        points = zip(row.keypoints[0::3], row.keypoints[1::3], row.keypoints[2::3], strict=True)
        if any(seen == 0 and (x or y) for x, y, seen in points):
            yield row.place


@rule(Severity.WARNING, mend="counted anew")
def num_keypoints_wrong(subject: Subject) -> Iterator[str]:
    """COCO's evaluation leaves out objects whose num_keypoints is 0, whatever their keypoints
    say."""
    for row in _with_keypoints(subject):
        counted = sum(seen > 0 for seen in row.keypoints[2::3])
        recorded = row.entry.get("num_keypoints")
        if recorded is not None and recorded != counted:
            yield f"{row.place}: num_keypoints is {recorded!r}, labelled are {counted}"


@rule(Severity.WARNING)
def keypoint_outside_image(subject: Subject) -> Iterator[str]:
    """A labelled keypoint outside of its image has no pixel to be learned from."""
    for row in _with_keypoints(subject):
        if row.image is None or row.image.size is None:
            continue
        for x, y, seen in zip(*(row.keypoints[start::3] for start in range(3)), strict=True):
            if seen > 0 and reach_outside((x, y, x, y), row.image.size) > subject.tolerance:
                yield f"{row.place}: ({x:g}, {y:g})"
                break


@once
def duplicates(subject: Subject) -> Iterator[tuple[AnnotationRow, AnnotationRow]]:
    """Pairs (first, later) of annotations of one image and category that are equal in box, mask and
    keypoints."""
    if subject.panoptic:
        return  # whether two segments are one is in the PNG, which is not read here
    seen: dict[tuple, list[AnnotationRow]] = defaultdict(list)
    for row, box in _solid_boxes(subject):
        if row.image is None:
            continue
        rows = seen[id(row.image), id(row.category), *_rounded(box)]
        for first in rows:
            if _same_shape(first, row):
                yield first, row
                break
        else:
            rows.append(row)


def segmentation_box(segmentation: Segmentation | None) -> Box | None:
    """XYXY box of a mask; None if it has no pixel or there is none."""
    if isinstance(segmentation, dict):
        return rle_box(segmentation)
    return polygons_box(segmentation) if segmentation else None


def reach_outside(box: Box, size: tuple[int, int]) -> float:
    """By how many px a box reaches out of an image of (width, height) at most; 0 if it does not."""
    return max(-box[0], -box[1], box[2] - size[0], box[3] - size[1], 0)


def touches(box: Box, size: tuple[int, int]) -> bool:
    """Whether box and image share some area."""
    return _area(clip(box, size)) > 0


def clip(box: Box, size: tuple[int, int]) -> Box:
    """The part of the box in an image of (width, height); empty (not inverted) if there is none."""
    (x0, y0, x1, y1), (width, height) = box, size
    x0, y0 = min(max(x0, 0), width), min(max(y0, 0), height)
    return (x0, y0, max(x0, min(x1, width)), max(y0, min(y1, height)))


def most_area(box: Box, tolerance: float) -> float:
    """The largest area in px² that an object in the box can have; some slack for how areas are
    counted."""
    width, height = _sides(box)
    return (width + 2 * tolerance) * (height + 2 * tolerance) * (1 + SIDE_SHARE)


def polygon_areas(polygons: Sequence[Sequence[float]]) -> tuple[list[float], list[str]]:
    """Area of each polygon (0 if it has fewer than three points) and shapely's word on its
    validity."""
    import numpy as np
    import shapely

    areas, reasons = [0.0] * len(polygons), [""] * len(polygons)
    rings = [_open_ring(polygon) for polygon in polygons]
    usable = [index for index, ring in enumerate(rings) if len(ring) >= 6]
    if usable:
        flat = np.fromiter(itertools.chain.from_iterable(rings[i] for i in usable), float)
        owner = np.repeat(np.arange(len(usable)), [len(rings[i]) // 2 for i in usable])
        points = flat.reshape(-1, 2)
        shapes = shapely.polygons(shapely.linearrings(points, indices=owner))
        valid = shapely.is_valid(shapes)
        words = np.full(len(usable), "", dtype=object)
        words[~valid] = shapely.is_valid_reason(shapes[~valid])
        hulls = shapely.area(shapely.convex_hull(shapes))
        for index, area, word in zip(usable, hulls, words, strict=True):
            # Of a figure of eight the signed areas may cancel; on one line is what has no hull.
            areas[index], reasons[index] = float(area), str(word)
    return areas, reasons


def _open_ring(polygon: Sequence[float]) -> Sequence[float]:
    """The polygon without its first point again at the end."""
    while len(polygon) > 2 and polygon[:2] == polygon[-2:]:
        polygon = polygon[:-2]
    return polygon


@once
def _judged_polygons(
    subject: Subject,
) -> Iterator[tuple[AnnotationRow, list[float], float, str]]:
    """Every polygon with its row, its area (of the convex hull) and shapely's complaint."""
    pairs = [
        (row, polygon)
        for row in subject.annotations
        if isinstance(row.segmentation, list)
        for polygon in row.segmentation
    ]
    for start in range(0, len(pairs), _POLYGONS_AT_ONCE):
        some = pairs[start : start + _POLYGONS_AT_ONCE]
        areas, reasons = polygon_areas([polygon for _, polygon in some])
        for (row, polygon), area, reason in zip(some, areas, reasons, strict=True):
            yield row, polygon, area, reason


def _overlapping(
    rows: list[AnnotationRow],
) -> Iterator[tuple[AnnotationRow, AnnotationRow, float]]:
    """Pairs of rows whose boxes have at least SAME_BOX_IOU."""
    import numpy as np

    if len(rows) < 2:
        return
    boxes = np.array([row.box for row in rows], dtype=float)
    area = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        some = slice(start, start + _ROWS_AT_ONCE)
        low = np.maximum(boxes[some, None, :2], boxes[None, :, :2])
        high = np.minimum(boxes[some, None, 2:], boxes[None, :, 2:])
        shared = np.prod(np.clip(high - low, 0, None), axis=2)
        iou = shared / (area[some, None] + area[None] - shared)
        for first, second in zip(*np.nonzero(iou >= SAME_BOX_IOU), strict=True):
            if start + first < second:
                yield rows[start + first], rows[second], float(iou[first, second])


def _by_image(subject: Subject) -> dict[int, list[AnnotationRow]]:
    groups: dict[int, list[AnnotationRow]] = defaultdict(list)
    for row, _ in _solid_boxes(subject):
        if row.image is not None:
            groups[id(row.image)].append(row)
    return groups


def _same_shape(first: AnnotationRow, second: AnnotationRow) -> bool:
    return all(
        first.entry.get(key) == second.entry.get(key)
        for key in ("segmentation", "keypoints", "iscrowd")
    )


def _with_box(subject: Subject) -> Iterator[AnnotationRow]:
    return (row for row in subject.annotations if row.box is not None)


def _solid_boxes(subject: Subject) -> Iterator[tuple[AnnotationRow, Box]]:
    """Rows whose box has an area: what else is wrong with the others does not matter."""
    for row in _with_box(subject):
        width, height = _sides(row.box)
        if width > 0 and height > 0:
            yield row, row.box


def _with_keypoints(subject: Subject) -> Iterator[AnnotationRow]:
    return (row for row in subject.annotations if row.keypoints is not None)


def _rounded(box: Box) -> tuple[float, ...]:
    """To the hundredth of a pixel: closer than any label means."""
    return tuple(round(value, 2) for value in box)


def _sides(box: Box) -> tuple[float, float]:
    return (box[2] - box[0], box[3] - box[1])


def _area(box: Box) -> float:
    width, height = _sides(box)
    return width * height


def _size(box: Box) -> str:
    width, height = _sides(box)
    return f"{width:g}×{height:g}"


def _xyxy(box: Box) -> str:
    return "(" + ", ".join(f"{value:.1f}" for value in box).replace(".0", "") + ")"
