"""Augmentations for images that have a label as a whole, as Detectron2's Augmentation has them.

Those that move pixels have an inverse, but for RandAugment's own.
"""

from __future__ import annotations

import cv2
import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import transforms as T
from PIL import Image
from torchvision.transforms import v2

from seriatim.data.resize import ResizeTransform

BORDERS = {"reflect": cv2.BORDER_REFLECT_101, "zero": cv2.BORDER_CONSTANT}
RATIOS = (3 / 4, 4 / 3)  # width to height of random crops
_TRIES = 10


class FitCrop(T.Augmentation):
    """Scale so that the image covers `size` / `share`, and cut `size` (height, width) out of its
    middle. An image of that size stays as it is.
    """

    def __init__(self, size: tuple[int, int], share: float = 1.0) -> None:
        super().__init__()
        self._init(locals())

    def get_transform(self, image: np.ndarray) -> T.Transform:
        height, width = image.shape[:2]
        if (height, width) == tuple(self.size) and self.share == 1:
            return T.NoOpTransform()
        scale = max(self.size[0] / height, self.size[1] / width) / self.share
        new_h = max(self.size[0], round(height * scale))
        new_w = max(self.size[1], round(width * scale))
        x0, y0 = (new_w - self.size[1]) // 2, (new_h - self.size[0]) // 2
        return T.TransformList(
            [
                ResizeTransform(height, width, new_h, new_w),
                T.CropTransform(x0, y0, self.size[1], self.size[0], new_w, new_h),
            ]
        )


class RandomShift(T.Augmentation):
    """Shift by up to `pad` px each way, which is a crop of the padded image (He 2015).

    Args:
        mode: of the padding, "reflect" or "zero".
    """

    def __init__(self, pad: int, mode: str = "reflect") -> None:
        super().__init__()
        self._init(locals())

    def get_transform(self, image: np.ndarray) -> T.Transform:
        x, y = np.random.randint(-self.pad, self.pad + 1, 2).tolist()
        return ShiftTransform(x, y, self.mode)


class ShiftTransform(T.Transform):
    """Move the image by `x` px to the right and `y` px down; what comes in is its mirror image, or
    with `mode` "zero" black."""

    def __init__(self, x: int, y: int, mode: str = "reflect") -> None:
        super().__init__()
        self._set_attributes(locals())

    def apply_image(self, img: np.ndarray) -> np.ndarray:
        height, width = img.shape[:2]
        x, y = self.x, self.y
        sides = (max(y, 0), max(-y, 0), max(x, 0), max(-x, 0))
        padded = cv2.copyMakeBorder(img, *sides, BORDERS[self.mode])
        top, left = max(-y, 0), max(-x, 0)
        return padded[top : top + height, left : left + width].reshape(img.shape)

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        return coords + np.array([self.x, self.y], coords.dtype)

    def inverse(self) -> ShiftTransform:
        return ShiftTransform(-self.x, -self.y, self.mode)


class RandomAreaCrop(T.Augmentation):
    """Cut out a random share `area` of the image, of a random shape, and scale it to `size`
    (Szegedy 2014, arXiv 1409.4842).
    """

    def __init__(self, size: tuple[int, int], area: tuple[float, float]) -> None:
        super().__init__()
        self._init(locals())

    def get_transform(self, image: np.ndarray) -> T.Transform:
        height, width = image.shape[:2]
        for _ in range(_TRIES):
            area = height * width * np.random.uniform(*self.area)
            ratio = np.exp(np.random.uniform(*np.log(RATIOS)))
            w, h = round((area * ratio) ** 0.5), round((area / ratio) ** 0.5)
            if 0 < w <= width and 0 < h <= height:
                x0, y0 = np.random.randint(width - w + 1), np.random.randint(height - h + 1)
                crop = T.CropTransform(x0, y0, w, h, width, height)
                return T.TransformList([crop, ResizeTransform(h, w, *self.size)])
        return FitCrop(self.size).get_transform(image)


class RandAugment(T.Augmentation):
    """torchvision's: `operations` random ones, of a `magnitude` from 0 to 30 (arXiv 1909.13719).

    Its operations on colours want to know the order of channels: `image_format` is INPUT.FORMAT.
    """

    def __init__(self, operations: int, magnitude: int, image_format: str) -> None:
        super().__init__()
        self._init(locals())
        self._apply = v2.RandAugment(operations, magnitude)

    def get_transform(self, image: np.ndarray) -> T.Transform:
        seed = int(np.random.randint(2**31))
        return RandAugmentTransform(self._apply, seed, self.image_format == "BGR")


