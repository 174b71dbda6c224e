"""USPS, the postal service's digits of 16×16 px, in the two forms that it is handed on in.

- LIBSVM's text files `usps` (train) and `usps.t` (test), packed by bzip2 or not: a line for each
  image, the label from 1 (digit 0), then `number:value` for 256 pixels from 1 to 256, -1 black to 1
  white; those that are 0 may be left out.
- An HDF5 file with the groups train and test, each with data (N×256, 0 to 1) and target (0 to 9).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from dataset_tools.arrays import Arrays, Source, as_pictures, plan_arrays
from dataset_tools.errors import InputError
from dataset_tools.formats.base import SPLIT_NAMES, Evidence, Format, Glimpse, Plan
from dataset_tools.hdf5 import MAGIC, open_hdf5
from dataset_tools.notes import Notes
from dataset_tools.unpack import check_size, read_unpacked, unpacked_head

if TYPE_CHECKING:
    import numpy as np

PIXELS = 16 * 16
MOST_TEXT = 1 << 28
_NAME = re.compile(r"usps(\.t)?(\.bz2|\.gz|\.txt|\.libsvm)*|usps.*\.(h5|hdf5)", re.IGNORECASE)
_LINE = re.compile(rb"\s*\d+(\.0*)?\s+\d+:[-+.\deE]+\s")


def plan(path: Path, notes: Notes, images: Path | None = None) -> Plan:
    """Plan to read one of the files, or those in a folder that are called usps."""
    files = [path]
    if path.is_dir():
        files = sorted(f for f in path.iterdir() if _NAME.fullmatch(f.name) and f.is_file())
    sources: dict[str | None, Source] = {}
    for file in files:
        for split, group in _parts(file):
            if split in sources:
                raise InputError(f"{file}: there is a second file of {split}. Give one as PATH.")
            sources[split] = Source((file, group), split)
    if not sources:
        raise InputError(f"{path}: there is no usps, usps.t (packed or not) or usps.h5 in it.")
    order = sorted(sources.values(), key=lambda source: source.split != "train")
    return plan_arrays(path, order, load)


def recognise(glimpse: Glimpse) -> Evidence | None:
    """Files called usps that begin as LIBSVM's lines do, or as HDF5."""
    for name in glimpse.files:
        if "/" in name or not _NAME.fullmatch(name):
            continue
        head = glimpse.head_bytes(name)
        if head.startswith(MAGIC):
            return Evidence(f"{name} is an HDF5 file called usps")
        if _LINE.match(unpacked_head(head)):
            return Evidence(f"{name} has lines of a label and numbered values")
    return None


def load(part: tuple[Path, str | None]) -> Arrays:
    """The images of a text file, or of a group of an HDF5 file."""
    file, group = part
    if group is None:
        pixels, labels = _read_text(file)
        return Arrays(pixels, [(str(label - 1),) for label in labels], str(file))
    with open_hdf5(file) as content:
        data, target = (content[group].get(key) for key in ("data", "target"))
        if data is None or target is None:
            raise InputError(f"{file}: {group} has no data and target.")
        check_size(file, data.nbytes)
        pixels, remarks = as_pictures(data[:], f"{file}: {group}")
        labels = target[:].ravel().tolist()
    named = [(str(int(label)),) for label in labels]
    return Arrays(pixels, named, f"{file}: {group}", remarks=remarks)


def _read_text(file: Path) -> tuple[np.ndarray, list[int]]:
    import numpy as np

    lines = read_unpacked(file, MOST_TEXT).splitlines()
    values = np.zeros((len(lines), PIXELS), np.float32)
    labels: list[int] = []
    for row, line in enumerate(lines):
        try:
            label, *pairs = line.split()
            for pair in pairs:
                number, value = pair.split(b":")
                values[row, _place(number)] = float(value)
            labels.append(int(float(label)))
            if not 1 <= labels[-1] <= 10 or not (np.abs(values[row]) <= 1).all():
                raise ValueError("labels are 1 to 10, values -1 to 1")
        except ValueError as error:
            raise InputError(f"{file}:{row + 1}: not a line of USPS: {error}.") from error
    pixels = np.rint((values + 1) * 127.5).astype(np.uint8)
    return pixels.reshape(-1, 16, 16), labels


def _place(number: bytes) -> int:
    place = int(number)
    if not 1 <= place <= PIXELS:
        raise ValueError(f"there is no pixel {place}")
    return place - 1


def _parts(file: Path) -> list[tuple[str | None, str | None]]:
    """Split, and group of an HDF5 file."""
    with open(file, "rb") as start:
        is_hdf5 = start.read(len(MAGIC)) == MAGIC
    if not is_hdf5:
        return [("test" if re.search(r"\.t(\.|$)", file.name) else "train", None)]
    with open_hdf5(file) as content:
        groups = [name for name in content if name.lower() in SPLIT_NAMES]
    return [(SPLIT_NAMES[name.lower()], name) for name in groups]


FORMAT = Format(
    name="usps",
    title="USPS digits (LIBSVM's text files, HDF5)",
    layout="usps.bz2 and usps.t.bz2, unpacked or not, or usps.h5; or the folder of them",
    carries=("labels", "splits"),
    loses="",
    recognise=recognise,
    plan=plan,
    conventions="Images are written as PNG files. In text files labels are from 1, and the pixels' "
    "-1 to 1 becomes 0 to 255; in HDF5 files labels are the digits, and 0 to 1 becomes 0 to 255. "
    "HDF5 needs the package h5py.",
)
