"""Cityscapes: polygons of each image in JSON, in the order in which they are drawn.

`gtFine/train/aachen/aachen_000000_000019_gtFine_polygons.json` is of the image
`leftImg8bit/train/aachen/aachen_000000_000019_leftImg8bit.png`. Later polygons cover earlier ones:
by default, as in the challenge, the mask of an object is what stays visible when all are drawn in
order (as https://github.com/mcordts/cityscapesScripts does it, by Pillow); `--masks polygons` keeps
the whole polygons, which overlap. "cargroup" is a crowd of the class car. Void labels (ego vehicle,
out of roi, …) cover, too; license plates do not. An object marked as deleted is not there.

Without JSON files, *_instanceIds.png are read: 1000 × class + number for an object, the class alone
for stuff and groups.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dataset_tools.coco import Annotation, Category, Image, read_json, read_segmentation
from dataset_tools.errors import InputError
from dataset_tools.formats.base import Evidence, Format, Glimpse, Option, Plan, root_of
from dataset_tools.formats.reading import split_of_words
from dataset_tools.images import ImageIndex, check_pixels, walk_files
from dataset_tools.notes import Notes
from dataset_tools.rle import encode_values, polygons_box

if TYPE_CHECKING:
    import numpy as np

THINGS = {  # by their number in the PNGs
    24: "person",
    25: "rider",
    26: "car",
    27: "truck",
    28: "bus",
    29: "caravan",
    30: "trailer",
    31: "train",
    32: "motorcycle",
    33: "bicycle",
}
_SUPER = {"person": "human", "rider": "human"}
VOID = (
    *("unlabeled", "ego vehicle", "rectification border", "out of roi", "static", "dynamic"),
    *("ground", "license plate"),
)
_NOT_DRAWN = "license plate"
_POLYGONS = re.compile(r"_(gt\w+)_polygons\.json$")
_IDS = re.compile(r"_(gt\w+)_instanceIds\.png$")


@dataclass(frozen=True)
class Item:
    """A label file relative to the dataset, what its image is called, and its split."""

    label: str
    image: str
    split: str | None


def plan(
    path: Path,
    notes: Notes,
    images: Path | None = None,
    masks: str = "visible",
    classes: str = "things",
) -> Plan:
    """Plan to read the folder of a dataset, or a single label file."""
    base = path if path.is_dir() else path.parent
    names = list(walk_files(path)) if path.is_dir() else [path.name]
    pattern = _POLYGONS if any(map(_POLYGONS.search, names)) else _IDS
    labels = [name for name in names if pattern.search(name)]
    if not labels:
        raise InputError(f"{path}: no *_polygons.json or *_instanceIds.png is in it.")
    root = root_of(path, images)
    return Plan(
        image_root=root,
        items=_items(labels, pattern, notes),
        read=_Reader(base, root, masks == "visible", classes == "all"),
        categories=_categories,
        remarks=[
            "masks are what stays visible (--masks visible)"
            if masks == "visible" or pattern is _IDS
            else "masks are whole polygons, which overlap (--masks polygons)"
        ],
    )


def recognise(glimpse: Glimpse) -> Evidence | None:
    """Files called as Cityscapes' with an imgHeight and polygons, or its PNGs of ids."""
    for name in glimpse.with_suffix(".json"):
        if _POLYGONS.search(name) and '"imgHeight"' in glimpse.head(name):
            return Evidence(f"{name} has imgHeight and objects with polygons")
    for name in glimpse.with_suffix(".png"):
        if _IDS.search(name):
            return Evidence(f"{name} is called as Cityscapes' PNGs of instances", certain=False)
    return None


@dataclass
class _Reader:
    base: Path
    root: Path
    visible: bool
    every_class: bool

    @cached_property
    def index(self) -> ImageIndex:
        return ImageIndex(self.root)

    def __call__(self, item: Item, notes: Notes) -> Iterator[Image]:
        path = self.base / item.label
        if item.label.endswith(".png"):
            ids = _read_ids(path)
            image = self._image(item, ids.shape[1], ids.shape[0], notes)
            image.annotations = list(_instances(ids, str(path)))
            yield image
            return
        content = read_json(path)
        try:
            width, height, objects = content["imgWidth"], content["imgHeight"], content["objects"]
            if not isinstance(objects, list) or type(width) is not int or type(height) is not int:
                raise TypeError("imgWidth, imgHeight or objects is of another type")
        except (KeyError, TypeError) as fault:
            raise InputError(f"{path}: not of Cityscapes: {fault}.") from fault
        check_pixels(width, height, str(path))
        image = self._image(item, width, height, notes)
        image.annotations = list(self._annotations(objects, image, str(path), notes))
        labels = {entry["label"] for entry in objects}
        if labels <= set(VOID):
            notes.suspect("image with void labels alone, as in the test set (kept)", str(path))
        yield image

    def _image(self, item: Item, width: int, height: int, notes: Notes) -> Image:
        name = self.index.find(item.image, near=item.label)
        if name is None:
            name = item.image
            notes.suspect("image file that is missing (kept)", f"{self.base / item.label}: {name}")
        source = str(self.base / item.label)
        return Image(name, width, height, split=item.split, source=source)

    def _annotations(
        self, objects: list[Any], image: Image, path: str, notes: Notes
    ) -> Iterator[Annotation]:
        found = []
        for number, entry in enumerate(objects):
            place = f"{path}: objects[{number}]"
            if not isinstance(entry, dict) or not isinstance(entry.get("label"), str):
                raise InputError(f"{place} has no label.")
            if entry.get("deleted"):
                notes.drop("object marked as deleted", place)
                continue
            found.append((place, entry["label"], _polygon(entry, place)))
        drawn = dict(encode_values(_draw([(label, line) for _, label, line in found], image)))
        for number, (place, label, polygon) in enumerate(found, start=1):
            category, crowd = _category(label)
            if category not in THINGS.values() and (not self.every_class or category in VOID):
                kind = "void label" if category in VOID else "class without instances"
                notes.drop(f"{kind} (covers what was drawn before it)", place)
                continue
            if not self.visible:
                box = polygons_box([polygon])
                yield Annotation(category, box, [polygon], iscrowd=crowd, source=place)
                continue
            if number not in drawn:
                notes.drop("object that nothing is visible of", place)
                continue
            yield Annotation(category, None, drawn[number], iscrowd=crowd, source=place)


