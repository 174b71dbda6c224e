"""Open Images: one CSV of boxes for each split, a row per box, with classes by their MIDs.

As https://storage.googleapis.com/openimages/web/download_v7.html says: `XMin, XMax, YMin, YMax` are
shares of the image; `IsOccluded`, `IsTruncated`, `IsGroupOf`, `IsDepiction` and `IsInside` are 1, 0
or, if that is not known, -1. A group of more than five objects that touch is a crowd to COCO. The
names of classes are in class-descriptions*.csv, who is whose kind in *hierarchy.json. Masks are in
*object-segmentation.csv and PNG files, which may be smaller than the image; a mask belongs to the
box of the same class and coordinates.

Labels of whole images are in *imagelabels*.csv: Confidence 1 says that a person saw the class in
the image, 0 that there is none of it, and what is between is a machine's guess.

The files of boxes have millions of rows, those of an image one after the other. They are read part
by part, and nothing but the part is held in memory.
"""

from __future__ import annotations

import csv
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from dataset_tools.coco import Annotation, Box, Category, Image, read_json, whole_image
from dataset_tools.errors import InputError
from dataset_tools.formats.base import (
    Evidence,
    Format,
    Glimpse,
    Option,
    Plan,
    read_text,
    root_of,
)
from dataset_tools.formats.reading import (
    find_image,
    note_empty,
    number,
    split_of_name,
    split_of_words,
)
from dataset_tools.images import ImageIndex, walk_files
from dataset_tools.notes import Notes

PART_BYTES = 16 * 2**20
LONGEST_ROWS = 2**20  # bytes before a part in which the row before it begins

_BOXES = {"ImageID", "LabelName", "XMin", "XMax", "YMin", "YMax"}
_MASKS = {"MaskPath", "ImageID", "LabelName", "BoxXMin", "BoxXMax", "BoxYMin", "BoxYMax"}
_LABELS = {"ImageID", "LabelName", "Confidence"}
_FLAGS = {
    "IsOccluded": "occluded",
    "IsTruncated": "truncated",
    "IsGroupOf": "group_of",
    "IsDepiction": "depiction",
    "IsInside": "inside",
}


@dataclass(frozen=True)
class Part:
    """Bytes `start` to `end` of a file of boxes: the images whose first row begins there."""

    file: str
    start: int
    end: int
    line: int  # ends of lines before `start`


@dataclass(frozen=True)
class _Classes:
    names: dict[str, str]  # by MID, in the order of the descriptions
    parents: dict[str, tuple[str, ...]]  # MIDs of what a class is a kind of

    def name(self, mid: str) -> str:
        return self.names.get(mid, mid)

    def __call__(self, seen: set[str]) -> list[Category]:
        mids = {self.name(mid): mid for mid in self.names}
        known = [name for name in mids if name in seen]
        return [
            self._category(name, mids.get(name, name))
            for name in (*known, *sorted(seen - set(known)))
        ]

    def _category(self, name: str, mid: str) -> Category:
        parents = [self.name(parent) for parent in self.parents.get(mid, ())]
        extra: dict[str, Any] = {"mid": mid}
        if len(parents) > 1:
            extra["supercategories"] = parents
        return Category(name, supercategory=parents[0] if parents else "", extra=extra)


def plan(path: Path, notes: Notes, images: Path | None = None, image_labels: str = "auto") -> Plan:
    """Plan to read one CSV of boxes (or labels of images), or all of those in a folder."""
    base = path if path.is_dir() else path.parent
    tables = {name: _header(base / name) for name in walk_files(base) if name.endswith(".csv")}
    boxes = [name for name, columns in tables.items() if columns >= _BOXES]
    masks = [name for name, columns in tables.items() if columns >= _MASKS]
    labels = [name for name, columns in tables.items() if _holds_labels(columns)]
    if path.is_file():
        boxes = [path.name] if _header(path) >= _BOXES else []
        masks = [name for name in masks if _split(name) == _split(path.name)]
        of_split = [name for name in labels if _split(name) == _split(path.name)]
        labels = of_split if boxes else [name for name in labels if name == path.name]
    if not boxes and not labels:
        raise InputError(
            f"{path}: no CSV of boxes with the columns {', '.join(sorted(_BOXES))} is in it, nor "
            f"one of labels of images with {', '.join(sorted(_LABELS))}."
        )
    as_objects = not boxes if image_labels == "auto" else image_labels == "objects"
    descriptions = sorted(n for n in tables if "class-descriptions" in n)
    # If both are there: the short list is of the classes with boxes, the long one of all.
    descriptions.sort(key=lambda name: (base / name).stat().st_size, reverse=True)
    classes = _Classes(_names(base, descriptions), _parents(base))
    remarks = [f"classes are named by {', '.join(descriptions)}"] if descriptions else []
    if not descriptions:
        notes.suspect("no class-descriptions*.csv (classes are called by their MIDs)", str(base))
    if labels:
        what = "objects" if as_objects else "attributes"
        remarks.append(f"labels of whole images become {what} (--image-labels {what})")
    others = sorted(set(tables) - {*boxes, *masks, *labels, *descriptions})
    if others and path.is_dir():
        remarks.append(f"not read, for they hold no boxes, masks or labels: {', '.join(others)}")
    root = root_of(path, images)
    return Plan(
        image_root=root,
        items=[part for name in boxes or labels for part in _parts(base, name)],
        read=_Reader(base, root, classes, masks, labels, as_objects),
        categories=classes,
        remarks=remarks,
    )


