"""Random COCO datasets for round trips through other formats, and what must come back of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st

from dataset_tools.coco import (
    Annotation,
    Category,
    Image,
    annotation_box,
    load_coco,
    whole_image,
    write_coco,
)
from dataset_tools.convert import convert_dataset
from dataset_tools.export import Export, export_dataset
from dataset_tools.rle import decode_mask, encode_mask, polygons_box
from dataset_tools.shapes import points_annotation, rotated_annotation
from tests.dataset_tools.makers import picture

CATEGORIES = [
    Category("person", keypoints=("nose", "left eye", "tail"), skeleton=((1, 2),)),
    Category("Käfer & <犬>"),
    Category("a/b"),
]
WIDTH, HEIGHT = 37, 23
attribute_values = st.one_of(st.booleans(), st.integers(-9, 9), st.sampled_from(["x", 'ä, "b"']))


def _coordinate(limit: int) -> st.SearchStrategy[float]:
    return st.integers(0, limit * 16).map(lambda sixteenth: sixteenth / 16)


@st.composite
def _box(draw: Any) -> tuple[float, float, float, float]:
    left, top = draw(_coordinate(WIDTH - 3)), draw(_coordinate(HEIGHT - 3))
    return (left, top, left + 1 + draw(_coordinate(2)), top + 1 + draw(_coordinate(2)))


@st.composite
def _annotation(draw: Any, kinds: tuple[str, ...]) -> Annotation:
    kind = draw(st.sampled_from(kinds))
    category = "person" if kind == "keypoints" else draw(st.sampled_from(CATEGORIES)).name
    attributes = draw(
        st.dictionaries(st.sampled_from(["occluded", "note", "level"]), attribute_values)
    )
    crowd = draw(st.booleans()) if "crowd" in kinds else False
    left, top, right, bottom = box = draw(_box())
    if kind in ("box", "crowd"):
        return Annotation(category, box, iscrowd=crowd, attributes=attributes)
    if kind == "keypoints":
        dots = [*(left, top, 2), *(right, top, draw(st.integers(1, 2))), 0, 0, 0]
        return Annotation(category, box, keypoints=dots, attributes=attributes)
    if kind == "polygons":
        polygon = [left, top, right, top, right, bottom]
        parts = [polygon, [1.0, 1.0, 2.0, 3.5, 4.0, 1.0]][: draw(st.integers(1, 2))]
        return Annotation(category, polygons_box(parts), parts, attributes=attributes)
    if kind == "mask":
        bits = draw(st.lists(st.booleans(), min_size=6, max_size=6).filter(any))
        mask = np.zeros((HEIGHT, WIDTH), bool)
        mask[int(top) : int(top) + 2, int(left) : int(left) + 3] = np.reshape(bits, (2, 3))
        return Annotation(category, None, encode_mask(mask), attributes=attributes)
    if kind == "rotated":
        angle = draw(st.integers(-179, 179).filter(bool))
        rbox = (left, top, right - left, bottom - top, float(angle))
        return rotated_annotation(category, rbox, attributes=attributes)
    if kind == "label":
        return whole_image(category, WIDTH, HEIGHT)
    if kind == "line":
        line = [left, top, right, top, right, bottom]
        return points_annotation(category, line, "line", attributes=attributes)
    return points_annotation(category, [left, top], "point", attributes=attributes)


@st.composite
def images(draw: Any, *kinds: str) -> list[Image]:
    """Images called a.jpg, b.jpg, … (with spaces, in folders) with annotations of the `kinds`: box,
    crowd (maybe a crowd), polygons, mask, keypoints, rotated, point, line, label."""
    names = ["a.jpg", "sub/a b.jpg", "zwölf #1.png"][: draw(st.integers(1, 3))]
    found = []
    for name in names:
        annotations = draw(st.lists(_annotation(kinds), max_size=4))
        labels = {a.category: a for a in annotations if a.attributes.get("whole_image")}
        others = [a for a in annotations if not a.attributes.get("whole_image")]
        found.append(Image(name, WIDTH, HEIGHT, [*labels.values(), *others]))
    return found


def round_trip(
    name: str, records: list[Image], folder: Path, back: str | None = "photos", **options: Any
) -> tuple[list[dict], list[dict], Export]:
    """Records (see `comparable`) of a COCO file, and of what comes back of it by the format.
    `back` is the folder of the images for the way back; None: where the labels are."""
    write_coco(folder / "all.json", records, CATEGORIES, {})
    for image in records:
        picture(folder / "photos" / image.file_name, WIDTH, HEIGHT)
    photos = folder / "photos"
    files = {None: folder / "all.json"}
    export = export_dataset(name, files, folder / "there", images=photos, **options)
    convert_dataset(name, folder / "there", folder / "back", images=back and folder / back)
    return comparable(folder / "all.json"), comparable(folder / "back/all.json"), export


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
