"""npz: numpy's archive of arrays, with one of images and one of labels, for each split or at all.

There is no convention for the names of the arrays. Those of Keras (x_train, y_train), MedMNIST
(train_images, train_labels) and the usual ones are known, and it is told which were taken.
"""

from __future__ import annotations

import math
import re
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

from dataset_tools.arrays import Arrays, Source, as_pictures, plan_arrays
from dataset_tools.errors import InputError
from dataset_tools.formats.base import (
    SPLIT_NAMES,
    Evidence,
    Format,
    Glimpse,
    Option,
    Plan,
    declared_categories,
    sorted_categories,
)
from dataset_tools.labels import class_name, read_names
from dataset_tools.notes import Notes
from dataset_tools.unpack import check_size

if TYPE_CHECKING:
    import numpy as np

IMAGES = ("images", "image", "imgs", "img", "x", "data", "pixels", "arr0")
LABELS = ("labels", "label", "y", "targets", "target", "classes", "class", "arr1")
NAMES = ("classnames", "labelnames", "categories", "names")


@dataclass(frozen=True)
class Pair:
    """The arrays of a split."""

    file: Path
    images: str
    labels: str


def plan(
    path: Path,
    notes: Notes,
    images: Path | None = None,
    keys: str | None = None,
    names: str | None = None,
) -> Plan:
    """Plan to read an npz file, or all in a folder (each a split, by its name)."""
    files = (
        [path] if path.is_file() else sorted(file for file in path.glob("*.npz") if file.is_file())
    )
    if not files:
        raise InputError(f"{path}: there is no npz file in it.")
    sources: list[Source] = []
    remarks: list[str] = []
    class_names = read_names(names) if names else None
    for file in files:
        shapes = _shapes(file)
        for split, images_key, labels_key in _pairs(file, list(shapes), keys):
            if split is None and len(files) > 1:
                split = SPLIT_NAMES.get(file.stem.lower(), file.stem)
            sources.append(Source(Pair(file, images_key, labels_key), split))
            remarks.append(f"{file.name}: images {images_key!r}, labels {labels_key!r} (--keys)")
        used = {key for s in sources for key in (s.key.images, s.key.labels)}
        for key in shapes.keys() - used:
            if _plain(key) in NAMES and class_names is None:
                class_names = [str(name) for name in _read(file, key).ravel().tolist()]
                remarks.append(f"class names are {key!r}")
            else:
                notes.drop("array that is neither of images nor of labels", f"{file}: {key}")
    categories = declared_categories(class_names, str(path)) if class_names else sorted_categories
    return plan_arrays(path, sources, _Loader(class_names), categories, remarks)


def recognise(glimpse: Glimpse) -> Evidence | None:
    """An archive of arrays, one called as images and one as labels are."""
    for name in glimpse.with_suffix(".npz")[:5]:
        if "/" in name:
            continue
        path = glimpse.path if glimpse.is_file else glimpse.path / name
        try:
            found = _pairs(path, list(_shapes(path)), None)
        except InputError:
            continue
        return Evidence(f"{name} has the arrays {found[0][1]} and {found[0][2]}")
    return None


@dataclass
class _Loader:
    names: Sequence[str] | None

    def __call__(self, pair: Pair) -> Arrays:
        where = f"{pair.file}: {pair.images}"
        pixels, remarks = as_pictures(_read(pair.file, pair.images), where)
        labels = _read(pair.file, pair.labels)
        named = label_names(labels, self.names, f"{pair.file}: {pair.labels}")
        return Arrays(pixels, named, where, remarks=remarks)


def label_names(
    labels: np.ndarray, names: Sequence[str] | None, place: str
) -> list[tuple[str, ...]]:
    """The classes of each image: from numbers, from texts, or from a row with 1 for each class."""
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.dtype.kind == "S":
        return [(label.decode("utf-8", "replace"),) for label in labels.ravel().tolist()]
    if labels.dtype.kind not in "biufU" or labels.ndim not in (1, 2):
        raise InputError(
            f"{place}: an array of {labels.dtype}, {labels.ndim}-D, is none of labels."
        )
    if labels.ndim == 2:
        if not ((labels == 0) | (labels == 1)).all():
            raise InputError(f"{place}: rows of several numbers, and not of 0 and 1 alone.")
        return [
            tuple(class_name(i, names, place) for i, value in enumerate(row) if value)
            for row in labels.tolist()
        ]
    if labels.dtype.kind == "U":
        return [(label,) for label in labels.tolist()]
    if labels.dtype.kind == "f" and not (labels == labels.round()).all():
        raise InputError(f"{place}: there are labels that are no whole numbers.")
    return [(class_name(int(label), names, place),) for label in labels.tolist()]


