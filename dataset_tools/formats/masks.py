"""Folders of mask images, with one file per instance or one per image.

- `ID/images/ID.png` with `ID/masks/*.png` (Data Science Bowl 2018), or `images/a.png` with
  `masks/a/*.png`: one file per instance; every value but 0 belongs to it.
- `images/a.png` with `masks/a.png`: one file for all instances of an image. With a palette or one
  channel (of 8 or 16 bits), each number but 0 is an instance; in RGB, each colour but black.
- `masks/CLASS/…`, or `class_masks/CLASS/…`, which cannot be mistaken: either of these for each
  class, whose name is that of its folder.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from dataset_tools.coco import Annotation, Category, Dataset, Image, Segmentation
from dataset_tools.errors import InputError
from dataset_tools.export import distinct_stems, joined_categories, place_image
from dataset_tools.formats.base import (
    SPLIT_NAMES,
    Evidence,
    Format,
    Glimpse,
    Option,
    Plan,
    root_of,
    split_of_folders,
)
from dataset_tools.images import image_size, is_image_name, walk_files
from dataset_tools.instance_map import instance_map, segmentation_mask
from dataset_tools.notes import Notes
from dataset_tools.palette import save_numbers
from dataset_tools.rle import decode_mask, encode_values, mask_to_polygons, rle_area

if TYPE_CHECKING:
    import numpy as np


ENCODINGS = ("auto", "binary", "values", "colours")
STYLES = ("files", "indexed", "id16", "rgb")


@dataclass(frozen=True)
class MaskFile:
    """A mask image (relative to the dataset), its class, and whether it is all of its image."""

    name: str
    category: str | None
    whole: bool


@dataclass(frozen=True)
class Item:
    """An image (relative to the image root) and its masks."""

    image: str
    masks: tuple[MaskFile, ...]


def plan(
    path: Path,
    notes: Notes,
    images: Path | None = None,
    category: str = "object",
    segmentation: str = "rle",
    encoding: str = "auto",
    void: int | None = None,
) -> Plan:
    """Plan to read the folder of a dataset."""
    if not path.is_dir():
        raise InputError(f"{path}: is a file. Give the folder that holds the images and masks.")
    root = root_of(path, images)
    pictures = _Pictures(name for name in walk_files(root) if is_image_name(name))
    masks_of: dict[str, list[MaskFile]] = {}
    for name in walk_files(path):
        if not is_image_name(name) or not _is_mask(name):
            continue
        found = pictures.of_mask(name)
        if found is None:
            notes.drop("mask whose image is not there", str(path / name))
        else:
            masks_of.setdefault(found[0], []).append(found[1])
    items = [Item(name, tuple(masks_of.get(name, ()))) for name in pictures.names]
    for item in items:
        if not item.masks:
            notes.suspect("image without a mask (kept, without objects)", item.image)
    if not masks_of:
        raise InputError(
            f"{path}: found no ID/images/ID.png with ID/masks/*.png, nor images/ID.png with "
            "masks/ID/*.png or masks/ID.png."
        )
    masks = [mask for masks in masks_of.values() for mask in masks]
    return Plan(
        image_root=root,
        items=items,
        read=_Reader(path, root, category, segmentation == "polygon", encoding, void),
        categories=_Categories(tuple(sorted({mask.category or category for mask in masks}))),
        remarks=list(_remarks(path, masks, encoding)),
    )


def recognise(glimpse: Glimpse) -> Evidence | None:
    """Image files that belong, as masks, to others."""
    names = glimpse.images
    pictures = _Pictures(names)
    for name in names:
        if _is_mask(name) and (found := pictures.of_mask(name)) is not None:
            return Evidence(f"{name} is a mask beside the image {found[0]}")
    return None


def write(
    splits: Mapping[str | None, Dataset],
    folder: Path,
    notes: Notes,
    images: Path | None,
    style: str = "files",
    classes: str = "auto",
) -> None:
    """Write images/ and masks/ (or class_masks/), in a folder for each split."""
    names = [category.name for category in joined_categories(splits.values())]
    by_class = len(names) > 1 if classes == "auto" else classes == "folders"
    _check_any_mask(splits.values())
    notes.tell(f"masks are written {'by' if by_class else 'without'} class (--classes)")
    if by_class:
        for name in names:
            if "/" in name or name.startswith(".") or name != name.strip():
                raise InputError(f"The category {name!r} cannot name a folder. Rename it.")
    for split, dataset in splits.items():
        if split is not None and split not in SPLIT_NAMES.values():
            notes.suspect("split that is not train, val or test (a folder only)", split)
        base = folder / (split or "")
        for image, stem in distinct_stems(dataset.images, notes):
            place_image(images, image.file_name, base / "images" / image.file_name)
            groups: dict[str, list[Annotation]] = {}
            for annotation in image.annotations:
                if _is_written(annotation, image, notes):
                    groups.setdefault(annotation.category if by_class else "", []).append(
                        annotation
                    )
            if style == "files":
                for name, group in groups.items():
                    _write_files(_folder(base, name) / stem, group, image)
            else:
                kept = [annotation for group in groups.values() for annotation in group]
                owners, objects = instance_map(replace(image, annotations=kept), notes)
                for name in groups or ([] if by_class else [""]):
                    chosen = [not by_class or a.category == name for a in objects]
                    _write_map(_folder(base, name) / f"{stem}.png", owners, chosen, style)


def _check_any_mask(datasets: Iterable[Dataset]) -> None:
    found = [a for dataset in datasets for image in dataset.images for a in image.annotations]
    if not any(annotation.segmentation and not annotation.iscrowd for annotation in found):
        raise InputError(
            f"None of the {len(found):,} objects has a mask (crowds do not count), and nothing "
            "else can be written here. Export to a format that has what they have: "
            "`python -m dataset_tools formats` lists them."
        )


def _folder(base: Path, category: str) -> Path:
    return base / "class_masks" / category if category else base / "masks"


def _is_written(annotation: Annotation, image: Image, notes: Notes) -> bool:
    place = annotation.source or image.file_name
    if annotation.iscrowd or not annotation.segmentation:
        notes.drop("crowd" if annotation.iscrowd else "object without a mask", place)
        return False
    for key in annotation.attributes:
        notes.drop(f"attribute {key}", place)
    if annotation.keypoints:
        notes.drop("keypoints", place)
    return True


def _write_files(folder: Path, annotations: list[Annotation], image: Image) -> None:
    import numpy as np
    from PIL import Image as Pillow

    folder.mkdir(parents=True, exist_ok=True)
    for number, annotation in enumerate(annotations, start=1):
        mask = segmentation_mask(annotation.segmentation or [], image.height, image.width)
        # Whole images of one object each: packing them hard takes most of the time, for nothing.
        png = Pillow.fromarray(mask.view(np.uint8) * np.uint8(255))
        png.save(folder / f"{number:04}.png", compress_level=1)


def _write_map(path: Path, owners: np.ndarray, chosen: list[bool], style: str) -> None:
    """One PNG of the objects of `owners` (see `instance_map`) that are chosen, counted from 1."""
    import numpy as np
    from PIL import Image as Pillow

    numbers = np.array([0, *(np.cumsum(chosen) * chosen)])[owners]
    most = {"indexed": 255, "id16": 65_535, "rgb": 2**24 - 1}[style]
    if numbers.max() > most:
        raise InputError(
            f"{path.name}: {numbers.max()} instances, but --style {style} has numbers for {most}. "
            "Take id16 or rgb."
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    if style == "indexed":
        save_numbers(path, numbers)
    elif style == "id16":
        Pillow.fromarray(numbers.astype(np.uint16)).save(path)
    else:
        parts = [numbers % 256, numbers // 256 % 256, numbers // 65_536]
        Pillow.fromarray(np.stack(parts, axis=2).astype(np.uint8)).save(path)


@dataclass(frozen=True)
class _Categories:
    """For `Plan.categories`: the classes that have a mask."""

    names: tuple[str, ...]

    def __call__(self, seen: set[str]) -> list[Category]:
        return [Category(name) for name in self.names]


class _Pictures:
    """The images of a dataset, found by the paths of their masks."""

    def __init__(self, names: Iterable[str]) -> None:
        self.names: list[str] = []
        self._by_key: dict[tuple[str, str], str] = {}
        for name in names:
            if _is_mask(name):
                continue
            keys = list(_divided(os.path.splitext(name)[0], "images"))
            if keys:
                self.names.append(name)
            for key in keys:
                other = self._by_key.setdefault(key, name)
                if other != name:
                    raise InputError(f"{other} and {name} have the same masks ({key[1]}).")

    def of_mask(self, name: str) -> tuple[str, MaskFile] | None:
        """The image of a mask, and what the mask is of it."""
        stem = os.path.splitext(name)[0]
        for above, below in _divided(stem, "masks"):
            if (found := self._find(above, below)) is not None:
                return found[0], MaskFile(name, None, found[1])
        for folder in ("masks", "class_masks"):
            for above, below in _divided(stem, folder):
                category, _, rest = below.partition("/")
                if (found := self._find(above, rest)) is not None:
                    return found[0], MaskFile(name, category, found[1])
        return None

    def _find(self, above: str, below: str) -> tuple[str, bool] | None:
        """The image, and whether it has one mask for all instances."""
        if (above, below) in self._by_key:
            return self._by_key[above, below], True
        own_id = above.rpartition("/")[2]
        for key in (below.rpartition("/")[0], *([] if "/" in below or not below else [own_id])):
            if key and (above, key) in self._by_key:
                return self._by_key[above, key], False
        return None


def _is_mask(name: str) -> bool:
    return not {"masks", "class_masks"}.isdisjoint(name.split("/")[:-1])


def _divided(stem: str, folder: str) -> Iterator[tuple[str, str]]:
    """What is above and below each folder of that name in a path."""
    parts = stem.split("/")
    for place, part in enumerate(parts[:-1]):
        if part == folder:
            yield "/".join(parts[:place]), "/".join(parts[place + 1 :])


def _remarks(path: Path, masks: list[MaskFile], encoding: str) -> Iterator[str]:
    """How the masks are understood."""
    if any(mask.category is not None for mask in masks):
        yield "categories are the folders of masks"
    whole = next((mask for mask in masks if mask.whole), None)
    if whole is not None and encoding == "auto":
        colours = _pixels(path / whole.name).ndim == 3
        kind = "colours" if colours else "values"
        yield f"one mask for each image: its {kind} are the instances (--encoding {kind})"


@dataclass
class _Reader:
    path: Path
    root: Path
    category: str
    as_polygons: bool
    encoding: str = "auto"
    void: int | None = None

    def __call__(self, item: Item, notes: Notes) -> Iterator[Image]:
        width, height = image_size(self.root / item.image)
        split = split_of_folders(item.image)
        image = Image(item.image, width, height, split=split, source=str(self.root / item.image))
        for mask_file in item.masks:
            file = self.path / mask_file.name
            numbers = self._numbers(mask_file, file, notes)
            if numbers.shape != (height, width):
                raise InputError(
                    f"{file}: the mask is {numbers.shape[1]}×{numbers.shape[0]}, "
                    f"but its image {item.image} is {width}×{height}."
                )
            image.annotations += [
                Annotation(
                    mask_file.category or self.category,
                    segmentation=self._segmentation(rle, file, notes),
                    area=rle_area(rle),
                    source=str(file),
                )
                for value, rle in encode_values(numbers)
                if value not in (0, None if numbers.dtype == bool else self.void)
            ]
        yield image

    def _numbers(self, mask_file: MaskFile, file: Path, notes: Notes) -> np.ndarray:
        """HW array of the numbers of a file's instances, booleans if there is one; else 0."""
        import numpy as np

        if not mask_file.whole or self.encoding == "binary":
            mask = _read_mask(file, notes)
            if not mask_file.whole and not mask.any():
                notes.drop("mask without a pixel", str(file))
            return mask
        pixels = _pixels(file)
        if pixels.ndim == 2:
            return pixels
        if self.encoding == "values":
            return pixels.max(axis=2)
        return pixels.astype(np.int64) @ np.array([1, 256, 65_536])

    def _segmentation(self, rle: dict, file: Path, notes: Notes) -> Segmentation:
        if self.as_polygons:
            polygons = mask_to_polygons(decode_mask(rle))
            if polygons is not None:
                return polygons
            notes.suspect("mask with a hole, which polygons cannot have (kept as RLE)", str(file))
        return rle


