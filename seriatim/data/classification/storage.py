"""The choice among the stores, by SERIATIM.DATA, and the cache of unpacked pixels."""

from __future__ import annotations

import hashlib
import logging
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from detectron2.config import CfgNode

from dataset_tools.errors import InputError
from dataset_tools.files import atomic_path
from seriatim.data.classification.stores import (
    FileBlock,
    ImageFiles,
    Layout,
    MappedBlock,
    PixelStore,
    Store,
    decoded,
    in_memory,
    write_block,
)

logger = logging.getLogger(__name__)

MODES = ("auto", "memory", "mmap", "disk")


@dataclass(frozen=True)
class Storage:
    """SERIATIM.DATA's STORAGE, MEMORY_MIB in bytes, and CACHE_DIR."""

    mode: str
    most_memory: int
    cache: Path

    @classmethod
    def from_config(cls, cfg: CfgNode) -> Storage:
        """InputError if there is no such STORAGE."""
        data = cfg.SERIATIM.DATA
        if data.STORAGE not in MODES:
            raise InputError(
                f"SERIATIM.DATA.STORAGE is {data.STORAGE!r}; it is one of {', '.join(MODES)}."
            )
        return cls(data.STORAGE, data.MEMORY_MIB << 20, cache_folder(cfg))

    def store(self, name: str, images: np.ndarray | ImageFiles, layout: Layout) -> Store:
        """The images of dataset `name`, an array (N, H, W, C) uint8 or files, stored."""
        packed = isinstance(images, np.ndarray)
        mode = self._chosen(layout.nbytes, packed)
        logger.info(
            f"{name}: {len(layout.heights):,} images, {layout.nbytes / 2**20:.1f} MiB decoded,"
            f" storage {mode}"
        )
        if mode == "memory":
            return in_memory(images if packed else decoded(images), layout)
        if mode == "disk" and not packed:
            return images
        path = self.cache / f"{content_hash(images) if packed else _files_hash(images)}.pixels"
        if not path.is_file() or path.stat().st_size != layout.nbytes:
            with atomic_path(path) as temporary:
                write_block(temporary, images if packed else decoded(images))
        return PixelStore(layout, MappedBlock(path) if mode == "mmap" else FileBlock(path))

    def _chosen(self, nbytes: int, packed: bool) -> str:
        if self.mode != "auto":
            return self.mode
        if nbytes <= self.most_memory:
            return "memory"
        return "mmap" if packed else "disk"


def cache_folder(cfg: CfgNode) -> Path:
    """SERIATIM.DATA.CACHE_DIR, expanded."""
    return Path(os.path.expandvars(cfg.SERIATIM.DATA.CACHE_DIR)).expanduser()


def content_hash(images: np.ndarray) -> str:
    """Of an array's shape and bytes."""
    mark = hashlib.blake2b(repr(images.shape).encode(), digest_size=16)
    for part in images:
        mark.update(np.ascontiguousarray(part).data)
    return mark.hexdigest()


def _files_hash(files: ImageFiles) -> str:
    """Of the files' names, sizes and times of change, which is as good and much faster."""
    mark = hashlib.blake2b(digest_size=16)
    for path in map(files.path, range(len(files))):
        try:
            state = os.stat(path)
        except OSError as error:
            raise InputError(f"{path}: cannot be read: {error.strerror}.") from None
        mark.update(f"{path}\0{state.st_size}\0{state.st_mtime_ns}\0".encode("utf-8", "replace"))
    return mark.hexdigest()