def _category(label: str) -> tuple[str, bool]:
    """The class of a label, and whether it is a group's. "polegroup" is a class of its own."""
    single = label.removesuffix("group")
    return (single, True) if single != label and single in THINGS.values() else (label, False)


def _polygon(entry: dict[str, Any], place: str) -> list[float]:
    """[x, y, …]. InputError if there are less than three corners."""
    corners = entry.get("polygon")
    try:
        flat = [value for x, y in corners for value in (x, y)]
        read_segmentation([flat])
    except (TypeError, ValueError) as fault:
        raise InputError(f"{place}: its polygon is not a list of [x, y].") from fault
    if len(flat) < 6:
        raise InputError(f"{place}: its polygon has less than three corners.")
    return flat


def _draw(objects: list[tuple[str, list[float]]], image: Image) -> np.ndarray:
    """HW int32: the number, from 1, of the object that is on top; 0 where there is none."""
    import numpy as np
    from PIL import Image as Pillow
    from PIL import ImageDraw

    canvas = Pillow.new("I", (image.width, image.height), 0)
    draw = ImageDraw.Draw(canvas)
    for number, (label, polygon) in enumerate(objects, start=1):
        if label != _NOT_DRAWN:
            draw.polygon(polygon, fill=number)
    return np.asarray(canvas)


def _read_ids(path: Path) -> np.ndarray:
    import numpy as np
    from PIL import Image as Pillow

    try:
        with Pillow.open(path) as png:
            ids = np.asarray(png).astype(np.int32)
    except (OSError, SyntaxError, ValueError, Pillow.DecompressionBombError) as error:
        raise InputError(f"{path}: cannot be read as an image: {error}") from error
    if ids.ndim != 2:
        raise InputError(f"{path}: has {ids.shape[2]} channels, but numbers need one.")
    return ids


def _instances(ids: np.ndarray, path: str) -> Iterator[Annotation]:
    for number, rle in encode_values(ids):
        group = number < 1000
        category = THINGS.get(number if group else number // 1000)
        if category is not None:
            yield Annotation(category, None, rle, iscrowd=group, source=f"{path}: {number}")


def _items(labels: list[str], pattern: re.Pattern[str], notes: Notes) -> list[Item]:
    """One for each image: fine labels go before coarse ones."""
    chosen: dict[tuple[str | None, str], str] = {}
    for label in sorted(labels, key=lambda name: (pattern.search(name)[1] != "gtFine", name)):
        frame = pattern.sub("", os.path.basename(label))
        first = chosen.setdefault((_split(label), frame), label)
        if first != label:
            notes.drop("labels of an image that has finer ones", label)
    found = sorted(chosen.items(), key=lambda pair: pair[1])
    return [
        Item(label, f"{_image_folder(label)}{frame}_leftImg8bit.png", split)
        for (split, frame), label in found
    ]


def _image_folder(label: str) -> str:
    """gtFine/train/aachen/… → leftImg8bit/train/aachen/"""
    folder = label[: label.rfind("/") + 1]
    return re.sub(r"(^|/)gt(Fine|Coarse)/", r"\1leftImg8bit/", folder)


def _split(label: str) -> str | None:
    return "train_extra" if "train_extra" in label.split("/") else split_of_words(label)


def _categories(seen: set[str]) -> list[Category]:
    """The classes that have instances in their own order, then the others."""
    things = [Category(name, _SUPER.get(name, "vehicle")) for name in THINGS.values()]
    return things + [Category(name) for name in sorted(seen - set(THINGS.values()))]


FORMAT = Format(
    name="cityscapes",
    title="Cityscapes (fine and coarse)",
    layout="folder with gtFine (or gtCoarse) and leftImg8bit, or the former with --images",
    carries=("boxes", "masks", "splits"),
    loses="classes without instances, unless by --classes all; void labels; disparity, cameras",
    recognise=recognise,
    plan=plan,
    conventions="Polygons are drawn in order, later ones cover earlier ones; a mask is what stays "
    "visible, to the pixel as in the challenge's *_instanceIds.png, which are read if there is no "
    "JSON. Groups (cargroup) become crowds of their class. Deleted objects are left out, void "
    "labels too, after they have covered what is below them.",
    options=(
        Option(
            "--masks",
            "visible: what later polygons do not cover, as RLE; polygons: whole ones, overlapping",
            default="visible",
            choices=("visible", "polygons"),
        ),
        Option(
            "--classes",
            "things: the ten classes that have instances; all: the others too, void labels not",
            default="things",
            choices=("things", "all"),
        ),
    ),
)
