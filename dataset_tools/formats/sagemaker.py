"""Manifests of AWS SageMaker Ground Truth (and Rekognition Custom Labels): a JSON object a line.

By Amazon's documentation of labelling jobs' output: `source-ref` names the image; a job's label is
under the job's attribute, what is said of it under that name with `-metadata`, whose `type` is

- groundtruth/object-detection: boxes by `left`, `top`, `width`, `height` in pixels from 0 and
  `class_id`, named by `class-map`;
- groundtruth/image-classification: the number of a class, named by `class-name`; -multilabel: a
  list of numbers, named by `class-map`;
- groundtruth/semantic-segmentation: the name of a PNG whose colours `internal-color-map` names.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from dataset_tools.coco import Annotation, Image, whole_image
from dataset_tools.errors import InputError
from dataset_tools.formats.base import Evidence, Format, Glimpse, Option, Plan, root_of
from dataset_tools.formats.json_lines import SUFFIXES, files_by_split, json_objects
from dataset_tools.formats.locate import locate, path_of_url
from dataset_tools.images import ImageIndex
from dataset_tools.json_fields import listed, mapped, number, objects, text
from dataset_tools.notes import Notes
from dataset_tools.rle import encode_mask

SOURCE = "source-ref"
_METADATA = "-metadata"
_BACKGROUND = "BACKGROUND"


@dataclass(frozen=True)
class Item:
    """A line of a manifest."""

    place: str
    line: dict[str, Any]
    split: str | None


def plan(
    path: Path, notes: Notes, images: Path | None = None, attribute: str | None = None
) -> Plan:
    """Plan to read a manifest, or the manifests in a folder."""
    items = [
        Item(place, line, split)
        for file, split in files_by_split(path, _looks_right, "manifest").items()
        for place, line in json_objects(file)
    ]
    if attribute is not None and not any(attribute in item.line for item in items):
        raise InputError(f"{path}: no line has a label under {attribute!r}. Check --attribute.")
    root = root_of(path, images)
    return Plan(image_root=root, items=items, read=_Reader(root, attribute))


def recognise(glimpse: Glimpse) -> Evidence | None:
    """Lines with source-ref and metadata."""
    name = glimpse.first(_looks_right, *SUFFIXES)
    return Evidence(f"{name} has lines with Ground Truth's {SOURCE} and metadata") if name else None


@dataclass
class _Reader:
    root: Path
    attribute: str | None

    @cached_property
    def index(self) -> ImageIndex:
        return ImageIndex(self.root)

    def __call__(self, item: Item, notes: Notes) -> Iterator[Image]:
        line, place = item.line, item.place
        name = path_of_url(text(line, SOURCE, place))
        labels = self._labels(line, place, notes)
        if not labels:
            notes.drop("line without a label", place)
            return
        sizes = (_size(line[key], place) for key in labels.values() if isinstance(line[key], dict))
        size = next((size for size in sizes if size), None)
        located = locate(self.index, [name], size, place, notes)
        if located is None:
            return
        image = Image(*located[:1], *located[1], split=item.split, source=place)
        for kind, key in labels.items():
            read = _KINDS[kind]
            metadata = mapped(line, key + _METADATA, place)
            image.annotations += read(self, image, line[key], metadata, f"{place} {key}", notes)
        yield image

    def _labels(self, line: dict[str, Any], place: str, notes: Notes) -> dict[str, str]:
        """The attribute of each kind of label; of several jobs of a kind the last one's."""
        found: dict[str, str] = {}
        for key in line:
            said = line.get(key + _METADATA)
            if not isinstance(said, dict) or self.attribute not in (None, key):
                continue
            kind = _kind(line[key], said)
            if "failure-reason" in said or line[key] is None:
                notes.drop("label that failed", f"{place} {key}")
            elif kind not in _KINDS:
                notes.drop(f"label of type {kind}", f"{place} {key}")
            else:
                if kind in found:
                    notes.drop(
                        "label of an earlier job (see --attribute)", f"{place} {found[kind]}"
                    )
                found[kind] = key
        return found

    def boxes(
        self, image: Image, value: Any, metadata: dict, place: str, notes: Notes
    ) -> Iterator[Annotation]:
        """Annotations of object detection."""
        if not isinstance(value, dict):
            raise InputError(f"{place}: is not an object with annotations. Mend or remove it.")
        names = mapped(metadata, "class-map", place)
        sure = listed(metadata, "objects", place)
        for index, entry in enumerate(objects(value, "annotations", place)):
            where = f"{place} annotations[{index}]"
            left, top, width, height = (
                number(entry, key, where) for key in ("left", "top", "width", "height")
            )
            box = (left, top, left + width, top + height)
            score = _confidence(sure[index]) if index < len(sure) else {}
            name = _name(names, entry.get("class_id"), where)
            yield Annotation(name, box, attributes=score, source=where)

    def classes(
        self, image: Image, value: Any, metadata: dict, place: str, notes: Notes
    ) -> Iterator[Annotation]:
        """Labels of the whole image, one or several."""
        names = mapped(metadata, "class-map", place)
        scores = mapped(metadata, "confidence-map", place)
        if not isinstance(value, list):
            chosen = [text(metadata, "class-name", place, None) or _name(names, value, place)]
            said = [_confidence(metadata)]
        else:
            chosen = [_name(names, one, place) for one in value]
            said = [{"score": scores[str(one)]} if str(one) in scores else {} for one in value]
        for name, score in zip(chosen, said, strict=True):
            label = whole_image(name, image.width, image.height, place)
            label.attributes |= score
            yield label

    def pixels(
        self, image: Image, value: Any, metadata: dict, place: str, notes: Notes
    ) -> Iterator[Annotation]:
        """A mask for each class in the PNG, if it is there."""
        import numpy as np

        name = path_of_url(text({"reference": value}, "reference", place))
        found = self.index.find(name)
        if found is None:
            notes.drop("segmentation PNG that is not there", f"{place}: {name}")
            return
        colours = _colours(self.root / found)
        if colours.shape[:2] != (image.height, image.width):
            height, width = colours.shape[:2]
            raise InputError(
                f"{self.root / found}: is {width}×{height}, but its image is "
                f"{image.width}×{image.height}."
            )
        left = np.ones(colours.shape[:2], bool)
        classes = mapped(metadata, "internal-color-map", place)
        for key in classes:
            where = f"{place}-metadata internal-color-map {key}"
            entry = mapped(classes, key, where)
            category = text(entry, "class-name", where)
            mask = (colours == _rgb(text(entry, "hex-color", where), where)).all(-1) & left
            left &= ~mask
            if mask.any() and category != _BACKGROUND:
                yield Annotation(
                    category,
                    segmentation=encode_mask(mask),
                    attributes=_confidence(entry),
                    source=where,
                )
        if left.any():
            notes.drop("pixels of a colour that no class has", f"{self.root / found}")


