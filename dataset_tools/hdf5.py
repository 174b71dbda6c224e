"""HDF5 files, by h5py, which only the formats that need it ask for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dataset_tools.errors import InputError

MAGIC = b"\x89HDF\r\n\x1a\n"


@contextmanager
def open_hdf5(path: str | Path) -> Iterator[Any]:
    """The h5py file. InputError if it is damaged, or if h5py is not installed."""
    try:
        import h5py
    except ModuleNotFoundError as error:
        raise InputError(
            "HDF5 files need the Python package h5py, which is not installed here. Install it by "
            "`pip install h5py`, or with all that formats need by "
            "`pip install 'seriatim[formats]'`."
        ) from error
    try:
        with h5py.File(path, "r") as file:
            yield file
    except (OSError, KeyError, ValueError, RuntimeError) as error:
        raise InputError(f"{path}: not a whole HDF5 file: {error}. Get it again.") from error


def numbers(file: Any, value: Any, place: str, name: str) -> list[Any]:
    """Numbers as MATLAB 7.3 has them: a dataset of them, or of references to one each.

    `value` is a dataset or a reference to one. InputError if it is something else.
    """
    import h5py

    if isinstance(value, h5py.Reference):
        value = file[value]
    if not isinstance(value, h5py.Dataset) or value.size > 10_000:
        raise InputError(f"{place}: {name} is no list of numbers.")
    found = value[:].ravel().tolist() if value.shape else [value[()].item()]
    return [
        file[entry][:].ravel()[0].item() if isinstance(entry, h5py.Reference) else entry
        for entry in found
    ]
