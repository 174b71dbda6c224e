"""COCO files as columns of numbers and texts, without an object in memory for each annotation.

A file that is as COCO says is decoded piece by piece, straight into the columns, and looked at by
NumPy. Any other one is read again by `load_coco`, which knows what is wrong and where, or makes
right what is only unusual.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain
from operator import attrgetter
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
import torch

from dataset_tools.coco import (
    Annotation,
    Category,
    annotation_box,
    load_coco,
    parse_coco,
    read_segmentation,
)
from dataset_tools.errors import InputError
from dataset_tools.json_stream import PLACEHOLDER, ListReader
from dataset_tools.polygon_texts import are_polygons, closed
from seriatim.data.packed import Objects, Texts

NONE, POLYGONS, RLE = range(3)


@dataclass(frozen=True)
class Columns:
    """What a file holds.

    Attributes:
        categories: by id.
        image_ids, heights, widths: (M,) int64 of the images, by id.
        names: their files' names.
        objects: the N annotations, in the order of the file.
        image_of: (N,) int64, the position of each one's image.
        kinds: (N,) int8, what its segmentation is: NONE, POLYGONS or RLE.
    """

    categories: list[Category]
    image_ids: np.ndarray
    heights: np.ndarray
    widths: np.ndarray
    names: Texts
    objects: Objects
    image_of: np.ndarray
    kinds: np.ndarray


def read_columns(path: Path) -> Columns:
    """The columns of a COCO file. InputError that names the place of what is wrong."""
    try:
        return _read_quickly(path)
    except (msgspec.MsgspecError, UnicodeError, ValueError, OverflowError, RecursionError):
        return _read_carefully(path)


_NOTHING = msgspec.Raw(b"")


class _Image(msgspec.Struct, gc=False):
    id: int
    file_name: str
    height: int
    width: int


class _Annotation(msgspec.Struct, gc=False):
    id: int
    image_id: int
    category_id: int
    bbox: tuple[float, float, float, float]
    iscrowd: Literal[0, 1] = 0
    segmentation: msgspec.Raw = _NOTHING
    keypoints: msgspec.Raw = _NOTHING


class _Rest(msgspec.Struct, gc=False):
    images: list[_Image]
    annotations: Literal[PLACEHOLDER]
    categories: list[Any]


def _read_quickly(path: Path) -> Columns:
    """As `read_columns`; any error there is if anything is not as it should be."""
    annotations = ListReader(path, "annotations", _Annotation)
    parts = _Parts()
    for some in annotations:
        parts.add(some)
    rest = msgspec.json.decode(annotations.rest, type=_Rest)
    categories = parse_coco(path, {"images": [], "categories": rest.categories}).categories
    return _columns(
        categories,
        [image.file_name.encode() for image in rest.images],
        *(_whole(rest.images, name) for name in ("id", "height", "width")),
        parts,
    )


class _TextParts:
    """Texts, as they come."""

    def __init__(self) -> None:
        self._block = bytearray()
        self._ends = [np.zeros(1, np.int64)]

    def add(self, block: bytes, ends: np.ndarray) -> None:
        self._ends.append(len(self._block) + ends)
        self._block += block

    def joined(self) -> Texts:
        return Texts.joined(self._block, np.concatenate(self._ends))


@dataclass
class _Parts:
    """Columns of annotations, as they come: lists of arrays to be joined."""

    ids: list[np.ndarray] = field(default_factory=list)
    image_ids: list[np.ndarray] = field(default_factory=list)
    category_ids: list[np.ndarray] = field(default_factory=list)
    crowds: list[np.ndarray] = field(default_factory=list)
    boxes: list[np.ndarray] = field(default_factory=list)
    kinds: list[np.ndarray] = field(default_factory=list)
    points: list[np.ndarray] = field(default_factory=list)  # how many keypoints there are
    visible: list[np.ndarray] = field(default_factory=list)
    segmentations: _TextParts = field(default_factory=_TextParts)
    keypoints: _TextParts = field(default_factory=_TextParts)

    def add(self, annotations: Sequence[_Annotation]) -> None:
        """ValueError for a mask or keypoints that `load_coco` would complain of."""
        self.ids.append(_whole(annotations, "id"))
        self.image_ids.append(_whole(annotations, "image_id"))
        self.category_ids.append(_whole(annotations, "category_id"))
        self.crowds.append(_whole(annotations, "iscrowd").astype(bool))
        boxes = chain.from_iterable(map(attrgetter("bbox"), annotations))
        self.boxes.append(np.fromiter(boxes, np.float64, 4 * len(annotations)).reshape(-1, 4))
        self._add_segmentations([annotation.segmentation for annotation in annotations])
        self._add_keypoints([annotation.keypoints for annotation in annotations])

    def _add_segmentations(self, texts: list[bytes | msgspec.Raw]) -> None:
        block, ends = closed(texts)
        kinds = np.full(len(texts), POLYGONS, np.int8)
        others = np.flatnonzero(~are_polygons(block, ends))
        for i in others.tolist():
            texts[i], kinds[i] = _other_segmentation(bytes(texts[i]))
        if len(others):
            block, ends = closed(texts)
        self.kinds.append(kinds)
        self.segmentations.add(block, ends)

    def _add_keypoints(self, texts: list[bytes | msgspec.Raw]) -> None:
        points, visible = np.zeros((2, len(texts)), np.int64)
        there = [] if texts.count(_NOTHING) == len(texts) else enumerate(texts)
        for i, text in there:
            if text is not _NOTHING:
                values = _keypoints_decoder.decode(text) or ()
                texts[i] = bytes(text) if values else b""
                points[i], visible[i] = _count_keypoints(values)
        self.points.append(points)
        self.visible.append(visible)
        self.keypoints.add(*closed(texts))


_keypoints_decoder = msgspec.json.Decoder(list[float] | None)


def _whole(structs: Sequence[msgspec.Struct], name: str) -> np.ndarray:
    return np.fromiter(map(attrgetter(name), structs), np.int64, len(structs))


def _other_segmentation(text: bytes) -> tuple[bytes, int]:
    """As `load_coco` gives it, as JSON, and its kind."""
    if text in (b"", b"null", b"[]"):
        return b"", NONE
    return _encoded(read_segmentation(msgspec.json.decode(text)))


def _encoded(segmentation: Any) -> tuple[bytes, int]:
    """JSON and kind of a segmentation, without polygons that have no inside."""
    if isinstance(segmentation, dict):
        return msgspec.json.encode(segmentation), RLE
    usable = [polygon for polygon in segmentation or () if len(polygon) >= 6]
    return (msgspec.json.encode(usable), POLYGONS) if usable else (b"", NONE)


def _count_keypoints(values: Sequence[float]) -> tuple[int, int]:
    """How many there are, and how many of them are labelled."""
    if len(values) % 3:
        raise ValueError("keypoints are no triples")
    return len(values) // 3, sum(visibility > 0 for visibility in values[2::3])


def _columns(
    categories: list[Category],
    names: list[bytes],
    image_ids: np.ndarray,
    heights: np.ndarray,
    widths: np.ndarray,
    parts: _Parts,
) -> Columns:
    """Sorts images and categories by id. ValueError for ids and numbers of keypoints that
    `load_coco` would complain of."""
    categories = sorted(categories, key=lambda category: category.id)
    known = np.array([category.id for category in categories], np.int64)
    order = np.argsort(image_ids)
    image_ids = image_ids[order]
    ids, of_images, of_categories, crowds, boxes, kinds, points, visible = (
        np.concatenate(arrays) if arrays else np.zeros(0, np.int64)
        for arrays in (
            *(parts.ids, parts.image_ids, parts.category_ids, parts.crowds),
            *(parts.boxes, parts.kinds, parts.points, parts.visible),
        )
    )
    classes = _positions(of_categories, known)
    named = np.array([len(category.keypoints) for category in categories], np.int64)[classes]
    if not (
        np.diff(np.sort(ids)).all()
        and np.diff(image_ids).all()
        and all(names)
        and ((points == 0) | (named == 0) | (points == named)).all()
    ):
        raise ValueError("ids, names or keypoints are not as they should be")
    objects = Objects(
        ids=torch.from_numpy(ids),
        categories=torch.from_numpy(classes),
        boxes=torch.from_numpy(boxes.reshape(-1, 4).astype(np.float64)),
        crowds=torch.from_numpy(crowds.astype(bool)),
        segmentations=parts.segmentations.joined(),
        keypoints=parts.keypoints.joined(),
        visible=torch.from_numpy(visible),
    )
    return Columns(
        categories,
        image_ids,
        heights[order],
        widths[order],
        Texts.of([names[i] for i in order.tolist()]),
        objects,
        _positions(of_images, image_ids),
        kinds,
    )


def _positions(values: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Where the values are in `known`, which is ascending; ValueError if one is not."""
    found = np.searchsorted(known, values)
    if len(values) and (found.max() == len(known) or (known[found] != values).any()):
        raise ValueError("an id is not known")
    return found


