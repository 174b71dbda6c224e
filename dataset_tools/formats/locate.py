"""The image that a label names by a URL or a path of another machine."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import PurePosixPath
from urllib.parse import unquote, urlsplit

from dataset_tools.images import ImageIndex, image_size
from dataset_tools.notes import Notes


def path_of_url(name: str) -> str:
    """The path in a URL (http, s3, gs, file, …), decoded; `name` itself if it is none."""
    if "://" not in name:
        return name
    return unquote(urlsplit(name.replace("#", "%23")).path).lstrip("/")


def locate(
    index: ImageIndex,
    names: Sequence[str],
    size: tuple[int, int] | None,
    place: str,
    notes: Notes,
    near: str = "",
) -> tuple[str, tuple[int, int]] | None:
    """Path of the first of `names` that is there, with the image's size: `size`, else its own.

    An image that is not there keeps the last of `names`, without folders that lead out of the
    root, if its size is known. Else it is noted as dropped and the result is None.
    """
    for name in names:
        if (found := index.find(name, near)) is not None:
            return found, size or image_size(f"{index.root}/{found}")
    if size is None:
        notes.drop("image that has no recorded size and is not there", f"{place}: {names[-1]}")
        return None
    notes.suspect("image file that is missing (kept)", f"{place}: {names[-1]}")
    return inner_path(names[-1]), size


def inner_path(name: str) -> str:
    """`name` as a POSIX path that stays inside its root: of one that would not, the last part."""
    path = PurePosixPath(name.replace("\\", "/"))
    drive = bool(path.parts) and ":" in path.parts[0]
    if path.is_absolute() or ".." in path.parts or drive:
        return os.path.basename(path.name)
    return str(path)
