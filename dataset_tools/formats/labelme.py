"""LabelMe: one JSON file per image, with the shapes drawn on it.

As labelme itself reads and writes them (github.com/wkentaro/labelme, `_label_file.py`,
`utils/shape.py`): coordinates are continuous and 0-based, after EXIF orientation. A rectangle is
any two opposite corners, a circle its centre and a point on its rim. A mask is a PNG in base64 of
the pixels from the first point to the second one, both included. Shapes of the same label and
group_id are one instance, as labelme's own converters to COCO and VOC have it. Keys that labelme
does not know are kept by it, and by us as attributes.
"""

from __future__ import annotations

import base64
import binascii
import io
import math
import os
import posixpath
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dataset_tools import json_fields
from dataset_tools.coco import Annotation, Dataset, Image, annotation_box, read_json
from dataset_tools.errors import InputError
from dataset_tools.files import read_quickly, write_json
from dataset_tools.formats import labelme_quick
from dataset_tools.formats.base import Evidence, Format, Glimpse, Plan, root_of, split_of_folders
from dataset_tools.formats.groups import GroupNumbers, join_groups
from dataset_tools.formats.labelme_quick import QuickFile, QuickShape
from dataset_tools.images import ImageIndex, content_size, image_size, walk_files
from dataset_tools.notes import Notes
from dataset_tools.packed import PackedStrings
from dataset_tools.rle import encode_patch, rle_box
from dataset_tools.rotated import corners, from_corners
from dataset_tools.shapes import (
    ellipse_polygon,
    has_own_box,
    pairs,
    points_annotation,
    polygon_annotation,
    rotated_annotation,
)

if TYPE_CHECKING:
    import numpy as np

VERSION = "5.5.0"  # of labelme, whose files ours are like
_SHAPES = re.compile(r'"shapes"\s*:\s*\[')
_OWN_KEYS = re.compile(r'"(shape_type|imagePath|imageData|lineColor)"\s*:')
_EMBEDDED = re.compile(r'"imageData"\s*:\s*"[A-Za-z0-9+/]')
# Keys that are read here; the colours of old versions are how labelme draws, not what is there.
_IMAGE_KEYS = frozenset(
    "version shapes imagePath imageData imageHeight imageWidth lineColor fillColor".split()  # noqa: SIM905
)
_SHAPE_KEYS = frozenset("label points shape_type mask iscrowd line_color fill_color".split())  # noqa: SIM905
_LINES = {"line": "line", "linestrip": "line", "point": "point", "points": "point"}
_POINTS_NEEDED = {
    "rectangle": 2,
    "circle": 2,
    "polygon": 3,
    "mask": 2,
    "oriented_rectangle": 4,
    "rotation": 4,  # X-AnyLabeling's name for the same
    "line": 2,
    "linestrip": 2,
    "point": 1,
    "points": 1,
}


def plan(path: Path, notes: Notes, images: Path | None = None) -> Plan:
    """Plan to read a folder of LabelMe files, or a single one."""
    base = path if path.is_dir() else path.parent
    if path.is_file():
        labels: Sequence[str] = [path.name]
    else:
        names = walk_files(path)
        labels = PackedStrings(name for name in names if name.lower().endswith(".json"))
    if not labels:
        raise InputError(f"{path}: no JSON file is in it. Give the folder of the LabelMe files.")
    root = root_of(path, images)
    index = ImageIndex(root)
    holder = next((label for label in labels if _needs_embedded(base, label, index)), None)
    remarks = []
    if holder is not None:
        remarks.append(f"images are taken out of the labels: that of {holder} is nowhere else")
    reader = _Reader(base, index, holder is not None)
    return Plan(root, labels, reader, remarks=remarks, embedded=holder is not None)


def recognise(glimpse: Glimpse) -> Evidence | None:
    """JSON objects with `shapes` and keys of LabelMe, or with an image in base64."""
    for name in glimpse.with_suffix(".json")[:20]:
        head = glimpse.head(name)
        if not head.lstrip().startswith("{"):
            continue
        if (_SHAPES.search(head) and _OWN_KEYS.search(head)) or _EMBEDDED.search(head):
            return Evidence(f"{name} is JSON with shapes and an image path as LabelMe has them")
    return None


def write(
    splits: Mapping[str | None, Dataset], folder: Path, notes: Notes, images: Path | None
) -> None:
    """Write a JSON file beside each image, splits as folders."""
    from dataset_tools.export import place_image, split_path

    taken: set[str] = set()
    for split, dataset in splits.items():
        for image in dataset.images:
            target = split_path(split, image.file_name)
            if images is not None and (images / image.file_name).is_file():
                place_image(images, image.file_name, folder / target)
            else:
                notes.suspect("image file that is missing (label written)", image.file_name)
            label = f"{os.path.splitext(target)[0]}.json"
            if label in taken:  # a.jpg and a.png
                label = f"{target}.json"
            taken.add(label)
            (folder / label).parent.mkdir(parents=True, exist_ok=True)
            write_json(folder / label, _label(image, posixpath.basename(target), notes))