# OSError: offsets that lead out of the file.
_BROKEN = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, OSError)


@contextmanager
def _open(path: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except _BROKEN as error:
        raise InputError(f"{path}: not a whole npz file: {error}. Get the file again.") from error


def _shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Shape of each array, from its header. InputError for arrays of objects, which are pickles."""
    with _open(path) as archive:
        shapes = {}
        for entry in archive.infolist():
            if entry.filename.endswith(".npy"):
                with archive.open(entry) as file:
                    shapes[entry.filename[:-4]] = _header(file, entry, path)[0]
    return shapes


def _read(path: Path, key: str) -> np.ndarray:
    import numpy as np

    with _open(path) as archive:
        entry = archive.getinfo(f"{key}.npy")
        with archive.open(entry) as file:
            _header(file, entry, path)
        with archive.open(entry) as file:
            try:
                return np.lib.format.read_array(file, allow_pickle=False)
            except ValueError as error:
                raise InputError(f"{path}: {key}: cut off or damaged: {error}") from error


def _header(
    file: IO[bytes], entry: zipfile.ZipInfo, path: Path
) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and type of an array, which have to agree with the size of its entry."""
    import numpy as np

    place = f"{path}: {entry.filename}"
    try:
        version = np.lib.format.read_magic(file)
        read = (
            np.lib.format.read_array_header_1_0
            if version == (1, 0)
            else np.lib.format.read_array_header_2_0
        )
        shape, _, dtype = read(file)
        size = math.prod(shape) * dtype.itemsize
        header = file.tell()
    except (ValueError, TypeError) as error:
        raise InputError(f"{place}: not a numpy array: {error}.") from error
    if dtype.hasobject:
        raise InputError(
            f"{place}: an array of Python objects, which is a pickle, and is not run. Save it as "
            "numbers, padded to one size if need be."
        )
    check_size(place, size)
    if header + size != entry.file_size:
        raise InputError(f"{place}: {size:,} bytes are declared, but others there. Get it again.")
    return shape, dtype


def _pairs(path: Path, keys: list[str], given: str | None) -> list[tuple[str | None, str, str]]:
    """Split, images and labels: those given, else those that are called so."""
    if given is not None:
        wanted = [key.strip() for key in given.split(",")]
        missing = [key for key in wanted if key not in keys]
        if len(wanted) != 2 or missing:
            raise InputError(
                f"{path}: --keys {given} should be two of {', '.join(keys)}: images,labels."
            )
        return [(None, wanted[0], wanted[1])]
    found: dict[str | None, tuple[dict[str, str], dict[str, str]]] = {}
    for key in keys:
        words = [word for word in re.split(r"[_\-. ]", key.lower()) if word]
        split = next((SPLIT_NAMES[word] for word in words if word in SPLIT_NAMES), None)
        rest = "".join(word for word in words if word not in SPLIT_NAMES)
        for known, kind in zip((IMAGES, LABELS), found.setdefault(split, ({}, {})), strict=True):
            if rest in known:
                kind[rest] = key
    pairs = [
        (split, _first(images, IMAGES), _first(labels, LABELS))
        for split, (images, labels) in found.items()
        if images and labels
    ]
    if not pairs:
        raise InputError(
            f"{path}: which of its arrays {', '.join(keys) or '(none)'} are images, and which "
            "labels? Say it by --keys images,labels."
        )
    return sorted(pairs, key=lambda pair: pair[0] != "train")


def _first(found: dict[str, str], known: tuple[str, ...]) -> str:
    return found[min(found, key=known.index)]


def _plain(key: str) -> str:
    return re.sub(r"[_\-. ]", "", key.lower())


FORMAT = Format(
    name="npz",
    title="npz archives of images and labels",
    layout="an npz file, or a folder of them (train.npz, …)",
    carries=("labels", "splits"),
    loses="arrays that are neither images nor labels (they are counted)",
    recognise=recognise,
    plan=plan,
    conventions="Images are N×H×W, N×H×W×3 or N×3×H×W of 0 to 255, or of 0 to 1 or -1 to 1 as "
    "floats, and are written as PNG files. Labels are numbers, texts, or rows with a 1 for each "
    "class of the image. Arrays of objects are refused: they are pickles.",
    options=(
        Option("--keys", "names of the two arrays: images,labels", metavar="NAMES"),
        Option("--names", "class names, one a line from class 0", metavar="FILE"),
    ),
)
