"""Inputs as the mapper gives them, with a record of what its augmentations did."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from detectron2.data import transforms as T
from detectron2.structures import Instances
from fvcore.transforms.transform import Transform, TransformList

from seriatim.data.loader import seeded
from seriatim.gates.context import Context, Record
from seriatim.gates.geometry import is_photometric
from seriatim.gates.registration import registered


@dataclass
class Sample:
    """An augmented input, the record it came from, and how it got there.

    Attributes:
        transforms: recorded; of a mapper that keeps them to itself the one that pixels fit, or
            None if none does.
        sizes: id of a recorded transform → (height, width) of what it was applied to.
        fitted: whether `transforms` is found from pixels.
    """

    record: Record
    item: Record
    transforms: TransformList | None
    sizes: dict[int, tuple[int, int]]
    fitted: bool = False

    @property
    def recorded(self) -> list[Transform]:
        """Each transform that the mapper has applied, as far as it was recorded."""
        return [] if self.fitted or self.transforms is None else self.transforms.transforms

    @property
    def truth(self) -> Instances | None:
        return self.item.get("instances")

    @property
    def is_8_bit(self) -> bool:
        """Deeper images are stretched when they are read: no other library does it alike."""
        if "pixels" in self.record:
            return self.record["pixels"].dtype == np.uint8
        return cv2.imread(str(self.record["file_name"]), cv2.IMREAD_UNCHANGED).dtype == np.uint8

    def moved(self, mask: np.ndarray) -> np.ndarray:
        """A (H, W) bool mask of the file where the transforms take it, as an image so that it is
        resampled as finely as pixels are."""
        inside = mask.astype(np.uint8) * 255
        picture = np.stack([inside, 255 - inside, inside], axis=-1)  # padding is neither
        for transform in self.transforms.transforms:
            if not is_photometric(transform, picture.shape[:2]):
                picture = np.asarray(transform.apply_image(picture))
        return picture[:, :, 0].astype(int) > picture[:, :, 1]

    def pixels(self) -> np.ndarray:
        """(H, W, C) as the mapper gives them."""
        return self.item["image"].permute(1, 2, 0).numpy()

    def likeness_of_file(self) -> np.ndarray | None:
        """(h, w, 3) uint8 BGR: the file where `transforms` take it; None if there are none."""
        if self.transforms is None:
            return None
        return np.asarray(self.transforms.apply_image(source_image(self.record)))

    def expected_image(self, order: str) -> np.ndarray:
        """The file, read by OpenCV, after the recorded transforms."""
        image = source_image(self.record)
        if order == "RGB":
            image = image[:, :, ::-1]
        elif order == "L":
            image = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)[:, :, None]
        return np.asarray(self.transforms.apply_image(np.ascontiguousarray(image))).astype(float)


def source_image(record: Record) -> np.ndarray:
    """(H, W, 3) uint8 BGR: the file as OpenCV reads it, or the pixels that the record has."""
    if "pixels" not in record:
        return cv2.imread(str(record["file_name"]), cv2.IMREAD_COLOR)
    pixels = np.broadcast_to(record["pixels"], (*record["pixels"].shape[:2], 3))
    return np.ascontiguousarray(pixels[:, :, ::-1])


class Recorder(T.Augmentation):
    """Augmentations that remember what they did, and to images of which size."""

    def __init__(self, inner: T.Augmentation) -> None:
        super().__init__()
        self.inner = inner
        self.transforms: TransformList | None = None
        self.sizes: dict[int, tuple[int, int]] = {}

    def __call__(self, aug_input: T.AugInput) -> TransformList:
        found = self.inner(aug_input)
        self.transforms = found if isinstance(found, TransformList) else TransformList([found])
        return self.transforms


def map_recorded(context: Context, record: Record, position: int) -> Sample:
    """`record` mapped for training with the seed of `position`, its augmentations recorded."""
    mapper = context.train_mapper()
    recorder = None
    if isinstance(getattr(mapper, "augmentations", None), T.Augmentation):
        recorder = mapper.augmentations = Recorder(mapper.augmentations)
    with seeded(context.SEED, position):
        item = mapper(copy.deepcopy(record))
    transforms = recorder.transforms if recorder else None
    if transforms is None:
        found = registered(source_image(record), _as_bytes(item["image"]))
        return Sample(record, item, found, {}, fitted=True)
    sizes: dict[int, tuple[int, int]] = {}
    height, width = source_image(record).shape[:2]
    image = np.zeros((height, width, 3), np.uint8)
    for transform in transforms.transforms:
        sizes[id(transform)] = image.shape[:2]
        image = np.asarray(transform.apply_image(image))
    return Sample(record, item, transforms, sizes)


def _as_bytes(image: torch.Tensor) -> np.ndarray:
    """(H, W, C) uint8 of a (C, H, W) input, whatever the mapper normalised it by."""
    pixels = image.permute(1, 2, 0).numpy()
    if pixels.dtype == np.uint8:
        return pixels
    low, high = float(pixels.min()), float(pixels.max())
    return ((pixels - low) * (255 / max(high - low, 1e-6))).round().astype(np.uint8)
