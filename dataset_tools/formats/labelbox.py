"""Labelbox's export (version 2): NDJSON, one data row a line, or the same rows as a JSON list.

By Labelbox's documentation of its export: boxes are `top`, `left`, `height`, `width`, points are
{x, y}, all in pixels from 0; polygons end with their first point. Masks are URLs, which need a key
of Labelbox to be fetched, so they are counted and left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from dataset_tools.coco import Annotation, Image, whole_image
from dataset_tools.errors import InputError
from dataset_tools.formats.base import Evidence, Format, Glimpse, Option, Plan, root_of
from dataset_tools.formats.json_lines import SUFFIXES, files_by_split, json_objects
from dataset_tools.formats.locate import locate, path_of_url
from dataset_tools.images import ImageIndex
from dataset_tools.json_fields import listed, mapped, number, objects, points, text
from dataset_tools.notes import Notes
from dataset_tools.rle import polygons_box
from dataset_tools.shapes import points_annotation

_NAME_KEYS = ("external_id", "global_key", "row_data")
_MASKS = ("mask", "composite_mask")


@dataclass(frozen=True)
class Item:
    """A data row."""

    place: str
    row: dict[str, Any]
    split: str | None


def plan(
    path: Path,
    notes: Notes,
    images: Path | None = None,
    project: str | None = None,
    labels: str = "first",
) -> Plan:
    """Plan to read an export, or the exports in a folder."""
    items = [
        Item(place, row, split)
        for file, split in files_by_split(path, _looks_right, "export of Labelbox").items()
        for place, row in json_objects(file)
    ]
    root = root_of(path, images)
    if project is not None and not any(_chosen(item.row, item.place, project) for item in items):
        raise InputError(f"{path}: no data row has labels of a project {project!r}.")
    return Plan(image_root=root, items=items, read=_Reader(root, project, labels))


def recognise(glimpse: Glimpse) -> Evidence | None:
    """Rows with data_row and projects."""
    name = glimpse.first(_looks_right, *SUFFIXES)
    return Evidence(f"{name} has rows with Labelbox's data_row and projects") if name else None


@dataclass
class _Reader:
    root: Path
    project: str | None
    labels: str

    @cached_property
    def index(self) -> ImageIndex:
        return ImageIndex(self.root)

    def __call__(self, item: Item, notes: Notes) -> Iterator[Image]:
        place = item.place
        media = mapped(item.row, "media_attributes", place)
        if not str(media.get("mime_type") or "image/").startswith(("image/", "application/")):
            notes.drop("data row that is no image", place)
            return
        labels = self._labels(item, notes)
        if not labels:
            notes.drop("data row that is not labelled", place)
            return
        row = mapped(item.row, "data_row", place)
        names = [path_of_url(text(row, key, place)) for key in _NAME_KEYS if row.get(key)]
        if not names:
            raise InputError(f"{place}: the data row has none of {', '.join(_NAME_KEYS)}.")
        width, height = (int(number(media, side, place, 0)) for side in ("width", "height"))
        size = (width, height) if width >= 1 and height >= 1 else None
        # The first name is the one given by people; it is kept if none is found.
        located = locate(self.index, [*names, names[0]], size, place, notes)
        if located is None:
            return
        image = Image(*located[:1], *located[1], split=item.split, source=place)
        for label in labels:
            _add(image, mapped(label, "annotations", place), place, notes)
        yield image

    def _labels(self, item: Item, notes: Notes) -> list[dict[str, Any]]:
        """The labels of a row that count: by default the first of each project."""
        chosen: list[dict[str, Any]] = []
        for content in _chosen(item.row, item.place, self.project):
            done = []
            for label in objects(content, "labels", item.place):
                if mapped(label, "performance_details", item.place).get("skipped"):
                    notes.drop("label that was skipped", item.place)
                else:
                    done.append(label)
            if self.labels == "first":
                for _ in done[1:]:
                    notes.drop("further label of a data row (see --labels)", item.place)
                done = done[:1]
            chosen += done
        return chosen


def _chosen(row: dict[str, Any], place: str, project: str | None) -> list[dict[str, Any]]:
    """What the projects, or the one of that id or name, say of a row."""
    projects = mapped(row, "projects", place)
    return [
        content
        for key, content in projects.items()
        if isinstance(content, dict) and project in (None, key, content.get("name"))
    ]


def _add(image: Image, said: dict[str, Any], place: str, notes: Notes) -> None:
    if said.get("frames"):
        notes.drop("label of a video", place)
        return
    for index, entry in enumerate(objects(said, "objects", place)):
        where = f"{place} objects[{index}]"
        annotation = _shape(text(entry, "name", where), entry, where)
        if annotation is None:
            masked = any(key in entry for key in _MASKS)
            what = (
                "mask by URL (not fetched)" if masked else f"object {entry.get('annotation_kind')}"
            )
            notes.drop(what, where)
            continue
        annotation.source = where
        annotation.attributes |= _answers(entry, where)
        image.annotations.append(annotation)
    for entry in objects(said, "classifications", place):
        for question, answer in _answers({"classifications": [entry]}, place).items():
            chosen = _chosen_answers(entry, place) if question == entry.get("name") else []
            if not chosen:
                image.attributes[question] = answer
            for category in chosen:
                label = whole_image(category, image.width, image.height, place)
                label.attributes["question"] = question
                image.annotations.append(label)


def _shape(name: str, entry: dict[str, Any], place: str) -> Annotation | None:
    """The annotation of an object; None if its shape is another one."""
    if "bounding_box" in entry:
        box = mapped(entry, "bounding_box", place)
        left, top, width, height = (
            number(box, key, place) for key in ("left", "top", "width", "height")
        )
        return Annotation(name, (left, top, left + width, top + height))
    if "polygon" in entry:
        flat = points(entry, "polygon", place)
        if len(flat) > 6 and flat[:2] == flat[-2:]:
            flat = flat[:-2]
        if len(flat) < 6:
            raise InputError(f"{place}: a polygon has three corners, not {len(flat) // 2}.")
        return Annotation(name, polygons_box([flat]), [flat])
    if "line" in entry:
        return points_annotation(name, points(entry, "line", place), "line")
    if "point" in entry:
        return points_annotation(name, points({"point": [entry["point"]]}, "point", place), "point")
    return None


def _answers(entry: dict[str, Any], place: str) -> dict[str, Any]:
    """Answers by question, those within answers too: one, a list of them, or a text."""
    found: dict[str, Any] = {}
    for classification in objects(entry, "classifications", place):
        question = text(classification, "name", place)
        radio = mapped(classification, "radio_answer", place)
        checked = objects(classification, "checklist_answers", place)
        if radio:
            found[question] = text(radio, "name", place)
        elif "checklist_answers" in classification:
            found[question] = [text(answer, "name", place) for answer in checked]
        elif written := mapped(classification, "text_answer", place):
            found[question] = written.get("content", "")
        for answer in (radio, *checked):
            found |= _answers(answer, place)
    return found


def _chosen_answers(classification: dict[str, Any], place: str) -> list[str]:
    """Names of the answers that were chosen, of a radio or a checklist."""
    radio = mapped(classification, "radio_answer", place)
    checked = listed(classification, "checklist_answers", place)
    return [text(answer, "name", place) for answer in ([radio] if radio else checked)]


def _looks_right(head: str) -> bool:
    return (
        head.lstrip().startswith(("{", "["))
        and '"data_row"' in head
        and ('"projects"' in head or '"media_attributes"' in head)
    )


FORMAT = Format(
    name="labelbox",
    title="Labelbox export v2 (NDJSON)",
    layout="the exported .ndjson or .json file, or a folder with one or with train.ndjson, …; "
    "images beside it",
    carries=("boxes", "masks", "labels", "attributes", "splits"),
    loses="masks (they are URLs and not fetched); videos, relationships; skipped labels; of "
    "several labels of a data row in a project all but the first (--labels)",
    recognise=recognise,
    plan=plan,
    conventions="Boxes and points are in pixels from 0. Images are found by external_id, "
    "global_key or the name in row_data. Radio and checklist answers of the image are labels of "
    "the whole image, with the question as attribute; those of objects, texts, and answers within "
    "answers are attributes by their question. A data row without a label is not labelled and "
    "dropped.",
    options=(
        Option("--project", "only labels of the project of this id or name", metavar="NAME"),
        Option(
            "--labels",
            "of several labels of a data row in a project: the first, or all together",
            default="first",
            choices=("first", "all"),
        ),
    ),
)
