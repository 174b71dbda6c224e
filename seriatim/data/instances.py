"""Datasets of boxes, masks and keypoints: COCO files, packed as they are read."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from dataset_tools.coco import Category
from dataset_tools.errors import InputError
from seriatim.data.columns import POLYGONS, RLE, Columns, read_columns
from seriatim.data.entries import Entry
from seriatim.data.packed import PackedDataset
from seriatim.data.records import Facts


def load_instances(entry: Entry) -> tuple[PackedDataset, dict[str, Any], Facts]:
    """The dataset of an entry's JSON, its metadata and its facts."""
    columns = read_columns(entry.json)
    if not len(columns.image_ids):
        raise InputError(f"{entry.json} holds no images: there is nothing to train or evaluate on.")
    if not columns.categories:
        raise InputError(f"{entry.json} declares no categories.")
    metadata = instance_metadata(entry, columns.categories)
    dataset = _pack(columns, str(entry.images))
    return dataset, metadata, _facts(dataset, columns.kinds, metadata)


def _pack(columns: Columns, root: str) -> PackedDataset:
    """The columns with the rows of each image. Boxes without area, which no training can use, are
    in none of them."""
    x, y, width, height = columns.objects.boxes.numpy().T
    rows = np.argsort(columns.image_of, kind="stable")
    rows = rows[((x + width > x) & (y + height > y))[rows]]
    starts = np.searchsorted(columns.image_of[rows], np.arange(len(columns.image_ids) + 1))
    return PackedDataset(
        root,
        columns.names,
        *map(torch.from_numpy, (columns.image_ids, columns.heights, columns.widths, starts, rows)),
        columns.objects,
    )


def _facts(dataset: PackedDataset, kinds: np.ndarray, metadata: dict[str, Any]) -> Facts:
    objects, names, rows = dataset.objects, metadata["thing_classes"], dataset.rows.numpy()
    crowds = objects.crowds.numpy()[rows]
    plain = rows[~crowds]
    counts = np.bincount(objects.categories.numpy()[plain], minlength=len(names))
    return Facts(
        "instances",
        images=len(dataset),
        empty_images=int(np.count_nonzero(np.diff(dataset.starts.numpy()) == 0)),
        annotations=len(plain),
        crowds=int(np.count_nonzero(crowds)),
        polygons=int(np.count_nonzero(kinds[plain] == POLYGONS)),
        rles=int(np.count_nonzero(kinds[plain] == RLE)),
        keypoints=int(np.count_nonzero(objects.keypoints.lengths()[plain])),
        left_out=len(objects.ids) - len(rows),
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
