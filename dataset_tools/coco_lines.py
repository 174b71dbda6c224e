"""Records as lines of a COCO file: XYWH, no noise in the numbers, all but the ids that only the
whole file can give.

Lines are made by whichever process read the labels, and put together by one. Encoders know the keys
of these types beforehand, which makes them several times as fast as dicts; columns are encoded a
whole chunk of images at once.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate, chain, groupby, repeat
from math import floor
from operator import attrgetter, sub
from typing import TYPE_CHECKING, Any

from msgspec import UNSET, Struct

from dataset_tools.coco import (
    IMAGE_EXTRAS,
    LARGEST,
    Annotation,
    Image,
    annotation_area,
    annotation_box,
    encode_json,
    json_encoder,
)
from dataset_tools.columns import BoxColumns, Columns, OutlineColumns
from dataset_tools.errors import InputError

if TYPE_CHECKING:
    import numpy as np

_TIDY_BELOW = 1e9  # px, px²: a float still knows millionths of these
_NEAR = 1e4  # px: areas of boxes within this are such


@dataclass(slots=True)
class Lines:
    """Images of one split with their annotations, as lines of JSON that lack their brace `{`, the
    category and, unless they are kept, the ids.

    Attributes:
        images: an image a line.
        names, places: of each image, for messages.
        counts: annotations of each image.
        annotations: an annotation a line, in the order of the images.
        categories: names of categories, in the order in which they are first met.
        numbers: for each annotation the place of its category in `categories`.
    """

    images: bytes
    names: list[str]
    places: list[str]
    counts: array[int]
    annotations: bytes
    categories: list[str]
    numbers: array[int]

    def without(self, left_out: set[int]) -> Lines:
        """All but the images at these places."""
        kept = [index for index in range(len(self.names)) if index not in left_out]
        ends = list(accumulate(self.counts, initial=0))
        objects = [i for index in kept for i in range(ends[index], ends[index + 1])]
        images, annotations = self.images.splitlines(True), self.annotations.splitlines(True)
        return replace(
            self,
            images=b"".join(map(images.__getitem__, kept)),
            names=[self.names[index] for index in kept],
            places=[self.places[index] for index in kept],
            counts=array("I", [self.counts[index] for index in kept]),
            annotations=b"".join(map(annotations.__getitem__, objects)),
            numbers=array("I", [self.numbers[index] for index in objects]),
        )


@dataclass(slots=True)
class Encoded:
    """Some images, in the order of their splits' first ones."""

    splits: dict[str | None, Lines] = field(default_factory=dict)
    files: list[Image] = field(default_factory=list)  # those that come with their image file


class _ImageEntry(Struct, gc=False, omit_defaults=True):
    """An entry of "images"."""

    file_name: str
    width: int
    height: int
    id: Any = UNSET
    license: Any = UNSET
    flickr_url: Any = UNSET
    coco_url: Any = UNSET
    date_captured: Any = UNSET
    attributes: Any = UNSET


class _AnnotationEntry(Struct, gc=False, omit_defaults=True):
    """An entry of "annotations", but for its category."""

    id: Any = UNSET
    image_id: Any = UNSET
    bbox: Any = UNSET  # XYWH px
    segmentation: Any = UNSET
    keypoints: Any = UNSET
    num_keypoints: Any = UNSET
    area: float = UNSET
    iscrowd: int = UNSET
    attributes: Any = UNSET


def encode_images(images: Sequence[Image], keep_ids: bool = False) -> Encoded:
    """The lines of some images. InputError for what COCO JSON cannot express, or if ids that are to
    be kept are not there."""
    by_split: dict[str | None, list[Image]] = {}
    for image in images:
        by_split.setdefault(image.split, []).append(image)
    return Encoded(
        {split: lines_of(some, keep_ids) for split, some in by_split.items()},
        [image for image in images if image.content is not None],
    )


def lines_of(images: list[Image], keep_ids: bool = False) -> Lines:
    """As `encode_images`, whatever the splits of the images are."""
    for image in images:
        _check(image, keep_ids)
    numbers: dict[str, int] = {}
    names = chain.from_iterable(map(_categories, images))
    of_each = array("I", [numbers.setdefault(name, len(numbers)) for name in names])
    return Lines(
        images=b"".join(_image_line(image, keep_ids) for image in images),
        names=[image.file_name for image in images],
        places=[image.source for image in images],
        counts=array("I", [len(image.annotations) for image in images]),
        annotations=b"".join(_annotation_lines(images, keep_ids)),
        categories=list(numbers),
        numbers=of_each,
    )


def _categories(image: Image) -> Sequence[str]:
    annotations = image.annotations
    if isinstance(annotations, Columns):
        return annotations.categories
    return [annotation.category for annotation in annotations]


