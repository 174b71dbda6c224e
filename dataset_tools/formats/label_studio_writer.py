"""Writes the tasks and the labelling interface that `formats.label_studio` reads."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

from dataset_tools.coco import Annotation, Dataset, Image
from dataset_tools.files import write_json, write_text
from dataset_tools.formats.brush import encode_brush
from dataset_tools.notes import Notes
from dataset_tools.rle import decode_mask
from dataset_tools.rotated import corners
from dataset_tools.shapes import kind_of, plain_attributes

INTERFACE = "config.xml"
CONTROLS = ("rectangle", "polygon", "keypoint", "ellipse", "brush")


def write(
    splits: Mapping[str | None, Dataset],
    folder: Path,
    notes: Notes,
    images: Path | None,
    prefix: str = "",
) -> None:
    """Write a JSON file of tasks for each split and the labelling interface."""
    for split, dataset in splits.items():
        keypoints = {category.name: category.keypoints for category in dataset.categories}
        tasks = [
            _task(number_, image, keypoints, prefix, notes)
            for number_, image in enumerate(dataset.images, start=1)
        ]
        write_json(folder / f"{split or 'all'}.json", tasks, indent=None)
    write_text(folder / INTERFACE, _interface(splits))


def _task(
    number_: int, image: Image, keypoints: dict[str, tuple[str, ...]], prefix: str, notes: Notes
) -> dict[str, Any]:
    writer = _Writer(image, keypoints, notes)
    for annotation in image.annotations:
        writer.add(annotation)
    captions = image.attributes.get("captions")
    if captions:
        writer.put("textarea", "caption", {"text": list(captions)})
    others = {k: v for k, v in image.attributes.items() if k != "captions"}
    name = f"/data/local-files/?d={quote(prefix + image.file_name)}"
    return {
        "id": number_,
        "data": {"image": name, **others},
        "annotations": [{"id": number_, "was_cancelled": False, "result": writer.results}],
    }


class _Writer:
    """Gathers the results of an image."""

    def __init__(self, image: Image, keypoints: dict[str, tuple[str, ...]], notes: Notes) -> None:
        self.results: list[dict[str, Any]] = []
        self._image = image
        self._keypoints = keypoints
        self._notes = notes

    def add(self, annotation: Annotation) -> None:
        """Write an annotation, or note why not."""
        kind, label = kind_of(annotation), annotation.category
        more: dict[str, Any] = {}
        attributes = plain_attributes(annotation)
        if "score" in attributes:
            more["score"] = attributes.pop("score")
        if attributes:
            more["meta"] = attributes
        if kind == "label":
            self.put("choices", "choice", {"choices": [label]})
            if attributes:
                self._notes.drop("attributes of a whole image's label", annotation.source)
            return
        if kind == "nothing" or annotation.attributes.get("shape") == "line":
            what = "line" if kind == "points" else "annotation without a box or mask"
            self._notes.drop(what, annotation.source)
            return
        parent = self._draw(annotation, kind, more)
        self._put_keypoints(annotation, parent)

    def _draw(self, annotation: Annotation, kind: str, more: dict[str, Any]) -> str:
        label = annotation.category
        if kind == "polygons":
            first = ""
            for polygon in annotation.segmentation or []:
                value = {"points": self._shares(polygon), "closed": True}
                part = {"parentID": first} if first else more
                written = self._label("polygon", label, value, **part)
                first = first or written
            return first
        if kind == "mask":
            rle = list(encode_brush(decode_mask(annotation.segmentation)))
            return self._label("brush", label, {"format": "rle", "rle": rle}, **more)
        if kind == "points":
            dot = self._point(*annotation.attributes["points"][:2])
            return self._label("keypoint", label, dot, **more)
        if kind == "rotated":
            *_, width, height, angle = annotation.attributes["rbox"]
            x, y = corners(annotation.attributes["rbox"])[:2]
            turn = -angle % 360
        else:
            x, y, right, bottom = annotation.bbox
            width, height, turn = right - x, bottom - y, 0
        (left, top), (across, down) = self._shares([x, y, width, height])
        value = {"x": left, "y": top, "width": across, "height": down, "rotation": turn}
        return self._label("rectangle", label, value, **more)

    def _put_keypoints(self, annotation: Annotation, parent: str) -> None:
        names = self._keypoints.get(annotation.category, ())
        flat = annotation.keypoints or []
        for index in range(0, len(flat), 3):
            x, y, visibility = flat[index : index + 3]
            if not visibility:
                continue
            if index // 3 >= len(names):
                self._notes.drop("key point without a name", annotation.source)
                continue
            meta = {"meta": {"occluded": True}} if visibility == 1 else {}
            name = names[index // 3]
            self._label("keypoint", name, self._point(x, y), parentID=parent, **meta)

    def _label(self, kind: str, label: str, value: dict[str, Any], **more: Any) -> str:
        return self.put(f"{kind}labels", kind, {**value, f"{kind}labels": [label]}, **more)

    def put(self, kind: str, control: str, value: dict[str, Any], **more: Any) -> str:
        """Add a result and give its id."""
        result_id = f"r{len(self.results) + 1}"
        self.results.append(
            {
                "id": result_id,
                "type": kind,
                "from_name": control,
                "to_name": "image",
                "original_width": self._image.width,
                "original_height": self._image.height,
                "image_rotation": 0,
                "value": value,
                **more,
            }
        )
        return result_id

    def _point(self, x: float, y: float) -> dict[str, float]:
        (left, top), *_ = self._shares([x, y])
        return {"x": left, "y": top, "width": 0.5}  # the width is that of the dot drawn

    def _shares(self, flat: list[float]) -> list[list[float]]:
        """[x, y, …] in px as pairs in per cent."""
        width, height = self._image.width / 100, self._image.height / 100
        return [[x / width, y / height] for x, y in zip(flat[0::2], flat[1::2], strict=True)]


def _interface(splits: Mapping[str | None, Dataset]) -> str:
    """The labelling interface (XML) that the written tasks can be imported into."""
    categories = {c.name: c for dataset in splits.values() for c in dataset.categories}
    names = list(categories)
    dots = list(dict.fromkeys([*names, *(k for c in categories.values() for k in c.keypoints)]))
    lines = ["<View>", '  <Image name="image" value="$image"/>']
    for kind in CONTROLS:
        tag = {"keypoint": "KeyPoint"}.get(kind, kind.capitalize()) + "Labels"
        lines.append(f'  <{tag} name="{kind}" toName="image">')
        labels = dots if kind == "keypoint" else names
        lines += [f"    <Label value={quoteattr(name)}/>" for name in labels]
        lines.append(f"  </{tag}>")
    lines.append('  <Choices name="choice" toName="image" choice="multiple">')
    lines += [f"    <Choice value={quoteattr(name)}/>" for name in names]
    lines += ["  </Choices>", '  <TextArea name="caption" toName="image"/>', "</View>"]
    return "\n".join(lines) + "\n"
