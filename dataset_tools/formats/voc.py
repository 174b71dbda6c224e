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

The challenge's segmentations are PNGs with a palette: SegmentationObject/ says of each pixel which
of the XML file's objects it belongs to, counted from 1 in their order, SegmentationClass/ of which
class it is; 255 is void, the border of objects. Class numbers are those of the challenge's twenty,
or the lines of a labelmap.txt (`name:red,green,blue:parts:actions`, as CVAT writes it; the first is
the background).
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from operator import itemgetter, lt
from pathlib import Path
from typing import Any

from dataset_tools.coco import LARGEST, Annotation, Image
from dataset_tools.columns import BoxColumns
from dataset_tools.errors import InputError
from dataset_tools.files import read_bytes, read_quickly
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
from dataset_tools.formats.voc_masks import (
    NO_PNGS,
    VOC_CLASSES,
    Categories,
    Pngs,
    find_pngs,
    read_labelmap,
    with_masks,
)
from dataset_tools.formats.voc_write import write
from dataset_tools.images import ImageIndex, image_size, walk_files
from dataset_tools.notes import Notes
from dataset_tools.packed import KeyedStrings, Mapped, PackedStrings
from dataset_tools.xml_shapes import Shapes, plain_text
from dataset_tools.xml_tree import Node, parse_xml

FILES_LOOKED_AT = 200
_MOST_REMEMBERED = 1000
_ANNOTATIONS = "Annotations"
_NO_POSE = ("pose", "Unspecified")  # that nothing is said of it
_FLAGS = ("difficult", "truncated", "occluded")
_BOOLEANS = {"0": False, "False": False, "false": False, "1": True, "True": True, "true": True}
_SIDES = ("xmin", "ymin", "xmax", "ymax")
_TELLING = (b"voc", b"pixel_origin", b"&", b"\0")  # in a file without these no maker is named
_OFFICIAL = re.compile(r"\bVOC ?20\d\d\b|PASCAL VOC", re.IGNORECASE)


@dataclass(slots=True)
class Item:
    """The label files of an image (relative to the dataset), and the splits that it belongs to."""

    label: str  # its XML file, which is not there if only PNGs are
    splits: tuple[str | None, ...]
    pngs: Pngs = NO_PNGS


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
    files = PackedStrings(walk_files(base))
    xml_files = _label_files(path, base, files)
    pngs = find_pngs(files) if path.is_dir() else {}
    labels = xml_files
    if pngs:
        known = {_key(label) for label in xml_files}
        labels = [*xml_files, *(f"{_ANNOTATIONS}/{key}.xml" for key in pngs if key not in known)]
    if not labels:
        raise InputError(f"{path}: no XML file is in it. Give the folder that holds Annotations/.")
    splits, remarks = _splits(base, files, labels, notes)
    origin, why = (
        _guess_origin(base, xml_files) if pixel_origin == "auto" else (int(pixel_origin), "")
    )
    meaning = (
        "coordinates are pixel numbers from 1, the last one included"
        if origin
        else "coordinates are corners, from 0"
    )
    remarks.append(f"{meaning}{why} (--pixel-origin {origin})")
    root = root_of(base, images)
    classes = read_labelmap(base)
    if pngs:
        remarks.append(f"masks are from the PNGs of {len(pngs)} images")
    return Plan(
        image_root=root,
        items=Mapped(_ItemOf(splits, pngs), labels),
        read=_Reader(
            base,
            ImageIndex(root, files if root == base else None),
            origin,
            difficult,
            classes or VOC_CLASSES,
        ),
        categories=Categories(classes),
        info={"pixel_origin": origin},
        remarks=remarks,
    )


@dataclass
class _ItemOf:
    splits: _SplitLists | None
    pngs: Mapping[str, Pngs]

    def __call__(self, label: str) -> Item:
        if self.splits is None:
            splits = _splits_of_folder(label.rpartition("/")[0])
        else:
            splits = self.splits.of(label)
        return Item(label, splits, self.pngs.get(_key(label), NO_PNGS) if self.pngs else NO_PNGS)


@lru_cache(maxsize=1000)
def _splits_of_folder(folder: str) -> tuple[str | None, ...]:
    return (split_of_folders(f"{folder}/"),)


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
    for name in glimpse.with_suffix(".png"):
        if name.split("/")[-2:-1] == ["SegmentationObject"]:
            return Evidence(f"{name} is where VOC has the masks of objects")
    return None


