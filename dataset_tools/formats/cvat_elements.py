"""What CVAT's XML 1.1 says of labels and shapes; the same in its formats for images and videos.

As CVAT writes it (github.com/cvat-ai/cvat, `dataset_manager/formats/cvat.py`, and the manual's page
"XML annotation format"): coordinates are continuous and 0-based. A box or ellipse is given upright,
with `rotation` in degrees clockwise around its centre. A mask is run lengths, row by row, beginning
with 0s, of the patch at left, top. Of a skeleton's points, `outside` ones are absent, `occluded`
ones hidden. Shapes with a `group_id` in common are one instance if they are polygons or masks of
one label, as in CVAT's own export to COCO.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dataset_tools.coco import Annotation, Category, Image, whole_image
from dataset_tools.errors import InputError
from dataset_tools.formats.base import sorted_categories
from dataset_tools.notes import Notes
from dataset_tools.rle import encode_patch, polygons_box, rle_box
from dataset_tools.shapes import (
    ellipse_polygon,
    points_annotation,
    polygon_annotation,
    rotated_annotation,
)
from dataset_tools.xml_tree import Node, stream_xml

SHAPES = frozenset(
    "box polygon polyline points ellipse mask skeleton cuboid tag".split()  # noqa: SIM905
)
SIDES = ("xtl", "ytl", "xbr", "ybr")
CONVENTIONS = (
    "0-based continuous corners; rotation in degrees clockwise around the centre. Ellipses become "
    "polygons of 64 corners, masks RLE, polylines and points attributes, tags labels of whole "
    "images, skeletons keypoints (outside: absent, occluded: hidden). Attributes declared as "
    "checkbox or number have such values; occluded=0, z_order=0, group_id=0 and source=manual are "
    "not kept."
)
CROWD = "is_crowd"  # the attribute that CVAT's import from and export to COCO has for it
_CUBOID = [
    f"{axis}{corner}{i}" for i in (1, 2) for corner in ("tl", "bl", "tr", "br") for axis in "xy"
]
_NODE = re.compile(r'data-node-id="(\d+)"[^>]*?data-label-name="([^"]*)"')
_EDGE = re.compile(r'data-node-from="(\d+)"[^>]*?data-node-to="(\d+)"')


@dataclass
class Meta:
    """What a file declares: its labels, the types of their attributes, its tasks."""

    categories: list[Category] = field(default_factory=list)
    kinds: dict[tuple[str, str], str] = field(default_factory=dict)  # (label, attribute) → type
    tasks: dict[str, str] = field(default_factory=dict)  # id → name, of a project
    name: str = ""  # of the task or project
    size: tuple[int, int] | None = None  # of the video
    frames: int | None = None  # number of them, of a task
    first_frame: int = 0
    step: int = 1  # between frames that were labelled

    def skeleton(self, label: str) -> tuple[str, ...]:
        """Names of a label's keypoints."""
        return next((c.keypoints for c in self.categories if c.name == label), ())


@dataclass(frozen=True)
class DeclaredFirst:
    """For `Plan.categories`: those declared, in their order, then others that were seen."""

    declared: tuple[Category, ...]

    def __call__(self, seen: set[str]) -> list[Category]:
        names = {category.name for category in self.declared}
        return [*self.declared, *sorted_categories(seen - names)]


def read_meta(path: Path) -> tuple[Node, Meta]:
    """The root element and what <meta> says, which stands at the beginning of the file."""
    elements = stream_xml(path)
    root = next(elements)
    for node in elements:
        if node.tag == "meta":
            return root, _meta(node)
        if node.tag not in ("version",):
            break
    return root, Meta()


def declared(metas: Iterable[Meta]) -> DeclaredFirst:
    """Categories of several files; of those of the same name the first one with keypoints."""
    found: dict[str, Category] = {}
    for category in (category for meta in metas for category in meta.categories):
        if category.name not in found or not found[category.name].keypoints:
            found[category.name] = category
    return DeclaredFirst(tuple(found.values()))


def annotation(node: Node, image: Image, path: str, meta: Meta, notes: Notes) -> Annotation | None:
    """The record of a shape or tag; None, noted as dropped, if it is none."""
    place = f"{path}:{node.line}"
    if node.tag not in SHAPES:
        if node.tag != "attribute":
            notes.drop(f"shape of a kind that is not known ({node.tag})", place)
        return None
    label = node.attributes.get("label", "").strip()
    if not label:
        notes.drop("shape without a label", place)
        return None
    said = _attributes(node, label, meta)
    more: dict[str, Any] = {"source": place, "iscrowd": said.pop(CROWD, False) is True}
    if node.tag == "tag":
        found = whole_image(label, image.width, image.height, place)
        found.attributes |= said
        return found
    return _shape(node, label, image, path, meta, notes, {**more, "attributes": said})


