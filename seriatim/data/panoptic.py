"""Panoptic and semantic datasets."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from dataset_tools.coco import read_json
from dataset_tools.errors import InputError
from seriatim.data.entries import Entry
from seriatim.data.instances import load_instances
from seriatim.data.records import Facts, Record, check_files_exist, image_record

logger = logging.getLogger(__name__)


def load_panoptic(entry: Entry) -> tuple[list[Record], dict[str, Any], Facts]:
    content = read_json(entry.panoptic_json)
    try:
        categories = sorted(content["categories"], key=lambda category: category["id"])
        things = [c for c in categories if c.get("isthing", 1)]
        stuff = [c for c in categories if not c.get("isthing", 1)]
        segments = {
            a["image_id"]: (a["file_name"], a["segments_info"]) for a in content["annotations"]
        }
        names = {image["id"]: image for image in content["images"]}
        common = {
            "panoptic_json": str(entry.panoptic_json),
            "panoptic_root": str(entry.panoptic_root),
            "evaluator_type": "coco_panoptic_seg",
            "ignore_label": 255,
            "label_divisor": 1000,
        }
        if entry.json is not None:
            return _load_separated(entry, stuff, common)
        classes = [c["name"] for c in categories]
        index = {c["id"]: i for i, c in enumerate(categories)}
        metadata = common | {
            "json_file": None,
            "thing_classes": classes,
            "stuff_classes": classes,
            "thing_dataset_id_to_contiguous_id": {c["id"]: index[c["id"]] for c in things},
            "stuff_dataset_id_to_contiguous_id": {c["id"]: index[c["id"]] for c in stuff},
        }
        isthing = {c["id"]: bool(c.get("isthing", 1)) for c in categories}
        records = []
        for image_id, (png, infos) in sorted(segments.items()):
            image = names[image_id]
            record = image_record(
                entry.images, image["file_name"], image_id, image["height"], image["width"]
            )
            del record["annotations"]
            record["pan_seg_file_name"] = str(entry.panoptic_root / png)
            record["segments_info"] = [
                {
                    **info,
                    "category_id": index[info["category_id"]],
                    "isthing": isthing[info["category_id"]],
                }
                for info in infos
            ]
            records.append(record)
    except (KeyError, TypeError) as error:
        raise InputError(
            f"{entry.panoptic_json} is not a panoptic COCO file: {error!r} is missing or has"
            " another type."
        ) from None
    if not records:
        raise InputError(f"{entry.panoptic_json} holds no annotations.")
    check_files_exist([r["pan_seg_file_name"] for r in records], f"PANOPTIC_ROOT of {entry.name}")
    return records, metadata, Facts("panoptic", images=len(records))


def _load_separated(
    entry: Entry, stuff: Sequence[Mapping[str, Any]], common: dict[str, Any]
) -> tuple[list[Record], dict[str, Any], Facts]:
    """Things from the instances JSON, stuff from grey PNGs in which 0 means any thing."""
    packed, metadata, facts = load_instances(entry)
    records = list(packed)
    for record in records:
        relative = Path(record["file_name"]).relative_to(entry.images)
        record["sem_seg_file_name"] = str((entry.sem_seg_root / relative).with_suffix(".png"))
    check_files_exist([r["sem_seg_file_name"] for r in records], f"SEM_SEG_ROOT of {entry.name}")
    metadata |= common | {
        "sem_seg_root": str(entry.sem_seg_root),
        "stuff_classes": ["things", *(c["name"] for c in stuff)],
        "stuff_dataset_id_to_contiguous_id": {0: 0, **{c["id"]: i for i, c in enumerate(stuff, 1)}},
    }
    values = {f.name: getattr(facts, f.name) for f in fields(Facts)}
    return records, metadata, Facts(**values | {"kind": "panoptic_separated"})


def load_semantic(entry: Entry) -> tuple[list[Record], dict[str, Any], Facts]:
    labels = {p.relative_to(entry.sem_seg_root).with_suffix("") for p in _files(entry.sem_seg_root)}
    records, without = [], []
    for path in _files(entry.images):
        relative = path.relative_to(entry.images)
        if path.suffix.lower() not in _IMAGE_SUFFIXES:
            continue
        if relative.with_suffix("") not in labels:
            without.append(str(relative))
            continue
        png = (entry.sem_seg_root / relative).with_suffix(".png")
        records.append(
            {"file_name": str(path), "image_id": str(relative), "sem_seg_file_name": str(png)}
        )
    if not records:
        raise InputError(
            f"{entry.name}: no image in {entry.images} has a label PNG of the same name in"
            f" {entry.sem_seg_root}."
        )
    if without:
        logger.warning(
            f"{entry.name}: {len(without)} images have no label PNG and are left out:"
            f" {', '.join(without[:5])}{' …' if len(without) > 5 else ''}"
        )
    metadata = {
        "sem_seg_root": str(entry.sem_seg_root),
        "stuff_classes": list(entry.stuff_classes),
        "stuff_dataset_id_to_contiguous_id": {i: i for i in range(len(entry.stuff_classes))},
        "evaluator_type": "sem_seg",
        "ignore_label": 255,
    }
    return records, metadata, Facts("semantic", images=len(records))


_IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"}


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())
