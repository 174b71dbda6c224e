"""DOTA: one text file per image, a line per object: four corners, category, difficult flag.

`x1 y1 x2 y2 x3 y3 x4 y4 category difficult`, as https://captain-whu.github.io/DOTA/dataset.html has
it: the corners run clockwise, the first one is the object's own top left (of a plane, say, seen in
its direction), so the first side is the width of the rotated box. Before them there may be
`imagesource:GoogleEarth` and `gsd:0.146` (metres a pixel, or null). Versions 1.0, 1.5 and 2.0
differ in their categories only. Coordinates are pixels from 0, whole or not.

Corners were drawn by hand and need not be a rectangle: they stay, as the segmentation, and the
rotated box joins the middles of their sides (`dataset_tools.rotated.from_corners`).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from dataset_tools.coco import Annotation, Dataset, Image
from dataset_tools.errors import InputError
from dataset_tools.export import place_image
from dataset_tools.files import write_text
from dataset_tools.formats.base import Evidence, Format, Glimpse, Plan, root_of
from dataset_tools.formats.reading import (
    DIFFICULT,
    are_numbers,
    find_image,
    note_unlabelled,
    number,
    numbered_lines,
    split_of_words,
    whole,
)
from dataset_tools.images import ImageIndex, walk_files
from dataset_tools.notes import Notes
from dataset_tools.rotated import annotation_corners, quad_annotation

LABEL_FOLDER = "labelTxt"
_HEADER = re.compile(r"'?(imagesource|gsd|acquisition dates)'?\s*:\s*(.*)", re.IGNORECASE)
_UPRIGHT = re.compile(r"hbb|reclabel", re.IGNORECASE)


def plan(path: Path, notes: Notes, images: Path | None = None, difficult: str = "keep") -> Plan:
    """Plan to read the folder of a dataset, or a single text file."""
    base = path if path.is_dir() else path.parent
    labels = _label_files(base, notes) if path.is_dir() else [path.name]
    if not labels:
        raise InputError(f"{path}: no text file of DOTA's is in it. Give the folder of labelTxt/.")
    root = root_of(path, images)
    index = ImageIndex(root)
    if path.is_dir():
        note_unlabelled(index, labels, notes)
    return Plan(root, labels, _Reader(base, index, difficult))


def recognise(glimpse: Glimpse) -> Evidence | None:
    """Text files whose lines are eight numbers, a name and a flag, or that begin with the
    header."""
    for name in glimpse.with_suffix(".txt")[:50]:
        lines = [line for line in glimpse.head(name).splitlines() if line.strip()][:20]
        objects = [line for line in lines if not _HEADER.match(line.strip())]
        if objects and all(map(_is_object, objects[:-1] or objects)):
            return Evidence(f"{name} has lines of four corners, a category and a difficult flag")
        if lines and not objects and lines[0].lower().startswith("imagesource:"):
            return Evidence(f"{name} begins with DOTA's imagesource")
    return None


@dataclass
class _Reader:
    base: Path
    index: ImageIndex
    difficult: str

    def __call__(self, label: str, notes: Notes) -> Iterator[Image]:
        path = self.base / label
        name = label.removesuffix(".txt")
        split = split_of_words(label)
        image = find_image(self.index, name, label, str(path), notes, split)
        if image is None:
            return
        for place, line in numbered_lines(path):
            header = _HEADER.fullmatch(line)
            if header:
                image.attributes |= _header(header[1].lower(), header[2], place)
                continue
            annotation = _annotation(line, place, notes)
            if annotation.attributes["difficult"] and self.difficult == "drop":
                notes.drop("difficult object (--difficult drop)", place)
                continue
            annotation.iscrowd = annotation.attributes["difficult"] and self.difficult == "crowd"
            image.annotations.append(annotation)
        yield image


def _header(key: str, text: str, place: str) -> dict[str, Any]:
    if text.lower() in ("", "none", "null", "nan"):
        return {key: None}
    return {key: number(text, place) if key == "gsd" else text}


def _annotation(line: str, place: str, notes: Notes) -> Annotation:
    words = line.replace(",", " ").split()
    if len(words) < 9:
        raise InputError(
            f"{place}: {line!r} is not x1 y1 x2 y2 x3 y3 x4 y4 category difficult. Mend or remove "
            "the line."
        )
    quad = [number(word, place) for word in words[:8]]
    level = whole(words.pop(), place) if len(words) > 9 else 0
    if level < 0:
        raise InputError(f"{place}: the difficult flag is {level}, neither 0 nor 1. Mend the line.")
    attributes: dict[str, Any] = {"difficult": level > 0}
    if level > 1:
        attributes["difficult_level"] = level
    annotation, rectangle = quad_annotation(" ".join(words[8:]), quad, attributes, place)
    _, _, width, height, _ = annotation.attributes["rbox"]
    if width <= 0 or height <= 0:
        notes.suspect("box of no area (kept: see check --fix)", place)
    elif not rectangle:
        notes.suspect("quadrangle that is no rectangle (its corners are the segmentation)", place)
    return annotation


def _label_files(base: Path, notes: Notes) -> list[str]:
    """Text files relative to `base`: those in folders called labelTxt… if there are such."""
    names = [name for name in walk_files(base) if name.lower().endswith(".txt")]
    labels = [name for name in names if LABEL_FOLDER.lower() in name.rpartition("/")[0].lower()]
    labels = labels or [name for name in names if _has_objects(base / name)]
    rotated = [name for name in labels if not _UPRIGHT.search(name.rpartition("/")[0])]
    if rotated and len(rotated) < len(labels):
        for name in sorted(set(labels) - set(rotated)):
            notes.drop("upright boxes beside the rotated ones (HBB)", name)
        labels = rotated
    seen: dict[tuple[str | None, str], str] = {}
    for name in labels:
        other = seen.setdefault((split_of_words(name), _below_label_folder(name)), name)
        if other != name and LABEL_FOLDER.lower() in name.lower():
            raise InputError(
                f"{base}: {other} and {name} are of the same image: of two versions, it seems. "
                "Give the folder of one as PATH, and that of the images by --images."
            )
    return labels


def _below_label_folder(name: str) -> str:
    """The path after the label folder and those of its versions: what the image is called."""
    parts = PurePosixPath(name).parts
    for place in range(len(parts) - 2, -1, -1):
        if re.search(r"labeltxt|dota", parts[place], re.IGNORECASE):
            return "/".join(parts[place + 1 :])
    return name


def _has_objects(path: Path) -> bool:
    """Whether a text file is one of labels; an empty one is."""
    lines = Glimpse(path).head(path.name).split("\n", 5)[:5]
    lines = [line for line in lines if line.strip()]
    return all(_HEADER.match(line.strip()) or _is_object(line) for line in lines)


def _is_object(line: str) -> bool:
    # ICDAR's lines are eight numbers and a text too, but divided by commas and without a flag.
    words = line.split()
    return (
        len(words) == 10
        and are_numbers(words[:8])
        and not are_numbers(words[8:9])
        and words[9].isdecimal()
    )


def write(
    splits: Mapping[str | None, Dataset], folder: Path, notes: Notes, images: Path | None
) -> None:
    """Write SPLIT/labelTxt/*.txt and SPLIT/images; without splits the two folders alone."""
    for split, dataset in splits.items():
        base = folder / split if split else folder
        names = _written_names(dataset, notes)
        taken: dict[str, str] = {}
        for image in dataset.images:
            label = f"{os.path.splitext(image.file_name)[0]}.txt"
            other = taken.setdefault(label.casefold(), image.file_name)
            if other != image.file_name:
                raise InputError(
                    f"{other} and {image.file_name} would have the same label file {label}. Rename "
                    "one of the images."
                )
            place_image(images, image.file_name, base / "images" / image.file_name)
            lines = [*_header_lines(image), *_object_lines(image, names, notes)]
            write_text(base / LABEL_FOLDER / label, "".join(line + "\n" for line in lines))


def _written_names(dataset: Dataset, notes: Notes) -> dict[str, str]:
    """Names by category, without spaces, which divide the columns."""
    names: dict[str, str] = {}
    for category in dataset.categories:
        name = "-".join(re.split(r"[\s,]+", category.name))
        if name in names.values():
            raise InputError(f"Two categories would both be written as {name!r}. Rename one.")
        if name != category.name:
            notes.suspect("category with spaces or commas (written with hyphens)", category.name)
        names[category.name] = name
    return names


def _header_lines(image: Image) -> Iterator[str]:
    for key in ("imagesource", "gsd"):
        if key in image.attributes:
            value = image.attributes[key]
            yield f"{key}:{'null' if value is None else value}"


_WRITTEN = {"rbox", "difficult", "difficult_level"}


def _object_lines(image: Image, names: Mapping[str, str], notes: Notes) -> Iterator[str]:
    for annotation in image.annotations:
        quad, whole_outline = annotation_corners(annotation)
        if quad is None:
            notes.drop("object without a box", annotation.source)
            continue
        if not whole_outline:
            notes.suspect("mask (written as its box)", annotation.source)
        attributes = annotation.attributes
        for name in sorted(attributes.keys() - _WRITTEN):
            notes.drop(f"attribute {name}", annotation.source)
        if annotation.keypoints:
            notes.drop("keypoints", annotation.source)
        level = attributes.get("difficult_level", int(bool(attributes.get("difficult"))))
        if annotation.iscrowd and not level:
            notes.suspect("crowd (written as difficult)", annotation.source)
            level = 1
        numbers = " ".join(str(round(float(value), 6)) for value in quad)
        yield f"{numbers} {names[annotation.category]} {level}"


FORMAT = Format(
    name="dota",
    title="DOTA text files (v1.0, v1.5, v2.0)",
    layout="folder with labelTxt/*.txt and images/, in one folder for each split if there are "
    "several",
    carries=("boxes", "masks", "rotation", "attributes", "splits"),
    loses="",
    recognise=recognise,
    plan=plan,
    conventions="Four corners in pixels from 0, clockwise, from the object's own top left: the "
    "rotated box has the first side as its width. The corners as they are become the "
    "segmentation, its tight box the box. imagesource and gsd become attributes of the image. "
    "Where each image has a text file, an image without one is left out, and counted.",
    options=(DIFFICULT,),
    write=write,
    write_carries=("rotation", "attributes", "splits"),
    write_loses="boxes become rotated ones; masks of more than four corners, keypoints, attributes "
    "but difficult, imagesource and gsd; spaces in names become hyphens",
)
