"""PNGs with a palette, whose pixels are numbers."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


def colour(number: int) -> tuple[int, int, int]:
    """RGB of a number, 0 to 255, in the palette of the VOC challenge: bits 0, 3, 6 of the number
    are the highest of red, bits 1, 4, 7 of green, and so on; neighbours look different."""
    channels = [0, 0, 0]
    for step in range(8):
        for channel in range(3):
            channels[channel] |= (number >> channel & 1) << (7 - step)
        number >>= 3
    return channels[0], channels[1], channels[2]


@functools.cache
def _palette() -> list[int]:
    return [value for number in range(256) for value in colour(number)]


def save_numbers(path: Path, numbers: np.ndarray) -> None:
    """Write an HW array of numbers from 0 to 255 as a PNG with that palette; folders are made."""
    import numpy as np
    from PIL import Image

    png = Image.fromarray(numbers.astype(np.uint8), mode="L")
    png.putpalette(_palette())
    path.parent.mkdir(parents=True, exist_ok=True)
    png.save(path)
