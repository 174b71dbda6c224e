"""The label files of YOLO: where they are, and what their lines say. See `yolo`."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from dataset_tools.coco import Annotation, Image
from dataset_tools.columns import BoxColumns
from dataset_tools.errors import InputError
from dataset_tools.files import read_quickly
from dataset_tools.formats.base import decode_text, read_text
from dataset_tools.images import image_size
from dataset_tools.notes import Notes
from dataset_tools.packed import Mapped, PackedStrings
from dataset_tools.rle import polygons_box
from dataset_tools.rotated import quad_annotation

TASKS = ("detect", "segment", "pose", "obb")
SPLITS = ("train", "val", "test")


@dataclass(slots=True)
class Item:
    """An image (path relative to the image root) and its split."""

    image: str
    split: str | None

    def __str__(self) -> str:
        return f"{self.split or ''}\0{self.image}"

    @classmethod
    def of(cls, text: str) -> Item:
        """The item that is this text as `str`."""
        split, _, image = text.partition("\0")
        return cls(image, split or None)


def packed_items(items: Iterable[Item]) -> Sequence[Item]:
    """A hundred thousand items in little more memory than their letters."""
    return Mapped(Item.of, PackedStrings(map(str, items)))


def label_of(image: str) -> str:
    """Path of the label file of an image: the last folder `images` in it becomes `labels`."""
    return _label_of_stem(os.path.splitext(image)[0])


def _label_of_stem(stem: str) -> str:
    before, images, after = f"/{stem}".rpartition("/images/")
    return f"{before}/{'labels/' if images else ''}{after}.txt".lstrip("/")


@dataclass(frozen=True)
class Pose:
    """The keypoints of a data.yaml."""

    count: int
    dimensions: int  # 2 or 3
    names: tuple[str, ...]  # of those classes that have no own
    own_names: dict[int, tuple[str, ...]] | None  # by class; only those classes have keypoints
    skeleton: tuple[tuple[int, int], ...]
    flips: tuple[int, ...] | None  # for each keypoint, that which it is in a mirror

    def names_of(self, number: int) -> tuple[str, ...]:
        """Keypoints of a class; () if it has none."""
        return self.names if self.own_names is None else self.own_names.get(number, ())


@dataclass
class LabelFinder:
    """Where the labels of an image are."""

    root: Path
    folder: Path | None  # given by the user
    base: Path  # of the dataset

    def candidates(self, image: str) -> Iterator[str]:
        """Where it may be, the likeliest first."""
        stem = os.path.splitext(image)[0]
        if self.folder is not None:
            yield f"{self.folder}/{stem}.txt"
            yield f"{self.folder}/{stem.rpartition('/')[2]}.txt"
            return
        yield f"{self.root}/{_label_of_stem(stem)}"
        yield f"{self.root}/{stem}.txt"
        # The image root may be an images/ folder itself, with labels/ beside it.
        yield f"{self.root.parent}/labels/{stem}.txt"
        yield f"{self.base}/labels/{stem}.txt"
        yield f"{self.base}/{stem}.txt"

    def find(self, image: str) -> str | None:
        """The image's label file, if there is one."""
        return next(filter(os.path.isfile, self.candidates(image)), None)

    def read(self, image: str) -> tuple[str, str] | None:
        """The image's label file and the text in it, if there is one."""
        for file in self.candidates(image):
            try:
                if content := read_quickly(file):
                    return file, decode_text(content)
            except FileNotFoundError:
                continue
            except (OSError, ValueError):
                pass
            if os.path.isfile(file):  # it is empty, or has a fault, which is told here
                return file, read_text(file)
        return None


