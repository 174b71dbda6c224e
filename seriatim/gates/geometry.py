"""Where a transform really takes pixels, found out from pictures alone.

A picture of coordinates (every pixel holds its own x and y) goes through `apply_image`; what
arrives tells where each pixel came from, whatever `apply_coords` says. The two must agree.
"""

from __future__ import annotations

import numpy as np
from fvcore.transforms.transform import Transform, TransformList

_RANGE, _OFFSET = 250.0, 4.0  # of the coordinates as they are drawn; 0 is padding
_GRID = 12  # points a side
_WRAP = 100.0  # levels; posterising to two bits steps by 64, and upwards


def coordinate_error(transforms: TransformList, size: tuple[int, int]) -> float:
    """Median distance, in px of the source, between where `apply_coords` and `apply_image` take
    points.

    Args:
        transforms: from the source on.
        size: (height, width) of the source.

    Returns:
        NaN if fewer than 5 points of a grid arrive in the picture, or a transform takes no
        floating-point images.
    """
    try:
        return _error(transforms, size, np.float32)
    except (TypeError, ValueError, AssertionError):
        pass
    try:  # some take nothing but bytes; coordinates are then known to 1/250 of the size
        return _error(transforms, size, np.uint8)
    except (TypeError, ValueError, AssertionError):
        return float("nan")


def _error(transforms: TransformList, size: tuple[int, int], dtype: type) -> float:
    height, width = size
    y, x = np.mgrid[0:height, 0:width].astype(np.float64) + 0.5
    # The third channel tells pixels from padding, which is 0.
    picture = np.stack([x / width, y / height, np.ones_like(x)], axis=-1) * _RANGE + _OFFSET
    picture = picture.round().astype(dtype) if dtype is np.uint8 else picture.astype(dtype)
    points = np.stack(
        np.meshgrid(np.linspace(2, width - 2, _GRID), np.linspace(2, height - 2, _GRID)), axis=-1
    ).reshape(-1, 2)
    moved = points.copy()
    for transform in transforms.transforms:
        if not is_photometric(transform, picture.shape[:2]):
            picture = np.asarray(transform.apply_image(picture))
        moved = np.asarray(transform.apply_coords(moved.copy()))
    arrived = _sample(picture.astype(np.float64), moved)
    inside = arrived[:, 2] > _RANGE + _OFFSET - 1
    if inside.sum() < 5:
        return float("nan")
    found = (arrived[inside, :2] - _OFFSET) / _RANGE * (width, height)
    return float(np.median(np.linalg.norm(found - points[inside], axis=1)))


def box_error(transforms: TransformList, size: tuple[int, int]) -> float:
    """Median distance, in px of the output, between the sides that `apply_box` gives and those of
    the box around the four corners as `apply_coords` moves them.

    Args:
        transforms: from the source on.
        size: (height, width) of the source.
    """
    height, width = size
    shares = np.array([[0.1, 0.2, 0.4, 0.7], [0.5, 0.1, 0.9, 0.3], [0.3, 0.5, 0.6, 0.9]])
    boxes = shares * (width, height, width, height)
    corners = boxes[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 2)
    try:
        moved = np.asarray(transforms.apply_coords(corners.copy())).reshape(-1, 4, 2)
        found = np.asarray(transforms.apply_box(boxes.copy())).reshape(-1, 4)
    except (TypeError, ValueError, AssertionError, NotImplementedError):
        return float("nan")
    around = np.concatenate([moved.min(axis=1), moved.max(axis=1)], axis=1)
    return float(np.median(np.abs(found - around).max(axis=1)))


def wraps_around(transform: Transform) -> bool:
    """Whether a little more light makes a pixel dark: arithmetic that begins anew after 255."""
    ramp = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=2).repeat(8, axis=0)
    try:
        result = np.asarray(transform.apply_image(ramp.copy()))
    except (TypeError, ValueError, AssertionError):
        return False
    if result.shape != ramp.shape:
        return False
    steps = np.diff(result[4].astype(float), axis=0)
    return bool((steps < -_WRAP).any() and np.median(steps) > 0)


def is_photometric(transform: Transform, size: tuple[int, int]) -> bool:
    """Whether a transform leaves every pixel in its place: its output is a function of the pixel at
    the same place, tried on noise."""
    rng = np.random.default_rng(0)
    noise = rng.integers(30, 220, (*size, 3), dtype=np.uint8)
    try:
        result = np.asarray(transform.apply_image(noise.copy()))
    except (TypeError, ValueError, AssertionError):
        return False
    if result.shape != noise.shape:
        return False
    before, after = noise.reshape(-1).astype(float), result.reshape(-1).astype(float)
    if after.std() < 1e-6:
        return True
    return abs(np.corrcoef(before, after)[0, 1]) > 0.5


def _sample(picture: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Bilinear values at continuous (x, y); 0 outside of the picture."""
    height, width = picture.shape[:2]
    x, y = points[:, 0] - 0.5, points[:, 1] - 0.5
    outside = (x < 0) | (y < 0) | (x > width - 1) | (y > height - 1)
    x, y = x.clip(0, width - 1), y.clip(0, height - 1)
    x0, y0 = np.floor(x).astype(int), np.floor(y).astype(int)
    x1, y1 = np.minimum(x0 + 1, width - 1), np.minimum(y0 + 1, height - 1)
    u, v = (x - x0)[:, None], (y - y0)[:, None]
    values = (
        picture[y0, x0] * (1 - u) * (1 - v)
        + picture[y0, x1] * u * (1 - v)
        + picture[y1, x0] * (1 - u) * v
        + picture[y1, x1] * u * v
    )
    values[outside] = 0
    return values
