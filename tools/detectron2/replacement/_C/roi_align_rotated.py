"""ROIAlign of rotated boxes, by PyTorch's own bilinear sampler.

The sample points of each box are laid out on a regular grid, turned by the box's angle, read from
the feature map with `grid_sample`, and averaged per output cell.
"""

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

# Sampled values that are held at once.
_SAMPLED_AT_ONCE = 1 << 25


def roi_align_rotated_forward(
    input: Tensor,
    rois: Tensor,
    spatial_scale: float,
    pooled_height: int,
    pooled_width: int,
    sampling_ratio: int,
) -> Tensor:
    """Pool rotated boxes from feature maps. Differentiable in `input`.

    Args:
        input: (N, C, H, W) feature maps.
        rois: (R, 6): index into N, then x centre, y centre, width, height (px of the image), and
            the angle in degrees counter-clockwise.
        spatial_scale: factor from px of the image to px of `input`.
        pooled_height: rows of the output.
        pooled_width: columns of the output.
        sampling_ratio: samples per output cell in each direction; 0: about one per px of `input`.

    Returns:
        (R, C, pooled_height, pooled_width) in the dtype of `input`.
    """
    dtype, rois = input.dtype, rois.detach()
    if dtype in (torch.float16, torch.bfloat16):
        input, rois = input.float(), rois.float()
    rois = rois.to(input.dtype)
    pooled = (pooled_height, pooled_width)
    order: list[Tensor] = [torch.zeros(0, dtype=torch.int64, device=rois.device)]
    outputs: list[Tensor] = [input[:0].new_zeros(0, input.shape[1], *pooled)]
    for image, samples, part in _groups(
        rois, spatial_scale, pooled, sampling_ratio, input.shape[1]
    ):
        order.append(part)
        outputs.append(_pool(input[image], rois[part, 1:], spatial_scale, pooled, samples))
    return torch.cat(outputs)[torch.cat(order).argsort()].to(dtype)


def roi_align_rotated_backward(
    grad: Tensor,
    rois: Tensor,
    spatial_scale: float,
    pooled_height: int,
    pooled_width: int,
    batch_size: int,
    channels: int,
    height: int,
    width: int,
    sampling_ratio: int,
) -> Tensor:
    """Gradient (N, C, H, W) of the input from the gradient `grad` of the output of the forward."""
    with torch.enable_grad():
        # Pooling is linear in its input: any input gives the gradient, zeros too.
        zeros = grad.new_zeros(batch_size, channels, height, width).requires_grad_()
        output = roi_align_rotated_forward(
            zeros, rois, spatial_scale, pooled_height, pooled_width, sampling_ratio
        )
        return torch.autograd.grad(output, zeros, grad)[0]


def _groups(
    rois: Tensor, scale: float, pooled: tuple[int, int], sampling_ratio: int, channels: int
) -> Iterator[tuple[int, tuple[int, int], Tensor]]:
    """Boxes that can be pooled in one go: (image, (rows, columns) of samples per cell, indices)."""
    if not len(rois):
        return
    if sampling_ratio > 0:
        samples = torch.full_like(rois[:, :2], sampling_ratio)
    else:
        height_width = rois[:, [4, 3]] * scale
        samples = torch.ceil(height_width / rois.new_tensor(pooled)).clamp(min=1)
    keys, members = (
        torch.cat([rois[:, :1], samples], dim=1).long().unique(dim=0, return_inverse=True)
    )
    for number, (image, rows, columns) in enumerate(keys.tolist()):
        values = channels * rows * columns * math.prod(pooled)
        indices = (members == number).nonzero()[:, 0]
        for part in indices.split(max(1, _SAMPLED_AT_ONCE // max(1, values))):
            yield image, (rows, columns), part


def _pool(
    feature: Tensor, boxes: Tensor, scale: float, pooled: tuple[int, int], samples: tuple[int, int]
) -> Tensor:
    """(R, C, *pooled) from one feature map (C, H, W) and boxes (R, 5), `samples` per cell."""
    x, y = _sample_points(boxes, scale, pooled, samples)
    height, width = feature.shape[-2:]
    # grid_sample takes -1 … 1 from the first to the last px; "border" repeats the outermost one.
    grid = torch.stack([x / max(width - 1, 1), y / max(height - 1, 1)], dim=-1) * 2 - 1
    values = F.grid_sample(
        feature[None],
        grid.flatten(1, 2)[None].flatten(1, 2)[:, :, None],
        mode="bilinear",
        padding_mode="border",
        align_corners=True,
    )
    # More than one px outside of the feature map there is nothing.
    inside = (x >= -1) & (x <= width) & (y >= -1) & (y <= height)
    values = values.view(len(feature), *x.shape) * inside
    rows, columns = samples
    cells = values.view(len(feature), len(boxes), pooled[0], rows, pooled[1], columns)
    return cells.mean(dim=(3, 5)).transpose(0, 1)


def _sample_points(
    boxes: Tensor, scale: float, pooled: tuple[int, int], samples: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """x and y in px of the map: (R, pooled rows * rows, pooled columns * columns)."""
    centre = boxes[:, :2] * scale - 0.5
    rows, columns = (
        (torch.arange(cells * per_cell, device=boxes.device, dtype=boxes.dtype) + 0.5)
        / (cells * per_cell)
        - 0.5
        for cells, per_cell in zip(pooled, samples, strict=True)
    )
    across = (columns * boxes[:, 2:3] * scale)[:, None, :]
    down = (rows * boxes[:, 3:4] * scale)[:, :, None]
    angle = boxes[:, 4] * (math.pi / 180)
    cos, sin = angle.cos()[:, None, None], angle.sin()[:, None, None]
    x = down * sin + across * cos + centre[:, 0, None, None]
    y = down * cos - across * sin + centre[:, 1, None, None]
    return x, y
