"""Augmentations by config, on Detectron2's Augmentation and Transform. Geometric ones have an
inverse.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from detectron2.config import CfgNode
from detectron2.data import detection_utils
from detectron2.data import transforms as T

from seriatim.data.resize import ResizeShortestEdge, ResizeTransform

IGNORE_LABEL = 255  # of semantic labels; padding gets it


class ScaleCropPad(T.Augmentation):
    """Scale by a random factor, crop at random, pad at the right and bottom to a fixed size.

    The crop is cut first and then scaled, so that only the pixels that remain are scaled. With a
    wide range of factors this is large-scale jitter (Ghiasi 2021, arXiv 2012.07177).

    Args:
        size: (height, width) px of the output.
        scale: range of the factor.
        from_original: the factor is relative to the image's own pixels; else to the image fitted
            into `size`.
        pad_value: grey level of the padding.
    """

    def __init__(
        self,
        size: tuple[int, int],
        scale: tuple[float, float],
        from_original: bool = False,
        pad_value: int = 128,
    ) -> None:
        super().__init__()
        self._init(locals())

    def get_transform(self, image: np.ndarray) -> T.TransformList:
        height, width = image.shape[:2]
        factor = self._rand_range(*self.scale)
        if not self.from_original:
            factor *= min(self.size[0] / height, self.size[1] / width)
        crop_h, out_h = _extent(height, self.size[0], factor)
        crop_w, out_w = _extent(width, self.size[1], factor)
        y0 = np.random.randint(height - crop_h + 1)
        x0 = np.random.randint(width - crop_w + 1)
        steps: list[T.Transform] = []
        if (crop_h, crop_w) != (height, width):
            steps.append(T.CropTransform(x0, y0, crop_w, crop_h, width, height))
        if (out_h, out_w) != (crop_h, crop_w):
            steps.append(ResizeTransform(crop_h, crop_w, out_h, out_w))
        if (out_h, out_w) != tuple(self.size):
            right, bottom = self.size[1] - out_w, self.size[0] - out_h
            steps.append(
                T.PadTransform(0, 0, right, bottom, out_w, out_h, self.pad_value, IGNORE_LABEL)
            )
        return T.TransformList(steps)


def _extent(length: int, target: int, factor: float) -> tuple[int, int]:
    """How many px of `length` are cropped, and how many px they become, for at most `target` px."""
    crop = max(1, round(target / factor))
    if crop < length:
        return crop, target
    return length, min(target, max(1, round(length * factor)))


class RandomCrop(T.RandomCrop):
    """Detectron2's, with an inverse."""

    def get_transform(self, image: np.ndarray) -> T.Transform:
        crop = super().get_transform(image)
        height, width = image.shape[:2]
        return T.CropTransform(crop.x0, crop.y0, crop.w, crop.h, width, height)


class RandomRot90(T.Augmentation):
    """With probability `prob`, turn by 90, 180 or 270 degrees."""

    def __init__(self, prob: float) -> None:
        super().__init__()
        self._init(locals())

    def get_transform(self, image: np.ndarray) -> T.Transform:
        if self._rand_range() >= self.prob:
            return T.NoOpTransform()
        return Rot90Transform(*image.shape[:2], quarters=np.random.randint(1, 4))


class RandomVFlip(T.Augmentation):
    """With probability `prob`, turn upside down."""

    def __init__(self, prob: float) -> None:
        super().__init__()
        self._init(locals())

    def get_transform(self, image: np.ndarray) -> T.Transform:
        do = self._rand_range() < self.prob
        return VFlipTransform(image.shape[0]) if do else T.NoOpTransform()


class VFlipTransform(T.VFlipTransform):
    """fvcore's, without its way through torch, which warns about images that are read-only."""

    def apply_image(self, img: np.ndarray) -> np.ndarray:
        return np.flip(img, axis=0)


class Rot90Transform(T.Transform):
    """Turn an image of `h` × `w` px by `quarters` × 90° counter-clockwise, without resampling."""

    def __init__(self, h: int, w: int, quarters: int) -> None:
        super().__init__()
        quarters = int(quarters) % 4
        self._set_attributes(locals())

    def apply_image(self, img: np.ndarray) -> np.ndarray:
        return np.rot90(img, self.quarters)

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        height, width = self.h, self.w
        for _ in range(self.quarters):
            coords = np.stack([coords[:, 1], width - coords[:, 0]], axis=1)
            height, width = width, height
        return coords

    def inverse(self) -> Rot90Transform:
        height, width = (self.w, self.h) if self.quarters % 2 else (self.h, self.w)
        return Rot90Transform(height, width, 4 - self.quarters)


