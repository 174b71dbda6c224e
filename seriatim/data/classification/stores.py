"""Where the pixels of a dataset wait: in memory, in a mapped file, on disk.

Decoded images lie one after the other in a block of bytes, which is a tensor or a file; image files
may be left as they are, too. Every store can be sent to a worker process without its pixels: they
are shared, or opened there anew.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from dataset_tools.errors import InputError
from seriatim.data.image import read_image
from seriatim.data.packed import Texts


@dataclass(frozen=True)
class Layout:
    """Where each image of a block is.

    Attributes:
        heights, widths: (N,) int64 px.
        channels: 1 (grey) or 3 (RGB), of all images.
    """

    heights: np.ndarray
    widths: np.ndarray
    channels: int

    def starts(self) -> np.ndarray:
        """(N + 1,) int64 bytes: image i is starts[i] to starts[i + 1], row by row."""
        sizes = self.heights * self.widths * self.channels
        return np.concatenate([[0], np.cumsum(sizes)])

    @property
    def nbytes(self) -> int:
        return int((self.heights * self.widths).sum()) * self.channels


class Block(Protocol):
    """Bytes that can be read in parts."""

    def read(self, start: int, stop: int) -> np.ndarray:
        """(stop - start,) uint8, not to be written to."""


class MemoryBlock:
    """In memory, which forked and spawned workers share."""

    def __init__(self, content: np.ndarray) -> None:
        content = np.ascontiguousarray(content).reshape(-1)
        if not content.flags.writeable:
            content = content.copy()  # torch wants memory that may be written to
        self._content = torch.from_numpy(content)

    def read(self, start: int, stop: int) -> np.ndarray:
        part = self._content[start:stop].numpy()
        part.flags.writeable = False
        return part


class MappedBlock:
    """A file that is mapped into memory: the system keeps what is used, as far as there is room."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._map: np.ndarray | None = None

    def read(self, start: int, stop: int) -> np.ndarray:
        if self._map is None:
            self._map = np.memmap(self._path, np.uint8, "r")
        return self._map[start:stop].view(np.ndarray)

    def __getstate__(self) -> dict[str, Any]:
        return {"_path": self._path, "_map": None}


class FileBlock:
    """A file that is read anew each time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: int | None = None

    def read(self, start: int, stop: int) -> np.ndarray:
        if self._file is None:
            self._file = os.open(self._path, os.O_RDONLY)
        return np.frombuffer(os.pread(self._file, stop - start, start), np.uint8)

    def __getstate__(self) -> dict[str, Any]:
        return {"_path": self._path, "_file": None}

    def __del__(self) -> None:
        if self._file is not None:
            os.close(self._file)


class PixelStore:
    """Decoded images in a block."""

    def __init__(self, layout: Layout, block: Block) -> None:
        self.layout = layout
        self.block = block
        self._starts = layout.starts()

    def __len__(self) -> int:
        return len(self.layout.heights)

    def pixels(self, index: int) -> np.ndarray:
        """(H, W, 1) grey or (H, W, 3) RGB uint8, not to be written to."""
        start, stop = self._starts[index : index + 2].tolist()
        layout = self.layout
        shape = (int(layout.heights[index]), int(layout.widths[index]), layout.channels)
        return self.block.read(start, stop).reshape(shape)


@dataclass(frozen=True)
class ImageFiles:
    """Image files that stay files: whoever maps a record reads the file it names.

    Attributes:
        names: the images' paths, encoded by the file system's encoding.
        layout: their sizes. Channels are 3: what a file holds is made RGB.
    """

    names: Texts
    layout: Layout

    def __len__(self) -> int:
        return len(self.names)

    def path(self, index: int) -> str:
        """Of an image."""
        return os.fsdecode(self.names[index])

    def pixels(self, index: int) -> np.ndarray:
        """(H, W, 3) RGB uint8."""
        return read_image(self.path(index), "RGB")


Store = PixelStore | ImageFiles


def decoded(files: ImageFiles) -> Iterable[np.ndarray]:
    """The images of files, each of the size that it is recorded with. InputError if one is not."""
    layout = files.layout
    for index in range(len(files)):
        image = files.pixels(index)
        if image.shape[:2] != (layout.heights[index], layout.widths[index]):
            raise InputError(
                f"The image {files.path(index)} is {image.shape[1]}×{image.shape[0]} px, but its"
                f" dataset says {layout.widths[index]}×{layout.heights[index]}."
                " `python -m dataset_tools check --fix` mends it."
            )
        yield image


def in_memory(images: Iterable[np.ndarray], layout: Layout) -> PixelStore:
    """A store in memory of `images`, an array (N, H, W, C) or one image after the other."""
    if isinstance(images, np.ndarray):
        return PixelStore(layout, MemoryBlock(images))
    content = np.empty(layout.nbytes, np.uint8)
    for start, image in zip(layout.starts(), images, strict=False):
        content[start : start + image.size] = image.reshape(-1)
    return PixelStore(layout, MemoryBlock(content))


def write_block(path: Path, images: Iterable[np.ndarray]) -> None:
    """Write `images` as a block to an open path."""
    with open(path, "wb") as file:
        for image in images:
            file.write(np.ascontiguousarray(image).data)
