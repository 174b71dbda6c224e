"""Sequences of a hundred thousand names that take little more memory than their letters."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, overload
from zlib import crc32


class PackedStrings(Sequence[str]):
    """Strings as one block of bytes: those of files' names, whatever bytes these hold."""

    def __init__(self, strings: Iterable[str]) -> None:
        block = bytearray()
        self._ends = array("Q", [0])
        for string in strings:
            block += string.encode("utf-8", "surrogateescape")
            self._ends.append(len(block))
        self._block = bytes(block)

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index):
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index %= len(self)
        piece = self._block[self._ends[index] : self._ends[index + 1]]
        return piece.decode("utf-8", "surrogateescape")

    def __iter__(self) -> Iterator[str]:
        return map(self.__getitem__, range(len(self)))


class PackedIndex:
    """Positions of strings in a sequence by a key of theirs; 8 bytes each.

    Keys are found by their CRC, the same in every process: whoever asks compares what is there.
    """

    def __init__(self, keys: Iterable[str]) -> None:
        sums = array("I", map(_checksum, keys))
        self._order = array("I", sorted(range(len(sums)), key=sums.__getitem__))
        self._sums = array("I", map(sums.__getitem__, self._order))

    def positions(self, key: str) -> list[int]:
        """Ascending positions of all strings that may have this key."""
        wanted = _checksum(key)
        first = last = bisect_left(self._sums, wanted)
        while last < len(self._sums) and self._sums[last] == wanted:
            last += 1
        return self._order[first:last].tolist()


class Mapped(Sequence):
    """`function` of the members of a sequence, called when one is asked for."""

    def __init__(self, function: Callable[[Any], Any], members: Sequence[Any]) -> None:
        self._function = function
        self._members = members

    def __len__(self) -> int:
        return len(self._members)

    def __getitem__(self, index):
        if isinstance(index, slice):
            return list(map(self._function, self._members[index]))
        return self._function(self._members[index])


def _checksum(text: str) -> int:
    return crc32(text.encode("utf-8", "surrogatepass"))
