"""Supervisely projects: meta.json with the classes, and in each dataset ann/ and img/.

By Supervisely's documentation of its annotation format and its SDK:

- a rectangle's `exterior` is two corners. The SDK's rectangle of a whole image of W × H pixels is
  (0, 0) to (W - 1, H - 1), so whole numbers are pixels, the last included; numbers with fractions,
  which the labelling tool writes since it is finer than pixels, are corners as drawn;
- a polygon's `interior` holds its holes;
- a bitmap's `data` is a PNG (of which alpha, or any value but 0, is the mask), compressed by zlib,
  in base64, and `origin` is the pixel where its top left corner lies;
- a graph's nodes are key points; the class names them in its geometry_config. A `disabled` node is
  taken as hidden;
- labels with the same `instance` are one object;
- tags without a value on an image are its classes, those with one (and all those of objects) are
  attributes.
"""

from __future__ import annotations

import base64
import io
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dataset_tools.coco import Annotation, Category, Image, annotation_box, read_json, whole_image
from dataset_tools.errors import InputError
from dataset_tools.formats.base import SPLIT_NAMES, Evidence, Format, Glimpse, Option, Plan, root_of
from dataset_tools.formats.locate import locate
from dataset_tools.formats.supervisely_writer import META, write
from dataset_tools.images import ImageIndex, walk_files
from dataset_tools.json_fields import listed, mapped, number, numbers, objects, points, text
from dataset_tools.notes import Notes
from dataset_tools.rle import encode_mask, encode_patch, polygons_box, polygons_mask
from dataset_tools.shapes import points_annotation, take_crowd

if TYPE_CHECKING:
    import numpy as np

_OF_LABEL = ("geometryType", "classTitle", "points", "nodes", "bitmap", "tags", "description")


@dataclass(frozen=True)
class Item:
    """The annotation file of an image, its name without .json and its split."""

    file: str  # relative to the project
    image: str
    split: str | None


def plan(path: Path, notes: Notes, images: Path | None = None, edges: str = "auto") -> Plan:
    """Plan to read a project's folder, one of its datasets, or a single annotation file's."""
    path = path.parent if path.is_file() and path.name == META else path
    if path.is_file():
        raise InputError(f"{path}: give the folder of the project, which holds {META}.")
    files = [name for name in walk_files(path) if _is_annotation(path, name)]
    if not files:
        raise InputError(f"{path}: there is no ann/ with JSON files in it.")
    meta = next((m for m in (path / META, path.parent / META) if m.is_file()), None)
    classes = _classes(meta) if meta else {}
    root = root_of(path, images)
    items = [Item(name, Path(name).name[: -len(".json")], _split(name)) for name in files]
    _note_unlabelled(ImageIndex(root), items, notes)
    return Plan(
        image_root=root,
        items=items,
        read=_Reader(path, root, classes, edges),
        categories=_Categories(classes),
        remarks=[] if meta else [f"there is no {META}: classes are those seen"],
    )


def recognise(glimpse: Glimpse) -> Evidence | None:
    """A meta.json with classes and tags; or a JSON file in ann/ with objects and a size."""
    for name in glimpse.with_suffix(".json")[:50]:
        head = glimpse.head(name)
        if name.rpartition("/")[2] == META and '"classes"' in head and '"tags"' in head:
            return Evidence(f"{name} has the classes and tags of a Supervisely project")
        in_ann = "ann" in name.split("/")[:-1]
        if in_ann and '"objects"' in head and '"size"' in head and '"height"' in head:
            return Evidence(f"{name} has an image's size and objects as Supervisely has them")
    return None


@dataclass(frozen=True)
class _Class:
    """A class of the project; `nodes` has the names of key points by the ids of nodes."""

    name: str
    nodes: dict[str, str]
    edges: list[tuple[int, int]]


