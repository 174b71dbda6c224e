"""Label Studio's JSON export, full and JSON-MIN.

By Label Studio's documentation of its task format and tags: `x`, `y`, `width`, `height` and points
are per cent of the image's `original_width` and `original_height`, which are those after EXIF
orientation. `rotation` turns clockwise, in degrees, as seen in pixels: a rectangle about its top
left corner, which stays at x, y; an ellipse about its centre. A brush is a stream of its own
(`formats.brush`). A region's `parentID` names the region that it is part of: a key point of a
rectangle; and, as we write them, further polygons of an object.

A task without any annotation has not been labelled, which is not the same as an image without
objects: that one has an annotation with an empty result.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from dataset_tools.coco import Annotation, Category, Image, read_json, whole_image
from dataset_tools.errors import InputError
from dataset_tools.formats.base import (
    SPLIT_NAMES,
    Evidence,
    Format,
    Glimpse,
    Option,
    Plan,
    root_of,
    sorted_categories,
)
from dataset_tools.formats.brush import decode_brush
from dataset_tools.formats.label_studio_writer import CONTROLS, INTERFACE, write
from dataset_tools.formats.locate import locate, path_of_url
from dataset_tools.images import ImageIndex, is_image_name
from dataset_tools.json_fields import listed, mapped, number, objects, points
from dataset_tools.notes import Notes
from dataset_tools.rle import encode_mask, polygons_box
from dataset_tools.rotated import corners
from dataset_tools.shapes import (
    ellipse_polygon,
    points_annotation,
    rotated_annotation,
    take_crowd,
)
from dataset_tools.xml_tree import Node, parse_xml

_RESULT = re.compile(r'"from_name"\s*:|"to_name"\s*:|"was_cancelled"\s*:|"result"\s*:')
_MIN = re.compile(r'"(rectangle|polygon|keypoint|ellipse|brush)labels"\s*:')
_DOTS = "KeyPointLabels"  # the control of key points
_OF_TASK = ("annotations", "completions", "predictions")
# What JSON-MIN says of a task besides its data and labels.
_MIN_KEYS = ("id", "annotator", "annotation_id", "created_at", "updated_at", "lead_time")
_LABEL_KEYS = (*(f"{name}labels" for name in CONTROLS), "labels")
# Controls whose value belongs to a region if they have its id, else to the image.
_VALUES = ("choices", "textarea", "number", "rating", "datetime")
_GEOMETRY = ("x", "y", "width", "height", "rotation", "points", "radiusX", "radiusY", "rle")


@dataclass(frozen=True)
class Item:
    """A task: the values of its data and the annotations that were chosen."""

    place: str
    data: dict[str, Any]
    annotations: list[dict[str, Any]]
    split: str | None


def plan(
    path: Path,
    notes: Notes,
    images: Path | None = None,
    annotations: str = "first",
    predictions: str = "no",
    image_key: str | None = None,
    choices: str = "choice,choices",
) -> Plan:
    """Plan to read an export, or the exports in a folder, each a split."""
    files = [path] if path.is_file() else _files(path)
    chooser = _Chooser(annotations, predictions, notes)
    items: list[Item] = []
    for file in files:
        content = read_json(file)
        if not isinstance(content, list):
            raise InputError(f"{file}: not an export of Label Studio: it is no list of tasks.")
        split = SPLIT_NAMES.get(file.stem.lower(), file.stem if len(files) > 1 else None)
        for number_, task in enumerate(_tasks(content, file, choices.split(","))):
            place = f"{file}: task {task.get('id', number_)}"
            if chosen := chooser.choose(task, place):
                items.append(Item(place, mapped(task, "data", place), chosen, split))
    root = root_of(path, images)
    keypoints = _keypoint_names(items)
    return Plan(
        image_root=root,
        items=items,
        read=_Reader(root, image_key, keypoints),
        categories=_Categories(_declared(path), keypoints),
    )


def recognise(glimpse: Glimpse) -> Evidence | None:
    """A JSON list of tasks with annotations as Label Studio has them, or its JSON-MIN."""
    name = glimpse.first(_looks_right, ".json")
    return Evidence(f"{name} is a JSON list of Label Studio's tasks") if name else None


@dataclass
class _Chooser:
    """Chooses the annotations of a task that count."""

    annotations: str
    predictions: str
    notes: Notes

    def choose(self, task: dict[str, Any], place: str) -> list[dict[str, Any]]:
        done: list[dict[str, Any]] = []
        for key in ("annotations", "completions"):  # the latter is what they once were called
            for annotation in objects(task, key, place):
                if annotation.get("was_cancelled") or annotation.get("skipped"):
                    self.notes.drop("annotation that was cancelled", place)
                else:
                    done.append(annotation)
        predicted = objects(task, "predictions", place)
        if done and self.annotations != "all":
            order = done if self.annotations == "first" else done[::-1]
            kept = next((one for one in order if one.get("ground_truth")), order[0])
            for _ in range(len(done) - 1):
                self.notes.drop("further annotation of a task (see --annotations)", place)
            done = [kept]
        if predicted and (self.predictions == "add" or (self.predictions == "fill" and not done)):
            return [*done, predicted[-1]]  # of several models the last
        for _ in predicted:
            self.notes.drop("prediction (see --predictions)", place)
        if not done:
            self.notes.drop("task that is not labelled", place)
        return done


@dataclass
class _Reader:
    root: Path
    image_key: str | None
    keypoints: dict[str, tuple[str, ...]]

    @cached_property
    def index(self) -> ImageIndex:
        return ImageIndex(self.root)

    def __call__(self, item: Item, notes: Notes) -> Iterator[Image]:
        key = self.image_key or _image_key(item.data)
        named = item.data.get(key) if key else None
        names = named if isinstance(named, list) else [named]
        if not key or not all(isinstance(name, str) and name for name in names):
            notes.drop("task whose data names no image (see --image-key)", item.place)
            return
        others = {k: v for k, v in item.data.items() if k != key and v not in (None, "")}
        for position, name in enumerate(names):
            regions = _Regions(item, position, notes)
            if name.startswith("data:"):
                notes.drop("task whose image is in the JSON itself", item.place)
                continue
            located = locate(self.index, image_names(name), regions.size, item.place, notes)
            if located is None:
                continue
            image = Image(*located[:1], *located[1], split=item.split, source=item.place)
            image.attributes = dict(others)
            self._fill(image, regions, notes)
            yield image

    def _fill(self, image: Image, regions: _Regions, notes: Notes) -> None:
        width, height = image.width, image.height
        for category in regions.choices:
            image.annotations.append(whole_image(category, width, height, image.source))
        if regions.captions:
            image.attributes["captions"] = regions.captions
        image.attributes |= regions.image_attributes
        parts = regions.parts()
        for region in regions.by_key.values():
            if regions.whole(region) is not None:
                continue
            annotation = self._annotation(region, (width, height), notes)
            if annotation is None:
                continue
            for part in parts.get(id(region), ()):
                self._join(annotation, part, (width, height))
            image.annotations.append(annotation)

    def _annotation(
        self, region: _Region, size: tuple[int, int], notes: Notes
    ) -> Annotation | None:
        try:
            annotation = _shape(region, size)
        except ValueError as fault:
            notes.drop(f"region that {fault}", region.place)
            return None
        annotation.source = region.place
        annotation.attributes |= region.attributes
        annotation.iscrowd = take_crowd(annotation.attributes)
        return annotation

    def _join(self, annotation: Annotation, part: _Region, size: tuple[int, int]) -> None:
        """Add a part, a further polygon or a key point, to its object."""
        if part.kind == "polygon":
            annotation.segmentation = [*annotation.segmentation, _polygon(part, size)]
            annotation.bbox = polygons_box(annotation.segmentation)
            return
        names = self.keypoints[annotation.category]
        if annotation.keypoints is None:
            annotation.keypoints = [0, 0, 0] * len(names)
        at = 3 * names.index(part.label)
        visibility = 1 if part.attributes.get("occluded") else 2
        annotation.keypoints[at : at + 3] = [*_position(part, size), visibility]


@dataclass
class _Region:
    """What was drawn, with all that was said of it."""

    place: str
    value: dict[str, Any]
    labels: list[str] = field(default_factory=list)
    parent: Any = None
    attributes: dict[str, Any] = field(default_factory=dict)

    @property
    def label(self) -> str:
        return self.labels[0] if self.labels else ""

    @cached_property
    def kind(self) -> str:
        value = self.value
        if "rle" in value or "format" in value:
            return "brush"
        if "points" in value or "vertices" in value:
            return "polygon" if "points" in value else "line"
        if "radiusX" in value:
            return "ellipse"
        return "rectangle" if "height" in value else "keypoint"


class _Regions:
    """The regions of one image of a task, and what is said of the whole image."""

    def __init__(self, item: Item, position: int, notes: Notes) -> None:
        self.by_key: dict[Any, _Region] = {}
        self.choices: list[str] = []
        self.captions: list[str] = []
        self.image_attributes: dict[str, Any] = {}
        self.size: tuple[int, int] | None = None
        self._notes = notes
        for order, annotation in enumerate(item.annotations):
            score = annotation.get("score")
            for index, result in enumerate(objects(annotation, "result", item.place)):
                if result.get("item_index", 0) == position:
                    self._add(result, order, f"{item.place} result[{index}]", score)
        for key, region in list(self.by_key.items()):
            if not region.labels:
                notes.drop("region without a label", region.place)
                del self.by_key[key]
            elif len(region.labels) > 1:
                notes.suspect("region with several labels (the first taken)", region.place)
                region.attributes["labels"] = region.labels

    def whole(self, region: _Region) -> _Region | None:
        """The object that a region is part of, if it is not one itself."""
        parent = self.by_key.get(region.parent)
        return parent if parent is not None and _is_part(region, parent) else None

    def parts(self) -> dict[int, list[_Region]]:
        """By the identity of an object, the regions that are parts of it."""
        found: dict[int, list[_Region]] = defaultdict(list)
        for region in self.by_key.values():
            if (whole := self.whole(region)) is not None:
                found[id(whole)].append(region)
        return found

    def _add(self, result: dict[str, Any], order: int, place: str, score: Any) -> None:
        kind, value = result.get("type"), mapped(result, "value", place)
        self._take_size(result, place)
        drawn = any(key in value for key in _GEOMETRY)
        key = (order, _key(result, value))
        name = str(result.get("from_name") or kind)
        if kind in _VALUES and key not in self.by_key and not drawn:
            self._take_value(name, kind, value, place)
            return
        if not drawn and key not in self.by_key:
            self._notes.drop(f"result of type {kind}", place)
            return
        parent = result.get("parentID") or None
        region = self.by_key.setdefault(key, _Region(place, value))
        if parent is not None:
            region.parent = (order, _hashable(parent))
        if kind in _VALUES:
            region.attributes[name] = _plain(value.get(_value_key(kind)))
        for label_key in _LABEL_KEYS:
            for label in listed(value, label_key, place):
                if isinstance(label, str) and label and label not in region.labels:
                    region.labels.append(label)
        region.attributes |= mapped(result, "meta", place)
        if result.get("score", score) is not None:
            region.attributes["score"] = number(result, "score", place, score)
        if result.get("image_rotation"):
            self._notes.suspect("region of an image that was turned in the editor", place)

    def _take_size(self, result: dict[str, Any], place: str) -> None:
        width, height = (
            number(result, f"original_{side}", place, 0) for side in ("width", "height")
        )
        if self.size is None and width >= 1 and height >= 1:
            self.size = (int(width), int(height))

    def _take_value(self, name: str, kind: str, value: dict[str, Any], place: str) -> None:
        said = value.get(_value_key(kind))
        if kind == "choices":
            self.choices += [choice for choice in _texts(said) if choice not in self.choices]
        elif kind == "textarea":
            self.captions += _texts(said)
        else:
            self.image_attributes[name] = said


def _shape(region: _Region, size: tuple[int, int]) -> Annotation:
    """The annotation of a region without what was said of it; ValueError if it has no shape."""
    label = region.label
    if region.kind == "rectangle":
        return _rectangle(region, size)
    if region.kind == "polygon":
        polygon = _polygon(region, size)
        if len(polygon) < 6:
            raise ValueError("is a polygon of less than three corners")
        return Annotation(label, polygons_box([polygon]), [polygon])
    if region.kind == "ellipse":
        x, y = _position(region, size)
        rx, ry = (
            number(region.value, f"radius{axis}", region.place) / 100 * side
            for axis, side in zip("XY", size, strict=True)
        )
        turn = number(region.value, "rotation", region.place, 0)
        polygon = ellipse_polygon(x, y, rx, ry, turn)
        return Annotation(label, polygons_box([polygon]), [polygon])
    if region.kind == "keypoint":
        return points_annotation(label, _position(region, size), "point")
    if region.kind == "brush":
        return Annotation(label, segmentation=_brush(region, size))
    raise ValueError(f"is a {region.kind}")


def _rectangle(region: _Region, size: tuple[int, int]) -> Annotation:
    x, y = _position(region, size)
    width, height = (
        number(region.value, key, region.place) / 100 * side
        for key, side in zip(("width", "height"), size, strict=True)
    )
    turn = number(region.value, "rotation", region.place, 0)
    if turn % 360 == 0:
        return Annotation(region.label, (x, y, x + width, y + height))
    # About the corner the centre lies where the box about (0, 0) has its third corner.
    angle = (180 - turn) % 360 - 180
    across, down = corners((0, 0, width, height, angle))[4:6]
    return rotated_annotation(region.label, (x + across, y + down, width, height, angle))


def _brush(region: _Region, size: tuple[int, int]) -> dict[str, Any]:
    rle = region.value.get("rle")
    try:
        mask = decode_brush(bytes(rle), *size)
    except (TypeError, ValueError) as fault:
        raise InputError(f"{region.place}: the brush's rle cannot be read: {fault}.") from fault
    if not mask.any():
        raise ValueError("is a brush without a pixel")
    return encode_mask(mask)


def _polygon(region: _Region, size: tuple[int, int]) -> list[float]:
    shares = points(region.value, "points", region.place)
    return [share / 100 * size[index % 2] for index, share in enumerate(shares)]


def _position(region: _Region, size: tuple[int, int]) -> list[float]:
    return [
        number(region.value, key, region.place) / 100 * side
        for key, side in zip("xy", size, strict=True)
    ]


def _is_part(region: _Region, parent: _Region) -> bool:
    """Whether a region is part of the object that its parent is, not an object in another."""
    if region is parent or parent.kind == "keypoint":
        return False
    further = region.kind == parent.kind == "polygon" and region.labels == parent.labels
    return region.kind == "keypoint" or (further and parent.parent is None)


def _key(result: dict[str, Any], value: dict[str, Any]) -> Any:
    """What tells regions apart: the id; in JSON-MIN, which has none, the place."""
    if result.get("id") is not None:
        return _hashable(result["id"])
    return json.dumps({key: value.get(key) for key in _GEOMETRY})


def _hashable(value: Any) -> Any:
    """An id as it is, or, of something that is none, its text."""
    return value if isinstance(value, str | int) else json.dumps(value)


def _value_key(kind: str) -> str:
    return "text" if kind == "textarea" else kind


def _plain(value: Any) -> Any:
    """A list of one as that one."""
    return value[0] if isinstance(value, list) and len(value) == 1 else value


def _texts(value: Any) -> list[str]:
    values = value if isinstance(value, list) else [value]
    return [one for one in values if isinstance(one, str) and one]


def image_names(value: str) -> list[str]:
    """Names that the image of a task's value may have: as uploaded, and as it was called before."""
    parts = urlsplit(value.replace("#", "%23"))
    local = parse_qs(parts.query).get("d")
    if parts.path.endswith("/local-files/") and local:
        return [local[0]]  # parse_qs has decoded it
    path = path_of_url(value)
    uploaded = re.fullmatch(r"(.*/)?data/upload/(?:\d+/)?([0-9a-f]{8}-)?(.+)", path)
    if uploaded:
        return [f"{uploaded[2] or ''}{uploaded[3]}", uploaded[3]]
    return [path]


