"""Datumaro's own JSON: annotations/SUBSET.json with categories and items, images/SUBSET/ beside it.

By its documentation and what Datumaro and CVAT write: boxes are XYWH and points are in pixels from
0; an image's `size` is [height, width]; masks are COCO's RLE; a `group` that is not 0 binds the
annotations of one object (a box, its polygons or mask, its key points), though CVAT also gives one
to objects that a person put in a group. `is_crowd` is an attribute, and so is CVAT's `rotation` of
a box: degrees, clockwise about its centre. `visibility` of points is that of COCO.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from dataset_tools.coco import (
    Annotation,
    Category,
    Dataset,
    Image,
    read_json,
    read_segmentation,
    whole_image,
)
from dataset_tools.errors import InputError
from dataset_tools.export import place_image
from dataset_tools.files import write_json
from dataset_tools.formats.base import SPLIT_NAMES, Evidence, Format, Glimpse, Option, Plan, root_of
from dataset_tools.formats.locate import locate
from dataset_tools.images import ImageIndex
from dataset_tools.json_fields import listed, mapped, number, numbers, objects, text
from dataset_tools.notes import Notes
from dataset_tools.rle import polygons_box
from dataset_tools.shapes import (
    ellipse_polygon,
    kind_of,
    plain_attributes,
    points_annotation,
    rotated_annotation,
)

DEFAULT = "default"  # Datumaro's name for what is in no subset
VERSION = "1.0"


@dataclass(frozen=True)
class Item:
    """An item of a subset, and the categories by the numbers in it."""

    place: str
    entry: dict[str, Any]
    subset: str
    labels: tuple[Category, ...]


def plan(path: Path, notes: Notes, images: Path | None = None, groups: str = "objects") -> Plan:
    """Plan to read a subset's file, or all those in annotations/ of a folder."""
    files = [path] if path.is_file() else _files(path)
    items: list[Item] = []
    categories: dict[str, Category] = {}
    for file in files:
        content = read_json(file)
        if not isinstance(content, dict) or not isinstance(content.get("items"), list):
            raise InputError(f'{file}: not of Datumaro: there is no list "items" at the top.')
        labels = tuple(_labels(mapped(content, "categories", str(file)), str(file)))
        for category in labels:
            categories.setdefault(category.name, category)
        items += [
            Item(f"{file}: item {entry.get('id', index)!r}", entry, file.stem, labels)
            for index, entry in enumerate(objects(content, "items", str(file)))
        ]
    base = path if path.is_dir() else path.parent
    if base.name == "annotations":
        base = base.parent
    root = root_of(base, images)
    return Plan(
        image_root=root,
        items=items,
        read=_Reader(root, groups),
        categories=lambda _: list(categories.values()),
    )


def recognise(glimpse: Glimpse) -> Evidence | None:
    """A JSON object with Datumaro's version, or with its categories and items."""
    name = glimpse.first(_looks_right, ".json")
    return Evidence(f"{name} has categories and items as Datumaro has them") if name else None


@dataclass
class _Reader:
    root: Path
    groups: str

    @cached_property
    def index(self) -> ImageIndex:
        return ImageIndex(self.root)

    def __call__(self, item: Item, notes: Notes) -> Iterator[Image]:
        entry, place = item.entry, item.place
        media = mapped(entry, "image", place)
        if not media and any(entry.get(kind) for kind in ("point_cloud", "video", "video_frame")):
            notes.drop("item that is no image", place)
            return
        name = text(media, "path", place, None) or f"{text(entry, 'id', place)}.jpg"
        size = numbers(media, "size", place)
        recorded = (int(size[1]), int(size[0])) if len(size) == 2 and min(size) >= 1 else None
        near = f"images/{item.subset}/x"
        located = locate(self.index, [name], recorded, place, notes, near)
        if located is None:
            return
        split = None if item.subset == DEFAULT else item.subset
        image = Image(*located[:1], *located[1], source=place)
        image.split = SPLIT_NAMES.get(split.lower(), split) if split else None
        image.attributes = dict(mapped(entry, "attr", place))
        found = _Found(image, item.labels, notes, self.groups == "objects")
        for index, annotation in enumerate(objects(entry, "annotations", place)):
            found.add(annotation, f"{place} annotations[{index}]")
        found.close()
        yield image


