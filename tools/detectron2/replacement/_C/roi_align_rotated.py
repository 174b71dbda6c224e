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
    samples = _samples_per_cell(rois, spatial_scale, pooled, sampling_ratio)
    order, outputs = (
        [rois.new_zeros(0, dtype=torch.int64)],
        [input.new_zeros(0, input.shape[1], *pooled)],
    )
    for image, part in _batches(rois, samples, pooled, input.shape[1]):
        points = _sample_points(rois[part, 1:], spatial_scale, pooled, samples[part])
        order.append(part)
        outputs.append(_pool(input[image : image + 1], *points, len(part), pooled))
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
    zeros = grad.new_zeros(batch_size, channels, height, width)
    if not len(rois):  # of a level of the pyramid that no box is pooled from
        return zeros
    with torch.enable_grad():
        # Pooling is linear in its input: any input gives the gradient, zeros too.
        zeros.requires_grad_()
        output = roi_align_rotated_forward(
            zeros, rois, spatial_scale, pooled_height, pooled_width, sampling_ratio
        )
        return torch.autograd.grad(output, zeros, grad)[0]


def _samples_per_cell(
    rois: Tensor, scale: float, pooled: tuple[int, int], sampling_ratio: int
) -> Tensor:
    """int64 (R, 2): rows and columns of sample points in each output cell of each box."""
    if sampling_ratio > 0:
        return torch.full_like(rois[:, :2], sampling_ratio, dtype=torch.int64)
    height_width = rois[:, [4, 3]] * scale
    return torch.ceil(height_width / rois.new_tensor(pooled)).clamp(min=1).long()


def _batches(
    rois: Tensor, samples: Tensor, pooled: tuple[int, int], channels: int
) -> Iterator[tuple[int, Tensor]]:
    """(image, indices of boxes in it) such that the values sampled at once are bounded."""
    values = samples.prod(dim=1) * (math.prod(pooled) * channels)
    for image in rois[:, 0].long().unique().tolist():
        indices = (rois[:, 0].long() == image).nonzero()[:, 0]
        batch = values[indices].cumsum(dim=0) // _SAMPLED_AT_ONCE
        for number in batch.unique():
            yield image, indices[batch == number]


def _sample_points(
    boxes: Tensor, scale: float, pooled: tuple[int, int], samples: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """All sample points of boxes (R, 5), box after box.

    Returns:
        x, y: (P,) px of the feature map.
        cell: (P,) the output cell, counted through all boxes.
        share: (P,) what a point counts for in the mean of its cell.
    """
    grid = samples * samples.new_tensor(pooled)
    count = grid.prod(dim=1)
    box = torch.arange(len(boxes), device=boxes.device).repeat_interleave(count)
    number = torch.arange(len(box), device=boxes.device) - (count.cumsum(dim=0) - count)[box]
    row, column = number // grid[box, 1], number % grid[box, 1]
    cell_row, cell_column = row // samples[box, 0], column // samples[box, 1]
    cell = (box * pooled[0] + cell_row) * pooled[1] + cell_column
    share = (1 / samples.prod(dim=1).to(boxes.dtype))[box]

    x_centre, y_centre, width, height = (boxes[:, :4] * scale).unbind(dim=1)
    angle = boxes[:, 4] * (math.pi / 180)
    across = ((column.to(boxes.dtype) + 0.5) / grid[box, 1] - 0.5) * width[box]
    down = ((row.to(boxes.dtype) + 0.5) / grid[box, 0] - 0.5) * height[box]
    cos, sin = angle.cos()[box], angle.sin()[box]
    # Half a px: the centre of the first px is 0 here, 0.5 in the coordinates of boxes.
    x = down * sin + across * cos + x_centre[box] - 0.5
    y = down * cos - across * sin + y_centre[box] - 0.5
    return x, y, cell, share


def _pool(
    feature: Tensor,
    x: Tensor,
    y: Tensor,
    cell: Tensor,
    share: Tensor,
    boxes: int,
    pooled: tuple[int, int],
) -> Tensor:
    """(R, C, *pooled) from one feature map (1, C, H, W) and the sample points of R boxes."""
    channels, height, width = feature.shape[1:]
    # grid_sample takes -1 … 1 from the first to the last px; "border" repeats the outermost one.
    grid = torch.stack([x / max(width - 1, 1), y / max(height - 1, 1)], dim=-1) * 2 - 1
    values = F.grid_sample(
        feature, grid[None, None], mode="bilinear", padding_mode="border", align_corners=True
    )
    # More than one px outside of the feature map there is nothing.
    inside = (x >= -1) & (x <= width) & (y >= -1) & (y <= height)
    values = values[0, :, 0].t() * (share * inside)[:, None]
    sums = values.new_zeros(boxes * math.prod(pooled), channels).index_add(0, cell, values)
    return sums.view(boxes, *pooled, channels).permute(0, 3, 1, 2)
