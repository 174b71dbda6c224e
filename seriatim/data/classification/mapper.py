"""From a record with a label to the input of a classifier."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from detectron2.data import transforms as T

from seriatim.data.classification.augmentations import build_label_augmentations, build_views
from seriatim.data.classification.dataset import UNLABELLED
from seriatim.data.image import ImageCache, image_cache, in_format, read_image
from seriatim.data.mapper import Source
from seriatim.data.records import Record


class ClassificationMapper:
    """Reads the image, augments it, and gives tensors.

    The result has the record's image_id, file_name, height and width, `image` ((C, H, W) uint8
    tensor, channels as INPUT.FORMAT says) and `label` (int; `UNLABELLED` where there is none). In
    training, records without a label also have `views`: a list of further tensors like `image`. All
    randomness comes from NumPy's global generator.

    Args:
        is_train: gives the views.
        augmentations: of every image.
        image_format: INPUT.FORMAT.
        views: augmentations of each further view of a record without a label.
        cache: keeps decoded image files.
        keep_transforms: add `transforms` and `sources`, as `SeriatimMapper` does.
    """

    @configurable
    def __init__(
        self,
        is_train: bool,
        *,
        augmentations: Sequence[T.Augmentation],
        image_format: str,
        views: Sequence[Sequence[T.Augmentation]] = (),
        cache: ImageCache | None = None,
        keep_transforms: bool = False,
    ) -> None:
        self.is_train = is_train
        self.augmentations = T.AugmentationList(augmentations)
        self.image_format = image_format
        self.views = [T.AugmentationList(view) for view in views] if is_train else []
        self.keep_transforms = keep_transforms
        self._read = read_image if cache is None else cache.read

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool = True) -> dict[str, Any]:
        return {
            "is_train": is_train,
            "augmentations": build_label_augmentations(cfg, is_train),
            "image_format": cfg.INPUT.FORMAT,
            "views": build_views(cfg) if is_train else (),
            "cache": image_cache(cfg) if is_train else None,
        }

    def __call__(self, record: Record) -> Record:
        """Map one record, which is not changed. InputError if its image cannot be read."""
        image = self.read(record)
        result = {key: value for key, value in record.items() if key != "pixels"}
        result.setdefault("label", UNLABELLED)
        result["image"], transforms = _augmented(image, self.augmentations)
        if self.views and result["label"] == UNLABELLED:
            result["views"] = [_augmented(image, view)[0] for view in self.views]
        if self.keep_transforms:
            height, width = result["image"].shape[-2:]
            result["transforms"] = transforms
            result["sources"] = [Source(record["file_name"], transforms, (0, 0, width, height))]
        return result

    def read(self, record: Record) -> np.ndarray:
        """The record's image as it is stored, (H, W, C) uint8 in INPUT.FORMAT."""
        if "pixels" not in record:
            return self._read(record["file_name"], self.image_format)
        return in_format(record["pixels"], self.image_format)


def _augmented(
    image: np.ndarray, augmentations: T.AugmentationList
) -> tuple[torch.Tensor, T.TransformList]:
    """(C, H, W) uint8, and what was done."""
    given = T.AugInput(image)
    transforms = augmentations(given)
    return torch.from_numpy(np.array(given.image.transpose(2, 0, 1), order="C")), transforms