def _image_key(data: dict[str, Any]) -> str | None:
    """The key of a task's data that names the image."""
    known = [key for key in ("image", "img", "image_url", "images") if data.get(key)]
    if known:
        return known[0]
    for key, value in data.items():
        first = value[0] if isinstance(value, list) and value else value
        if isinstance(first, str) and is_image_name(image_names(first)[-1]):
            return key
    return None


def _tasks(content: list[Any], file: Path, choices: list[str]) -> Iterable[dict[str, Any]]:
    """Tasks as the full export has them, whichever export it is."""
    objects({"task": content}, "task", str(file))
    if any(key in task for task in content for key in _OF_TASK):
        return content
    tasks: dict[Any, dict[str, Any]] = {}
    for position, entry in enumerate(content):
        data, results = _from_min(entry, choices)
        task = tasks.setdefault(
            _hashable(entry.get("id", f"#{position}")),
            {"id": entry.get("id", position), "data": data, "annotations": []},
        )
        if results or entry.get("annotation_id") is not None:
            task["annotations"].append({"result": results})
    return tasks.values()


def _from_min(
    entry: dict[str, Any], choices: list[str]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The data and the results of a task in JSON-MIN, where each control is a key."""
    data: dict[str, Any] = {}
    results: list[dict[str, Any]] = []
    for key, value in entry.items():
        if key in _MIN_KEYS:
            continue
        if isinstance(value, list) and value and all(isinstance(v, dict) for v in value):
            for region in value:
                kind = next((k for k in (*_LABEL_KEYS, *_VALUES, "text") if k in region), "region")
                kind = "textarea" if kind == "text" else kind
                sizes = {k: region.get(k) for k in ("original_width", "original_height", "id")}
                results.append({"type": kind, "from_name": key, "value": region, **sizes})
        elif (isinstance(value, dict) and "choices" in value) or key in choices:
            said = value.get("choices") if isinstance(value, dict) else value
            texts = {"choices": _texts(said)}
            results.append({"type": "choices", "from_name": key, "value": texts, "id": f"={key}"})
        else:
            data[key] = value
    return data, results


def _keypoint_names(items: list[Item]) -> dict[str, tuple[str, ...]]:
    """For each category the names of key points that are parts of its objects, sorted."""
    names: dict[str, set[str]] = defaultdict(set)
    for item in items:
        for position in {
            result.get("item_index", 0)
            for annotation in item.annotations
            for result in objects(annotation, "result", item.place)
        }:
            regions = _Regions(item, position, Notes())
            for region in regions.by_key.values():
                whole = regions.whole(region)
                if whole is not None and region.kind == "keypoint":
                    names[whole.label].add(region.label)
    return {category: tuple(sorted(found)) for category, found in names.items() if found}


@dataclass(frozen=True)
class _Categories:
    declared: dict[str, bool]  # whether a name may be that of objects' key points alone
    keypoints: dict[str, tuple[str, ...]]

    def __call__(self, seen: set[str]) -> list[Category]:
        of_objects = set().union(*self.keypoints.values())
        of_objects |= {name for name, is_part in self.declared.items() if is_part}
        names = [name for name in self.declared if name in seen or name not in of_objects]
        names += [category.name for category in sorted_categories(seen - set(names))]
        return [Category(name, keypoints=self.keypoints.get(name, ())) for name in names]


def _declared(path: Path) -> dict[str, bool]:
    """Labels and choices in the labelling interface, if it lies beside the export; with whether
    other labels are drawn as areas, and this one as a key point only."""
    file = (path if path.is_dir() else path.parent) / INTERFACE
    if not file.is_file():
        return {}
    controls: dict[str, set[str]] = {}

    def walk(node: Node, control: str) -> None:
        name = node.attributes.get("value")
        if node.tag in ("Label", "Choice") and name:
            controls.setdefault(name, set()).add(control)
        for child in node.children:
            walk(child, node.tag if node.tag.endswith("Labels") else control)

    walk(parse_xml(file), "")
    areas = any(tag.endswith("Labels") for tags in controls.values() for tag in tags - {_DOTS})
    return {name: areas and tags == {_DOTS} for name, tags in controls.items()}


def _looks_right(head: str) -> bool:
    if not re.match(r"\s*\[\s*\{", head) or '"annotator_responses"' in head:
        return False
    full = any(f'"{key}"' in head for key in _OF_TASK)
    return bool((full and '"data"' in head and _RESULT.search(head)) or _MIN.search(head))


def _files(folder: Path) -> list[Path]:
    glimpse = Glimpse(folder)
    names = [name for name in glimpse.with_suffix(".json") if _looks_right(glimpse.head(name))]
    if not names:
        raise InputError(f"{folder}: there is no JSON export of Label Studio in it.")
    return [folder / name for name in names]


FORMAT = Format(
    name="label-studio",
    title="Label Studio JSON (full and JSON-MIN)",
    layout="the exported .json file, or a folder with one for each split",
    carries=("boxes", "masks", "keypoints", "rotation", "labels", "attributes", "splits"),
    loses="relations, videos, cancelled annotations; of several annotations of a task all but one "
    "(--annotations); predictions (--predictions); ellipses become polygons",
    recognise=recognise,
    plan=plan,
    conventions="Per cent of original_width and original_height. rotation is clockwise about the "
    "top left corner; such rectangles become rbox. Brushes are masks where their alpha is above "
    "127. A key point whose parentID names another region is a key point of that object, else a "
    "point. Choices of the image are labels of the whole image; what else is said of a region (its "
    "choices, texts, numbers, meta) becomes its attributes. Of a name like /data/upload/1/abcd1234-"
    "name.jpg the image is found with and without the prefix; /data/local-files/?d= names a path "
    "below the image root. Tasks without an annotation are not labelled and dropped; those with an "
    "empty one are images without objects. A config.xml beside the export gives the order of "
    "categories.",
    options=(
        Option(
            "--annotations",
            "of several annotations of a task: the first, the last (one marked as ground truth "
            "goes before others), or all together",
            default="first",
            choices=("first", "last", "all"),
        ),
        Option(
            "--predictions",
            "no; fill: where a task has no annotation; add: besides them. The last one of a task",
            default="no",
            choices=("no", "fill", "add"),
        ),
        Option("--image-key", "key of a task's data that names the image", metavar="KEY"),
        Option(
            "--choices",
            "in JSON-MIN: keys that are choices of the image",
            default="choice,choices",
            metavar="KEYS",
        ),
    ),
    write=write,
    write_options=(
        Option(
            "--prefix",
            "put before each image's path, if Label Studio's local storage begins further up",
            default="",
            metavar="PATH/",
        ),
    ),
    write_loses="lines; boxes of objects with a mask (they are the masks' own); names of key "
    "points that are nowhere labelled; super-categories; rotated boxes at angle 0 become plain",
)