@dataclass(slots=True)
class _Label:
    """What an XML file says."""

    folder: str
    named: str
    size: tuple[int, int] | None
    objects: Sequence[Annotation]  # their boxes are the corners as they stand there


@dataclass
class _Reader:
    base: Path
    index: ImageIndex
    origin: int
    difficult: str
    classes: tuple[str, ...]  # of SegmentationClass, from 1
    quick: _QuickReader = field(default_factory=lambda: _QuickReader())

    def __call__(self, item: Item, notes: Notes) -> Iterator[Image]:
        path = f"{self.base}/{item.label}"
        if item.pngs and not os.path.isfile(path):
            yield from self._without_xml(item, notes)
            return
        try:
            content = read_quickly(path)
        except OSError:
            content = read_bytes(path)  # which knows what to say
        label = self.quick.read(content, path)
        if label is None:
            root = parse_xml(path, content)
            if root.tag != "annotation":
                notes.drop(
                    "XML file that is no VOC annotation", f"{path}: its root is <{root.tag}>"
                )
                return
            label = _read_tree(root, path, notes)
        file_name, is_there = self._image_name(label, item.label, notes)
        if not is_there:
            notes.suspect("image file that is missing (kept)", f"{path}: {file_name}")
        size = label.size
        if size is None:
            if not is_there:
                notes.drop("image that has no recorded size and is not there", path)
                return
            size = image_size(self.index.root / file_name)
        annotations = self._annotations(label.objects, notes)
        if item.pngs:
            pngs = item.pngs.below(self.base)
            annotations = with_masks(list(annotations), pngs, size, self.classes, notes)
        for split in item.splits:
            yield Image(file_name, *size, annotations=annotations, split=split, source=path)

    def _without_xml(self, item: Item, notes: Notes) -> Iterator[Image]:
        """An image of which there are masks only."""
        pngs = item.pngs.below(self.base)
        name = self.index.find(_mirrored(item.label, _stem(item.label)), near=item.label)
        if name is None:
            notes.suspect("image file that is missing (kept)", str(pngs.objects or pngs.classes))
        size = image_size((self.index.root / name) if name else (pngs.objects or pngs.classes))
        annotations = with_masks([], pngs, size, self.classes, notes)
        for split in item.splits:
            yield Image(
                name or f"{_key(item.label)}.jpg",
                *size,
                annotations=annotations,
                split=split,
                source=str(pngs.objects or pngs.classes),
            )

    def _image_name(self, label: _Label, file: str, notes: Notes) -> tuple[str, bool]:
        """The image called like the label file, as the challenge has it; else that of <filename>;
        and whether it is there.

        The latter, if there is none, though it is not found either.
        """
        stem, named = _stem(file), label.named
        named_stem = named.rpartition(".")[0] or named
        own_name = named if named_stem == stem else stem
        own = self.index.find(_mirrored(file, own_name), near=file)
        if own is None:
            other = self.index.find(f"{label.folder}/{named}", near=file) if named else None
            return other or named or f"{stem}.jpg", other is not None
        if named and named_stem != stem and named_stem != os.path.splitext(stem)[0]:
            place = f"{self.base / file}: <filename> is {named}"
            notes.suspect("XML file not called like its image (the image of its name taken)", place)
        return own, True

    def _annotations(self, objects: Sequence[Annotation], notes: Notes) -> Sequence[Annotation]:
        """With the boxes' origin, and what `--difficult` says, applied."""
        if isinstance(objects, BoxColumns):
            # Nothing to be noted, and then nothing to be done one by one.
            plain = self.difficult == "keep" or not any(
                said.get("difficult") for said in objects.attributes
            )
            if (
                plain
                and all(map(lt, objects.lefts, objects.rights))
                and all(map(lt, objects.tops, objects.bottoms))
            ):
                if self.origin:
                    objects.lefts = [left - 1 for left in objects.lefts]
                    objects.tops = [top - 1 for top in objects.tops]
                return objects
            objects = list(objects)
        dropped = False
        for found in objects:
            left, top, right, bottom = found.bbox
            if self.origin:
                left, top = left - 1, top - 1
                found.bbox = (left, top, right, bottom)
            if right <= left or bottom <= top:
                notes.suspect("box of no area (kept: see check --fix)", found.source)
            if found.attributes.get("difficult"):
                found.iscrowd = self.difficult == "crowd"
                if self.difficult == "drop":
                    dropped = True
                    notes.drop("difficult object (--difficult drop)", found.source)
        if dropped:
            return [found for found in objects if not found.attributes.get("difficult")]
        return objects


