"""Detections that wait on disk for the end of an evaluation, so that memory does not grow."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from detectron2.utils import comm

from dataset_tools.files import atomic_path

CHUNK_BYTES = 2**24  # that a process sends at once


class Spool:
    """A temporary file with a line of JSON for each image: a list of detections in COCO's form.

    The file has no name, so that a process that is killed leaves nothing behind.

    Args:
        folder: where the file lies; default the system's folder for temporary files.
    """

    def __init__(self, folder: Path | None = None) -> None:
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 (it lives as long as this)

    def add(self, detections: Sequence[Mapping[str, Any]]) -> None:
        """Append the detections of one image; all their numbers are finite."""
        if detections:
            self._file.write(msgspec.json.encode(detections) + b"\n")

    def gather(self) -> None:
        """Append what the other processes have to the file of process 0, a part at a time, so that
        machines need no disk in common. All processes must call it."""
        receives = comm.is_main_process()
        self._file.seek(0)
        while True:
            lines = [] if receives else self._file.readlines(CHUNK_BYTES)
            if not any(comm.all_gather(bool(lines))):
                break
            parts = comm.gather(lines, dst=0)
            if receives:
                self._file.seek(0, os.SEEK_END)
                self._file.writelines(line for part in parts for line in part)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """All detections, ordered by image."""
        for line in self._lines():
            yield from msgspec.json.decode(line)

    def write(self, path: Path) -> None:
        """Write all detections, ordered by image, as one JSON list."""
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            separator = b"["
            for line in self._lines():
                file.write(separator + line.rstrip()[1:-1])
                separator = b",\n"
            file.write(b"]" if separator != b"[" else b"[]")

    def _lines(self) -> Iterator[bytes]:
        """Of equal scores the order decides, and it must not depend on the number of processes."""
        for _, offset in sorted(self._images()):
            self._file.seek(offset)
            yield self._file.readline()

    def _images(self) -> Iterator[tuple[int | str, int]]:
        """(image, offset) of each line."""
        offset = 0
        self._file.seek(0)
        for line in self._file:
            yield msgspec.json.decode(line, type=list[_Image])[0].image_id, offset
            offset += len(line)


class _Image(msgspec.Struct):
    image_id: int | str