def _needs_embedded(base: Path, label: str, index: ImageIndex) -> bool:
    """Whether the label file holds an image that is not among the files."""
    if _stem(label).casefold() in index.stems or index.find(_stem(label), near=label) is not None:
        return False
    content = read_json(base / label)
    if not isinstance(content, dict) or not content.get("imageData"):
        return False
    return _find(index, content, label) is None


def _find(index: ImageIndex, content: dict[str, Any], label: str) -> str | None:
    """The image that a label file names, seen from its folder, else the image called like it."""
    named = _named(content)
    if named:
        folder = label.rpartition("/")[0]
        seen = f"{folder}/{named}" if folder else named
        found = index.find(posixpath.normpath(seen) if "/" in named else seen, near=label)
        if found is not None:
            return found
    return index.find(_stem(label), near=label)


def _named(content: dict[str, Any]) -> str:
    named = content.get("imagePath")
    return named.strip().replace("\\", "/") if isinstance(named, str) else ""


def _stem(label: str) -> str:
    return os.path.splitext(label)[0].rpartition("/")[2]


@dataclass
class _Reader:
    base: Path
    index: ImageIndex
    embedded: bool

    def __call__(self, label: str, notes: Notes) -> Iterator[Image]:
        path = f"{self.base}/{label}"
        quick = self._read_quickly(path)
        content = quick.content if quick else read_json(path)
        if not quick and not (
            isinstance(content, dict) and isinstance(content.get("shapes"), list)
        ):
            notes.drop("JSON file that is not LabelMe's", path)
            return
        image = self._image(content, label, path, notes)
        if image is None:
            notes.drop("image that has no recorded size and is not there", path)
            return
        image.annotations = (
            _quick_annotations(quick.shapes, image, notes)
            if quick
            else _annotations(content["shapes"], image, notes)
        )
        yield image

    def _read_quickly(self, path: str) -> QuickFile | None:
        if self.embedded:
            return None
        try:
            return labelme_quick.read_quickly(read_quickly(path))
        except OSError:
            return None  # which is told by those who read it next

    def _image(self, content: dict[str, Any], label: str, path: str, notes: Notes) -> Image | None:
        found = _find(self.index, content, label)
        file, size = None, None
        if found is not None:
            if self.embedded:
                file = (self.index.root / found).read_bytes()
            size = image_size(f"{self.index.root}/{found}")
        elif content.get("imageData"):
            file = _base64(content["imageData"], f"{path}: imageData")
            size = content_size(file, f"{path}: imageData")
        else:
            notes.suspect("image file that is missing (kept)", f"{path}: {_named(content)}")
        recorded = _recorded_size(content, path)
        if size and recorded and size != recorded:
            place = f"{path}: {recorded[0]}×{recorded[1]}, but {size[0]}×{size[1]}"
            notes.suspect("recorded size that is not the image's (the image's taken)", place)
        size = size or recorded
        if size is None:
            return None
        if found is None:
            name = posixpath.basename(_named(content)) or f"{_stem(label)}.jpg"
            found = posixpath.join(posixpath.dirname(label), name)
        return Image(
            found,
            *size,
            split=split_of_folders(label),
            attributes=_kept(content, _IMAGE_KEYS),
            source=path,
            content=file,
        )


def _annotations(shapes: list[Any], image: Image, notes: Notes) -> list[Annotation]:
    """One for each shape, or for each group of shapes, where the first of them is."""
    found: list[Annotation] = []
    for index, shape in enumerate(shapes):
        place = f"{image.source}: shapes[{index}]"
        if not isinstance(shape, dict):
            raise InputError(f"{place} is not an object in braces. Mend or remove it.")
        annotation = _annotation(shape, image, place, notes)
        if annotation is not None:
            found.append(annotation)
    return join_groups(found, image, notes, _is_part)


def _quick_annotations(
    shapes: list[QuickShape], image: Image, notes: Notes
) -> Sequence[Annotation]:
    """As `_annotations`, which reads those that are not so plain."""
    if columns := labelme_quick.columns(shapes, f"{image.source}: shapes"):
        return columns
    found: list[Annotation] = []
    grouped = False
    for index, shape in enumerate(shapes):
        place = f"{image.source}: shapes[{index}]"
        annotation = shape.annotation(place) or _annotation(shape.content, image, place, notes)
        if annotation is not None:
            found.append(annotation)
            grouped |= shape.group_id is not None
    return join_groups(found, image, notes, _is_part) if grouped else found


