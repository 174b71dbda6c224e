"""Mends that lose nothing a training run could use: written to a new file, each one told."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, field
from typing import Any

from dataset_tools.checks.geometry import (
    clip,
    duplicates,
    most_area,
    polygon_areas,
    reach_outside,
    segmentation_box,
    touches,
)
from dataset_tools.checks.report import PLACES_KEPT
from dataset_tools.checks.subject import AnnotationRow, ImageRow, Subject, all_finite, parse
from dataset_tools.coco import Segmentation
from dataset_tools.errors import InputError
from dataset_tools.rle import Box, polygons_area, rle_area


@dataclass(slots=True)
class Mend:
    """One kind of thing done, how often, and the first ten places."""

    what: str
    count: int = 0
    places: list[str] = field(default_factory=list)


class _Journal:
    def __init__(self) -> None:
        self.mends: dict[str, Mend] = {}

    def tell(self, what: str, place: str) -> None:
        mend = self.mends.setdefault(what, Mend(what))
        mend.count += 1
        if len(mend.places) < PLACES_KEPT:
            mend.places.append(place)


def mend(subject: Subject) -> tuple[dict[str, Any], list[Mend]]:
    """A mended copy of the file's content, and what was done. The subject stays as it is.

    InputError for what is no COCO file of objects (panoptic, or not readable).
    """
    if subject.panoptic or any(subject.faults[rule] for rule in ("not-json", "not-coco")):
        raise InputError(
            f"{subject.path} is not a COCO file of objects, so nothing in it can be mended. "
            + (
                "Panoptic files are only checked."
                if subject.panoptic
                else "Run check without --fix."
            )
        )
    journal = _Journal()
    fresh = _reread(subject, copy.deepcopy(subject.content))
    _null_strays(fresh, journal)
    for row in fresh.images:
        _mend_image_size(row, fresh, journal)
    _join_images(fresh, journal)
    _join_categories(fresh, journal)
    kept = [row for row in fresh.annotations if _mend_annotation(row, fresh, journal)]
    unreadable = [entry for entry in fresh.content["annotations"] if not isinstance(entry, dict)]
    fresh.content["annotations"] = [row.entry for row in kept] + unreadable
    # Boxes that were apart may be equal now, so duplicates are looked for in what has become of
    # them.
    fresh = _reread(subject, fresh.content)
    _drop_duplicates(fresh, journal)
    _renumber(fresh, journal)
    return fresh.content, list(journal.mends.values())


def _reread(subject: Subject, content: dict[str, Any]) -> Subject:
    fresh = parse(subject.path, subject.root, content)
    fresh.tolerance = subject.tolerance
    probes = {row.file_name: row.probe for row in subject.images}
    for row in fresh.images:
        row.probe = probes.get(row.file_name)
    return fresh


def _null_strays(subject: Subject, journal: _Journal) -> None:
    """NaN in fields that are no geometry says "unknown"; JSON's word for that is null."""
    for key in ("images", "categories", "annotations"):
        for index, entry in enumerate(subject.content[key]):
            for name, value in entry.items() if isinstance(entry, dict) else ():
                if name not in ("bbox", "segmentation", "keypoints", "area") and not all_finite(
                    value
                ):
                    entry[name] = _nulled(value)
                    journal.tell(f"NaN or infinity in {name} became null", f"{key}[{index}]")
    for key, value in subject.content.items():
        if key not in ("images", "categories", "annotations") and not all_finite(value):
            subject.content[key] = _nulled(value)
            journal.tell(f"NaN or infinity in {key} became null", key)


def _nulled(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, list):
        return [_nulled(item) for item in value]
    if isinstance(value, dict):
        return {key: _nulled(item) for key, item in value.items()}
    return value


def _mend_image_size(row: ImageRow, subject: Subject, journal: _Journal) -> None:
    """Record the file's size where nothing speaks for the recorded one.

    A recorded size that all boxes fit into, while they fit into the real one too, may be that of
    the image that was labelled: then the boxes would have to be scaled or turned, and who knows
    how.
    """
    real = row.probe.size if row.probe is not None else None
    if real is None or real == (row.width, row.height):
        return
    boxes = [other.box for other in subject.annotations if other.image is row and other.box]
    tolerance = subject.tolerance

    def holds_all(size: tuple[int, int]) -> bool:
        return all(reach_outside(box, size) <= tolerance for box in boxes)

    if not holds_all(real):
        return
    if row.width is not None and row.height is not None and boxes:
        off = max(abs(row.width - real[0]), abs(row.height - real[1]))
        if off > tolerance and holds_all((row.width, row.height)):
            return
    row.entry["width"], row.entry["height"] = real
    journal.tell("recorded size set to that of the file", row.place)


