"""Writes COCO's own files, in COCO's own layout: annotations/KIND_SPLIT.json and images. See
`coco`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from dataset_tools.coco import (
    IMAGE_EXTRAS,
    Annotation,
    Category,
    Dataset,
    Image,
    annotation_box,
    write_coco,
)
from dataset_tools.errors import InputError
from dataset_tools.export import place_image
from dataset_tools.files import write_json
from dataset_tools.notes import Notes

# Kinds of files and what their names begin with.
PREFIXES = {
    "instances": "instances",
    "keypoints": "person_keypoints",
    "stuff": "stuff",
    "captions": "captions",
    "panoptic": "panoptic",
    "results": "results",
}
UNSPLIT = "all"


def write(
    splits: Mapping[str | None, Dataset],
    folder: Path,
    notes: Notes,
    images: Path | None,
    kinds: str = "auto",
    attributes: str = "keep",
    photos: str = "link",
) -> None:
    """Write the files of each split that `kinds` names, and SPLIT/ with its images."""
    chosen = _kinds(kinds, splits)
    if kinds == "auto":
        notes.tell(f"files are written for {', '.join(chosen)} (--kinds)")
    for split, dataset in splits.items():
        name = split or UNSPLIT
        for image in dataset.images if photos == "link" else ():
            place_image(images, image.file_name, folder / name / image.file_name)
        if attributes == "drop":
            dataset = replace(dataset, images=[_plain(image) for image in dataset.images])
        _SplitWriter(dataset, folder / "annotations", name, chosen, notes).write()


def _kinds(text: str, splits: Mapping[str | None, Dataset]) -> list[str]:
    if text == "auto":
        captions = any(i.attributes.get("captions") for d in splits.values() for i in d.images)
        return ["instances", "captions"] if captions else ["instances"]
    kinds = [word.strip() for word in text.split(",")]
    unknown = [kind for kind in kinds if kind not in PREFIXES]
    if unknown:
        raise InputError(f"There is no kind {unknown[0]!r}. There are: {', '.join(PREFIXES)}.")
    return kinds


class _SplitWriter:
    """Writes the files of one split."""

    def __init__(
        self, dataset: Dataset, folder: Path, split: str, kinds: Sequence[str], notes: Notes
    ) -> None:
        self.dataset, self.folder, self.split = dataset, folder, split
        self.kinds, self.notes = kinds, notes
        self.ids = {category.name: category.id for category in dataset.categories}
        info = {key: value for key, value in dataset.info.items() if key != "image_root"}
        self.info = info | {"image_root": f"../{split}"}

    def write(self) -> None:
        for kind in self.kinds:
            getattr(self, f"_write_{kind}")()
        if "results" in self.kinds and "instances" not in self.kinds:
            self._write_records("image_info", lambda _: None, self.dataset.categories)
        if not {"instances", "panoptic", "results"} & set(self.kinds):
            self._note_unwritten()

    def _path(self, prefix: str) -> Path:
        return self.folder / f"{prefix}_{self.split}.json"

    def _write_instances(self) -> None:
        """All objects but those that have a file of their own; keypoints only if they have none."""
        stuff = self._stuff() if "stuff" in self.kinds else set()
        with_keypoints = "keypoints" not in self.kinds

        def chosen(annotation: Annotation) -> Annotation | None:
            if annotation.category in stuff:
                return None
            return annotation if with_keypoints else replace(annotation, keypoints=None)

        categories = [
            category for category in self.dataset.categories if category.name not in stuff
        ]
        if not with_keypoints:
            categories = [replace(category, keypoints=(), skeleton=()) for category in categories]
        self._write_records("instances", chosen, categories)

    def _write_keypoints(self) -> None:
        categories = [category for category in self.dataset.categories if category.keypoints]
        names = {category.name for category in categories}
        self._write_records(
            PREFIXES["keypoints"], lambda a: a if a.category in names else None, categories
        )

    def _write_stuff(self) -> None:
        names = self._stuff()
        self._write_records(
            "stuff",
            lambda annotation: annotation if annotation.category in names else None,
            [category for category in self.dataset.categories if category.name in names],
        )

    def _write_records(self, prefix: str, chosen: Any, categories: Sequence[Category]) -> None:
        """A file of the objects for which `chosen` gives a record, and of all images."""
        own_captions = {"captions"} if "captions" in self.kinds else set()

        def images() -> Iterator[Image]:
            for image in self.dataset.images:
                attributes = {k: v for k, v in image.attributes.items() if k not in own_captions}
                found = [chosen(annotation) for annotation in image.annotations]
                kept = [annotation for annotation in found if annotation is not None]
                yield replace(image, annotations=kept, attributes=attributes)

        path, licenses = self._path(prefix), self.dataset.licenses
        write_coco(path, images(), categories, self.info, licenses, keep_ids=True)

    def _write_captions(self) -> None:
        captions = (
            (image.id, caption)
            for image in self.dataset.images
            for caption in image.attributes.get("captions", ())
        )
        annotations = [
            {"id": number, "image_id": image_id, "caption": caption}
            for number, (image_id, caption) in enumerate(captions, start=1)
        ]
        write_json(self._path("captions"), self._content(annotations))

    def _write_panoptic(self) -> None:
        from PIL import Image as Pillow

        folder = self.folder / f"panoptic_{self.split}"
        annotations = []
        for image in self.dataset.images:
            colours, segments = self._segments(image)
            name = f"{image.file_name.rpartition('.')[0] or image.file_name}.png"
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            if (folder / name).exists():
                raise InputError(f"{image.file_name}: another image has the same PNG, {name}.")
            Pillow.fromarray(colours).save(folder / name)
            annotations.append({"image_id": image.id, "file_name": name, "segments_info": segments})
        categories = [
            _category(category) | {"isthing": category.extra.get("isthing", 1)}
            for category in self.dataset.categories
        ]
        content = self._content(annotations) | {"categories": categories}
        write_json(self._path("panoptic"), content)

    def _segments(self, image: Image) -> tuple[Any, list[dict[str, Any]]]:
        """The HW3 uint8 PNG of an image, with ids as R + 256 G + 65536 B, and its segments_info."""
        import numpy as np

        from dataset_tools.instance_map import instance_map
        from dataset_tools.rle import encode_mask, rle_box

        owners, objects = instance_map(image, self.notes)
        segments = []
        for number, annotation in enumerate(objects, start=1):
            for key in sorted(annotation.attributes):
                self.notes.drop(f"attribute {key} (panoptic)", annotation.source)
            if annotation.keypoints:
                self.notes.drop("keypoints (panoptic)", annotation.source)
            mask = owners == number
            left, top, right, bottom = rle_box(encode_mask(mask)) or (0, 0, 0, 0)
            segments.append(
                {
                    "id": number,
                    "category_id": self.ids[annotation.category],
                    "area": int(mask.sum()),
                    "bbox": [int(left), int(top), int(right - left), int(bottom - top)],
                    "iscrowd": int(annotation.iscrowd),
                }
            )
        parts = [owners % 256, owners // 256 % 256, owners // 65536]
        return np.stack(parts, axis=2).astype(np.uint8), segments

    def _write_results(self) -> None:
        results = [
            self._result(image, annotation)
            for image in self.dataset.images
            for annotation in image.annotations
        ]
        write_json(self._path("results"), results)

    def _result(self, image: Image, annotation: Annotation) -> dict[str, Any]:
        from dataset_tools.instance_map import segmentation_mask
        from dataset_tools.rle import encode_mask

        attributes = dict(annotation.attributes)
        if "score" not in attributes:
            self.notes.suspect("result without a score (1 written)", annotation.source)
        for key in sorted(attributes.keys() - {"score"}):
            self.notes.drop(f"attribute {key} (results)", annotation.source)
        entry = {
            "image_id": image.id,
            "category_id": self.ids[annotation.category],
            "score": attributes.get("score", 1),
        }
        if (box := annotation_box(annotation)) is not None:
            entry["bbox"] = [box[0], box[1], box[2] - box[0], box[3] - box[1]]
        if annotation.segmentation:
            mask = annotation.segmentation
            if not isinstance(mask, dict):  # COCO's evaluation takes nothing else
                mask = encode_mask(segmentation_mask(mask, image.height, image.width))
            entry["segmentation"] = mask
        if annotation.keypoints:
            entry["keypoints"] = annotation.keypoints
        return entry

    def _content(self, annotations: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "info": self.info,
            "licenses": self.dataset.licenses,
            "images": [_image(image) for image in self.dataset.images],
            "annotations": annotations,
        }

    def _stuff(self) -> set[str]:
        """Categories that are no things, as their `isthing` says."""
        return {c.name for c in self.dataset.categories if c.extra.get("isthing") == 0}

    def _note_unwritten(self) -> None:
        written = self._stuff() if "stuff" in self.kinds else set()
        if "keypoints" in self.kinds:
            written |= {c.name for c in self.dataset.categories if c.keypoints}
        for image in self.dataset.images:
            for annotation in image.annotations:
                if annotation.category not in written:
                    self.notes.drop("object that none of --kinds has", annotation.source)


def _plain(image: Image) -> Image:
    """With keys only that COCO knows; captions, for which it has a file, stay."""
    kept = (*IMAGE_EXTRAS, "captions")
    return replace(
        image,
        attributes={key: image.attributes[key] for key in kept if key in image.attributes},
        annotations=[replace(annotation, attributes={}) for annotation in image.annotations],
    )


def _image(image: Image) -> dict[str, Any]:
    entry = {"id": image.id, "file_name": image.file_name}
    entry |= {"width": image.width, "height": image.height}
    return entry | {key: image.attributes[key] for key in IMAGE_EXTRAS if key in image.attributes}


def _category(category: Category) -> dict[str, Any]:
    return {
        "id": category.id,
        "name": category.name,
        "supercategory": category.supercategory,
    } | category.extra
