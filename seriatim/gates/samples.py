"""Inputs as the mapper gives them, with a record of what its augmentations did."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import cv2
import numpy as np
from detectron2.data import transforms as T
from detectron2.structures import Instances
from fvcore.transforms.transform import TransformList

from seriatim.data.loader import seeded
from seriatim.gates.context import Context, Record
from seriatim.gates.geometry import is_photometric


@dataclass
class Sample:
    """An augmented input, the record it came from, and how it got there.

    Attributes:
        transforms: recorded; None if the mapper keeps them to itself.
        sizes: id of a transform → (height, width) of what it was applied to.
    """

    record: Record
    item: Record
    transforms: TransformList | None
    sizes: dict[int, tuple[int, int]]

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
    sizes: dict[int, tuple[int, int]] = {}
    if transforms is not None:
        height, width = source_image(record).shape[:2]
        image = np.zeros((height, width, 3), np.uint8)
        for transform in transforms.transforms:
            sizes[id(transform)] = image.shape[:2]
            image = np.asarray(transform.apply_image(image))
    return Sample(record, item, transforms, sizes)
