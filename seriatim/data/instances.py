"""Datasets of boxes, masks and keypoints: COCO files, packed as they are read."""

from __future__ import annotations

import colorsys
import math
from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any

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
from seriatim.data.entries import Entry
from seriatim.data.packed import Objects, PackedDataset, Texts
from seriatim.data.records import Facts

_NONE, _POLYGONS, _RLE = range(3)


def load_instances(entry: Entry) -> tuple[PackedDataset, dict[str, Any], Facts]:
    """The dataset of an entry's JSON, its metadata and its facts.

    A file that is as COCO says is decoded straight into columns. Any other one is read again by
    `load_coco`, which knows what is wrong and where, or makes right what is only unusual.
    """
    columns = _read_quickly(entry.json) or _read_carefully(entry.json)
    if not columns.images:
        raise InputError(f"{entry.json} holds no images: there is nothing to train or evaluate on.")
    if not columns.categories:
        raise InputError(f"{entry.json} declares no categories.")
    metadata = instance_metadata(entry, columns.categories)
    dataset, left_out = _pack(columns, str(entry.images))
    return dataset, metadata, _facts(dataset, columns, left_out, metadata)


@dataclass
class _Columns:
    """What a file holds; annotations in their order there."""

    categories: list[Category]  # by id
    images: list[tuple[int, bytes, int, int]]  # id, file name, height, width
    ids: np.ndarray  # (N,) int64, and so the next two
    image_ids: np.ndarray
    categories_of: np.ndarray  # contiguous
    boxes: np.ndarray  # (N, 4) float64 XYWH
    crowds: np.ndarray  # bool
    segmentations: Sequence[bytes]
    keypoints: list[bytes]
    kinds: np.ndarray  # _NONE, _POLYGONS, _RLE
    visible: np.ndarray  # labelled keypoints


class _Image(msgspec.Struct, gc=False):
    id: int
    file_name: str
    height: int
    width: int


_NOTHING = msgspec.Raw(b"null")


class _Annotation(msgspec.Struct, gc=False):
    id: int
    image_id: int
    category_id: int
    bbox: tuple[float, float, float, float]
    iscrowd: int = 0
    segmentation: msgspec.Raw = _NOTHING
    keypoints: msgspec.Raw = _NOTHING


class _File(msgspec.Struct, gc=False):
    images: list[_Image]
    annotations: list[_Annotation]
    categories: msgspec.Raw


_file_decoder = msgspec.json.Decoder(_File)
_TEXTS_AT_ONCE = 50_000
_IS_COMMA = np.isin(np.arange(256), list(b","))
_IS_OPENING = np.isin(np.arange(256), list(b"["))
_IS_OTHER = ~np.isin(np.arange(256), list(b"0123456789.-+eE, \n\r\t[]"))
_keypoints_decoder = msgspec.json.Decoder(list[float])


def _read_quickly(path: Path) -> _Columns | None:
    """The columns of a file, or None if anything in it is not as it should be."""
    try:
        file = _file_decoder.decode(path.read_bytes())
        return _columns_of(path, file)
    except (msgspec.MsgspecError, UnicodeDecodeError, ValueError, OverflowError, RecursionError):
        return None


def _columns_of(path: Path, file: _File) -> _Columns:
    """ValueError (not told to the user) for whatever `load_coco` would complain of."""
    categories = _categories(path, msgspec.json.decode(file.categories))
    annotations, count = file.annotations, len(file.annotations)
    ids, image_ids, category_ids, crowds = (
        np.array(list(map(attrgetter(name), annotations)), np.int64)
        for name in ("id", "image_id", "category_id", "iscrowd")
    )
    known = np.array([category.id for category in categories], np.int64)
    known_images = np.array([image.id for image in file.images], np.int64)
    if not (
        np.isin(category_ids, known).all()
        and np.isin(image_ids, known_images).all()
        and len(set(ids.tolist())) == count
        and len(set(known_images.tolist())) == len(known_images)
        and np.isin(crowds, (0, 1)).all()
        and all(image.file_name for image in file.images)
    ):
        raise ValueError
    segmentations, kinds = _checked_segmentations([bytes(a.segmentation) for a in annotations])
    keypoints, visible = [b""] * count, np.zeros(count, np.int64)
    categories_of = np.searchsorted(known, category_ids)
    for i, annotation in enumerate(annotations):
        if annotation.keypoints is not _NOTHING:
            points = bytes(annotation.keypoints)
            if points not in (b"null", b"[]"):
                named = len(categories[categories_of[i]].keypoints)
                keypoints[i], visible[i] = points, _count_visible(points, named)
    boxes = np.array([annotation.bbox for annotation in annotations], np.float64).reshape(-1, 4)
    return _Columns(
        categories,
        [(i.id, i.file_name.encode(), i.height, i.width) for i in file.images],
        ids,
        image_ids,
        categories_of,
        boxes,
        crowds.astype(bool),
        segmentations,
        keypoints,
        kinds,
        visible,
    )


