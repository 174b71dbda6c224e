"""Writes the projects that `formats.supervisely` reads."""

from __future__ import annotations

import base64
import io
import zlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from dataset_tools.coco import Annotation, Category, Dataset, Image, annotation_box
from dataset_tools.errors import InputError
from dataset_tools.export import place_image
from dataset_tools.files import write_json
from dataset_tools.notes import Notes
from dataset_tools.rle import decode_mask, rle_box
from dataset_tools.shapes import kind_of, pairs, plain_attributes, same_box

META = "meta.json"
DATASET = "dataset"  # of images in no split
COLOURS = ("#E6194B", "#3CB44B", "#FFE119", "#4363D8", "#F58231", "#911EB4", "#46F0F0", "#F032E6")


def write(
    splits: Mapping[str | None, Dataset], folder: Path, notes: Notes, images: Path | None
) -> None:
    """Write a project with a dataset for each split, its images in place."""
    writer = _Writer(notes)
    for split, dataset in splits.items():
        place = folder / (split or DATASET)
        writer.categories |= {c.name: c for c in dataset.categories if c.name}
        names: set[str] = set()
        for image in dataset.images:
            name = image.file_name.replace("/", "_")
            if name in names:
                raise InputError(
                    f"{image.file_name}: Supervisely has no folders, and without them there are "
                    f"two images {name}. Rename one of them."
                )
            names.add(name)
            place_image(images, image.file_name, place / "img" / name)
            write_json(place / "ann" / f"{name}.json", writer.image(image))
    write_json(folder / META, writer.meta())


class _Writer:
    """Turns records into entries, and remembers what classes and tags they name."""

    def __init__(self, notes: Notes) -> None:
        self.categories: dict[str, Category] = {}
        self._tags: dict[str, str] = {}
        self._notes = notes

    def meta(self) -> dict[str, Any]:
        """The project's classes and tags."""
        return {
            "classes": [
                {
                    "title": category.name,
                    "shape": "any",
                    "color": COLOURS[index % len(COLOURS)],
                    "geometry_config": _graph_config(category),
                }
                for index, category in enumerate(self.categories.values())
            ],
            "tags": [
                {"name": name, "value_type": kind, "color": COLOURS[index % len(COLOURS)]}
                for index, (name, kind) in enumerate(self._tags.items())
            ],
            "projectType": "images",
        }

    def image(self, image: Image) -> dict[str, Any]:
        """The annotation file of an image."""
        captions = list(image.attributes.get("captions", []))
        for _ in captions[1:]:
            self._notes.drop("further caption", image.file_name)
        attributes = {k: v for k, v in image.attributes.items() if k != "captions"}
        for name in [name for name, value in attributes.items() if value is True]:
            # Without a value it would be a class of the image.
            self._notes.drop("attribute of an image that is true", f"{image.file_name}: {name}")
            del attributes[name]
        labels = [a for a in image.annotations if kind_of(a) == "label"]
        for label in labels:
            if plain_attributes(label):
                self._notes.drop("attributes of a whole image's label", label.source)
        tags = self._put_tags(attributes, image.file_name)
        tags += self._put_tags(dict.fromkeys((a.category for a in labels), True), image.file_name)
        drawn = [label for a in image.annotations if a not in labels for label in self._labels(a)]
        return {
            "description": captions[0] if captions else "",
            "tags": tags,
            "size": {"height": image.height, "width": image.width},
            "objects": [{"id": number, **label} for number, label in enumerate(drawn, start=1)],
        }

    def _labels(self, annotation: Annotation) -> list[dict[str, Any]]:
        """The labels of an object, bound by `instance` if there are several."""
        shapes = self._shapes(annotation)
        attributes = plain_attributes(annotation)
        description = attributes.pop("description", "")
        tags = self._put_tags(attributes, annotation.source)
        bound = {"instance": f"object {annotation.id}"} if len(shapes) > 1 else {}
        return [
            {
                "classTitle": annotation.category,
                "description": str(description),
                "tags": [] if number else tags,
                **shape,
                **bound,
            }
            for number, shape in enumerate(shapes)
        ]

    def _shapes(self, annotation: Annotation) -> list[dict[str, Any]]:
        kind = kind_of(annotation)
        shapes: list[dict[str, Any]] = []
        if kind == "rotated":
            self._notes.drop("angle of a rotated box (written as a polygon)", annotation.source)
            kind = "polygons"
        if kind == "polygons":
            shapes = [_points("polygon", polygon) for polygon in annotation.segmentation or []]
        elif kind == "mask":
            shapes = [_bitmap(annotation)]
        elif kind == "points":
            flat = annotation.attributes["points"]
            if annotation.attributes.get("shape") == "line":
                shapes = [_points("line", flat)]
            else:
                shapes = [_points("point", list(pair)) for pair in pairs(flat)]
        nodes = _nodes(annotation.keypoints or [])
        if kind == "box" and not (nodes and _is_tight(annotation)):
            shapes = self._rectangle(annotation)
        if nodes:
            shapes.append({"geometryType": "graph", "nodes": nodes})
        if not shapes and kind != "box":
            self._notes.drop("annotation without a box or mask", annotation.source)
        return shapes

    def _rectangle(self, annotation: Annotation) -> list[dict[str, Any]]:
        left, top, right, bottom = annotation.bbox
        if right <= left or bottom <= top:
            self._notes.drop("box of no area", annotation.source)
            return []
        if all(float(value).is_integer() for value in annotation.bbox):
            right, bottom = right - 1, bottom - 1  # pixels, the last included
        return [_points("rectangle", [left, top, right, bottom])]

    def _put_tags(self, attributes: dict[str, Any], place: str) -> list[dict[str, Any]]:
        tags: list[dict[str, Any]] = []
        for name, value in attributes.items():
            if value is False or not isinstance(value, bool | int | float | str):
                what = "false" if value is False else "neither text nor a number"
                self._notes.drop(f"attribute that is {what}", f"{place}: {name}")
                continue
            kind = "none" if value is True else "any_string"
            if isinstance(value, int | float) and value is not True:
                kind = "any_number"
            known = self._tags.setdefault(name, kind)
            self._tags[name] = known if known == kind else "any_string"
            tags.append({"name": name, "value": None if value is True else value})
        return tags