@dataclass
class _Reader:
    base: Path
    root: Path
    classes: dict[str, _Class]
    edges: str

    @cached_property
    def index(self) -> ImageIndex:
        return ImageIndex(self.root)

    def __call__(self, item: Item, notes: Notes) -> Iterator[Image]:
        place = str(self.base / item.file)
        content = read_json(self.base / item.file)
        if not isinstance(content, dict):
            raise InputError(f"{place}: not an annotation of Supervisely: it is no JSON object.")
        recorded = mapped(content, "size", place)
        width, height = (int(number(recorded, side, place, 0)) for side in ("width", "height"))
        size = (width, height) if width >= 1 and height >= 1 else None
        near = item.file.replace("/ann/", "/img/").removeprefix("ann/")
        located = locate(self.index, [item.image], size, place, notes, near)
        if located is None:
            return
        image = Image(*located[:1], *located[1], split=item.split, source=place)
        self._describe(image, content)
        whole: dict[tuple[str, str], Annotation] = {}
        for index, label in enumerate(objects(content, "objects", place)):
            where = f"{place} objects[{index}]"
            annotation = self._annotation(label, (image.width, image.height), where, notes)
            if annotation is None:
                continue
            instance = label.get("instance")
            first = whole.get((annotation.category, instance)) if instance else None
            if first is None or not _join(first, annotation):
                image.annotations.append(annotation)
            if instance:
                whole.setdefault((annotation.category, instance), annotation)
        yield image

    def _describe(self, image: Image, content: dict[str, Any]) -> None:
        for name, value in _tags(content, image.source).items():
            if value is not True:
                image.attributes[name] = value
            elif name.lower() in SPLIT_NAMES:
                image.split = image.split or SPLIT_NAMES[name.lower()]
            else:
                label = whole_image(name, image.width, image.height, image.source)
                image.annotations.append(label)
        if content.get("description"):
            image.attributes["captions"] = [text(content, "description", image.source)]

    def _annotation(
        self, label: dict[str, Any], size: tuple[int, int], place: str, notes: Notes
    ) -> Annotation | None:
        kind = str(label.get("geometryType"))
        read = getattr(self, f"_{kind}", None) if kind in _SHAPES else None
        if read is None:
            notes.drop(f"object of the shape {kind}", place)
            return None
        annotation = read(text(label, "classTitle", place), label, size, place, notes)
        if isinstance(annotation.segmentation, dict) and annotation_box(annotation) is None:
            notes.drop("mask without a pixel", place)
            return None
        annotation.source = place
        annotation.attributes |= _tags(label, place)
        if label.get("description"):
            annotation.attributes["description"] = label["description"]
        annotation.iscrowd = take_crowd(annotation.attributes)
        return annotation

    def _rectangle(
        self, name: str, label: dict, size: tuple[int, int], place: str, notes: Notes
    ) -> Annotation:
        flat = _exterior(label, place)
        if len(flat) != 4:
            raise InputError(f"{place}: a rectangle has two corners, not {len(flat) // 2}.")
        (left, right), (top, bottom) = sorted(flat[0::2]), sorted(flat[1::2])
        pixels = all(float(value).is_integer() for value in flat)
        if self.edges == "pixels" or (self.edges == "auto" and pixels):
            right, bottom = right + 1, bottom + 1
        return Annotation(name, (left, top, right, bottom))

    def _polygon(
        self, name: str, label: dict, size: tuple[int, int], place: str, notes: Notes
    ) -> Annotation:
        exterior = _exterior(label, place)
        inner = mapped(label, "points", place)
        rings = listed(inner, "interior", place)
        holes = [points({"interior": ring}, "interior", place) for ring in rings]
        if not holes:
            return Annotation(name, polygons_box([exterior]), [exterior])
        width, height = size
        if not (
            min(exterior) >= 0 and max(exterior[0::2]) <= width and max(exterior[1::2]) <= height
        ):
            notes.suspect("polygon with holes that goes beyond the image (cut off)", place)
        mask = polygons_mask([exterior], *size)
        mask[polygons_mask(holes, *size) > 0] = 0
        return Annotation(name, None, encode_mask(mask))

    def _bitmap(
        self, name: str, label: dict, size: tuple[int, int], place: str, notes: Notes
    ) -> Annotation:
        bitmap = mapped(label, "bitmap", place)
        origin = numbers(bitmap, "origin", place)
        if len(origin) != 2:
            raise InputError(f"{place}: the origin of a bitmap is two numbers, not {origin}.")
        mask = _decode_bitmap(text(bitmap, "data", place), place)
        rle, is_cut = encode_patch(mask, int(origin[0]), int(origin[1]), *size, place)
        if is_cut:
            notes.suspect("mask that goes beyond the image (cut off)", place)
        return Annotation(name, None, rle)

    def _line(
        self, name: str, label: dict, size: tuple[int, int], place: str, notes: Notes
    ) -> Annotation:
        return points_annotation(name, _exterior(label, place), "line")

    def _point(
        self, name: str, label: dict, size: tuple[int, int], place: str, notes: Notes
    ) -> Annotation:
        return points_annotation(name, _exterior(label, place)[:2], "point")

    def _graph(
        self, name: str, label: dict, size: tuple[int, int], place: str, notes: Notes
    ) -> Annotation:
        known = self.classes.get(name) or _Class(name, {}, [])
        dots = [0.0] * 3 * len(known.nodes)
        order = list(known.nodes)
        for node, said in mapped(label, "nodes", place).items():
            where = f"{place} node {node}"
            if node not in known.nodes or not isinstance(said, dict):
                raise InputError(
                    f"{where}: {META} gives the class {name!r} no node of that name. Mend one."
                )
            spot = numbers(said, "loc", where)
            if len(spot) != 2:
                raise InputError(f"{where}: loc is not two numbers. Mend or remove the node.")
            at = 3 * order.index(node)
            dots[at : at + 3] = [*spot, 1 if said.get("disabled") else 2]
        return Annotation(name, keypoints=dots)


_SHAPES = ("rectangle", "polygon", "bitmap", "line", "point", "graph")


def _join(first: Annotation, other: Annotation) -> bool:
    """Add another label of the same object, if they go together: polygons, points, and key points
    to whatever has none."""
    if other.keypoints and not first.keypoints:
        first.bbox = first.bbox or annotation_box(first)
        first.keypoints = other.keypoints
        return True
    if isinstance(first.segmentation, list) and isinstance(other.segmentation, list):
        first.segmentation = first.segmentation + other.segmentation
        first.bbox = polygons_box(first.segmentation)
        return True
    if first.attributes.get("shape") == other.attributes.get("shape") == "point":
        first.attributes["points"] = first.attributes["points"] + other.attributes["points"]
        first.bbox = polygons_box([first.attributes["points"]])
        return True
    return False