def _categories(path: Path, entries: Any) -> list[Category]:
    found = parse_coco(path, {"images": [], "categories": entries}).categories
    return sorted(found, key=lambda category: category.id)


def _checked_segmentations(texts: list[bytes]) -> tuple[list[bytes], np.ndarray]:
    """Segmentations' texts, without polygons that have no inside, and their kinds."""
    kinds = np.full(len(texts), _POLYGONS, np.int8)
    for start in range(0, len(texts), _TEXTS_AT_ONCE):
        part = texts[start : start + _TEXTS_AT_ONCE]
        for i in np.flatnonzero(~_is_one_polygon(part)) + start:
            segmentation = read_segmentation(msgspec.json.decode(texts[i]))
            texts[i], kinds[i] = _encoded_segmentation(segmentation)
    return texts, kinds


def _is_one_polygon(texts: list[bytes]) -> np.ndarray:
    """(N,) bool: which JSON texts are one polygon of three or more corners.

    Valid JSON of two brackets to open and nothing but what is in numbers is `[[1, 2, …]]`; its
    commas count the coordinates.
    """
    block = np.frombuffer(b"".join(texts), np.uint8)
    starts = np.cumsum([0, *map(len, texts[:-1])])

    def count(table: np.ndarray) -> np.ndarray:
        return np.add.reduceat(table[block], starts, dtype=np.int32)

    commas = count(_IS_COMMA)
    opening, other = count(_IS_OPENING), count(_IS_OTHER)
    doubled = np.array([text.startswith(b"[[") for text in texts])
    return doubled & (opening == 2) & (other == 0) & (commas >= 5) & (commas % 2 == 1)


def _encoded_segmentation(segmentation: Any) -> tuple[bytes, int]:
    """The same of a segmentation as `load_coco` gives it."""
    if isinstance(segmentation, dict):
        return msgspec.json.encode(segmentation), _RLE
    usable = [polygon for polygon in segmentation or () if len(polygon) >= 6]
    return (msgspec.json.encode(usable), _POLYGONS) if usable else (b"", _NONE)


def _count_visible(text: bytes, named: int) -> int:
    points = _keypoints_decoder.decode(text)
    if len(points) % 3 or (named and len(points) != 3 * named):
        raise ValueError
    return sum(visibility > 0 for visibility in points[2::3])


def _read_carefully(path: Path) -> _Columns:
    """The columns of a file; InputError that names the place of what is wrong."""
    dataset = load_coco(path)
    categories = sorted(dataset.categories, key=lambda category: category.id)
    index = {category.name: i for i, category in enumerate(categories)}
    pairs = [(image.id, a) for image in dataset.images for a in image.annotations]
    annotations = [annotation for _, annotation in pairs]
    boxes = [_finite_box(annotation, path) for annotation in annotations]
    for annotation in annotations:
        _check_keypoints(annotation, categories[index[annotation.category]])
    texts = [_encoded_segmentation(annotation.segmentation) for annotation in annotations]
    points = [annotation.keypoints or [] for annotation in annotations]
    return _Columns(
        categories,
        [
            (i.id, i.file_name.encode("utf-8", "surrogateescape"), i.height, i.width)
            for i in dataset.images
        ],
        np.array([annotation.id for annotation in annotations], np.int64),
        np.array([image_id for image_id, _ in pairs], np.int64),
        np.array([index[annotation.category] for annotation in annotations], np.int64),
        np.array([(x, y, right - x, bottom - y) for x, y, right, bottom in boxes]).reshape(-1, 4),
        np.array([annotation.iscrowd for annotation in annotations], bool),
        [text for text, _ in texts],
        [msgspec.json.encode(values) if values else b"" for values in points],
        np.array([kind for _, kind in texts], np.int8),
        np.array([sum(v > 0 for v in values[2::3]) for values in points], np.int64),
    )


def _finite_box(annotation: Annotation, path: Path) -> tuple[float, ...]:
    box = annotation_box(annotation)
    if box is None or not all(map(math.isfinite, box)):
        raise InputError(
            f"{annotation.source}: the annotation has no box, or one that is not finite."
            f" `python -m dataset_tools check {path} --fix …` removes such."
        )
    return box


def _check_keypoints(annotation: Annotation, category: Category) -> None:
    found, named = len(annotation.keypoints or ()) // 3, len(category.keypoints)
    if found and named and found != named:
        raise InputError(
            f"{annotation.source}: the annotation has {found} keypoints, but its category"
            f" {category.name} names {named}."
        )