def _read_tree(root: Node, path: str, notes: Notes) -> _Label:
    objects = []
    for node in root.all("object"):
        name, box = node.text_of("name"), node.child("bndbox")
        if not name or box is None:
            missing = "bndbox" if name else "name"
            notes.drop(f"object without a {missing}", f"{path}:{node.line}")
            continue
        corners = tuple(_number(box, side, path) for side in _SIDES)
        place = f"{path}:{node.line}"
        objects.append(Annotation(name, corners, attributes=_attributes(node), source=place))
    recorded = root.child("size")
    size = None
    if recorded is not None:
        width, height = (_number(recorded, side, path, 0) for side in ("width", "height"))
        size = (int(width), int(height)) if width >= 1 and height >= 1 else None
    return _Label(
        root.text_of("folder"), re.split(r"[\\/]", root.text_of("filename"))[-1], size, objects
    )


class _QuickReader:
    """Reads the files that are as most of them are; those it returns None for have to be parsed."""

    def __init__(self) -> None:
        self._heads = Shapes(_positions_in_head)
        self._objects = Shapes(_ObjectShape.of)
        self._rows = Shapes(_ObjectShape.of)  # of files whose objects are blank by blank alike

    def read(self, content: bytes, path: str) -> _Label | None:
        text = plain_text(content)
        if text is None or not text.startswith("<annotation>"):
            return None
        rest = text.rstrip()
        if not rest.endswith("</annotation>"):
            return None
        head, opening, body = rest[len("<annotation>") : -len("</annotation>")].partition(
            "<object>"
        )
        matched = self._heads.match(head)
        if matched is None:
            return None
        positions, texts = matched
        folder, named, width, height = (
            texts[i].strip() if i is not None else "" for i in positions
        )
        if not (width.isdecimal() and height.isdecimal() and int(width) and int(height)):
            return None
        line = 1 + head.count("\n")
        if not content.startswith(b"<annotation>"):
            line += content.count(b"\n", 0, content.index(b"<annotation>"))
        objects: Sequence[Annotation] | None = []
        if opening:
            blank = head[len(head.rstrip()) :]
            objects = self._read_objects(f"{blank}<object>{body.rstrip()}", body, path, line)
        if objects is None:
            return None
        if "\\" in named or "/" in named:
            named = re.split(r"[\\/]", named)[-1]
        return _Label(folder, named, (int(width), int(height)), objects)

    def _read_objects(
        self, text: str, body: str, path: str, line: int
    ) -> Sequence[Annotation] | None:
        """The objects in `text`, the first of which begins in a line; `body` is it without its
        <object>."""
        objects = []
        if matched := self._rows.match_rows(text, "object"):
            shape, rows, lines = matched
            return shape.objects(rows, path, line, lines)
        for piece in body.split("<object>"):
            inner, _, after = piece.rpartition("</object>")
            matched = self._objects.match(inner)
            if matched is None or after.strip():
                return None
            if (found := matched[0].object(matched[1], line, path)) is None:
                return None
            objects.append(found)
            line += piece.count("\n")
        return objects


def _positions_in_head(paths: tuple[str, ...]) -> tuple[int | None, ...]:
    wanted = ("folder", "filename", "size/width", "size/height")
    return tuple(paths.index(path) if path in paths else None for path in wanted)


def _numbers(kind: Callable[[str], float], sides: Sequence[Sequence[str]]) -> list[list[float]]:
    return [list(map(kind, side)) for side in sides]


