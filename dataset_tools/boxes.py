"""Overlap of upright boxes."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


def box_iou(first: np.ndarray, second: np.ndarray, crowd: np.ndarray | None = None) -> np.ndarray:
    """(N, M) intersections over unions of XYXY boxes (N, 4) and (M, 4).

    Args:
        crowd: (M,) bool; for a `second` box that is a crowd the share of the `first` one in it is
            taken instead, as COCO's evaluation does.

    Returns:
        0 also where a union has no area or a coordinate is NaN.
    """
    import numpy as np

    with np.errstate(invalid="ignore"):
        low = np.maximum(first[:, None, :2], second[None, :, :2])
        high = np.minimum(first[:, None, 2:], second[None, :, 2:])
        shared = (high - low).clip(0).prod(axis=2)
        first_area, second_area = (
            (x[:, 2:] - x[:, :2]).clip(0).prod(axis=1) for x in (first, second)
        )
        union = first_area[:, None] + second_area[None] - shared
        if crowd is not None:
            union = np.where(crowd, first_area[:, None], union)
        return np.divide(shared, union, out=np.zeros_like(union, dtype=float), where=union > 0)
