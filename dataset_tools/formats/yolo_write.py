"""Writes YOLO's label files, images and data.yaml. See `yolo`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dataset_tools.coco import Annotation, Category, Dataset, Image, annotation_box
from dataset_tools.errors import InputError
from dataset_tools.export import distinct_stems, joined_categories, place_image
from dataset_tools.files import write_text
from dataset_tools.formats.base import Option
from dataset_tools.formats.yolo_lines import label_of
from dataset_tools.notes import Notes
from dataset_tools.rle import Box, decode_mask, join_rings, mask_rings
from dataset_tools.rotated import corners

UNSPLIT = "train"
CROWDS = Option(
    "--crowds",
    "crowds: leave them out, or write them as objects",
    default="drop",
    choices=("drop", "keep"),
)


def write(
    splits: Mapping[str | None, Dataset],
    folder: Path,
    notes: Notes,
    images: Path | None,
    task: str = "auto",
    crowds: str = "drop",
) -> None:
    """Write images/SPLIT, labels/SPLIT and data.yaml."""
    categories = joined_categories(splits.values())
    if task == "auto":
        task = _richest_task(splits.values())
        notes.tell(f"the lines are for the task {task} (--task {task})")
    shape = _kpt_shape(categories) if task == "pose" else 0
    lines = LineWriter(task, {c.name: n for n, c in enumerate(categories)}, shape, crowds, notes)
    settings: dict[str, Any] = {"path": "."}
    for split, dataset in named_splits(splits, notes).items():
        settings[split] = f"images/{split}"
        (folder / "images" / split).mkdir(parents=True)
        for image, _ in distinct_stems(dataset.images, notes):
            name = f"images/{split}/{image.file_name}"
            place_image(images, image.file_name, folder / name)
            write_text(folder / label_of(name), "".join(lines.of(image)))
    settings |= {"task": task, "names": {n: c.name for n, c in enumerate(categories)}}
    if task == "pose":
        settings |= _pose_settings(categories, shape)
    write_text(folder / "data.yaml", _yaml(settings))


def named_splits(splits: Mapping[str | None, Dataset], notes: Notes) -> dict[str, Dataset]:
    """The splits, with a name for images that are in none: there has to be one to train with."""
    if None in splits:
        notes.tell(f"images in no split are written as {UNSPLIT}")
        if UNSPLIT in splits:
            raise InputError(f"There are both images in no split and a split {UNSPLIT}. Join them.")
    return {split or UNSPLIT: dataset for split, dataset in splits.items()}


@dataclass
class LineWriter:
    """Makes the lines of an image's label file; what they cannot say is noted as dropped."""

    task: str
    numbers: Mapping[str, int]  # by category
    keypoints: int
    crowds: str  # drop or keep
    notes: Notes

    def of(self, image: Image) -> Iterator[str]:
        """Lines with their ends, one for each object that can be written."""
        for annotation in image.annotations:
            place = annotation.source or image.file_name
            if annotation.iscrowd and self.crowds == "drop":
                self.notes.drop("crowd (--crowds keep writes it as an object)", place)
                continue
            box = annotation_box(annotation)
            if box is None:
                self.notes.drop("object without a box", place)
                continue
            shares = getattr(self, f"_{self.task}")(annotation, box, image, place)
            self._note_losses(annotation, place)
            words = [str(self.numbers[annotation.category]), *map(_text, shares)]
            yield " ".join(words) + "\n"

    def _note_losses(self, annotation: Annotation, place: str) -> None:
        kept = {"rbox"} if self.task == "obb" else set()
        for key in sorted(annotation.attributes.keys() - kept):
            self.notes.drop(f"attribute {key}", place)
        if annotation.segmentation and self.task in ("detect", "pose"):
            self.notes.drop(f"mask (--task {self.task} has boxes)", place)
        if annotation.keypoints and self.task != "pose":
            self.notes.drop(f"keypoints (--task {self.task} has none)", place)

    def _detect(self, _: Annotation, box: Box, image: Image, place: str) -> list[float]:
        inside = _inside(box, image)
        if inside != list(box):
            self.notes.suspect("box that left the image (cut at its edge)", place)
        left, top, right, bottom = _shares(inside, image)
        return [(left + right) / 2, (top + bottom) / 2, right - left, bottom - top]

    def _pose(self, annotation: Annotation, box: Box, image: Image, place: str) -> list[float]:
        shares = self._detect(annotation, box, image, place)
        points = annotation.keypoints or [0] * (3 * self.keypoints)
        if len(points) != 3 * self.keypoints:
            raise InputError(
                f"{place}: has {len(points) // 3} keypoints, but its category {self.keypoints}."
            )
        for start in range(0, len(points), 3):
            shares += [*_shares(points[start : start + 2], image), points[start + 2]]
        return shares

    def _segment(self, annotation: Annotation, box: Box, image: Image, place: str) -> list[float]:
        rings = _rings(annotation)
        if not rings:
            self.notes.suspect("box without a mask (written as a polygon of four corners)", place)
            rings = [_upright(box)]
        if len(rings) > 1:
            self.notes.suspect("mask of several rings (joined by lines without width)", place)
        return _shares(_inside(join_rings(rings), image), image)

    def _obb(self, annotation: Annotation, box: Box, image: Image, place: str) -> list[float]:
        rotated, rings = annotation.attributes.get("rbox"), _rings(annotation)
        if rotated is not None:
            quad = corners(rotated)
        elif len(rings) == 1 and len(rings[0]) == 8:
            quad = list(rings[0])
        elif rings:
            self.notes.suspect("mask (written as the smallest rotated box around it)", place)
            quad = _smallest_quad([value for ring in rings for value in ring])
        else:
            self.notes.suspect("upright box (written as its four corners)", place)
            quad = _upright(box)
        shares = _shares(quad, image)
        if min(shares) < 0 or max(shares) > 1:
            self.notes.suspect(
                "rotated box that leaves the image (kept; Ultralytics may leave out the image)",
                place,
            )
        return shares