class _ObjectShape:
    """Where the name, corners and attributes of objects are among the texts of their shape."""

    def __init__(self, main: list[int], others: list[tuple[int, str]]) -> None:
        self._main = itemgetter(*main)
        self._others = others
        self._rest = itemgetter(*(index for index, _ in others)) if others else lambda _: ()
        self._attributes: dict[Any, dict[str, Any]] = {}  # most objects have the same few

    @classmethod
    def of(cls, paths: tuple[str, ...]) -> _ObjectShape | None:
        """By the paths of the texts; None for shapes that are not read quickly."""
        wanted = ("name", *(f"bndbox/{side}" for side in _SIDES))
        others = [(i, path) for i, path in enumerate(paths) if path not in wanted]
        nested = any("/" in path or path in ("attributes", "bndbox") for _, path in others)
        if nested or not set(wanted) <= set(paths):
            return None
        return cls([paths.index(path) for path in wanted], others)

    def objects(
        self, rows: list[tuple[str, ...]], path: str, line: int, lines: int
    ) -> Sequence[Annotation] | None:
        """Records of objects that take so many lines each; None if there is a fault in one."""
        names, *sides = zip(*map(self._main, rows), strict=True)
        names = list(map(str.strip, names))
        places = [line + index * lines for index in range(len(rows))]
        try:
            corners = _numbers(int, sides)
        except ValueError:
            try:
                corners = _numbers(float, sides)
            except ValueError:
                return None
        if not all(names) or not abs(sum(map(sum, corners))) < LARGEST:  # nor NaN nor infinite
            return None
        return BoxColumns(names, *corners, path, places, list(map(self._said, rows)))

    def object(self, texts: tuple[str, ...], line: int, path: str) -> Annotation | None:
        """The record of an object; None if there is a fault in it."""
        name, left, top, right, bottom = self._main(texts)
        try:
            corners = (int(left), int(top), int(right), int(bottom))
            if abs(sum(corners)) > LARGEST:
                return None
        except ValueError:
            try:
                corners = (float(left), float(top), float(right), float(bottom))
            except ValueError:
                return None
            if not math.isfinite(sum(corners)):
                return None
        name = name.strip()
        if not name:
            return None
        said = self._said(texts).copy()
        return Annotation(name, corners, None, None, False, None, said, None, f"{path}:{line}")

    def _said(self, texts: tuple[str, ...]) -> dict[str, Any]:
        rest = self._rest(texts)
        attributes = self._attributes.get(rest)
        if attributes is None:
            attributes = self._read_attributes(texts)
            if len(self._attributes) < _MOST_REMEMBERED:
                self._attributes[rest] = attributes
        return attributes

    def _read_attributes(self, texts: tuple[str, ...]) -> dict[str, Any]:
        attributes: dict[str, Any] = {}
        for index, tag in self._others:
            value = texts[index].strip()
            if tag in _FLAGS and value in _BOOLEANS:
                attributes[tag] = _BOOLEANS[value]
            elif value and (tag, value) != _NO_POSE:
                attributes[tag] = value
        return attributes


def _label_files(path: Path, base: Path, files: Sequence[str]) -> Sequence[str]:
    """XML files of `files`, all that are in `base`, relative to it."""
    if path.is_file():
        return [path.relative_to(base).as_posix()]
    below = path.relative_to(base).as_posix() + "/" if path != base else ""
    names = PackedStrings(
        name for name in files if name.startswith(below) and name.lower().endswith(".xml")
    )
    # Other XML may lie about; where there is a folder of annotations, that is the one meant.
    annotations = PackedStrings(
        name for name in names if "annotations" in name.lower().split("/")[:-1]
    )
    return annotations or names


@dataclass
class _SplitLists:
    """Which images are in which split. A list names images by their path below JPEGImages/, without
    the suffix, or by their name alone."""

    members: dict[str, KeyedStrings]  # by the split's name
    labels: KeyedStrings  # by their `_key`

    def of(self, label: str) -> tuple[str | None, ...]:
        """The splits of a label file; (None,) if it is in no list."""
        key, stem = _key(label), _stem(label)
        return tuple(
            name
            for name, members in self.members.items()
            if key in members or (stem != key and stem in members and stem not in self.labels)
        ) or (None,)


def _splits(
    base: Path, files: Sequence[str], labels: Sequence[str], notes: Notes
) -> tuple[_SplitLists | None, list[str]]:
    """Splits by ImageSets/Main/*.txt, else by ImageSets/Segmentation/*.txt; None if there are no
    such lists."""
    lists: dict[str, PackedStrings] = {}
    texts = sorted(base / name for name in files if name.endswith(".txt") and "ImageSets/" in name)
    of_folder = {
        folder: [text for text in texts if text.parts[-3:-1] == ("ImageSets", folder)]
        for folder in ("Main", "Segmentation")
    }
    for file in of_folder["Main"] or of_folder["Segmentation"]:
        names = _split_list(file)
        if names is not None:
            lists[file.stem] = PackedStrings(sorted({*names, *lists.get(file.stem, ())}))
    remarks = []
    for name in list(lists):
        if parts := _parts(name, lists):
            remarks.append(f"the list {name} is {' + '.join(parts)}: not written once more")
            del lists[name]
    if not lists:
        return None, remarks
    members = {name: KeyedStrings(names, str) for name, names in lists.items()}
    splits = _SplitLists(members, KeyedStrings(labels, _key))
    stems = KeyedStrings(labels, _stem)
    for name, names in lists.items():
        for member in names:
            if member not in splits.labels and member not in stems:
                place = f"{base}: {member!r} in {name}.txt"
                notes.drop("name in a split list that has no XML file", place)
    if len(lists) > 1:
        for label in sorted(labels):
            if len(found := splits.of(label)) > 1:
                place = f"{_key(label)}: {', '.join(map(str, found))}"
                notes.suspect("image in several splits (kept in each)", place)
    return splits, remarks


