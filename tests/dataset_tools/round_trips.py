"""COCO → format → COCO: random datasets, and what of them is to come back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st

from dataset_tools.coco import Annotation, Dataset, Image, load_coco, write_coco
from dataset_tools.convert import convert_dataset
from dataset_tools.export import export_dataset
from dataset_tools.rle import encode_mask
from dataset_tools.shapes import drawn_annotation, polygon_annotation, rotated_annotation

WIDTH, HEIGHT = 40, 30
names = st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")), min_size=1, max_size=6)
# Up to 0.001 px: finer than any tool draws, and far from what a float cannot hold.
xs = st.integers(0, WIDTH * 1000).map(lambda value: value / 1000)
ys = st.integers(0, HEIGHT * 1000).map(lambda value: value / 1000)


def point_lists(fewest: int, most: int) -> st.SearchStrategy[list[float]]:
    """[x1, y1, x2, y2, …]"""
    points = st.lists(st.tuples(xs, ys), min_size=fewest, max_size=most)
    return points.map(lambda found: [value for point in found for value in point])


@st.composite
def boxes(draw: Callable) -> tuple[float, float, float, float]:
    """XYXY"""
    (left, right), (top, bottom) = sorted((draw(xs), draw(xs))), sorted((draw(ys), draw(ys)))
    return left, top, right, bottom


@st.composite
def masks(draw: Callable) -> dict:
    """RLEs of at least a pixel, holes and several parts among them."""
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    for _ in range(draw(st.integers(1, 4))):
        x, y = draw(st.integers(0, WIDTH - 1)), draw(st.integers(0, HEIGHT - 1))
        mask[y : y + draw(st.integers(1, 9)), x : x + draw(st.integers(1, 9))] ^= True
        mask[y, x] = True
    return encode_mask(mask)


rotated_boxes = st.tuples(
    xs, ys, st.integers(1, 30), st.integers(1, 30), st.integers(-179, 180)
).filter(lambda box: box[2] != box[3])

KINDS: dict[str, st.SearchStrategy[Annotation]] = {
    "boxes": st.builds(lambda name, box: Annotation(name, box), names, boxes()),
    "polygons": st.builds(polygon_annotation, names, point_lists(3, 6)),
    "several polygons": st.builds(
        lambda name, polygons: Annotation(name, segmentation=polygons),
        names,
        st.lists(point_lists(3, 4), min_size=2, max_size=3),
    ),
    "masks": st.builds(lambda name, mask: Annotation(name, segmentation=mask), names, masks()),
    "rotated": st.builds(lambda n, box: rotated_annotation(n, box, {}), names, rotated_boxes),
    "line": st.builds(lambda n, p: drawn_annotation(n, p, "line", {}), names, point_lists(2, 5)),
    "points": st.builds(lambda n, p: drawn_annotation(n, p, "point", {}), names, point_lists(1, 1)),
    "several points": st.builds(
        lambda n, p: drawn_annotation(n, p, "point", {}), names, point_lists(2, 3)
    ),
    "whole image": st.builds(
        lambda n: Annotation(n, (0, 0, WIDTH, HEIGHT), attributes={"whole_image": True}), names
    ),
}


def datasets(
    kinds: list[str], attributes: st.SearchStrategy[dict[str, Any]]
) -> st.SearchStrategy[list[Image]]:
    """Images a0.jpg, … with annotations of some `KINDS`, further attributes among theirs."""

    @st.composite
    def annotations(draw: Callable) -> Annotation:
        annotation = draw(st.sampled_from(kinds).flatmap(KINDS.__getitem__))
        annotation.attributes = {**draw(attributes), **annotation.attributes}
        return annotation

    @st.composite
    def images(draw: Callable) -> list[Image]:
        lists = draw(st.lists(st.lists(annotations(), max_size=4), min_size=1, max_size=3))
        return [Image(f"a{number}.jpg", WIDTH, HEIGHT, found) for number, found in enumerate(lists)]

    return images()


def write_source(path: Path, images: list[Image]) -> Path:
    """A COCO file of the records."""
    write_coco(path, images, None, {})
    return path


def there_and_back(name: str, source: Path, folder: Path, **options: Any) -> Dataset:
    """A COCO file exported to a format and converted to COCO again."""
    export_dataset(name, {None: source}, folder / "there", **options)
    back = convert_dataset(name, folder / "there", folder / "back")
    (summary,) = back.files.values()
    return load_coco(summary.path)


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
