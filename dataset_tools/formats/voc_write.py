"""Writes Pascal VOC's folder. See `voc`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from dataset_tools.coco import Annotation, Dataset, Image, annotation_box
from dataset_tools.errors import InputError
from dataset_tools.export import distinct_stems, joined_categories, place_image
from dataset_tools.files import write_text
from dataset_tools.formats.voc_masks import CLASSES, LABELMAP, OBJECTS, VOID
from dataset_tools.notes import Notes
from dataset_tools.palette import colour, save_numbers

_FLAGS = ("truncated", "difficult", "occluded")
_NOT_IN_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def write(
    splits: Mapping[str | None, Dataset],
    folder: Path,
    notes: Notes,
    images: Path | None,
    pixel_origin: str = "0",
    numbers: str = "exact",
    masks: str = "auto",
) -> None:
    """Write Annotations, JPEGImages, ImageSets and, with masks, the PNGs of segmentations."""
    names = [category.name for category in joined_categories(splits.values())]
    writer = _Writer(folder, notes, int(pixel_origin), numbers == "whole", names)
    if masks == "auto":
        masks = (
            "yes"
            if any(
                annotation.segmentation
                for dataset in splits.values()
                for image in dataset.images
                for annotation in image.annotations
            )
            else "no"
        )
        notes.tell(f"PNGs of segmentations are {'' if masks == 'yes' else 'not '}written (--masks)")
    everything = [image for dataset in splits.values() for image in dataset.images]
    stems = {image.file_name: stem for image, stem in distinct_stems(everything, notes)}
    written: set[str] = set()
    for image in everything:
        if image.file_name in written:
            continue
        written.add(image.file_name)
        place_image(images, image.file_name, folder / "JPEGImages" / image.file_name)
        writer.write_xml(image, stems[image.file_name], masks == "yes")
        if masks == "yes":
            writer.write_pngs(image, stems[image.file_name])
    for split, dataset in splits.items():
        if split is not None:
            lines = "".join(f"{stems[image.file_name]}\n" for image in dataset.images)
            for kind in ("Main", "Segmentation") if masks == "yes" else ("Main",):
                (folder / "ImageSets" / kind).mkdir(parents=True, exist_ok=True)
                write_text(folder / "ImageSets" / kind / f"{split}.txt", lines)
    write_text(folder / LABELMAP, _labelmap(names))


class _Writer:
    def __init__(
        self, folder: Path, notes: Notes, origin: int, whole: bool, names: Sequence[str]
    ) -> None:
        self.folder, self.notes, self.origin, self.whole = folder, notes, origin, whole
        self.numbers = {name: number for number, name in enumerate(names, start=1)}

    def write_xml(self, image: Image, stem: str, segmented: bool) -> None:
        """The XML file of an image."""
        root = ElementTree.Element("annotation")
        inner, _, name = image.file_name.rpartition("/")
        _put(root, "folder", "/".join(["JPEGImages", inner]).rstrip("/"))
        _put(root, "filename", name)
        _put(_put(root, "source"), "database", "Unknown")
        _put(root, "pixel_origin", self.origin)
        size = _put(root, "size")
        for tag, value in (("width", image.width), ("height", image.height), ("depth", 3)):
            _put(size, tag, value)
        _put(root, "segmented", int(segmented))
        for key in image.attributes:
            self.notes.drop(f"attribute {key} of an image", image.file_name)
        for annotation in image.annotations:
            self._put_object(root, annotation)
        ElementTree.indent(root)
        path = self.folder / "Annotations" / f"{stem}.xml"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, ElementTree.tostring(root, encoding="unicode") + "\n")

    def _put_object(self, root: ElementTree.Element, annotation: Annotation) -> None:
        box = annotation_box(annotation)
        if box is None:
            self.notes.drop("object without a box", annotation.source)
            return
        attributes = dict(annotation.attributes)
        if annotation.iscrowd:
            attributes["difficult"] = True
            self.notes.suspect("crowd (written as difficult)", annotation.source)
        if annotation.keypoints:
            self.notes.drop("keypoints", annotation.source)
        node = _put(root, "object")
        _put(node, "name", annotation.category)
        _put(node, "pose", attributes.pop("pose", "Unspecified"))
        for flag in _FLAGS:
            if flag in attributes or flag != "occluded":
                _put(node, flag, int(bool(attributes.pop(flag, False))))
        values = (box[0] + self.origin, box[1] + self.origin, box[2], box[3])
        bounds = _put(node, "bndbox")
        for tag, value in zip(("xmin", "ymin", "xmax", "ymax"), values, strict=True):
            _put(bounds, tag, self._text(value))
        self._put_attributes(node, attributes, annotation.source)

    def _text(self, value: float) -> str:
        whole = self.whole or float(value).is_integer()
        return str(round(value)) if whole else f"{value:.6f}".rstrip("0")

    def _put_attributes(
        self, node: ElementTree.Element, attributes: dict[str, Any], place: str
    ) -> None:
        """The others as CVAT writes them."""
        plain = {k: v for k, v in attributes.items() if isinstance(v, str | int | float)}
        for key in attributes.keys() - plain.keys():
            self.notes.drop(f"attribute {key} (neither text nor number)", place)
        if not plain:
            return
        group = _put(node, "attributes")
        for key, value in plain.items():
            entry = _put(group, "attribute")
            _put(entry, "name", key)
            _put(entry, "value", str(value).lower() if isinstance(value, bool) else value)

    def write_pngs(self, image: Image, stem: str) -> None:
        """The PNGs of an image's objects and classes."""
        import numpy as np

        from dataset_tools.instance_map import instance_map

        for annotation in image.annotations:
            if not annotation.segmentation:
                place = annotation.source or image.file_name
                self.notes.suspect("object without a mask (in the XML file only)", place)
        masked = [annotation for annotation in image.annotations if annotation.segmentation]
        owners, objects = instance_map(replace(image, annotations=masked), self.notes)
        # Objects without a box are not in the XML file, and have no mask either.
        boxed = [a for a in image.annotations if annotation_box(a) is not None]
        place_of = {id(annotation): number for number, annotation in enumerate(boxed, start=1)}
        numbers = np.array([0, *(place_of[id(a)] for a in objects)])
        classes = np.array([0, *(self.numbers[a.category] for a in objects)])
        if max(numbers.max(), classes.max()) >= VOID:
            raise InputError(
                f"{image.file_name}: VOC's PNGs have numbers for 254 objects and classes at most. "
                "Export without them (--masks no), or as masks or COCO."
            )
        for kind, values in ((OBJECTS, numbers), (CLASSES, classes)):
            save_numbers(self.folder / kind / f"{stem}.png", values[owners])


def _put(parent: ElementTree.Element, tag: str, value: Any = None) -> ElementTree.Element:
    """Add an element with a text. InputError for characters that XML cannot hold."""
    node = ElementTree.SubElement(parent, tag)
    if value is not None:
        node.text = str(value)
        if _NOT_IN_XML.search(node.text):
            raise InputError(f"{node.text!r} holds a character that XML cannot. Rename it.")
    return node


def _labelmap(names: Sequence[str]) -> str:
    """The names of the numbers in SegmentationClass, with the colours that they have there."""
    lines = ["# label:color_rgb:parts:actions"]
    for number, name in enumerate(["background", *names]):
        if "\n" in name or "\r" in name:
            raise InputError(f"The category {name!r} has a line break in its name. Rename it.")
        lines.append(f"{name}:{','.join(map(str, colour(number % 256)))}::")
    return "\n".join(lines) + "\n"
