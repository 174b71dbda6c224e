"""From a record of a dataset to the input of a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from detectron2.data import DatasetMapper, detection_utils
from detectron2.data import transforms as T

from dataset_tools.errors import InputError
from seriatim.data.augmentations import IGNORE_LABEL, Recipe, build_augmentations
from seriatim.data.image import ImageCache, full_size, image_cache, read_image, read_labels
from seriatim.data.objects import (
    Objects,
    concatenate,
    mask_to_bitmap,
    read_objects,
    to_instances,
    transform_objects,
)
from seriatim.data.resize import reduction_of

Record = dict[str, Any]


@dataclass
class Source:
    """One of the images that an input was made of.

    Attributes:
        file_name: of the image.
        transforms: from the coordinates of that image to those of the input; they have an inverse.
        window: (x0, y0, x1, y1) px of the input that this image fills.
    """

    file_name: str
    transforms: T.TransformList
    window: tuple[int, int, int, int]


@dataclass
class Sample:
    """An image (H, W, C) uint8 after its augmentations, its objects and labels (H, W) uint8."""

    image: np.ndarray
    objects: Objects | None
    sem_seg: np.ndarray | None
    sources: list[Source]
    original_size: tuple[int, int]  # (height, width) px of the first source

    @property
    def size(self) -> tuple[int, int]:
        return self.image.shape[:2]


@dataclass(frozen=True)
class Mixing:
    """Augmentations that put several images together. Probabilities per image."""

    mosaic: float
    copy_paste: float
    size: tuple[int, int]
    min_visible_share: float
    recipe: Recipe


class SeriatimMapper(DatasetMapper):
    """Reads the image, augments it with all its annotations, and gives tensors.

    The result has "image" ((C, H, W) uint8 tensor, channels as INPUT.FORMAT says) and the record's
    file_name, image_id, height and width (of the image as it is on disk). In training also
    "instances" (see `to_instances`) and "sem_seg" ((H, W) int64, 255 ignored) where the record has
    such. All randomness comes from NumPy's global generator.

    Args beyond those of DatasetMapper:
        min_area_share: a cropped object of whose box a smaller share is left is dropped.
        rotated: boxes are rotated ones, also where an image has none.
        mixing: mosaic and copy-paste; they take effect once `use_pool` has been called.
        cache: keeps decoded images.
        keep_transforms: add "transforms" (of the record's own image), "sources" (list of `Source`),
            and to the instances gt_source (index into sources) and gt_annotation (index into that
            record's annotations).
    """

    @configurable
    def __init__(
        self,
        is_train: bool,
        *,
        min_area_share: float = 0.0,
        rotated: bool = False,
        mixing: Mixing | None = None,
        cache: ImageCache | None = None,
        keep_transforms: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(is_train, **kwargs)
        self.min_area_share = min_area_share
        self.rotated = rotated
        self.mixing = mixing
        self.keep_transforms = keep_transforms
        self._read = read_image if cache is None else cache.read
        self._pool: Sequence[Record] = ()

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool = True) -> dict[str, Any]:
        aug = cfg.SERIATIM.AUG
        debug = cfg.SERIATIM.DETERMINISTIC_DEBUG
        ours = is_train and aug.ENABLED and not debug
        cropped = is_train and not debug and (aug.ENABLED or cfg.INPUT.CROP.ENABLED)
        arguments: dict[str, Any] = {
            "is_train": is_train,
            "augmentations": build_augmentations(cfg, is_train),
            "image_format": cfg.INPUT.FORMAT,
            "use_instance_mask": cfg.MODEL.MASK_ON,
            "instance_mask_format": cfg.INPUT.MASK_FORMAT,
            "use_keypoint": cfg.MODEL.KEYPOINT_ON,
            "recompute_boxes": cfg.MODEL.MASK_ON and cropped,
            "rotated": cfg.MODEL.PROPOSAL_GENERATOR.NAME == "RRPN",
            "cache": image_cache(cfg) if is_train else None,
        }
        if ours:
            arguments["min_area_share"] = aug.MIN_AREA_SHARE
            if aug.MOSAIC > 0 or aug.COPY_PASTE > 0:
                arguments["mixing"] = Mixing(
                    aug.MOSAIC,
                    aug.COPY_PASTE,
                    tuple(aug.SIZE),
                    aug.MIN_AREA_SHARE,
                    Recipe.from_config(cfg),
                )
        if cfg.MODEL.KEYPOINT_ON and is_train:
            names = cfg.DATASETS.TRAIN or cfg.DATASETS.TEST
            arguments["keypoint_hflip_indices"] = np.array(
                detection_utils.create_keypoint_hflip_indices(list(names))
            )
        if cfg.MODEL.LOAD_PROPOSALS:
            arguments["precomputed_proposal_topk"] = (
                cfg.DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TRAIN
                if is_train
                else cfg.DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TEST
            )
        return arguments

    def use_pool(self, records: Sequence[Record]) -> None:
        """Let mosaic and copy-paste draw the other images they need from `records`."""
        self._pool = records

    def __call__(self, dataset_dict: Record) -> Record:
        """Map one record, which is not changed.

        Raises:
            InputError: a file is missing, broken or not of the recorded size; it is named.
        """
        sample = self._mixed(dataset_dict) if self.is_train else self._augmented(dataset_dict)
        result = {k: v for k, v in dataset_dict.items() if k not in _CONSUMED}
        if "height" not in result:
            result["height"], result["width"] = sample.original_size
        result["image"] = torch.from_numpy(np.array(sample.image.transpose(2, 0, 1), order="C"))
        if sample.sem_seg is not None:
            result["sem_seg"] = torch.from_numpy(sample.sem_seg.astype(np.int64))
        if sample.objects is not None:
            result["instances"] = to_instances(
                sample.objects,
                sample.size,
                mask_format=self.instance_mask_format if self.use_instance_mask else None,
                tight_boxes=self.recompute_boxes,
                origins=self.keep_transforms,
            )
        if self.proposal_topk is not None:
            detection_utils.transform_proposals(
                result, sample.size, sample.sources[0].transforms, proposal_topk=self.proposal_topk
            )
        if self.keep_transforms:
            result["transforms"] = sample.sources[0].transforms
            result["sources"] = sample.sources
        return result

    # One image

    def _augmented(self, record: Record, augmentations: T.AugmentationList | None = None) -> Sample:
        """The record's image after `augmentations` (default: the mapper's own)."""
        augmentations = augmentations or self.augmentations
        image = self._read(record["file_name"], self.image_format, reduction_of(augmentations))
        original_size = full_size(image)
        _check_size(record, original_size)
        sem_seg = _read_sem_seg(record, original_size) if self.is_train else None
        augmented = T.AugInput(image, sem_seg=sem_seg)
        transforms = augmentations(augmented)
        size = augmented.image.shape[:2]
        objects = None
        if self.is_train and "annotations" in record:
            objects = transform_objects(
                self._read_objects(record),
                transforms,
                size,
                min_area_share=self.min_area_share,
                mirror=self.keypoint_hflip_indices,
            )
        source = Source(record["file_name"], transforms, (0, 0, size[1], size[0]))
        return Sample(augmented.image, objects, augmented.sem_seg, [source], original_size)

    def _read_objects(self, record: Record) -> Objects:
        pastes = self.mixing is not None and self.mixing.copy_paste > 0
        return read_objects(
            record["annotations"],
            masks=self.use_instance_mask or pastes,
            keypoints=len(self.keypoint_hflip_indices) if self.use_keypoint else 0,
            rotated=self.rotated,
        )

    # Several images

    def _mixed(self, record: Record) -> Sample:
        mixing = self.mixing
        if mixing is None or not len(self._pool):
            return self._augmented(record)
        mosaic = np.random.random() < mixing.mosaic
        sample = self._mosaic(record) if mosaic else self._augmented(record)
        if np.random.random() < mixing.copy_paste:
            sample = paste(sample, self._augmented(self._another()), mixing.min_visible_share)
        return sample

    def _another(self) -> Record:
        return self._pool[np.random.randint(len(self._pool))]

    def _mosaic(self, record: Record) -> Sample:
        """The record's image and three others around a random point of the middle.

        Each is scaled and cropped to its quarter, so that the scale of objects follows
        SERIATIM.AUG.SCALE as ever (Bochkovskiy 2020, arXiv 2004.10934).
        """
        height, width = self.mixing.size
        y = np.random.randint(height // 4, height - height // 4 + 1)
        x = np.random.randint(width // 4, width - width // 4 + 1)
        corners = [(0, 0, x, y), (x, 0, width, y), (0, y, x, height), (x, y, width, height)]
        records = [record, self._another(), self._another(), self._another()]
        parts = []
        for i, (other, window) in enumerate(zip(records, corners, strict=True)):
            x0, y0, x1, y1 = window
            recipe = T.AugmentationList(self.mixing.recipe.build((y1 - y0, x1 - x0)))
            parts.append(_place(self._augmented(other, recipe), window, self.mixing.size, i))
        images = [part.image for part in parts]
        labels = [part.sem_seg for part in parts]
        return Sample(
            _tile(images),
            concatenate([part.objects for part in parts]) if parts[0].objects is not None else None,
            _tile(labels) if all(label is not None for label in labels) else None,
            [part.sources[0] for part in parts],
            parts[0].original_size,
        )


_CONSUMED = ("annotations", "sem_seg_file_name")


def _place(
    sample: Sample, window: tuple[int, int, int, int], size: tuple[int, int], number: int
) -> Sample:
    """`sample`, its image as it is, with coordinates in an input of `size` (height, width)."""
    x0, y0, x1, y1 = window
    pad = T.PadTransform(x0, y0, size[1] - x1, size[0] - y1, x1 - x0, y1 - y0)
    source = sample.sources[0]
    transforms = T.TransformList([*source.transforms.transforms, pad])
    objects = sample.objects
    if objects is not None:
        objects = replace(
            objects.shifted(x0, y0, size), source=np.full(len(objects), number, dtype=np.int64)
        )
    placed = Source(source.file_name, transforms, window)
    return replace(sample, objects=objects, sources=[placed])


def _tile(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Upper left, upper right, lower left, lower right as one image."""
    upper, lower = np.concatenate(parts[:2], axis=1), np.concatenate(parts[2:], axis=1)
    return np.concatenate([upper, lower])


def paste(sample: Sample, other: Sample, min_visible_share: float) -> Sample:
    """Copy a random subset of `other`'s objects into `sample`, pixel by pixel of their masks.

    What they cover is cut out of the masks behind; an object of which less than `min_visible_share`
    stays visible is dropped (Ghiasi 2021, arXiv 2012.07177). Both images have the same size.
    """
    candidates = [i for i, mask in enumerate(other.objects.masks) if mask is not None]
    chosen = np.array([i for i in candidates if np.random.random() < 0.5], dtype=np.int64)
    if not len(chosen):
        return sample
    pasted = _with_bitmaps(other.objects.select(chosen), sample.size)
    cover = np.any(pasted.masks, axis=0)
    image = sample.image.copy()
    image[cover] = other.image[cover]
    sem_seg = sample.sem_seg
    if sem_seg is not None:
        sem_seg = np.where(cover, IGNORE_LABEL if other.sem_seg is None else other.sem_seg, sem_seg)
    behind = _cut_out(sample.objects, cover, min_visible_share)
    pasted = replace(pasted, source=pasted.source + len(sample.sources))
    objects = concatenate([behind, pasted])
    sources = [*sample.sources, *other.sources]
    return Sample(image, objects, sem_seg, sources, sample.original_size)


def _with_bitmaps(objects: Objects, size: tuple[int, int]) -> Objects:
    return replace(objects, masks=[mask_to_bitmap(mask, size) for mask in objects.masks])


def _cut_out(objects: Objects, cover: np.ndarray, min_visible_share: float) -> Objects:
    """`objects` without what `cover` (H, W) bool hides of them."""
    before = _with_bitmaps(objects, cover.shape)
    masks, boxes, keep = [], objects.boxes.copy(), np.ones(len(objects), bool)
    for i, (mask, bitmap) in enumerate(zip(objects.masks, before.masks, strict=True)):
        if mask is None:  # only a box is known: judge by the box
            x0, y0, x1, y1 = boxes[i].round().astype(int)
            keep[i] = (
                1 - cover[y0:y1, x0:x1].mean() >= min_visible_share if x1 > x0 and y1 > y0 else True
            )
            masks.append(None)
            continue
        visible = bitmap & ~cover
        keep[i] = visible.any() and visible.sum() >= min_visible_share * bitmap.sum()
        if keep[i] and visible.sum() < bitmap.sum():
            rows, columns = np.flatnonzero(visible.any(1)), np.flatnonzero(visible.any(0))
            boxes[i] = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
        masks.append(visible)
    keypoints = objects.keypoints
    if keypoints is not None and len(keypoints):
        keypoints = keypoints.copy()
        x, y = (
            keypoints[:, :, axis].astype(int).clip(0, cover.shape[1 - axis] - 1) for axis in (0, 1)
        )
        hidden = cover[y, x] & (keypoints[:, :, 2] > 0)
        keypoints[:, :, 2][hidden] = 1  # labelled but not visible
    return replace(objects, masks=masks, boxes=boxes, keypoints=keypoints).select(keep)


def _check_size(record: Record, size: tuple[int, int]) -> None:
    recorded = (record.get("height", size[0]), record.get("width", size[1]))
    if recorded != size:
        raise InputError(
            f"The image {record['file_name']} is {size[1]}×{size[0]} px, but its dataset says"
            f" {recorded[1]}×{recorded[0]}. If it was turned or scaled after labelling, the labels"
            " do not fit; `python -m dataset_tools check` finds all such images, --fix mends the"
            " recorded size."
        )


def _read_sem_seg(record: Record, size: tuple[int, int]) -> np.ndarray | None:
    """(H, W) uint8 class of each pixel, 255 where there is none; None for a record without."""
    if "sem_seg_file_name" in record:
        path = record["sem_seg_file_name"]
        labels = read_labels(path)
        labels = labels if labels.ndim == 2 else labels[:, :, 0]
    elif "pan_seg_file_name" in record:
        path = record["pan_seg_file_name"]
        labels = _classes_of_segments(read_labels(path), record["segments_info"])
    else:
        return None
    if labels.shape != size:
        raise InputError(
            f"The label image {path} is {labels.shape[1]}×{labels.shape[0]} px, but"
            f" {record['file_name']} is {size[1]}×{size[0]}."
        )
    return labels


def _classes_of_segments(colours: np.ndarray, segments: Sequence[Record]) -> np.ndarray:
    """A panoptic PNG (id = R + 256 G + 65536 B) as classes, crowds and unnamed segments ignored."""
    ids = colours.astype(np.int64) @ (1, 256, 65536)
    classes = np.full(ids.shape, IGNORE_LABEL, np.uint8)
    for segment in segments:
        if not segment.get("iscrowd", 0):
            classes[ids == segment["id"]] = segment["category_id"]
    return classes
