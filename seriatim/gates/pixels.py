"""Pixels of an input against the pixels of its file: which change of the one gives the other."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from seriatim.gates.context import Batch, Context
from seriatim.gates.verdict import Cause

# Two libraries decode a JPEG to within a level or two; a wrong crop, flip or channel order is off
# by tens.
PIXEL_TOLERANCE = 6.0


def explain_pixels(got: np.ndarray, wanted: np.ndarray) -> list[Cause]:
    """What would make the two images alike, the likeliest first."""
    known = {
        "the channels are in the other order than INPUT.FORMAT says": lambda x: x[:, :, ::-1],
        "the image is mirrored behind the augmentations' back": lambda x: x[:, ::-1],
        "the image is turned upside down behind the augmentations' back": lambda x: x[::-1],
        "the image is divided by 255 in the mapper": lambda x: x * 255.0,
    }
    got = got.astype(float)
    last = Cause("the mapper changes the image outside of its augmentations", "build_mapper")
    if got.shape != wanted.shape:
        if got.shape == wanted.transpose(1, 0, 2).shape:
            return [Cause("height and width are swapped", "build_mapper"), last]
        return [last]
    fits = {name: float(np.abs(change(got) - wanted).mean()) for name, change in known.items()}
    good = [name for name in sorted(fits, key=fits.get) if fits[name] <= PIXEL_TOLERANCE]
    return [*(Cause(name, "build_mapper, INPUT.FORMAT") for name in good), last]


class _Captured(Exception):
    """Ends a forward pass as soon as the backbone is reached."""


def captured_input(model: nn.Module, backbone: nn.Module, inputs: Batch) -> torch.Tensor | None:
    """What `backbone` is given when `model` sees `inputs`, (B, C, H, W)."""
    caught: list[torch.Tensor] = []

    def catch(module: nn.Module, args: Sequence[Any], kwargs: dict[str, Any]) -> None:
        tensors = [value for value in (*args, *kwargs.values()) if isinstance(value, torch.Tensor)]
        if tensors and tensors[0].ndim == 4:
            caught.append(tensors[0].detach().clone())
            raise _Captured

    handle = backbone.register_forward_pre_hook(catch, with_kwargs=True)
    try:
        with torch.no_grad():
            model(copy.deepcopy(inputs))
    except _Captured:
        pass
    finally:
        handle.remove()
    return caught[0] if caught else None


def orders(bgr: np.ndarray) -> dict[str, np.ndarray]:
    """(3, H, W) BGR as other orders of channels and orientations would have it."""
    rgb = bgr[::-1]
    return {
        "BGR": bgr,
        "RGB": rgb,
        "mirrored": np.stack([bgr, rgb])[:, :, :, ::-1],
        "upside down": np.stack([bgr, rgb])[:, :, ::-1],
    }


def likeness(pixels: np.ndarray, candidate: np.ndarray) -> float:
    """Mean correlation of the channels after their differences are freed from scale and offset.

    Channels of a photograph are much alike; so what one channel has over the mean of all is
    compared too.
    """
    if candidate.ndim == 4:
        return max(likeness(pixels, one) for one in candidate) - 1e-3  # the plain orders come first
    whole = _correlation(pixels, candidate)
    pixels, candidate = (
        x - x.mean(axis=0, keepdims=True) for x in (_standard(pixels), _standard(candidate))
    )
    return 0.5 * whole + 0.5 * _correlation(pixels, candidate)


def _standard(x: np.ndarray) -> np.ndarray:
    flat = x.reshape(x.shape[0], -1)
    return (x - flat.mean(1)[:, None, None]) / (flat.std(1)[:, None, None] + 1e-6)


def _correlation(first: np.ndarray, second: np.ndarray) -> float:
    first, second = (x.reshape(x.shape[0], -1).astype(np.float64) for x in (first, second))
    first, second = (x - x.mean(1, keepdims=True) for x in (first, second))
    products = (first * second).sum(1)
    norms = np.sqrt((first**2).sum(1) * (second**2).sum(1)) + 1e-9
    return float((products / norms).mean())


def saturation(bgr: np.ndarray) -> float:
    """Mean difference between the brightest and the darkest channel, 0–255."""
    return float((bgr.max(axis=0) - bgr.min(axis=0)).mean())


def expected_statistics(
    context: Context, model: nn.Module
) -> tuple[list[float], list[float]] | None:
    """Mean and deviation that the backbone's weights were trained with, in INPUT.FORMAT's order."""
    if "timm" not in context.cfg.MODEL.BACKBONE.NAME.lower():
        return None
    if not context.cfg.MODEL.TIMM.WEIGHTS:
        return None
    from seriatim.modeling.backbone.timm_backbone import pixel_statistics

    timm = context.cfg.MODEL.TIMM
    return pixel_statistics(timm.NAME, timm.WEIGHTS, context.cfg.INPUT.FORMAT)
