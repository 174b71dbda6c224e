"""BDD100K's bitmasks: a PNG of four channels for each image, its instances in one.

By the dataset's documentation (https://doc.bdd100k.com/format.html, "bitmask"): red is the class
from 1, 0 where there is no instance; the lower four bits of green are the flags truncated,
occluded, crowd and ignored, the highest first; 256 × blue + alpha is the number of the instance,
which in the files of tracking is the same in all frames of a video. What is a crowd or ignored is
not evaluated.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from dataset_tools.coco import Annotation, Image
from dataset_tools.errors import InputError
from dataset_tools.formats.base import (
    Evidence,
    Format,
    Glimpse,
    Option,
    Plan,
    declared_categories,
    root_of,
    split_of_folders,
)
from dataset_tools.formats.reading import find_image
from dataset_tools.images import ImageIndex, walk_files
from dataset_tools.labels import read_names
from dataset_tools.notes import Notes
from dataset_tools.rle import encode_values

if TYPE_CHECKING:
    import numpy as np

CLASSES = ("pedestrian", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle")
FOLDER = "bitmasks"
_FLAGS = {"truncated": 8, "occluded": 4, "crowd": 2, "ignored": 1}  # bits of green
_RGBA = 6  # the type of colours in a PNG's header, its byte 25


def plan(path: Path, notes: Notes, images: Path | None = None, names: str | None = None) -> Plan:
    """Plan to read all bitmasks in a folder."""
    if not path.is_dir():
        raise InputError(f"{path}: is a file. Give the folder of {FOLDER}/.")
    labels = [name for name in walk_files(path) if name.lower().endswith(".png")]
    labels = [name for name in labels if _is_bitmask(Glimpse(path / name).head_bytes(_file(name)))]
    if path.name != FOLDER:
        labels = [name for name in labels if FOLDER in name.split("/")[:-1]]
    if not labels:
        raise InputError(f"{path}: no PNG of four channels is in a folder {FOLDER}/ in it.")
    root = root_of(path, images)
    classes = tuple(read_names(names)) if names else CLASSES
    taken = frozenset(labels) if root == path else frozenset()
    reader = _Reader(path, root, classes, taken)
    return Plan(root, labels, reader, declared_categories(classes, names or FOLDER))


def recognise(glimpse: Glimpse) -> Evidence | None:
    """PNGs of four channels in a folder called bitmasks."""
    for name in glimpse.with_suffix(".png")[:50]:
        if FOLDER in name.split("/")[:-1] and _is_bitmask(glimpse.head_bytes(name)):
            return Evidence(f"{name} has four channels, as BDD100K's {FOLDER} have")
    return None


@dataclass
class _Reader:
    base: Path
    root: Path
    classes: tuple[str, ...]
    labels: frozenset[str]  # which are no images, though they are below the root

    @cached_property
    def index(self) -> ImageIndex:
        files = (name for name in walk_files(self.root) if name not in self.labels)
        return ImageIndex(self.root, files)

    def __call__(self, label: str, notes: Notes) -> Iterator[Image]:
        path = self.base / label
        below = label.rpartition(f"{FOLDER}/")[2]
        image = find_image(
            self.index,
            posixpath.splitext(below)[0],
            below,
            str(path),
            notes,
            split_of_folders(label),
        )
        if image is None:
            return
        pixels = _pixels(path)
        if pixels.shape[:2] != (image.height, image.width):
            raise InputError(
                f"{path}: is {pixels.shape[1]}×{pixels.shape[0]}, but its image {image.file_name} "
                f"{image.width}×{image.height}."
            )
        folders = posixpath.dirname(below).split("/")
        tracked = len(folders) > 1  # SPLIT/VIDEO/FRAME.png
        if tracked:
            image.attributes["video"] = folders[-1]
        image.annotations = list(self._instances(pixels, str(path), tracked))
        yield image

    def _instances(self, pixels: np.ndarray, path: str, tracked: bool) -> Iterator[Annotation]:
        # Byte by byte one number, red being the highest.
        values = pixels.astype(">u1").view(">u4")[:, :, 0].astype("u4")
        for value, rle in encode_values(values):
            number, bits, instance = value >> 24, value >> 16 & 255, value & 65_535
            place = f"{path}: instance {instance}"
            if number == 0:
                continue
            if number > len(self.classes):
                raise InputError(
                    f"{place} is of class {number}, but {len(self.classes)} are known. Give their "
                    "names by --names."
                )
            flags = {name: bool(bits & bit) for name, bit in _FLAGS.items()}
            crowd = flags.pop("crowd")
            yield Annotation(
                self.classes[number - 1],
                segmentation=rle,
                iscrowd=crowd or flags["ignored"],
                attributes=flags | ({"track_id": instance} if tracked else {}),
                source=place,
            )


def _pixels(path: Path) -> np.ndarray:
    """The HW4 numbers of a PNG."""
    import numpy as np
    from PIL import Image as Pillow

    try:
        with Pillow.open(path) as png:
            pixels = np.ascontiguousarray(np.asarray(png))
    except (OSError, SyntaxError, ValueError, Pillow.DecompressionBombError) as error:
        raise InputError(f"{path}: cannot be read as an image: {error}") from error
    if pixels.ndim != 3 or pixels.shape[2] != 4 or pixels.dtype != np.uint8:
        raise InputError(f"{path}: has not the four channels of 8 bits that bitmasks have.")
    return pixels


def _file(name: str) -> str:
    return name.rpartition("/")[2]


def _is_bitmask(head: bytes) -> bool:
    return head[:4] == b"\x89PNG" and head[25:26] == bytes([_RGBA])


FORMAT = Format(
    name="bdd100k-masks",
    title="BDD100K bitmasks",
    layout="folder with bitmasks/train/*.png, or bitmasks/train/VIDEO/*.png; images below it or in "
    "--images",
    carries=("boxes", "masks", "tracks", "attributes", "splits"),
    loses="",
    recognise=recognise,
    plan=plan,
    conventions="Red is the class, green's bits are flags, blue and alpha the instance. Masks are "
    "RLE, boxes and areas those of the pixels. crowd and ignored become iscrowd; truncated, "
    "occluded and ignored attributes. In videos the instance becomes track_id.",
    options=(
        Option(
            "--names",
            "class names, one a line from class 1 (default: the eight of instance segmentation)",
            metavar="FILE",
        ),
    ),
)
