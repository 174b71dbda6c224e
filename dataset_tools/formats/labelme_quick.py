"""LabelMe's files by their types: those that hold what labelme itself writes.

Of all others nothing is said here: `labelme` reads them key by key, and knows the place of a fault.
"""

from __future__ import annotations

from itertools import chain
from typing import Any

import msgspec
from msgspec import Raw, Struct

from dataset_tools.coco import Annotation
from dataset_tools.columns import OutlineColumns
from dataset_tools.rle import polygons_box

_LEAST_POINTS = {"polygon": 3, "rectangle": 2}


class QuickShape(Struct, forbid_unknown_fields=True, gc=False):
    """A shape that is a polygon or a rectangle, or else is to be read from its JSON."""

    label: str
    points: list[tuple[float, float]]
    group_id: str | int | None = None
    shape_type: str | None = "polygon"
    flags: dict[str, Any] | None = None
    description: str | None = None
    mask: None = None
    iscrowd: bool = False
    line_color: Any = None
    fill_color: Any = None

    def annotation(self, place: str) -> Annotation | None:
        """Its record; None if it is no such shape, or has a fault."""
        kind = self.shape_type or "polygon"
        if len(self.points) < _LEAST_POINTS.get(kind, 1e9) or not self.label.strip():
            return None
        polygon = list(chain.from_iterable(self.points))
        box = polygons_box([polygon])
        polygons = [polygon] if kind == "polygon" else None
        kept = self.kept()
        return Annotation(self.label, box, polygons, None, self.iscrowd, None, kept, None, place)

    @property
    def content(self) -> dict[str, Any]:
        """What it says, as it stands in the file."""
        content = msgspec.structs.asdict(self)
        return content | {"points": [list(point) for point in self.points]}

    def kept(self) -> dict[str, Any]:
        """Its attributes."""
        if self.group_id is None and not self.flags and not self.description:
            return {}
        kept = {
            "group_id": self.group_id,
            "flags": self.flags,
            "description": self.description,
        }
        return {key: value for key, value in kept.items() if value not in (None, "", {})}


def columns(shapes: list[QuickShape], place: str) -> OutlineColumns | None:
    """The records of shapes, if all are polygons or rectangles, and none is part of a group or a
    crowd."""
    kinds = [shape.shape_type or "polygon" for shape in shapes]
    for shape, kind in zip(shapes, kinds, strict=True):
        if (
            shape.group_id is not None
            or shape.iscrowd
            or len(shape.points) < _LEAST_POINTS.get(kind, 1e9)
            or not shape.label.strip()
        ):
            return None
    said = [shape.kept() for shape in shapes]
    return OutlineColumns(
        [shape.label for shape in shapes],
        [shape.points for shape in shapes],
        [kind == "polygon" for kind in kinds],
        place,
        said if any(said) else (),
    )


class QuickFile(Struct, forbid_unknown_fields=True, gc=False):
    """A label file."""

    shapes: list[QuickShape]
    version: Any = None
    flags: dict[str, Any] | None = None
    imagePath: str | None = None  # noqa: N815
    imageData: Raw | None = None  # noqa: N815
    imageHeight: int | None = None  # noqa: N815
    imageWidth: int | None = None  # noqa: N815
    lineColor: Any = None  # noqa: N815
    fillColor: Any = None  # noqa: N815

    @property
    def content(self) -> dict[str, Any]:
        """What it says of the image, as it stands in the file."""
        return {
            "flags": self.flags,
            "imagePath": self.imagePath,
            "imageHeight": self.imageHeight,
            "imageWidth": self.imageWidth,
        }


_decoder = msgspec.json.Decoder(QuickFile)


def read_quickly(content: bytes) -> QuickFile | None:
    """What a label file says; None if it has to be read key by key."""
    try:
        return _decoder.decode(content)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