def _check(image: Image, keep_ids: bool) -> None:
    where = image.source or image.file_name
    if not image.file_name:
        raise InputError(f"{where}: the image has no file name.")
    if image.width < 1 or image.height < 1:
        raise InputError(
            f"{where}: the size of {image.file_name} is {image.width}×{image.height}, "
            "but an image has at least one pixel. Give the images or mend the recorded size."
        )
    if keep_ids:
        for record, place in ((image, where), *((a, _place(a, image)) for a in image.annotations)):
            if record.id is None:
                raise InputError(f"{place}: ids are to be kept, but there is none here.")


def _image_line(image: Image, keep_ids: bool) -> bytes:
    """The entry of an image; attributes that COCO has keys for stand there."""
    entry = _ImageEntry(image.file_name, image.width, image.height)
    if image.attributes:
        attributes = dict(image.attributes)
        for key in IMAGE_EXTRAS:
            if key in attributes:
                setattr(entry, key, attributes.pop(key))
        if attributes:
            entry.attributes = attributes
    line = encode_json(entry, image.source or image.file_name)[1:] + b"\n"
    return b'"id":%d,%b' % (image.id, line) if keep_ids else line


def _annotation_lines(images: Sequence[Image], keep_ids: bool) -> Iterator[bytes]:
    """Those of one image after the other; columns in a row are encoded together."""
    filled = (image for image in images if image.annotations)
    for kind, some in groupby(filled, lambda image: type(image.annotations)):
        row = list(some)
        lines = None
        if kind in _ENCODERS and not keep_ids:
            lines = _ENCODERS[kind]([image.annotations for image in row])
        if lines is None:
            lines = b"".join(_record_lines(image, keep_ids) for image in row)
        yield lines


def _box_lines(columns: Sequence[BoxColumns]) -> bytes | None:
    """The lines of columns that are not empty; None if they have to be written record by record."""
    left, top, right, bottom = sides = [
        list(chain.from_iterable(map(attrgetter(side), columns)))
        for side in ("lefts", "tops", "rights", "bottoms")
    ]
    if not _are_near(min(map(min, sides)), max(map(max, sides))):
        return None
    if all(set(map(type, side)) == {int} for side in sides):
        width, height = list(map(sub, right, left)), list(map(sub, bottom, top))
        areas = [w * h if w > 0 and h > 0 else 0 for w, h in zip(width, height, strict=True)]
        values = zip(left, top, width, height, areas, _ends(columns), strict=True)
        return _filled(b'"bbox":[%d,%d,%d,%d],"area":%d,"iscrowd":0%b', values)
    import numpy as np

    corners = np.array(sides, np.float64)
    sizes = corners[2:] - corners[:2]
    areas = np.where((sizes > 0).all(axis=0), sizes.prod(axis=0), 0)
    boxes = _rows(np.concatenate([corners[:2], sizes]).T)
    values = zip(boxes, _numbers(areas), _ends(columns), strict=True)
    return _filled(b'"bbox":[%b],"area":%b,"iscrowd":0%b', values)


def _outline_lines(columns: Sequence[OutlineColumns]) -> bytes | None:
    """As `_box_lines`."""
    import numpy as np

    outlines = [points for some in columns for points in some.points]
    are_polygons = list(chain.from_iterable(some.are_polygons for some in columns))
    lengths = np.array(list(map(len, outlines)))
    flat = chain.from_iterable(chain.from_iterable(outlines))
    points = np.fromiter(flat, np.float64, 2 * lengths.sum()).reshape(-1, 2)
    if not _are_near(points.min(), points.max()):
        return None
    firsts = np.cumsum(lengths) - lengths
    lowest, highest = (f.reduceat(points, firsts) for f in (np.minimum, np.maximum))
    sizes = highest - lowest
    lasts = firsts + lengths - 1
    following, before = np.arange(1, len(points) + 1), np.arange(-1, len(points) - 1)
    following[lasts], before[firsts] = firsts, lasts
    crossed = points[:, 0] * (points[following, 1] - points[before, 1])
    areas = np.where(are_polygons, abs(np.add.reduceat(crossed, firsts)) / 2, sizes.prod(axis=1))
    text = json_encoder().encode(outlines)[3:-3].replace(b"]],[[", b"\n").replace(b"],[", b",")
    masks = [
        b',"segmentation":[[%b]]' % polygon if is_polygon else b""
        for polygon, is_polygon in zip(text.split(b"\n"), are_polygons, strict=True)
    ]
    boxes = _rows(np.concatenate([lowest, sizes], axis=1))
    values = zip(boxes, masks, _numbers(areas), _ends(columns), strict=True)
    return _filled(b'"bbox":[%b]%b,"area":%b,"iscrowd":0%b', values)


_ENCODERS = {BoxColumns: _box_lines, OutlineColumns: _outline_lines}


def _are_near(lowest: float, highest: float) -> bool:
    """Whether a float knows the millionths of all areas between such coordinates."""
    return lowest > -_NEAR and highest < _NEAR


def _filled(line: bytes, values: Iterable[tuple[Any, ...]]) -> bytes:
    """A `line` for each of the values: all at once is three times as fast as one by one."""
    values = list(values)
    return line * len(values) % tuple(chain.from_iterable(values))