def _exterior(label: dict[str, Any], place: str) -> list[float]:
    found = points(mapped(label, "points", place), "exterior", place)
    if not found:
        raise InputError(f"{place}: there are no points. Mend or remove the object.")
    return found


def _tags(entry: dict[str, Any], place: str) -> dict[str, Any]:
    """Values of tags by name; True for a tag without one."""
    return {
        text(tag, "name", place): True if tag.get("value") is None else tag["value"]
        for tag in objects(entry, "tags", place)
    }


def _decode_bitmap(data: str, place: str) -> np.ndarray:
    """The boolean mask in a bitmap's data."""
    import numpy as np
    from PIL import Image as Pillow

    try:
        png = zlib.decompress(base64.b64decode(data, validate=True))
        with Pillow.open(io.BytesIO(png)) as image:
            if image.mode in ("RGBA", "LA", "PA"):
                return np.asarray(image.getchannel("A")) > 0
            # Of a palette the colours count, as OpenCV and the SDK see them.
            return np.asarray(image.convert("RGB")).any(axis=-1)
    except (zlib.error, OSError, SyntaxError, ValueError, Pillow.DecompressionBombError) as fault:
        raise InputError(f"{place}: the bitmap's data cannot be read: {fault}.") from fault


@dataclass(frozen=True)
class _Categories:
    classes: dict[str, _Class]

    def __call__(self, seen: set[str]) -> list[Category]:
        others = sorted(seen - self.classes.keys())  # tags of images, and classes not declared
        declared = [
            Category(c.name, keypoints=tuple(c.nodes.values()), skeleton=tuple(c.edges))
            for c in self.classes.values()
        ]
        return [*declared, *map(Category, others)]


def _classes(meta: Path) -> dict[str, _Class]:
    content = read_json(meta)
    if not isinstance(content, dict):
        raise InputError(f"{meta}: not the meta.json of Supervisely: it is no JSON object.")
    found: dict[str, _Class] = {}
    for index, entry in enumerate(objects(content, "classes", str(meta))):
        place = f"{meta} classes[{index}]"
        name = text(entry, "title", place)
        if name in found:
            raise InputError(f"{place}: the class {name!r} is there twice. Rename one of them.")
        config = mapped(entry, "geometry_config", place)
        nodes = {
            node: str((isinstance(said, dict) and said.get("label")) or node)
            for node, said in mapped(config, "nodes", place).items()
        }
        order = list(nodes)
        edges = [
            (order.index(edge["src"]) + 1, order.index(edge["dst"]) + 1)
            for edge in objects(config, "edges", place)
            if edge.get("src") in order and edge.get("dst") in order
        ]
        found[name] = _Class(name, nodes, edges)
    return found


def _is_annotation(base: Path, name: str) -> bool:
    folders = name.split("/")[:-1]
    return name.lower().endswith(".json") and ("ann" in folders or (base.name == "ann"))


def _split(name: str) -> str | None:
    """The split that a dataset's name stands for."""
    folders = name.split("/")
    above = folders[: folders.index("ann")] if "ann" in folders else []
    return next((SPLIT_NAMES[f.lower()] for f in above if f.lower() in SPLIT_NAMES), None)


def _note_unlabelled(index: ImageIndex, items: list[Item], notes: Notes) -> None:
    labelled = {item.image.casefold() for item in items}
    for path in index.paths:
        name = path.rpartition("/")[2].casefold()
        if name not in labelled and name.rpartition(".")[0] not in labelled:
            notes.drop("image without an annotation file", path)


FORMAT = Format(
    name="supervisely",
    title="Supervisely project",
    layout="the project's folder: meta.json, and in each dataset ann/*.json and img/",
    carries=("boxes", "masks", "keypoints", "labels", "attributes", "splits"),
    loses="cuboids and other shapes in space; colours and ids of classes; who labelled what and "
    "when",
    recognise=recognise,
    plan=plan,
    conventions="Corners of rectangles that are whole numbers are pixels, the last included; those "
    "with fractions are corners as drawn. Polygons are taken as drawn; one with holes becomes a "
    "mask. Bitmaps are masks, graphs are key points (a disabled node is a hidden one). Labels with "
    "the same instance are one object. Tags of objects are attributes (true if without a value); "
    "tags of images without a value are labels of the whole image, or a split if called train, val "
    "or test; those with a value are attributes of the image. Datasets called so are splits too.",
    options=(
        Option(
            "--edges",
            "right and bottom of rectangles: pixels (included), corners, or auto: by fractions",
            default="auto",
            choices=("auto", "pixels", "corners"),
        ),
    ),
    write=write,
    write_loses="folders of images (they become part of the names); angles of rotated boxes (they "
    "become polygons); boxes of objects with a mask (they are the masks' own); attributes that are "
    "false; captions but the first",
)
