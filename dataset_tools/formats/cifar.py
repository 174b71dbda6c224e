"""CIFAR-10 and CIFAR-100, the Python and the binary version.

From the datasets' page: an image is 3072 bytes, the red, green and blue values of 32×32 pixels, row
by row. The Python version is pickled dictionaries with `data`, `labels` or `fine_labels` and
`coarse_labels`, and `filenames`; their keys and texts are bytes, for Python 2 wrote them. The
binary version has the label before the pixels, that of CIFAR-100 the coarse and then the fine one.

The coarse label of CIFAR-100 becomes the supercategory of the fine one.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dataset_tools.arrays import Arrays, Source, plan_arrays
from dataset_tools.coco import Category
from dataset_tools.errors import InputError
from dataset_tools.formats.base import Evidence, Format, Glimpse, Plan
from dataset_tools.labels import class_name, read_names
from dataset_tools.notes import Notes
from dataset_tools.pickles import load_pickle, text_of

if TYPE_CHECKING:
    import numpy as np

PIXELS = 3 * 32 * 32
_PART = re.compile(r"(data_batch_\d+|test_batch|train|test)(\.bin)?")


def plan(path: Path, notes: Notes, images: Path | None = None) -> Plan:
    """Plan to read the folder of one of the four, as it is unpacked, or a file of it."""
    folder = path if path.is_dir() else path.parent
    files = sorted(folder.iterdir()) if path.is_dir() else [path]
    parts = [file for file in files if file.is_file() and _PART.fullmatch(file.name)]
    if len({file.suffix for file in parts}) != 1:
        found = "both versions" if parts else "neither data_batch_1 nor train, with or without .bin"
        raise InputError(f"{path}: {found} there. Give the folder of one dataset as unpacked.")
    names = _Names.binary(folder) if parts[0].suffix else _Names.python(folder)
    loader = _Loader(names)
    sources = [Source(file, _split_of(file)) for file in parts]
    remark = (
        f"class names are from {names.file}"
        if names.fine
        else "classes are called by their numbers: batches.meta or meta is missing"
    )
    return plan_arrays(path, sources, loader, _Categories(names), [remark])


def recognise(glimpse: Glimpse) -> Evidence | None:
    """Files called as CIFAR's are, that begin as pickles of its keys; or .bin beside its names."""
    for name in glimpse.files:
        if "/" in name or not _PART.fullmatch(name):
            continue
        if not name.endswith(".bin"):
            head = glimpse.head_bytes(name)
            if head[:1] in b"\x80(" and re.search(rb"batch_label|fine_labels|labels|data", head):
                return Evidence(f"{name} is a pickle as CIFAR has it")
        elif {"batches.meta.txt", "fine_label_names.txt"} & set(glimpse.files):
            return Evidence(f"{name} lies beside the class names of CIFAR")
    return None


@dataclass
class _Names:
    """Class names, empty if not known, and which fine class is of which coarse one."""

    fine: list[str] = field(default_factory=list)
    coarse: list[str] = field(default_factory=list)
    file: Path | None = None
    has_coarse: bool = False  # of the binary version, whose files do not say
    coarse_of: dict[str, str] = field(default_factory=dict)

    @classmethod
    def python(cls, folder: Path) -> _Names:
        for file in (folder / "batches.meta", folder / "meta"):
            if file.is_file():
                content = load_pickle(file)
                fine = content.get("label_names") or content.get("fine_label_names") or []
                return cls(
                    [text_of(name) for name in fine],
                    [text_of(name) for name in content.get("coarse_label_names") or []],
                    file,
                )
        return cls()

    @classmethod
    def binary(cls, folder: Path) -> _Names:
        file, coarse = folder / "fine_label_names.txt", folder / "coarse_label_names.txt"
        if file.is_file() and coarse.is_file():
            return cls(read_names(file), read_names(coarse), file, has_coarse=True)
        file = folder / "batches.meta.txt"
        if file.is_file():
            return cls(read_names(file), [], file)
        raise InputError(
            f"{folder}: there is neither batches.meta.txt (CIFAR-10) nor fine_label_names.txt and "
            "coarse_label_names.txt (CIFAR-100), and the .bin files do not say which they are of."
        )


@dataclass
class _Loader:
    names: _Names

    def __call__(self, file: Path) -> Arrays:
        data, fine, coarse, called = self._binary(file) if file.suffix else self._python(file)
        names = self.names
        named = [class_name(label, names.fine or None, str(file)) for label in fine]
        for name, label in zip(named, coarse, strict=False):
            names.coarse_of.setdefault(name, class_name(label, names.coarse or None, str(file)))
        attributes = [{"original_name": text_of(name)} for name in called]
        pixels = data.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        return Arrays(pixels, [(name,) for name in named], str(file), attributes)

    def _python(self, file: Path) -> tuple[np.ndarray, list[int], list[int], Sequence[Any]]:
        import numpy as np

        content = load_pickle(file)
        data = content.get("data")
        if (
            not isinstance(data, np.ndarray)
            or data.dtype != np.uint8
            or data.shape[1:] != (PIXELS,)
        ):
            raise InputError(f"{file}: `data` is not an array of N×{PIXELS} bytes, as CIFAR's is.")
        fine = content["labels"] if "labels" in content else content.get("fine_labels")
        called = content.get("filenames") or []
        return (
            data,
            _numbers(fine, "labels", file, len(data)),
            _numbers(content.get("coarse_labels", []), "coarse_labels", file, len(data)),
            called if isinstance(called, list) and len(called) == len(data) else [],
        )

    def _binary(self, file: Path) -> tuple[np.ndarray, list[int], list[int], Sequence[Any]]:
        import numpy as np

        before = 2 if self.names.has_coarse else 1
        content = np.fromfile(file, np.uint8)
        if len(content) % (before + PIXELS):
            raise InputError(
                f"{file}: {len(content):,} bytes are not a multiple of {before + PIXELS}, the size "
                "of an image with its label. The file is cut off: get it again."
            )
        rows = content.reshape(-1, before + PIXELS)
        coarse = rows[:, 0].tolist() if self.names.has_coarse else []
        return rows[:, before:], rows[:, before - 1].tolist(), coarse, []


@dataclass(frozen=True)
class _Categories:
    names: _Names

    def __call__(self, seen: set[str]) -> list[Category]:
        names = self.names.fine or sorted(seen, key=int)
        return [Category(name, self.names.coarse_of.get(name, "")) for name in names]


def _numbers(values: Any, key: str, file: Path, count: int) -> list[int]:
    import numpy as np

    if isinstance(values, np.ndarray) and values.dtype.kind in "iu":
        values = values.ravel().tolist()
    if not isinstance(values, list) or not all(type(value) is int for value in values):
        raise InputError(f"{file}: `{key}` is not a list of numbers, as CIFAR's is.")
    if key != "labels" and values and len(values) != count:
        raise InputError(f"{file}: {count} images, but {len(values)} {key}.")
    return values


def _split_of(file: Path) -> str:
    return "test" if file.name.startswith("test") else "train"


FORMAT = Format(
    name="cifar",
    title="CIFAR-10 and CIFAR-100",
    layout="unpacked folder with data_batch_1 … or train, test and meta (Python version), or with "
    ".bin files and the text files of names (binary version)",
    carries=("labels", "attributes", "splits"),
    loses="",
    recognise=recognise,
    plan=plan,
    conventions="Images are written as PNG files. Fine labels are the categories, coarse ones "
    "their supercategories. Pickles are read as data alone: nothing in them is run, and what asks "
    "for it is refused.",
)
