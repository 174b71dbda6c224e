"""Which points of a dense detector answer for which object, as a picture."""

from __future__ import annotations

import cv2
import numpy as np

from seriatim.visualization.palette import color


def draw_assignment(
    image: np.ndarray,
    *,
    boxes: np.ndarray,
    points: np.ndarray,
    objects: np.ndarray,
    quality: np.ndarray,
) -> np.ndarray:
    """Each object's box and the points assigned to it, in one colour; better points are larger.

    Args:
        image: (H, W, 3) uint8 RGB.
        boxes: (N, 4) float XYXY px, the object's box, repeated for each of its points.
        points: (N, 2) float XY px.
        objects: (N,) int, the object that each point answers for.
        quality: (N,) float in [0, 1], the point's soft target.

    Returns:
        A new (H, W, 3) uint8 RGB picture.
    """
    canvas = np.ascontiguousarray(image).copy()
    for box, number in {int(n): (b, int(n)) for b, n in zip(boxes, objects, strict=True)}.values():
        x0, y0, x1, y1 = (round(float(v)) for v in box)
        cv2.rectangle(canvas, (x0, y0), (x1, y1), color(number), 1)
    for (x, y), number, value in zip(points, objects, quality, strict=True):
        radius = 1 + round(3 * float(value))
        cv2.circle(
            canvas, (round(float(x)), round(float(y))), radius, color(int(number)), -1, cv2.LINE_AA
        )
    return canvas
