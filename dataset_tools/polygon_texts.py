"""Polygons in the JSON text that they are kept as, looked at without being decoded."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

_LONGEST = 200  # bytes from comma to comma: a float of fewer digits and no exponent is finite


def closed(texts: Sequence[bytes | msgspec.Raw]) -> tuple[bytes, np.ndarray]:
    """JSON texts one after the other, each closed by a byte that is 0, which JSON does not have;
    and the (N,) int64 places behind those."""
    block = b"\0".join((*texts, b""))
    return block, np.flatnonzero(np.frombuffer(block, np.uint8) == 0) + 1


def are_polygons(block: bytes, ends: np.ndarray) -> np.ndarray:
    """Which JSON texts are lists of polygons of three or more corners: `[[1, 2, …], …]`.

    Args:
        block, ends: N texts of valid JSON (or empty), as `closed` gives them.

    Returns:
        (N,) bool. False may also be said of polygons with exponents or hundreds of digits.
    """
    text = np.frombuffer(block, np.uint8)
    commas = np.flatnonzero(text == ord(","))
    # Behind Z there are brackets and, of what no list of numbers has, letters and braces.
    marks = np.flatnonzero(text > ord("Z"))
    is_bracket = np.isin(text[marks], (ord("["), ord("]")))
    brackets, others = marks[is_bracket], [marks[~is_bracket]]
    others += [np.flatnonzero(text == ord(sign)) for sign in '"E' if sign.encode() in block]
    counts, of_text, place = _in_texts(brackets, ends)
    opening = text[brackets] == ord("[")

    # The outer brackets, and within them pairs that open and close.
    expected = np.where(place % 2 == 1, place < counts[of_text] - 1, place == 0)
    fine = (counts >= 4) & (counts % 2 == 0)
    fine[of_text[opening != expected]] = False
    fine[np.searchsorted(ends, np.concatenate(others), side="right")] = False

    # An odd number of commas in each pair, five or more, and one between two pairs.
    pairs = np.flatnonzero(opening & (place > 0) & fine[of_text])
    commas_before = np.searchsorted(commas, brackets)
    inside = commas_before[pairs + 1] - commas_before[pairs]
    fine[of_text[pairs[(inside < 5) | (inside % 2 == 0)]]] = False
    within = np.bincount(of_text[pairs], inside, minlength=len(ends))
    fine &= _in_texts(commas, ends)[0] - within == counts // 2 - 2

    edges = np.concatenate([[0], commas, [len(text) - 1]])
    long = np.flatnonzero(np.diff(edges) > _LONGEST)
    for side in (edges[long], edges[long + 1]):
        fine[np.searchsorted(ends, side, side="right")] = False
    return fine


def _in_texts(places: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """How many of the places are in each text; for each place its text, and its number there."""
    before = np.searchsorted(places, ends)
    counts = np.diff(before, prepend=0)
    of_text = np.repeat(np.arange(len(ends)), counts)
    return counts, of_text, np.arange(len(places)) - (before - counts)[of_text]
