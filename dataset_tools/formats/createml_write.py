"""Writing Create ML's JSON: one file for each split, and the images beside it."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dataset_tools.coco import Dataset, Image, annotation_box
from dataset_tools.files import write_json
from dataset_tools.notes import Notes
from dataset_tools.shapes import kind_of, plain_attributes

FILE_NAME = "_annotations.createml.json"


def write(
    splits: Mapping[str | None, Dataset], folder: Path, notes: Notes, images: Path | None
) -> None:
    """Write a JSON file for each split, and the images beside it."""
    from dataset_tools.export import place_image, split_path

    for split, dataset in splits.items():
        entries = []
        for image in dataset.images:
            target = split_path(split, image.file_name)
            if images is not None and (images / image.file_name).is_file():
                place_image(images, image.file_name, folder / target)
            else:
                notes.suspect("image file that is missing (label written)", image.file_name)
            name = target if split is None else posixpath.relpath(target, split)
            entries.append(_entry(image, name, notes))
        place = folder / (split or "")
        place.mkdir(parents=True, exist_ok=True)
        write_json(place / FILE_NAME, entries)


def _entry(image: Image, name: str, notes: Notes) -> dict[str, Any]:
    entry: dict[str, Any] = {"image": name}
    if image.attributes:
        kinds = ", ".join(sorted(image.attributes))
        notes.drop(f"attributes of an image ({kinds})", image.file_name)
    entry["annotations"] = []
    for annotation in image.annotations:
        place = f"{image.file_name} ({annotation.category})"
        box = annotation_box(annotation)
        said = plain_attributes(annotation)
        if said.keys() & {"label", "coordinates"}:
            notes.drop("attribute called label or coordinates", place)
        if box is None:
            notes.drop("object without a box", place)
            continue
        if annotation.segmentation and kind_of(annotation) != "rotated":
            notes.drop("mask (the box written)", place)
        elif kind_of(annotation) in ("rotated", "points"):
            notes.drop("rotation, or points (the box written)", place)
        if annotation.keypoints:
            notes.drop("keypoints of an object", place)
        found: dict[str, Any] = {"label": annotation.category}
        if kind_of(annotation) != "label":
            left, top, right, bottom = box
            found["coordinates"] = {
                "x": (left + right) / 2,
                "y": (top + bottom) / 2,
                "width": right - left,
                "height": bottom - top,
            }
        entry["annotations"].append({**said, **found})
    return entry