@dataclass
class Reader:
    """Reads an image's label file; see the module."""

    root: Path
    finder: LabelFinder
    names: dict[int, str] | None
    task: str = "auto"  # auto: boxes and polygons, each line by its length
    pose: Pose | None = None

    def __call__(self, item: Item, notes: Notes) -> Iterator[Image]:
        path = f"{self.root}/{item.image}"
        width, height = image_size(path)
        image = Image(item.image, width, height, split=item.split, source=path)
        label = self.finder.read(item.image)
        if label is None:
            notes.suspect("image without a label file (kept, without objects)", item.image)
        elif boxes := self._boxes(*label, image):
            image.annotations = boxes
        else:
            image.annotations = [
                self._annotation(words, image, place, notes) for place, words in label_lines(*label)
            ]
        yield image

    def _boxes(self, file: str, text: str, image: Image) -> BoxColumns | None:
        """The boxes of a file that holds nothing else; None of one that has to be read line by
        line."""
        if self.task not in ("auto", "detect"):
            return None
        lines = [line.split() for line in text.splitlines()]
        if set(map(len, lines)) != {5}:
            return None
        try:
            numbers = list(map(float, chain.from_iterable(lines)))
            if not math.isfinite(sum(numbers)):
                return None
            categories = [self._category(number, "") for number in numbers[::5]]
        except (ValueError, InputError):
            return None  # told line by line
        width, height = image.width, image.height
        xs = [(centre, size / 2) for centre, size in zip(numbers[1::5], numbers[3::5], strict=True)]
        ys = [(centre, size / 2) for centre, size in zip(numbers[2::5], numbers[4::5], strict=True)]
        return BoxColumns(
            categories,
            [(centre - half) * width for centre, half in xs],
            [(centre - half) * height for centre, half in ys],
            [(centre + half) * width for centre, half in xs],
            [(centre + half) * height for centre, half in ys],
            file,
            range(1, len(lines) + 1),
        )

    def _annotation(self, words: list[str], image: Image, place: str, notes: Notes) -> Annotation:
        numbers = _numbers(words, place)
        category = self._category(numbers[0], place)
        shares = numbers[1:]
        if self.task == "pose":
            return self._posed(int(numbers[0]), category, shares, image, place)
        if self.task == "obb":
            return _turned(category, shares, image, place, notes)
        if len(shares) in (4, 5) and self.task != "segment":
            return _boxed(category, shares, image, place)
        if len(shares) >= 6 and len(shares) % 2 == 0 and self.task != "detect":
            polygon = in_pixels(shares, image)
            return Annotation(category, polygons_box([polygon]), [polygon], source=place)
        meant = {
            "detect": "a box (5, or 6 with a score)",
            "segment": "a polygon (an odd number of 7 or more)",
        }
        raise InputError(
            f"{place}: {len(words)} numbers are neither "
            + meant.get(self.task, " nor ".join(meant.values()))
            + ". Mend or remove the line"
            + ("." if self.task == "auto" else f", or mend --task {self.task}.")
        )

    def _posed(
        self, number: int, category: str, shares: list[float], image: Image, place: str
    ) -> Annotation:
        assert self.pose is not None
        length = 4 + self.pose.count * self.pose.dimensions
        if len(shares) not in (length, length + 1):
            raise InputError(
                f"{place}: {len(shares) + 1} numbers, but kpt_shape "
                f"[{self.pose.count}, {self.pose.dimensions}] asks for {length + 1} (one more with "
                "a score). Mend the line or kpt_shape."
            )
        annotation = _boxed(category, [*shares[:4], *shares[length:]], image, place)
        points = [
            _keypoint(shares[start : start + self.pose.dimensions], image, place)
            for start in range(4, length, self.pose.dimensions)
        ]
        if self.pose.names_of(number) or any(point[2] for point in points):
            annotation.keypoints = [value for point in points for value in point]
        return annotation

    def _category(self, value: float, place: str) -> str:
        if self.names is not None and (name := self.names.get(value)):  # 2.0 finds 2
            return name
        if value < 0 or not float(value).is_integer():
            raise InputError(f"{place}: the class {value:g} is not a whole number from 0.")
        number = int(value)
        if self.names is None:
            return str(number)
        if number not in self.names:
            raise InputError(
                f"{place}: there is no name for class {number}: {len(self.names)} names are known, "
                f"the last for class {max(self.names, default=-1)}. Mend the label or the names."
            )
        return self.names[number]


def label_lines(file: str, text: str) -> Iterator[tuple[str, list[str]]]:
    """Place and words of each line that is not empty."""
    for number, line in enumerate(text.splitlines(), start=1):
        if words := line.split():
            yield f"{file}:{number}", words


def in_pixels(shares: list[float], image: Image) -> list[float]:
    size = (image.width, image.height)
    return [share * size[index % 2] for index, share in enumerate(shares)]


def _boxed(category: str, shares: list[float], image: Image, place: str) -> Annotation:
    cx, cy, width, height = shares[:4]
    left, right = (cx - width / 2) * image.width, (cx + width / 2) * image.width
    top, bottom = (cy - height / 2) * image.height, (cy + height / 2) * image.height
    attributes: dict[str, Any] = {"score": shares[4]} if len(shares) == 5 else {}
    # By position, which takes half the time.
    box = (left, top, right, bottom)
    return Annotation(category, box, None, None, False, None, attributes, None, place)


def _turned(
    category: str, shares: list[float], image: Image, place: str, notes: Notes
) -> Annotation:
    if len(shares) not in (8, 9):
        raise InputError(
            f"{place}: {len(shares) + 1} numbers are no rotated box (9, or 10 with a score). Mend "
            "or remove the line, or say by --task what the labels are."
        )
    attributes = {"score": shares[8]} if len(shares) == 9 else {}
    quad = in_pixels(shares[:8], image)
    annotation, right_angled = quad_annotation(category, quad, attributes, place)
    if not right_angled:
        notes.suspect(
            "rotated box whose corners are no rectangle (kept; rbox is the one near it)", place
        )
    return annotation


def _keypoint(numbers: list[float], image: Image, place: str) -> tuple[float, float, int]:
    """x, y in px and visibility of `x y` or `x y visibility` in shares."""
    x, y = numbers[:2]
    if len(numbers) == 2:
        visibility = 0 if min(x, y) < 0 or (x, y) == (0, 0) else 2
    elif numbers[2] in (0, 1, 2):
        visibility = int(numbers[2])
    else:
        raise InputError(
            f"{place}: a keypoint's visibility is {numbers[2]:g}, not 0, 1 or 2. Mend the line, or "
            "kpt_shape if its keypoints are pairs."
        )
    if not visibility:
        return 0, 0, 0
    return x * image.width, y * image.height, visibility


def _numbers(words: list[str], place: str) -> list[float]:
    try:
        numbers = list(map(float, words))
        if math.isfinite(sum(numbers)):
            return numbers
    except ValueError:
        pass
    return [_number(word, place) for word in words]


def _number(word: str, place: str) -> float:
    try:
        value = float(word)
        if math.isfinite(value):
            return value
    except ValueError:
        pass
    raise InputError(f"{place}: {word!r} is not a number. Mend or remove the line.")