class RandAugmentTransform(T.Transform):
    """One draw of `operation`, by `seed`, on an image whose channels are `reversed` RGB or not.

    It works on Pillow's images, on which small ones are done faster than as tensors.
    """

    def __init__(self, operation: v2.RandAugment, seed: int, reversed: bool) -> None:
        super().__init__()
        self._set_attributes(locals())

    def apply_image(self, img: np.ndarray) -> np.ndarray:
        state = torch.get_rng_state()
        torch.random.default_generator.manual_seed(self.seed)
        try:
            picture = Image.fromarray(np.ascontiguousarray(self._turned(img).squeeze()))
            return self._turned(np.asarray(self.operation(picture)).reshape(img.shape))
        finally:
            torch.set_rng_state(state)

    def _turned(self, image: np.ndarray) -> np.ndarray:
        return image[:, :, ::-1] if self.reversed else image

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        return coords  # labels of whole images have none


class Cutout(T.Augmentation):
    """Grey a square at a random place, its side a `share` of the image's shorter one; it may stick
    out (DeVries 2017, arXiv 1708.04552).
    """

    def __init__(self, share: float, value: int) -> None:
        super().__init__()
        self._init(locals())

    def get_transform(self, image: np.ndarray) -> T.Transform:
        height, width = image.shape[:2]
        side = round(self.share * min(height, width))
        y0 = np.random.randint(height) - side // 2
        x0 = np.random.randint(width) - side // 2
        box = (max(x0, 0), max(y0, 0), min(x0 + side, width), min(y0 + side, height))
        return EraseTransform(*box, self.value)


class EraseTransform(T.Transform):
    """Fill the px from (x0, y0) to (x1, y1), edges exclusive, with `value`."""

    def __init__(self, x0: int, y0: int, x1: int, y1: int, value: int) -> None:
        super().__init__()
        self._set_attributes(locals())

    def apply_image(self, img: np.ndarray) -> np.ndarray:
        erased = img.copy()
        erased[self.y0 : self.y1, self.x0 : self.x1] = self.value
        return erased

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        return coords

    def inverse(self) -> T.Transform:
        return T.NoOpTransform()


def build_label_augmentations(cfg: CfgNode, is_train: bool) -> list[T.Augmentation]:
    """SERIATIM.CLASSIFICATION's. In testing, and under DETERMINISTIC_DEBUG, nothing random."""
    keys, size = cfg.SERIATIM.CLASSIFICATION, tuple(cfg.SERIATIM.CLASSIFICATION.SIZE)
    if not is_train or cfg.SERIATIM.DETERMINISTIC_DEBUG:
        return [FitCrop(size, keys.TEST_SHARE)] if size else []
    steps: list[T.Augmentation] = []
    if keys.CROP == "area":
        steps.append(RandomAreaCrop(size, tuple(keys.AREA)))
    elif size:
        steps.append(FitCrop(size, keys.TEST_SHARE if keys.CROP == "none" else 1.0))
    if keys.CROP == "pad":
        steps.append(RandomShift(keys.PAD, keys.PAD_MODE))
    if keys.HFLIP > 0:
        steps.append(T.RandomFlip(keys.HFLIP))
    return [*steps, *_strong(cfg, keys.RANDAUGMENT, keys.RANDAUGMENT_MAGNITUDE, keys.CUTOUT)]


def build_views(cfg: CfgNode) -> list[list[T.Augmentation]]:
    """The augmentations of SERIATIM.SEMI.VIEWS."""
    semi = cfg.SERIATIM.SEMI
    weak = build_label_augmentations(cfg, is_train=True)
    strong = weak
    if not cfg.SERIATIM.DETERMINISTIC_DEBUG:
        beyond = (semi.STRONG_RANDAUGMENT, semi.STRONG_MAGNITUDE, semi.STRONG_CUTOUT)
        strong = [*weak, *_strong(cfg, *beyond)]
    return [strong if view == "strong" else weak for view in semi.VIEWS]


def _strong(cfg: CfgNode, operations: int, magnitude: int, cutout: float) -> list[T.Augmentation]:
    steps: list[T.Augmentation] = []
    if operations > 0:
        steps.append(RandAugment(operations, magnitude, cfg.INPUT.FORMAT))
    if cutout > 0:
        steps.append(Cutout(cutout, round(float(np.mean(cfg.MODEL.PIXEL_MEAN)))))
    return steps
