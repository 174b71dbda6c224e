"""Detectron2's resize, faster: the same pixels but for rounding, and the same coordinates."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from detectron2.data import transforms as T
from PIL import Image
from torch.nn import functional as F

from seriatim.data.image import REDUCTIONS, full_size


class ResizeTransform(T.ResizeTransform):
    """Detectron2's by Pillow, done by torch for 8-bit pixels and bilinear interpolation.

    Both weigh the pixels that a new one covers alike; results differ by at most 1 of 255. An image
    that was decoded at a reduced size is brought to the new size from there, while `h` and `w`,
    which coordinates are scaled by, are those of the whole image.
    """

    def apply_image(self, img: np.ndarray, interp: int | None = None) -> np.ndarray:
        interp = self.interp if interp is None else interp
        if img.dtype != np.uint8 or img.ndim != 3 or interp != Image.BILINEAR:
            return super().apply_image(img, interp)
        assert full_size(img) == (self.h, self.w)
        if not img.flags.c_contiguous or not img.flags.writeable:
            img = img.copy(order="C")  # torch wants memory that may be written to
        pixels = torch.from_numpy(np.asarray(img)).permute(2, 0, 1)[None]
        resized = F.interpolate(pixels, (self.new_h, self.new_w), mode="bilinear", antialias=True)
        return resized[0].permute(1, 2, 0).numpy()


class ResizeShortestEdge(T.ResizeShortestEdge):
    """Detectron2's, by `ResizeTransform`."""

    @classmethod
    def like(cls, step: T.ResizeShortestEdge) -> ResizeShortestEdge:
        style = "range" if step.is_range else "choice"
        return cls(step.short_edge_length, step.max_size, style, step.interp)

    def get_transform(self, image: np.ndarray) -> T.Transform:
        step = super().get_transform(SimpleNamespace(shape=full_size(image)))
        if not isinstance(step, T.ResizeTransform):
            return step
        return ResizeTransform(step.h, step.w, step.new_h, step.new_w, step.interp)

    def reduction(self, height: int, width: int) -> int:
        """The largest of `REDUCTIONS` by which an image of this size can be decoded smaller, so
        that it is never enlarged, and no pixel covers what lies beyond its edges."""
        edge = max(self.short_edge_length)
        if min(self.short_edge_length) == 0 or self.interp != Image.BILINEAR:
            return 1
        new_h, new_w = self.get_output_shape(height, width, edge, self.max_size)
        fitting = (
            r
            for r in REDUCTIONS
            if height % r == width % r == 0 and height // r >= new_h and width // r >= new_w
        )
        return next(fitting, 1)


def reduction_of(augmentations: Any) -> ResizeShortestEdge | None:
    """The step that says how much smaller an image may be decoded: the first of an
    AugmentationList, if it resizes. What else may augment an image gets it whole."""
    first = next(iter(getattr(augmentations, "augs", ())), None)
    return first if isinstance(first, ResizeShortestEdge) else None
