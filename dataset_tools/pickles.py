"""Python pickles of plain data and numpy arrays, read without running anything in them.

A pickle is a program: unpickling may call any function. Here every operation is looked at first,
and those that call something may name only what numpy writes for arrays; even that is not called,
but replaced by functions of this module that put bytes into an array.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dataset_tools.errors import InputError
from dataset_tools.unpack import read_unpacked

if TYPE_CHECKING:
    import numpy as np

MOST_BYTES = 1 << 30
_REFUSED = frozenset(
    ("PERSID", "BINPERSID", "EXT1", "EXT2", "EXT4", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "DUP")
)
_PUTS = frozenset(("PUT", "BINPUT", "LONG_BINPUT"))


def load_pickle(path: str | Path) -> dict[str, Any]:
    """The dictionary in a pickle, keys as text; strings of Python 2 as bytes.

    InputError if there is something else in it than numbers, text, bytes, containers and numeric
    arrays, or if it is no whole pickle of a dictionary.
    """
    content = read_unpacked(path, MOST_BYTES)
    try:
        _inspect(content)
        value = _Unpickler(io.BytesIO(content), encoding="bytes").load()
    except _NotAllowed as error:
        raise InputError(
            f"{path}: this pickle asks for {error}, which is no plain data, and is not run. Save "
            "the data as npz."
        ) from error
    # A broken pickle may raise nearly anything, and is never anything but broken.
    except Exception as error:
        raise InputError(f"{path}: not a whole pickle: {error}. Get the file again.") from error
    if not isinstance(value, dict):
        raise InputError(f"{path}: a pickled {type(value).__name__}, not a dictionary.")
    return {
        key.decode("latin-1") if isinstance(key, bytes) else str(key): entry.array
        if isinstance(entry, _Array)
        else entry
        for key, entry in value.items()
    }


def text_of(value: Any) -> str:
    """Text that Python 2 or 3 has pickled."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


class _NotAllowed(Exception):
    pass


def _inspect(content: bytes) -> None:
    """Refuse what calls for objects by other ways, and memory for numbers of objects not there."""
    for count, (operation, argument, _) in enumerate(pickletools.genops(content)):
        if operation.name in _REFUSED:
            raise _NotAllowed(f"the operation {operation.name}")
        if operation.name in _PUTS and int(argument) > count:
            raise _NotAllowed("more memory than it needs")


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        module = module.replace("numpy._core", "numpy.core")
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise _NotAllowed(f"{module}.{name}") from None


class _Kind:
    """Stands for numpy.dtype."""

    def __init__(self, code: str | bytes, *_: Any) -> None:
        self.code, self.order = text_of(code), "|"

    def __setstate__(self, state: tuple) -> None:
        self.order = text_of(state[1])

    def dtype(self) -> np.dtype:
        import numpy as np

        kind = np.dtype(self.code)
        if kind.kind not in "biufS" or not kind.itemsize:
            raise _NotAllowed(f"an array of {kind}")
        return kind.newbyteorder(self.order)


class _Array:
    """Stands for numpy.ndarray."""

    array: np.ndarray

    def __setstate__(self, state: tuple) -> None:
        _, shape, kind, by_columns, raw = state
        self.array = _from_bytes(raw, kind, shape, "F" if by_columns else "C").array


def _reconstruct(*_: Any) -> _Array:
    return _Array()


def _from_bytes(raw: Any, kind: _Kind, shape: tuple[int, ...], order: str) -> _Array:
    import numpy as np

    if not isinstance(raw, bytes | bytearray):
        raise _NotAllowed("an array of objects")
    dtype = kind.dtype()
    if len(raw) != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"{len(raw)} bytes are no array of {shape}")
    result = _Array()
    result.array = np.frombuffer(raw, dtype).reshape(shape, order=text_of(order))
    return result


def _scalar(kind: _Kind, raw: bytes) -> int | float:
    return _from_bytes(raw, kind, (), "C").array.item()


def _encode(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise _NotAllowed(f"the encoding {encoding}")
    return text.encode("latin-1")


_ALLOWED = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Kind,
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy.core.multiarray", "scalar"): _scalar,
    ("numpy.core.numeric", "_frombuffer"): _from_bytes,
    ("_codecs", "encode"): _encode,  # how Python 3 writes bytes for Python 2
}
