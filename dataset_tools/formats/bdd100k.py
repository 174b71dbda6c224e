"""BDD100K and Scalabel JSON: frames, each with labels of a category and a shape.

As https://doc.bdd100k.com/format.html has it: a file is a list of frames, or {"frames": [...],
"config": {...}}; a file of the first release holds one image, its objects in its one frame. The
tools of Scalabel compute with a box's width of `x2 - x1 + 1`: x2 and y2 are the last pixels.
`poly2d` is a list of polygons; of its `types`, L is a corner and two Cs between corners are the
control points of a cubic Bézier curve. `rle` is COCO's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from dataset_tools.coco import Annotation, Image, read_box, read_json, read_segmentation
from dataset_tools.errors import InputError
from dataset_tools.formats.base import (
    Evidence,
    Format,
    Glimpse,
    Option,
    Plan,
    root_of,
    split_of_folders,
)
from dataset_tools.formats.reading import find_image, leads_out, mapping, note_empty, split_of_name
from dataset_tools.images import ImageIndex, walk_files
from dataset_tools.notes import Notes
from dataset_tools.rle import Box, polygons_box

CURVE_STEPS = 8  # straight pieces of a Bézier curve: off by less than 1 % of its length
_NO_OBJECTS = ("lane", "area", "drivable area")  # also lane/…, area/…
_KEYS = ("poly2d", "box2d", "rle")


@dataclass(frozen=True)
class Item:
    """A frame of a file and where it is in it."""

    frame: dict[str, Any]
    place: str
    split: str | None
    size: tuple[int, int] | None  # of all images, by the file's config


def plan(path: Path, notes: Notes, images: Path | None = None, edges: str = "inclusive") -> Plan:
    """Plan to read a JSON file, or all of those in a folder."""
    names = [n for n in walk_files(path) if n.endswith(".json")] if path.is_dir() else [path.name]
    base = path if path.is_dir() else path.parent
    files = [n for n in names if path.is_file() or _looks_like_frames(Glimpse(base / n).head(n))]
    if not files:
        raise InputError(f"{path}: no JSON file of frames with labels is in it.")
    root = root_of(path, images)
    items = [item for name in files for item in _items(base / name, name)]
    reader = _Reader(root, 1 if edges == "inclusive" else 0)
    remark = (
        "x2 and y2 are the last pixels of boxes, as Scalabel's tools have them (--edges inclusive)"
        if reader.last
        else "x2 and y2 are edges of boxes (--edges corners)"
    )
    return Plan(root, items, reader, remarks=[remark], parallel=False)


def recognise(glimpse: Glimpse) -> Evidence | None:
    """JSON of frames that have a name and labels of box2d, poly2d or rle."""
    name = glimpse.first(_looks_like_frames, ".json")
    return (
        Evidence(f"{name} is JSON of frames with labels of box2d, poly2d or rle") if name else None
    )


@dataclass
class _Reader:
    root: Path
    last: int  # 1: the last pixel belongs to a box

    @cached_property
    def index(self) -> ImageIndex:
        return ImageIndex(self.root)

    def __call__(self, item: Item, notes: Notes) -> Iterator[Image]:
        image = self._image(item, notes)
        if image is None:
            return
        labels = item.frame.get("labels") or []
        if not isinstance(labels, list):
            raise InputError(f"{item.place}: labels is not a list.")
        for number, label in enumerate(labels):
            place = f"{item.place}.labels[{number}]"
            try:
                annotation = self._annotation(label, place, notes)
            except (ValueError, TypeError, LookupError, AttributeError) as fault:
                raise InputError(f"{place}: {fault}. Mend or remove the label.") from fault
            if annotation is not None:
                image.annotations.append(annotation)
        yield image

    def _image(self, item: Item, notes: Notes) -> Image | None:
        frame = item.frame
        name = frame["name"]
        video = frame.get("videoName") or frame.get("video_name")
        if video:
            name = f"{video}/{name}"
        known = _size(frame.get("size"), f"{item.place}.size") or item.size
        near = f"{item.split}/"
        if known and self.index.find(name, near=near) is None:
            notes.suspect("image file that is missing (kept)", f"{item.place}: {name}")
            name = name.rpartition("/")[2] if leads_out(name) else name
            image = Image(name, *known, split=item.split, source=item.place)
        else:
            image = find_image(self.index, name, near, item.place, notes, item.split)
        if image is None:
            return None
        image.attributes = dict(mapping(frame.get("attributes"), f"{item.place}.attributes"))
        if frame.get("timestamp") is not None:
            image.attributes["timestamp"] = frame["timestamp"]
        if video:
            image.attributes["video"] = video
        if frame.get("frameIndex") is not None:
            image.attributes["frame"] = frame["frameIndex"]
        return image

    def _annotation(self, label: Any, place: str, notes: Notes) -> Annotation | None:
        if not isinstance(label, dict) or not isinstance(label.get("category"), str):
            raise ValueError("the label has no category")
        category = label["category"]
        attributes = mapping(label.get("attributes"), f"{place}.attributes")
        shape = next((key for key in _KEYS if label.get(key)), None)
        if category.partition("/")[0] in _NO_OBJECTS:
            notes.drop(f"{category.partition('/')[0]}, which is no object", place)
            return None
        if shape is None and not label.get("box2d"):
            notes.drop("label without box2d, poly2d and rle", place)
            return None
        segmentation: Any = None
        if label.get("rle"):
            segmentation = read_segmentation(label["rle"])
        elif label.get("poly2d"):
            segmentation = _polygons(label["poly2d"], place, notes)
        box = self._box(label["box2d"]) if label.get("box2d") else None
        if box is None and isinstance(segmentation, list):
            box = polygons_box(segmentation)
        if box is None and segmentation is None:
            return None  # its polygons were dropped, and are noted
        if box is not None:
            note_empty(box, place, notes)
        return Annotation(
            category,
            box,
            segmentation,
            iscrowd=bool(attributes.get("crowd")),
            attributes=_attributes(label, attributes),
            source=place,
        )

    def _box(self, box: dict[str, Any]) -> Box:
        left, top, right, bottom = read_box([box["x1"], box["y1"], box["x2"], box["y2"]])
        right, bottom = right - left, bottom - top  # read_box took them for sizes
        return (left, top, right + self.last, bottom + self.last)


def _attributes(label: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    attributes = {key: value for key, value in own.items() if key != "crowd"}
    if label.get("id") is not None:
        attributes["track_id"] = label["id"]
    if label.get("score") is not None:
        attributes["score"] = label["score"]
    if label.get("box3d"):
        attributes["box3d"] = label["box3d"]
    return attributes


def _polygons(value: Any, place: str, notes: Notes) -> list[list[float]] | None:
    """Closed polygons with curves made straight; None if there are none."""
    # The first release has a plain list of [x, y, type].
    if value and isinstance(value[0], list):
        value = [{"vertices": [p[:2] for p in value], "types": "".join(str(p[2]) for p in value)}]
    polygons = []
    for polygon in value:
        points = [(float(x), float(y)) for x, y in polygon["vertices"]]
        types = polygon.get("types") or "L" * len(points)
        if len(types) != len(points) or set(types) - {"L", "C"}:
            raise ValueError(f"types {types!r} of a polygon of {len(points)} vertices")
        if not polygon.get("closed", True):
            notes.drop("open line, which is no polygon", place)
            continue
        polygons.append(_straightened(points, types))
    return polygons or None


def _straightened(points: Sequence[tuple[float, float]], types: str) -> list[float]:
    """Corners of a closed polygon, with points along its cubic Bézier curves."""
    first = types.find("L")
    if first < 0:
        raise ValueError("a polygon without a vertex of type L")
    points, types = [*points[first:], *points[:first]], types[first:] + types[:first]
    points, types = [*points, points[0]], types + "L"
    flat: list[float] = []
    here = 0
    while here < len(points) - 1:
        flat += points[here]
        if types[here + 1] == "L":
            here += 1
            continue
        if types[here + 1 : here + 4] != "CCL":
            raise ValueError("a curve has two control points between its ends")
        for step in range(1, CURVE_STEPS):
            flat += _bezier(points[here : here + 4], step / CURVE_STEPS)
        here += 3
    return flat


def _bezier(points: Sequence[tuple[float, float]], t: float) -> tuple[float, float]:
    weights = ((1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3)
    x, y = (sum(w * point[i] for w, point in zip(weights, points, strict=True)) for i in (0, 1))
    return x, y


def _items(file: Path, name: str) -> Iterator[Item]:
    content = read_json(file)
    size = None
    if isinstance(content, dict) and _is_first_release(content):
        objects = [label for frame in content["frames"] for label in frame.get("objects") or []]
        content = [{**content, "labels": objects}]
    elif isinstance(content, dict):
        config = mapping(content.get("config"), f"{file}: config")
        size = _size(config.get("imageSize"), f"{file}: config.imageSize")
        content = content.get("frames")
    if not isinstance(content, list):
        raise InputError(f"{file}: neither a list of frames nor an object with such.")
    split = split_of_name(name) or split_of_folders(name)
    for number, frame in enumerate(content):
        if not isinstance(frame, dict) or not isinstance(frame.get("name"), str):
            raise InputError(f"{file}: frames[{number}] has no name.")
        yield Item(frame, f"{file}: frames[{number}]", split, size)


def _size(value: Any, where: str) -> tuple[int, int] | None:
    """Width and height, None if they are not said."""
    size = mapping(value, where)
    if not size:
        return None
    width, height = size.get("width"), size.get("height")
    if type(width) is not int or type(height) is not int:
        raise InputError(f"{where}: width and height are not whole numbers.")
    return width, height


def _is_first_release(content: dict[str, Any]) -> bool:
    frames = content.get("frames")
    return (
        isinstance(content.get("name"), str)
        and isinstance(frames, list)
        and all(isinstance(frame, dict) and "objects" in frame for frame in frames)
    )


def _looks_like_frames(head: str) -> bool:
    shape = any(f'"{key}"' in head for key in _KEYS)
    frames = head.lstrip()[:1] == "[" or '"frames"' in head
    return shape and frames and '"name"' in head and '"category"' in head


FORMAT = Format(
    name="bdd100k",
    title="BDD100K and Scalabel JSON",
    layout="a JSON file (bdd100k_labels_images_train.json, det_train.json, …) or a folder of such; "
    "images below it or in --images",
    carries=("boxes", "masks", "tracks", "attributes", "splits"),
    loses="lanes and drivable areas (counted); graphs, camera parameters",
    recognise=recognise,
    plan=plan,
    conventions="box2d holds the last pixels: (x1, x2) becomes (x1, x2 + 1), as Scalabel's own "
    "tools convert it. Bézier curves of poly2d are made straight, in eight pieces each. crowd "
    "becomes iscrowd, id track_id; occluded, truncated, trafficLightColor and box3d stay "
    "attributes, weather, scene and timeofday those of the image.",
    options=(
        Option(
            "--edges",
            "inclusive: x2, y2 are the last pixels of a box; corners: its edges",
            default="inclusive",
            choices=("inclusive", "corners"),
        ),
    ),
)
