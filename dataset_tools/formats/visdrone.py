"""VisDrone-DET: one text file per image, a line per box.

`left,top,width,height,score,category,truncation,occlusion`, in pixels from 0, as the toolkit's
readme has it (https://github.com/VisDrone/VisDrone2018-DET-toolkit). In labels, score is no score:
0 says that the evaluation ignores the box. Category 0 are regions in which nothing is labelled, 11
are other objects than those of the ten classes. Truncation: 0 none, 1 partial; occlusion: 0 none, 1
partial, 2 heavy.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from dataset_tools.coco import Annotation, Category, Image
from dataset_tools.errors import InputError
from dataset_tools.formats.base import Evidence, Format, Glimpse, Plan, root_of
from dataset_tools.formats.reading import (
    IGNORED,
    are_numbers,
    find_image,
    ignored_region,
    note_empty,
    note_unlabelled,
    number,
    numbered_lines,
    sized_box,
    split_of_words,
    stem,
    text_labels,
    whole,
)
from dataset_tools.images import ImageIndex
from dataset_tools.notes import Notes

NAMES = (
    "ignored regions",
    *("pedestrian", "people", "bicycle", "car", "van", "truck", "tricycle", "awning-tricycle"),
    *("bus", "motor", "others"),
)
CLASSES = NAMES[1:11]  # what the challenge evaluates


def plan(path: Path, notes: Notes, images: Path | None = None, ignored: str = "crowd") -> Plan:
    """Plan to read the folder of a dataset, of one split, or a single text file."""
    base, labels = find_labels(path, images, 8, "VisDrone's")
    root = root_of(base, images)
    index = ImageIndex(root)
    if path.is_dir():
        note_unlabelled(index, labels, notes)
    prefix = f"{base.resolve().name}/"  # VisDrone2019-DET-train is often given by itself
    return Plan(root, labels, _Reader(base, index, prefix, ignored), categories)


def recognise(glimpse: Glimpse) -> Evidence | None:
    """Text files of lines of eight whole numbers within VisDrone's ranges, each with an image."""
    pictures = {stem(name) for name in glimpse.images}
    for name in glimpse.with_suffix(".txt")[:50]:
        lines = [line for line in glimpse.head(name).splitlines() if line.strip()]
        if stem(name) in pictures and lines and all(map(is_box, lines[:-1] or lines)):
            return Evidence(f"{name} has VisDrone's eight numbers a line, with commas")
    return None


@dataclass
class _Reader:
    base: Path
    index: ImageIndex
    prefix: str
    ignored: str

    def __call__(self, label: str, notes: Notes) -> Iterator[Image]:
        path = self.base / label
        split = split_of_words(self.prefix + label)
        name = label.removesuffix(".txt").replace("annotations/", "images/")
        image = find_image(self.index, name, label, str(path), notes, split)
        if image is None:
            return
        for place, line in numbered_lines(path):
            annotation = read_box(line.rstrip(",").split(","), place)
            note_empty(annotation.bbox, place, notes)
            if annotation.category != NAMES[0]:
                image.annotations.append(annotation)
                continue
            if self.ignored == "drop":
                notes.drop("ignored region (--ignored drop)", place)
            image.annotations += ignored_region(annotation, self.ignored, CLASSES)
        yield image


def read_box(words: list[str], place: str) -> Annotation:
    """The box of a line's columns. InputError if they are not such."""
    if len(words) != 8:
        raise InputError(f"{place}: {len(words)} columns instead of 8. Mend or remove the line.")
    box = sized_box(*(number(word, place) for word in words[:4]))
    score = number(words[4], place)
    category = whole(words[5], place)
    if not 0 <= category < len(NAMES):
        raise InputError(f"{place}: there is no category {category}: 0 to 11 are known.")
    attributes = {
        key: whole(word, place)
        for key, word in zip(("truncated", "occluded"), words[6:], strict=True)
        if whole(word, place) >= 0  # -1 in files of detections
    }
    if score not in (0, 1):
        attributes["score"] = score
    return Annotation(NAMES[category], box, iscrowd=score == 0, attributes=attributes, source=place)


def categories(seen: set[str]) -> list[Category]:
    """The classes of the challenge, then others and ignored regions if there are any."""
    return [
        Category(name)
        for name in (*CLASSES, NAMES[11], NAMES[0])
        if name in seen or name in CLASSES
    ]


def find_labels(
    path: Path, images: Path | None, columns: int, whose: str
) -> tuple[Path, Sequence[str]]:
    """The dataset's folder and the label files in it, which have so many columns (an empty one is
    such a file, too). InputError if there are none."""
    base = path if path.is_dir() else path.parent
    if base.name == "annotations" and images is None:
        base = base.parent

    def looks_right(file: Path) -> bool:
        lines = Glimpse(file).head(file.name).splitlines()[:1]
        return all(len(line.rstrip(" ,").split(",")) == columns for line in lines)

    labels = text_labels(path, base, looks_right)
    if not labels:
        raise InputError(f"{path}: no text file of {whose} is in it. Give annotations/'s folder.")
    return base, labels


def is_box(line: str) -> bool:
    """Whether a line is that of a box."""
    words = line.strip().rstrip(",").split(",")
    if len(words) != 8 or not are_numbers(words):
        return False
    score, category, truncation, occlusion = map(float, words[4:])
    return (
        score in (0, 1)
        and category in range(12)
        and truncation in (0, 1)
        and occlusion in (0, 1, 2)
    )


FORMAT = Format(
    name="visdrone",
    title="VisDrone-DET text files",
    layout="folder with annotations/*.txt and images/, or with one such for each split "
    "(VisDrone2019-DET-train, …)",
    carries=("boxes", "attributes", "splits"),
    loses="",
    recognise=recognise,
    plan=plan,
    conventions="left, top, width, height in pixels from 0. Boxes of score 0 are not evaluated: "
    "iscrowd. Category 0, ignored regions, is crowd too; 11 is called others. Truncation and "
    "occlusion become the attributes truncated and occluded, as numbers.",
    options=(IGNORED,),
)
