"""Hugging Face's ImageFolder with metadata: image files and a metadata.jsonl or metadata.csv.

As the documentation of `datasets` has it: a line for each image, with its `file_name` relative to
the metadata file, and what else there is to say of it (`dataset_tools.hf_rows`). Folders called
train, validation and test are splits; each may have metadata of its own.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from dataset_tools.coco import Dataset, Image
from dataset_tools.errors import InputError
from dataset_tools.export import place_image
from dataset_tools.formats.base import (
    Evidence,
    Format,
    Glimpse,
    Option,
    Plan,
    declared_categories,
    read_text,
    root_of,
    sorted_categories,
    split_of_folders,
)
from dataset_tools.hf_rows import BOX_FORMS, RowReader, row_of
from dataset_tools.images import image_size, inside, is_image_name, walk_files
from dataset_tools.labels import read_names
from dataset_tools.notes import Notes

METADATA = ("metadata.jsonl", "metadata.csv")
_FILE_NAME = re.compile(r"^(.+_)?file_name$")
OPTIONS = (
    Option("--names", "class names, one a line from class 0", metavar="FILE"),
    Option("--box", "form of boxes", default="xywh", choices=BOX_FORMS),
)


@dataclass(frozen=True)
class Item:
    """One line of a metadata file."""

    image: str  # relative to the root
    row: dict[str, Any]
    place: str


def plan(
    path: Path,
    notes: Notes,
    images: Path | None = None,
    names: str | None = None,
    box: str = "xywh",
) -> Plan:
    """Plan to read a folder with metadata files, or one of them."""
    base = path if path.is_dir() else path.parent
    root = root_of(base, images)
    files = [path.name] if path.is_file() else list(_metadata_files(base))
    if not files:
        raise InputError(f"{path}: there is no metadata.jsonl or metadata.csv in it.")
    items: list[Item] = []
    for name in files:
        folder = PurePosixPath(name).parent
        for row, place in _rows(base / name):
            key = next((key for key in row if _FILE_NAME.match(key)), None)
            image = row.pop(key, None) if key else None
            if not isinstance(image, str) or not image:
                raise InputError(f"{place}: there is no file_name. Each line is of an image.")
            file_name = (folder / image.replace("\\", "/")).as_posix()
            inside(root, file_name)
            items.append(Item(file_name, row, place))
    listed = {item.image for item in items}
    for name in walk_files(root):
        if is_image_name(name) and name not in listed:
            notes.drop("image that no metadata names", name)
    given = read_names(names) if names else None
    categories = declared_categories(given, str(names)) if given else sorted_categories
    return Plan(root, items, _Reader(root, RowReader(given=given, box=box)), categories)


def recognise(glimpse: Glimpse) -> Evidence | None:
    """metadata.jsonl or metadata.csv whose first line has a file_name."""
    for name in glimpse.files:
        if name.rpartition("/")[2] in METADATA:
            first = (glimpse.head(name).lstrip("\ufeff").splitlines() or [""])[0]
            if re.search(r'(^|[",_])file_name("\s*:|"?,|"?$)', first):
                return Evidence(f"{name} has a file_name in its first line")
    return None


def write(
    splits: Mapping[str | None, Dataset], folder: Path, notes: Notes, images: Path | None
) -> None:
    """Image files as they are called, and a metadata.jsonl for each split."""
    for split, dataset in splits.items():
        base = folder / split_folder(split) if split else folder
        lines = []
        rows = [row_of(image, notes) for image in dataset.images]
        # A column is of one type, text or lists of it, or other readers cannot take it.
        single = all(len(row["text"]) <= 1 for row in rows)
        for image, row in zip(dataset.images, rows, strict=True):
            objects = row["objects"]
            line: dict[str, Any] = {"file_name": image.file_name}
            if objects["bbox"] or not row["labels"]:
                line["objects"] = objects
            if row["labels"]:
                line["labels"] = row["labels"]
            if row["text"]:
                line["text"] = row["text"][0] if single else row["text"]
            lines.append(json.dumps(line, ensure_ascii=False, allow_nan=False))
            place_image(images, image.file_name, base / image.file_name)
        base.mkdir(parents=True, exist_ok=True)
        content = "".join(f"{line}\n" for line in lines)
        (base / METADATA[0]).write_bytes(content.encode("utf-8"))
        used = {entry.category for image in dataset.images for entry in image.annotations}
        for category in dataset.categories:
            if category.name not in used:
                notes.drop("category without an object", category.name)


def split_folder(split: str) -> str:
    """What a split is called by Hugging Face. InputError if it cannot name a folder."""
    inside("", split)
    return {"val": "validation"}.get(split, split)


@dataclass
class _Reader:
    root: Path
    rows: RowReader

    def __call__(self, item: Item, notes: Notes) -> Iterator[Image]:
        file = self.root / item.image
        if not os.path.isfile(file):
            raise InputError(f"{item.place}: the image {item.image} is not in {self.root}.")
        split = split_of_folders(item.image)
        image = Image(item.image, *image_size(file), split=split, source=item.place)
        self.rows.fill(image, item.row, notes)
        yield image


def _metadata_files(base: Path) -> Iterator[str]:
    seen: set[PurePosixPath] = set()
    for name in sorted(walk_files(base), key=lambda name: name.replace(".csv", ".z")):
        path = PurePosixPath(name)
        if path.name in METADATA:
            if path.parent in seen:
                raise InputError(
                    f"{base / path.parent}: metadata.csv and metadata.jsonl. Keep one."
                )
            seen.add(path.parent)
            yield name


def _rows(file: Path) -> Iterator[tuple[dict[str, Any], str]]:
    text = read_text(file)
    if file.suffix == ".csv":
        reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        try:
            for cells in reader:
                place = f"{file}:{reader.line_num}"
                if None in cells or None in cells.values():
                    raise InputError(f"{place}: not as many cells as the header line has.")
                yield {key: _cell(cell) for key, cell in cells.items() if cell}, place
        except csv.Error as error:
            raise InputError(f"{file}:{reader.line_num}: broken CSV: {error}.") from error
        return
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        place = f"{file}:{number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{place}: not JSON: {error}. Each line is an object.") from error
        if not isinstance(row, dict):
            raise InputError(f"{place}: not an object in braces.")
        yield row, place


def _cell(cell: str) -> str | int:
    """Numbers in CSV are class numbers; all else is text."""
    return int(cell) if re.fullmatch(r"0|[1-9]\d{0,8}", cell) else cell


FORMAT = Format(
    name="hf-folder",
    title="Hugging Face ImageFolder with metadata",
    layout="folder of images with metadata.jsonl or metadata.csv in it or in its folders",
    carries=("boxes", "labels", "attributes", "splits"),
    loses="images that no metadata names (they are counted)",
    recognise=recognise,
    plan=plan,
    conventions="objects.bbox is XYWH in pixels from 0. Classes are names, or numbers, which are "
    "the names without --names. text becomes captions, further columns become attributes.",
    options=OPTIONS,
    write=write,
    write_carries=("boxes", "labels", "splits"),
    write_loses="masks, keypoints, rotation, attributes",
)
