"""Instances of several parts, which some tools draw as several shapes of one group."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from dataset_tools.coco import Annotation, Image
from dataset_tools.notes import Notes
from dataset_tools.shapes import points_annotation, rectangle_polygon


def join_groups(
    annotations: Sequence[Annotation],
    image: Image,
    notes: Notes,
    is_part: Callable[[Annotation], bool],
) -> list[Annotation]:
    """One annotation for all that have the same category and attribute `group_id` (areas by
    themselves, points by themselves), where the first of them is. Others stay as they are."""
    found: dict[Any, list[Annotation]] = {}
    for index, annotation in enumerate(annotations):
        key = _group(annotation) if is_part(annotation) else None
        found.setdefault(index if key is None else key, []).append(annotation)
    return [parts[0] if len(parts) == 1 else _join(parts, image, notes) for parts in found.values()]


class GroupNumbers:
    """Group numbers for an image's annotations as shapes: one for each that has several."""

    def __init__(self, image: Image, is_part: Callable[[Annotation], bool]) -> None:
        self._is_part = is_part
        self._used = {
            value
            for annotation in image.annotations
            if isinstance(value := annotation.attributes.get("group_id"), int)
        }
        self._given: set[Any] = set()

    def number(self, annotation: Annotation, parts: int) -> Any:
        """The annotation's own number, unless another one would be joined with it; else a new one
        if it has several parts, else None."""
        own, key = annotation.attributes.get("group_id"), _group(annotation)
        if parts == 1 and (own is None or not self._is_part(annotation)):
            return own
        if key is None or key in self._given:
            if parts == 1:
                return None
            own = next(number for number in range(1, 2**53) if number not in self._used)
            self._used.add(own)
        self._given.add(_key(annotation, own))
        return own


def _group(annotation: Annotation) -> Any:
    own = annotation.attributes.get("group_id")
    return None if own is None else _key(annotation, own)


def _key(annotation: Annotation, number: Any) -> Any:
    return annotation.category, str(number), "points" in annotation.attributes


def _join(parts: list[Annotation], image: Image, notes: Notes) -> Annotation:
    """One annotation of the parts, with what any of them says."""
    first = parts[0]
    said = [
        {k: v for k, v in part.attributes.items() if k not in ("points", "shape", "rbox")}
        for part in parts
    ]
    if any(other != said[0] for other in said):
        notes.suspect("group of shapes that say different things (the first counts)", first.source)
    attributes: dict[str, Any] = {}
    for other in reversed(said):
        attributes |= other
    common: dict[str, Any] = {
        "source": first.source,
        "iscrowd": any(part.iscrowd for part in parts),
        "attributes": attributes,
    }
    if "points" in first.attributes:
        points = [value for part in parts for value in part.attributes["points"]]
        return points_annotation(first.category, points, "point", **common)
    polygons = [polygon for part in parts for polygon in _polygons(part)]
    masks = [part.segmentation for part in parts if isinstance(part.segmentation, dict)]
    segmentation = _union(masks, polygons, image) if masks else polygons
    return Annotation(first.category, segmentation=segmentation, **common)


def _polygons(part: Annotation) -> list[list[float]]:
    if isinstance(part.segmentation, dict):
        return []
    return part.segmentation or [rectangle_polygon(part.bbox)]


def _union(masks: list[dict], polygons: list[list[float]], image: Image) -> dict[str, Any]:
    from pycocotools import mask as coco_mask

    drawn = coco_mask.frPyObjects(polygons, image.height, image.width) if polygons else []
    packed = [{**mask, "counts": mask["counts"].encode("ascii")} for mask in masks]
    union = coco_mask.merge(packed + drawn)
    return {"size": [image.height, image.width], "counts": union["counts"].decode("ascii")}
