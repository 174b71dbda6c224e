"""VGG Image Annotator (VIA), versions 1, 2 and 3: JSON of projects and annotations, and CSV.

By the documentation of VIA (robots.ox.ac.uk/~vgg/software/via, `via.js` and `_via_metadata.js`):
coordinates are 0-based px of the image as it is shown. rect: x, y, width, height; circle: cx, cy,
r; ellipse: cx, cy, rx, ry and, in version 2, theta in radians, clockwise; polygon and polyline:
all_points_x, all_points_y; point: cx, cy. Version 1 repeats a polygon's first corner at its end.
Version 3 has a number for the shape before its numbers. There is no class in VIA, only attributes
that a project defines: one of them is taken for it.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dataset_tools import json_fields
from dataset_tools.coco import Annotation, Image, read_json
from dataset_tools.errors import InputError
from dataset_tools.formats.base import (
    Evidence,
    Format,
    Glimpse,
    Option,
    Plan,
    read_text,
    root_of,
    split_of_folders,
)
from dataset_tools.formats.locate import locate, path_of_url
from dataset_tools.formats.reading import note_empty
from dataset_tools.images import ImageIndex, walk_files
from dataset_tools.notes import Notes
from dataset_tools.shapes import ellipse_polygon, points_annotation, polygon_annotation

NO_CLASS = "object"  # of regions in projects without attributes
# Names that a class goes by, the likeliest first.
_CLASS_NAMES = "class label category type name object species class_name classname".split()  # noqa: SIM905
_KNOWN = re.compile(r'"(_via_img_metadata|_via_settings|region_attributes|shape_attributes)"\s*:')
_VERSION_3 = re.compile(r'"(vid_list|data_format_version)"\s*:')
_CSV_HEADER = re.compile(r"^#?filename,[^\n]*region_shape_attributes", re.MULTILINE)
# Version 3: number of a shape → its name and the keys of its numbers.
_SHAPES_3 = {
    1: ("point", ("cx", "cy")),
    2: ("rect", ("x", "y", "width", "height")),
    3: ("circle", ("cx", "cy", "r")),
    4: ("ellipse", ("cx", "cy", "rx", "ry")),
}
_LINES_3 = {5: "polyline", 6: "polyline", 7: "polygon", 8: "extreme_rect", 9: "extreme_circle"}
_IMAGE_FILE_3 = 2


@dataclass
class Region:
    """A region's shape and attributes as version 2 has them."""

    shape: dict[str, Any]
    attributes: dict[str, Any]
    place: str


@dataclass
class Item:
    """What is said of an image."""

    name: str
    file: str  # that says it, relative to the dataset
    place: str
    regions: list[Region] = field(default_factory=list)
    attributes: dict[str, Any] = field(default_factory=dict)


def plan(
    path: Path, notes: Notes, images: Path | None = None, class_attribute: str | None = None
) -> Plan:
    """Plan to read a JSON or CSV file, or all those of VIA in a folder."""
    base = path if path.is_dir() else path.parent
    items: list[Item] = []
    found = False
    for name in walk_files(path) if path.is_dir() else [path.name]:
        if name.lower().endswith((".json", ".csv")):
            read = _items(base / name, name, notes)
            found |= read is not None
            items += read or []
    if not found:
        raise InputError(f"{path}: there is no JSON or CSV file of VIA.")
    attribute, why = _class_attribute(items, class_attribute, path)
    root = root_of(path, images)
    reader = _Reader(ImageIndex(root), attribute)
    return Plan(
        root, items, reader, info={"class_attribute": attribute}, remarks=[why], parallel=False
    )


def recognise(glimpse: Glimpse) -> Evidence | None:
    """JSON with VIA's keys, or CSV with its columns."""
    for name in glimpse.with_suffix(".json", ".csv")[:20]:
        head = glimpse.head(name)
        if name.lower().endswith(".csv"):
            if _CSV_HEADER.search(head):
                return Evidence(f"{name} has the columns of VIA")
        elif head.lstrip().startswith("{") and _KNOWN.search(head):
            return Evidence(f"{name} is JSON with regions as VIA has them")
        elif head.lstrip().startswith("{") and len(set(_VERSION_3.findall(head))) == 2:
            return Evidence(f"{name} is JSON of a project of VIA 3")
    return None


