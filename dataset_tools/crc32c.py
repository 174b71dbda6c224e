"""CRC-32C (Castagnoli, RFC 3720), as TFRecord files have it, by numpy on many bytes at a time.

A checksum goes byte by byte, but that of a joined text follows from those of its parts: the first
one has to be moved on by as many zero bytes as the second part has, which is a linear map of its 32
bits. So a long text is cut into rows whose checksums are made side by side, and then joined.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

_POLYNOMIAL = 0x82F63B78  # reflected
_SIDE_BY_SIDE = 2048  # bytes from which on rows pay
_MASK_DELTA = 0xA282EAD8


def masked_crc32c(data: bytes) -> int:
    """The checksum as TFRecord files store it: turned by 15 bits, and a constant added."""
    crc = crc32c(data)
    return (((crc >> 15) | (crc << 17)) + _MASK_DELTA) & 0xFFFFFFFF


def crc32c(data: bytes) -> int:
    """CRC-32C of `data`."""
    crc = 0xFFFFFFFF
    if len(data) >= _SIDE_BY_SIDE:
        rows = int(len(data) ** 0.5)
        length = len(data) // rows
        crc = _of_rows(data[: rows * length], rows, length)
        data = data[rows * length :]
    table = _list()
    for byte in data:
        crc = table[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return crc ^ 0xFFFFFFFF


def _of_rows(data: bytes, rows: int, length: int) -> int:
    import numpy as np

    table = _table()
    columns = np.ascontiguousarray(np.frombuffer(data, np.uint8).reshape(rows, length).T)
    states = np.zeros(rows, np.uint32)
    states[0] = 0xFFFFFFFF
    for column in columns:
        states = table[(states ^ column) & 0xFF] ^ (states >> np.uint32(8))
    moved = _moved(length)
    crc = 0
    for state in states.tolist():
        crc = _apply(moved, crc) ^ state
    return crc


@functools.cache
def _table() -> np.ndarray:
    import numpy as np

    return np.array(_list(), np.uint32)


@functools.cache
def _list() -> list[int]:
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = (byte >> 1) ^ (_POLYNOMIAL if byte & 1 else 0)
        table.append(byte)
    return table


@functools.lru_cache(maxsize=64)
def _moved(length: int) -> tuple[int, ...]:
    """What each of the 32 bits of a checksum becomes when `length` zero bytes follow."""
    one = tuple(_list()[(1 << bit) & 0xFF] ^ ((1 << bit) >> 8) for bit in range(32))
    result = tuple(1 << bit for bit in range(32))
    while length:
        if length & 1:
            result = tuple(_apply(one, value) for value in result)
        one = tuple(_apply(one, value) for value in one)
        length >>= 1
    return result


def _apply(columns: tuple[int, ...], value: int) -> int:
    result, bit = 0, 0
    while value:
        if value & 1:
            result ^= columns[bit]
        value >>= 1
        bit += 1
    return result
