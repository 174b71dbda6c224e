"""Sequences of a hundred thousand names that take little more memory than their letters."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from itertools import pairwise
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
        if index < 0:
            index += len(self)
            if index < 0:
                raise IndexError(index)
        ends = self._ends
        return self._block[ends[index] : ends[index + 1]].decode("utf-8", "surrogateescape")

    def __iter__(self) -> Iterator[str]:
        block = self._block
        for start, end in pairwise(self._ends):
            yield block[start:end].decode("utf-8", "surrogateescape")


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


class KeyedStrings:
    """Positions in `strings` by a key of theirs; the index is made when one is first asked for."""

    def __init__(self, strings: Sequence[str], key_of: Callable[[str], str]) -> None:
        self._strings = strings
        self._key_of = key_of
        self._next = 0  # position after that of the key which was there last

    @cached_property
    def _index(self) -> PackedIndex:
        return PackedIndex(map(self._key_of, self._strings))

    def positions(self, key: str) -> list[int]:
        """Ascending positions of all strings that have this key."""
        return [i for i in self._index.positions(key) if self._key_of(self._strings[i]) == key]

    def __contains__(self, key: str) -> bool:
        """Whether a string has this key; without an index for keys in the order of the strings."""
        if self._next < len(self._strings) and self._key_of(self._strings[self._next]) == key:
            self._next += 1
            return True
        found = self.positions(key)
        if found:
            self._next = found[0] + 1
        return bool(found)


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
