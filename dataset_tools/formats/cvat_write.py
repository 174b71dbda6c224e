"""Writing CVAT for images 1.1: one annotations.xml, and the images in images/."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any
from xml.sax.saxutils import XMLGenerator

from dataset_tools.coco import Annotation, Category, Dataset, Image, annotation_box
from dataset_tools.formats.cvat_elements import CROWD, is_part
from dataset_tools.formats.groups import GroupNumbers
from dataset_tools.notes import Notes
from dataset_tools.shapes import has_own_box, kind_of, pairs, plain_attributes, same_box

_OWN = ("occluded", "z_order", "group_id", "source")  # attributes of the elements themselves


def write(
    splits: Mapping[str | None, Dataset], folder: Path, notes: Notes, images: Path | None
) -> None:
    """Write the XML file, and the images that are there."""
    tasks = {
        image.attributes["task"]: None
        for dataset in splits.values()
        for image in dataset.images
        if isinstance(image.attributes.get("task"), str)
    }
    numbers = {name: number for number, name in enumerate(tasks)}
    with open(folder / "annotations.xml", "w", encoding="utf-8", newline="\n") as file:
        out = _Xml(file)
        with out.element("annotations"):
            out.text("version", "1.1")
            with out.element("meta"):
                _write_meta(out, splits, numbers)
            position = 0
            for split, dataset in splits.items():
                names = {category.name: category for category in dataset.categories}
                for image in dataset.images:
                    name = _place(image, split, folder, notes, images)
                    header = {"id": position, "name": name}
                    if split is not None:
                        header["subset"] = split
                    if image.attributes.get("task") in numbers:
                        header["task_id"] = numbers[image.attributes["task"]]
                    header |= {"width": image.width, "height": image.height}
                    with out.element("image", header):
                        _write_shapes(out, image, names, notes)
                    position += 1


def _place(image: Image, split: str | None, folder: Path, notes: Notes, images: Path | None) -> str:
    """Put the image where CVAT's export would; its name in the file."""
    from dataset_tools.export import place_image, split_path

    target = split_path(split, image.file_name)
    if not target.startswith("images/") or (folder / target).exists():
        target = f"images/{target}"
    if images is not None and (images / image.file_name).is_file():
        place_image(images, image.file_name, folder / target)
    else:
        notes.suspect("image file that is missing (label written)", image.file_name)
    others = image.attributes.keys() - {"task"}
    if others:
        notes.drop(f"attributes of an image ({', '.join(sorted(others))})", image.file_name)
    return target.removeprefix("images/").removeprefix(f"{split}/")


class _Xml:
    """An XML file in the making, indented."""

    def __init__(self, file: IO[str]) -> None:
        self._generator = XMLGenerator(file, "utf-8", short_empty_elements=True)
        self._depth = 0
        self._generator.startDocument()

    def element(self, name: str, attributes: Mapping[str, Any] | None = None) -> _Element:
        return _Element(self, name, attributes or {})

    def text(self, name: str, content: Any, attributes: Mapping[str, Any] | None = None) -> None:
        """An element with text only."""
        self._indent()
        self._generator.startElement(name, _texts(attributes or {}))
        self._generator.characters(_text(content))
        self._generator.endElement(name)

    def start(self, name: str, attributes: Mapping[str, Any]) -> None:
        self._indent()
        self._generator.startElement(name, _texts(attributes))
        self._depth += 1

    def end(self, name: str) -> None:
        self._depth -= 1
        self._indent()
        self._generator.endElement(name)

    def _indent(self) -> None:
        self._generator.ignorableWhitespace("\n" + "  " * self._depth)


class _Element:
    def __init__(self, out: _Xml, name: str, attributes: Mapping[str, Any]) -> None:
        self._out, self._name, self._attributes = out, name, attributes

    def __enter__(self) -> None:
        self._out.start(self._name, self._attributes)

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self._out.end(self._name)