_KINDS = {
    "object-detection": _Reader.boxes,
    "image-classification": _Reader.classes,
    "image-classification-multilabel": _Reader.classes,
    "semantic-segmentation": _Reader.pixels,
}


def _kind(value: Any, metadata: dict[str, Any]) -> str:
    """The kind of a label, by its type or else by what it looks like."""
    said = metadata.get("type")
    if isinstance(said, str):
        return said.rpartition("/")[2]
    if isinstance(value, dict) and "annotations" in value:
        return "object-detection"
    if "internal-color-map" in metadata:
        return "semantic-segmentation"
    return "image-classification" if "class-name" in metadata else str(said)


def _size(value: dict[str, Any], place: str) -> tuple[int, int] | None:
    for entry in objects(value, "image_size", place)[:1]:
        width, height = (int(number(entry, side, place, 0)) for side in ("width", "height"))
        if width >= 1 and height >= 1:
            return width, height
    return None


def _name(names: dict[str, Any], class_id: Any, place: str) -> str:
    name = names.get(str(class_id))
    if not isinstance(name, str) or not name:
        raise InputError(f"{place}: the class-map has no name for class {class_id!r}. Mend one.")
    return name


def _confidence(entry: Any) -> dict[str, Any]:
    score = entry.get("confidence") if isinstance(entry, dict) else None
    return {} if score is None else {"score": score}


def _rgb(colour: str, place: str) -> list[int]:
    if not re.fullmatch(r"#?[0-9a-fA-F]{6}", colour):
        raise InputError(f"{place}: {colour!r} is no colour like #1f77b4. Mend it.")
    return list(bytes.fromhex(colour.lstrip("#")))


def _colours(path: Path) -> Any:
    """The uint8 HW3 array (RGB) of a PNG."""
    import numpy as np
    from PIL import Image as Pillow

    try:
        with Pillow.open(path) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError, Pillow.DecompressionBombError) as error:
        raise InputError(f"{path}: cannot be read as an image: {error}") from error


def _looks_right(head: str) -> bool:
    first = head.lstrip("\ufeff \r\n")
    return first.startswith("{") and f'"{SOURCE}"' in first and _METADATA + '"' in first


FORMAT = Format(
    name="sagemaker",
    title="SageMaker Ground Truth manifest",
    layout="the output.manifest, or a folder with one or with train.manifest, …; images beside it",
    carries=("boxes", "masks", "labels", "attributes", "splits"),
    loses="jobs of other types (text, video, point clouds); of several jobs of a type all but the "
    "last (--attribute); who labelled when",
    recognise=recognise,
    plan=plan,
    conventions="Boxes are in pixels from 0. Images and segmentation PNGs, named as s3://…, are "
    "found by their name and as much of their folders as fits. confidence is the attribute score. "
    "Of a segmentation each class but BACKGROUND is one mask. Lines without a label, or whose job "
    "failed, are dropped.",
    options=(Option("--attribute", "only the label of the job of this name", metavar="NAME"),),
)
