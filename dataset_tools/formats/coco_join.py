"""What makes one dataset of COCO's several files: captions, keypoints, results. See `coco`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dataset_tools.coco import Category, Dataset, Image, parse_coco, read_json
from dataset_tools.errors import InputError
from dataset_tools.notes import Notes


def parse_with_captions(file: Path, content: Any, notes: Notes) -> Dataset:
    """As `parse_coco`; captions, which are annotations without a category, go to their images."""
    entries = content.get("annotations") if isinstance(content, dict) else None
    if not isinstance(entries, list):
        return parse_coco(file, content, notes)
    captions = [(n, entry) for n, entry in enumerate(entries) if _is_caption(entry)]
    others = [entry for entry in entries if not _is_caption(entry)]
    dataset = parse_coco(file, {**content, "annotations": others}, notes)
    images = {image.id: image for image in dataset.images}
    for number, entry in captions:
        image, caption = images.get(entry.get("image_id")), entry["caption"]
        if image is None or not isinstance(caption, str):
            fault = "that is no text" if image else "whose image_id no image has"
            notes.drop(f"caption {fault}", f"{file}:annotations[{number}]")
        else:
            image.attributes.setdefault("captions", []).append(caption)
    return dataset


def results_content(file: Path, results: list[Any], of: str | None) -> dict[str, Any]:
    """The results in a list as a COCO file, with images and categories of the file `of`."""
    if of is None:
        raise InputError(
            f"{file}: is a list, as COCO's results are. Say by --results-of which file has their "
            "images and categories."
        )
    content = read_json(of)
    if not isinstance(content, dict) or not isinstance(content.get("images"), list):
        raise InputError(f'{of}: not a COCO file: there is no list "images" at the top.')
    entries = [
        {"id": number, **entry} if isinstance(entry, dict) else entry
        for number, entry in enumerate(results, start=1)
    ]
    return {**content, "annotations": entries}


def join(base: Dataset, more: Dataset, file: Path) -> None:
    """Add to `base` what another file says of the same images, which have the same ids there.

    Annotations with the id of one that is there already are that one, and add their keypoints.
    """
    images = {image.id: image for image in base.images}
    for image in more.images:
        own = images.get(image.id)
        if own is None:
            base.images.append(image)
        elif own.file_name != image.file_name:
            raise InputError(
                f"{file}: image {image.id} is {image.file_name}, but {own.file_name} in another "
                "file of its split. Convert the files one by one."
            )
        else:
            _join_images(own, image)
    _join_categories(base.categories, more.categories)


def _join_images(own: Image, other: Image) -> None:
    present = {(annotation.id, annotation.category): annotation for annotation in own.annotations}
    for annotation in other.annotations:
        same = present.get((annotation.id, annotation.category))
        if same is None:
            own.annotations.append(annotation)
        else:
            same.keypoints = same.keypoints or annotation.keypoints
            same.attributes = annotation.attributes | same.attributes
    captions = own.attributes.get("captions", []) + other.attributes.get("captions", [])
    own.attributes = other.attributes | own.attributes
    if captions:
        own.attributes["captions"] = captions


def _join_categories(own: list[Category], others: Sequence[Category]) -> None:
    by_name = {category.name: category for category in own}
    for category in others:
        same = by_name.get(category.name)
        if same is None:
            own.append(category)
        elif not same.keypoints:
            same.keypoints, same.skeleton = category.keypoints, category.skeleton


def _is_caption(entry: Any) -> bool:
    return isinstance(entry, dict) and "caption" in entry and "category_id" not in entry
