"""Classification in COCO: labels of whole images (`coco.whole_image`), found again and named."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dataset_tools.coco import Image
from dataset_tools.errors import InputError
from dataset_tools.formats.base import read_text
from dataset_tools.notes import Notes


def image_labels(image: Image, notes: Notes) -> list[str]:
    """The classes of an image, each once; its other objects are noted as dropped."""
    labels: dict[str, None] = {}
    for annotation in image.annotations:
        if annotation.attributes.get("whole_image"):
            labels[annotation.category] = None
        else:
            notes.drop("object in an image (labels of whole images only)", image.file_name)
    return list(labels)


def read_names(file: str | Path) -> list[str]:
    """Class names, one a line. InputError if one is missing or there twice."""
    names = [line.strip() for line in read_text(file).rstrip().splitlines()]
    for number, name in enumerate(names, start=1):
        if not name or name in names[: number - 1]:
            fault = f"{name!r} is there twice" if name else "the line is empty"
            raise InputError(f"{file}:{number}: {fault}. Wanted is one class name a line.")
    return names


def class_name(label: int, names: Sequence[str] | None, place: str) -> str:
    """The name of a class number from 0: the number itself without `names`."""
    if names is None:
        return str(label)
    if not 0 <= label < len(names):
        raise InputError(f"{place}: the label {label} has no name: there are {len(names)}.")
    return names[label]
