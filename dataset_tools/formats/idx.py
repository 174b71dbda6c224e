"""IDX: the files of MNIST and of those made after it (Fashion-MNIST, KMNIST, EMNIST, QMNIST).

From the description at the end of MNIST's page: two bytes 0, a byte for the type of numbers, a byte
for the number of dimensions, each dimension as a big-endian 32-bit number, then the numbers, big-
endian, the last dimension first. Images and labels are two files, called alike but for the words
images and labels. The files of EMNIST hold each image transposed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

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
    read_text,
    sorted_categories,
)
from dataset_tools.images import walk_files
from dataset_tools.labels import class_name, read_names
from dataset_tools.notes import Notes
from dataset_tools.unpack import check_size, open_unpacked, unpacked_head

if TYPE_CHECKING:
    import numpy as np

TYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
FASHION_MNIST = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
_SUFFIX = re.compile(r"[-.]idx\d.*$", re.IGNORECASE)


def plan(
    path: Path,
    notes: Notes,
    images: Path | None = None,
    names: str | None = None,
    transpose: str = "auto",
) -> Plan:
    """Plan to read a folder of IDX files, or one file of images with its labels beside it."""
    folder = path if path.is_dir() else path.parent
    files = sorted(name for name in walk_files(folder) if _SUFFIX.search(name))
    pictures = [name for name in files if "images" in name.lower()]
    if path.is_file():
        pictures = [path.name]
    if not pictures:
        raise InputError(f"{path}: there is no IDX file of images (…-images-idx3-ubyte) in it.")
    pairs = {name: _labels_of(name, files, folder) for name in pictures}
    for name in sorted(set(files) - pairs.keys() - set(pairs.values())):
        if path.is_dir():
            notes.drop("IDX file that is not of images, and has none", str(folder / name))
    sources: dict[str | None, Source] = {}
    for name, labels in pairs.items():
        split = _split_of(name)
        if split in sources:
            raise InputError(
                f"{path}: {sources[split].key[0].name} and {folder / name} are both {split or ''} "
                "images. Give the file that is meant as PATH."
            )
        sources[split] = Source((folder / name, folder / labels), split)
    class_names, remark = _class_names(folder, pictures, names)
    turned = "emnist" in pictures[0].lower() if transpose == "auto" else transpose == "yes"
    remarks = [remark]
    if turned:
        remarks.append("images are transposed, as those of EMNIST have to be (--transpose no)")
    order = sorted(sources.values(), key=lambda source: source.split != "train")
    categories = declared_categories(class_names, path.name) if class_names else sorted_categories
    return plan_arrays(path, order, _Loader(class_names, turned), categories, remarks)


def recognise(glimpse: Glimpse) -> Evidence | None:
    """A file that begins as IDX files of images do."""
    for name in glimpse.files:
        if not _SUFFIX.search(name) and not glimpse.is_file:
            continue
        head = unpacked_head(glimpse.head_bytes(name), 16)
        if len(head) == 16 and head[:2] == b"\0\0" and head[2] in TYPES and head[3] in (3, 4):
            count, height, width = (int.from_bytes(head[i : i + 4], "big") for i in (4, 8, 12))
            return Evidence(f"{name} begins as an IDX file of {count} images {width}×{height}")
    return None


def read_idx(path: str | Path) -> np.ndarray:
    """The array in an IDX file, packed by gzip or not. InputError if it is none."""
    import numpy as np

    with open_unpacked(path) as file:
        head = file.read(4)
        if len(head) < 4 or head[:2] != b"\0\0" or head[2] not in TYPES or not head[3]:
            raise InputError(
                f"{path}: not an IDX file: it begins with the bytes {head.hex(' ') or '(none)'}, "
                "not with 00 00, a type of numbers (08, 09, 0b to 0e) and a number of dimensions."
            )
        dtype, sizes = np.dtype(TYPES[head[2]]), file.read(4 * head[3])
        shape = [int.from_bytes(sizes[i : i + 4], "big") for i in range(0, len(sizes), 4)]
        wanted = math.prod(shape) * dtype.itemsize
        check_size(path, wanted)
        content = file.read(wanted + 1)
    if len(sizes) < 4 * head[3] or len(content) != wanted:
        found = "more" if len(content) > wanted else f"{len(content):,}"
        raise InputError(
            f"{path}: {wanted:,} bytes should follow for {'×'.join(map(str, shape))} numbers, but "
            f"there are {found}. The file is cut off or damaged: get it again."
        )
    return np.frombuffer(content, dtype).reshape(shape)


@dataclass
class _Loader:
    names: Sequence[str] | None
    transpose: bool

    def __call__(self, files: tuple[Path, Path]) -> Arrays:
        pixels, remarks = as_pictures(read_idx(files[0]), str(files[0]))
        labels = read_idx(files[1])
        if labels.dtype.kind == "f" or labels.ndim not in (1, 2):
            raise InputError(f"{files[1]}: these are no labels, but {labels.dtype} numbers.")
        if labels.ndim == 2:
            labels = labels[:, 0]
            remarks.append(f"{files[1]}: the first of several numbers is the label, as in QMNIST")
        if self.transpose:
            pixels = pixels.swapaxes(1, 2)
        place = str(files[1])
        named = [(class_name(int(label), self.names, place),) for label in labels]
        return Arrays(pixels, named, str(files[0]), remarks=remarks)


def _key(name: str) -> str:
    return _SUFFIX.sub("", name.removesuffix(".gz")).lower().replace("images", "labels")


def _labels_of(name: str, files: list[str], folder: Path) -> str:
    found = [other for other in files if other != name and _key(other) == _key(name)]
    if len(found) != 1:
        problem = f"{', '.join(found)} may be" if found else "no file is"
        raise InputError(
            f"{folder / name}: {problem} its labels. Wanted is one file of the same name with "
            "labels for images and idx1 for idx3."
        )
    return found[0]


def _split_of(name: str) -> str | None:
    words = re.split(r"[-_./]", name.lower())
    return next(
        (
            SPLIT_NAMES.get(word, "test")
            for word in reversed(words)
            if word in SPLIT_NAMES or word == "t10k"
        ),
        None,
    )


def _class_names(
    folder: Path, pictures: list[str], given: str | None
) -> tuple[Sequence[str] | None, str]:
    if given is not None and given != "fashion-mnist":
        return read_names(given), f"class names are from {given}"
    if given or "fashion" in f"{folder.resolve().name}/{pictures[0]}".lower():
        return FASHION_MNIST, "class names are those of Fashion-MNIST"
    mappings = sorted(folder.glob("*mapping.txt"))
    if len(mappings) == 1:
        return _read_mapping(mappings[0]), f"class names are from {mappings[0]}"
    return None, "classes are called by their numbers (or give --names FILE)"


def _read_mapping(file: Path) -> list[str]:
    """Class names of EMNIST: lines of a label and the codes of its characters."""
    names: dict[int, str] = {}
    for number, line in enumerate(read_text(file).splitlines(), start=1):
        try:
            label, *codes = map(int, line.split())
            names[label] = "".join(map(chr, codes))
        except (ValueError, OverflowError) as error:
            raise InputError(f"{file}:{number}: wanted are a label and character codes.") from error
    # Numbers that are missing (EMNIST's letters begin with 1) are called by themselves.
    return [names.get(label, str(label)) for label in range(max(names, default=-1) + 1)]


FORMAT = Format(
    name="idx",
    title="IDX files (MNIST, Fashion-MNIST, EMNIST, …)",
    layout="folder with train-images-idx3-ubyte and train-labels-idx1-ubyte, t10k-…, packed by "
    "gzip or not; or one file of images",
    carries=("labels", "splits"),
    loses="all but the label in the label files of QMNIST",
    recognise=recognise,
    plan=plan,
    conventions="Images are written as PNG files. t10k is the split test. Classes are called by "
    "their numbers, those of Fashion-MNIST and EMNIST by their names. EMNIST's images are "
    "transposed, so that letters stand upright.",
    options=(
        Option(
            "--names",
            "class names, one a line from class 0; or the word fashion-mnist",
            metavar="FILE",
        ),
        Option(
            "--transpose",
            "whether rows and columns change places (auto: those of EMNIST)",
            default="auto",
            choices=("auto", "yes", "no"),
        ),
    ),
)
