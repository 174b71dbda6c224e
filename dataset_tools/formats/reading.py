"""What readers of plain label files share: lines, numbers, the image of a label file, its split."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from dataset_tools.coco import Annotation, Box, Image
from dataset_tools.errors import InputError
from dataset_tools.formats.base import SPLIT_NAMES, Option, read_text
from dataset_tools.images import ImageIndex, image_size, walk_files
from dataset_tools.notes import Notes

# For datasets with regions in which nothing is labelled, whatever is in them.
IGNORED = Option(
    "--ignored",
    "regions to ignore: crowd: as a crowd of their own category; every: of every category, so that "
    "COCO's evaluation ignores what is found there; drop",
    default="crowd",
    choices=("crowd", "every", "drop"),
)

DIFFICULT = Option(
    "--difficult",
    "difficult objects: keep as an attribute, mark as crowd (ignored in evaluation), or drop",
    default="keep",
    choices=("keep", "crowd", "drop"),
)


def text_labels(path: Path, base: Path, is_label: Callable[[Path], bool]) -> list[str]:
    """Text files at or below `path` that are label files, as POSIX paths relative to `base`."""
    files = [path] if path.is_file() else [path / name for name in walk_files(path)]
    texts = [file for file in files if file.suffix.lower() == ".txt"]
    return [file.relative_to(base).as_posix() for file in texts if is_label(file)]


def numbered_lines(path: Path) -> Iterator[tuple[str, str]]:
    """The lines of a text file that are not blank, each after its place (`file:line`)."""
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        if line.strip():
            yield f"{path}:{number}", line.strip()


def all_lines(head: str, looks_right: Callable[[str], bool]) -> bool:
    """Whether the lines of a file's beginning look right, of which the last may be cut off."""
    lines = [line for line in head.splitlines() if line.strip()]
    return bool(lines) and all(map(looks_right, lines[:-1] or lines))


def number(word: str, place: str) -> float:
    """A finite number. InputError if `word` is none."""
    try:
        value = float(word)
        if math.isfinite(value):
            return value
    except ValueError:
        pass
    raise InputError(f"{place}: {word!r} is not a number. Mend or remove the line.")


def whole(word: str, place: str) -> int:
    """A whole number, which may be written as 3.0. InputError if `word` is none."""
    value = number(word, place)
    if not value.is_integer():
        raise InputError(f"{place}: {word!r} is not a whole number. Mend or remove the line.")
    return int(value)


def mapping(value: Any, where: str) -> dict[str, Any]:
    """An object of JSON, {} for null. InputError if it is something else."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InputError(f"{where} is {value!r}, not an object in braces.")
    return value


def are_numbers(words: Iterable[str]) -> bool:
    """Whether all `words` are finite numbers."""
    try:
        return all(math.isfinite(float(word)) for word in words)
    except ValueError:
        return False


def sized_box(left: float, top: float, width: float, height: float) -> Box:
    """The XYXY box of a corner and a size."""
    return (left, top, left + width, top + height)


def note_empty(box: Box, place: str, notes: Notes) -> None:
    """Note a box without area; it is kept, for mending it is the work of `check`."""
    if box[2] <= box[0] or box[3] <= box[1]:
        notes.suspect("box of no area (kept: see check --fix)", place)


def find_image(
    index: ImageIndex, name: str, near: str, source: str, notes: Notes, split: str | None = None
) -> Image | None:
    """The image called `name` with its size; None, noted as dropped, if it is not there."""
    found = index.find(name, near=near)
    if found is None:
        notes.drop("labels whose image is not there", f"{source}: {name}")
        return None
    return Image(found, *image_size(index.root / found), split=split, source=source)


def leads_out(name: str) -> bool:
    """Whether a path in labels would leave the folder that it starts from."""
    parts = name.replace("\\", "/").split("/")
    return not parts[0] or ":" in parts[0] or ".." in parts


def note_unlabelled(index: ImageIndex, labels: Iterable[str], notes: Notes) -> None:
    """Note images called like none of the label files: where each image has one, even if it is
    empty, an image without is not an image without objects."""
    stems = {stem(label) for label in labels}
    for path in index.paths:
        if stem(path) not in stems:
            notes.drop("image without a label file", path)


def split_of_words(path: str) -> str | None:
    """The split that a word of a POSIX path stands for, the last first
    (`VisDrone2019-DET-val/annotations/a.txt`: val). The file's own name does not count."""
    for folder in reversed(path.split("/")[:-1]):
        for word in reversed(re.split(r"[^a-z]+", folder.lower())):
            if word in SPLIT_NAMES:
                return SPLIT_NAMES[word]
    return None


def split_of_name(path: str) -> str | None:
    """The split that a word of a file's own name stands for (`wider_face_val_bbx_gt.txt`: val)."""
    return split_of_words(f"{stem(path)}/")


def ignored_region(region: Annotation, how: str, categories: Iterable[str]) -> list[Annotation]:
    """What the option `IGNORED` makes of a region in which objects of all `categories` are left
    out; an empty list for "drop", which is for the caller to note."""
    if how == "drop":
        return []
    names = categories if how == "every" else [region.category]
    return [replace(region, category=name, iscrowd=True) for name in names]


def stem(path: str) -> str:
    """The file's name without folders and the last suffix."""
    return os.path.splitext(path.rpartition("/")[2])[0]
