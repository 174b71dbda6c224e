"""CVAT's images as most of them are, with upright boxes alone, read by their shape.

Of all others nothing is said here: they are the parser's, and `cvat_elements` says what they mean.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import isfinite
from operator import itemgetter
from typing import Any

from dataset_tools.coco import Annotation, Image
from dataset_tools.columns import BoxColumns
from dataset_tools.formats.cvat_elements import SIDES, said_of
from dataset_tools.xml_shapes import AttributeShapes
from dataset_tools.xml_tree import Node

_MOST_REMEMBERED = 1000
_CAREFUL = {"rotation", "group_id"}  # attributes of boxes that are more than a box


class QuickImages:
    """For `stream_xml_quickly`.

    `image_of` makes the record of an image from the node of its element, None if it is dropped.
    """

    def __init__(self, path: str, image_of: Callable[[Node], Image | None]) -> None:
        self._path = path
        self._image_of = image_of
        self._heads = AttributeShapes("image", lambda names: names, start_alone=True)
        self._boxes = AttributeShapes("box", _BoxShape.of)

    def __call__(self, text: str, line: int) -> Sequence[Image] | None:
        """The image of an element's text up to its end tag, or none; None for the parser's."""
        head, closing, body = text.partition(">")
        matched = self._heads.match_rows(head + closing) if closing else None
        if matched is None or len(matched[1]) != 1:
            return None
        names, (values,), lines = matched
        annotations: Sequence[Annotation] | None = []
        if body := body.rstrip(" \t\r\n"):
            annotations = self._annotations(body, line + lines)
        if annotations is None:
            return None
        image = self._image_of(Node("image", line, dict(zip(names, values, strict=True))))
        if image is None:
            return []
        image.annotations = annotations
        return [image]

    def _annotations(self, body: str, line: int) -> BoxColumns | None:
        matched = self._boxes.match_rows(body)
        if matched is None:
            return None
        shape, rows, lines = matched
        line += body.count("\n", 0, body.index("<"))
        return shape.annotations(rows, self._path, line, lines)


class _BoxShape:
    """Where the label and corners of boxes are among the attributes of their shape."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self._names = names
        self._main = itemgetter(*map(names.index, ("label", *SIDES)))
        others = [i for i, name in enumerate(names) if name not in ("label", *SIDES)]
        self._rest = itemgetter(*others) if others else lambda _: ()
        self._said: dict[Any, dict[str, Any]] = {}  # most boxes say the same few things

    @classmethod
    def of(cls, names: tuple[str, ...]) -> _BoxShape | None:
        """By the names of attributes; None for shapes that are not read quickly."""
        is_quick = {"label", *SIDES} <= set(names) and not _CAREFUL & set(names)
        return cls(names) if is_quick else None

    def annotations(
        self, rows: list[tuple[str, ...]], path: str, line: int, lines: int
    ) -> BoxColumns | None:
        """The records of boxes that take so many lines each; None if there is a fault in one."""
        labels, *sides = zip(*map(self._main, rows), strict=True)
        try:
            corners = [list(map(float, side)) for side in sides]
        except ValueError:
            return None
        labels = list(map(str.strip, labels))
        if not all(labels) or not isfinite(sum(map(sum, corners))):
            return None
        places = [line + index * lines for index in range(len(rows))]
        return BoxColumns(labels, *corners, path, places, list(map(self._said_by, rows)))

    def _said_by(self, values: tuple[str, ...]) -> dict[str, Any]:
        said = self._said.get(rest := self._rest(values))
        if said is None:
            said = said_of(Node("box", 0, dict(zip(self._names, values, strict=True))))
            if len(self._said) < _MOST_REMEMBERED:
                self._said[rest] = said
        return said
