"""An annotation file as the rules see it: what can be read is in rows, what cannot is a fault.

A row's field is None where the file's value is missing or unusable, so every rule can do its work
on a broken file; the faults say what was wrong with the value.
"""

from __future__ import annotations

import functools
import math
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from dataset_tools.coco import read_json, read_segmentation
from dataset_tools.errors import InputError

if TYPE_CHECKING:
    from dataset_tools.checks.pictures import Probe

T = TypeVar("T")
Box = tuple[float, float, float, float]


@dataclass(slots=True, eq=False)
class CategoryRow:
    """An entry of "categories"."""

    place: str
    entry: dict[str, Any]
    id: int | None
    name: str | None
    keypoints: int  # how many keypoint names it declares


@dataclass(slots=True, eq=False)
class ImageRow:
    """An entry of "images"."""

    place: str
    entry: dict[str, Any]
    id: int | None
    file_name: str | None
    width: int | None
    height: int | None
    probe: Probe | None = None  # what the file itself says; None while it was not looked at

    @property
    def size(self) -> tuple[int, int] | None:
        """(width, height) px of the file if that is known, else the recorded one."""
        if self.probe is not None and self.probe.size is not None:
            return self.probe.size
        return None if self.width is None or self.height is None else (self.width, self.height)


@dataclass(slots=True, eq=False)
class AnnotationRow:
    """An entry of "annotations", or one of a panoptic entry's "segments_info"."""

    place: str
    entry: dict[str, Any]
    id: int | None
    image: ImageRow | None
    category: CategoryRow | None
    box: Box | None  # XYXY px as recorded: may be empty or inverted, never NaN
    segmentation: list[list[float]] | dict[str, Any] | None  # polygons, or RLE with text as counts
    keypoints: list[float] | None


@dataclass
class Subject:
    """One annotation file; `faults` holds the places that could not be read, by the rule they
    break."""

    path: Path
    root: Path | None  # of the images
    content: dict[str, Any] = field(default_factory=dict)
    categories: list[CategoryRow] = field(default_factory=list)
    images: list[ImageRow] = field(default_factory=list)
    annotations: list[AnnotationRow] = field(default_factory=list)
    faults: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    panoptic: bool = False
    tolerance: float = 1.0  # px that a coordinate may be off
    kept: dict[str, list] = field(default_factory=dict)  # see `once`

    def fault(self, rule: str, place: str) -> None:
        """Remember that the value at `place` cannot be used."""
        self.faults[rule].append(place)


def once(find: Callable[[Subject], Iterator[T]]) -> Callable[[Subject], list[T]]:
    """Make a generator over a subject run once only: several rules may ask for what it finds."""

    @functools.wraps(find)
    def found(subject: Subject) -> list[T]:
        if find.__name__ not in subject.kept:
            subject.kept[find.__name__] = list(find(subject))
        return subject.kept[find.__name__]

    return found


def read_subject(path: Path, root: Path | None) -> Subject:
    """Read an annotation file; one that is not COCO at all gives a subject with nothing but a
    fault."""
    if not path.is_file():
        raise InputError(f"There is no annotation file {path}. Check the path.")
    try:
        content = read_json(path)
    except InputError as error:
        subject = Subject(path, root)
        subject.fault("not-json", str(error).removeprefix(f"{path}: "))
        return subject
    return parse(path, root, content)


def parse(path: Path, root: Path | None, content: Any) -> Subject:
    """The rows of a COCO file's content."""
    subject = Subject(path, root)
    if not isinstance(content, dict):
        subject.fault("not-coco", "the top of the file is not an object in braces")
        return subject
    subject.content = content
    for key in ("images", "annotations", "categories"):
        if not isinstance(content.get(key), list):
            subject.fault("not-coco", f'there is no list "{key}" at the top')
    return _Parser(subject).parse()