def _read_mask(file: Path, notes: Notes) -> np.ndarray:
    """Boolean HW array, true where the mask is not 0 (in any channel but alpha)."""

    values = _pixels(file)
    if values.ndim == 3:
        values = values.max(axis=2)
    mask = values != 0
    if mask.any() and (values != mask * values.max()).any():
        notes.suspect("mask with more than two values (all but 0 taken)", str(file))
    return mask


def _pixels(file: Path) -> np.ndarray:
    """HW numbers (of a palette: its indices), or HWC colours without alpha."""
    import numpy as np
    from PIL import Image as Pillow

    try:
        with Pillow.open(file) as picture:
            if picture.mode in ("LA", "RGBA", "PA"):
                picture = picture.convert("RGB")
            return np.asarray(picture)
    except (OSError, SyntaxError, ValueError, Pillow.DecompressionBombError) as error:
        raise InputError(f"{file}: cannot be read as an image: {error}") from error


FORMAT = Format(
    name="masks",
    title="Folder of masks, one image file per instance or per image",
    layout="ID/images/ID.png with ID/masks/*.png (Data Science Bowl 2018), or images/ID.png with "
    "masks/ID/*.png, or with masks/ID.png; masks/CLASS/… for each class",
    carries=("boxes", "masks", "splits"),
    loses="",
    recognise=recognise,
    plan=plan,
    conventions="In a file of one instance every value but 0 belongs to it. In a file of all "
    "instances each number (of a palette: its index) but 0 is one, in RGB each colour but black. "
    "Box and area are those of the pixels. Masks are written as RLE, which is exact.",
    options=(
        Option(
            "--category", "name of the category without class folders", "object", metavar="NAME"
        ),
        Option(
            "--segmentation",
            "rle: exact; polygon: along the pixels' edges (masks with holes stay RLE)",
            default="rle",
            choices=("rle", "polygon"),
        ),
        Option(
            "--encoding",
            "of one mask for an image: each value, or each colour, is an instance; binary: all but "
            "0 is one; auto: by the number of channels",
            default="auto",
            choices=ENCODINGS,
        ),
        Option("--void", "a value that belongs to no instance", type=int, metavar="N"),
    ),
    write=write,
    write_options=(
        Option(
            "--style",
            "files: one for each instance; else one for each image, with the instances' numbers as "
            "palette indices, in 16 bits, or as R + 256 G + 65536 B",
            default="files",
            choices=STYLES,
        ),
        Option(
            "--classes",
            "folders: class_masks/CLASS/…; none: the categories are lost; auto: folders if there "
            "are several",
            default="auto",
            choices=("auto", "folders", "none"),
        ),
    ),
    write_carries=("masks", "splits"),
    write_loses="boxes without a mask, crowds, keypoints, attributes; with one mask for an image, "
    "overlaps",
)
