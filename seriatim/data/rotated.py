"""Datasets of rotated boxes."""

from __future__ import annotations

import math
import mmap
import re
from collections import Counter
from pathlib import Path
from typing import Any

from detectron2.structures import BoxMode

from dataset_tools.coco import Category, read_json
from dataset_tools.errors import InputError
from dataset_tools.rotated import with_rotated_boxes
from seriatim.data.entries import Entry
from seriatim.data.instances import instance_metadata
from seriatim.data.records import Facts, Record, count_object, image_record, make_facts


def has_rotated_boxes(path: Path) -> bool:
    """Whether the first box in the file has five numbers. The file is not parsed for that."""
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        match = re.search(rb'"bbox"\s*:\s*\[([^\]]*)\]', content)
        return match is not None and match[1].count(b",") == 4


def load_rotated(entry: Entry) -> tuple[list[Record], dict[str, Any], Facts]:
    """Boxes of [centre x, centre y, width, height, degrees counter-clockwise]."""
    content = read_json(entry.json)
    try:
        if entry.rotated:
            content = with_rotated_boxes(content)
        categories = [Category(c["name"], id=c["id"]) for c in content["categories"]]
        categories.sort(key=lambda category: category.id)
        index = {category.id: i for i, category in enumerate(categories)}
        records = {
            image["id"]: image_record(
                entry.images, image["file_name"], image["id"], image["height"], image["width"]
            )
            for image in sorted(content["images"], key=lambda image: image["id"])
        }
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise InputError(f"{entry.json}: not a COCO file: {error!r}.") from None
    if not records:
        raise InputError(f"{entry.json} holds no images: there is nothing to train or evaluate on.")
    annotations = content.get("annotations", ())
    if entry.rotated and not any((a.get("attributes") or {}).get("rbox") for a in annotations):
        raise InputError(
            f"{entry.name} is to be ROTATED, but no annotation in {entry.json} has a rotated box"
            " (attributes.rbox). Leave ROTATED out, or convert from a format that has such."
        )
    counts: Counter[str] = Counter()
    per_category: Counter[str] = Counter()
    for i, annotation in enumerate(annotations):
        try:
            box = [float(v) for v in annotation["bbox"]]
            category, record = index[annotation["category_id"]], records[annotation["image_id"]]
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"{entry.json}: annotations[{i}] is not valid: {error!r}.") from None
        if len(box) != 5 or not all(map(math.isfinite, box)):
            who = "its entry" if entry.rotated else "the first annotation"
            raise InputError(
                f"{entry.json}: annotations[{i}] has the box {box}, but {who} says that boxes are"
                " rotated: [centre x, centre y, width, height, angle in degrees]."
            )
        if box[2] <= 0 or box[3] <= 0:
            counts["left_out"] += 1
            continue
        item = {
            "id": annotation.get("id", i + 1),
            "bbox": box,
            "bbox_mode": BoxMode.XYWHA_ABS,
            "category_id": category,
            "iscrowd": int(annotation.get("iscrowd", 0)),
        }
        record["annotations"].append(item)
        count_object(counts, item)
        per_category[categories[category].name] += not item["iscrowd"]
    metadata = instance_metadata(entry, categories) | {
        "evaluator_type": "rotated_coco",
        "boxes_are_rbox": entry.rotated,  # in the JSON file, for the evaluator
    }
    ordered = list(records.values())
    return ordered, metadata, make_facts("rotated", ordered, counts, per_category, metadata)