def _write_meta(out: _Xml, splits: Mapping[str | None, Dataset], tasks: Mapping[str, int]) -> None:
    categories = {c.name: c for dataset in splits.values() for c in dataset.categories}
    project = bool(tasks) or set(splits) != {None}
    with out.element("project" if project else "task"):
        out.text("name", "dataset")
        if project:
            with out.element("tasks"):
                for name, number in tasks.items():
                    with out.element("task"):
                        out.text("id", number)
                        out.text("name", name)
            out.text("subsets", "\n".join(split for split in splits if split is not None))
        else:
            out.text("size", sum(len(dataset.images) for dataset in splits.values()))
            out.text("mode", "annotation")
        with out.element("labels"):
            kinds = _attribute_kinds(splits.values())
            for category in categories.values():
                _write_label(out, category, kinds.get(category.name, {}))


def _write_label(out: _Xml, category: Category, kinds: Mapping[str, str]) -> None:
    with out.element("label"):
        out.text("name", category.name)
        out.text("type", "skeleton" if category.keypoints else "any")
        with out.element("attributes"):
            for name, kind in kinds.items():
                with out.element("attribute"):
                    out.text("name", name)
                    out.text("mutable", "False")
                    out.text("input_type", kind)
                    out.text("default_value", "false" if kind == "checkbox" else "")
                    out.text("values", "false\ntrue" if kind == "checkbox" else "")
        if category.keypoints:
            out.text("svg", _svg(category))
    for name in category.keypoints:
        with out.element("label"):
            out.text("name", name)
            out.text("type", "points")
            with out.element("attributes"):
                pass
            out.text("parent", category.name)


def _svg(category: Category) -> str:
    """The drawing that CVAT wants of a skeleton: its points on a circle, in percent."""
    from xml.sax.saxutils import quoteattr

    count = len(category.keypoints)
    spots = [
        (50 + 40 * math.sin(2 * math.pi * i / count), 50 - 40 * math.cos(2 * math.pi * i / count))
        for i in range(count)
    ]
    lines = [
        '<line x1="{:.2f}" y1="{:.2f}" x2="{:.2f}" y2="{:.2f}" data-type="edge" '
        'data-node-from="{}" data-node-to="{}"></line>'.format(
            *spots[start - 1], *spots[end - 1], start, end
        )
        for start, end in category.skeleton
    ]
    circles = [
        f'<circle r="1.5" cx="{x:.2f}" cy="{y:.2f}" data-type="element node" '
        f'data-element-id="{i}" data-node-id="{i}" data-label-name={quoteattr(name)}></circle>'
        for i, (name, (x, y)) in enumerate(zip(category.keypoints, spots, strict=True), start=1)
    ]
    return "".join(lines + circles)


def _attribute_kinds(datasets: Iterable[Dataset]) -> dict[str, dict[str, str]]:
    """By label, the type that CVAT shall give to each attribute; text for mixed ones."""
    kinds: dict[str, dict[str, str]] = {}
    for annotation in (a for dataset in datasets for i in dataset.images for a in i.annotations):
        of_label = kinds.setdefault(annotation.category, {})
        for name, value in _further(annotation).items():
            kind = _kind(value)
            of_label[name] = kind if of_label.get(name, kind) == kind else "text"
    return kinds


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "checkbox"
    return "number" if isinstance(value, int | float) else "text"


def _own(annotation: Annotation) -> dict[str, Any]:
    """What an annotation says that CVAT's elements have attributes of their own for."""
    said = annotation.attributes
    own: dict[str, Any] = {"source": "manual", "occluded": 0}
    if isinstance(said.get("source"), str):
        own["source"] = said["source"]
    if isinstance(said.get("occluded"), bool):
        own["occluded"] = int(said["occluded"])
    if type(said.get("z_order")) is int:
        own["z_order"] = said["z_order"]
    return own


def _further(annotation: Annotation) -> dict[str, Any]:
    """What goes into elements <attribute>."""
    said = plain_attributes(annotation)
    if said.pop("iscrowd", False):
        said[CROWD] = True
    if isinstance(said.get("source"), str):
        del said["source"]
    if isinstance(said.get("occluded"), bool):
        del said["occluded"]
    for key in ("z_order", "group_id"):
        if type(said.get(key)) is int:
            del said[key]
    return said


