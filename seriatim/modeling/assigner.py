"""Which points of a dense detector answer for which object: task-aligned assignment."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Targets:
    """What each of P points of each of B images should predict.

    Attributes:
        scores: (B, P, K) float, soft target of each class: 0 but at the class of the assigned
            object.
        boxes: (B, P, 4) float, XYXY px of the assigned object; any value where there is none.
        matched: (B, P) int64, index of the assigned object; -1 where there is none.
    """

    scores: Tensor
    boxes: Tensor
    matched: Tensor

    @property
    def foreground(self) -> Tensor:
        """(B, P) bool: the point answers for an object."""
        return self.matched >= 0

    @property
    def weights(self) -> Tensor:
        """(B, P) float: how much each point's box counts."""
        return self.scores.sum(-1)


@dataclass(frozen=True)
class TaskAlignedAssigner:
    """Task-aligned assignment of TOOD (arXiv 2108.07755, section 3.3), over a whole batch at once.

    The candidates of an object are the points inside its box; an object too small to hold one takes
    the point nearest to its centre. Their alignment is score**alpha * IoU**beta; the `topk` best
    are assigned, a point that two objects want goes to the one it overlaps more, and the soft
    target is the alignment scaled so that its maximum over an object's points is the object's
    largest IoU.
    """

    topk: int = 13
    alpha: float = 1.0
    beta: float = 6.0

    @torch.no_grad()
    def __call__(
        self,
        scores: Tensor,
        boxes: Tensor,
        points: Tensor,
        gt_boxes: Tensor,
        gt_classes: Tensor,
        gt_valid: Tensor,
    ) -> Targets:
        """
        Args:
            scores: (B, P, K) float, predicted probabilities.
            boxes: (B, P, 4) float, predicted XYXY px.
            points: (P, 2) float, XY px.
            gt_boxes: (B, M, 4) float, XYXY px, padded to the most objects of an image.
            gt_classes: (B, M) int64.
            gt_valid: (B, M) bool, False for padding.
        """
        batch, num_points, num_classes = scores.shape
        num_gt = gt_boxes.shape[1]
        if num_gt == 0:
            return Targets(
                scores=torch.zeros_like(scores),
                boxes=torch.zeros_like(boxes),
                matched=gt_classes.new_full((batch, num_points), -1),
            )
        iou = _pairwise_iou(gt_boxes, boxes)  # (B, M, P)
        class_index = gt_classes[:, :, None].expand(-1, -1, num_points)
        class_scores = scores.transpose(1, 2).gather(1, class_index)
        distance = _center_distance(points, gt_boxes)
        candidate = _candidates(points, gt_boxes, distance) & gt_valid[:, :, None]
        alignment = class_scores.pow(self.alpha) * iou.pow(self.beta) * candidate

        k = min(self.topk, num_points)
        # Ties at zero alignment (a fresh model) are broken by nearness, so that every object has
        # points.
        rank = alignment - _distance_penalty(distance, candidate)
        best = rank.topk(k, dim=-1).indices
        positive = torch.zeros_like(candidate).scatter_(-1, best, True) & candidate

        # A point wanted by several objects goes to the one it overlaps most.
        wanted_iou = torch.where(positive, iou, iou.new_tensor(-1.0))
        value, matched = wanted_iou.max(dim=1)  # (B, P)
        foreground = value >= 0
        positive &= torch.arange(num_gt, device=iou.device)[None, :, None] == matched[:, None, :]

        alignment = alignment * positive
        peak = alignment.amax(dim=-1, keepdim=True)
        best_iou = (iou * positive).amax(dim=-1, keepdim=True)
        quality = (alignment / peak.clamp(min=1e-12) * best_iou).amax(dim=1)  # (B, P)

        target_classes = gt_classes.gather(1, matched)
        target_scores = scores.new_zeros(batch, num_points, num_classes)
        target_scores.scatter_(
            2, target_classes[:, :, None], (quality * foreground)[:, :, None].to(scores.dtype)
        )
        return Targets(
            scores=target_scores,
            boxes=gt_boxes.gather(1, matched[:, :, None].expand(-1, -1, 4)),
            matched=torch.where(foreground, matched, -1),
        )


def _center_distance(points: Tensor, gt_boxes: Tensor) -> Tensor:
    """(B, M, P) px from each point to the centre of each object's box."""
    centers = (gt_boxes[..., :2] + gt_boxes[..., 2:]) / 2
    return torch.cdist(centers, points.expand(len(gt_boxes), -1, -1))


def _candidates(points: Tensor, gt_boxes: Tensor, distance: Tensor) -> Tensor:
    """(B, M, P) bool: the point lies in the object's box, or is the nearest where none does."""
    low = points - gt_boxes[:, :, None, :2]
    high = gt_boxes[:, :, None, 2:] - points
    inside = torch.cat([low, high], dim=-1).amin(dim=-1) > 0
    nearest = distance.argmin(dim=-1, keepdim=True)
    lonely = ~inside.any(dim=-1, keepdim=True)
    return inside | (torch.zeros_like(inside).scatter_(-1, nearest, True) & lonely)


def _distance_penalty(distance: Tensor, candidate: Tensor) -> Tensor:
    """(B, M, P) in [0, 1e-12] for candidates, by distance to the box's centre; 1 for the others."""
    # Of each image alone: another one in the batch must not decide between two equal candidates.
    largest = torch.where(candidate, distance, 0.0).amax(dim=(1, 2), keepdim=True)
    distance = distance / largest.clamp(min=1.0)
    return torch.where(candidate, distance * 1e-12, distance.new_tensor(1.0))


def _pairwise_iou(a: Tensor, b: Tensor) -> Tensor:
    """(B, M, 4) and (B, P, 4), XYXY → (B, M, P) IoU in [0, 1]."""
    top_left = torch.maximum(a[:, :, None, :2], b[:, None, :, :2])
    bottom_right = torch.minimum(a[:, :, None, 2:], b[:, None, :, 2:])
    intersection = (bottom_right - top_left).clamp(min=0).prod(dim=-1)
    area_a, area_b = ((x[..., 2:] - x[..., :2]).clamp(min=0).prod(dim=-1) for x in (a, b))
    union = area_a[:, :, None] + area_b[:, None, :] - intersection
    return intersection / union.clamp(min=1e-9)