@dataclass
class _Found:
    """The annotations of an image, joined by group."""

    image: Image
    labels: tuple[Category, ...]
    notes: Notes
    join: bool
    grouped: dict[tuple[int, str], list[Annotation]] = field(default_factory=dict)

    def add(self, entry: dict[str, Any], place: str) -> None:
        """Take an entry, as an annotation of its own or as part of one that is there."""
        kind = text(entry, "type", place)
        if kind == "caption":
            self.image.attributes.setdefault("captions", []).append(text(entry, "caption", place))
            return
        if kind not in _SHAPES:
            self.notes.drop(f"annotation of type {kind}", place)
            return
        label = entry.get("label_id")
        if label is None:
            self.notes.drop("annotation without a label", place)
            return
        if type(label) is not int or not 0 <= label < len(self.labels):
            raise InputError(f"{place}: the categories have no label {label!r}. Mend one of them.")
        annotation = self._shape(kind, self.labels[label], entry, place)
        annotation.source = place
        if entry.get("z_order"):
            annotation.attributes["z_order"] = entry["z_order"]
        group = number(entry, "group", place, 0)
        if not group:
            self.image.annotations.append(annotation)
            return
        same = self.grouped.setdefault((group, annotation.category), [])
        if not self.join or not any(_joined(other, annotation) for other in same):
            self.image.annotations.append(annotation)
            same.append(annotation)

    def close(self) -> None:
        """Remember the groups that are more than one object."""
        members: dict[int, list[Annotation]] = {}
        for (group, _), same in self.grouped.items():
            members.setdefault(group, []).extend(same)
        for group, all_of_it in members.items():
            if len(all_of_it) > 1 or not self.join:
                for annotation in all_of_it:
                    annotation.attributes["group"] = group

    def _shape(
        self, kind: str, category: Category, entry: dict[str, Any], place: str
    ) -> Annotation:
        name, attributes = category.name, dict(mapped(entry, "attributes", place))
        crowd = attributes.pop("is_crowd", None)
        annotation = _SHAPES[kind](category, entry, attributes, place, self.image)
        if kind == "points" and category.keypoints and not annotation.keypoints:
            self.notes.suspect("points of another number than the class has (kept apart)", place)
        annotation.category = name
        annotation.attributes = attributes | annotation.attributes
        annotation.iscrowd = crowd in (True, 1, "true", "True")
        return annotation


def _label(
    category: Category, entry: dict, attributes: dict, place: str, image: Image
) -> Annotation:
    return whole_image(category.name, image.width, image.height)


def _bbox(
    category: Category, entry: dict, attributes: dict, place: str, image: Image
) -> Annotation:
    box = numbers(entry, "bbox", place)
    if len(box) != 4:
        raise InputError(f"{place}: bbox is not four numbers. Mend or remove it.")
    x, y, width, height = box
    turn = number(attributes, "rotation", place, 0)
    attributes.pop("rotation", None)
    if turn % 360:
        angle = (180 - turn) % 360 - 180
        centre = (x + width / 2, y + height / 2)
        return rotated_annotation(category.name, (*centre, width, height, angle))
    return Annotation(category.name, (x, y, x + width, y + height))


def _polygon(
    category: Category, entry: dict, attributes: dict, place: str, image: Image
) -> Annotation:
    flat = _points(entry, place)
    return Annotation(category.name, polygons_box([flat]), [flat])


def _mask(
    category: Category, entry: dict, attributes: dict, place: str, image: Image
) -> Annotation:
    try:
        return Annotation(category.name, None, read_segmentation(mapped(entry, "rle", place)))
    except ValueError as fault:
        raise InputError(f"{place}: {fault}.") from fault


def _polyline(
    category: Category, entry: dict, attributes: dict, place: str, image: Image
) -> Annotation:
    return points_annotation(category.name, _points(entry, place), "line")


