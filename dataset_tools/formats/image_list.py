"""Lists of images: a line has the path of an image and the number of its class.

So do DomainNet (Peng et al., ICCV 2019) and MiniDomainNet (Zhou et al., arXiv 2003.07325) name
their splits, `clipart_train.txt` beside `clipart_test.txt`, and Caffe and many benchmarks theirs:

    clipart/aircraft_carrier/clipart_001_000001.jpg 0

Classes are called as the folders that their images lie in, and keep the order of their numbers, by
all lists of the folder: so those of two domains agree, even if one of them lacks a class.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from dataset_tools.coco import Image, whole_image
from dataset_tools.errors import InputError
from dataset_tools.formats.base import (
    SPLIT_NAMES,
    Evidence,
    Format,
    Glimpse,
    Option,
    Plan,
    declared_categories,
    read_text,
)
from dataset_tools.images import image_size, inside, is_image_name
from dataset_tools.notes import Notes

_LINE = re.compile(r"(?P<image>\S.*)\s+(?P<label>\d+)\s*")
_NAME = re.compile(r"(?:(?P<domain>.+)_)?(?P<split>[a-z]+)\.txt", re.IGNORECASE)


@dataclass(frozen=True)
class Item:
    """A line: an image, its class and its split."""

    image: str
    category: str
    split: str | None
    place: str


def plan(path: Path, notes: Notes, images: Path | None = None, domain: str | None = None) -> Plan:
    """Plan to read a list, or those of a folder (of one `domain`), each a split."""
    folder = path if path.is_dir() else path.parent
    beside = sorted(file for file in folder.glob("*.txt") if _is_list(file))
    chosen = [path] if path.is_file() else [f for f in beside if domain in (None, _named(f)[0])]
    domains = sorted({str(_named(file)[0]) for file in beside if _named(file)[1]})
    if not chosen or (path.is_dir() and len({_named(file)[0] for file in chosen}) > 1):
        raise InputError(
            f"{path}: say by --domain which lists to read: {', '.join(domains) or 'there is none'}."
        )
    rows = {file: list(_rows(file)) for file in dict.fromkeys([*beside, *chosen])}
    names = _class_names(rows)
    root = images or _root(path, chosen[0], rows[chosen[0]])
    items = [
        Item(image, names[label], _named(file)[1], place)
        for file in chosen
        for image, label, place in rows[file]
    ]
    return Plan(root, items, _Reader(root), declared_categories(list(names.values()), str(folder)))


def recognise(glimpse: Glimpse) -> Evidence | None:
    """Text files called as splits are, of lines with an image and a number."""
    for name in glimpse.with_suffix(".txt")[:20]:
        match = _NAME.fullmatch(PurePosixPath(name).name)
        if match is None or match["split"].lower() not in SPLIT_NAMES:
            continue
        lines = glimpse.head(name).splitlines()[:5]
        found = [_LINE.fullmatch(line) for line in lines]
        if lines and all(m and is_image_name(m["image"]) and "/" in m["image"] for m in found):
            return Evidence(f"{name} has lines of an image and the number of its class")
    return None


@dataclass
class _Reader:
    root: Path

    def __call__(self, item: Item, notes: Notes) -> Iterator[Image]:
        file = inside(self.root, item.image)
        if not file.is_file():
            raise InputError(
                f"{item.place}: there is no image {file}. Give the folder that the paths in the"
                " list start from by --images."
            )
        width, height = image_size(file)
        label = whole_image(item.category, width, height, item.place)
        yield Image(item.image, width, height, [label], split=item.split, source=item.place)


def _named(file: Path) -> tuple[str | None, str | None]:
    """Domain and split that a file's name tells."""
    match = _NAME.fullmatch(file.name)
    if match is None or match["split"].lower() not in SPLIT_NAMES:
        return None, None
    return match["domain"], SPLIT_NAMES[match["split"].lower()]


def _is_list(file: Path) -> bool:
    with file.open(encoding="utf-8", errors="replace") as text:
        first = _LINE.fullmatch(text.readline(4096).rstrip("\r\n"))
    return first is not None and is_image_name(first["image"])


def _rows(file: Path) -> Iterator[tuple[str, int, str]]:
    """(image, number of its class, file:line) of each line."""
    for number, line in enumerate(read_text(file).splitlines(), start=1):
        if not line.strip():
            continue
        match = _LINE.fullmatch(line)
        if match is None:
            raise InputError(f"{file}:{number}: {line!r} is no image and number of a class.")
        yield match["image"].replace("\\", "/"), int(match["label"]), f"{file}:{number}"


def _class_names(rows: dict[Path, list[tuple[str, int, str]]]) -> dict[int, str]:
    """By number, the folder that all images of a class lie in. Numbers have no gaps."""
    names: dict[int, str] = {}
    for lines in rows.values():
        for image, label, place in lines:
            name = PurePosixPath(image).parent.name or str(label)
            if names.setdefault(label, name) != name:
                raise InputError(
                    f"{place}: class {label} lies in the folder {name}, before in {names[label]}."
                    " Lists of different sets are in one folder: separate them."
                )
    for label in range(max(names, default=-1)):
        names.setdefault(label, f"class {label}")
    return dict(sorted(names.items()))


def _root(path: Path, file: Path, rows: list[tuple[str, int, str]]) -> Path:
    """The folder that paths start from: that of the list, or the one above it."""
    if not rows:
        raise InputError(f"{file}: the list is empty.")
    for folder in (file.parent, file.parent.parent):
        if inside(folder, rows[0][0]).is_file():
            return folder
    raise InputError(
        f"{file}: the image {rows[0][0]} is neither in {file.parent} nor in {file.parent.parent}."
        " Give the folder that paths start from by --images."
    )


FORMAT = Format(
    name="image-list",
    title="lists of images with the number of their class (DomainNet)",
    layout="clipart_train.txt, clipart_test.txt …, lines of `path/of/image.jpg 3`; images beside "
    "them, in the folder above, or in --images",
    carries=("labels", "splits"),
    loses="",
    recognise=recognise,
    plan=plan,
    conventions="Classes are called as the folders of their images, in the order of their numbers, "
    "by all lists of the folder. A split is what a list's name ends with.",
    options=(Option("--domain", "which lists of a folder to read: what their names begin with"),),
)