def _items(path: Path, file: str, notes: Notes) -> list[Item] | None:
    """What a file says of each image; None, noted as dropped, if it is not VIA's."""
    if path.suffix.lower() == ".csv":
        content = read_text(path)
        if _CSV_HEADER.search(content):
            return _items_of_csv(path, file, content)
    else:
        content = read_json(path)
        if isinstance(content, dict):
            if {"metadata", "view", "file"} <= content.keys():
                return _items_of_3(path, file, content, notes)
            entries = content.get("_via_img_metadata", content)
            if isinstance(entries, dict) and all(
                isinstance(entry, dict) and {"filename", "regions"} <= entry.keys()
                for entry in entries.values()
            ):
                return [_item_of_2(entry, key, path, file) for key, entry in entries.items()]
    notes.drop("JSON or CSV file that is not VIA's", str(path))
    return None


def _item_of_2(entry: dict[str, Any], key: str, path: Path, file: str) -> Item:
    place = f"{path}: {key!r}"
    item = Item(json_fields.text(entry, "filename", place), file, place)
    item.attributes = _said(json_fields.mapped(entry, "file_attributes", place))
    regions = entry["regions"]
    if isinstance(regions, dict):  # version 1
        regions = list(regions.values())
    for index, region in enumerate(json_fields.objects({"regions": regions}, "regions", place)):
        where = f"{place} regions[{index}]"
        shape = json_fields.mapped(region, "shape_attributes", where)
        said = _said(json_fields.mapped(region, "region_attributes", where))
        item.regions.append(Region(shape, said, where))
    return item


def _items_of_csv(path: Path, file: str, content: str) -> list[Item]:
    lines = content.splitlines(keepends=True)
    while lines and not _CSV_HEADER.match(lines[0]):
        lines.pop(0)
    rows = csv.DictReader(io.StringIO("".join(lines), newline=""))
    items: dict[str, Item] = {}
    skipped = content.count("\n") - "".join(lines).count("\n")
    csv.field_size_limit(1 << 30)
    try:
        for row in rows:
            place = f"{path}:{skipped + rows.line_num}"
            name = (row.get("filename") or row.get("#filename") or "").strip()
            if not name:
                raise InputError(f"{place}: the row has no filename. Mend or remove it.")
            item = items.setdefault(name, Item(name, file, place))
            item.attributes |= _said(_cell(row, "file_attributes", place))
            shape = _cell(row, "region_shape_attributes", place)
            if shape:
                said = _said(_cell(row, "region_attributes", place))
                item.regions.append(Region(shape, said, place))
    except csv.Error as error:
        raise InputError(f"{path}:{skipped + rows.line_num}: broken CSV: {error}.") from error
    return list(items.values())


def _cell(row: dict[str, Any], column: str, place: str) -> dict[str, Any]:
    text = row.get(column) or "{}"
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{place}: {column} is no JSON: {error}. Mend or remove the row."
        ) from error
    return json_fields.mapped({column: value}, column, place)


def _items_of_3(path: Path, file: str, content: dict[str, Any], notes: Notes) -> list[Item]:
    files = json_fields.mapped(content, "file", str(path))
    views = json_fields.mapped(content, "view", str(path))
    meanings = json_fields.mapped(content, "attribute", str(path))
    items: dict[str, Item] = {}  # by view
    for number in views:
        place = f"{path}: view {number!r}"
        shown = json_fields.listed(json_fields.mapped(views, number, place), "fid_list", place)
        entry = json_fields.mapped(files, str(shown[0]) if len(shown) == 1 else "", place)
        if not entry:
            notes.drop("view that does not show one file", place)
        elif entry.get("type") != _IMAGE_FILE_3:
            notes.drop("video or sound", place)
        else:
            items[number] = Item(json_fields.text(entry, "fname", place), file, place)
    metadata = json_fields.mapped(content, "metadata", str(path))
    for number in metadata:
        place = f"{path}: metadata {number!r}"
        entry = json_fields.mapped(metadata, number, place)
        item = items.get(str(entry.get("vid")))
        if item is None:
            notes.drop("region in no image", place)
            continue
        said = _said_3(json_fields.mapped(entry, "av", place), meanings)
        numbers = json_fields.numbers(entry, "xy", place)
        if numbers:
            item.regions.append(Region(_shape_of_3(numbers, place), said, place))
        elif entry.get("z"):
            notes.drop("segment of time", place)
        else:
            item.attributes |= said
    return list(items.values())