def _parts(name: str, lists: Mapping[str, Sequence[str]]) -> list[str]:
    """The lists, two or more, that this one has all names of, and no other."""
    members = set(lists[name])
    parts = {
        other: names
        for other, names in lists.items()
        if other != name and names and len(names) < len(members) and members.issuperset(names)
    }
    is_sum = len(parts) > 1 and not members.difference(*parts.values())
    return sorted(parts) if is_sum else []


def _split_list(file: Path) -> list[str] | None:
    """Stems in a split list; None for the list of one class, whose lines end in -1, 0 or 1."""
    lines = [line.strip() for line in read_text(file).splitlines() if line.strip()]
    if lines and "_" in file.stem and all(re.search(r"\s(-1|0|1)$", line) for line in lines):
        return None
    return [re.sub(r"\.(jpe?g|png|bmp|xml)$", "", line, flags=re.IGNORECASE) for line in lines]


def _guess_origin(base: Path, labels: Sequence[str]) -> tuple[int, str]:
    """First pixel number and why it is thought to be so, from the first files (sorted)."""
    official = ""
    for label in labels[:FILES_LOOKED_AT]:
        try:
            content = read_bytes(base / label)
            if not any(map(content.lower().__contains__, _TELLING)):
                continue
            root = parse_xml(base / label, content)
        except InputError:
            continue  # told when it is this file's turn to be read
        declared = root.text_of("pixel_origin")
        if declared in ("0", "1"):
            return int(declared), f", as {label} says"
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
        if child.tag in _FLAGS and value in _BOOLEANS:
            attributes[child.tag] = _BOOLEANS[value]
        elif (child.tag, value) == _NO_POSE:
            continue
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


def _number(node: Node, tag: str, path: str, default: float | None = None) -> float:
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


def _key(label: str) -> str:
    """What an XML file, its image and its PNGs have in common: the path below Annotations/, without
    the suffix."""
    return _below_annotations(label.rpartition("/")[0]) + _stem(label)


@lru_cache(maxsize=1000)
def _below_annotations(folder: str) -> str:
    """The path below Annotations/, with a / at its end; "" if there is none."""
    folders = folder.split("/") if folder else []
    places = [place for place, name in enumerate(folders) if name.lower() == "annotations"]
    return "".join(f"{name}/" for name in (folders[places[-1] + 1 :] if places else folders))


def _mirrored(label: str, name: str) -> str:
    """Where the challenge has the image called `name` of an XML file."""
    return f"JPEGImages/{_below_annotations(label.rpartition('/')[0])}{name}"


def _stem(label: str) -> str:
    name = label.rpartition("/")[2]
    return name[:-4] if name.lower().endswith(".xml") else name


FORMAT = Format(
    name="voc",
    title="Pascal VOC (XML, and PNGs of segmentations)",
    layout="folder with Annotations/*.xml, JPEGImages/ and, if any, ImageSets/Main/*.txt, "
    "SegmentationObject/*.png, SegmentationClass/*.png; or XML files beside the images",
    carries=("boxes", "masks", "attributes", "splits"),
    loses="the void border of segmentations, which belongs to no object",
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
    write=write,
    write_options=(
        Option(
            "--pixel-origin",
            "0: corners from 0, as LabelImg has them; 1: pixel numbers from 1, the last included, "
            "as the challenge has them",
            default="0",
            choices=("0", "1"),
        ),
        Option(
            "--numbers",
            "exact: as they are; whole: rounded, for tools that read nothing else",
            default="exact",
            choices=("exact", "whole"),
        ),
        Option(
            "--masks",
            "PNGs of segmentations: auto: if there are masks",
            default="auto",
            choices=("auto", "yes", "no"),
        ),
    ),
    write_loses="keypoints, rotation; polygons become pixels, which belong to one object each; "
    "crowds become difficult; values of attributes become text",
)