def recognise(glimpse: Glimpse) -> Evidence | None:
    """A CSV with Open Images' columns."""
    for name in glimpse.with_suffix(".csv"):
        columns = _columns(glimpse.head(name))
        if columns >= _BOXES | {"IsGroupOf"}:
            return Evidence(f"{name} has Open Images' columns ImageID, LabelName, XMin, IsGroupOf")
        if _holds_labels(columns) and "Source" in columns:
            return Evidence(f"{name} has Open Images' columns ImageID, Source, LabelName")
    return None


@dataclass
class _Reader:
    base: Path
    root: Path
    classes: _Classes
    mask_files: Sequence[str]
    label_files: Sequence[str]
    labels_are_objects: bool

    @cached_property
    def index(self) -> ImageIndex:
        return ImageIndex(self.root)

    @cached_property
    def files(self) -> ImageIndex:
        return ImageIndex(self.base)

    @cached_property
    def mask_rows(self) -> _Rows:
        return _Rows(self.base, self.mask_files)

    @cached_property
    def label_rows(self) -> _Rows:
        return _Rows(self.base, self.label_files)

    def __call__(self, part: Part, notes: Notes) -> Iterator[Image]:
        split = _split(part.file)
        for image_id, rows in _images(self.base / part.file, part):
            first = rows[0][0]
            image = find_image(self.index, image_id, f"{split}/", first, notes, split)
            if image is None:
                continue
            if "XMin" not in rows[0][1]:  # there are labels alone
                self._label(image, rows)
                yield image
                continue
            masks = [_mask(row, place) for place, row in self.mask_rows.of_image(image_id)]
            for place, row in rows:
                image.annotations.append(self._annotation(row, image, masks, place, notes))
            for mask in masks:
                notes.drop("mask of no box", mask.place)
            self._label(image, self.label_rows.of_image(image_id))
            yield image

    def _label(self, image: Image, rows: Iterable[tuple[str, dict[str, str]]]) -> None:
        """Say what is in the image, and what surely not."""
        scores: dict[str, float] = {}
        for place, row in rows:  # what people and machines said may be in several files
            name = self.classes.name(row["LabelName"])
            scores[name] = max(number(row["Confidence"], place), scores.get(name, 0))
        absent = [name for name, score in scores.items() if score == 0]
        present = {name: score for name, score in scores.items() if score > 0}
        image.attributes |= {"neg_categories": absent} if absent else {}
        if not self.labels_are_objects:
            image.attributes |= {"image_labels": present} if present else {}
            return
        for name, score in present.items():
            label = whole_image(name, image.width, image.height, image.source)
            label.attributes |= {"score": score} if score < 1 else {}
            image.annotations.append(label)

    def _annotation(
        self, row: dict[str, str], image: Image, masks: list[_Mask], place: str, notes: Notes
    ) -> Annotation:
        shares = tuple(number(row[key], place) for key in ("XMin", "YMin", "XMax", "YMax"))
        left, top, right, bottom = shares
        box = (
            left * image.width,
            top * image.height,
            right * image.width,
            bottom * image.height,
        )
        note_empty(box, place, notes)
        attributes: dict[str, Any] = {
            ours: row[theirs] == "1"
            for theirs, ours in _FLAGS.items()
            if row.get(theirs) in ("0", "1")
        }
        if row.get("Source"):
            attributes["source"] = row["Source"]
        if row.get("Confidence") not in (None, "", "1"):
            attributes["score"] = number(row["Confidence"], place)
        mask = next((m for m in masks if m.fits(row["LabelName"], shares)), None)
        segmentation = None
        if mask is not None:
            masks.remove(mask)
            segmentation = self._segmentation(mask, image, notes)
        return Annotation(
            self.classes.name(row["LabelName"]),
            box,
            segmentation,
            iscrowd=attributes.get("group_of", False),
            attributes=attributes,
            source=place,
        )

    def _segmentation(self, mask: _Mask, image: Image, notes: Notes) -> dict | None:
        file = self.files.find(mask.path)
        if file is None:
            notes.suspect(
                "mask whose PNG is not there (its box kept)", f"{mask.place}: {mask.path}"
            )
            return None
        return _read_mask(self.base / file, image, notes)


