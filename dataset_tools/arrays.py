"""Datasets that hold their pixels as arrays: from arrays to PNG files and records.

A format of that kind gives a `load` that makes `Arrays` of one source (a file, mostly), and
`plan_arrays` does the rest. Images are called by their number in the split: `train/00042.png`.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dataset_tools.coco import Category, Image, whole_image
from dataset_tools.errors import InputError
from dataset_tools.formats.base import Plan, sorted_categories
from dataset_tools.notes import Notes

if TYPE_CHECKING:
    import numpy as np

ITEM_BYTES = 16 << 20  # of pixels that are read, and written, at a time


@dataclass
class Arrays:
    """Images with the classes of each."""

    images: np.ndarray  # N×H×W (grey) or N×H×W×3 (RGB) or N×H×W×4 (RGBA), uint8
    labels: Sequence[Sequence[str]]  # none, one or several for each image
    where: str  # the file, for messages
    attributes: Sequence[dict[str, Any]] = ()  # of each image, if any
    remarks: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if len(self.labels) != len(self.images):
            raise InputError(
                f"{self.where}: {len(self.images)} images, but {len(self.labels)} labels. The "
                "files may be cut off, or not belong together."
            )


@dataclass(frozen=True)
class Source:
    """What `load` takes, and the split that its images are of."""

    key: Any
    split: str | None


@dataclass(frozen=True)
class Item:
    """Some consecutive images of a source."""

    source: Source
    start: int
    stop: int
    number: int  # of the first one in its split


def plan_arrays(
    path: Path,
    sources: Sequence[Source],
    load: Callable[[Any], Arrays],
    categories: Callable[[set[str]], list[Category]] = sorted_categories,
    remarks: Sequence[str] = (),
) -> Plan:
    """Plan to read arrays. `load` has to be picklable; each source is loaded once to see it."""
    reader = ArrayReader(load)
    items: list[Item] = []
    told = list(remarks)
    counts: dict[str | None, int] = {}
    for source in sources:
        arrays = reader.arrays(source)
        told += [remark for remark in arrays.remarks if remark not in told]
        number = counts.get(source.split, 0)
        total = len(arrays.images)
        counts[source.split] = number + total
        step = max(1, ITEM_BYTES // max(1, arrays.images[:1].nbytes))
        for start in range(0, total, step):
            items.append(Item(source, start, min(start + step, total), number + start))
    if not items:
        raise InputError(f"{path}: there is no image in it.")
    root = path if path.is_dir() else path.parent
    return Plan(root, items, reader, categories, remarks=told, embedded=True, parallel=False)


@dataclass
class ArrayReader:
    """Reads items; the source that was read last is kept."""

    load: Callable[[Any], Arrays]
    _kept: tuple[Source, Arrays] | None = None

    def arrays(self, source: Source) -> Arrays:
        """Images and labels of a source."""
        if self._kept is None or self._kept[0] != source:
            self._kept = None  # before the next one is loaded, so that there is one at a time
            self._kept = (source, self.load(source.key))
        return self._kept[1]

    def __call__(self, item: Item, notes: Notes) -> Iterator[Image]:
        arrays = self.arrays(item.source)
        height, width = arrays.images.shape[1:3]
        for index in range(item.start, item.stop):
            place = f"{arrays.where}[{index}]"
            name = f"{item.number + index - item.start:05}.png"
            image = Image(
                f"{item.source.split}/{name}" if item.source.split else name,
                width,
                height,
                [whole_image(label, width, height, place) for label in arrays.labels[index]],
                split=item.source.split,
                attributes=dict(arrays.attributes[index]) if arrays.attributes else {},
                source=place,
                content=png_bytes(arrays.images[index]),
            )
            if not image.annotations:
                notes.suspect("image without a label (kept)", place)
            yield image


def png_bytes(pixels: np.ndarray) -> bytes:
    """The PNG file of an image, H×W or H×W×3 (RGB) or H×W×4 (RGBA), uint8."""
    from PIL import Image as Pillow

    file = io.BytesIO()
    Pillow.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def as_pictures(values: np.ndarray, where: str) -> tuple[np.ndarray, list[str]]:
    """Arrays of images in any usual form as `Arrays.images` has them, and what had to be done.

    The channels may be the last or the second dimension, or be missing; rows of pixels alone are
    taken for square grey images. Numbers may be 0 to 255, 0 to 1 or -1 to 1 (the latter two only
    as floats). InputError for all else.
    """
    shaped, first = _in_order(values, where)
    pixels, second = _as_bytes(shaped, where)
    return pixels, [f"{where}: {remark}" for remark in (first, second) if remark]


def _in_order(values: np.ndarray, where: str) -> tuple[np.ndarray, str]:
    shape = values.shape
    if 0 in shape[1:]:
        raise InputError(f"{where}: images of {'×'.join(map(str, shape))} have no pixel.")
    if values.ndim == 2:
        side = round(shape[1] ** 0.5)
        if side * side == shape[1]:
            return values.reshape(-1, side, side), f"rows of {shape[1]} taken as {side}×{side} px"
    elif values.ndim == 3:
        return values, ""
    elif values.ndim == 4:
        # Four channels are rare: with 3 before and 4 behind, the image is 4 px wide.
        for channels in ((1, 3), (4,)):
            if shape[3] in channels:
                return (values[..., 0] if shape[3] == 1 else values), ""
            if shape[1] in channels:
                moved = values[:, 0] if shape[1] == 1 else values.transpose(0, 2, 3, 1)
                return moved, "the channels stand before the rows"
    raise InputError(
        f"{where}: an array of {'×'.join(map(str, shape))} is none of images. Wanted is N×H×W, "
        "N×H×W×3 or N×3×H×W."
    )


def _as_bytes(values: np.ndarray, where: str) -> tuple[np.ndarray, str]:
    import numpy as np

    if values.dtype == np.uint8:
        return values, ""
    if values.dtype == np.bool_:
        return values.astype(np.uint8) * np.uint8(255), "true is white"
    if values.dtype.kind not in "iuf":
        raise InputError(f"{where}: pixels are {values.dtype}, not numbers.")
    least, most = (float(values.min()), float(values.max())) if values.size else (0, 0)
    scale, offset, remark = 1.0, 0.0, ""
    if values.dtype.kind == "f":
        if least >= 0 and most <= 1:
            scale, remark = 255.0, "0 to 1 became 0 to 255"
        elif least >= -1 and most <= 1:
            scale, offset, remark = 127.5, 127.5, "-1 to 1 became 0 to 255"
    if not remark and not (least >= 0 and most <= 255):  # NaN included
        raise InputError(
            f"{where}: pixels go from {least:g} to {most:g}. Only 0 to 255, and as floats 0 to 1 "
            "or -1 to 1, are understood: how else to show them is yours to say. Scale them first."
        )
    pixels = np.empty(values.shape, np.uint8)
    step = max(1, ITEM_BYTES // max(1, values[:1].nbytes))
    for start in range(0, len(values), step):
        part = values[start : start + step]
        pixels[start : start + step] = np.rint(part * scale + offset) if remark else np.rint(part)
    return pixels, remark