class RandomColour(T.Augmentation):
    """Random brightness, contrast and saturation, each a factor in [1 - x, 1 + x], in one pass.

    The three are affine in the pixel's channels, so their product is one matrix. Detectron2's own
    three take three passes in floating point, and its saturation takes RGB for granted.

    Args:
        image_format: "RGB" or "BGR" give saturation its weights; other formats have no saturation.
    """

    def __init__(
        self, brightness: float, contrast: float, saturation: float, image_format: str
    ) -> None:
        super().__init__()
        self._init(locals())

    def get_transform(self, image: np.ndarray) -> T.Transform:
        b, c, s = (
            self._rand_range(1 - x, 1 + x)
            for x in (self.brightness, self.contrast, self.saturation)
        )
        channels = image.shape[2]
        matrix = np.eye(channels)
        if channels == 3 and self.image_format in _LUMA:
            matrix = s * matrix + (1 - s) * np.ones((3, 1)) * _LUMA[self.image_format]
        # Contrast moves the pixels away from the mean of the image that brightness left.
        mean = b * float(np.mean(cv2.mean(image)[:channels]))
        return AffineColourTransform(np.c_[b * c * matrix, np.full(channels, (1 - c) * mean)])


# Luma weights of ITU-R BT.601, by channel.
_LUMA = {"RGB": np.array([0.299, 0.587, 0.114]), "BGR": np.array([0.114, 0.587, 0.299])}


class AffineColourTransform(T.Transform):
    """Each pixel p becomes A p + b, rounded, clipped to [0, 255]; `matrix` is (C, C + 1) [A |
    b].
    """

    def __init__(self, matrix: np.ndarray) -> None:
        super().__init__()
        self._set_attributes(locals())

    def apply_image(self, img: np.ndarray) -> np.ndarray:
        result = cv2.transform(np.ascontiguousarray(img), self.matrix)
        return result.reshape(img.shape)

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        return coords

    def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
        return segmentation

    def inverse(self) -> T.Transform:
        return T.NoOpTransform()


@dataclass(frozen=True)
class Recipe:
    """What SERIATIM.AUG asks of every training image, for an output of any size."""

    scale: tuple[float, float]
    from_original: bool
    hflip: float
    vflip: float
    rot90: float
    colour: tuple[float, float, float]  # brightness, contrast, saturation
    image_format: str
    pad_value: int

    @classmethod
    def from_config(cls, cfg: CfgNode) -> Recipe:
        aug = cfg.SERIATIM.AUG
        return cls(
            scale=tuple(aug.SCALE),
            from_original=aug.SCALE_FROM_ORIGINAL,
            hflip=aug.HFLIP,
            vflip=aug.VFLIP,
            rot90=aug.ROT90,
            colour=(aug.BRIGHTNESS, aug.CONTRAST, aug.SATURATION),
            image_format=cfg.INPUT.FORMAT,
            # The mean becomes 0 after normalisation, like the padding that batching adds.
            pad_value=round(float(np.mean(cfg.MODEL.PIXEL_MEAN))),
        )

    def build(self, size: tuple[int, int]) -> list[T.Augmentation]:
        """The augmentations for an output of `size` (height, width) px."""
        steps: list[T.Augmentation] = []
        if self.rot90 > 0:
            steps.append(RandomRot90(self.rot90))
        steps.append(ScaleCropPad(size, self.scale, self.from_original, self.pad_value))
        if any(self.colour):
            steps.append(RandomColour(*self.colour, self.image_format))
        # Flips come last: they only view the pixels in another order.
        if self.hflip > 0:
            steps.append(T.RandomFlip(self.hflip))
        if self.vflip > 0:
            steps.append(RandomVFlip(self.vflip))
        return steps


def build_augmentations(cfg: CfgNode, is_train: bool) -> list[T.Augmentation]:
    """The augmentations of an image: SERIATIM.AUG where enabled, else Detectron2's INPUT keys.

    In testing, and in training under DETERMINISTIC_DEBUG, only the resize to INPUT.MIN_SIZE_TEST.
    """
    if not is_train and cfg.SERIATIM.EVAL.TILE > 0:
        return []  # each tile is resized, not the image
    if not is_train or cfg.SERIATIM.DETERMINISTIC_DEBUG:
        return _detectron2s(cfg, is_train=False)
    if cfg.SERIATIM.AUG.ENABLED:
        return Recipe.from_config(cfg).build(tuple(cfg.SERIATIM.AUG.SIZE))
    steps = _detectron2s(cfg, is_train=True)
    if cfg.INPUT.CROP.ENABLED:
        steps.insert(0, RandomCrop(cfg.INPUT.CROP.TYPE, cfg.INPUT.CROP.SIZE))
    return steps


def _detectron2s(cfg: CfgNode, is_train: bool) -> list[T.Augmentation]:
    """What INPUT asks for, with a faster resize."""
    steps = detection_utils.build_augmentation(cfg, is_train=is_train)
    return [
        ResizeShortestEdge.like(step) if type(step) is T.ResizeShortestEdge else step
        for step in steps
    ]
