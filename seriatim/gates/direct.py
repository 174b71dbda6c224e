"""The AP of a dataset's annotations as detections, by pycocotools and the file alone."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.layers import paste_masks_in_image
from detectron2.structures import BitMasks, PolygonMasks
from pycocotools import mask as rle
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval


def direct_ap(json_file: str | Path, task: str, max_detections: int, mask_side: int) -> float:
    """AP in percent that the annotations of a COCO file get when they are the detections.

    It is 100 unless there are duplicates, degenerate boxes, boxes outside of the image or more
    objects than count; masks are first reduced to `mask_side` × `mask_side` cells in their box and
    pasted back, as Mask R-CNN's are. Rotated boxes are not for pycocotools: 100.

    Args:
        json_file: COCO instances.
        task: "bbox" or "segm".
        max_detections: so many per image and category count.
    """
    content = json.loads(Path(json_file).read_text(encoding="utf-8"))
    if any(len(annotation.get("bbox", ())) == 5 for annotation in content["annotations"]):
        return 100.0
    sizes = {image["id"]: (image["height"], image["width"]) for image in content["images"]}
    found = [
        detection
        for annotation in content["annotations"]
        if not annotation.get("iscrowd", 0)
        and (detection := _detection(annotation, sizes[annotation["image_id"]], task, mask_side))
    ]
    if not found:
        return float("nan")
    return _average_precision(content, found, task, max_detections)


def _detection(
    annotation: dict[str, Any], size: tuple[int, int], task: str, mask_side: int
) -> dict[str, Any] | None:
    """An annotation as a detection, its box clipped to the image; None if nothing is left of it."""
    x, y, width, height = annotation["bbox"]
    x1, y1 = min(x + width, size[1]), min(y + height, size[0])
    x0, y0 = max(x, 0.0), max(y, 0.0)
    if x1 <= x0 or y1 <= y0:
        return None
    detection = {
        "image_id": annotation["image_id"],
        "category_id": annotation["category_id"],
        "score": 1.0,
        "bbox": [x0, y0, x1 - x0, y1 - y0],
    }
    if task == "segm":
        if not annotation.get("segmentation"):
            return None
        mask = pasted_mask(annotation["segmentation"], (x0, y0, x1, y1), size, mask_side).numpy()
        detection["segmentation"] = rle.encode(np.asfortranarray(mask, dtype=np.uint8))
        del detection["bbox"]
    return detection


def pasted_mask(
    segmentation: Any, box: tuple[float, float, float, float], size: tuple[int, int], side: int
) -> torch.Tensor:
    """(H, W) bool: polygons or an RLE after `side` × `side` cells in `box` (XYXY px), by
    Detectron2's own two functions."""
    boxes = torch.tensor([box])
    if isinstance(segmentation, list):
        polygons = [np.asarray(polygon, dtype=np.float64) for polygon in segmentation]
        cells = PolygonMasks([polygons]).crop_and_resize(boxes, side)
    else:
        if isinstance(segmentation["counts"], list):
            segmentation = rle.frPyObjects(segmentation, *segmentation["size"])
        bitmap = torch.from_numpy(rle.decode(segmentation)).bool()[None]
        cells = BitMasks(bitmap).crop_and_resize(boxes, side)
    return paste_masks_in_image(cells.float(), boxes, size)[0]


def _average_precision(
    content: dict[str, Any], found: list[dict[str, Any]], task: str, max_detections: int
) -> float:
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {"info": {}, **content}
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(found), task)
        evaluation.params.maxDets = [1, 10, max_detections]
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"][:, :, :, 0, -1]  # all areas, all detections that count
    valid = precision[precision > -1]
    return float(valid.mean() * 100) if valid.size else float("nan")
