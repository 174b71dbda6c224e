"""ZCA whitening as a fixed first layer; `seriatim.data.statistics` fits it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from detectron2.config import CfgNode
from torch import Tensor, nn

from dataset_tools.errors import InputError


class Whitening(nn.Module):
    """(x - mean) @ matrix on flattened images; it is not trained, nor saved with the weights.

    Args:
        shape: (C, H, W) of an image.
        mean: (C·H·W,). matrix: (C·H·W, C·H·W).
    """

    def __init__(self, shape: tuple[int, ...], mean: Tensor, matrix: Tensor) -> None:
        super().__init__()
        self.shape = tuple(shape)
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("matrix", matrix, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) normalised per channel → the same shape, decorrelated, float32.

        Raises:
            InputError: the images are of another size than those it was fitted to.
        """
        if images.shape[1:] != self.shape:
            raise InputError(
                f"The whitening was fitted to images of {'×'.join(map(str, self.shape))}, but gets"
                f" {'×'.join(map(str, images.shape[1:]))}. Set SERIATIM.CLASSIFICATION.SIZE."
            )
        # Half precision would undo what the matrix does to the small eigenvalues.
        with torch.autocast(images.device.type, enabled=False):
            return ((images.float().flatten(1) - self.mean) @ self.matrix).view_as(images)


def build_whitening(cfg: CfgNode) -> nn.Module:
    """The whitening in the file MODEL.WHITENING; where there is none, nothing is done."""
    if not cfg.MODEL.WHITENING:
        return nn.Identity()
    path = Path(cfg.MODEL.WHITENING)
    if not path.is_file():
        raise InputError(
            f"MODEL.WHITENING: there is no file {path}. It is made by SERIATIM.DATA.NORMALISE zca."
        )
    with np.load(path, allow_pickle=False) as content:
        mean, matrix = (torch.from_numpy(content[key]) for key in ("mean", "matrix"))
        return Whitening(tuple(content["shape"].tolist()), mean, matrix)
