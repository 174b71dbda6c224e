"""Labels of whole images, read by `dataset_tools` straight into arrays: nothing is converted."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dataset_tools.arrays import ArrayReader
from dataset_tools.coco import Image, load_coco
from dataset_tools.errors import InputError
from dataset_tools.formats import Format, Plan, get_format, recognise
from dataset_tools.labels import image_labels
from dataset_tools.notes import Notes
from dataset_tools.split import assign_split
from seriatim.data.classification.dataset import UNLABELLED, LabelledDataset
from seriatim.data.classification.storage import Storage
from seriatim.data.classification.stores import ImageFiles, Layout
from seriatim.data.entries import Entry
from seriatim.data.packed import Texts
from seriatim.data.records import Facts, check_files_exist

logger = logging.getLogger(__name__)


@dataclass
class _Found:
    """What a source holds: the images of the split that is asked for.

    Attributes:
        images: (N, H, W, C) uint8, or files.
        names: the class of each image, None for those without.
        ids: given, or counted from 0.
    """

    class_names: Sequence[str]
    images: np.ndarray | ImageFiles
    layout: Layout
    names: Sequence[str | None]
    ids: Sequence[int]


def load_labelled(entry: Entry, storage: Storage) -> tuple[LabelledDataset, dict[str, Any], Facts]:
    """The dataset of an entry with LABELS or CLASSIFICATION, its metadata and its facts.

    Raises:
        InputError: nothing can be read, the split is not there, an image has several classes.
    """
    found = _from_json(entry) if entry.json is not None else _from_labels(entry)
    if not found.class_names:
        raise InputError(f"{entry.json or entry.labels}: no image in it has a class.")
    numbers = {name: i for i, name in enumerate(found.class_names)}
    labels = np.array(
        [UNLABELLED if name is None else numbers[name] for name in found.names], np.int64
    )
    dataset = LabelledDataset(
        entry.name,
        tuple(found.class_names),
        torch.arange(len(labels)),
        torch.from_numpy(labels),
        torch.tensor(found.ids, dtype=torch.int64),
        storage.store(entry.name, found.images, found.layout),
        found.images if isinstance(found.images, ImageFiles) else None,
    )
    return dataset, labelled_metadata(dataset, entry), labelled_facts(dataset)


def labelled_metadata(dataset: LabelledDataset, entry: Entry) -> dict[str, Any]:
    """For MetadataCatalog."""
    names = list(dataset.class_names)
    metadata = {
        "thing_classes": names,
        "evaluator_type": "classification",
    }
    return {**metadata, "json_file": str(entry.json)} if entry.json is not None else metadata


def labelled_facts(dataset: LabelledDataset) -> Facts:
    """How many images of each class there are."""
    labels = dataset.labels.numpy()
    counts = np.bincount(labels[labels != UNLABELLED], minlength=len(dataset.class_names))
    return Facts(
        "classification",
        images=len(labels),
        empty_images=int((labels == UNLABELLED).sum()),
        annotations=int(counts.sum()),
        per_category=dict(zip(dataset.class_names, counts.tolist(), strict=True)),
    )


# COCO files with annotations of whole images


def _from_json(entry: Entry) -> _Found:
    dataset = load_coco(entry.json)
    if not dataset.images:
        raise InputError(f"{entry.json} holds no images: there is nothing to train or evaluate on.")
    notes = Notes()
    files, names = _labelled_files(dataset.images, entry.images, notes)
    _tell(entry, notes, [])
    check_files_exist([files.path(i) for i in range(len(files))], f"IMAGES of {entry.name}")
    class_names = [c.name for c in sorted(dataset.categories, key=lambda c: c.id)]
    ids = [image.id for image in dataset.images]
    return _Found(class_names, files, files.layout, names, ids)


def _labelled_files(
    images: Sequence[Image], root: Path, notes: Notes
) -> tuple[ImageFiles, list[str | None]]:
    sizes = np.array([(image.height, image.width) for image in images], np.int64).reshape(-1, 2)
    layout = Layout(sizes[:, 0].copy(), sizes[:, 1].copy(), 3)
    paths = Texts.of([os.fsencode(root / image.file_name) for image in images])
    return ImageFiles(paths, layout), [_only_label(image, notes) for image in images]


def _only_label(image: Image, notes: Notes) -> str | None:
    return _only(image_labels(image, notes), image.source or image.file_name)


def _only(labels: Sequence[str], place: str) -> str | None:
    if len(labels) > 1:
        raise InputError(
            f"{place} is of several classes: {', '.join(labels)}. A classifier here has one class"
            " for each image; join or drop some by `python -m dataset_tools remap`."
        )
    return labels[0] if labels else None


# All other formats


def _from_labels(entry: Entry) -> _Found:
    chosen = _format(entry)
    notes = Notes()
    known = {option.name for option in chosen.options}
    options = dict(entry.options)
    if unknown := options.keys() - known:
        raise InputError(
            f"SERIATIM.DATASETS ({entry.name}): the format {chosen.name} has no option"
            f" {', '.join(sorted(unknown))}; it has {', '.join(sorted(known)) or 'none'}."
        )
    plan = chosen.plan(entry.labels, notes, images=entry.images, **options)
    if plan.embedded and not isinstance(plan.read, ArrayReader):
        raise InputError(
            f"{entry.labels} is of the format {chosen.name}, which holds image files. Take them out"
            f" first: python -m dataset_tools convert {chosen.name} {entry.labels} -o datasets/"
            f"{entry.name}; then give its JSON with CLASSIFICATION: True."
        )
    read = _read_arrays if isinstance(plan.read, ArrayReader) else _read_files
    found = read(entry, plan, notes)
    _tell(entry, notes, plan.remarks)
    return found


def _format(entry: Entry) -> Format:
    if entry.format != "auto":
        return get_format(entry.format)
    found = [pair for pair in recognise(entry.labels) if "labels" in pair[0].carries]
    if len(found) != 1:
        names = ", ".join(chosen.name for chosen, _ in found) or "none that has labels of images"
        raise InputError(
            f"SERIATIM.DATASETS ({entry.name}): which format is {entry.labels} of? It looks like:"
            f" {names}. Say it by FORMAT; `python -m dataset_tools formats` lists them."
        )
    return found[0][0]


def _read_arrays(entry: Entry, plan: Plan, notes: Notes) -> _Found:
    """Of all splits the classes, of the one that is asked for the pixels."""
    splits = _Splits(entry)
    seen: set[str] = set()
    parts: list[np.ndarray] = []
    names: list[str | None] = []
    ids: list[int] = []
    for source in dict.fromkeys(item.source for item in plan.items):
        arrays = plan.read.arrays(source)
        first = next(item.number for item in plan.items if item.source == source)
        own = [_only(labels, f"{arrays.where}[{i}]") for i, labels in enumerate(arrays.labels)]
        seen.update(name for name in own if name is not None)
        numbers = range(first, first + len(own))
        keep = splits.choose(source.split, [f"{number:05}.png" for number in numbers])
        if keep.any():
            images = _grey_or_rgb(arrays.images)
            parts.append(images if keep.all() else images[keep])
            names += [name for name, kept in zip(own, keep, strict=True) if kept]
            ids += [number for number, kept in zip(numbers, keep, strict=True) if kept]
    splits.check()
    if len({part.shape[1:] for part in parts}) > 1:
        shapes = ", ".join(sorted({"×".join(map(str, part.shape[1:])) for part in parts}))
        raise InputError(
            f"{entry.labels}: its images have several shapes: {shapes}. Give one file."
        )
    images = parts[0] if len(parts) == 1 else np.concatenate(parts)
    count, height, width, channels = images.shape
    layout = Layout(np.full(count, height), np.full(count, width), channels)
    class_names = [category.name for category in plan.categories(seen)]
    return _Found(class_names, images, layout, names, ids)


def _grey_or_rgb(images: np.ndarray) -> np.ndarray:
    """(N, H, W, 1) or (N, H, W, 3); an alpha channel is left out, as when files are read."""
    return images[..., None] if images.ndim == 3 else images[..., :3]


def _read_files(entry: Entry, plan: Plan, notes: Notes) -> _Found:
    splits = _Splits(entry)
    images = [image for item in plan.items for image in plan.read(item, notes)]
    kept = [image for image in images if splits.choose(image.split, [image.file_name])[0]]
    splits.check()
    seen = {annotation.category for image in images for annotation in image.annotations}
    files, names = _labelled_files(kept, plan.image_root, notes)
    class_names = [category.name for category in plan.categories(seen)]
    return _Found(class_names, files, files.layout, names, range(len(kept)))


class _Splits:
    """Which images are of the entry's SPLIT: by the source's own splits, or by FRACTIONS."""

    def __init__(self, entry: Entry) -> None:
        self._entry = entry
        self._fractions = dict(entry.fractions)
        self._seen: set[str | None] = set()
        self._any = False

    def choose(self, split: str | None, names: Sequence[str]) -> np.ndarray:
        """(N,) bool, of images of one split of the source."""
        self._seen.add(split)
        wanted = self._entry.split
        if self._fractions:
            chosen = np.array([assign_split(name, self._fractions) == wanted for name in names])
        else:
            chosen = np.full(len(names), not wanted or split == wanted)
        self._any |= bool(chosen.any())
        return chosen

    def check(self) -> None:
        """InputError if nothing was chosen, or more than one split."""
        entry = self._entry
        known = sorted(split for split in self._seen if split)
        if self._fractions or (self._any and (entry.split or len(self._seen) == 1)):
            return
        there = f"has the splits {', '.join(known)}" if known else "has no splits"
        divide = "" if known else ", or divide it by FRACTIONS: {train: 0.8, test: 0.2}"
        asked = f"SPLIT is {entry.split!r}" if entry.split else "SPLIT is not given"
        raise InputError(
            f"SERIATIM.DATASETS ({entry.name}): {asked}, but {entry.labels} {there}. Name one by"
            f" SPLIT{divide}."
        )


def _tell(entry: Entry, notes: Notes, remarks: Sequence[str]) -> None:
    for line in remarks:
        logger.info(f"{entry.name}: {line}")
    if notes:
        for line in notes.lines():
            logger.warning(f"{entry.name}: {line.strip()}")
