"""One long list of a JSON file, decoded piece by piece, so that it is never in memory as a whole.

A file is cut at places that look like the end of a member. Whether they are is not guessed: the
members up to there must be JSON, and so must be what is left of the file without the list. As the
grammar leaves no choice, both together say what the whole file says.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path
from typing import IO, Generic, TypeVar

import msgspec

Member = TypeVar("Member")

# Stands in `ListReader.rest` for the list that was read; no file holds it by chance.
PLACEHOLDER = -7_294_018_365_520_917_643
_AT_ONCE = 4 << 20  # bytes
_TRIES = 16  # at places that may be the end of the list or of a member of it
_NEXT_MEMBER = re.compile(rb"\s*,(?=\s*\{)")
_END_OF_LIST = re.compile(rb"\s*\]")


class ListReader(Generic[Member]):
    """The members, objects all of them, of the list `key` at the top of a JSON file.

    To be iterated over once, some thousand members at a time. Raises ValueError or MsgspecError if
    that is not possible; why is for others to find out.

    Args:
        path: the file, in UTF-8.
        key: name of the list.
        type_: of a member.
    """

    def __init__(self, path: str | Path, key: str, type_: type[Member]) -> None:
        self._path = path
        self._beginning = re.compile(rb'"%b"\s*:\s*\[' % key.encode())
        self._decode = msgspec.json.Decoder(list[type_]).decode
        self.rest = b""  # after the last member: the file with PLACEHOLDER instead of the list

    def __iter__(self) -> Iterator[list[Member]]:
        with open(self._path, "rb") as file:
            head, text = self._find(file)
            ended = False
            while not ended:
                found = self._next(text)
                if found is not None:
                    members, ended, text = found
                    yield members
                if not ended:
                    more = file.read(_AT_ONCE if found else max(_AT_ONCE, len(text)))
                    if found is None and not more:
                        raise ValueError("the list does not end")
                    text += more
            self.rest = b"%b %d %b%b" % (head, PLACEHOLDER, text, file.read())

    def _find(self, file: IO[bytes]) -> tuple[bytes, bytes]:
        """What is before the list, with its key, and the beginning of what is in it."""
        head = bytearray()
        while not (found := self._beginning.search(head, max(0, len(head) - _AT_ONCE - 99))):
            more = file.read(_AT_ONCE)
            if not more:
                raise ValueError("there is no such list")
            head += more
        return bytes(head[: found.end() - 1]), bytes(head[found.end() :])

    def _next(self, text: bytes) -> tuple[list[Member], bool, bytes] | None:
        """Some members, whether they are the last, and the text behind them. None: `text` does not
        hold a whole one."""
        if end := _END_OF_LIST.match(text):
            return [], True, text[end.end() :]
        members, ends = _places(text, _NEXT_MEMBER), _places(text, _END_OF_LIST)
        likely = islice(members, 1)
        for end, after, is_last in chain(
            ((*place, False) for place in likely),
            ((*place, True) for place in islice(ends, _TRIES)),
            ((*place, False) for place in islice(members, _TRIES)),
        ):
            try:
                return self._decode(b"[%b]" % text[:end]), is_last, text[after:]
            except msgspec.ValidationError:
                raise  # JSON up to there, but not of the type: another end makes no difference
            except msgspec.DecodeError:
                continue
        return None


def _places(text: bytes, follower: re.Pattern[bytes]) -> Iterator[tuple[int, int]]:
    """Ends of objects behind which `follower` stands, and ends of that, the last ones first."""
    end = len(text)
    while (end := text.rfind(b"}", 0, end)) >= 0:
        if found := follower.match(text, end + 1):
            yield end + 1, found.end()
