"""Colours that stay apart, also for colour-blind people, and stay with their category."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np

RGB = tuple[int, int, int]

# Hues of Okabe and Ito's palette (jfly.uni-koeln.de/color), lightened where a thin line on a
# photograph would be lost, in an order in which neighbours differ in lightness as well as in hue.
_FIRST: tuple[RGB, ...] = (
    (255, 176, 0),  # amber
    (0, 158, 255),  # azure
    (255, 80, 60),  # vermilion
    (0, 220, 170),  # mint
    (230, 95, 220),  # orchid
    (250, 240, 80),  # lemon
    (110, 100, 255),  # iris
    (120, 225, 255),  # ice
    (200, 120, 50),  # copper
    (150, 220, 50),  # lime
)

# Outcomes of a comparison: apart for red-green blindness too, because their lightness differs.
HIT: RGB = (90, 200, 255)
MISS: RGB = (255, 176, 0)
FALSE_ALARM: RGB = (240, 40, 130)
WRONG_CLASS: RGB = (250, 245, 110)
IGNORED: RGB = (160, 160, 160)


@cache
def color(index: int) -> RGB:
    """The colour of category (or instance) number `index`; the same on every call."""
    if 0 <= index < len(_FIRST):
        return _FIRST[index]
    # Golden-ratio steps in hue never come round; lightness alternates in three steps.
    hue = 2 * np.pi * ((index * 0.61803398875) % 1.0)
    return _oklch_to_rgb((0.80, 0.66, 0.90)[index % 3], (0.15, 0.19, 0.11)[index % 3], hue)


def category_colors(metadata: Any, count: int) -> list[RGB]:
    """One colour per category: the dataset's own `thing_colors` where it has them, else ours."""
    own: Sequence[Sequence[int]] = getattr(metadata, "thing_colors", None) or ()
    return [tuple(int(c) for c in own[i]) if i < len(own) else color(i) for i in range(count)]


def readable_on(background: RGB) -> RGB:
    """Black or white, whichever has more contrast with `background` (WCAG's luminance)."""
    linear = (np.asarray(background) / 255.0) ** 2.2
    return (0, 0, 0) if float(linear @ (0.2126, 0.7152, 0.0722)) > 0.18 else (255, 255, 255)


def _oklch_to_rgb(lightness: float, chroma: float, hue: float) -> RGB:
    """OKLCH (Ottosson 2020) to 8-bit sRGB; chroma shrinks until the colour exists."""
    while True:
        a, b = chroma * np.cos(hue), chroma * np.sin(hue)
        lms = np.array(
            [
                lightness + 0.3963377774 * a + 0.2158037573 * b,
                lightness - 0.1055613458 * a - 0.0638541728 * b,
                lightness - 0.0894841775 * a - 1.2914855480 * b,
            ]
        )
        linear = (
            np.array(
                [
                    [4.0767416621, -3.3077115913, 0.2309699292],
                    [-1.2684380046, 2.6097574011, -0.3413193965],
                    [-0.0041960863, -0.7034186147, 1.7076147010],
                ]
            )
            @ lms**3
        )
        if chroma < 0.01 or (linear.min() >= -1e-3 and linear.max() <= 1.001):
            break
        chroma *= 0.95
    linear = linear.clip(0, 1)
    srgb = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    red, green, blue = (int(v) for v in np.rint(255 * srgb))
    return red, green, blue
