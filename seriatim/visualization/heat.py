"""Maps of numbers over pictures."""

from __future__ import annotations

import cv2
import numpy as np

from seriatim.visualization.image import resize, to_rgb8

_FOR, _AGAINST = (232, 56, 30), (40, 110, 240)  # RGB
_GROUND = 0.55  # the grey picture under the map keeps this share of its contrast


def draw_heat(image: np.ndarray, heat: np.ndarray, *, scale: float = 1.0) -> np.ndarray:
    """`image` in pale grey under `heat`: red where it is positive, blue where negative.

    Colours are full at the 99.5th percentile of the absolute values, so that a few wild pixels do
    not hide the others; a map of zeros leaves the picture grey.

    Args:
        image: (H, W[, C]) RGB of any number type.
        heat: (H, W).
        scale: size of the output relative to `image`.

    Returns:
        uint8 RGB.
    """
    picture = resize(to_rgb8(image), scale)
    size = picture.shape[1], picture.shape[0]
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)[:, :, None].astype(np.float32)
    grey = 255 * (1 - _GROUND) * 0.6 + grey * _GROUND
    strength = cv2.resize(heat.astype(np.float32), size, interpolation=cv2.INTER_LINEAR)[:, :, None]
    top = np.percentile(np.abs(heat), 99.5) or np.abs(heat).max()
    if top > 0:
        strength = np.clip(strength / top, -1, 1)
    color = np.where(strength >= 0, np.float32(_FOR), np.float32(_AGAINST))
    alpha = 0.85 * np.abs(strength)
    return np.rint(grey * (1 - alpha) + color * alpha).clip(0, 255).astype(np.uint8)
