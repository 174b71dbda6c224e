"""Plain pictures of inputs for the gates' evidence."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch

SIDE = 320  # px of a tile
_COLOURS = ((0, 220, 255), (80, 200, 80), (255, 120, 60), (200, 80, 220), (60, 120, 255))  # BGR


def input_tile(
    image: torch.Tensor, boxes: np.ndarray, classes: Sequence[int], bgr: bool
) -> np.ndarray:
    """(SIDE, SIDE, 3) uint8 BGR: an input (C, H, W) 0–255 with its (N, 4) XYXY boxes by class."""
    pixels = image.detach().float().clamp(0, 255).byte().permute(1, 2, 0).cpu().numpy()
    pixels = pixels[..., :3] if pixels.shape[-1] >= 3 else np.repeat(pixels[..., :1], 3, axis=-1)
    pixels = np.ascontiguousarray(pixels if bgr else pixels[..., ::-1])
    scale = SIDE / max(pixels.shape[:2])
    height, width = (max(1, round(side * scale)) for side in pixels.shape[:2])
    pixels = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA)
    for box, number in zip(np.asarray(boxes), classes, strict=True):
        x0, y0, x1, y1 = (round(float(v) * scale) for v in box[:4])
        cv2.rectangle(
            pixels, (x0, y0), (x1, y1), _COLOURS[int(number) % len(_COLOURS)], 1, cv2.LINE_AA
        )
    tile = np.full((SIDE, SIDE, 3), 40, np.uint8)
    tile[:height, :width] = pixels
    return tile


def save_sheet(tiles: Sequence[np.ndarray], path: Path, columns: int = 4) -> None:
    """The tiles in rows of `columns`, as one PNG."""
    blank = np.full((SIDE, SIDE, 3), 255, np.uint8)
    padded = [*tiles, *[blank] * (-len(tiles) % columns)]
    rows = [np.hstack(padded[i : i + columns]) for i in range(0, len(padded), columns)]
    cv2.imwrite(str(path), np.vstack(rows))
