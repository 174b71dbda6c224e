"""Random COCO datasets for property tests (hypothesis), and files of them.

`datasets(...)` draws `{split: Dataset}`, with what the test asks for and nothing else, so that a
format can be tried on all that it carries. `save` writes them, with their images.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
from hypothesis import strategies as st
from PIL import Image as Pillow

from dataset_tools.coco import (
    Annotation,
    Category,
    Dataset,
    Image,
    annotation_box,
    whole_image,
    write_coco,
)
from dataset_tools.rle import encode_mask, polygons_box, rle_box
from dataset_tools.rotated import corners
from dataset_tools.shapes import points_annotation

Kind = Literal[
    "box", "polygon", "polygons", "rle", "keypoints", "skeleton", "rotated", "label",
    "point", "points", "line",
]  # fmt: skip
Splits = dict[str | None, Dataset]

_LETTERS = "abcXYZ019éßñŁж中のé-_"
# Names that are plain enough to be called so: a folder, too.
PLAIN_NAMES = st.text(_LETTERS + " ", min_size=1, max_size=8).map(str.strip).filter(bool)
# Names that mean something in YAML, XML, CSV, JSON or to a program.
TRICKY_NAMES = st.sampled_from(
    ["yes", "null", "1", "0", "1.0", "a: b", "#1", "<b> & 'c'", 'say "hi"', "a,b;c", "a/b", "{x}"]
)
NAMES = PLAIN_NAMES | TRICKY_NAMES
_FOLDERS = st.lists(st.sampled_from(["a", "b b", "Ünï", "images", "x.y"]), max_size=2)
_STEMS = st.text(_LETTERS + " .", min_size=1, max_size=8).map(lambda s: s.strip(" .")).filter(bool)
_SUFFIXES = st.sampled_from([".jpg", ".png", ".JPG", ".bmp"])
FILE_NAMES = st.tuples(_FOLDERS, _STEMS, _SUFFIXES).map(lambda t: "/".join([*t[0], t[1] + t[2]]))
FLAT_FILE_NAMES = st.tuples(_STEMS, _SUFFIXES).map("".join)
ATTRIBUTES = st.dictionaries(
    st.text("abcdefgh_", min_size=2, max_size=6).filter(lambda key: key.strip("_") != ""),
    st.booleans() | st.integers(-9, 9) | PLAIN_NAMES,
    max_size=2,
)


@st.composite
def datasets(
    draw: st.DrawFn,
    objects: Sequence[Kind] = ("box",),
    *,
    splits: Sequence[str | None] = (None,),
    names: st.SearchStrategy[str] = NAMES,
    file_names: st.SearchStrategy[str] = FILE_NAMES,
    attributes: st.SearchStrategy[dict[str, Any]] | None = None,
    image_attributes: st.SearchStrategy[dict[str, Any]] | None = None,
    crowds: bool = False,
    captions: bool = False,
    tracks: bool = False,
    overlaps: bool = True,
    whole_pixels: bool = False,
    inside: bool = True,
    upright: bool = False,
    images: tuple[int, int] = (1, 3),
    objects_per_image: tuple[int, int] = (0, 4),
    categories: tuple[int, int] = (1, 4),
    keypoints: tuple[int, int] = (1, 4),
) -> Splits:
    """One dataset for each of `splits`, all with the same categories; ids count from 1.

    Args:
        objects: the kinds of objects to draw from. "skeleton": keypoints, some of them labelled,
            and the box around these ("keypoints": any box). "label": one for a whole image.
            "point", "points", "line": one or several points, or a line through some, under
            `attributes`.
        names: of categories. file_names: of images; no two differ in suffix or case only.
        attributes: of objects. image_attributes: of images.
        crowds: some objects are crowds (with an RLE).
        captions: images have some, under `attributes`.
        tracks: images are frames of a video, objects have a `track_id` (one box a frame each).
        overlaps: False: masks ("rle") of an image have no pixel in common.
        whole_pixels: coordinates are whole numbers.
        inside: False: rotated boxes may leave the image.
        upright: rotated boxes may be turned by 0.
        images, objects_per_image, categories: least and most of them (images: in each split).
        keypoints: least and most of them; the number is the same for all categories.
    """
    count = draw(st.integers(*keypoints)) if {"keypoints", "skeleton"} & {*objects} else 0
    classes = [
        Category(
            name,
            keypoints=tuple(f"point {i}" for i in range(count)),
            skeleton=((1, count),) if count > 1 else (),
            id=number,
        )
        for number, name in enumerate(
            draw(
                st.lists(
                    names, min_size=categories[0], max_size=categories[1], unique_by=str.casefold
                )
            ),
            start=1,
        )
    ]
    most = images[1] * len(splits)
    paths = draw(
        st.lists(file_names, min_size=images[0] * len(splits), max_size=most, unique_by=_stem)
    )
    drawn: Splits = {split: Dataset([], classes) for split in splits}
    for number, path in enumerate(paths):
        split = splits[number % len(splits)]
        others = drawn[split].images
        image = Image(path, draw(st.integers(4, 60)), draw(st.integers(4, 60)), split=split)
        image.id = len(others) + 1
        if image_attributes is not None:
            image.attributes |= draw(image_attributes)
        if captions:
            image.attributes["captions"] = draw(st.lists(NAMES, min_size=1, max_size=2))
        if tracks:
            image.attributes |= {"video": "clip", "frame": len(others)}
        taken = np.zeros((image.height, image.width), bool)
        for index in range(draw(st.integers(*objects_per_image))):
            name = draw(st.sampled_from(classes)).name
            kind = draw(st.sampled_from(tuple(objects)))
            crowd = crowds and draw(st.booleans())
            drawing = _Drawing(
                draw, image, whole_pixels, inside, upright, count, None if overlaps else taken
            )
            annotation = drawing.object("rle" if crowd else kind, name)
            if annotation is None:
                continue
            annotation.iscrowd = crowd
            if attributes is not None:
                annotation.attributes |= draw(attributes)
            if tracks:
                annotation.attributes["track_id"] = index + 1
                annotation.category = classes[index % len(classes)].name
            image.annotations.append(annotation)
            if kind == "label":
                break  # an image is of one category
        others.append(image)
    for dataset in drawn.values():
        found = (annotation for image in dataset.images for annotation in image.annotations)
        for number, annotation in enumerate(found, start=1):
            annotation.id = number
    return drawn


class _Drawing:
    """Draws objects into one image."""

    def __init__(
        self,
        draw: st.DrawFn,
        image: Image,
        whole_pixels: bool,
        inside: bool,
        upright: bool,
        keypoints: int,
        taken: np.ndarray | None,
    ) -> None:
        self.draw, self.image, self.inside, self.upright = draw, image, inside, upright
        self.whole_pixels, self.keypoints, self.taken = whole_pixels, keypoints, taken

    def object(self, kind: Kind, category: str) -> Annotation | None:
        """One object; None if there is no pixel left for it, or no keypoint of it labelled."""
        if kind == "label":
            return whole_image(category, self.image.width, self.image.height)
        if kind == "box":
            return Annotation(category, self.box())
        if kind == "rotated":
            return self.rotated(category)
        if kind == "rle":
            return self.mask(category)
        if kind == "keypoints":
            points = [n for _ in range(self.keypoints) for n in self.keypoint()]
            return Annotation(category, self.box(), keypoints=points)
        if kind == "skeleton":
            points = [n for _ in range(self.keypoints) for n in self.keypoint()]
            alone = Annotation(category, None, keypoints=points)
            return replace(alone, bbox=annotation_box(alone)) if any(points[2::3]) else None
        if kind in ("point", "points", "line"):
            points = self.points(1 if kind == "point" else 2, 1 if kind == "point" else 4)
            return points_annotation(category, points, "line" if kind == "line" else "point")
        polygons = [self.polygon() for _ in range(2 if kind == "polygons" else 1)]
        return Annotation(category, polygons_box(polygons), polygons)

    def number(self, least: float, most: float) -> float:
        if self.whole_pixels:
            return self.draw(st.integers(int(least), int(most)))
        return round(self.draw(st.floats(least, most)), 2)

    def box(self) -> tuple[float, float, float, float]:
        left, top = self.number(0, self.image.width - 2), self.number(0, self.image.height - 2)
        right = self.number(left + 1, self.image.width)
        return left, top, right, self.number(top + 1, self.image.height)

    def points(self, least: int, most: int) -> list[float]:
        """[x1, y1, …]"""
        width, height = self.image.width, self.image.height
        count = self.draw(st.integers(least, most))
        return [n for _ in range(count) for n in (self.number(0, width), self.number(0, height))]

    def polygon(self) -> list[float]:
        """Corners on the edges of a box, so that it has an area, and does not cross itself."""
        left, top, right, bottom = self.box()
        x, y = self.number(left, right), self.number(top, bottom)
        kite = [x, top, right, y, x, bottom, left, y]
        triangle = [left, top, right, y, x, bottom]
        five = [left, top, right, top, right, bottom, x, bottom, left, y]
        polygon = self.draw(st.sampled_from([kite, triangle, five]))
        area = polygon_area(polygon)
        return polygon if area > 0.1 else [left, top, right, top, right, bottom]

    def mask(self, category: str) -> Annotation | None:
        mask = np.zeros((self.image.height, self.image.width), bool)
        for _ in range(self.draw(st.integers(1, 3))):
            left = self.draw(st.integers(0, self.image.width - 1))
            top = self.draw(st.integers(0, self.image.height - 1))
            width, height = self.draw(st.integers(1, 9)), self.draw(st.integers(1, 9))
            mask[top : top + height, left : left + width] ^= True  # so some have holes
        if self.taken is not None:
            mask &= ~self.taken
            self.taken |= mask
        if not mask.any():
            return None
        rle = encode_mask(mask)
        return Annotation(category, rle_box(rle), rle, area=int(mask.sum()))

    def keypoint(self) -> tuple[float, float, int]:
        visibility = self.draw(st.integers(0, 2))
        if not visibility:
            return 0, 0, 0
        return self.number(1, self.image.width), self.number(1, self.image.height), visibility

    def rotated(self, category: str) -> Annotation:
        width, height = self.image.width, self.image.height
        angles = st.floats(-179.9, 180).map(lambda angle: round(angle, 2))
        angle = self.draw(angles if self.upright else angles.filter(bool))
        x, y = width / 2, height / 2
        longest = min(x, y)  # so that no corner leaves the image, whatever the angle
        if not self.inside:
            x, y, longest = self.number(0, width), self.number(0, height), max(width, height)
        sides = (self.number(1, longest), self.number(1, longest))
        rbox = [x, y, *sides, angle]
        quad = corners(rbox)
        return Annotation(category, polygons_box([quad]), [quad], attributes={"rbox": rbox})


def polygon_area(polygon: Sequence[float]) -> float:
    """Area by the shoelace formula, px²."""
    xs, ys = np.array(polygon[0::2]), np.array(polygon[1::2])
    return float(abs(np.dot(xs, np.roll(ys, -1)) - np.dot(ys, np.roll(xs, -1))) / 2)


def save(splits: Mapping[str | None, Dataset], folder: Path) -> dict[str | None, Path]:
    """Write the COCO files (`train.json`, …; `all.json` without splits) and, in `folder/photos`,
    their images."""
    paths: dict[str | None, Path] = {}
    for split, dataset in splits.items():
        for image in dataset.images:
            target = folder / "photos" / image.file_name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(picture_bytes(image.width, image.height, target.suffix.lower()))
        paths[split] = folder / f"{split or 'all'}.json"
        info = {"image_root": "photos"}
        write_coco(paths[split], dataset.images, dataset.categories, info, keep_ids=True)
    return paths


@functools.cache
def picture_bytes(width: int, height: int, suffix: str) -> bytes:
    """An image file of one colour."""
    file = io.BytesIO()
    kind = {".jpg": "JPEG", ".png": "PNG", ".bmp": "BMP"}[suffix]
    Pillow.new("RGB", (width, height), (90, 120, 30)).save(file, kind)
    return file.getvalue()


def _stem(file_name: str) -> str:
    return str(PurePosixPath(file_name).with_suffix("")).casefold()