def _ends(columns: Sequence[Columns]) -> Iterator[bytes]:
    """The end of each object's line: its attributes."""
    known: dict[int, bytes] = {}  # by the `id` of the attributes
    for some in columns:
        if not some.attributes:
            yield from repeat(b"}\n", len(some))
        for index, said in enumerate(some.attributes):
            end = known.get(id(said))
            if end is None:
                text = encode_json(said, some.record(index).source)
                known[id(said)] = end = b',"attributes":%b}\n' % text if said else b"}\n"
            yield end


def _rows(rows: np.ndarray) -> list[bytes]:
    """Tidy JSON of each row of a 2D array that has at least one, without brackets."""
    return _tidy_json(rows)[2:-2].split(b"],[")


def _numbers(values: np.ndarray) -> list[bytes]:
    """Tidy JSON of each number of an array that has at least one."""
    return _tidy_json(values)[1:-1].split(b",")


def _tidy_json(values: np.ndarray) -> bytes:
    """What `tidy` makes of all numbers, as JSON."""
    import numpy as np

    text = json_encoder().encode((np.floor(values * 1e6 + 0.5) / 1e6).tolist())
    return text.replace(b".0,", b",").replace(b".0]", b"]")


def _record_lines(image: Image, keep_ids: bool) -> bytes:
    """Lines of annotations, entry by entry. InputError names the annotation as `encode_json`
    does."""
    if not image.annotations:
        return b""
    entries = [_annotation_entry(annotation) for annotation in image.annotations]
    if keep_ids:
        for entry, annotation in zip(entries, image.annotations, strict=True):
            entry.id, entry.image_id = annotation.id, image.id
    try:
        lines = json_encoder().encode_lines(entries)
        if b"null" not in lines:
            return lines[1:].replace(b"\n{", b"\n")
    except (UnicodeEncodeError, TypeError, OverflowError):
        pass
    return b"".join(
        encode_json(entry, _place(annotation, image))[1:] + b"\n"
        for entry, annotation in zip(entries, image.annotations, strict=True)
    )


def _place(annotation: Annotation, image: Image) -> str:
    return annotation.source or image.source or image.file_name


def _annotation_entry(annotation: Annotation) -> _AnnotationEntry:
    """The entry of an annotation."""
    segmentation, box, area = annotation.segmentation, annotation.bbox, annotation.area
    if box is None:
        box = annotation_box(annotation)
    xywh, own_area = (UNSET, 0) if box is None else _xywh_and_area(*box)
    if area is None:
        area = tidy(annotation_area(annotation)) if segmentation else own_area
    else:
        area = tidy(area)
    entry = _AnnotationEntry(
        UNSET,
        UNSET,
        xywh,
        segmentation or UNSET,
        UNSET,
        UNSET,
        area,
        1 if annotation.iscrowd else 0,
        annotation.attributes or UNSET,
    )
    if annotation.keypoints is not None:
        entry.keypoints = annotation.keypoints
        entry.num_keypoints = sum(visibility > 0 for visibility in annotation.keypoints[2::3])
    return entry


def _xywh_and_area(
    left: float, top: float, right: float, bottom: float
) -> tuple[tuple[float, ...], float]:
    """COCO's box of an XYXY one and its area, which is 0 if it is inverted; tidy."""
    width, height = right - left, bottom - top
    if not (-_NEAR < left <= right < _NEAR and -_NEAR < top <= bottom < _NEAR):
        area = width * height if width > 0 and height > 0 else 0
        return (tidy(left), tidy(top), tidy(width), tidy(height)), tidy(area)
    area = width * height
    if type(area) is int:
        return (left, top, width, height), area
    # What `tidy` does with such numbers, without a call for each.
    x, y = floor(left * 1e6 + 0.5), floor(top * 1e6 + 0.5)
    w, h, a = floor(width * 1e6 + 0.5), floor(height * 1e6 + 0.5), floor(area * 1e6 + 0.5)
    xywh = (
        x / 1e6 if x % 1_000_000 else x // 1_000_000,
        y / 1e6 if y % 1_000_000 else y // 1_000_000,
        w / 1e6 if w % 1_000_000 else w // 1_000_000,
        h / 1e6 if h % 1_000_000 else h // 1_000_000,
    )
    return xywh, a / 1e6 if a % 1_000_000 else a // 1_000_000


def tidy(value: float) -> float:
    """Without the noise that XYXY ↔ XYWH adds: a millionth of a pixel is less than any label
    means. Whole numbers become integers."""
    if -_TIDY_BELOW < value < _TIDY_BELOW:
        if type(value) is int:
            return value
        if type(value) is float:
            # As round(value, 6), but for ties, in a third of the time.
            millionths = floor(value * 1e6 + 0.5)
            return millionths / 1e6 if millionths % 1_000_000 else millionths // 1_000_000
    if isinstance(value, int) and abs(value) <= LARGEST:
        return value
    try:
        value = round(float(value), 6)
    except OverflowError:  # a whole number of hundreds of digits, which JSON's writer refuses
        return math.inf
    return int(value) if value.is_integer() and abs(value) <= LARGEST else value
