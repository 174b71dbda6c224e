"""IoU and non-maximum suppression of rotated boxes, vectorised.

A box is (x centre, y centre, width, height, angle): px, and degrees counter-clockwise as seen on
the screen, where y points down.
"""

import math

import torch
from torch import Tensor

# Bounds of the memory that one step takes: pairs of boxes that are clipped, and compared by area.
_CLIPPED_AT_ONCE = 1 << 16
_COMPARED_AT_ONCE = 1 << 22
_NMS_BLOCK = 256


def box_iou_rotated(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """Pairwise IoU of rotated boxes (N, 5) and (M, 5): float32 (N, M), without gradient."""
    boxes1, boxes2 = boxes1.detach().double(), boxes2.detach().double()
    ious = boxes1.new_zeros(len(boxes1), len(boxes2), dtype=torch.float32)
    rows = max(1, _COMPARED_AT_ONCE // max(1, len(boxes2)))
    for start in range(0, len(boxes1), rows):
        part = boxes1[start : start + rows]
        _fill_ious(ious[start : start + rows], part, boxes2, _iou_upper_bound(part, boxes2) > 0)
    return ious


def nms_rotated(dets: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Greedy non-maximum suppression of rotated boxes.

    Args:
        dets: (N, 5) boxes.
        scores: (N,) scores.
        iou_threshold: a box is dropped when its IoU with a kept box of higher score is at least
            this.

    Returns:
        int64 indices of the kept boxes, by decreasing score.
    """
    boxes = dets.detach().double()
    waiting = scores.detach().argsort(descending=True, stable=True)
    kept = [waiting[:0]]
    while len(waiting):
        block, waiting = waiting[:_NMS_BLOCK], waiting[_NMS_BLOCK:]
        block = block[_greedy(_overlaps(boxes[block], boxes[block], iou_threshold))]
        kept.append(block)
        waiting = waiting[~_overlaps(boxes[block], boxes[waiting], iou_threshold).any(dim=0)]
    return torch.cat(kept)


def _greedy(overlaps: Tensor) -> Tensor:
    """Which of n boxes, sorted by score, greedy suppression keeps: bool (n,) from bool (n, n)."""
    device, overlaps = overlaps.device, overlaps.cpu()
    keep = torch.ones(len(overlaps), dtype=torch.bool)
    for i in range(len(overlaps)):
        if keep[i]:
            keep[i + 1 :] &= ~overlaps[i, i + 1 :]
    return keep.to(device)


def _overlaps(boxes1: Tensor, boxes2: Tensor, iou_threshold: float) -> Tensor:
    """bool (N, M): IoU >= threshold. The bound leaves few pairs that have to be clipped."""
    bound = _iou_upper_bound(boxes1, boxes2)
    ious = bound.new_zeros(bound.shape)
    _fill_ious(ious, boxes1, boxes2, (bound >= iou_threshold) & (bound > 0))
    return ious >= iou_threshold


def _fill_ious(ious: Tensor, boxes1: Tensor, boxes2: Tensor, candidates: Tensor) -> None:
    """Write the IoU of the `candidates` (bool (N, M)) among all pairs into `ious` (N, M)."""
    for pairs in candidates.nonzero().split(_CLIPPED_AT_ONCE):
        rows, columns = pairs.unbind(dim=1)
        ious[rows, columns] = _pair_ious(boxes1[rows], boxes2[columns]).to(ious.dtype)


def _iou_upper_bound(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """(N, M) bound of the IoU, from the areas and the upright boxes around the boxes."""
    low1, high1 = _upright_bounds(boxes1)
    low2, high2 = _upright_bounds(boxes2)
    sides = torch.minimum(high1[:, None], high2) - torch.maximum(low1[:, None], low2)
    area1, area2 = boxes1[:, None, 2] * boxes1[:, None, 3], boxes2[:, 2] * boxes2[:, 3]
    common = sides.clamp(min=0).prod(dim=-1).minimum(area1).minimum(area2)
    return torch.where(common > 0, common / (area1 + area2 - common), 0)


def _upright_bounds(boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Lowest and highest corner (x, y) of the upright box around each rotated one."""
    corners = _corners(boxes)
    return corners.amin(dim=-2), corners.amax(dim=-2)


def _corners(boxes: Tensor) -> Tensor:
    """The four corners (…, 4, 2) of rotated boxes (…, 5), in one fixed direction of turn."""
    centre, size, angle = boxes[..., :2], boxes[..., 2:4], boxes[..., 4] * (math.pi / 180)
    signs = boxes.new_tensor([[-0.5, -0.5], [0.5, -0.5], [0.5, 0.5], [-0.5, 0.5]])
    x, y = (signs * size[..., None, :]).unbind(dim=-1)
    cos, sin = angle.cos()[..., None], angle.sin()[..., None]
    # y points down, hence the sign of a counter-clockwise turn.
    return torch.stack([x * cos + y * sin, y * cos - x * sin], dim=-1) + centre[..., None, :]


def _pair_ious(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """IoU (P,) of P pairs of float64 boxes (P, 5)."""
    # The origin between the two centres keeps far-away coordinates from costing precision.
    middle = (boxes1[:, :2] + boxes2[:, :2]) / 2
    quad1 = _corners(torch.cat([boxes1[:, :2] - middle, boxes1[:, 2:]], dim=1))
    quad2 = _corners(torch.cat([boxes2[:, :2] - middle, boxes2[:, 2:]], dim=1))
    area1, area2 = boxes1[:, 2] * boxes1[:, 3], boxes2[:, 2] * boxes2[:, 3]
    # Edges that lie upon each other belong to the first box only: it is clipped by a second box
    # that is a hair larger, and the second by a first that is a hair smaller.
    hair = 1e-9 * (boxes1[:, 2:4].amax(dim=1) + boxes2[:, 2:4].amax(dim=1))
    common = _clipped_boundary(quad1, quad2, hair) + _clipped_boundary(quad2, quad1, -hair)
    common = common.clamp(min=0).minimum(area1).minimum(area2)
    return torch.where((area1 < 1e-14) | (area2 < 1e-14), 0, common / (area1 + area2 - common))


def _clipped_boundary(quads: Tensor, clips: Tensor, margin: Tensor) -> Tensor:
    """Area (P,) that the edges of quads (P, 4, 2) within clips (P, 4, 2) contribute.

    By Green's theorem the area of a region is half the sum of cross(start, end) over the edges of
    its boundary, and the boundary of an intersection consists of the edges of either that lie in
    the other. Each edge is cut by the four half-planes of the other box (Liang & Barsky 1984),
    moved outwards by `margin` (P,).
    """
    edges, sides = quads.roll(-1, dims=-2) - quads, clips.roll(-1, dims=-2) - clips
    offsets = quads[:, :, None] - clips[:, None]
    # Signed distances (P, edge, side) of an edge's start from each side; positive is inside.
    length = sides.norm(dim=-1).clamp(min=1e-300)
    start = _cross(sides[:, None], offsets) / length[:, None] + margin[:, None, None]
    end = start + _cross(sides[:, None], edges[:, :, None]) / length[:, None]
    crossing = start / (start - end)
    enter = torch.where(start < 0, torch.where(end < 0, 1.0, crossing), 0.0).amax(dim=-1)
    leave = torch.where(end < 0, torch.where(start < 0, 0.0, crossing), 1.0).amin(dim=-1)
    return ((leave - enter).clamp(min=0) * _cross(quads, edges)).sum(dim=-1) / 2


def _cross(a: Tensor, b: Tensor) -> Tensor:
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]
