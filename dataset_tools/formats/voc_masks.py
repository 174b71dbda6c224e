"""The segmentation PNGs of Pascal VOC. See `voc`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dataset_tools.coco import Annotation, Category
from dataset_tools.errors import InputError
from dataset_tools.formats.base import read_text
from dataset_tools.notes import Notes
from dataset_tools.rle import Box

if TYPE_CHECKING:
    import numpy as np

VOID = 255
OBJECTS, CLASSES = "SegmentationObject", "SegmentationClass"
LABELMAP = "labelmap.txt"
# The challenge's classes, in the order of their numbers in SegmentationClass.
VOC_CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa"),
    *("train", "tvmonitor"),
)
_LABEL = re.compile(r"^(.+):(\d+,\d+,\d+)?:([^:]*):([^:]*)$")
_SAME_OVERLAP = 0.5


@dataclass(frozen=True)
class Pngs:
    """The PNGs of an image, of objects and of classes."""

    objects: Path | None = None
    classes: Path | None = None

    def __bool__(self) -> bool:
        return bool(self.objects or self.classes)

    def below(self, base: Path) -> Pngs:
        """With full paths."""
        return Pngs(*(path and base / path for path in (self.objects, self.classes)))


NO_PNGS = Pngs()


@dataclass(frozen=True)
class Categories:
    """For `Plan.categories`: those of labelmap.txt in its order, then others that were seen."""

    declared: tuple[str, ...]

    def __call__(self, seen: set[str]) -> list[Category]:
        others = sorted(seen - set(self.declared))
        return [Category(name) for name in (*self.declared, *others)]


def find_pngs(names: Iterable[str]) -> dict[str, Pngs]:
    """The PNGs among files, by their path below SegmentationObject or SegmentationClass without the
    suffix."""
    found: dict[str, dict[str, Path]] = {}
    for name in names:
        if not name.lower().endswith(".png"):
            continue
        for folder in (OBJECTS, CLASSES):
            _, there, key = ("/" + name).rpartition(f"/{folder}/")
            if there:
                found.setdefault(key[:-4], {})[folder] = Path(name)
    return {key: Pngs(files.get(OBJECTS), files.get(CLASSES)) for key, files in found.items()}


def read_labelmap(base: Path) -> tuple[str, ...]:
    """Names in labelmap.txt but the first, which is the background; () if there is no such file."""
    file = base / LABELMAP
    if not file.is_file():
        return ()
    matches = (_LABEL.match(line.strip()) for line in read_text(file).splitlines())
    names = [match[1].strip() for match in matches if match]
    repeated = {name for name in names if names.count(name) > 1}
    if repeated:
        raise InputError(f"{file}: {min(repeated)!r} is there twice. Rename one of them.")
    return tuple(names[1:])


def with_masks(
    annotations: list[Annotation],
    pngs: Pngs,
    size: tuple[int, int],
    names: Sequence[str],
    notes: Notes,
) -> list[Annotation]:
    """The objects of an XML file with their masks; masks that are of none become objects.

    `size` is width and height; `names` are those of classes, from number 1.
    """
    import numpy as np

    from dataset_tools.rle import encode_mask, rle_box

    classes = None if pngs.classes is None else _numbers(pngs.classes, size)
    owners = classes if pngs.objects is None else _numbers(pngs.objects, size)
    source = pngs.objects or pngs.classes
    assert owners is not None
    free = list(annotations)
    more: list[Annotation] = []
    for number in np.unique(owners[(owners != 0) & (owners != VOID)]).tolist():
        mask = owners == number
        rle = encode_mask(mask)
        box = rle_box(rle)
        assert box is not None
        name = _class_of(mask, classes, names, f"{source}: object {number}")
        index = number - 1 if pngs.objects is not None else -1
        own = _matching(annotations, free, index, name, box)
        if own is None:
            if annotations:
                notes.suspect(
                    "mask that no object of the XML file has (kept)", f"{source}: {number}"
                )
            own = Annotation(name or "object", box, source=f"{source}: {number}")
            more.append(own)
        else:
            free = [annotation for annotation in free if annotation is not own]
        own.segmentation, own.area = rle, int(mask.sum())
    return annotations + more


def _matching(
    annotations: list[Annotation], free: list[Annotation], index: int, name: str, box: Box
) -> Annotation | None:
    """The object of a mask: that of its number, if it may be; else that with the most overlap."""

    def overlap(annotation: Annotation) -> float:
        fits = not name or annotation.category == name
        return _overlap(annotation.bbox, box) if fits and annotation.bbox else 0

    numbered = annotations[index] if 0 <= index < len(annotations) else None
    if numbered is not None and not any(annotation is numbered for annotation in free):
        numbered = None
    if numbered is not None and overlap(numbered) >= _SAME_OVERLAP:
        return numbered
    best = max(free, key=overlap, default=None)
    if best is not None and overlap(best) >= _SAME_OVERLAP:
        return best
    return numbered if numbered is not None and overlap(numbered) > 0 else None


def _overlap(first: Box, second: Box) -> float:
    """Intersection over union."""
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    if width <= 0 or height <= 0:
        return 0
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (first, second))
    return width * height / (areas - width * height)


def _class_of(
    mask: np.ndarray, classes: np.ndarray | None, names: Sequence[str], place: str
) -> str:
    """The class that most of the mask's pixels have; "" if none is known."""
    import numpy as np

    if classes is None:
        return ""
    numbers = classes[mask]
    numbers = numbers[(numbers != 0) & (numbers != VOID)]
    if not numbers.size:
        return ""
    number = int(np.bincount(numbers).argmax())
    if number > len(names):
        raise InputError(
            f"{place}: is of class {number}, but {len(names)} classes are known. Write their names "
            f"into a {LABELMAP}, one `name:::` a line, the background first."
        )
    return names[number - 1]


def _numbers(file: Path, size: tuple[int, int]) -> np.ndarray:
    """The HW numbers in a PNG with a palette. InputError if it has none, or another size."""
    import numpy as np
    from PIL import Image as Pillow

    try:
        with Pillow.open(file) as png:
            mode, numbers = png.mode, np.asarray(png)
    except (OSError, SyntaxError, ValueError, Pillow.DecompressionBombError) as error:
        raise InputError(f"{file}: cannot be read as an image: {error}") from error
    if mode not in ("P", "L", "1"):
        raise InputError(
            f"{file}: is of mode {mode}, but VOC's segmentations have a palette: one number a "
            "pixel. Save it so, or convert its folder as masks."
        )
    if numbers.shape != size[::-1]:
        raise InputError(
            f"{file}: is {numbers.shape[1]}×{numbers.shape[0]}, but its image {size[0]}×{size[1]}."
        )
    return numbers.astype(np.uint8)
