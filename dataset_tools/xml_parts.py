"""A large XML file as parts that can be read apart: so that several processes share one file."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from mmap import ACCESS_READ, mmap
from pathlib import Path

PART_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True)
class Part:
    """Bytes `start` to `end` of a file, which are whole children of its root."""

    path: Path
    start: int
    end: int
    line: int  # in which it begins

    def content(self) -> bytes:
        """An XML file of this part alone, its elements in the lines that they have there."""
        with open(self.path, "rb") as file:
            file.seek(self.start)
            text = file.read(self.end - self.start)
        return b"<%b>%b%b</%b>" % (_ROOT, b"\n" * (self.line - 1), text, _ROOT)


@dataclass(frozen=True, slots=True)
class Rest:
    """A file without the bytes `start` to `end`, instead of which it has `lines` blank lines."""

    path: Path
    start: int
    end: int
    lines: int

    def content(self) -> bytes:
        """The XML file."""
        with open(self.path, "rb") as file:
            head = file.read(self.start)
            file.seek(self.end)
            return b"%b%b%b" % (head, b"\n" * self.lines, file.read())


_ROOT = b"root"
_DECLARATION = re.compile(rb"<\?xml [^<>]*encoding=[\"']utf-8[\"'][^<>]*\?>", re.IGNORECASE)


def parts_of(path: Path, tag: str) -> list[Part | Rest]:
    """Parts of a file that together have all its elements, in their order; cut behind children of
    the root that are called `tag`, and not nested in others of that name. [] if there is too little
    to be cut, or comments, declarations or CDATA might hide where that can be done."""
    if path.stat().st_size < 2 * PART_BYTES:
        return []
    end_tag = f"</{tag}>".encode()
    with open(path, "rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as text:
        first = re.compile(rb"<%b[\s/>]" % tag.encode()).search(text)
        last = text.rfind(end_tag)
        declaration = re.match(
            rb"<\?xml [^<>]*encoding=[\"']utf-8[\"'][^<>]*\?>", text, re.IGNORECASE
        )
        if first is None or last < first.start() or declaration is None:
            return []
        begin, end = first.start(), last + len(end_tag)
        if any(text.find(mark, declaration.end()) >= 0 for mark in (b"<!", b"<?", b"\r")):
            return []
        line = first_line = 1 + text[:begin].count(b"\n")
        parts: list[Part | Rest] = []
        for start, stop in _cuts(text, begin, end, end_tag):
            parts.append(Part(path, start, stop, line))
            line += text[start:stop].count(b"\n")
    return [*parts, Rest(path, begin, end, line - first_line)]


def _cuts(text: mmap, begin: int, end: int, end_tag: bytes) -> Iterator[tuple[int, int]]:
    while begin < end:
        found = text.find(end_tag, begin + PART_BYTES, end)
        stop = found + len(end_tag) if found >= 0 else end
        yield begin, stop
        begin = stop