def _is_tight(annotation: Annotation) -> bool:
    """Whether the box says no more than the key points do."""
    tight = annotation_box(replace(annotation, bbox=None))
    return tight is not None and same_box(annotation.bbox, tight)


def _points(kind: str, flat: list[float]) -> dict[str, Any]:
    pairs = [[x, y] for x, y in zip(flat[0::2], flat[1::2], strict=True)]
    return {"geometryType": kind, "points": {"exterior": pairs, "interior": []}}


def _bitmap(annotation: Annotation) -> dict[str, Any]:
    from PIL import Image as Pillow

    left, top, right, bottom = map(int, rle_box(annotation.segmentation) or (0, 0, 1, 1))
    mask = decode_mask(annotation.segmentation)[top:bottom, left:right]
    png = io.BytesIO()
    Pillow.fromarray(mask * 255).save(png, "PNG")
    data = base64.b64encode(zlib.compress(png.getvalue())).decode("ascii")
    return {"geometryType": "bitmap", "bitmap": {"data": data, "origin": [left, top]}}


def _nodes(flat: list[float]) -> dict[str, Any]:
    """Labelled key points by their number, which is the node's name in `_graph_config`."""
    return {
        str(i // 3): {"loc": flat[i : i + 2], **({"disabled": True} if flat[i + 2] == 1 else {})}
        for i in range(0, len(flat), 3)
        if flat[i + 2]
    }


def _graph_config(category: Category) -> dict[str, Any]:
    if not category.keypoints:
        return {}
    nodes = {
        str(number): {"label": name, "loc": [10 * number, 10], "color": COLOURS[0]}
        for number, name in enumerate(category.keypoints)
    }
    edges = [
        {"src": str(first - 1), "dst": str(second - 1), "color": COLOURS[0]}
        for first, second in category.skeleton
    ]
    return {"nodes": nodes, "edges": edges}
