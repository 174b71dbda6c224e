"""Panoptic quality (Kirillov et al. 2019, arXiv:1801.00868), counted segment by segment."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

VOID = 0  # of ground truth: pixels that nobody labelled
MATCHED = 0.5  # an IoU above it: a segment can then match one other at most
IGNORED = 0.5  # share of void and crowd above which an unmatched segment is no false one


@dataclass
class Count:
    """Of one category: the sum of the IoU of matches, and how many segments matched or did not."""

    iou: float = 0.0
    matched: int = 0
    false: int = 0
    missed: int = 0

    def __iadd__(self, other: Count) -> Count:
        self.iou += other.iou
        self.matched += other.matched
        self.false += other.false
        self.missed += other.missed
        return self

    @property
    def recognition(self) -> float:
        """RQ: the F1 score of matches; NaN where there is no segment at all."""
        total = self.matched + 0.5 * (self.false + self.missed)
        return self.matched / total if total else float("nan")

    @property
    def segmentation(self) -> float:
        """SQ: the mean IoU of matches, 0 without one."""
        return self.iou / self.matched if self.matched else 0.0

    @property
    def quality(self) -> float:
        """PQ = SQ · RQ."""
        return self.segmentation * self.recognition


@dataclass
class Counts:
    """Of all categories, by their id."""

    by_category: dict[int, Count] = field(default_factory=lambda: defaultdict(Count))

    def add(self, other: Counts) -> None:
        for category, count in other.by_category.items():
            self.by_category[category] += count

    def mean(self, categories: Iterable[int]) -> dict[str, float]:
        """PQ, SQ and RQ in percent, each the mean over those of `categories` that were seen."""
        seen = [
            count
            for category in categories
            if (count := self.by_category.get(category)) and count.recognition == count.recognition
        ]
        parts = {"PQ": "quality", "SQ": "segmentation", "RQ": "recognition"}
        return {
            name: 100 * float(np.mean([getattr(count, part) for count in seen]))
            if seen
            else float("nan")
            for name, part in parts.items()
        }


def count_segments(
    truth: np.ndarray,
    true_categories: Mapping[int, int],
    found: np.ndarray,
    found_categories: Mapping[int, int],
    crowds: frozenset[int] = frozenset(),
) -> Counts:
    """Match the segments of one image.

    A pair of one category matches if its IoU, without pixels that are void in the truth, is above
    one half. What did not match is missed, unless it is a crowd, or false, unless more than half of
    it lies on void or on a crowd of its category.

    Args:
        truth: (H, W) integers, the number of each pixel's segment; VOID has none.
        true_categories: number of a segment → category. crowds: numbers of segments that are.
        found, found_categories: the same of a prediction; numbers without a category are none.
    """
    counts = Counts()
    pairs, areas = np.unique(
        np.stack([truth.ravel(), found.ravel()]).astype(np.int64), axis=1, return_counts=True
    )
    shared = {(int(t), int(f)): int(n) for (t, f), n in zip(pairs.T, areas, strict=True)}
    true_area: dict[int, int] = defaultdict(int)
    found_area: dict[int, int] = defaultdict(int)
    for (t, f), area in shared.items():
        true_area[t] += area
        found_area[f] += area
    matched_true, matched_found = set(), set()
    for (t, f), area in shared.items():
        category = true_categories.get(t)
        if category is None or t in crowds or found_categories.get(f) != category:
            continue
        union = true_area[t] + found_area[f] - area - shared.get((VOID, f), 0)
        if area > MATCHED * union:
            counts.by_category[category] += Count(iou=area / union, matched=1)
            matched_true.add(t)
            matched_found.add(f)
    for t, category in true_categories.items():
        if t in true_area and t not in matched_true and t not in crowds:
            counts.by_category[category] += Count(missed=1)
    for f, category in found_categories.items():
        if f not in found_area or f in matched_found:
            continue
        ignored = shared.get((VOID, f), 0) + sum(
            shared.get((t, f), 0) for t in crowds if true_categories.get(t) == category
        )
        if ignored <= IGNORED * found_area[f]:
            counts.by_category[category] += Count(false=1)
    return counts