def _is_part(annotation: Annotation) -> bool:
    """Whether a shape may be one part of several; lines are not, for there is one to a record."""
    return annotation.attributes.get("shape") != "line"


def _annotation(shape: dict[str, Any], image: Image, place: str, notes: Notes) -> Annotation | None:
    label = shape.get("label")
    if not isinstance(label, str | int) or str(label).strip() == "":
        notes.drop("shape without a label", place)
        return None
    kind = shape.get("shape_type") or "polygon"
    points = json_fields.points(shape, "points", place)
    if not isinstance(kind, str) or kind not in _POINTS_NEEDED:
        notes.drop(f"shape of a kind that is not known ({kind})", place)
        return None
    if len(points) < 2 * _POINTS_NEEDED[kind]:
        notes.drop(f"{kind} of too few points", place)
        return None
    common: dict[str, Any] = {
        "source": place,
        "iscrowd": bool(shape.get("iscrowd")),
        "attributes": _kept(shape, _SHAPE_KEYS),
    }
    category = str(label)
    if kind in _LINES:
        return points_annotation(category, points, _LINES[kind], **common)
    if kind in ("oriented_rectangle", "rotation"):
        box, error = from_corners(points[:8])
        if error > 1:
            notes.suspect("rotated rectangle with corners off by more than a pixel (kept)", place)
        return rotated_annotation(category, box, **common)
    if kind == "rectangle":
        xs, ys = points[0::2], points[1::2]
        return Annotation(category, (min(xs), min(ys), max(xs), max(ys)), **common)
    if kind == "circle":
        x, y, rim_x, rim_y = points[:4]
        radius = math.hypot(rim_x - x, rim_y - y)
        return polygon_annotation(category, ellipse_polygon(x, y, radius, radius), **common)
    if kind == "mask":
        rle = _mask(shape, points, image, place, notes)
        return rle and Annotation(category, segmentation=rle, **common)
    return polygon_annotation(category, points, **common)


def _mask(
    shape: dict[str, Any], points: list[float], image: Image, place: str, notes: Notes
) -> dict[str, Any] | None:
    """RLE of a mask in the whole image; what is beyond its edges is cut off."""
    patch = _picture(_base64(shape.get("mask"), f"{place}: mask"), f"{place}: mask")
    left, top, right, bottom = (round(value) for value in points[:4])
    whole = all(float(value).is_integer() for value in points[:4])
    if whole and patch.shape != (bottom - top + 1, right - left + 1):
        raise InputError(
            f"{place}: the mask has {patch.shape[1]}×{patch.shape[0]} px, but its points, both "
            f"included, are {right - left + 1}×{bottom - top + 1} apart. Mend or remove it."
        )
    rle, is_cut = encode_patch(patch, left, top, image.width, image.height, place)
    if is_cut:
        notes.suspect("mask that goes beyond the image (cut off)", place)
    if rle_box(rle) is None:
        notes.drop("mask without a pixel", place)
        return None
    return rle


def _kept(entry: dict[str, Any], known: frozenset[str]) -> dict[str, Any]:
    """What an entry says besides the keys `known`; of empty values nothing."""
    return {
        key: value
        for key, value in entry.items()
        if key not in known and value is not None and value not in ("", {}, [])
    }


def _recorded_size(content: dict[str, Any], path: str) -> tuple[int, int] | None:
    sides = [json_fields.number(content, key, path, None) for key in ("imageWidth", "imageHeight")]
    return (int(sides[0]), int(sides[1])) if all(sides) else None


def _base64(value: Any, place: str) -> bytes:
    try:
        return base64.b64decode(value.partition("base64,")[2] or value)
    except (AttributeError, ValueError, binascii.Error) as error:
        raise InputError(f"{place} is not base64: {error}. Mend or remove it.") from error


def _picture(content: bytes, place: str) -> np.ndarray:
    """Boolean HW array of an image file's content: true where it is not 0."""
    import numpy as np
    from PIL import Image as Pillow

    try:
        with Pillow.open(io.BytesIO(content)) as picture:
            return np.asarray(picture.convert("L")) != 0
    except (OSError, SyntaxError, ValueError, Pillow.DecompressionBombError) as error:
        raise InputError(f"{place} cannot be read as an image: {error}") from error


def _label(image: Image, name: str, notes: Notes) -> dict[str, Any]:
    """The content of an image's label file."""
    attributes = dict(image.attributes)
    own = {key: attributes.pop(key) for key in _IMAGE_KEYS & attributes.keys()}
    if own:
        notes.drop(f"attribute called like a key of LabelMe ({', '.join(own)})", image.file_name)
    groups = GroupNumbers(image, _is_part)
    return {
        "version": VERSION,
        "flags": attributes.pop("flags", {}),
        "shapes": [
            shape
            for annotation in image.annotations
            for shape in _shapes(annotation, image, groups, notes)
        ],
        "imagePath": name,
        "imageData": None,
        "imageHeight": image.height,
        "imageWidth": image.width,
        **attributes,
    }