@dataclass(frozen=True)
class _Mask:
    path: str
    label: str
    box: Box  # shares of the image
    place: str

    def fits(self, label: str, box: Sequence[float]) -> bool:
        # Both files are rounded, not always alike.
        return label == self.label and all(
            abs(a - b) < 1e-4 for a, b in zip(box, self.box, strict=True)
        )


def _mask(row: dict[str, str], place: str) -> _Mask:
    sides = ("BoxXMin", "BoxYMin", "BoxXMax", "BoxYMax")
    box = tuple(number(row[side], place) for side in sides)
    return _Mask(row["MaskPath"], row["LabelName"], box, place)


@dataclass
class _Rows:
    """The rows of further files, found by image: in memory is where they are, not what."""

    base: Path
    names: Sequence[str]

    @cached_property
    def _tables(self) -> list[tuple[Path, list[str], dict[str, list[int]]]]:
        tables = []
        for name in self.names:
            path = self.base / name
            with open(path, "rb") as file:
                columns = _cells(file.readline())
                key = columns.index("ImageID")
                offsets: dict[str, list[int]] = defaultdict(list)
                position = file.tell()
                for line in file:
                    cells = line.split(b",", key + 1)
                    if len(cells) > key:
                        offsets[cells[key].decode("utf-8", "replace")].append(position)
                    position += len(line)
            tables.append((path, columns, dict(offsets)))
        return tables

    def of_image(self, image_id: str) -> Iterator[tuple[str, dict[str, str]]]:
        """The rows of an image, each with its place."""
        for path, columns, offsets in self._tables:
            if image_id not in offsets:
                continue
            with open(path, "rb") as file:
                for offset in offsets[image_id]:
                    file.seek(offset)
                    place = f"{path}: byte {offset}"
                    yield place, _row(columns, _cells(file.readline()), place)


def _read_mask(path: Path, image: Image, notes: Notes) -> dict | None:
    """RLE of a mask's PNG, brought to the image's size."""
    import numpy as np
    from PIL import Image as Pillow

    from dataset_tools.rle import encode_mask

    try:
        with Pillow.open(path) as png:
            mask = png.convert("L").resize((image.width, image.height), Pillow.Resampling.NEAREST)
    except (OSError, SyntaxError, ValueError, Pillow.DecompressionBombError) as error:
        raise InputError(f"{path}: cannot be read as an image: {error}") from error
    values = np.asarray(mask)
    if not values.any():
        notes.suspect("mask without a pixel (its box kept)", str(path))
        return None
    return encode_mask(values)


def _parts(base: Path, name: str) -> Iterator[Part]:
    start = line = 0
    with open(base / name, "rb") as file:
        while content := file.read(PART_BYTES):
            yield Part(name, start, start + len(content), line)
            start += len(content)
            line += content.count(b"\n")


def _images(path: Path, part: Part) -> Iterator[tuple[str, list[tuple[str, dict[str, str]]]]]:
    """The images whose first row begins in the part: their ids and rows, each with its place."""
    with open(path, "rb") as file:
        columns = _cells(file.readline())
        # Rows that go on with the image of the row before are that part's.
        before = _id_before(path, columns, part.start, file.tell())
        position = _next_line(path, max(part.start, file.tell()))
        # A line that a part begins in is the part's before, and so is its end.
        file.seek(part.start)
        first = part.line + file.read(position - part.start).count(b"\n") + 1
        image_id, rows = "", []
        for line_number, line in enumerate(file, start=first):
            place = f"{path}:{line_number}"
            position += len(line)
            if not line.strip():
                continue
            row = _row(columns, _cells(line), place)
            if row["ImageID"] == before:
                continue
            before = ""
            if row["ImageID"] != image_id:
                if rows:
                    yield image_id, rows
                rows = []
                image_id = row["ImageID"]
                if position - len(line) >= part.end:
                    return
            rows.append((place, row))
        if rows:
            yield image_id, rows


def _next_line(path: Path, position: int) -> int:
    """Where the first line begins that begins at `position` or after it."""
    with open(path, "rb") as file:
        file.seek(position - 1)
        file.readline()
        return file.tell()


