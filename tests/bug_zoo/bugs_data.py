"""Bugs in the dataset's files and in how the catalog reads them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.bug_zoo.registry import Bug


def edit(folder: Path, split: str, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the COCO JSON of a split in place."""
    path = folder / split / "shapes.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def _shift(content: dict[str, Any], by: int = 1) -> None:
    ids = [image["id"] for image in content["images"]]
    moved = {one: ids[(i + by) % len(ids)] for i, one in enumerate(ids)}
    for annotation in content["annotations"]:
        annotation["image_id"] = moved[annotation["image_id"]]


def labels_of_the_next_image(folder: Path) -> None:
    edit(folder, "train", _shift)


BUGS = [
    Bug(
        "labels of the next image",
        "data",
        "Images and annotations were listed apart and paired one place off.",
        ("data",),
        ("other images",),
        files=labels_of_the_next_image,
    ),
]
