"""KITTI object detection: one text file per image in label_2, a line per object.

`type truncated occluded alpha left top right bottom height width length x y z rotation_y [score]`,
as the development kit's readme has it (https://www.cvlibs.net/datasets/kitti/eval_object.php). The
box is in pixels of the left colour image, from 0; the kit computes with `right - left`, so the
numbers are edges. `DontCare` marks regions in which objects are not labelled.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dataset_tools.coco import Annotation, Category, Image
from dataset_tools.errors import InputError
from dataset_tools.formats.base import Evidence, Format, Glimpse, Plan, root_of
from dataset_tools.formats.reading import (
    IGNORED,
    all_lines,
    are_numbers,
    find_image,
    ignored_region,
    note_empty,
    note_unlabelled,
    number,
    numbered_lines,
    split_of_words,
    text_labels,
    whole,
)
from dataset_tools.images import ImageIndex
from dataset_tools.notes import Notes

TYPES = ["Car", "Van", "Truck", "Pedestrian", "Person_sitting", "Cyclist", "Tram", "Misc"]
IGNORED_TYPE = "DontCare"
LABEL_FOLDERS = ("label_2", "label_3")


def plan(path: Path, notes: Notes, images: Path | None = None, ignored: str = "crowd") -> Plan:
    """Plan to read the folder of a dataset, of labels, or a single text file."""
    base = path if path.is_dir() else path.parent
    if base.name in LABEL_FOLDERS and images is None:
        base = base.parent.parent if base.parent.name in ("training", "testing") else base.parent
    labels = text_labels(path, base, _looks_like_labels)
    labels = [name for name in labels if set(name.split("/")) & set(LABEL_FOLDERS)] or labels
    if not labels:
        raise InputError(f"{path}: no text file of KITTI's is in it. Give the folder of label_2/.")
    root = root_of(base, images)
    index = ImageIndex(root)
    if path.is_dir():
        note_unlabelled(index, labels, notes)
    remarks = [
        f"{IGNORED_TYPE} regions (--ignored {ignored}): "
        + {
            "crowd": "crowds of a category of their own, which evaluation does not hold against "
            "other categories; `every` does",
            "every": f"a crowd of each of {len(TYPES)} categories",
            "drop": "left out",
        }[ignored]
    ]
    return Plan(root, labels, _Reader(base, index, ignored), categories, remarks=remarks)


def recognise(glimpse: Glimpse) -> Evidence | None:
    """Text files of lines of a name and 14 or 15 numbers."""
    name = glimpse.first(lambda head: all_lines(head, is_object), ".txt", most=50)
    return Evidence(f"{name} has lines of a type and KITTI's 14 numbers") if name else None


@dataclass
class _Reader:
    base: Path
    index: ImageIndex
    ignored: str

    def __call__(self, label: str, notes: Notes) -> Iterator[Image]:
        path = self.base / label
        # The images of the left camera are in image_2, those of the right one in image_3.
        name = label.removesuffix(".txt").replace("label_", "image_")
        image = find_image(self.index, name, label, str(path), notes, split_of_words(label))
        if image is None:
            return
        for place, line in numbered_lines(path):
            annotation = read_object(line.split(), place)
            note_empty(annotation.bbox, place, notes)
            if annotation.category != IGNORED_TYPE:
                image.annotations.append(annotation)
                continue
            if self.ignored == "drop":
                notes.drop(f"{IGNORED_TYPE} region (--ignored drop)", place)
            image.annotations += ignored_region(annotation, self.ignored, TYPES)
        yield image


def read_object(words: list[str], place: str) -> Annotation:
    """The object of a line's columns. InputError if they are not such."""
    if len(words) not in (15, 16):
        raise InputError(
            f"{place}: {len(words)} columns, but an object has 15 (a detection 16). Mend or remove "
            "the line."
        )
    numbers = [number(word, place) for word in words[1:]]
    left, top, right, bottom = numbers[3:7]
    attributes: dict[str, Any] = {}
    if words[0] != IGNORED_TYPE:  # it has -1, -10 and -1000 for all these
        attributes = {
            "truncated": numbers[0],
            "occluded": whole(words[2], place),
            "alpha": numbers[2],
            "dimensions": numbers[7:10],
            "location": numbers[10:13],
            "rotation_y": numbers[13],
        }
    if len(numbers) == 15:
        attributes["score"] = numbers[14]
    return Annotation(words[0], (left, top, right, bottom), attributes=attributes, source=place)


def categories(seen: set[str]) -> list[Category]:
    """KITTI's types in its order, then others, then what is to be ignored."""
    others = sorted(seen - {*TYPES, IGNORED_TYPE})
    return [Category(n) for n in (*TYPES, *others, IGNORED_TYPE) if n in seen or n in TYPES]


def _looks_like_labels(path: Path) -> bool:
    first = Glimpse(path).head(path.name).splitlines()[:1]
    return path.parent.name in LABEL_FOLDERS or all(map(is_object, first))


def is_object(line: str) -> bool:
    """Whether a line is a type and KITTI's numbers."""
    words = line.split()
    return len(words) in (15, 16) and not are_numbers(words[:1]) and are_numbers(words[1:])


FORMAT = Format(
    name="kitti",
    title="KITTI object detection",
    layout="folder with training/label_2/*.txt and training/image_2; or the folder of the labels",
    carries=("boxes", "attributes", "splits"),
    loses="calibration, point clouds",
    recognise=recognise,
    plan=plan,
    conventions="left, top, right, bottom are edges in pixels from 0. truncated, occluded, alpha, "
    "dimensions (height, width, length in m), location (m, camera), rotation_y and score become "
    "attributes; those of DontCare regions, which stand for nothing, do not.",
    options=(IGNORED,),
)
