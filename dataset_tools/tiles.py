"""Where overlapping tiles lie in an image: one geometry for cutting datasets and for inference."""

from __future__ import annotations

import math


def tile_origins(length: int, tile: int, overlap: float) -> list[int]:
    """Left (or top) edges of tiles of `tile` px that cover `length` px.

    The tiles are spread evenly, so that neighbours share at least `overlap` (a share of the tile,
    0 ≤ overlap < 1) and none reaches over the image's edge. An image that fits into one tile gets
    one at 0, which is then larger than the image.
    """
    if length < 1 or tile < 1:
        raise ValueError(f"lengths are positive, not {length} px and {tile} px")
    if not 0 <= overlap < 1:
        raise ValueError(f"the overlap is a share in [0, 1), not {overlap}")
    room = length - tile
    if room <= 0:
        return [0]
    stride = max(1, math.floor(tile * (1 - overlap)))
    steps = math.ceil(room / stride)
    return [round(step * room / steps) for step in range(steps + 1)]
