"""COCO's measures by faster-coco-eval, for any number of detections per image.

pycocotools' own summary takes AP at 100 detections whatever limit it was given; here the limit
counts, so that dense scenes are not cut off. At 100 all numbers equal pycocotools'.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from faster_coco_eval import COCO
from faster_coco_eval.core.faster_eval_api import COCOeval_faster

logger = logging.getLogger(__name__)

# The fields of a detection in COCO's results format that each task looks at.
TASK_FIELDS = {"bbox": ("bbox",), "segm": ("segmentation",), "keypoints": ("keypoints", "bbox")}

# (name, "precision" or "recall", IoU or None for the mean over 0.50:0.95, area range, detections
# per image: an index into [1, 10, limit]). The first six are those that Detectron2 reports.
_DETECTION_METRICS = (
    ("AP", "precision", None, "all", -1),
    ("AP50", "precision", 0.5, "all", -1),
    ("AP75", "precision", 0.75, "all", -1),
    ("APs", "precision", None, "small", -1),
    ("APm", "precision", None, "medium", -1),
    ("APl", "precision", None, "large", -1),
    ("AR1", "recall", None, "all", 0),
    ("AR10", "recall", None, "all", 1),
    ("AR", "recall", None, "all", -1),
    ("ARs", "recall", None, "small", -1),
    ("ARm", "recall", None, "medium", -1),
    ("ARl", "recall", None, "large", -1),
)
_KEYPOINT_METRICS = (
    ("AP", "precision", None, "all", -1),
    ("AP50", "precision", 0.5, "all", -1),
    ("AP75", "precision", 0.75, "all", -1),
    ("APm", "precision", None, "medium", -1),
    ("APl", "precision", None, "large", -1),
    ("AR", "recall", None, "all", -1),
    ("AR50", "recall", 0.5, "all", -1),
    ("AR75", "recall", 0.75, "all", -1),
    ("ARm", "recall", None, "medium", -1),
    ("ARl", "recall", None, "large", -1),
)


@dataclass(slots=True)
class CategoryScore:
    """Measures of one category in percent; NaN where the data has none of it."""

    name: str
    images: int  # with at least one object of it
    objects: int  # crowds apart
    ap: float
    ap50: float
    recall: float


@dataclass(slots=True)
class Scores:
    """Measures in percent by name, over all categories and for each."""

    overall: dict[str, float]
    categories: list[CategoryScore]


def ground_truth(dataset: Mapping[str, Any]) -> COCO:
    """An index of a COCO JSON's content, with what a JSON may leave out filled in.

    Annotations get fresh ids from 1 (id 0 is COCO's sign for "unmatched", so a file that uses it is
    scored wrongly), `iscrowd` 0 and the box's area where they are missing. Where others have
    keypoints, one without has them all unlabelled: the evaluation then leaves it out of account.
    """
    annotations = []
    most = max((len(a.get("keypoints") or ()) for a in dataset.get("annotations", ())), default=0)
    for number, annotation in enumerate(dataset.get("annotations", ()), start=1):
        annotation = {"iscrowd": 0, **annotation, "id": number}
        if annotation.get("area") is None:
            annotation["area"] = float(annotation["bbox"][2] * annotation["bbox"][3])
        if most and not annotation.get("keypoints"):
            annotation |= {"keypoints": [0] * most, "num_keypoints": 0}
        if "keypoints" in annotation and "num_keypoints" not in annotation:
            annotation["num_keypoints"] = sum(v > 0 for v in annotation["keypoints"][2::3])
        annotations.append(annotation)
    return COCO({**dataset, "annotations": annotations})


def can_score(truth: COCO, task: str) -> bool:
    """Whether any annotation has what `task` compares."""
    if task == "keypoints":
        return any(annotation.get("num_keypoints") for annotation in truth.anns.values())
    field = TASK_FIELDS[task][0]
    return any(annotation.get(field) for annotation in truth.anns.values())


def score_detections(
    truth: COCO,
    detections: Iterable[Mapping[str, Any]],
    task: str = "bbox",
    *,
    max_detections: int = 100,
    keypoint_sigmas: Sequence[float] = (),
) -> Scores:
    """The measures of `detections` against `truth`.

    Args:
        truth: from `ground_truth`.
        detections: in COCO's results format: image_id, category_id, score and bbox (XYWH, or
            centre x, y, width, height, degrees for rotated boxes), segmentation (compressed run
            lengths) or keypoints. May be empty: then every category with objects scores 0.
        task: "bbox", "segm" or "keypoints".
        max_detections: so many per image and category count. COCO fixes 20 for keypoints.
        keypoint_sigmas: falloff of each keypoint; () takes COCO's seventeen.
    """
    fields = ("image_id", "category_id", "score", *TASK_FIELDS[task])
    found = truth.loadRes([{f: d[f] for f in fields if f in d} for d in detections])
    rotated = task == "bbox" and _is_rotated(truth, found)
    kind = _RotatedEval if rotated else COCOeval_faster
    evaluation = kind(
        truth, found, task, print_function=logger.debug, kpt_oks_sigmas=_sigmas(keypoint_sigmas)
    )
    evaluation.params.catIds = _category_ids(truth, task)
    if task != "keypoints":
        evaluation.params.maxDets = [
            min(1, max_detections),
            min(10, max_detections),
            max_detections,
        ]
    evaluation.evaluate()
    evaluation.accumulate()
    return _read(evaluation, truth, task)


def _sigmas(sigmas: Sequence[float]) -> np.ndarray | None:
    return np.asarray(sigmas, dtype=float) if len(sigmas) else None


def _category_ids(truth: COCO, task: str) -> list[int]:
    if task != "keypoints":
        return sorted(truth.cats)
    with_keypoints = {a["category_id"] for a in truth.anns.values() if a.get("num_keypoints")}
    return sorted(with_keypoints)


def _read(evaluation: COCOeval_faster, truth: COCO, task: str) -> Scores:
    params = evaluation.params
    shape = (
        len(params.iouThrs),
        len(params.recThrs),
        len(params.catIds),
        len(params.areaRng),
        len(params.maxDets),
    )
    tables = {
        "precision": np.asarray(evaluation.eval["precision"]).reshape(shape),
        "recall": np.asarray(evaluation.eval["recall"]).reshape(shape[:1] + shape[2:]),
    }

    def measure(table: str, iou: float | None, area: str, limit: int, category: Any = slice(None)):
        values = tables[table][..., category, params.areaRngLbl.index(area), limit]
        if iou is not None:
            values = values[np.isclose(params.iouThrs, iou)]
        values = values[values > -1]
        return 100 * float(values.mean()) if values.size else math.nan

    metrics = _KEYPOINT_METRICS if task == "keypoints" else _DETECTION_METRICS
    overall = {name: measure(*how) for name, *how in metrics}
    objects = [a for a in truth.anns.values() if not a["iscrowd"]]
    counts = Counter(a["category_id"] for a in objects)
    images = Counter(c for _, c in {(a["image_id"], a["category_id"]) for a in objects})
    categories = [
        CategoryScore(
            name=truth.cats[category]["name"],
            images=images[category],
            objects=counts[category],
            ap=measure("precision", None, "all", -1, k),
            ap50=measure("precision", 0.5, "all", -1, k),
            recall=measure("recall", None, "all", -1, k),
        )
        for k, category in enumerate(params.catIds)
    ]
    return Scores(overall, categories)


def _is_rotated(truth: COCO, found: COCO) -> bool:
    return any(
        len(annotation.get("bbox") or ()) == 5
        for index in (truth, found)
        for annotation in index.anns.values()
    )


class _RotatedEval(COCOeval_faster):
    """COCO's evaluation with the IoU of rotated boxes; the angle itself is not judged."""

    def computeIoU(self, imgId: int, catId: int) -> Any:  # noqa: N802, N803
        truth = self.gt_dataset.get_instances([imgId], [catId], True)[0][0]
        found = self.dt_dataset.get_instances([imgId], [catId], True)[0][0]
        if not truth or not found:
            return []
        found = sorted(found, key=lambda d: -d["score"])[: self.params.maxDets[-1]]
        crowd = np.array([bool(t["iscrowd"]) for t in truth])
        return rotated_iou([f["bbox"] for f in found], [t["bbox"] for t in truth], crowd)


