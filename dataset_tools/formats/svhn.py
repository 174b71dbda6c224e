"""SVHN, the Street View House Numbers: cropped digits, or whole pictures with a box for each digit.

From the dataset's page: format 2 is MATLAB files `train_32x32.mat` … with X (32×32×3×N) and y, in
which the digit 0 has the label 10. Format 1 is PNG files with a `digitStruct.mat` (MATLAB 7.3,
which is HDF5) that has for each its name and, for each digit, left, top, width, height and label.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from dataset_tools.arrays import Arrays, Source, plan_arrays
from dataset_tools.coco import Annotation, Image
from dataset_tools.errors import InputError
from dataset_tools.formats.base import (
    SPLIT_NAMES,
    Evidence,
    Format,
    Glimpse,
    Plan,
    root_of,
)
from dataset_tools.hdf5 import numbers, open_hdf5
from dataset_tools.images import image_size, inside, walk_files
from dataset_tools.notes import Notes
from dataset_tools.unpack import check_size

STRUCT = "digitStruct.mat"
CROPPED = "_32x32.mat"
SIDES = ("left", "top", "width", "height", "label")
IMAGES_PER_ITEM = 200


@dataclass(frozen=True)
class Item:
    """Some consecutive entries of a digitStruct.mat (path relative to the dataset)."""

    file: str
    start: int
    stop: int


def plan(path: Path, notes: Notes, images: Path | None = None) -> Plan:
    """Plan to read one of the .mat files, or all of one kind below a folder."""
    base = path if path.is_dir() else path.parent
    names = [path.name] if path.is_file() else list(walk_files(base))
    structs = [name for name in names if PurePosixPath(name).name == STRUCT]
    cropped = [name for name in names if name.endswith(CROPPED)]
    if bool(structs) == bool(cropped):
        found = f"both {STRUCT} and *{CROPPED}: give one" if structs else "neither"
        raise InputError(f"{path}: wanted is {STRUCT} or train{CROPPED}, but there is {found}.")
    if cropped:
        sources = [Source(base / name, _split_of(PurePosixPath(name).name)) for name in cropped]
        sources.sort(key=lambda source: source.split != "train")
        return plan_arrays(path, sources, load_cropped)
    items = [item for name in structs for item in _items(base, name)]
    return Plan(root_of(path, images), items, _Reader(base, root_of(path, images)))


def recognise(glimpse: Glimpse) -> Evidence | None:
    """Files called as SVHN's are, that begin as MATLAB writes them."""
    for name in glimpse.with_suffix(".mat"):
        if PurePosixPath(name).name.startswith(("svhn_", "synth_")):
            continue  # DigitFive's
        if name.endswith((STRUCT, CROPPED)) and glimpse.head_bytes(name).startswith(b"MATLAB "):
            return Evidence(f"{name} is a MATLAB file called as those of SVHN")
    return None


def load_cropped(file: Path) -> Arrays:
    """The digits of a file of format 2. InputError if its arrays are not as they should be."""
    import numpy as np
    from scipy.io import loadmat, whosmat

    # A damaged or hostile file may raise nearly anything.
    try:
        shapes = {name: (shape, kind) for name, shape, kind in whosmat(file)}
        (shape, kind), (_, label_kind) = shapes["X"], shapes["y"]
        if kind != "uint8" or label_kind not in ("uint8", "double", "int32", "int64"):
            raise ValueError(f"X is {kind} and y is {label_kind}, not numbers")
        check_size(file, int(np.prod(shape, dtype=np.float64)))
        content = loadmat(file, variable_names=["X", "y"])
        pixels, labels = content["X"], content["y"].ravel()
        if pixels.ndim != 4 or pixels.shape[2] != 3:
            raise ValueError(f"X is {'×'.join(map(str, pixels.shape))}, not H×W×3×N")
    except (InputError, MemoryError):
        raise
    except Exception as error:
        raise InputError(f"{file}: not a file of SVHN's cropped digits: {error}.") from error
    named = [(_digit(label, f"{file}: y[{i}]"),) for i, label in enumerate(labels.tolist())]
    return Arrays(np.ascontiguousarray(pixels.transpose(3, 0, 1, 2)), named, str(file))


@dataclass
class _Reader:
    base: Path
    root: Path

    def __call__(self, item: Item, notes: Notes) -> Iterator[Image]:
        with _struct(self.base / item.file) as (file, struct):
            names, boxes = struct["name"][:].ravel(), struct["bbox"][:].ravel()
            for index in range(item.start, item.stop):
                place = f"{self.base / item.file}[{index}]"
                name = "".join(map(chr, numbers(file, names[index], place, "name")))
                yield self._image(item, name, file[boxes[index]], file, place, notes)

    def _image(
        self, item: Item, name: str, boxes: Any, file: Any, place: str, notes: Notes
    ) -> Image:
        name = (PurePosixPath(item.file).parent / name).as_posix()
        path = inside(self.root, name)
        split = _split_of(item.file)
        image = Image(name, *image_size(path), split=split, source=place)
        columns = {side: numbers(file, boxes[side], place, side) for side in SIDES}
        if len({len(values) for values in columns.values()}) != 1:
            raise InputError(f"{place}: not as many of each of {', '.join(SIDES)}.")
        for left, top, width, height, label in zip(*columns.values(), strict=True):
            box = (left, top, left + width, top + height)
            image.annotations.append(Annotation(_digit(label, place), box, source=place))
        return image


@contextmanager
def _struct(path: Path) -> Iterator[tuple[Any, Any]]:
    with open_hdf5(path) as file:
        struct = file.get("digitStruct")
        if struct is None or not {"name", "bbox"} <= set(struct):
            raise InputError(f"{path}: there is no digitStruct with name and bbox in it.")
        yield file, struct


def _items(base: Path, name: str) -> Iterator[Item]:
    with _struct(base / name) as (_, struct):
        count = struct["name"].size
        if struct["bbox"].size != count:
            raise InputError(f"{base / name}: {count} names, but {struct['bbox'].size} bbox.")
    for start in range(0, count, IMAGES_PER_ITEM):
        yield Item(name, start, min(start + IMAGES_PER_ITEM, count))


def _split_of(name: str) -> str | None:
    """train, test or extra, by the file's name or its folder's."""
    for part in reversed(PurePosixPath(name).parts):
        word = part.removesuffix(CROPPED).lower()
        if word == "extra" or word in SPLIT_NAMES:
            return SPLIT_NAMES.get(word, word)
    return None


def _digit(label: float, place: str) -> str:
    if label not in range(11):
        raise InputError(f"{place}: the label is {label}, not 1 to 9, or 10 for the digit 0.")
    return str(int(label) % 10)


FORMAT = Format(
    name="svhn",
    title="SVHN, the Street View House Numbers",
    layout="train_32x32.mat … (cropped digits), or folders train, test … with PNG files and "
    "digitStruct.mat (whole numbers); or one such .mat file",
    carries=("boxes", "labels", "splits"),
    loses="",
    recognise=recognise,
    plan=plan,
    conventions="The label 10 is the digit 0. Cropped digits become PNG files with a label for the "
    "whole image. Boxes of digits (left, top, width, height) are taken as they are, as pixels from "
    "0. digitStruct.mat needs the package h5py.",
)