def _shape_of_3(numbers: Sequence[float], place: str) -> dict[str, Any]:
    kind, rest = int(numbers[0]), list(numbers[1:])
    if kind in _LINES_3:
        return {
            "name": _LINES_3[kind],
            "all_points_x": rest[0::2],
            "all_points_y": rest[1::2],
        }
    name, keys = _SHAPES_3.get(kind, (f"shape {kind}", ()))
    if len(rest) < len(keys):
        raise InputError(f"{place}: {name} has {len(rest)} numbers. Mend or remove this region.")
    return {"name": name, **dict(zip(keys, rest, strict=False))}


def _said_3(values: dict[str, Any], meanings: dict[str, Any]) -> dict[str, Any]:
    """Attributes by their names, options by their texts."""
    said: dict[str, Any] = {}
    for number, value in values.items():
        meaning = meanings.get(number)
        meaning = meaning if isinstance(meaning, dict) else {}
        options = meaning.get("options")
        texts = options if isinstance(options, dict) else {}
        chosen = [texts.get(part, part) for part in str(value).split(",")] if texts else [value]
        name = str(meaning.get("aname") or number)
        said[name] = chosen[0] if len(chosen) == 1 else {str(text): True for text in chosen}
    return _said(said)


def _said(attributes: dict[str, Any]) -> dict[str, Any]:
    """Attributes with a value; of checkboxes those that are set."""
    said = {}
    for name, value in attributes.items():
        if isinstance(value, dict):
            value = [key for key, on in value.items() if on]
        if value not in ("", None, []):
            said[name] = value
    return said


def _class_attribute(
    items: Sequence[Item], given: str | None, path: Path
) -> tuple[str | None, str]:
    """The attribute that names the class of a region, and why."""
    counts = Counter(
        name for item in items for region in item.regions for name in region.attributes
    )
    if given is not None:
        if given not in counts:
            there = ", ".join(map(repr, counts)) or "none"
            raise InputError(
                f"{path}: no region has the attribute {given!r}; there are {there}. Check "
                "--class-attribute."
            )
        return given, f"the class is the attribute {given!r}"
    if not counts:
        return None, f"regions have no attributes: all are of the category {NO_CLASS!r}"
    by_name = {name.lower().replace(" ", "_"): name for name in counts}
    named = next((by_name[name] for name in _CLASS_NAMES if name in by_name), None)
    if named is None:
        named = counts.most_common(1)[0][0]
    others = ", ".join(repr(name) for name in counts if name != named)
    told = f" (others: {others})" if others else ""
    return named, f"the class is the attribute {named!r}{told}; --class-attribute says another"


@dataclass
class _Reader:
    index: ImageIndex
    attribute: str | None

    def __call__(self, item: Item, notes: Notes) -> Iterator[Image]:
        name = path_of_url(item.name).replace("\\", "/").strip()
        found = locate(self.index, [name], None, item.place, notes, near=item.file)
        if found is None:
            return
        image = Image(found[0], *found[1], attributes=item.attributes, source=item.place)
        image.split = split_of_folders(image.file_name) or split_of_folders(item.file)
        for region in item.regions:
            image.annotations += self._annotations(region, notes)
        yield image

    def _annotations(self, region: Region, notes: Notes) -> Iterator[Annotation]:
        said = dict(region.attributes)
        value = NO_CLASS if self.attribute is None else said.pop(self.attribute, None)
        if value is None:
            notes.drop("region without a class", region.place)
            return
        names = value if isinstance(value, list) else [value]
        if len(names) > 1:
            notes.suspect("region of several classes (an object for each)", region.place)
        for name in names:
            found = _annotation(str(name).strip(), region.shape, said, region.place, notes)
            if found is not None:
                yield found