def rotated_iou(found: Sequence[Any], truth: Sequence[Any], crowd: np.ndarray) -> np.ndarray:
    """(N, M) float64 IoU of N detections and M true boxes, each XYWH or (cx, cy, w, h, degrees).

    For a crowd it is the share of the detection that lies in the crowd, as COCO has it.
    """
    import torch
    from detectron2.structures import RotatedBoxes, pairwise_iou_rotated

    def centred(boxes: Sequence[Any]) -> np.ndarray:
        rows = [
            b if len(b) == 5 else (b[0] + b[2] / 2, b[1] + b[3] / 2, b[2], b[3], 0) for b in boxes
        ]
        return np.asarray(rows, dtype=np.float32).reshape(-1, 5)

    found, truth = centred(found), centred(truth)
    iou = pairwise_iou_rotated(
        RotatedBoxes(torch.from_numpy(found)), RotatedBoxes(torch.from_numpy(truth))
    )
    iou = iou.numpy().astype(np.float64)
    if crowd.any():
        found_area, truth_area = (
            found[:, 2:3] * found[:, 3:4],
            truth[None, :, 2] * truth[None, :, 3],
        )
        shared = iou * (found_area + truth_area) / (1 + iou)
        iou = np.where(crowd, shared / np.maximum(found_area, 1e-9), iou)
    return iou
