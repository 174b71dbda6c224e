"""Folders with one mask image per instance, as in the Data Science Bowl 2018.

`ID/images/ID.png` with `ID/masks/*.png`, or `images/ID.png` with `masks/ID/*.png`. In a mask, every
value but 0 belongs to the instance.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from dataset_tools.coco import Annotation, Category, Image, Segmentation
from dataset_tools.errors import InputError
from dataset_tools.formats.base import (
    Evidence,
    Format,
    Glimpse,
    Option,
    Plan,
    root_of,
    split_of_folders,
)
from dataset_tools.images import image_size, is_image_name, walk_files
from dataset_tools.notes import Notes

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Item:
    """An image and its masks, as paths relative to the image root or the dataset."""

    image: str
    masks: tuple[str, ...]


def plan(
    path: Path,
    notes: Notes,
    images: Path | None = None,
    category: str = "object",
    segmentation: str = "rle",
) -> Plan:
    """Plan to read the folder of a dataset."""
    if not path.is_dir():
        raise InputError(f"{path}: is a file. Give the folder that holds the images and masks.")
    root = root_of(path, images)
    masks_of: dict[str, list[str]] = {}
    pictures: dict[str, list[str]] = {}
    for name in walk_files(path):
        if is_image_name(name) and (key := _key_of_mask(name)) is not None:
            masks_of.setdefault(key, []).append(name)
    for name in walk_files(root):
        if is_image_name(name) and (key := _key_of_image(name)) is not None:
            pictures.setdefault(key, []).append(name)
    items: list[Item] = []
    for key, names in sorted(pictures.items()):
        masks = masks_of.pop(key, [])
        if not masks:
            notes.suspect("image without a mask (kept, without objects)", names[0])
        if len(names) > 1:
            raise InputError(f"{root}: {names[0]} and {names[1]} have the same masks ({key}).")
        items.append(Item(names[0], tuple(masks)))
    for names in masks_of.values():
        for name in names:
            notes.drop("mask whose image is not there", str(path / name))
    if not items or not any(item.masks for item in items):
        raise InputError(
            f"{path}: found no ID/images/ID.png with ID/masks/*.png, nor images/ID.png with "
            "masks/ID/*.png."
        )
    return Plan(
        image_root=root,
        items=items,
        read=_Reader(path, root, category, segmentation == "polygon"),
        categories=lambda _: [Category(category)],
    )


def recognise(glimpse: Glimpse) -> Evidence | None:
    """Image files of which several belong, as masks, to one image."""
    names = [name for name in glimpse.files if is_image_name(name)]
    pictures = {key: name for name in names if (key := _key_of_image(name)) is not None}
    for name in names:
        key = _key_of_mask(name)
        if key in pictures:
            return Evidence(f"{name} is a mask beside the image {pictures[key]}")
    return None


def _key_of_mask(name: str) -> str | None:
    """What a mask and its image have in common: the path without `masks`, and the image's name."""
    folders = PurePosixPath(name).parts[:-1]
    if folders[-1:] == ("masks",) and len(folders) > 1:  # ID/masks/x.png
        return "/".join(folders[:-1]) + "/"
    if folders[-2:-1] == ("masks",):  # masks/ID/x.png
        return "/".join((*folders[:-2], folders[-1]))
    return None


def _key_of_image(name: str) -> str | None:
    *folders, file = PurePosixPath(name).parts
    stem = os.path.splitext(file)[0]
    if folders[-1:] != ["images"]:
        return None
    if folders[-2:-1] == [stem]:  # ID/images/ID.png
        return "/".join(folders[:-1]) + "/"
    return "/".join((*folders[:-1], stem))


@dataclass
class _Reader:
    path: Path
    root: Path
    category: str
    as_polygons: bool

    def __call__(self, item: Item, notes: Notes) -> Iterator[Image]:
        width, height = image_size(self.root / item.image)
        split = split_of_folders(item.image)
        image = Image(item.image, width, height, split=split, source=str(self.root / item.image))
        for name in item.masks:
            file = self.path / name
            mask = _read_mask(file, notes)
            if mask.shape != (height, width):
                raise InputError(
                    f"{file}: the mask is {mask.shape[1]}×{mask.shape[0]}, "
                    f"but its image {item.image} is {width}×{height}."
                )
            if not mask.any():
                notes.drop("mask without a pixel", str(file))
                continue
            segmentation = self._segmentation(mask, file, notes)
            image.annotations.append(
                Annotation(
                    self.category, segmentation=segmentation, area=int(mask.sum()), source=str(file)
                )
            )
        yield image

    def _segmentation(self, mask: np.ndarray, file: Path, notes: Notes) -> Segmentation:
        from dataset_tools.rle import encode_mask, mask_to_polygons

        if self.as_polygons:
            polygons = mask_to_polygons(mask)
            if polygons is not None:
                return polygons
            notes.suspect("mask with a hole, which polygons cannot have (kept as RLE)", str(file))
        return encode_mask(mask)


def _read_mask(file: Path, notes: Notes) -> np.ndarray:
    """Boolean HW array, true where the mask is not 0 (in any channel but alpha)."""
    import numpy as np
    from PIL import Image as Pillow

    try:
        with Pillow.open(file) as picture:
            if picture.mode in ("LA", "RGBA", "PA"):
                picture = picture.convert("RGB")
            values = np.asarray(picture)
    except (OSError, SyntaxError, ValueError, Pillow.DecompressionBombError) as error:
        raise InputError(f"{file}: cannot be read as an image: {error}") from error
    if values.ndim == 3:
        values = values.max(axis=2)
    if len(np.unique(values)) > 2:
        notes.suspect("mask with more than two values (all but 0 taken)", str(file))
    return values != 0


FORMAT = Format(
    name="masks",
    title="Folder of masks, one image file per instance",
    layout="ID/images/ID.png with ID/masks/*.png (Data Science Bowl 2018), or images/ID.png with "
    "masks/ID/*.png",
    carries=("boxes", "masks", "splits"),
    loses="",
    recognise=recognise,
    plan=plan,
    conventions="Every value of a mask but 0 belongs to the instance; box and area are those of "
    "its pixels. "
    "Masks are written as RLE, which is exact.",
    options=(
        Option("--category", "name of the one category", default="object", metavar="NAME"),
        Option(
            "--segmentation",
            "rle: exact; polygon: along the pixels' edges (masks with holes stay RLE)",
            default="rle",
            choices=("rle", "polygon"),
        ),
    ),
)
