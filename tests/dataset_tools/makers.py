"""Small files for the tests of converters."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from dataset_tools.coco import Image as ImageRecord
from dataset_tools.convert import Conversion, convert_dataset


def picture(path: Path, width: int = 20, height: int = 10, mode: str = "RGB", **save: Any) -> Path:
    """An image file of one colour; its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, height), (90, 120, 30)).convert(mode).save(path, **save)
    return path


def mask_picture(path: Path, mask: np.ndarray) -> Path:
    """A PNG that is 255 where `mask` is true; its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.where(mask, 255, 0).astype(np.uint8)).save(path)
    return path


def text(path: Path, content: str | bytes, encoding: str = "utf-8") -> Path:
    """A text file; its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode(encoding))
    return path


def converted(name: str, path: Path, output: Path, **options: Any) -> tuple[Conversion, dict]:
    """Convert and give what was reported, and by split the records read back as plain JSON.

    They are {split: {file name: {"size": (w, h), "objects": [(category, bbox XYWH, entry), …]}}}.
    """
    conversion = convert_dataset(name, path, output, **options)
    splits = {}
    for split, summary in conversion.files.items():
        content = json.loads(summary.path.read_text(encoding="utf-8"))
        names = {category["id"]: category["name"] for category in content["categories"]}
        images = {
            image["id"]: {"size": (image["width"], image["height"]), "objects": [], "entry": image}
            for image in content["images"]
        }
        for entry in content["annotations"]:
            found = (names[entry["category_id"]], entry.get("bbox"), entry)
            images[entry["image_id"]]["objects"].append(found)
        splits[split] = {image["entry"]["file_name"]: image for image in images.values()}
    return conversion, splits


def plain(image: ImageRecord) -> dict[str, Any]:
    """A record with its annotations as plain values, whatever kind of sequence they are."""
    return asdict(replace(image, annotations=list(image.annotations)))
