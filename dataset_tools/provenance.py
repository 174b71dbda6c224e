"""What a file made from other COCO files says of where it and its images come from."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from dataset_tools.coco import image_root
from dataset_tools.errors import InputError


def derived_info(
    info: dict[str, Any], step: dict[str, Any], root: Path | None, output: Path
) -> dict[str, Any]:
    """`info` of a file at `output` that was made from one with this `info`.

    Args:
        info: of the file that was read.
        step: what was done; appended to the list "steps".
        root: where the images are; None if that is not known.
        output: the file that is written: its image root is recorded relative to its folder.
    """
    result = {key: value for key, value in info.items() if key != "image_root"}
    if root is not None:
        here = output.resolve().parent
        result["image_root"] = Path(os.path.relpath(root.resolve(), here)).as_posix()
    steps = info.get("steps")
    result["steps"] = [*(steps if isinstance(steps, list) else []), step]
    return result


def find_images(path: Path, info: dict[str, Any], given: Path | None) -> Path:
    """The image root of the COCO file `path`: the `given` one, else the one it records. InputError
    if none."""
    root = given or image_root(path, info)
    if root is None:
        raise InputError(
            f"{path} does not say where its images are. Give their folder with --images."
        )
    if not root.is_dir():
        raise InputError(f"There is no folder of images {root}. Give it with --images.")
    return root


def images_if_any(path: Path, info: dict[str, Any], given: Path | None) -> Path | None:
    """The image root `given`, else that which a COCO file records; None if it is not there.
    InputError if the given one is not there."""
    root = given or image_root(path, info)
    if root is not None and root.is_dir():
        return root
    if given:
        raise InputError(f"There is no folder of images {given}. Check --images.")
    return None