def _write_shapes(
    out: _Xml, image: Image, categories: Mapping[str, Category], notes: Notes
) -> None:
    groups = GroupNumbers(image, is_part)
    for annotation in image.annotations:
        place = f"{image.file_name} ({annotation.category})"
        parts = list(_parts(annotation, image, categories, place, notes))
        group = groups.number(annotation, len(parts))
        own = _own(annotation)
        if type(group) is int:
            own["group_id"] = group
            if group != annotation.attributes.get("group_id", group):
                notes.suspect("group number that another object has (written as another)", place)
        for tag, shape, elements in parts:
            if tag in ("tag", "skeleton") and not own["occluded"]:
                own = {key: value for key, value in own.items() if key != "occluded"}
            with out.element(tag, {"label": annotation.category, **own, **shape}):
                for element in elements:
                    out.text("points", "", element)
                for name, value in _further(annotation).items():
                    if isinstance(value, list | dict):
                        notes.suspect("attribute that is a list or object (written as JSON)", place)
                    out.text("attribute", value, {"name": name})


def _parts(
    annotation: Annotation,
    image: Image,
    categories: Mapping[str, Category],
    place: str,
    notes: Notes,
) -> Iterator[tuple[str, dict[str, Any], list[dict[str, Any]]]]:
    """Name, attributes and points inside of the elements that make an annotation."""
    kind = kind_of(annotation)
    keypoints = annotation.keypoints
    if keypoints and kind in ("box", "nothing") and any(keypoints[2::3]):
        names = categories[annotation.category].keypoints
        if len(names) * 3 == len(keypoints):
            alone = Annotation("", keypoints=keypoints)
            if annotation.bbox and not same_box(annotation_box(alone), annotation.bbox):
                notes.drop("box of its own besides keypoints (the keypoints written)", place)
            yield "skeleton", {}, list(_skeleton_points(names, keypoints))
            return
    if keypoints:
        notes.drop("keypoints besides a mask, or that the category does not name", place)
    if kind == "label":
        yield "tag", {}, []
    elif kind == "rotated":
        x, y, width, height, angle = annotation.attributes["rbox"]
        box = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
        yield "box", _corners(box) | {"rotation": -angle % 360}, []
    elif kind == "points":
        line = annotation.attributes.get("shape") == "line"
        corners = {"points": _joined(annotation.attributes["points"])}
        yield ("polyline" if line else "points"), corners, []
    elif kind in ("polygons", "mask"):
        if has_own_box(annotation):
            notes.drop("box of its own besides a mask (the mask written)", place)
        if kind == "mask":
            yield from _mask(annotation.segmentation, image, place, notes)
            return
        for polygon in annotation.segmentation:
            if len(polygon) < 6:
                notes.drop("polygon of less than three corners", place)
            else:
                yield "polygon", {"points": _joined(polygon)}, []
    elif annotation.bbox is None:
        notes.drop("object without box and mask", place)
    else:
        yield "box", _corners(annotation.bbox), []


def _skeleton_points(names: Iterable[str], keypoints: list[float]) -> Iterator[dict[str, Any]]:
    for i, name in enumerate(names):
        x, y, seen = keypoints[3 * i : 3 * i + 3]
        yield {
            "label": name,
            "outside": int(seen == 0),
            "occluded": int(seen == 1),
            "points": _joined([x, y]),
        }


def _mask(
    rle: dict[str, Any], image: Image, place: str, notes: Notes
) -> Iterator[tuple[str, dict[str, Any], list]]:
    import numpy as np

    from dataset_tools.rle import decode_mask, rle_box

    box = rle_box(rle)
    if rle["size"] != [image.height, image.width] or box is None:
        notes.drop("mask of another size than its image, or without a pixel", place)
        return
    left, top, right, bottom = (int(value) for value in box)
    flat = decode_mask(rle)[top:bottom, left:right].ravel()
    ends = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff([0, *ends.tolist(), flat.size]).tolist()
    if flat[0]:
        runs.insert(0, 0)
    size = {"left": left, "top": top, "width": right - left, "height": bottom - top}
    yield "mask", {"rle": ", ".join(map(str, runs)), **size}, []


def _corners(box: Iterable[float]) -> dict[str, Any]:
    return dict(zip(("xtl", "ytl", "xbr", "ybr"), box, strict=True))


def _joined(points: list[float]) -> str:
    return ";".join(f"{_text(x)},{_text(y)}" for x, y in pairs(points))


def _texts(attributes: Mapping[str, Any]) -> dict[str, str]:
    return {key: _text(value) for key, value in attributes.items()}


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return repr(int(value)) if value.is_integer() and abs(value) < 2**53 else repr(value)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