class _Parser:
    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self.category_of: dict[int, CategoryRow] = {}
        self.image_of: dict[int, ImageRow] = {}

    def parse(self) -> Subject:
        subject = self.subject
        for place, entry in self.entries("categories"):
            subject.categories.append(self.category(place, entry))
        for place, entry in self.entries("images"):
            subject.images.append(self.image(place, entry))
        for place, entry in self.entries("annotations"):
            segments = entry.get("segments_info")
            if not isinstance(segments, list):
                subject.annotations.append(self.annotation(place, entry, self.image_row(entry)))
                continue
            subject.panoptic = True
            image = self.linked_image(place, entry)
            for index, segment in enumerate(segments):
                if isinstance(segment, dict):
                    inner = f"{place}.segments_info[{index}]"
                    subject.annotations.append(self.annotation(inner, segment, image, linked=True))
        return subject

    def entries(self, key: str) -> list[tuple[str, dict]]:
        values = self.subject.content.get(key)
        found = []
        for index, entry in enumerate(values if isinstance(values, list) else []):
            if isinstance(entry, dict):
                found.append((f"{key}[{index}]", entry))
            else:
                self.subject.fault("wrong-type", f"{key}[{index}]: not an object in braces")
        return found

    def category(self, place: str, entry: dict) -> CategoryRow:
        names = entry.get("keypoints") or []
        if not isinstance(names, list):
            self.subject.fault("wrong-type", f"{place}: keypoints is not a list of names")
            names = []
        row = CategoryRow(
            place=f"{place} {entry.get('name')!r}",
            entry=entry,
            id=self.whole(place, entry, "id"),
            name=self.text(place, entry, "name"),
            keypoints=len(names),
        )
        if row.id is not None:
            self.category_of.setdefault(row.id, row)
        return row

    def image(self, place: str, entry: dict) -> ImageRow:
        row = ImageRow(
            place=f"{place} {entry.get('file_name')}",
            entry=entry,
            id=self.whole(place, entry, "id"),
            file_name=self.text(place, entry, "file_name"),
            width=self.side(place, entry, "width"),
            height=self.side(place, entry, "height"),
        )
        if row.id is not None:
            self.image_of.setdefault(row.id, row)
        return row

    def image_row(self, entry: dict) -> ImageRow | None:
        key = entry.get("image_id")
        return self.image_of.get(key) if _is_whole(key) else None

    def linked_image(self, place: str, entry: dict) -> ImageRow | None:
        image_id = self.whole(place, entry, "image_id")
        image = self.image_row(entry)
        if image is None and image_id is not None:
            self.subject.fault("dangling-image-id", f"{place}: image_id {image_id}")
        return image

    def annotation(
        self, place: str, entry: dict, image: ImageRow | None, linked: bool = False
    ) -> AnnotationRow:
        place = f"{place} (id {entry.get('id')}{f' in {image.file_name}' if image else ''})"
        if not linked:
            image = self.linked_image(place, entry)
        category_id = self.whole(place, entry, "category_id")
        category = self.category_of.get(category_id) if category_id is not None else None
        if category is None and category_id is not None:
            self.subject.fault("dangling-category-id", f"{place}: category_id {category_id}")
        self.optional_numbers(place, entry)
        return AnnotationRow(
            place=place,
            entry=entry,
            id=self.whole(place, entry, "id"),
            image=image,
            category=category,
            box=self.box(place, entry),
            segmentation=self.segmentation(place, entry),
            keypoints=self.keypoints(place, entry),
        )

    def optional_numbers(self, place: str, entry: dict) -> None:
        if entry.get("iscrowd", 0) not in (0, 1, None):
            self.subject.fault(
                "wrong-type", f"{place}: iscrowd is {entry['iscrowd']!r}, not 0 or 1"
            )
        known = {"bbox", "segmentation", "keypoints"}
        for key, value in entry.items():
            if key == "area" and value is not None and not is_number(value):
                self.subject.fault("wrong-type", f"{place}: area is {value!r}, not a number")
            elif key not in known and not all_finite(value):
                self.subject.fault("not-a-number", f"{place}: {key} holds NaN or infinity")

    def box(self, place: str, entry: dict) -> Box | None:
        value = entry.get("bbox")
        if value is None or value == []:
            if not entry.get("segmentation") and not self.subject.panoptic:
                self.subject.fault("wrong-type", f"{place}: neither a bbox nor a segmentation")
            return None
        if not isinstance(value, list) or len(value) != 4 or not all(map(is_number, value)):
            self.subject.fault("wrong-type", f"{place}: bbox is {value!r}, not four numbers")
            return None
        if not all(map(math.isfinite, value)):
            self.subject.fault("not-a-number", f"{place}: bbox is {value}")
            return None
        x, y, width, height = value
        return (x, y, x + width, y + height)

    def segmentation(self, place: str, entry: dict) -> list[list[float]] | dict | None:
        value = entry.get("segmentation")
        try:
            segmentation = read_segmentation(value)
        except (ValueError, OverflowError) as fault:
            self.subject.fault("broken-mask", f"{place} {fault}")
            return None
        # NaN and infinity outlast a sum: much faster than looking at each number.
        if isinstance(segmentation, list) and not all(map(math.isfinite, map(sum, segmentation))):
            self.subject.fault("not-a-number", f"{place}: a polygon holds NaN or infinity")
            return None
        return segmentation

    def keypoints(self, place: str, entry: dict) -> list[float] | None:
        value = entry.get("keypoints")
        if value is None or value == []:
            return None
        if not isinstance(value, list) or len(value) % 3 or not all(map(is_number, value)):
            self.subject.fault("wrong-type", f"{place}: keypoints are not x, y, visibility triples")
            return None
        if not all(map(math.isfinite, value)):
            self.subject.fault("not-a-number", f"{place}: keypoints hold NaN or infinity")
            return None
        return value

    def whole(self, place: str, entry: dict, key: str) -> int | None:
        value = entry.get(key)
        if _is_whole(value):
            return int(value)
        what = f"{key} is {value!r}, not a whole number" if key in entry else f"there is no {key}"
        self.subject.fault("wrong-type", f"{place}: {what}")
        return None

    def side(self, place: str, entry: dict, key: str) -> int | None:
        value = self.whole(place, entry, key)
        if value is not None and value < 1:
            self.subject.fault("wrong-type", f"{place}: {key} is {value}, not a length in px")
            return None
        return value

    def text(self, place: str, entry: dict, key: str) -> str | None:
        value = entry.get(key)
        if isinstance(value, str) and value:
            return value
        what = f"{key} is {value!r}, not text" if key in entry else f"there is no {key}"
        self.subject.fault("wrong-type", f"{place}: {what}")
        return None


def is_number(value: Any) -> bool:
    """Whether a JSON value is a number (true and false are none)."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def all_finite(value: Any) -> bool:
    """Whether no number in a JSON value, however deep, is NaN or infinite."""
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, list):
        return all(map(all_finite, value))
    if isinstance(value, dict):
        return all(map(all_finite, value.values()))
    return True


def _is_whole(value: Any) -> bool:
    return is_number(value) and math.isfinite(value) and value == int(value)
