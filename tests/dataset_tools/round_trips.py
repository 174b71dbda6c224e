"""COCO → format → COCO: the way there and back, and what is to be equal after it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dataset_tools.coco import Dataset, load_coco
from dataset_tools.convert import convert_dataset
from dataset_tools.export import export_dataset
from tests.dataset_tools.datasets import Splits, save


def there_and_back(
    name: str, splits: Splits, folder: Path, **options: Any
) -> tuple[dict[str | None, Dataset], dict[str | None, Dataset]]:
    """Datasets as a COCO file says them, and after they went through the format `name`."""
    paths = save(splits, folder)
    export_dataset(name, paths, folder / "there")
    back = convert_dataset(name, folder / "there", folder / "back", **options)
    assert not back.notes.dropped
    before = {split: load_coco(path) for split, path in paths.items()}
    return before, {
        None if split == "all" else split: load_coco(summary.path)
        for split, summary in back.files.items()
    }


def records(dataset: Dataset, drop: tuple[str, ...] = ()) -> dict[str, Any]:
    """By file name what can be compared: all but ids, sources and attributes `drop`."""
    return {
        image.file_name: (
            (image.width, image.height),
            {key: value for key, value in image.attributes.items() if key not in drop},
            [
                {
                    "category": annotation.category,
                    "bbox": annotation.bbox,
                    "segmentation": annotation.segmentation,
                    "keypoints": annotation.keypoints,
                    "area": annotation.area,
                    "iscrowd": annotation.iscrowd,
                    "attributes": {
                        key: value
                        for key, value in annotation.attributes.items()
                        if key not in drop
                    },
                }
                for annotation in image.annotations
            ],
        )
        for image in dataset.images
    }


def assert_close(first: Any, second: Any, tolerance: float) -> None:
    """Equality of nested values, of numbers up to `tolerance`, of angles by whole turns."""
    if isinstance(first, dict) and isinstance(second, dict):
        assert first.keys() == second.keys()
        for key, value in first.items():
            if key == "rbox":
                turn = (value[4] - second[key][4] + 180) % 360 - 180
                assert abs(turn) <= tolerance
                assert_close(value[:4], second[key][:4], tolerance)
            else:
                assert_close(value, second[key], tolerance)
    elif isinstance(first, list | tuple) and isinstance(second, list | tuple):
        assert len(first) == len(second)
        for one, other in zip(first, second, strict=True):
            assert_close(one, other, tolerance)
    elif isinstance(first, float | int) and isinstance(second, float | int):
        assert abs(first - second) <= tolerance, (first, second)
    else:
        assert first == second