def _richest_task(datasets: Iterable[Dataset]) -> str:
    objects = [a for dataset in datasets for image in dataset.images for a in image.annotations]
    if any("rbox" in annotation.attributes for annotation in objects):
        return "obb"
    if any(annotation.keypoints for annotation in objects):
        return "pose"
    return "segment" if any(annotation.segmentation for annotation in objects) else "detect"


def _kpt_shape(categories: Sequence[Category]) -> int:
    """The number of keypoints that all categories have that have any."""
    counts = {c.name: len(c.keypoints) for c in categories if c.keypoints}
    if len(set(counts.values())) != 1:
        found = ", ".join(f"{name}: {count}" for name, count in counts.items()) or "none"
        raise InputError(
            "YOLO poses have one number of keypoints, but the categories have different ones "
            f"({found}). Export them one by one (see subset), or with another --task."
        )
    return next(iter(counts.values()))


def _pose_settings(categories: Sequence[Category], count: int) -> dict[str, Any]:
    posed = {number: c for number, c in enumerate(categories) if c.keypoints}
    first = next(iter(posed.values()))
    settings: dict[str, Any] = {"kpt_shape": [count, 3]}
    flips = first.extra.get("flip_idx") or _mirrored(first.keypoints)
    if flips:
        settings["flip_idx"] = list(flips)
    settings["kpt_names"] = {number: list(c.keypoints) for number, c in posed.items()}
    if first.skeleton:
        settings["skeleton"] = [list(bone) for bone in first.skeleton]
    return settings


def _mirrored(names: Sequence[str]) -> list[int]:
    """For each keypoint the one it is in a mirror, by "left" and "right" in the names; [] if none
    has a partner: then nothing is known of mirrors."""
    swap = {"left": "right", "right": "left"}
    partners = [re.sub("left|right", lambda side: swap[side[0]], name) for name in names]
    if not any(
        partner != name and partner in names for name, partner in zip(names, partners, strict=True)
    ):
        return []
    return [
        names.index(partner) if partner in names else own for own, partner in enumerate(partners)
    ]


def _rings(annotation: Annotation) -> list[list[float]]:
    """Polygons of the mask, holes among them; [] if there is none."""
    if isinstance(annotation.segmentation, dict):
        return mask_rings(decode_mask(annotation.segmentation))
    return [ring for ring in annotation.segmentation or [] if len(ring) >= 6]


def _smallest_quad(points: Sequence[float]) -> list[float]:
    """Corners of the smallest rectangle, of any angle, that holds the points."""
    import cv2
    import numpy as np

    rectangle = cv2.minAreaRect(np.array(points, np.float32).reshape(-1, 2))
    return cv2.boxPoints(rectangle).ravel().tolist()


def _upright(box: Box) -> list[float]:
    left, top, right, bottom = box
    return [left, top, right, top, right, bottom, left, bottom]


def _sides(image: Image) -> tuple[int, int]:
    return image.width, image.height


def _inside(values: Sequence[float], image: Image) -> list[float]:
    """x, y, x, y … moved to the image's edge where they are beyond it."""
    return [min(max(0, value), _sides(image)[index % 2]) for index, value in enumerate(values)]


def _shares(values: Sequence[float], image: Image) -> list[float]:
    """x, y, x, y … in px as shares of the image's sides."""
    return [value / _sides(image)[index % 2] for index, value in enumerate(values)]


def _text(share: float) -> str:
    """Nine places: a hundred-thousandth of a pixel in an image of 10,000."""
    return f"{share:.9f}".rstrip("0").rstrip(".")


def _yaml(settings: dict[str, Any]) -> str:
    import yaml

    return yaml.safe_dump(settings, sort_keys=False, allow_unicode=True, default_flow_style=None)
