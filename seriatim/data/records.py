"""Records of images as Detectron2 has them, and the facts about a dataset of them."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dataset_tools.errors import InputError

Record = dict[str, Any]  # one image in Detectron2's standard format


@dataclass(frozen=True)
class Facts:
    """What a registered dataset holds. Crowd regions are counted apart and nowhere else.

    Attributes:
        kind: "instances", "rotated", "panoptic", "panoptic_separated", "semantic" or
            "classification" (an annotation is then the label of an image).
        empty_images: images without an annotation.
        polygons, rles, keypoints: annotations that have such.
        left_out: boxes without area, which no training can use.
        keypoint_names: of the categories, if they agree in them.
    """

    kind: str
    images: int = 0
    empty_images: int = 0
    annotations: int = 0
    crowds: int = 0
    polygons: int = 0
    rles: int = 0
    keypoints: int = 0
    left_out: int = 0
    keypoint_names: tuple[str, ...] = ()
    per_category: Mapping[str, int] = field(default_factory=dict)


def image_record(images: Path, file_name: str, image_id: int, height: int, width: int) -> Record:
    path = str(images / file_name)
    return {
        "file_name": path,
        "image_id": image_id,
        "height": height,
        "width": width,
        "annotations": [],
    }


def count_object(counts: Counter[str], item: Record) -> None:
    if item["iscrowd"]:
        counts["crowds"] += 1
        return
    counts["annotations"] += 1
    segmentation = item.get("segmentation")
    counts["polygons"] += isinstance(segmentation, list)
    counts["rles"] += isinstance(segmentation, dict)
    counts["keypoints"] += "keypoints" in item


def make_facts(
    kind: str,
    records: list[Record],
    counts: Mapping[str, int],
    per_category: Mapping[str, int],
    metadata: Mapping[str, Any],
) -> Facts:
    return Facts(
        kind,
        images=len(records),
        empty_images=sum(not record.get("annotations", True) for record in records),
        keypoint_names=tuple(metadata.get("keypoint_names", ())),
        per_category={name: per_category[name] for name in metadata.get("thing_classes", ())},
        **counts,
    )


def check_files_exist(paths: Sequence[str], what: str) -> None:
    """One listing per folder: a hundred thousand files take a fraction of a second."""
    listings: dict[str, set[str]] = {}
    missing = []
    for path in paths:
        folder, name = os.path.split(path)
        if folder not in listings:
            try:
                listings[folder] = set(os.listdir(folder or "."))
            except OSError:
                listings[folder] = set()
        if name not in listings[folder]:
            missing.append(path)
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise InputError(
            f"{what}: {len(missing)} of {len(paths)} files are missing:"
            f" {', '.join(missing[:3])}{more}. Check the folder, or remove them from the dataset"
            " by `python -m dataset_tools check --fix`."
        )
