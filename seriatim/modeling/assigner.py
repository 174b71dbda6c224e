"""Which points of a dense detector answer for which object."""

from __future__ import annotations

from abc import ABC, abstractmethod
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
class Pairs:
    """What B images' M objects and P points have to do with one another.

    Attributes:
        points: (P, 2) XY px.
        gt_boxes: (B, M, 4) XYXY px.
        iou: (B, M, P) of the predicted box with the object's.
        scores: (B, M, P) predicted for the object's class.
        distance: (B, M, P) px from the point to the middle of the object's box.
        candidate: (B, M, P) bool: the point lies in the box, or is the nearest where none does.
    """

    points: Tensor
    gt_boxes: Tensor
    iou: Tensor
    scores: Tensor
    distance: Tensor
    candidate: Tensor


class Assigner(ABC):
    """Assignment over a whole batch at once; subclasses say which points an object takes.

    A point that several objects take goes to the one that it suits most.
    """

    @abstractmethod
    def choose(self, pairs: Pairs) -> tuple[Tensor, Tensor]:
        """(B, M, P) bool: the points that each object takes; (B, M, P) how well each suits it."""

    def quality(self, pairs: Pairs, positive: Tensor) -> Tensor:
        """(B, P) the soft target of each point, given which (B, M, P) are assigned.

        By default the IoU of the box that it predicts, as in GFL (arXiv 2006.04388).
        """
        return (pairs.iou * positive).amax(dim=1)

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
        distance = _center_distance(points, gt_boxes)
        class_index = gt_classes[:, :, None].expand(-1, -1, num_points)
        pairs = Pairs(
            points=points,
            gt_boxes=gt_boxes,
            iou=_pairwise_iou(gt_boxes, boxes),
            scores=scores.transpose(1, 2).gather(1, class_index),
            distance=distance,
            candidate=_candidates(points, gt_boxes, distance) & gt_valid[:, :, None],
        )
        positive, suits = self.choose(pairs)
        value, matched = torch.where(positive, suits, -torch.inf).max(dim=1)  # (B, P)
        foreground = value > -torch.inf
        positive &= torch.arange(num_gt, device=boxes.device)[None, :, None] == matched[:, None, :]
        quality = self.quality(pairs, positive)

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


@dataclass(frozen=True)
class TaskAlignedAssigner(Assigner):
    """Task-aligned assignment of TOOD (arXiv 2108.07755, section 3.3).

    The candidates of an object are the points inside its box; an object too small to hold one takes
    the point nearest to its centre. Their alignment is score**alpha * IoU**beta; the `topk` best
    are assigned, a point that two objects want goes to the one it overlaps more, and the soft
    target is the alignment scaled so that its maximum over an object's points is the object's
    largest IoU.
    """

    topk: int = 13
    alpha: float = 1.0
    beta: float = 6.0

    def choose(self, pairs: Pairs) -> tuple[Tensor, Tensor]:
        # Ties at zero alignment (a fresh model) are broken by nearness, so that every object has
        # points.
        penalty = _distance_penalty(pairs.distance, pairs.candidate)
        rank = self._alignment(pairs) * pairs.candidate - penalty
        return _best(rank, self.topk) & pairs.candidate, pairs.iou

    def quality(self, pairs: Pairs, positive: Tensor) -> Tensor:
        alignment = self._alignment(pairs) * positive
        peak = alignment.amax(dim=-1, keepdim=True)
        best_iou = (pairs.iou * positive).amax(dim=-1, keepdim=True)
        return (alignment / peak.clamp(min=1e-12) * best_iou).amax(dim=1)

    def _alignment(self, pairs: Pairs) -> Tensor:
        return pairs.scores.pow(self.alpha) * pairs.iou.pow(self.beta)


@dataclass(frozen=True)
class ATSSAssigner(Assigner):
    """Adaptive training sample selection (arXiv 1912.02424, algorithm 1), blind to predictions.

    Of every level an object considers the `topk` points nearest to its centre. It takes those in
    its box whose anchor, a square of 8 strides, overlaps it at least by the mean plus the standard
    deviation of all that it considers.
    """

    strides: tuple[int, ...]
    topk: int = 9

    def choose(self, pairs: Pairs) -> tuple[Tensor, Tensor]:
        considered = torch.zeros_like(pairs.candidate)
        side = pairs.points.new_zeros(len(pairs.points), 1)
        for stride in self.strides:
            # Centres of cells: odd multiples of half of their own level's stride, and of no other.
            level = (pairs.points % stride == stride / 2).all(-1)
            near = torch.where(level, -pairs.distance, -torch.inf)
            considered |= _best(near, min(self.topk, int(level.sum()))) & level
            side[level] = 8.0 * stride
        anchors = torch.cat([pairs.points - side / 2, pairs.points + side / 2], dim=-1)
        overlap = _pairwise_iou(pairs.gt_boxes, anchors.expand(len(pairs.gt_boxes), -1, -1))
        count = considered.sum(-1, keepdim=True)
        mean = (overlap * considered).sum(-1, keepdim=True) / count
        spread = ((overlap - mean).square() * considered).sum(-1, keepdim=True) / (count - 1)
        enough = overlap >= mean + spread.clamp(min=0).sqrt()
        return considered & enough & pairs.candidate, overlap


@dataclass(frozen=True)
class SimOTAAssigner(Assigner):
    """The simplified optimal transport of YOLOX (arXiv 2107.08430, section 2.1).

    A pair costs the binary cross entropy of the score and `iou_weight` × -ln IoU. An object takes
    as many of the cheapest points in its box as the `topk` largest IoUs add up to, at least one.
    """

    topk: int = 10
    iou_weight: float = 3.0

    def choose(self, pairs: Pairs) -> tuple[Tensor, Tensor]:
        penalty = _distance_penalty(pairs.distance, pairs.candidate)
        cost = -pairs.scores.clamp(min=1e-9).log() - self.iou_weight * pairs.iou.clamp(1e-9).log()
        suits = torch.where(pairs.candidate, -cost - penalty, -torch.inf)
        most = min(self.topk, suits.shape[-1])
        share = torch.where(pairs.candidate, pairs.iou, 0.0).topk(most, dim=-1).values.sum(-1)
        wanted = share.int().clamp(min=1)
        order = suits.argsort(dim=-1, descending=True, stable=True)
        rank = torch.empty_like(order).scatter_(
            -1, order, torch.arange(order.shape[-1], device=order.device).expand_as(order)
        )
        return (rank < wanted[:, :, None]) & pairs.candidate, suits


def _best(rank: Tensor, count: int) -> Tensor:
    """(B, M, P) bool: the `count` highest of each object."""
    best = rank.topk(min(count, rank.shape[-1]), dim=-1).indices
    return torch.zeros_like(rank, dtype=torch.bool).scatter_(-1, best, True)


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