def _pack(columns: _Columns, root: str) -> tuple[PackedDataset, int]:
    """The dataset with its images by id, and how many boxes without area are not in it."""
    images = sorted(columns.images)
    image_ids = np.array([image[0] for image in images], np.int64)
    x, y, width, height = columns.boxes.T
    solid = (x + width > x) & (y + height > y)
    of_image = np.searchsorted(image_ids, columns.image_ids)
    order = np.argsort(of_image, kind="stable")
    order = order[solid[order]]
    starts = np.searchsorted(of_image[order], np.arange(len(images) + 1))
    objects = Objects(
        ids=torch.from_numpy(columns.ids[order]),
        categories=torch.from_numpy(columns.categories_of[order]),
        boxes=torch.from_numpy(columns.boxes[order]),
        crowds=torch.from_numpy(columns.crowds[order]),
        segmentations=Texts.of([columns.segmentations[i] for i in order]),
        keypoints=Texts.of([columns.keypoints[i] for i in order]),
        visible=torch.from_numpy(columns.visible[order]),
    )
    columns.kinds = columns.kinds[order]
    dataset = PackedDataset(
        root,
        Texts.of([image[1] for image in images]),
        torch.from_numpy(image_ids),
        torch.tensor([image[2] for image in images]),
        torch.tensor([image[3] for image in images]),
        torch.from_numpy(starts),
        objects,
    )
    return dataset, int(np.count_nonzero(~solid))


def _facts(
    dataset: PackedDataset, columns: _Columns, left_out: int, metadata: dict[str, Any]
) -> Facts:
    objects, names = dataset.objects, metadata["thing_classes"]
    plain = ~objects.crowds.numpy()
    lengths = np.diff(objects.keypoints.ends.numpy())
    counts = np.bincount(objects.categories.numpy()[plain], minlength=len(names))
    return Facts(
        "instances",
        images=len(dataset),
        empty_images=int(np.count_nonzero(np.diff(dataset.starts.numpy()) == 0)),
        annotations=int(np.count_nonzero(plain)),
        crowds=int(np.count_nonzero(~plain)),
        polygons=int(np.count_nonzero(plain & (columns.kinds == _POLYGONS))),
        rles=int(np.count_nonzero(plain & (columns.kinds == _RLE))),
        keypoints=int(np.count_nonzero(plain & (lengths > 0))),
        left_out=left_out,
        keypoint_names=tuple(metadata.get("keypoint_names", ())),
        per_category=dict(zip(names, counts.tolist(), strict=True)),
    )


def instance_metadata(entry: Entry, categories: Sequence[Category]) -> dict[str, Any]:
    """`categories` in the order of their contiguous ids."""
    metadata: dict[str, Any] = {
        "json_file": str(entry.json),
        "evaluator_type": "coco",
        "thing_classes": [category.name for category in categories],
        "thing_dataset_id_to_contiguous_id": {c.id: i for i, c in enumerate(categories)},
    }
    with_keypoints = [category for category in categories if category.keypoints]
    if len({category.keypoints for category in with_keypoints}) == 1:
        metadata |= _keypoint_metadata(entry, with_keypoints[0])
    return metadata


def _keypoint_metadata(entry: Entry, category: Category) -> dict[str, Any]:
    names = category.keypoints
    unknown = sorted({n for pair in entry.keypoint_flip_map for n in pair} - set(names))
    if unknown:
        raise InputError(
            f"KEYPOINT_FLIP_MAP of {entry.name} has {', '.join(unknown)}; the keypoints in"
            f" {entry.json} are {', '.join(names)}."
        )
    rules = []
    for i, (a, b) in enumerate(category.skeleton):
        if not (0 < a <= len(names) and 0 < b <= len(names)):
            raise InputError(
                f"{entry.json}: the skeleton of {category.name} joins {a} and {b}, but its"
                f" keypoints are numbered from 1 to {len(names)}."
            )
        rgb = colorsys.hsv_to_rgb(i / len(category.skeleton), 0.8, 1.0)
        rules.append((names[a - 1], names[b - 1], tuple(round(255 * v) for v in rgb)))
    return {
        "keypoint_names": list(names),
        "keypoint_flip_map": list(entry.keypoint_flip_map or _mirror_pairs(names)),
        "keypoint_connection_rules": rules,
    }


def _mirror_pairs(names: Sequence[str]) -> list[tuple[str, str]]:
    """Names that differ in left and right only: left_eye and right_eye, HipLeft and HipRight."""
    pairs = []
    for name in names:
        for left, right in (("left", "right"), ("Left", "Right"), ("LEFT", "RIGHT")):
            if left in name and (other := name.replace(left, right)) in names:
                pairs.append((name, other))
    return pairs