def _id_before(path: Path, columns: list[str], position: int, first: int) -> str:
    """The image id in the row before the first one that begins at `position` or after it."""
    if position <= first:
        return ""
    end = _next_line(path, position)
    with open(path, "rb") as file:
        begin = max(first, end - LONGEST_ROWS)
        file.seek(begin)
        lines = [line for line in file.read(end - begin).splitlines() if line.strip()]
    return _row(columns, _cells(lines[-1]), f"{path}: before byte {end}")["ImageID"]


def _row(columns: list[str], cells: list[str], place: str) -> dict[str, str]:
    if len(cells) != len(columns):
        raise InputError(
            f"{place}: the row has {len(cells)} cells, but there are {len(columns)} columns. Mend "
            "or remove it."
        )
    return dict(zip(columns, cells, strict=True))


def _cells(line: bytes) -> list[str]:
    text = line.decode("utf-8-sig", "replace").rstrip("\r\n")
    # Few rows have quotes, and there are millions.
    return next(csv.reader([text])) if '"' in text else [cell.strip() for cell in text.split(",")]


def _holds_labels(columns: set[str]) -> bool:
    """Whether a CSV says of images what is in them, and not where."""
    return columns >= _LABELS and not columns & {"XMin", "X", "MaskPath"}


def _header(path: Path) -> set[str]:
    with open(path, "rb") as file:
        return _columns(file.readline(4096).decode("utf-8-sig", "replace"))


def _columns(head: str) -> set[str]:
    return {cell.strip().strip('"') for cell in head.split("\n", 1)[0].split(",")}


def _names(base: Path, files: Sequence[str]) -> dict[str, str]:
    """Names by MID; one that two classes have is told apart by the MID."""
    names: dict[str, str] = {}
    for name in files:
        for line, row in enumerate(csv.reader(read_text(base / name).splitlines()), start=1):
            if len(row) < 2:
                raise InputError(f"{base / name}:{line}: {row} is not a MID and a name.")
            if row[0] != "LabelName":
                names[row[0]] = row[1]
    counts: dict[str, int] = defaultdict(int)
    for name in names.values():
        counts[name] += 1
    return {mid: f"{name} ({mid})" if counts[name] > 1 else name for mid, name in names.items()}


def _parents(base: Path) -> dict[str, tuple[str, ...]]:
    """MIDs of the classes that each is a kind of, from all *hierarchy*.json; the root is none."""
    parents: dict[str, list[str]] = defaultdict(list)

    def walk(node: Any, file: str, above: str | None) -> None:
        if not isinstance(node, dict) or not isinstance(node.get("LabelName"), str):
            raise InputError(f"{file}: a class of the hierarchy has no LabelName.")
        mid = node["LabelName"]
        if above is not None and above not in parents[mid]:
            parents[mid].append(above)
        if not all(isinstance(node.get(key, []), list) for key in ("Subcategory", "Part")):
            raise InputError(f"{file}: Subcategory or Part of {mid} is not a list.")
        for child in node.get("Subcategory", ()):
            # The root, Entity, is what everything is.
            walk(child, file, mid if root is not node else None)
        for child in node.get("Part", ()):
            walk(child, file, None)

    for name in walk_files(base):
        if re.search(r"hierarchy[^/]*\.json$", name):
            root = read_json(base / name)
            walk(root, str(base / name), None)
    return {mid: tuple(above) for mid, above in parents.items() if above}


def _split(name: str) -> str | None:
    """The split in the file's or a folder's name (oidv6-train-annotations-bbox.csv)."""
    return split_of_name(name) or split_of_words(name)


FORMAT = Format(
    name="openimages",
    title="Open Images CSV (v4 to v7)",
    layout="folder with *-annotations-bbox.csv, class-descriptions-boxable.csv, the hierarchy's "
    "JSON, *-object-segmentation.csv and its PNGs, *imagelabels*.csv, as far as there are such; "
    "images below it",
    carries=("boxes", "masks", "labels", "attributes", "splits"),
    loses="relationships, point labels, localized narratives; the clicks of masks; labels of whole "
    "images without a box, if others have some",
    recognise=recognise,
    plan=plan,
    conventions="XMin … YMax are shares of the image. IsGroupOf becomes iscrowd; it and the other "
    "flags become attributes, unless they are -1 (not known). Classes are called by their display "
    "names, with the mid kept; the supercategory is the class above in the hierarchy. Masks are "
    "brought to the size of the image. Rows whose image is not there are left out, and counted. "
    "Labels of whole images of confidence 0 become the image's neg_categories, as in lvis; the "
    "others its image_labels, by their confidence, or objects that cover it.",
    options=(
        Option(
            "--image-labels",
            "labels of whole images: attributes of the image, or objects that cover it; auto: "
            "objects if there are no boxes",
            default="auto",
            choices=("auto", "attributes", "objects"),
        ),
    ),
)
