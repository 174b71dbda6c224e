"""Anti-aliased text in any alphabet that DejaVu Sans knows, as small masks to be blended in."""

from __future__ import annotations

from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from seriatim.visualization.palette import RGB


@cache
def _font(size: int, bold: bool) -> Any:
    """DejaVu Sans, which every matplotlib carries."""
    import matplotlib
    from PIL import ImageFont

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(matplotlib.get_data_path(), "fonts", "ttf", name)), size)


@lru_cache(maxsize=4096)
def text_mask(text: str, size: int, bold: bool = False) -> np.ndarray:
    """(h, w) float32 coverage in [0, 1] of one line of `text`; h depends on `size` (px) alone."""
    from PIL import Image, ImageDraw

    font = _font(size, bold)
    ascent, descent = font.getmetrics()
    width = max(1, int(np.ceil(font.getlength(text))))
    image = Image.new("L", (width, ascent + descent))
    ImageDraw.Draw(image).text((0, 0), text, fill=255, font=font)
    return np.asarray(image, dtype=np.float32) / 255


def shorten(text: str, size: int, width: int, bold: bool = False) -> str:
    """`text`, cut with an ellipsis in the middle so that it is at most `width` px wide."""
    if text_mask(text, size, bold).shape[1] <= width:
        return text
    low, high = 0, len(text)
    while low < high:
        keep = (low + high + 1) // 2
        if text_mask(_cut(text, keep), size, bold).shape[1] <= width:
            low = keep
        else:
            high = keep - 1
    return _cut(text, low)


def _cut(text: str, keep: int) -> str:
    tail = keep // 2
    return text[: keep - tail] + "…" + (text[-tail:] if tail else "")


def put_text(
    canvas: np.ndarray, text: str, left: int, top: int, size: int, color: RGB, bold: bool = False
) -> int:
    """Blend `text` into `canvas` (H, W, 3) uint8 RGB in place; returns the x where it ends."""
    mask = text_mask(text, size, bold)
    height, width = canvas.shape[:2]
    y0, x0 = max(0, top), max(0, left)
    y1, x1 = min(height, top + mask.shape[0]), min(width, left + mask.shape[1])
    if y0 < y1 and x0 < x1:
        cover = mask[y0 - top : y1 - top, x0 - left : x1 - left, None]
        under = canvas[y0:y1, x0:x1]
        canvas[y0:y1, x0:x1] = np.rint(under + cover * (np.asarray(color, np.float32) - under))
    return left + mask.shape[1]
