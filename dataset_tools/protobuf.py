"""The protocol buffer `tf.train.Example`: names with lists of bytes, floats or integers.

The wire format (protobuf.dev/programming-guides/encoding): a message is a row of fields, each a
number with a wire type, then a varint, 8 bytes, a length and so many bytes, or 4 bytes. Example has
the field 1, Features; that a map of Feature by name; Feature one of BytesList (1), FloatList (2)
and Int64List (3), whose field 1 holds the values, those of the latter two mostly packed.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from dataset_tools.errors import InputError

Features = dict[str, list[bytes] | list[float] | list[int]]
_VARINT, _EIGHT, _SIZED, _FOUR = 0, 1, 2, 5


def read_example(data: bytes, place: str) -> Features:
    """The lists of a serialised Example by their names. InputError if `data` is none."""
    try:
        return dict(
            _entry(entry)
            for features in _messages(memoryview(data), 1)
            for entry in _messages(features, 1)
        )
    except (ValueError, IndexError, struct.error) as error:
        raise InputError(
            f"{place}: not a tf.train.Example, though the checksum is right: {error}. Was the file "
            "written for another purpose?"
        ) from error


def _entry(entry: memoryview) -> tuple[str, list]:
    name, values = "", []
    for number, value in _fields(entry):
        if number == 1 and isinstance(value, memoryview):
            name = bytes(value).decode("utf-8")
        elif number == 2 and isinstance(value, memoryview):
            values = _values(value)
    return name, values


def _values(feature: memoryview) -> list:
    values: list = []
    for kind, content in _fields(feature):
        if not isinstance(content, memoryview):
            raise ValueError("a list of values is a number")
        for number, value in _fields(content):
            if number == 1:
                values += _OF_KIND[kind](value) if kind in _OF_KIND else []
    return values


def _bytes(value: memoryview | int) -> list[bytes]:
    if isinstance(value, int):
        raise ValueError("bytes are a number")
    return [bytes(value)]


def _floats(value: memoryview | int) -> list[float]:
    # One that is not packed comes as four bytes, too.
    if isinstance(value, int) or len(value) % 4:
        raise ValueError("floats are not of four bytes each")
    return list(struct.unpack(f"<{len(value) // 4}f", value))


def _integers(value: memoryview | int) -> list[int]:
    if isinstance(value, int):
        return [_signed(value)]
    found, position = [], 0
    while position < len(value):
        number, position = _varint(value, position)
        found.append(_signed(number))
    return found


_OF_KIND = {1: _bytes, 2: _floats, 3: _integers}


def _messages(data: memoryview, wanted: int) -> Iterator[memoryview]:
    for number, value in _fields(data):
        if number == wanted and isinstance(value, memoryview):
            yield value


def _fields(data: memoryview) -> Iterator[tuple[int, memoryview | int]]:
    """Number and value of each field: varints as numbers, all else as bytes."""
    position = 0
    while position < len(data):
        key, position = _varint(data, position)
        kind = key & 7
        if kind == _VARINT:
            value, position = _varint(data, position)
            yield key >> 3, value
            continue
        if kind == _SIZED:
            size, position = _varint(data, position)
        elif kind in (_EIGHT, _FOUR):
            size = 8 if kind == _EIGHT else 4
        else:
            raise ValueError(f"there is no wire type {kind}")
        if position + size > len(data):
            raise ValueError("a field is longer than what holds it")
        yield key >> 3, data[position : position + size]
        position += size


def _varint(data: memoryview, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, position
    raise ValueError("a number has more than ten bytes")


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value