def _join_images(subject: Subject, journal: _Journal) -> None:
    """Entries that name the same file with the same size become one."""
    first_of: dict[str, ImageRow] = {}
    by_id: dict[int, list[ImageRow]] = {}
    for row in subject.images:
        by_id.setdefault(row.id, []).append(row)
    new_id: dict[int, int] = {}
    joined: set[int] = set()
    for row in subject.images:
        if row.file_name is None or row.id is None:
            continue
        first = first_of.setdefault(row.file_name, row)
        if first is row or _recorded(first) != _recorded(row):
            continue
        # An id that also belongs to another file cannot be followed.
        if any(other.file_name != row.file_name for other in by_id[row.id]):
            continue
        joined.add(id(row.entry))
        new_id[row.id] = first.id
        journal.tell("image entries of the same file joined", row.place)
    if not joined:
        return
    images = [entry for entry in subject.content["images"] if id(entry) not in joined]
    subject.content["images"] = images
    _repoint(subject, "image_id", new_id)


def _join_categories(subject: Subject, journal: _Journal) -> None:
    first_of: dict[str, Any] = {}
    new_id: dict[int, int] = {}
    joined: set[int] = set()
    ids = [row.id for row in subject.categories]
    for row in subject.categories:
        if row.name is None or row.id is None:
            continue
        first = first_of.setdefault(row.name, row)
        if first is row or ids.count(row.id) > 1 or ids.count(first.id) > 1:
            continue
        joined.add(id(row.entry))
        new_id[row.id] = first.id
        journal.tell("categories of the same name joined", row.place)
    if not joined:
        return
    categories = [entry for entry in subject.content["categories"] if id(entry) not in joined]
    subject.content["categories"] = categories
    _repoint(subject, "category_id", new_id)


def _repoint(subject: Subject, key: str, new_id: dict[int, int]) -> None:
    for row in subject.annotations:
        value = row.entry.get(key)
        if isinstance(value, int | float) and value in new_id:
            row.entry[key] = new_id[value]


def _recorded(row: ImageRow) -> tuple[Any, Any]:
    return row.entry.get("width"), row.entry.get("height")


def _mend_annotation(row: AnnotationRow, subject: Subject, journal: _Journal) -> bool:
    """Mend the entry of a row in place; False if it is to be dropped."""
    image_id = row.entry.get("image_id")
    if row.image is None and isinstance(image_id, int | float) and math.isfinite(image_id):
        journal.tell("annotations of no listed image dropped", row.place)
        return False
    _mend_mask(row, journal)
    if not _mend_box(row, journal):
        return False
    if row.box is not None and row.image is not None and row.image.size is not None:
        size = row.image.size
        if not touches(row.box, size):
            journal.tell("boxes wholly outside of their image dropped: no pixel of it", row.place)
            return False
        if reach_outside(row.box, size) > subject.tolerance:
            _set_box(row, clip(row.box, size))
            journal.tell("boxes clipped to their image", row.place)
    _mend_area(row, subject.tolerance, journal)
    _mend_keypoints(row, journal)
    return True


def _mend_mask(row: AnnotationRow, journal: _Journal) -> None:
    value = row.entry.get("segmentation")
    if not value:
        return
    if not all_finite(value):
        row.entry.pop("segmentation")
        journal.tell("masks with NaN or infinity removed", row.place)
    elif isinstance(row.segmentation, dict) and rle_area(row.segmentation) == 0:
        row.entry.pop("segmentation")
        row.segmentation = None
        journal.tell("masks without a pixel removed", row.place)
    elif isinstance(row.segmentation, list):
        areas, _ = polygon_areas(row.segmentation)
        if 0 in areas:
            solid = [p for p, area in zip(row.segmentation, areas, strict=True) if area > 0]
            row.segmentation = row.entry["segmentation"] = solid or None
            if not solid:
                row.entry.pop("segmentation")
            journal.tell("polygons without area removed", row.place)


