"""Rows of Hugging Face datasets of images: what their columns mean, to and from records.

The documentation of `datasets` shows for object detection a column `objects` with the lists `bbox`
(COCO's x, y, width, height in pixels) and `categories`, for classification `label`, for captions
`text`. Class names, where there are any, are in the dataset's features (`ClassLabel`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dataset_tools.coco import Annotation, Box, Image, whole_image
from dataset_tools.errors import InputError
from dataset_tools.json_fields import numbers
from dataset_tools.labels import class_name
from dataset_tools.notes import Notes

OBJECTS = ("objects", "annotations", "faces")
BOXES = ("bbox", "bboxes", "boxes", "box")
CATEGORIES = (
    "category",
    "categories",
    "label",
    "labels",
    "category_id",
    "class",
    "classes",
    "name",
)
LABELS = ("label", "labels", "class", "fine_label", "category")
CAPTIONS = ("text", "caption", "captions")
BOX_FORMS = ("xywh", "xyxy", "cxcywh")
_CROWDS = ("iscrowd", "is_crowd")


@dataclass
class RowReader:
    """Puts what a row says into an image's record."""

    names: Mapping[str, Sequence[str]] = field(
        default_factory=dict
    )  # by column: `objects.category`
    given: Sequence[str] | None = None  # names for all numbers, by the user
    box: str = "xywh"

    def fill(self, image: Image, row: Mapping[str, Any], notes: Notes) -> None:
        """Add objects, labels, captions and attributes. InputError for what is malformed."""
        for key, value in row.items():
            if value is None or key in ("width", "height"):
                continue
            if key in OBJECTS:
                image.annotations += self._objects(key, value, image, notes)
            elif key in LABELS:
                for label in value if isinstance(value, list) else [value]:
                    name = self._name(key, label, image.source)
                    image.annotations.append(
                        whole_image(name, image.width, image.height, image.source)
                    )
            elif key in CAPTIONS:
                texts = value if isinstance(value, list) else [value]
                image.attributes.setdefault("captions", []).extend(map(str, texts))
            else:
                _put(image.attributes, key, self._plain(key, value), image.source, notes)

    def declared(self) -> list[str]:
        """All class names of objects and labels, in order, each once."""
        columns = [*(f"{o}.{c}" for o in OBJECTS for c in CATEGORIES), *LABELS]
        lists = [self.given] if self.given else [self.names[c] for c in columns if c in self.names]
        return list(dict.fromkeys(name for names in lists for name in names))

    def _objects(self, key: str, value: Any, image: Image, notes: Notes) -> list[Annotation]:
        found = []
        for index, entry in enumerate(_entries(key, value, image.source)):
            place = f"{image.source} {key}[{index}]"
            box_key = next((name for name in BOXES if entry.get(name) is not None), None)
            category_key = next((c for c in CATEGORIES if entry.get(c) is not None), None)
            if box_key is None:
                notes.drop("object without a box", place)
                continue
            name = "object"
            if category_key is not None:
                name = self._name(f"{key}.{category_key}", entry[category_key], place)
            annotation = Annotation(name, self._box(entry, box_key, place), source=place)
            for other, more in entry.items():
                if other in _CROWDS:
                    annotation.iscrowd = bool(more)
                elif other == "area" and isinstance(more, int | float) and math.isfinite(more):
                    annotation.area = more
                elif other not in (box_key, category_key) and more is not None:
                    plain = self._plain(f"{key}.{other}", more)
                    _put(annotation.attributes, other, plain, place, notes)
            found.append(annotation)
        return found

    def _box(self, entry: dict[str, Any], key: str, place: str) -> Box:
        values = numbers(entry, key, place)
        if len(values) != 4:
            raise InputError(f"{place}: a {key} has four numbers, not {len(values)}.")
        first, second, third, fourth = values
        if self.box == "xywh":
            return (first, second, first + third, second + fourth)
        if self.box == "cxcywh":
            half, tall = third / 2, fourth / 2
            return (first - half, second - tall, first + half, second + tall)
        return (first, second, third, fourth)

    def _name(self, column: str, value: Any, place: str) -> str:
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int | str) or value == "":
            raise InputError(f"{place}: {column} is {value!r}, not a class.")
        if isinstance(value, str):
            return value
        return class_name(value, self.given or self.names.get(column), f"{place} {column}")

    def _plain(self, column: str, value: Any) -> Any:
        names = self.names.get(column)
        if names and type(value) is int and 0 <= value < len(names):
            return names[value]
        return value


def row_of(image: Image, notes: Notes) -> dict[str, Any]:
    """Columns for an image: `objects` (lists), `labels` and `text`, classes by name."""
    objects: dict[str, list[Any]] = {"bbox": [], "category": [], "area": [], "iscrowd": []}
    labels: list[str] = []
    for annotation in image.annotations:
        if annotation.attributes.get("whole_image"):
            labels.append(annotation.category)
            continue
        box = annotation.bbox
        if box is None:
            notes.drop("object without a box", annotation.source)
            continue
        if annotation.segmentation:
            notes.drop("mask of an object (its box is written)", annotation.source)
        if annotation.keypoints:
            notes.drop("keypoints of an object (its box is written)", annotation.source)
        if annotation.attributes:
            notes.drop("attributes of an object", annotation.source)
        width, height = box[2] - box[0], box[3] - box[1]
        objects["bbox"].append([round(n, 6) for n in (box[0], box[1], width, height)])
        objects["category"].append(annotation.category)
        objects["area"].append(
            float(width * height if annotation.area is None else annotation.area)
        )
        objects["iscrowd"].append(annotation.iscrowd)
    captions = image.attributes.get("captions", [])
    if image.attributes.keys() - {"captions"}:
        notes.drop("attributes of an image (all but captions)", image.file_name)
    return {"objects": objects, "labels": labels, "text": [str(caption) for caption in captions]}


def _entries(key: str, value: Any, place: str) -> list[dict[str, Any]]:
    """One dictionary for each object, from a list of them, a dictionary of lists, or JSON text."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{place}: {key} is text, but not JSON: {error}.") from error
    if isinstance(value, dict):
        lists = {k: v for k, v in value.items() if v is not None}
        lengths = {len(v) if isinstance(v, list) else -1 for v in lists.values()}
        if len(lengths) > 1 or -1 in lengths:
            raise InputError(f"{place}: the lists in {key} are not of one length: {sorted(lists)}.")
        return [dict(zip(lists, entry, strict=True)) for entry in zip(*lists.values(), strict=True)]
    if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
        raise InputError(f"{place}: {key} is neither a list of objects nor lists in an object.")
    return value


def _put(attributes: dict[str, Any], key: str, value: Any, place: str, notes: Notes) -> None:
    """Keep what JSON can hold."""
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        notes.drop(f"value of {key}, which JSON cannot hold", place)
    else:
        attributes[key] = value