def _read_carefully(path: Path) -> Columns:
    dataset = load_coco(path)
    categories = {category.name: category for category in dataset.categories}
    annotations = [
        _plain(annotation, image.id, categories[annotation.category], path)
        for image in dataset.images
        for annotation in image.annotations
    ]
    parts = _Parts()
    try:
        parts.add(annotations)
        return _columns(
            dataset.categories,
            [image.file_name.encode("utf-8", "surrogateescape") for image in dataset.images],
            *(_whole(dataset.images, name) for name in ("id", "height", "width")),
            parts,
        )
    except OverflowError as error:
        raise InputError(f"{path}: an id or size takes more than 64 bits. Number anew.") from error


def _plain(annotation: Annotation, image_id: int, category: Category, path: Path) -> _Annotation:
    """An annotation as it is in a file without fault. InputError if training cannot use it."""
    box = annotation_box(annotation)
    if box is None or not _all_finite(box):
        raise _unusable(annotation, "no box, or one that is not finite", path)
    polygons = annotation.segmentation if isinstance(annotation.segmentation, list) else []
    points = annotation.keypoints or []
    if not all(map(_all_finite, (*polygons, points))):
        raise _unusable(annotation, "a mask or keypoint that is not finite", path)
    if points and category.keypoints and len(points) != 3 * len(category.keypoints):
        raise InputError(
            f"{annotation.source}: the annotation has {len(points) // 3} keypoints, but its"
            f" category {category.name} names {len(category.keypoints)}."
        )
    left, top, right, bottom = box
    return _Annotation(
        annotation.id,
        image_id,
        category.id,
        (left, top, right - left, bottom - top),
        int(annotation.iscrowd),
        msgspec.Raw(_encoded(annotation.segmentation)[0]),
        msgspec.Raw(msgspec.json.encode(points)) if points else _NOTHING,
    )


def _unusable(annotation: Annotation, what: str, path: Path) -> InputError:
    return InputError(
        f"{annotation.source}: the annotation has {what}."
        f" `python -m dataset_tools check {path} --fix …` removes such."
    )


def _all_finite(values: Sequence[float]) -> bool:
    return all(map(math.isfinite, values))
