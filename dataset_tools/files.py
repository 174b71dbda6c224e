"""Files that are whole or not there: written under a temporary name, then renamed."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dataset_tools.errors import InputError

_READ = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
_BLOCK = 64 * 1024


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` on success, remove it on failure.

    The folder is made if it is missing. Readers see the old file or the new one, never half of one.
    InputError if `path` is a folder.
    """
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{path} is a folder, not a file that can be written. Give a file's name.")
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}.", suffix=path.suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        # mkstemp makes private files; the result gets the rights any new file of the user has.
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def new_folder(path: str | Path) -> Iterator[Path]:
    """Yield a temporary folder that becomes `path` on success, and is removed on failure.

    InputError if something is at `path` already (an empty folder excepted).
    """
    path = Path(path)
    if path.is_file() or (path.is_dir() and any(path.iterdir())):
        raise InputError(f"{path} is there already. Give a new folder by -o, or remove it.")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as temporary:
        folder = Path(temporary) / path.name
        folder.mkdir()
        yield folder
        if path.is_dir():
            path.rmdir()  # it is empty
        os.replace(folder, path)


@contextmanager
def late_folder(path: str | Path) -> Iterator[Path]:
    """Yield a temporary folder, the files of which move into the folder `path` on success, beside
    what is there already. On failure they are removed."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as temporary:
        yield Path(temporary)
        for place, _, names in os.walk(temporary):
            target = path / os.path.relpath(place, temporary)
            target.mkdir(parents=True, exist_ok=True)
            for name in names:
                os.replace(os.path.join(place, name), target / name)


def read_bytes(path: str | Path) -> bytes:
    """Content of a file. InputError if it is not there, is no regular file, or cannot be read."""
    # A pipe would have us wait for ever.
    if not os.path.isfile(path):
        what = "not a regular file" if os.path.exists(path) else "there is no such file"
        raise InputError(f"{path}: {what}. Check the path.")
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}.") from error


def read_beginning(path: str, length: int) -> bytes:
    """The first `length` bytes of a file, or all if it is shorter; in half the time of `open`.

    Of a pipe, for which one might wait for ever, nothing. OSError if it cannot be read.
    """
    return _read_up_to(path, length, whole=False)


def read_quickly(path: str) -> bytes:
    """As `read_beginning`, all of a file that mostly is a small one."""
    return _read_up_to(path, _BLOCK, whole=True)


def _read_up_to(path: str, length: int, whole: bool) -> bytes:
    file = os.open(path, _READ)
    try:
        content = os.read(file, length)
        if whole and len(content) == length:
            content += b"".join(iter(lambda: os.read(file, 16 * _BLOCK), b""))
        return content
    finally:
        os.close(file)


def write_text(path: str | Path, text: str) -> None:
    """Write `text` as UTF-8 to `path`, whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: Any, indent: int | None = 1) -> None:
    """Write `value` as JSON to `path`, whole or not at all. Without `indent`, on one line, it is
    several times as fast. InputError for NaN and infinity, which JSON has not."""
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, indent=indent)
    except ValueError as error:
        raise InputError(
            f"{path}: a number in it cannot be written: {error}. `check` says where it is."
        ) from error
    write_text(path, text + "\n")