def _shapes(
    annotation: Annotation, image: Image, groups: GroupNumbers, notes: Notes
) -> Iterator[dict[str, Any]]:
    place = f"{image.file_name} ({annotation.category})"
    if annotation.keypoints:
        notes.drop("keypoints of an object", place)
    parts = list(_parts(annotation, image, place, notes))
    drawn = {
        "rbox",
        "group_id",
        *(("points", "shape") if "points" in annotation.attributes else ()),
    }
    kept = {key: value for key, value in annotation.attributes.items() if key not in drawn}
    own = {key: kept.pop(key) for key in _SHAPE_KEYS & kept.keys()}
    if own:
        notes.drop(f"attribute called like a key of LabelMe ({', '.join(own)})", place)
    group = groups.number(annotation, len(parts))
    if group != annotation.attributes.get("group_id", group):
        notes.suspect("group number that another object has (written as another one)", place)
    for kind, points, more in parts:
        yield {
            "label": annotation.category,
            "points": [list(point) for point in pairs(points)],
            "group_id": group,
            "description": kept.get("description", ""),
            "shape_type": kind,
            "flags": kept.get("flags", {}),
            **more,
            **({"iscrowd": True} if annotation.iscrowd else {}),
            **{key: value for key, value in kept.items() if key not in ("description", "flags")},
        }


def _parts(
    annotation: Annotation, image: Image, place: str, notes: Notes
) -> Iterator[tuple[str, list[float], dict[str, Any]]]:
    """Kind, points and further keys of the shapes that make an annotation."""
    attributes, segmentation = annotation.attributes, annotation.segmentation
    if attributes.get("rbox"):
        yield "oriented_rectangle", corners(attributes["rbox"]), {}
    elif attributes.get("points"):
        points = attributes["points"]
        if attributes.get("shape") == "line" and len(points) >= 4:
            yield ("line" if len(points) == 4 else "linestrip"), points, {}
        else:
            yield from (("point", list(point), {}) for point in pairs(points))
    elif segmentation:
        if has_own_box(annotation):
            notes.drop("box of its own besides a mask (the mask written)", place)
        if isinstance(segmentation, dict):
            yield from _mask_parts(segmentation, image, place, notes)
            return
        for polygon in segmentation:
            if len(polygon) < 6:
                notes.drop("polygon of less than three corners", place)
            else:
                yield "polygon", polygon, {}
    else:
        box = annotation_box(annotation)
        if box is None:
            notes.drop("object without box and mask", place)
        else:
            yield "rectangle", list(box), {}


def _mask_parts(
    rle: dict[str, Any], image: Image, place: str, notes: Notes
) -> Iterator[tuple[str, list[float], dict[str, Any]]]:
    import numpy as np
    from PIL import Image as Pillow

    from dataset_tools.rle import decode_mask, rle_box

    box = rle_box(rle)
    if rle["size"] != [image.height, image.width] or box is None:
        notes.drop("mask of another size than its image, or without a pixel", place)
        return
    left, top, right, bottom = (int(value) for value in box)
    patch = np.ascontiguousarray(decode_mask(rle)[top:bottom, left:right]) != 0
    file = io.BytesIO()
    Pillow.fromarray(patch).save(file, "PNG")
    points = [float(value) for value in (left, top, right - 1, bottom - 1)]
    yield "mask", points, {"mask": base64.b64encode(file.getvalue()).decode("ascii")}


FORMAT = Format(
    name="labelme",
    title="LabelMe JSON",
    layout="folder of JSON files, each beside its image or naming it by imagePath",
    carries=("boxes", "masks", "rotation", "attributes", "splits"),
    loses="colours of shapes; lines and points are kept as attributes",
    recognise=recognise,
    plan=plan,
    conventions="0-based continuous corners after EXIF orientation. Rectangles are boxes, circles "
    "polygons of 64 corners, masks RLE: both of their points belong to them. Shapes of "
    "the same label and group_id are one instance. group_id, flags, description and keys that "
    "LabelMe does not know become attributes. Folders called train, val, test are splits. If an "
    "image is nowhere but in imageData, all images are written beside the COCO files.",
    write=write,
    write_loses="keypoints, areas, boxes that are not those of the masks, unused categories, "
    "supercategories, ids. Rotated boxes are written as oriented_rectangle, which needs a LabelMe "
    "that knows it",
)
