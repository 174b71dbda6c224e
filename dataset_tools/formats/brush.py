"""Label Studio's run-length encoding of brush masks.

It is that of the library @thi.ng/rle-pack, by its published description: a stream of bits, the
highest of each byte first. It begins with 32 bits for the number of words, 5 for the size of a word
less 1, and four times 4 for the widths of a count less 1. Then come chunks: 1 bit (1: one word
repeated, 0: as many words as counted), 2 bits that choose the width, the count less 1, the word or
words. The words are the bytes of an RGBA image of the label's size, row by row; its alpha is the
mask.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

_WORD_BITS = 8
_COUNT_WIDTHS = (3, 4, 8, 16)  # the library's own choice


def decode_brush(data: bytes, width: int, height: int) -> np.ndarray:
    """The boolean HW mask of the pixels that the brush covers at least by half (alpha > 127).

    ValueError if `data` is no such stream or of another size of image.
    """
    import numpy as np

    bits = _Bits(data)
    total = bits.take(32)
    if total != width * height * 4:
        raise ValueError(f"it is of {total} bytes, not of {width}×{height} pixels with 4 each")
    if (word := bits.take(5) + 1) != _WORD_BITS:
        raise ValueError(f"its words are of {word} bits, not {_WORD_BITS}")
    widths = [bits.take(4) + 1 for _ in range(4)]
    pixels = np.empty(total, np.uint8)
    done = 0
    while done < total:
        repeated = bits.take(1)
        count = bits.take(widths[bits.take(2)]) + 1
        if done + count > total:
            raise ValueError("it goes on behind the last pixel")
        if repeated:
            pixels[done : done + count] = bits.take(_WORD_BITS)
        else:
            words = bits.take(count * _WORD_BITS).to_bytes(count, "big")
            pixels[done : done + count] = np.frombuffer(words, np.uint8)
        done += count
    return pixels.reshape(height, width, 4)[:, :, 3] > 127


def encode_brush(mask: np.ndarray) -> bytes:
    """The stream of a boolean HW mask; all four channels are 255 where it is true, else 0."""
    import numpy as np

    flat = np.asarray(mask, bool).ravel()
    starts = np.flatnonzero(np.diff(flat, prepend=not flat[0]))
    runs = np.diff(starts, append=flat.size) * 4
    stream = [f"{flat.size * 4:032b}{_WORD_BITS - 1:05b}"]
    stream += [f"{width - 1:04b}" for width in _COUNT_WIDTHS]
    for start, run in zip(starts.tolist(), runs.tolist(), strict=True):
        word = f"{255 * int(flat[start]):08b}"
        while run:
            count = min(run, 1 << _COUNT_WIDTHS[-1])
            choice, width = next(
                (i, width) for i, width in enumerate(_COUNT_WIDTHS) if count <= 1 << width
            )
            stream.append(f"1{choice:02b}{count - 1:0{width}b}{word}")
            run -= count
    bits = "".join(stream)
    bits += "0" * (-len(bits) % 8)
    return int(bits, 2).to_bytes(len(bits) // 8, "big")


class _Bits:
    """Bytes read bit by bit."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._position = 0

    def take(self, count: int) -> int:
        """The next `count` bits as a number. ValueError if there are not as many."""
        end = self._position + count
        if end > 8 * len(self._data):
            raise ValueError("it ends too early")
        part = self._data[self._position // 8 : -(-end // 8)]
        value = int.from_bytes(part, "big") >> (-end % 8) & ((1 << count) - 1)
        self._position = end
        return value
