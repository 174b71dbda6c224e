"""What is to be equal of a COCO file after it went through another format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dataset_tools.coco import Annotation, Dataset, annotation_box, load_coco
from dataset_tools.rle import decode_mask


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


def comparable(path: Path) -> list[dict]:
    """All that a COCO file says of its images, in an order of its own; masks as pixels."""
    dataset = load_coco(path)
    dots = {category.name: category.keypoints for category in dataset.categories}
    return [
        {
            "file_name": image.file_name,
            "size": (image.width, image.height),
            "attributes": image.attributes,
            "annotations": sorted(
                (_comparable(annotation, dots) for annotation in image.annotations), key=repr
            ),
        }
        for image in sorted(dataset.images, key=lambda image: image.file_name)
    ]


def _comparable(annotation: Annotation, dots: dict[str, tuple[str, ...]]) -> tuple:
    shape = annotation.segmentation
    if isinstance(shape, dict):
        shape = decode_mask(shape).tolist()
    flat = annotation.keypoints or []
    named = {
        name: _rounded(flat[3 * i : 3 * i + 3])
        for i, name in enumerate(dots[annotation.category])
        if flat and flat[3 * i + 2]
    }
    return (
        annotation.category,
        _rounded(annotation_box(annotation)),
        _rounded(shape),
        named,
        annotation.iscrowd,
        _rounded(annotation.area),
        {key: _rounded(value) for key, value in sorted(annotation.attributes.items())},
    )


def _rounded(value: Any) -> Any:
    """Numbers to a ten-thousandth of a pixel, which is the tolerance of round trips."""
    if isinstance(value, list | tuple):
        return [_rounded(one) for one in value]
    if isinstance(value, int | float) and not isinstance(value, bool):
        return round(float(value), 4) + 0.0  # no -0.0
    return value
