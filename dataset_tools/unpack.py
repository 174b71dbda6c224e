"""Reading of packed files that ends at a limit, whatever they unpack to."""

from __future__ import annotations

import bz2
import gzip
import lzma
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from dataset_tools.errors import InputError

# What one file may unpack to. The largest of the known datasets of this kind (EMNIST) has 0.5 GiB.
MOST_BYTES = 4 << 30
_OPENERS = ((b"\x1f\x8b", gzip.open), (b"BZh", bz2.open))


@contextmanager
def open_unpacked(path: str | Path) -> Iterator[IO[bytes]]:
    """A file for reading; what gzip or bzip2 packed, by its first bytes, is unpacked.

    The reader says how much it wants: it never takes all there is. InputError if it is damaged.
    """
    path = Path(path)
    with open(path, "rb") as file:
        start = file.read(3)
    opener = next((opener for magic, opener in _OPENERS if start.startswith(magic)), open)
    try:
        with opener(path, "rb") as file:
            yield file
    except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
        raise InputError(f"{path}: damaged or cut off: {error}. Get the file again.") from error
    except OSError as error:
        if error.errno is not None:
            raise
        raise InputError(f"{path}: damaged or cut off: {error}. Get the file again.") from error


def read_unpacked(path: str | Path, most: int = MOST_BYTES) -> bytes:
    """All of a file, unpacked. InputError if that is more than `most` bytes."""
    with open_unpacked(path) as file:
        content = file.read(most + 1)
    check_size(path, len(content), most)
    return content


def check_size(path: str | Path, size: int, most: int = MOST_BYTES) -> None:
    """InputError if `size` bytes are more than `most`."""
    if size > most:
        raise InputError(
            f"{path}: unpacked it has more than {most / 2**30:g} GiB, which is the limit. Save the "
            "images as files, or as several of these."
        )


def unpacked_head(head: bytes, size: int = 1024) -> bytes:
    """The first bytes of a file that may be packed, from the first bytes of the file as it is."""
    try:
        if head.startswith(b"\x1f\x8b"):
            return zlib.decompressobj(31).decompress(head, size)
        if head.startswith(b"BZh"):
            return bz2.BZ2Decompressor().decompress(head, size)
    except (zlib.error, OSError):
        return b""
    return head[:size]