def _annotation(
    label: str, shape: dict[str, Any], said: dict[str, Any], place: str, notes: Notes
) -> Annotation | None:
    kind = shape.get("name")
    more: dict[str, Any] = {"attributes": dict(said), "source": place}

    def numbers(*keys: str) -> list[float]:
        return [json_fields.number(shape, key, place) for key in keys]

    if kind == "rect":
        x, y, width, height = numbers("x", "y", "width", "height")
        note_empty((x, y, x + width, y + height), place, notes)
        return Annotation(label, (x, y, x + width, y + height), **more)
    if kind == "circle":
        x, y, radius = numbers("cx", "cy", "r")
        return polygon_annotation(label, ellipse_polygon(x, y, radius, radius), **more)
    if kind == "ellipse":
        turn = math.degrees(json_fields.number(shape, "theta", place, 0))
        polygon = ellipse_polygon(*numbers("cx", "cy", "rx", "ry"), turn)
        return polygon_annotation(label, polygon, **more)
    if kind == "point":
        return points_annotation(label, numbers("cx", "cy"), "point", **more)
    if kind not in ("polygon", "polyline", "extreme_rect", "extreme_circle"):
        notes.drop(f"region of a shape that is not known ({kind})", place)
        return None
    points = _points(shape, place)
    if kind == "extreme_rect":  # four points on the sides of a box
        xs, ys = points[0::2], points[1::2]
        return Annotation(label, (min(xs), min(ys), max(xs), max(ys)), **more)
    if kind == "extreme_circle":
        circle = _circle_through(points)
        if circle is None:
            notes.drop("circle by points in a line", place)
            return None
        x, y, radius = circle
        return polygon_annotation(label, ellipse_polygon(x, y, radius, radius), **more)
    if kind == "polyline":
        return points_annotation(label, points, "line", **more)
    if len(points) > 6 and points[:2] == points[-2:]:  # closed, as by version 1
        points = points[:-2]
    if len(points) < 6:
        notes.drop("polygon of less than three corners", place)
        return None
    return polygon_annotation(label, points, **more)


def _points(shape: dict[str, Any], place: str) -> list[float]:
    xs, ys = (json_fields.numbers(shape, key, place) for key in ("all_points_x", "all_points_y"))
    if len(xs) != len(ys) or not xs:
        raise InputError(
            f"{place}: there are {len(xs)} all_points_x but {len(ys)} all_points_y. Mend or remove "
            "this region."
        )
    return [value for pair in zip(xs, ys, strict=True) for value in pair]


def _circle_through(points: Sequence[float]) -> tuple[float, float, float] | None:
    """Centre and radius of the circle through three points; None if there is none."""
    if len(points) != 6:
        return None
    ax, ay, bx, by, cx, cy = points
    bx, by, cx, cy = bx - ax, by - ay, cx - ax, cy - ay
    double = 2 * (bx * cy - by * cx)
    if not double:
        return None
    x = (cy * (bx * bx + by * by) - by * (cx * cx + cy * cy)) / double
    y = (bx * (cx * cx + cy * cy) - cx * (bx * bx + by * by)) / double
    return ax + x, ay + y, math.hypot(x, y)


FORMAT = Format(
    name="via",
    title="VGG Image Annotator (VIA 1, 2, 3) JSON and CSV",
    layout="a JSON file (project or annotations) or CSV file, or a folder with such; images beside "
    "it or by --images",
    carries=("boxes", "masks", "attributes", "splits"),
    loses="segments of video and sound; images in base64; lines and points are attributes",
    recognise=recognise,
    plan=plan,
    conventions="0-based px. Circles and ellipses (theta: radians, clockwise) become polygons of "
    "64 corners; polylines and points attributes. The images are needed for their sizes. The class "
    "is the region attribute called class, label, category, type, name, … or the commonest; other "
    "attributes are kept, those of files with the image.",
    options=(
        Option(
            "--class-attribute",
            "region attribute that names the class (default: guessed, and told)",
            metavar="NAME",
        ),
    ),
)
