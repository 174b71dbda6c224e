"""Pieces of XML that are all of one shape, read by a pattern that is learned from the first.

Label files of one tool differ in their texts and in nothing else. Where a piece of plain XML (no
attributes, entities, comments, prefixes) is matched whole by the pattern of a shape, its texts are
those that a parser would give; where not, the parser has to be asked.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain
from typing import Any

_TEXT = "([^<&\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]*)"  # else no XML, or not the text itself
_TAG = re.compile(r"(\s*)<(/?)([A-Za-z_][A-Za-z0-9_.-]*)>" + _TEXT)
_DECLARATION = re.compile(
    r"<\?xml version=[\"']1\.0[\"']( encoding=[\"'](utf|UTF)-8[\"'])?\s*\?>\s*"
)
_VALUE = '([^"<&\x00-\x1f\ufffe\uffff]*)'  # in a value a line break means a blank
_ATTRIBUTE = re.compile(rf'[ \t\r\n]+([A-Za-z_][A-Za-z0-9_.-]*)="{_VALUE}"')
_MOST_SHAPES = 20


def plain_text(content: bytes) -> str | None:
    """Text of an XML file after its declaration, if it may be read by shapes; else None."""
    if b"\r" in content or b"]]>" in content:
        return None
    try:
        text = content.decode()
    except UnicodeDecodeError:
        return None
    return text[declared.end() :] if (declared := _DECLARATION.match(text)) else text


class Shapes:
    """Shapes of pieces of one kind, learned as they come.

    `use(paths)` is asked once for each shape, with the paths of its texts ("bndbox/xmin"); what it
    returns (None: this shape is not for us) comes with every match.
    """

    def __init__(self, use: Callable[[tuple[str, ...]], Any]) -> None:
        self._use = use
        self._known: list[tuple[re.Pattern[str], Any]] = []
        self._rows: list[_Row] = []
        self._tried = self._rows_tried = 0

    def match(self, piece: str) -> tuple[Any, tuple[str, ...]] | None:
        """What `use` made of the piece's shape, and the piece's texts; None if it has none."""
        for pattern, use in self._known:
            if found := pattern.fullmatch(piece):
                return use, found.groups()
        if self._tried < _MOST_SHAPES:
            self._tried += 1
            learned = _learn(piece)
            use = self._use(learned[1]) if learned else None
            if use is not None:
                self._known.append((learned[0], use))
                return self.match(piece)
        return None

    def match_rows(self, text: str, name: str) -> tuple[Any, list[tuple[str, ...]], int] | None:
        """As `match`, of a text that is nothing but elements called `name`, all of one shape to the
        last blank: what `use` made of it, the texts of each, the lines that each takes."""
        for row in self._rows:
            found = row.pattern.findall(text)
            if len(found) * row.length + sum(map(len, chain.from_iterable(found))) == len(text):
                return row.use, found, row.lines
        if self._rows_tried < _MOST_SHAPES:
            self._rows_tried += 1
            first, end, _ = text.partition(f"</{name}>")
            learned = _learn_exactly(first + end)
            use = (
                self._use(tuple(p.removeprefix(f"{name}/") for p in learned[1]))
                if learned
                else None
            )
            if use is not None:
                self._rows.append(_Row(use, *learned[0]))
                return self.match_rows(text, name)
        return None


class AttributeShapes:
    """As `Shapes`, of elements called `tag` that have attributes, and neither texts nor children;
    or of their start tags alone.

    `use(names)` is asked once for each shape, with the names of its attributes.
    """

    def __init__(
        self, tag: str, use: Callable[[tuple[str, ...]], Any], start_alone: bool = False
    ) -> None:
        self._use = use
        blank, attribute = r"[ \t\r\n]*", _ATTRIBUTE.pattern.replace("(", "(?:")
        end = ">" if start_alone else rf"(?:/>|>{blank}</{tag}>)"
        self._element = re.compile(rf"{blank}<{tag}((?:{attribute})*){blank}{end}")
        self._known: list[_Row] = []
        self._tried = 0

    def match_rows(self, text: str) -> tuple[Any, list[tuple[str, ...]], int] | None:
        """As `Shapes.match_rows`: elements that are alike to the last blank."""
        for row in self._known:
            found = row.pattern.findall(text)
            if len(found) * row.length + sum(map(len, chain.from_iterable(found))) == len(text):
                return row.use, found, row.lines
        first = self._element.match(text)
        if first is None or self._tried >= _MOST_SHAPES:
            return None
        self._tried += 1
        attributes = list(_ATTRIBUTE.finditer(text, first.start(1), first.end(1)))
        names = tuple(attribute[1] for attribute in attributes)
        use = self._use(names) if 1 < len(names) == len(set(names)) else None
        if use is None:
            return None
        starts = [0, *(attribute.end(2) for attribute in attributes)]
        ends = [*(attribute.start(2) for attribute in attributes), first.end()]
        pieces = [text[start:end] for start, end in zip(starts, ends, strict=True)]
        pattern = re.compile(_VALUE.join(map(re.escape, pieces)))
        fixed = "".join(pieces)
        self._known.append(_Row(use, pattern, len(fixed), fixed.count("\n")))
        return self.match_rows(text)


@dataclass(frozen=True, slots=True)
class _Row:
    """Elements of one shape, to the last blank."""

    use: Any
    pattern: re.Pattern[str]
    length: int  # of all but the texts
    lines: int


def _learn_exactly(
    element: str,
) -> tuple[tuple[re.Pattern[str], int, int], tuple[str, ...]] | None:
    """Pattern, length without texts, number of lines, and paths of texts, of an element."""
    learned = _learn(element)
    found = learned and learned[0].fullmatch(element)
    if not found or learned[0].groups < 2:
        return None
    pieces = []
    end = 0
    for group in range(1, learned[0].groups + 1):
        pieces.append(element[end : found.start(group)])
        end = found.end(group)
    pieces.append(element[end:])
    pattern = re.compile(_TEXT.replace("^", r"^\n").join(map(re.escape, pieces)))
    fixed = "".join(pieces)
    return (pattern, len(fixed), fixed.count("\n")), learned[1]


def _learn(piece: str) -> tuple[re.Pattern[str], tuple[str, ...]] | None:
    """Pattern and paths of texts of a piece, which is a row of whole elements."""
    tags = list(_TAG.finditer(piece))
    if not tags or sum(len(tag[0]) for tag in tags) != len(piece):
        return None
    pattern, paths, inside = "", [], []
    for tag, following in zip(tags, [*tags[1:], None], strict=True):
        _, closing, name, text = tag.groups()
        is_leaf = not closing and following is not None and following[2] and following[3] == name
        if closing and inside and inside[-1] == name:
            inside.pop()
        elif closing:
            return None
        elif not closing:
            inside.append(name)
        pattern += rf"<{closing}{re.escape(name)}>"
        if is_leaf:
            paths.append("/".join(inside))
            pattern += _TEXT
        elif text.strip():
            return None
        else:
            pattern += r"\s*"
    # A path that is there twice is a list, which texts by path cannot tell.
    if inside or len(set(paths)) < len(paths):
        return None
    return re.compile(r"\s*" + pattern), tuple(paths)
