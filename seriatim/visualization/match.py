"""Which detection found which object, and what went wrong with the rest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np

from dataset_tools.boxes import box_iou
from seriatim.visualization.items import Item, compact


class Outcome(Enum):
    """What became of one true object or of one detection."""

    HIT = "hit"
    MISS = "miss"  # of objects only
    FALSE_ALARM = "false alarm"  # of detections only
    WRONG_CLASS = "wrong class"  # of both sides
    IGNORED = "ignored"  # a crowd, or a detection of one


@dataclass(slots=True)
class Matches:
    """The outcomes in one image; partners are indices into the other side, -1 for none."""

    truth: list[Outcome]
    found: list[Outcome]
    truth_partner: np.ndarray
    found_partner: np.ndarray

    def count(self, outcome: Outcome) -> int:
        """How often `outcome` occurred; a pair counts once."""
        side = self.truth if outcome is Outcome.MISS else self.found
        return side.count(outcome)

    @property
    def errors(self) -> int:
        return sum(map(self.count, (Outcome.MISS, Outcome.FALSE_ALARM, Outcome.WRONG_CLASS)))

    @property
    def badness(self) -> tuple[float, int]:
        """To sort the worst image first: the share of errors among all outcomes, their number."""
        hits = self.count(Outcome.HIT)
        return self.errors / max(1, self.errors + hits), self.errors


def match(
    iou: np.ndarray,
    truth_classes: Sequence[int],
    found_classes: Sequence[int],
    scores: Sequence[float],
    crowd: Sequence[bool],
    threshold: float = 0.5,
) -> Matches:
    """Greedy matching by score, first within each class as COCO's evaluation does, then across
    classes.

    Each detection, best score first, takes the free object of its own class with the largest IoU
    of at least `threshold`; failing that, a crowd of its class that covers it (then it is
    ignored). What is left on both sides is matched once more whatever the class: those are of the
    wrong class.

    Args:
        iou: (N, M) of N detections and M objects; for crowds the share of the detection they cover.
        crowd: of each object, whether it is a crowd.
    """
    truth_classes, found_classes = np.asarray(truth_classes), np.asarray(found_classes)
    crowd = np.asarray(crowd, dtype=bool)
    iou = np.asarray(iou, dtype=float).reshape(len(found_classes), len(truth_classes))
    matches = Matches(
        truth=[Outcome.IGNORED if c else Outcome.MISS for c in crowd],
        found=[Outcome.FALSE_ALARM] * len(found_classes),
        truth_partner=np.full(len(truth_classes), -1),
        found_partner=np.full(len(found_classes), -1),
    )
    order = np.argsort(-np.asarray(scores, dtype=float), kind="stable")
    same = found_classes[:, None] == truth_classes[None]
    for found in order:
        if not _take(matches, iou, found, same[found] & ~crowd, Outcome.HIT, threshold):
            _ignore_if_in_crowd(matches, iou, found, same[found] & crowd, threshold)
    for found in order:
        if matches.found[found] is Outcome.FALSE_ALARM:
            _take(matches, iou, found, ~crowd, Outcome.WRONG_CLASS, threshold)
    return matches


# COCO's evaluation lowers a threshold of exactly 1 by this much; so that it can be met at all.
_ALMOST_ONE = 1 - 1e-10


def _take(
    matches: Matches,
    iou: np.ndarray,
    found: int,
    allowed: np.ndarray,
    outcome: Outcome,
    threshold: float,
) -> bool:
    candidates = np.where(allowed & (matches.truth_partner < 0), iou[found], -1.0)
    if not candidates.size or candidates.max() < min(threshold, _ALMOST_ONE):
        return False
    # Of equal ones the last is taken, as in COCO's evaluation.
    truth = candidates.size - 1 - int(candidates[::-1].argmax())
    matches.truth[truth] = matches.found[found] = outcome
    matches.truth_partner[truth], matches.found_partner[found] = found, truth
    return True


def _ignore_if_in_crowd(
    matches: Matches, iou: np.ndarray, found: int, crowds: np.ndarray, threshold: float
) -> None:
    cover = np.where(crowds, iou[found], -1.0)
    if cover.size and cover.max() >= min(threshold, _ALMOST_ONE):
        matches.found[found] = Outcome.IGNORED
        matches.found_partner[found] = int(cover.argmax())


def match_items(
    truth: Sequence[Item],
    found: Sequence[Item],
    threshold: float = 0.5,
    size: tuple[int, int] | None = None,
) -> Matches:
    """`match` by the IoU of masks where both sides have them, of rotated boxes, else of boxes.

    `size` is the image's (height, width), for polygons; without it boxes are compared.
    """
    crowd = [item.crowd for item in truth]
    return match(
        pairwise_iou(truth, found, size),
        [item.category for item in truth],
        [item.category for item in found],
        [1.0 if item.score is None else item.score for item in found],
        crowd,
        threshold,
    )


def pairwise_iou(
    truth: Sequence[Item], found: Sequence[Item], size: tuple[int, int] | None = None
) -> np.ndarray:
    """(N, M) IoU of N detections and M objects; for crowds the share of the detection in them."""
    if not truth or not found:
        return np.zeros((len(found), len(truth)))
    crowd = np.array([item.crowd for item in truth])
    everything = (*truth, *found)
    if all(_has_mask(item, size) for item in everything):
        from faster_coco_eval.core import mask as rle

        truth_runs, found_runs = ([_runs(i, size) for i in side] for side in (truth, found))
        return np.asarray(rle.iou(found_runs, truth_runs, crowd.astype(int).tolist()))
    if any(item.rotated for item in everything):
        from seriatim.evaluation.coco_scores import rotated_iou

        return rotated_iou([_centred(i) for i in found], [_centred(i) for i in truth], crowd)
    truth_boxes, found_boxes = (_boxes(side) for side in (truth, found))
    return box_iou(found_boxes, truth_boxes, crowd)


def _boxes(items: Sequence[Item]) -> np.ndarray:
    boxes = [item.bounds() for item in items]
    return np.array([np.zeros(4) if box is None else box for box in boxes])


def _centred(item: Item) -> np.ndarray:
    if item.rotated:
        return item.box
    box = item.bounds()
    box = np.zeros(4) if box is None else box
    return np.concatenate([(box[:2] + box[2:]) / 2, box[2:] - box[:2], [0.0]])


def _has_mask(item: Item, size: tuple[int, int] | None) -> bool:
    return item.mask is not None or (bool(item.polygons) and size is not None)


def _runs(item: Item, size: tuple[int, int] | None) -> dict:
    from faster_coco_eval.core import mask as rle

    if item.mask is not None:
        return compact(item).mask
    polygons = [polygon.ravel().tolist() for polygon in item.polygons]
    return rle.merge(rle.frPyObjects(polygons, *size))


def best_threshold(
    images: Sequence[tuple[Sequence[Item], Sequence[Item]]], iou: float = 0.5
) -> float:
    """The score from which on detections are worth showing: where F1 over all images is largest.

    `images` holds (truth, found) of each. Matching is greedy by score, so the detections above any
    threshold are matched alike whatever lies below it: one matching serves for all thresholds.
    """
    scores, hits, objects = [], [], 0
    for truth, found in images:
        matches = match_items(truth, found, iou)
        objects += sum(not item.crowd for item in truth)
        for item, outcome in zip(found, matches.found, strict=True):
            if outcome is not Outcome.IGNORED:
                scores.append(item.score or 0.0)
                hits.append(outcome is Outcome.HIT)
    if not any(hits):
        return 0.5
    order = np.argsort(-np.array(scores), kind="stable")
    ranked = np.array(scores)[order]
    found_so_far = np.cumsum(np.array(hits)[order])
    f1 = 2 * found_so_far / (np.arange(1, len(ranked) + 1) + objects)
    # Only the last of equal scores is a threshold.
    f1[:-1][ranked[:-1] == ranked[1:]] = -1
    return float(ranked[f1.argmax()])
