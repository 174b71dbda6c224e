"""CrowdHuman: odgt files, a JSON object per image on a line.

`{"ID": …, "gtboxes": [{"tag", "fbox", "vbox", "hbox", "extra", "head_attr"}, …]}`, as
https://www.crowdhuman.org/download.html has it: fbox is the whole body, which may reach beyond the
image, vbox its visible part, hbox the head; each x, y, width, height in pixels from 0. A box whose
extra (for heads: head_attr) says `ignore`, and one whose tag is "mask" (a crowd, a reflection,
something like a person), is not evaluated.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from dataset_tools.coco import Annotation, Image, read_box
from dataset_tools.errors import InputError
from dataset_tools.formats.base import Evidence, Format, Glimpse, Option, Plan, root_of
from dataset_tools.formats.reading import find_image, mapping, note_empty, split_of_name
from dataset_tools.images import ImageIndex, walk_files
from dataset_tools.notes import Notes

BOXES = {"full": "fbox", "visible": "vbox", "head": "hbox"}


@dataclass(frozen=True)
class Item:
    """A line of a file: where it begins, and its number."""

    file: str
    offset: int
    line: int


def plan(path: Path, notes: Notes, images: Path | None = None, box: str = "full") -> Plan:
    """Plan to read one odgt file, or all of those in a folder."""
    files = [path] if path.is_file() else [path / n for n in walk_files(path) if n.endswith("odgt")]
    if not files:
        raise InputError(f"{path}: no odgt file is in it. Give annotation_train.odgt's folder.")
    root = root_of(path, images)
    items = [item for file in files for item in _items(file)]
    return Plan(root, items, _Reader(root, box))


def recognise(glimpse: Glimpse) -> Evidence | None:
    """An odgt file whose first line has an ID and gtboxes."""
    for name in glimpse.with_suffix(".odgt"):
        if '"gtboxes"' in glimpse.head(name):
            return Evidence(f"{name} has lines of JSON with gtboxes")
    return None


@dataclass
class _Reader:
    root: Path
    box: str

    @cached_property
    def index(self) -> ImageIndex:
        return ImageIndex(self.root)

    def __call__(self, item: Item, notes: Notes) -> Iterator[Image]:
        place = f"{item.file}:{item.line}"
        entry = _entry(item, place)
        split = split_of_name(item.file)
        # IDs hold a comma, and no suffix.
        image = find_image(self.index, f"{entry['ID']}.jpg", f"{split}/", place, notes, split)
        if image is None:
            return
        for number, labels in enumerate(entry.get("gtboxes") or []):
            where = f"{place} gtboxes[{number}]"
            annotation = self._annotation(labels, where, notes)
            if annotation is not None:
                note_empty(annotation.bbox, where, notes)
                image.annotations.append(annotation)
        yield image

    def _annotation(self, labels: Any, place: str, notes: Notes) -> Annotation | None:
        if not isinstance(labels, dict):
            raise InputError(f"{place} is not an object in braces.")
        key = BOXES[self.box]
        try:
            box = read_box(labels.get(key))
        except ValueError as fault:
            raise InputError(f"{place}: {key} {fault}.") from fault
        if box is None:
            notes.drop(f"object without {key}", place)
            return None
        about = "head_attr" if self.box == "head" else "extra"
        extra = mapping(labels.get(about), f"{place}: {about}")
        mask = labels.get("tag") == "mask"
        ignored = mask or bool(extra.get("ignore"))
        others = {name: labels[name] for name in BOXES.values() if name != key and name in labels}
        kept = {name: value for name, value in extra.items() if name not in ("ignore", "occ")}
        attributes = {**others, **kept}
        if "occ" in extra:
            attributes["occluded"] = bool(extra["occ"])
        if mask:
            attributes["tag"] = "mask"
        category = "head" if self.box == "head" else "person"
        return Annotation(category, box, iscrowd=ignored, attributes=attributes, source=place)


def _items(file: Path) -> Iterator[Item]:
    with open(file, "rb") as lines:
        offset = 0
        for number, line in enumerate(lines, start=1):
            if line.strip():
                yield Item(str(file), offset, number)
            offset += len(line)


def _entry(item: Item, place: str) -> dict[str, Any]:
    with open(item.file, "rb") as file:
        file.seek(item.offset)
        line = file.readline().removeprefix(b"\xef\xbb\xbf")
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{place}: not valid JSON: {error}. Mend or remove the line.") from error
    if not isinstance(entry, dict) or not isinstance(entry.get("ID"), str):
        raise InputError(f"{place}: there is no ID, which is the image's name.")
    if not isinstance(entry.get("gtboxes", []), list):
        raise InputError(f"{place}: gtboxes is not a list.")
    return entry


FORMAT = Format(
    name="crowdhuman",
    title="CrowdHuman odgt",
    layout="annotation_train.odgt, or the folder of it and annotation_val.odgt; images below it",
    carries=("boxes", "attributes", "splits"),
    loses="",
    recognise=recognise,
    plan=plan,
    conventions="x, y, width, height in pixels from 0; --box says which of the three boxes is "
    "taken, the others become the attributes fbox, vbox and hbox. Whole bodies may reach beyond "
    "the image. What is to be ignored, and the tag mask, become crowds.",
    options=(
        Option(
            "--box",
            "full: whole bodies; visible: what of them is seen; head: heads",
            default="full",
            choices=tuple(BOXES),
        ),
    ),
)
