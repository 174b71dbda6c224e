"""Create ML's JSON: a list of images with boxes by centre and size.

By Apple's documentation of MLObjectDetector's data source the defaults are pixels, the origin at
the image's top left and `x`, `y` the centre of the box; nothing in the file says otherwise. The
sizes of the images are not recorded: the images are needed. An image's annotation that is a text is
its class.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from dataset_tools.coco import Annotation, Image, read_json, whole_image
from dataset_tools.errors import InputError
from dataset_tools.formats.base import (
    SPLIT_NAMES,
    Evidence,
    Format,
    Glimpse,
    Plan,
    root_of,
    split_of_folders,
)
from dataset_tools.formats.createml_write import write
from dataset_tools.formats.locate import locate, path_of_url
from dataset_tools.images import ImageIndex
from dataset_tools.json_fields import mapped, number, objects, text
from dataset_tools.notes import Notes
from dataset_tools.shapes import take_crowd

_IMAGE_KEYS = ("image", "imagefilename", "imageURL")
_HEAD = re.compile(r"^\s*\[\s*\{")


@dataclass(frozen=True)
class Item:
    """An entry of the list, with the file's folder (relative to the dataset) and split."""

    place: str
    entry: dict[str, Any]
    near: str
    split: str | None


def plan(path: Path, notes: Notes, images: Path | None = None) -> Plan:
    """Plan to read a file, or all those in a folder."""
    names = [path.name] if path.is_file() else _files(path)
    base = path.parent if path.is_file() else path
    items = []
    for name in names:
        content = read_json(base / name)
        if not isinstance(content, list):
            raise InputError(f"{base / name}: not of Create ML: it is no list of images.")
        split = None
        if path.is_dir():
            split = split_of_folders(name) or SPLIT_NAMES.get(Path(name).stem.lower())
        entries = objects({"image": content}, "image", str(base / name))
        items += [
            Item(f"{base / name}: image[{index}]", entry, name, split)
            for index, entry in enumerate(entries)
        ]
    root = root_of(base, images)
    return Plan(image_root=root, items=items, read=_Reader(root))


def recognise(glimpse: Glimpse) -> Evidence | None:
    """A JSON list of images with coordinates."""
    name = glimpse.first(_looks_right, ".json")
    return (
        Evidence(f"{name} is a JSON list of images with labels and coordinates") if name else None
    )


@dataclass
class _Reader:
    root: Path

    @cached_property
    def index(self) -> ImageIndex:
        return ImageIndex(self.root)

    def __call__(self, item: Item, notes: Notes) -> Iterator[Image]:
        key = next((key for key in _IMAGE_KEYS if item.entry.get(key)), _IMAGE_KEYS[0])
        name = path_of_url(text(item.entry, key, item.place))
        located = locate(self.index, [name], None, item.place, notes, item.near)
        if located is None:
            return
        file_name, (width, height) = located
        image = Image(file_name, width, height, split=item.split, source=item.place)
        key = "annotation" if "annotation" in item.entry else "annotations"
        said = item.entry.get(key)
        if isinstance(said, str):
            image.annotations.append(whole_image(said, width, height, item.place))
        else:
            image.annotations = [
                _annotation(entry, image, f"{item.place} {key}[{index}]")
                for index, entry in enumerate(objects(item.entry, key, item.place))
            ]
        yield image


def _annotation(entry: dict[str, Any], image: Image, place: str) -> Annotation:
    label = text(entry, "label", place)
    attributes = {k: v for k, v in entry.items() if k not in ("label", "coordinates")}
    crowd = take_crowd(attributes)
    if "coordinates" not in entry:
        found = whole_image(label, image.width, image.height, place)
        found.attributes |= attributes
        return found
    box = mapped(entry, "coordinates", place)
    x, y, width, height = (number(box, key, place) for key in ("x", "y", "width", "height"))
    return Annotation(
        label,
        (x - width / 2, y - height / 2, x + width / 2, y + height / 2),
        iscrowd=crowd,
        attributes=attributes,
        source=place,
    )


def _looks_right(head: str) -> bool:
    named = any(f'"{key}"' in head for key in _IMAGE_KEYS)
    return bool(_HEAD.match(head)) and named and '"coordinates"' in head and '"label"' in head


def _files(folder: Path) -> list[str]:
    glimpse = Glimpse(folder)
    names = [
        name
        for name in glimpse.with_suffix(".json")
        if name.endswith(".createml.json") or _looks_right(glimpse.head(name))
    ]
    if not names:
        raise InputError(f"{folder}: there is no JSON list of Create ML in it.")
    return names


FORMAT = Format(
    name="createml",
    title="Create ML JSON",
    layout="the .json file, or a folder with one, or one in each of train/, valid/, test/; images "
    "beside it",
    carries=("boxes", "labels", "attributes", "splits"),
    loses="",
    recognise=recognise,
    plan=plan,
    conventions="Centre and size in pixels from the top left. The images are needed for their "
    "sizes. An image whose annotation is a text, or has no coordinates, is labelled as a whole. "
    "Other keys of an object become attributes.",
    write=write,
    write_loses="masks, keypoints, rotation, points, attributes of images, unused categories, ids",
)
