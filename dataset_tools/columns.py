"""Upright boxes and polygons of an image as columns, which is all that most label files hold.

To make a record of each object takes longer than to parse it. Where nobody looks at them one by
one, as on the way from labels to COCO, these stand for `Image.annotations`: a sequence of the same
records, each made when it is asked for, that `coco_lines` writes without making any.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, overload

from dataset_tools.coco import Annotation
from dataset_tools.rle import polygons_box


class Columns(Sequence[Annotation]):
    """Objects that have a category, perhaps attributes, and each one closed outline.

    Attributes:
        categories: of each object.
        attributes: of each; () if none has any. Several may share a dict.
    """

    categories: Sequence[str]
    attributes: Sequence[dict[str, Any]]

    @abstractmethod
    def record(self, index: int) -> Annotation:
        """The record of an object."""

    def said(self, index: int) -> dict[str, Any]:
        """Attributes of an object, a dict of its own."""
        return dict(self.attributes[index]) if self.attributes else {}

    def __len__(self) -> int:
        return len(self.categories)

    @overload
    def __getitem__(self, index: int) -> Annotation: ...
    @overload
    def __getitem__(self, index: slice) -> list[Annotation]: ...
    def __getitem__(self, index):
        numbers = range(len(self))[index]
        return list(map(self.record, numbers)) if isinstance(index, slice) else self.record(numbers)


@dataclass(slots=True)
class BoxColumns(Columns):
    """Boxes: finite XYXY px, as they stand in the file. Object i is in line `lines[i]` of it."""

    categories: Sequence[str]
    lefts: Sequence[float]
    tops: Sequence[float]
    rights: Sequence[float]
    bottoms: Sequence[float]
    file: str
    lines: Sequence[int]
    attributes: Sequence[dict[str, Any]] = ()

    def record(self, index: int) -> Annotation:
        """The record of a box."""
        sides = (self.lefts, self.tops, self.rights, self.bottoms)
        return Annotation(
            self.categories[index],
            tuple(side[index] for side in sides),
            attributes=self.said(index),
            source=f"{self.file}:{self.lines[index]}",
        )


@dataclass(slots=True)
class OutlineColumns(Columns):
    """Polygons, and boxes given by two of their corners: finite (x, y) px of each corner. `place`
    is that of all of them, to which the number in brackets is added."""

    categories: Sequence[str]
    points: Sequence[list[tuple[float, float]]]
    are_polygons: Sequence[bool]
    place: str
    attributes: Sequence[dict[str, Any]] = ()

    def record(self, index: int) -> Annotation:
        """The record of a polygon or box."""
        points = list(chain.from_iterable(self.points[index]))
        return Annotation(
            self.categories[index],
            polygons_box([points]),
            [points] if self.are_polygons[index] else None,
            attributes=self.said(index),
            source=f"{self.place}[{index}]",
        )