def said_of(node: Node) -> dict[str, Any]:
    """What a shape without children says besides its label and place."""
    return _attributes(node, "", Meta())


def is_part(annotation: Annotation) -> bool:
    """Whether a shape may be one part of several: polygons and masks are."""
    return bool(annotation.segmentation) and "rbox" not in annotation.attributes


def number(node: Node, key: str, path: str, default: float | None = None) -> float:
    """A number among the attributes of an element. InputError with the line if it is none."""
    text = node.attributes.get(key)
    if text is None and default is not None:
        return default
    try:
        value = float(text or "")
        if math.isfinite(value):
            return value
    except ValueError:
        pass
    return _number(text or "", key, f"{path}:{node.line}", node.tag)  # which knows what to say


def flag(node: Node, key: str) -> bool:
    """Whether an attribute of an element is 1."""
    return node.attributes.get(key, "0").strip().lower() in ("1", "true")


def points(node: Node, path: str) -> list[float]:
    """[x1, y1, …] of `x1,y1;x2,y2`. InputError with the line if it is not such."""
    place = f"{path}:{node.line}"
    found: list[float] = []
    for pair in node.attributes.get("points", "").split(";"):
        words = pair.split(",")
        if len(words) != 2:
            raise InputError(
                f"{place}: the points of <{node.tag}> hold {pair!r:.40}, which is no x,y. Mend or "
                "remove this shape."
            )
        found += [_number(word, "points", place, node.tag) for word in words]
    return found


def upright_box(node: Node, path: str) -> tuple[float, float, float, float]:
    """XYXY of a <box>, before it is turned."""
    left, top, right, bottom = (number(node, key, path) for key in SIDES)
    return left, top, right, bottom


def box_annotation(label: str, box: Sequence[float], rotation: float, **more: Any) -> Annotation:
    """The record of an XYXY box that is turned by `rotation` degrees clockwise."""
    left, top, right, bottom = box
    if not rotation % 360:
        return Annotation(label, (left, top, right, bottom), **more)
    angle = (180 - rotation) % -360 + 180  # counter-clockwise, above -180, at most 180
    rbox = ((left + right) / 2, (top + bottom) / 2, right - left, bottom - top, angle)
    return rotated_annotation(label, rbox, **more)


def _shape(
    node: Node,
    label: str,
    image: Image,
    path: str,
    meta: Meta,
    notes: Notes,
    more: dict[str, Any],
) -> Annotation | None:
    if node.tag == "box":
        return box_annotation(
            label, upright_box(node, path), number(node, "rotation", path, 0), **more
        )
    if node.tag == "ellipse":
        centre = [number(node, key, path) for key in ("cx", "cy", "rx", "ry")]
        polygon = ellipse_polygon(*centre, number(node, "rotation", path, 0))
        return polygon_annotation(label, polygon, **more)
    if node.tag == "cuboid":
        corners = [number(node, key, path) for key in _CUBOID]
        more["attributes"]["cuboid"] = corners
        return Annotation(label, polygons_box([corners]), **more)
    if node.tag == "mask":
        return _mask(node, label, image, path, notes, more)
    if node.tag == "skeleton":
        return _skeleton(node, label, path, meta, notes, more)
    corners = points(node, path)
    if node.tag == "polygon":
        if len(corners) < 6:
            notes.drop("polygon of less than three corners", more["source"])
            return None
        return polygon_annotation(label, corners, **more)
    return points_annotation(label, corners, "line" if node.tag == "polyline" else "point", **more)


def _mask(
    node: Node, label: str, image: Image, path: str, notes: Notes, more: dict[str, Any]
) -> Annotation | None:
    import numpy as np

    place = more["source"]
    left, top, width, height = (
        int(number(node, key, path)) for key in ("left", "top", "width", "height")
    )
    words = node.attributes.get("rle", "").split(",")
    runs = [int(_number(word, "rle", place, node.tag)) for word in words]
    if min(runs) < 0 or sum(runs) != width * height:
        raise InputError(
            f"{place}: the runs of this <mask> do not add up to its {width}×{height} px. Mend or "
            "remove it."
        )
    values = np.arange(len(runs)) % 2 == 1
    patch = np.repeat(values, runs).reshape(height, width)
    rle, is_cut = encode_patch(patch, left, top, image.width, image.height, place)
    if is_cut:
        notes.suspect("mask that goes beyond the image (cut off)", place)
    if rle_box(rle) is None:
        notes.drop("mask without a pixel", place)
        return None
    return Annotation(label, segmentation=rle, **more)


