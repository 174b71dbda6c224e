"""Pascal VOC: one XML file per image.

The development kit of the VOC challenge says that `xmin, ymin, xmax, ymax` are pixel numbers that
begin with 1, and that the box includes pixel `xmax`: xmin=1, xmax=W is the whole width. In
continuous 0-based coordinates that is from `xmin - 1` to `xmax`, as Detectron2's own VOC reader has
it. LabelImg, CVAT and most other tools write the same elements, but put in the corners of the box
as drawn, 0-based: their box is from `xmin` to `xmax`, and xmin = xmax is an empty box, not one
pixel.

Nothing in the files says which one is meant. Unless `--pixel-origin` does, they are taken as the
challenge's if one of them names it as its source and no coordinate is 0, else as other tools'
files.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dataset_tools.coco import Annotation, Image
from dataset_tools.errors import InputError
from dataset_tools.formats.base import (
    Evidence,
    Format,
    Glimpse,
    Option,
    Plan,
    read_text,
    root_of,
    split_of_folders,
)
from dataset_tools.formats.reading import DIFFICULT
from dataset_tools.images import ImageIndex, image_size, walk_files
from dataset_tools.notes import Notes
from dataset_tools.xml_tree import Node, parse_xml

FILES_LOOKED_AT = 200
_FLAGS = ("difficult", "truncated", "occluded")
_OFFICIAL = re.compile(r"\bVOC ?20\d\d\b|PASCAL VOC", re.IGNORECASE)


@dataclass(frozen=True)
class Item:
    """One XML file (path relative to the dataset) and the splits that its image belongs to."""

    label: str
    splits: tuple[str | None, ...]


def plan(
    path: Path,
    notes: Notes,
    images: Path | None = None,
    pixel_origin: str = "auto",
    difficult: str = "keep",
) -> Plan:
    """Plan to read a folder of VOC XML files, or a single one."""
    base = path if path.is_dir() else path.parent
    if base.name.lower() == "annotations":
        base = base.parent  # where the images and the split lists are
    labels = _label_files(path, base)
    if not labels:
        raise InputError(f"{path}: no XML file is in it. Give the folder that holds Annotations/.")
    splits, remarks = _splits(base, labels, notes)
    origin, why = _guess_origin(base, labels) if pixel_origin == "auto" else (int(pixel_origin), "")
    meaning = (
        "coordinates are pixel numbers from 1, the last one included"
        if origin
        else "coordinates are corners, from 0"
    )
    remarks.append(f"{meaning}{why} (--pixel-origin {origin})")
    root = root_of(base, images)
    reader = _Reader(base, ImageIndex(root), origin, difficult)
    return Plan(
        image_root=root,
        items=[
            Item(label, splits.get(_stem(label)) or (split_of_folders(label),)) for label in labels
        ],
        read=reader,
        info={"pixel_origin": origin},
        remarks=remarks,
    )


def recognise(glimpse: Glimpse) -> Evidence | None:
    """XML whose root element is <annotation> and that has a <bndbox> or a <size>."""
    names = glimpse.with_suffix(".xml")
    for name in names[:5]:
        head = glimpse.head(name)
        if re.search(r"<(\w+:)?annotation[\s>]", head) and re.search(
            r"<(\w+:)?(bndbox|size)[\s/>]", head
        ):
            return Evidence(
                f"{name} is XML with an <annotation> as VOC has it ({len(names)} XML files)"
            )
    return None


@dataclass
class _Reader:
    base: Path
    index: ImageIndex
    origin: int
    difficult: str

    def __call__(self, item: Item, notes: Notes) -> Iterator[Image]:
        path = self.base / item.label
        root = parse_xml(path)
        if root.tag != "annotation":
            notes.drop("XML file that is no VOC annotation", f"{path}: its root is <{root.tag}>")
            return
        file_name = self._image_name(root, item.label, notes)
        size = self._size(root, file_name, path, notes)
        if size is None:
            notes.drop("image that has no recorded size and is not there", str(path))
            return
        annotations = list(self._annotations(root, path, notes))
        for split in item.splits:
            yield Image(file_name, *size, annotations=annotations, split=split, source=str(path))

    def _image_name(self, root: Node, label: str, notes: Notes) -> str:
        """The image called like the label file, as the challenge has it; else that of <filename>.

        The latter, if there is none, though it is not found either.
        """
        stem = _stem(label)
        named = re.split(r"[\\/]", root.text_of("filename"))[-1]
        folder = root.text_of("folder")
        own = self.index.find(named if os.path.splitext(named)[0] == stem else stem, near=label)
        if own is None:
            other = self.index.find(f"{folder}/{named}", near=label) if named else None
            return other or named or f"{stem}.jpg"
        if named and os.path.splitext(named)[0] not in (stem, os.path.splitext(stem)[0]):
            place = f"{self.base / label}: <filename> is {named}"
            notes.suspect("XML file not called like its image (the image of its name taken)", place)
        return own

    def _size(self, root: Node, file_name: str, path: Path, notes: Notes) -> tuple[int, int] | None:
        there = os.path.isfile(self.index.root / file_name)
        if not there:
            notes.suspect("image file that is missing (kept)", f"{path}: {file_name}")
        recorded = root.child("size")
        if recorded is not None:
            width, height = (_number(recorded, side, path, 0) for side in ("width", "height"))
            if width >= 1 and height >= 1:
                return int(width), int(height)
        return image_size(self.index.root / file_name) if there else None

    def _annotations(self, root: Node, path: Path, notes: Notes) -> Iterator[Annotation]:
        for node in root.all("object"):
            place = f"{path}:{node.line}"
            name = node.text_of("name")
            if not name:
                notes.drop("object without a name", place)
                continue
            box = node.child("bndbox")
            if box is None:
                notes.drop("object without a bndbox", place)
                continue
            left, top, right, bottom = (
                _number(box, side, path) for side in ("xmin", "ymin", "xmax", "ymax")
            )
            bbox = (left - self.origin, top - self.origin, right, bottom)
            if bbox[2] <= bbox[0] or bbox[3] <= bbox[1]:
                notes.suspect("box of no area (kept: see check --fix)", place)
            attributes = _attributes(node)
            if attributes.get("difficult") and self.difficult == "drop":
                notes.drop("difficult object (--difficult drop)", place)
                continue
            yield Annotation(
                name,
                bbox,
                iscrowd=self.difficult == "crowd" and bool(attributes.get("difficult")),
                attributes=attributes,
                source=place,
            )


def _label_files(path: Path, base: Path) -> list[str]:
    """XML files, relative to `base`."""
    if path.is_file():
        return [path.relative_to(base).as_posix()]
    below = path.relative_to(base).as_posix() + "/" if path != base else ""
    names = [below + name for name in walk_files(path) if name.lower().endswith(".xml")]
    # Other XML may lie about; where there is a folder of annotations, that is the one meant.
    annotations = [name for name in names if "annotations" in name.lower().split("/")[:-1]]
    return annotations or names


def _splits(
    base: Path, labels: list[str], notes: Notes
) -> tuple[dict[str, tuple[str | None, ...]], list[str]]:
    """Splits of each image's stem, from ImageSets/Main/*.txt; none if there are no lists. Images in
    no list are in split None."""
    lists: dict[str, set[str]] = {}
    for file in sorted(base.glob("**/ImageSets/Main/*.txt")):
        names = _split_list(file)
        if names is not None:
            lists.setdefault(file.stem, set()).update(names)
    remarks = []
    for name, members in list(lists.items()):
        parts = {other: m for other, m in lists.items() if other != name and m and m < members}
        if len(parts) > 1 and set().union(*parts.values()) == members:
            remarks.append(f"the list {name} is {' + '.join(sorted(parts))}: not written once more")
            del lists[name]
    if not lists:
        return {}, remarks
    stems = {_stem(label) for label in labels}
    for name, members in lists.items():
        for member in sorted(members - stems):
            notes.drop(
                "name in a split list that has no XML file", f"{base}: {member!r} in {name}.txt"
            )
    found = {
        stem: tuple(name for name, members in lists.items() if stem in members) or (None,)
        for stem in stems
    }
    for stem, splits in sorted(found.items()):
        if len(splits) > 1:
            notes.suspect("image in several splits (kept in each)", f"{stem}: {', '.join(splits)}")
    return found, remarks


def _split_list(file: Path) -> list[str] | None:
    """Stems in a split list; None for the list of one class, whose lines end in -1, 0 or 1."""
    lines = [line.strip() for line in read_text(file).splitlines() if line.strip()]
    if lines and "_" in file.stem and all(re.search(r"\s(-1|0|1)$", line) for line in lines):
        return None
    return [re.sub(r"\.(jpe?g|png|bmp|xml)$", "", line, flags=re.IGNORECASE) for line in lines]


def _guess_origin(base: Path, labels: list[str]) -> tuple[int, str]:
    """First pixel number and why it is thought to be so, from the first files (sorted)."""
    official = ""
    for label in labels[:FILES_LOOKED_AT]:
        try:
            root = parse_xml(base / label)
        except InputError:
            continue  # told when it is this file's turn to be read
        source = root.child("source")
        texts = [child.text for child in source.children] if source else []
        if not any(_OFFICIAL.search(text) for text in texts):
            continue
        official = official or label
        for box in (node.child("bndbox") for node in root.all("object")):
            # Many scripts copy the challenge's header; a pixel 0 gives them away.
            if box is not None and "0" in (box.text_of("xmin"), box.text_of("ymin")):
                return (
                    0,
                    f": {label}:{box.line} has a pixel 0, which the VOC challenge does not know",
                )
    if official:
        return 1, f", as the VOC challenge has it: {official} names it as its source"
    return 0, ", as LabelImg and others write them: no file names the VOC challenge as its source"


def _attributes(node: Node) -> dict[str, Any]:
    """All that an object says besides its name and box; flags as booleans."""
    attributes: dict[str, Any] = {}
    for child in node.children:
        if child.tag in ("name", "bndbox"):
            continue
        value = child.text.strip()
        if child.tag in _FLAGS and value in ("0", "1", "True", "False", "true", "false"):
            attributes[child.tag] = value in ("1", "True", "true")
        elif (
            child.tag == "attributes"
        ):  # as CVAT writes them: <attribute><name/><value/></attribute>
            pairs = child.all("attribute")
            attributes |= {pair.text_of("name"): pair.text_of("value") for pair in pairs}
        elif child.children:
            attributes.setdefault(child.tag, []).append(_plain(child))
        elif value:
            attributes[child.tag] = value
    return attributes


def _plain(node: Node) -> Any:
    if not node.children:
        return node.text
    return {child.tag: _plain(child) for child in node.children}


def _number(node: Node, tag: str, path: Path, default: float | None = None) -> float:
    child = node.child(tag)
    text = "" if child is None else child.text
    if not text and default is not None:
        return default
    try:
        value = float(text.replace(",", "."))
        if math.isfinite(value):
            return value
    except ValueError:
        pass
    line = node.line if child is None else child.line
    raise InputError(
        f"{path}:{line}: <{tag}> is {text!r}, not a number. Mend or remove this object."
    )


def _stem(label: str) -> str:
    name = label.rpartition("/")[2]
    return name[:-4] if name.lower().endswith(".xml") else name


FORMAT = Format(
    name="voc",
    title="Pascal VOC XML",
    layout="folder with Annotations/*.xml, JPEGImages/ and, if any, ImageSets/Main/*.txt; "
    "or XML files beside the images, in train/, valid/, test/ if there are splits",
    carries=("boxes", "attributes", "splits"),
    loses="segmentation PNGs of the challenge",
    recognise=recognise,
    plan=plan,
    conventions="The challenge numbers pixels from 1 and includes the last: (xmin, xmax) becomes "
    "(xmin - 1, xmax). Files of LabelImg and others hold 0-based corners: (xmin, xmax) as they "
    "are. "
    "By default the first meaning is taken if a file names the challenge as its source and none "
    "has "
    "a pixel 0, else the second. difficult and truncated become attributes.",
    options=(
        Option(
            "--pixel-origin",
            "1: pixel numbers from 1, last included; 0: corners from 0; auto: by the files' maker",
            default="auto",
            choices=("auto", "1", "0"),
        ),
        DIFFICULT,
    ),
)
