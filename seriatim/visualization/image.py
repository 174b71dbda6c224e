"""Images of any depth as 8-bit RGB to draw on."""

from __future__ import annotations

import numpy as np

# Images with a longer side below this are enlarged by a whole factor before anything is drawn.
SMALL_SIDE = 480


def to_rgb8(image: np.ndarray) -> np.ndarray:
    """(H, W), (H, W, 1..N) of any number type to (H, W, 3) uint8 RGB, for the eye.

    8-bit images keep their values. Others are stretched: floats in [0, 1] by 255, everything else
    from its 0.5th to its 99.5th percentile, because 16-bit cameras rarely use their range. Two
    channels are grey and alpha, four are RGB and alpha (alpha is left out), more show their first
    three.
    """
    image = np.asarray(image)
    if image.ndim == 2:
        image = image[:, :, None]
    if image.ndim != 3:
        raise ValueError(f"an image is (height, width[, channels]), not of shape {image.shape}")
    channels = image.shape[2]
    image = image[:, :, :3] if channels >= 3 else image[:, :, :1].repeat(3, axis=2)
    if image.dtype != np.uint8:
        image = _stretch(image)
    return np.ascontiguousarray(image)


def _stretch(image: np.ndarray) -> np.ndarray:
    if image.dtype == bool:
        return image.astype(np.uint8) * 255
    values = image.astype(np.float64)
    finite = values[np.isfinite(values)]
    low, high = 0.0, 1.0
    unit = image.dtype.kind == "f" and finite.size and finite.min() >= 0 and finite.max() <= 1
    if not unit and finite.size:
        low, high = np.percentile(finite, (0.5, 99.5))
        if high <= low:
            low, high = finite.min(), max(finite.max(), finite.min() + 1)
    values = np.nan_to_num((values - low) / (high - low), nan=0.0, posinf=1.0, neginf=0.0)
    return np.rint(values.clip(0, 1) * 255).astype(np.uint8)


def enlargement(height: int, width: int) -> int:
    """The whole factor by which a tiny image is enlarged so that one can see its pixels; else 1."""
    return max(1, SMALL_SIDE // max(height, width, 1))


def resize(image: np.ndarray, scale: float) -> np.ndarray:
    """`image` (H, W, 3) uint8 by `scale`: enlarged to sharp squares, reduced by averaging."""
    if scale == 1:
        return image.copy()
    import cv2

    height, width = image.shape[:2]
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return cv2.resize(image, size, interpolation=cv2.INTER_NEAREST if scale > 1 else cv2.INTER_AREA)