def _dots(
    category: Category, entry: dict, attributes: dict, place: str, image: Image
) -> Annotation:
    flat = _points(entry, place)
    seen = numbers(entry, "visibility", place) or [2] * (len(flat) // 2)
    if len(seen) != len(flat) // 2:
        raise InputError(f"{place}: {len(flat) // 2} points, but {len(seen)} values of visibility.")
    if len(seen) != len(category.keypoints):
        return points_annotation(category.name, flat, "point")
    dots = zip(flat[0::2], flat[1::2], seen, strict=True)
    return Annotation(category.name, keypoints=[v for x, y, s in dots for v in (x, y, int(s))])


def _ellipse(
    category: Category, entry: dict, attributes: dict, place: str, image: Image
) -> Annotation:
    flat = _points(entry, place)
    if len(flat) != 4:
        raise InputError(f"{place}: an ellipse is two corners, not {len(flat) // 2}.")
    x1, y1, x2, y2 = flat
    turn = number(attributes, "rotation", place, 0)
    polygon = ellipse_polygon(
        (x1 + x2) / 2, (y1 + y2) / 2, abs(x2 - x1) / 2, abs(y2 - y1) / 2, turn
    )
    return Annotation(category.name, polygons_box([polygon]), [polygon])


_SHAPES = {
    "label": _label,
    "bbox": _bbox,
    "polygon": _polygon,
    "mask": _mask,
    "polyline": _polyline,
    "points": _dots,
    "ellipse": _ellipse,
}


def _points(entry: dict[str, Any], place: str) -> list[float]:
    flat = numbers(entry, "points", place)
    if not flat or len(flat) % 2:
        raise InputError(f"{place}: {len(flat)} numbers are no points. Mend or remove it.")
    return flat


def _joined(one: Annotation, other: Annotation) -> bool:
    """Join `other` into `one` if they are different sides of one object, or polygons of it."""
    if {"label", "points", "rotated"} & {kind_of(one), kind_of(other)}:
        return False
    if one.keypoints and other.keypoints:
        return False
    if isinstance(one.segmentation, list) and isinstance(other.segmentation, list):
        own_box = one.bbox != polygons_box(one.segmentation)
        one.segmentation = one.segmentation + other.segmentation
        one.bbox = one.bbox if own_box else polygons_box(one.segmentation)
    elif (one.segmentation and other.segmentation) or (_only_box(one) and _only_box(other)):
        return False
    else:
        # What has no mask brings its box, which goes before the box of a mask.
        one.bbox = other.bbox if _only_box(other) else one.bbox or other.bbox
        one.segmentation = one.segmentation or other.segmentation
        one.keypoints = one.keypoints or other.keypoints
    one.iscrowd |= other.iscrowd
    one.attributes = other.attributes | one.attributes
    return True


def _only_box(annotation: Annotation) -> bool:
    return annotation.segmentation is None and annotation.bbox is not None


def _labels(categories: dict[str, Any], file: str) -> Iterator[Category]:
    """Categories in the order of their numbers, with key points."""
    dots: dict[int, dict[str, Any]] = {}
    for index, entry in enumerate(objects(mapped(categories, "points", file), "items", file)):
        dots[int(number(entry, "label_id", f"{file} points[{index}]"))] = entry
    names: set[str] = set()
    for index, entry in enumerate(objects(mapped(categories, "label", file), "labels", file)):
        place = f"{file}: label {index}"
        name = text(entry, "name", place)
        if name in names:
            raise InputError(f"{place}: the name {name!r} is there twice. Rename one of them.")
        names.add(name)
        said = dots.get(index, {})
        keypoints = tuple(map(str, listed(said, "labels", place)))
        joints = listed(said, "joints", place)
        if not all(
            isinstance(j, list) and len(j) == 2 and {*map(type, j)} == {int} for j in joints
        ):
            raise InputError(f"{place}: its joints are not pairs of whole numbers.")
        skeleton = tuple(sorted((first, second) for first, second in joints))
        parent = text(entry, "parent", place, None) if entry.get("parent") else ""
        yield Category(name, parent or "", keypoints, skeleton)


def _looks_right(head: str) -> bool:
    if not head.lstrip().startswith("{") or '"categories"' not in head:
        return False
    known = '"dm_format_version"' in head or '"items"' in head
    return known and '"labels"' in head and '"parent"' in head


def _files(folder: Path) -> list[Path]:
    glimpse = Glimpse(folder)
    names = [name for name in glimpse.with_suffix(".json") if _looks_right(glimpse.head(name))]
    if not names:
        raise InputError(f"{folder}: there is no JSON of Datumaro in it.")
    return [folder / name for name in names]


def write(
    splits: Mapping[str | None, Dataset], folder: Path, notes: Notes, images: Path | None
) -> None:
    """Write a file for each split; with the images in place if their root is known."""
    for split, dataset in splits.items():
        subset = split or DEFAULT
        numbers_ = {category.name: n for n, category in enumerate(dataset.categories)}
        items = []
        for image in dataset.images:
            if images is not None:
                place_image(images, image.file_name, folder / "images" / subset / image.file_name)
            items.append(_item(image, numbers_, notes))
        content = {
            "dm_format_version": VERSION,
            "media_type": 2,  # images
            "infos": {},
            "categories": _written_categories(dataset.categories),
            "items": items,
        }
        write_json(folder / "annotations" / f"{subset}.json", content, indent=None)


def _written_categories(categories: list[Category]) -> dict[str, Any]:
    labels = [{"name": c.name, "parent": c.supercategory, "attributes": []} for c in categories]
    dots = [
        {
            "label_id": index,
            "labels": list(category.keypoints),
            "joints": [list(bone) for bone in category.skeleton],
            "positions": [],
        }
        for index, category in enumerate(categories)
        if category.keypoints
    ]
    written: dict[str, Any] = {"label": {"labels": labels, "label_groups": [], "attributes": []}}
    return written | ({"points": {"items": dots}} if dots else {})


def _item(image: Image, labels: dict[str, int], notes: Notes) -> dict[str, Any]:
    entries: list[dict[str, Any]] = []
    taken = [a.attributes.get("group", 0) for a in image.annotations]
    free = max([0, *(group for group in taken if isinstance(group, int))])
    for annotation in image.annotations:
        attributes = plain_attributes(annotation)
        group = attributes.pop("group", 0)
        z_order = attributes.pop("z_order", 0)
        if attributes.pop("iscrowd", False):
            attributes["is_crowd"] = True
        shapes = _shapes(annotation)
        if not shapes:
            notes.drop("annotation without a box or mask", annotation.source)
        if len(shapes) > 1:
            group = free = free + 1
        entries += [
            {
                "id": 0,
                "label_id": labels[annotation.category],
                "group": group,
                "z_order": z_order,
                **shape,
                "attributes": attributes | shape.get("attributes", {}),
            }
            for shape in shapes
        ]
    captions = image.attributes.get("captions", [])
    entries += [{"type": "caption", "caption": caption, "group": 0} for caption in captions]
    attributes = {k: v for k, v in image.attributes.items() if k != "captions"}
    for number_, entry in enumerate(entries):
        entry["id"] = number_
    return {
        "id": image.file_name.rpartition(".")[0] or image.file_name,
        "annotations": entries,
        **({"attr": attributes} if attributes else {}),
        "image": {"path": image.file_name, "size": [image.height, image.width]},
    }


def _shapes(annotation: Annotation) -> list[dict[str, Any]]:
    """An annotation's sides: box, polygons or mask, key points; the box if it is its own."""
    kind = kind_of(annotation)
    shapes: list[dict[str, Any]] = []
    if kind == "label":
        return [{"type": "label"}]
    if kind == "points":
        line = annotation.attributes.get("shape") == "line"
        flat = annotation.attributes["points"]
        seen = {} if line else {"visibility": [2] * (len(flat) // 2)}
        return [{"type": "polyline" if line else "points", "points": flat, **seen}]
    if kind == "rotated":
        x, y, width, height, angle = annotation.attributes["rbox"]
        box = [x - width / 2, y - height / 2, width, height]
        return [{"type": "bbox", "bbox": box, "attributes": {"rotation": -angle % 360}}]
    if kind == "mask":
        shapes = [{"type": "mask", "rle": annotation.segmentation}]
    elif kind == "polygons":
        shapes = [{"type": "polygon", "points": polygon} for polygon in annotation.segmentation]
    if annotation.bbox is not None:
        left, top, right, bottom = annotation.bbox
        box = [left, top, right - left, bottom - top]
        shapes.insert(0, {"type": "bbox", "bbox": box})
    dots = annotation.keypoints or []
    if dots:
        flat = [v for x, y in zip(dots[0::3], dots[1::3], strict=True) for v in (x, y)]
        shapes.append({"type": "points", "points": flat, "visibility": dots[2::3]})
    return shapes


FORMAT = Format(
    name="datumaro",
    title="Datumaro JSON",
    layout="folder with annotations/SUBSET.json and images/, or one such file",
    carries=("boxes", "masks", "keypoints", "rotation", "labels", "attributes", "splits"),
    loses="cuboids, skeletons, point clouds, videos; groups and colours of labels; ellipses become "
    "polygons",
    recognise=recognise,
    plan=plan,
    conventions="Boxes are XYWH in pixels from 0. Annotations of the same group and label are one "
    "object: its box, its polygons or mask, its key points; what does not go together stays apart, "
    "with the group as an attribute. is_crowd is COCO's iscrowd; a box's attribute rotation "
    "(degrees, clockwise) makes it an rbox; z_order and all other attributes are kept. Subsets are "
    "splits, default is none.",
    options=(
        Option(
            "--groups",
            "annotations of a group: parts of one object (as Datumaro has it), or objects apart "
            "(as people group them in CVAT)",
            default="objects",
            choices=("objects", "apart"),
        ),
    ),
    write=write,
    write_loses="areas; points of a class that has as many key points become these; rotated boxes "
    "at angle 0 become plain",
)