def _skeleton(
    node: Node, label: str, path: str, meta: Meta, notes: Notes, more: dict[str, Any]
) -> Annotation | None:
    found: dict[str, list[float]] = {}
    for element in node.all("points"):
        x, y = points(element, path)[:2]
        seen = 0 if flag(element, "outside") else 1 if flag(element, "occluded") else 2
        found[element.attributes.get("label", "")] = [x, y, seen] if seen else [0, 0, 0]
    names = meta.skeleton(label)
    if not names or set(found) - set(names):
        notes.drop("skeleton whose points <meta> does not declare", more["source"])
        return None
    keypoints = [value for name in names for value in found.get(name, [0, 0, 0])]
    if not any(keypoints[2::3]):
        notes.drop("skeleton without a point that is there", more["source"])
        return None
    return Annotation(label, keypoints=keypoints, **more)


def _attributes(node: Node, label: str, meta: Meta) -> dict[str, Any]:
    """What a shape says besides its place: of the flags those that are set, of numbers not 0."""
    said: dict[str, Any] = {}
    if flag(node, "occluded"):
        said["occluded"] = True
    for key in ("z_order", "group_id"):
        text = node.attributes.get(key, "0").strip()
        if text != "0":
            said[key] = _plain(text, "number")
    if node.attributes.get("source", "manual") != "manual":
        said["source"] = node.attributes["source"]
    for child in node.all("attribute"):
        name = child.attributes.get("name", "")
        if name and child.text:
            said[name] = _plain(child.text, meta.kinds.get((label, name), "text"))
    return said


def _plain(text: str, kind: str) -> Any:
    """The value of an attribute that is declared as a checkbox, a number or something else."""
    if kind == "checkbox" and text.lower() in ("true", "false"):
        return text.lower() == "true"
    if kind == "number":
        try:
            return int(text)
        except ValueError:
            try:
                value = float(text)
                return value if math.isfinite(value) else text
            except ValueError:
                return text
    return text


def _number(text: str, what: str, place: str, tag: str) -> float:
    try:
        value = float(text)
        if math.isfinite(value):
            return value
    except ValueError:
        pass
    raise InputError(
        f"{place}: {what} of <{tag}> is {text!r:.40}, not a number. Mend or remove this shape."
    )


def _meta(node: Node) -> Meta:
    project = node.child("project")
    top = project or node.child("task") or node.child("job")
    if top is None:
        return Meta()
    meta = Meta(name=top.text_of("name"))
    labels = top.child("labels")
    nodes = list(labels.all("label")) if labels else []
    names: dict[str, list[str]] = {}  # of keypoints
    for label in nodes:
        name, parent = label.text_of("name"), label.text_of("parent")
        if parent:
            names.setdefault(parent, []).append(name)
        attributes = label.child("attributes")
        for attribute in attributes.all("attribute") if attributes else ():
            kind = attribute.text_of("input_type")
            meta.kinds[parent or name, attribute.text_of("name")] = kind
    for label in nodes:
        name = label.text_of("name")
        if name and not label.text_of("parent") and name not in {c.name for c in meta.categories}:
            keypoints = tuple(names.get(name, ()))
            bones = _bones(label.text_of("svg"), keypoints)
            meta.categories.append(Category(name, keypoints=keypoints, skeleton=bones))
    tasks = project.child("tasks") if project else None
    for task in tasks.all("task") if tasks else ():
        meta.tasks[task.text_of("id")] = task.text_of("name")
    size = node.child("original_size") or top.child("original_size")
    if size is not None:
        width, height = size.text_of("width"), size.text_of("height")
        if width.isdecimal() and height.isdecimal():
            meta.size = int(width), int(height)
    meta.frames = int(top.text_of("size")) if top.text_of("size").isdecimal() else None
    start = top.text_of("start_frame")
    meta.first_frame = int(start) if start.isdecimal() else 0
    step = re.search(r"step=([1-9]\d*)", top.text_of("frame_filter"))
    meta.step = int(step[1]) if step else 1
    return meta


def _bones(svg: str, keypoints: tuple[str, ...]) -> tuple[tuple[int, int], ...]:
    """Pairs of 1-based keypoint numbers that a skeleton's drawing joins."""
    numbers = {
        node: keypoints.index(name) + 1 for node, name in _NODE.findall(svg) if name in keypoints
    }
    return tuple(
        (numbers[start], numbers[end])
        for start, end in _EDGE.findall(svg)
        if start in numbers and end in numbers
    )