def _mend_box(row: AnnotationRow, journal: _Journal) -> bool:
    """Make the box whole; False if the annotation has neither box nor mask."""
    value = row.entry.get("bbox")
    mask_box = segmentation_box(row.segmentation)
    if row.box is None:
        if not value and row.entry.get("segmentation"):
            return True  # COCO's reader takes the box from the mask
        if not value or not all_finite(value):
            return _box_from_mask(row, mask_box, "without numbers", journal)
        return True  # of a wrong type: for a person
    x0, y0, x1, y1 = row.box
    if x1 < x0 or y1 < y0:
        _set_box(row, (min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)))
        journal.tell("inverted boxes turned", row.place)
    x0, y0, x1, y1 = row.box
    return (x1 > x0 and y1 > y0) or _box_from_mask(row, mask_box, "without area", journal)


def _box_from_mask(row: AnnotationRow, mask_box: Box | None, what: str, journal: _Journal) -> bool:
    if mask_box is None or mask_box[0] >= mask_box[2] or mask_box[1] >= mask_box[3]:
        journal.tell(f"boxes {what} dropped: they hold no pixel", row.place)
        return False
    _set_box(row, mask_box)
    journal.tell(f"boxes {what} taken from the mask", row.place)
    return True


def _set_box(row: AnnotationRow, box: Box) -> None:
    x0, y0, x1, y1 = row.box = box
    row.entry["bbox"] = [x0, y0, x1 - x0, y1 - y0]


def _mend_area(row: AnnotationRow, tolerance: float, journal: _Journal) -> None:
    area = row.entry.get("area")
    if row.box is None or not isinstance(area, int | float) or isinstance(area, bool):
        return
    if not 0 < area <= most_area(row.box, tolerance):
        x0, y0, x1, y1 = row.box
        row.entry["area"] = _mask_area(row.segmentation) or (x1 - x0) * (y1 - y0)
        journal.tell("areas computed anew", row.place)


def _mask_area(segmentation: Segmentation | None) -> float:
    if isinstance(segmentation, dict):
        return rle_area(segmentation)
    return polygons_area(segmentation) if segmentation else 0


def _mend_keypoints(row: AnnotationRow, journal: _Journal) -> None:
    if row.keypoints is None:
        if not all_finite(row.entry.get("keypoints")):
            _absent_where_nan(row, journal)
        return
    counted = sum(seen > 0 for seen in row.keypoints[2::3])
    if row.entry.get("num_keypoints", counted) != counted:
        row.entry["num_keypoints"] = counted
        journal.tell("keypoints counted anew", row.place)


def _absent_where_nan(row: AnnotationRow, journal: _Journal) -> None:
    points = row.entry["keypoints"]
    for start in range(0, len(points), 3):
        if not all_finite(points[start : start + 3]):
            points[start : start + 3] = [0, 0, 0]
    row.entry["num_keypoints"] = sum(bool(seen) for seen in points[2::3])
    journal.tell("keypoints without numbers marked as not labelled", row.place)


def _drop_duplicates(subject: Subject, journal: _Journal) -> None:
    twice = set()
    for _, row in duplicates(subject):
        twice.add(id(row.entry))
        journal.tell("annotations that are there already dropped", row.place)
    if twice:
        entries = subject.content["annotations"]
        subject.content["annotations"] = [entry for entry in entries if id(entry) not in twice]


def _renumber(subject: Subject, journal: _Journal) -> None:
    """New ids, above all others, for annotations whose id is there before."""
    entries = [entry for entry in subject.content["annotations"] if isinstance(entry, dict)]
    ids = [entry.get("id") for entry in entries]
    following = 1 + max((value for value in ids if isinstance(value, int)), default=0)
    seen: set[Any] = set()
    for index, entry in enumerate(entries):
        value = entry.get("id")
        if not isinstance(value, int):
            continue
        if value in seen:
            entry["id"] = following
            journal.tell(
                "annotations with the id of another one given a new id",
                f"id {value}, number {index}",
            )
            following += 1
        seen.add(value)
