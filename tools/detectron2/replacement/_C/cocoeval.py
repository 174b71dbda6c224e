"""COCO's matching and accumulation, as `COCOeval_opt` calls them, vectorised with NumPy.

The rules are those of pycocotools' `COCOeval.evaluateImg` and `accumulate`. Detections are gone
through by decreasing score; for each one all IoU thresholds are decided at once.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

import numpy as np


@dataclass(slots=True)
class InstanceAnnotation:
    """A ground truth or a detection; the area is in px²."""

    id: int
    score: float
    area: float
    is_crowd: bool
    ignore: bool


@dataclass(slots=True)
class ImageEvaluation:
    """The matches of D detections with G ground truths in one image, category and area range.

    Attributes:
        detection_matches: int64 (T, D), id of the matched ground truth at each IoU threshold, 0:
            none.
        detection_scores: float64 (D,), decreasing.
        ground_truth_ignores: bool (G,).
        detection_ignores: bool (T, D).
    """

    detection_matches: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), np.int64))
    detection_scores: np.ndarray = field(default_factory=lambda: np.zeros(0))
    ground_truth_ignores: np.ndarray = field(default_factory=lambda: np.zeros(0, bool))
    detection_ignores: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), bool))


def COCOevalEvaluateImages(
    area_ranges: Sequence[Sequence[float]],
    max_detections: int,
    iou_thresholds: Sequence[float],
    image_category_ious: Sequence[Sequence[np.ndarray]],
    image_category_ground_truth_instances: Sequence[Sequence[Sequence[InstanceAnnotation]]],
    image_category_detection_instances: Sequence[Sequence[Sequence[InstanceAnnotation]]],
) -> list[ImageEvaluation]:
    """Match detections to ground truths for each category, area range and image (in that order).

    `image_category_ious[i][c][d][g]` is the IoU of the d-th detection by decreasing score with the
    g-th ground truth; the instances are in the order in which they were given.
    """
    images = len(image_category_ground_truth_instances)
    categories = len(image_category_ious[0]) if image_category_ious else 0
    thresholds = np.asarray(iou_thresholds, dtype=np.float64)
    # Most pairs of image and category have neither a ground truth nor a detection.
    nothing = ImageEvaluation(
        detection_matches=np.zeros((len(thresholds), 0), np.int64),
        detection_ignores=np.zeros((len(thresholds), 0), bool),
    )
    results = [nothing] * (categories * len(area_ranges) * images)
    for i in range(images):
        for c in range(categories):
            truths = image_category_ground_truth_instances[i][c]
            detections = image_category_detection_instances[i][c]
            if not truths and not detections:
                continue
            detections = sorted(detections, key=lambda d: -d.score)[:max_detections]
            ious = np.zeros((len(detections), len(truths)))
            if ious.size:
                ious = np.asarray(image_category_ious[i][c], dtype=np.float64)[: len(detections)]
            for a, area_range in enumerate(area_ranges):
                results[(c * len(area_ranges) + a) * images + i] = _match(
                    truths, detections, ious, thresholds, area_range
                )
    return results


def _match(
    truths: Sequence[InstanceAnnotation],
    detections: Sequence[InstanceAnnotation],
    ious: np.ndarray,
    thresholds: np.ndarray,
    area_range: Sequence[float],
) -> ImageEvaluation:
    """Greedy matching of one image: `ious` is (D, G), detections are sorted by decreasing score."""
    low, high = area_range
    ignored = np.array([t.ignore or not low <= t.area <= high for t in truths], dtype=bool)
    # Ground truths that count come first; the order is that of pycocotools, which decides ties.
    order = np.argsort(ignored, kind="stable")
    ignored, ious = ignored[order], ious[:, order]
    counting = len(ignored) - int(ignored.sum())
    ids = np.array([truths[g].id for g in order], dtype=np.int64)
    crowd = np.array([truths[g].is_crowd for g in order], dtype=bool)

    matches = np.zeros((len(thresholds), len(detections)), np.int64)
    match_ignored = np.zeros(matches.shape, bool)
    taken = np.zeros((len(thresholds), len(truths)), bool)
    required = np.minimum(thresholds, 1 - 1e-10)[:, None]
    every = np.arange(len(thresholds))
    for d, detection in enumerate(detections if len(truths) else ()):
        eligible = (ious[d] >= required) & (crowd | ~taken)
        # A ground truth that counts is preferred to one that is ignored, whatever their IoUs.
        best = _last_best(ious[d, :counting], eligible[:, :counting])
        rest = _last_best(ious[d, counting:], eligible[:, counting:])
        best = np.where((best < 0) & (rest >= 0), rest + counting, best)
        found = best >= 0
        matches[found, d] = ids[best[found]]
        match_ignored[found, d] = ignored[best[found]]
        # pycocotools marks a ground truth as taken by the detection's id, which is 0 for "free".
        taken[every[found], best[found]] |= detection.id > 0

    outside = np.array([not low <= d.area <= high for d in detections], dtype=bool)
    return ImageEvaluation(
        detection_matches=matches,
        detection_scores=np.array([d.score for d in detections], dtype=np.float64),
        ground_truth_ignores=ignored,
        detection_ignores=match_ignored | ((matches == 0) & outside),
    )


def _last_best(ious: np.ndarray, eligible: np.ndarray) -> np.ndarray:
    """Index of the highest IoU among the eligible (T, G), the last one of equals; -1: none. (T,)"""
    if not eligible.size:
        return np.full(len(eligible), -1)
    best = ious.size - 1 - np.where(eligible, ious, -1.0)[:, ::-1].argmax(axis=1)
    return np.where(eligible.any(axis=1), best, -1)


def COCOevalAccumulate(params, evaluations: Sequence[ImageEvaluation]) -> dict:
    """Precision, recall and scores from all matches.

    Args:
        params: pycocotools' `Params` that the evaluations were made with.
        evaluations: what `COCOevalEvaluateImages` gave.

    Returns:
        "precision" and "scores" (T, R, K, A, M) and "recall" (T, K, A, M), -1 where there is no
        ground truth; "counts": their sizes [T, R, K, A, M]; "params" and "date".
    """
    categories = len(params.catIds) if params.useCats else 1
    images, areas = len(params.imgIds), len(params.areaRng)
    counts = [len(params.iouThrs), len(params.recThrs), categories, areas, len(params.maxDets)]
    precision, scores = -np.ones(counts), -np.ones(counts)
    recall = -np.ones([counts[0], *counts[2:]])
    for c in range(categories):
        for a in range(areas):
            start = (c * areas + a) * images
            group = evaluations[start : start + images]
            total = sum(int((~e.ground_truth_ignores).sum()) for e in group)
            if not total:
                continue
            for m, max_detections in enumerate(params.maxDets):
                curves = _curves(group, total, max_detections, np.asarray(params.recThrs))
                recall[:, c, a, m] = curves[0]
                precision[:, :, c, a, m], scores[:, :, c, a, m] = curves[1:]
    return {
        "params": params,
        "counts": counts,
        "date": datetime.now().strftime("%Y-%m-%d %H:%M:%S"),
        "precision": precision,
        "recall": recall,
        "scores": scores,
    }


def _curves(
    group: Sequence[ImageEvaluation], total: int, max_detections: int, recall_thresholds: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Final recall (T,), and precision and score (T, R) at each recall threshold."""
    scores = np.concatenate([e.detection_scores[:max_detections] for e in group])
    order = np.argsort(-scores, kind="stable")
    scores = scores[order]
    parts = [e for e in group if len(e.detection_scores)]
    thresholds = len(group[0].detection_matches)
    shape = (thresholds, len(recall_thresholds))
    final, precision, at_score = np.zeros(thresholds), np.zeros(shape), np.zeros(shape)
    if not parts:
        return final, precision, at_score
    matched = np.concatenate([e.detection_matches[:, :max_detections] for e in parts], axis=1) != 0
    ignored = np.concatenate([e.detection_ignores[:, :max_detections] for e in parts], axis=1)
    matched, ignored = matched[:, order], ignored[:, order]
    hits = np.cumsum(matched & ~ignored, axis=1, dtype=np.float64)
    misses = np.cumsum(~matched & ~ignored, axis=1, dtype=np.float64)
    recalls = hits / total
    precisions = hits / (hits + misses + np.spacing(1))
    # The highest precision at this recall or any larger one.
    precisions = np.maximum.accumulate(precisions[:, ::-1], axis=1)[:, ::-1]
    for t in range(thresholds):
        final[t] = recalls[t, -1]
        at = np.searchsorted(recalls[t], recall_thresholds, side="left")
        reached = at < len(scores)
        precision[t, reached] = precisions[t, at[reached]]
        at_score[t, reached] = scores[at[reached]]
    return final, precision, at_score
