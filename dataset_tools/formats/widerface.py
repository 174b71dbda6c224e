"""WIDER FACE: one text file for each split, wider_face_train_bbx_gt.txt and so on.

For each image its path, the number of its faces, and for each face a line
`x y w h blur expression illumination invalid occlusion pose`, as the readme beside the files has it
(http://shuoyang1213.me/WIDERFACE/): blur 0 clear, 1 normal, 2 heavy; expression 0 typical, 1
exaggerated; illumination 0 normal, 1 extreme; occlusion 0 none, 1 partial, 2 heavy; pose 0 typical,
1 atypical. An invalid face is one that is not evaluated. After the number 0 there is a line of
zeros all the same. Coordinates are in pixels from 0.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from dataset_tools.coco import Annotation, Image
from dataset_tools.errors import InputError
from dataset_tools.formats.base import Evidence, Format, Glimpse, Plan, read_text, root_of
from dataset_tools.formats.reading import (
    are_numbers,
    find_image,
    note_empty,
    number,
    sized_box,
    split_of_name,
    whole,
)
from dataset_tools.images import ImageIndex, is_image_name, walk_files
from dataset_tools.notes import Notes

ATTRIBUTES = ("blur", "expression", "illumination", "invalid", "occluded", "pose")
CATEGORY = "face"


@dataclass(frozen=True)
class Item:
    """An image and the lines of its faces."""

    file: str
    line: int  # of the image's path
    image: str
    faces: tuple[str, ...]


def plan(path: Path, notes: Notes, images: Path | None = None) -> Plan:
    """Plan to read one such file, or all of those in a folder."""
    base = path if path.is_dir() else path.parent
    if base.name == "wider_face_split" and images is None:
        root = base.parent  # where WIDER_train and WIDER_val are
    else:
        root = root_of(base, images)
    files = [path] if path.is_file() else _label_files(path)
    if not files:
        raise InputError(
            f"{path}: no text file of WIDER FACE's (wider_face_train_bbx_gt.txt) is in it."
        )
    items = [item for file in files for item in _items(file)]
    return Plan(root, items, _Reader(root))


def recognise(glimpse: Glimpse) -> Evidence | None:
    """Text files that begin with an image's path, a number, and a line of ten numbers."""
    name = glimpse.first(_looks_like_labels, ".txt", most=50)
    return Evidence(f"{name} has an image, a number and lines of ten numbers") if name else None


@dataclass
class _Reader:
    root: Path

    @cached_property
    def index(self) -> ImageIndex:
        return ImageIndex(self.root)

    def __call__(self, item: Item, notes: Notes) -> Iterator[Image]:
        split = split_of_name(item.file)
        # The images of a split are in WIDER_train, WIDER_val.
        near = f"WIDER_{split}/images/{item.image}"
        source = f"{item.file}:{item.line}"
        image = find_image(self.index, item.image, near, source, notes, split)
        if image is None:
            return
        for line, face in enumerate(item.faces, start=item.line + 2):
            image.annotations.append(_annotation(face, f"{item.file}:{line}", notes))
        yield image


def _annotation(face: str, place: str, notes: Notes) -> Annotation:
    words = face.split()
    if len(words) not in (4, 10):
        raise InputError(f"{place}: {len(words)} numbers instead of 10. Mend the line.")
    box = sized_box(*(number(word, place) for word in words[:4]))
    note_empty(box, place, notes)
    values = [whole(word, place) for word in words[4:]]
    attributes = dict(zip(ATTRIBUTES, values, strict=bool(values)))
    invalid = bool(attributes.get("invalid"))
    if values:
        attributes["invalid"] = invalid
    return Annotation(CATEGORY, box, iscrowd=invalid, attributes=attributes, source=place)


def _items(file: Path) -> Iterator[Item]:
    lines = [line.strip() for line in read_text(file).splitlines()]
    while lines and not lines[-1]:
        lines.pop()
    here = 0
    while here < len(lines):
        name = lines[here]
        place = f"{file}:{here + 1}"
        if not is_image_name(name):
            raise InputError(
                f"{place}: {name!r} is no image, but the image before has no more faces. Mend the "
                "number of its faces."
            )
        if here + 1 >= len(lines):
            raise InputError(f"{place}: the file ends before the number of faces of {name}.")
        count = whole(lines[here + 1], f"{file}:{here + 2}")
        faces = lines[here + 2 : here + 2 + count]
        wrong = next((face for face in faces if not are_numbers(face.split()[:1])), None)
        if len(faces) < count or wrong:
            raise InputError(f"{place}: {name} is said to have {count} faces, but has fewer.")
        yield Item(str(file), here + 1, name, tuple(faces))
        here += 2 + count
        if count == 0 and here < len(lines) and set(lines[here].split()) == {"0"}:
            here += 1


def _label_files(folder: Path) -> list[Path]:
    names = [name for name in walk_files(folder) if name.endswith(".txt")]
    return [
        folder / name
        for name in names
        if _looks_like_labels(Glimpse(folder / name).head(name.rpartition("/")[2]))
    ]


def _looks_like_labels(head: str) -> bool:
    lines = [line.strip() for line in head.splitlines()[:3]]
    if len(lines) < 3 or not is_image_name(lines[0]) or not lines[1].isdecimal():
        return False
    face = lines[2].split()
    without = lines[1] == "0" and is_image_name(lines[2])  # some leave the line of zeros out
    return without or (len(face) == 10 and are_numbers(face))


FORMAT = Format(
    name="widerface",
    title="WIDER FACE text files",
    layout="wider_face_train_bbx_gt.txt, or the folder of it and wider_face_val_bbx_gt.txt, with "
    "WIDER_train and WIDER_val beside it",
    carries=("boxes", "attributes", "splits"),
    loses="",
    recognise=recognise,
    plan=plan,
    conventions="x, y, width, height in pixels from 0; the one category is face. blur, expression, "
    "illumination, occluded and pose become attributes as numbers; invalid faces, which are not "
    "evaluated, become crowds. Images without faces are kept.",
)
