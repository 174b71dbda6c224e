"""TaskAlignedDetector: anchor-free, one stage, for small data sets and modest machines."""

from __future__ import annotations

import math

import numpy as np
import torch
from detectron2.config import configurable
from detectron2.layers import batched_nms
from detectron2.modeling import META_ARCH_REGISTRY, Backbone, build_backbone
from detectron2.modeling.meta_arch.dense_detector import DenseDetector
from detectron2.structures import Boxes, ImageList, Instances
from detectron2.utils import comm
from detectron2.utils.events import get_event_storage
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import generalized_box_iou_loss

from seriatim.modeling.assigner import Targets, TaskAlignedAssigner
from seriatim.modeling.heads.decoupled import DecoupledHead


@META_ARCH_REGISTRY.register()
class TaskAlignedDetector(DenseDetector):
    """One prediction a point: class scores and the distances to the four edges of a box.

    Points and distances are FCOS's (arXiv 1904.01355); assignment is TOOD's (arXiv 2108.07755), so
    that the points which answer for an object are those that both classify and place it well; the
    classification loss is quality focal loss (arXiv 2006.04388), whose target is the IoU-scaled
    alignment; the box loss is GIoU (arXiv 1902.09630) in float32. In training the module gives
    {"loss_cls", "loss_box"}, in inference Detectron2's [{"instances": Instances(pred_boxes, scores,
    pred_classes)}].
    """

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        head: nn.Module,
        head_in_features: list[str],
        assigner: TaskAlignedAssigner,
        num_classes: int,
        cls_weight: float,
        box_weight: float,
        test_score_thresh: float,
        test_topk_candidates: int,
        test_nms_thresh: float,
        max_detections_per_image: int,
        pixel_mean: list[float],
        pixel_std: list[float],
        input_format: str = "BGR",
        vis_period: int = 0,
    ):
        """
        Args:
            backbone: gives the levels named in `head_in_features`.
            head: levels → (logits, distances in strides), see `DecoupledHead`.
            assigner: chooses the points that answer for each object.
            num_classes: number of foreground classes.
            cls_weight, box_weight: factors of the two losses.
            test_score_thresh: detections below this score are dropped.
            test_topk_candidates: best candidates per image that go into NMS.
            test_nms_thresh: IoU above which the weaker of two boxes of one class is dropped.
            max_detections_per_image: most detections that are kept.
            pixel_mean, pixel_std: per channel, in the order `input_format`, 0–255.
            vis_period: steps between two pictures of the assignment in TensorBoard; 0 for none.
        """
        super().__init__(
            backbone, head, head_in_features, pixel_mean=pixel_mean, pixel_std=pixel_std
        )
        shapes = backbone.output_shape()
        self.strides = [shapes[name].stride for name in head_in_features]
        self.assigner = assigner
        self.num_classes = num_classes
        self.cls_weight = cls_weight
        self.box_weight = box_weight
        self.test_score_thresh = test_score_thresh
        self.test_topk_candidates = test_topk_candidates
        self.test_nms_thresh = test_nms_thresh
        self.max_detections_per_image = max_detections_per_image
        self.input_format = input_format
        self.vis_period = vis_period

    @classmethod
    def from_config(cls, cfg) -> dict:
        options = cfg.MODEL.TASK_ALIGNED
        backbone = build_backbone(cfg)
        shapes = backbone.output_shape()
        in_features = list(options.IN_FEATURES)
        head = DecoupledHead(
            [shapes[name] for name in in_features],
            num_classes=options.NUM_CLASSES,
            channels=options.CHANNELS,
            num_convs=options.NUM_CONVS,
            prior_prob=options.PRIOR_PROB,
        )
        return {
            "backbone": backbone,
            "head": head,
            "head_in_features": in_features,
            "assigner": TaskAlignedAssigner(options.TOPK, options.ALPHA, options.BETA),
            "num_classes": options.NUM_CLASSES,
            "cls_weight": options.CLS_WEIGHT,
            "box_weight": options.BOX_WEIGHT,
            "test_score_thresh": options.SCORE_THRESH_TEST,
            "test_topk_candidates": options.TOPK_CANDIDATES_TEST,
            "test_nms_thresh": options.NMS_THRESH_TEST,
            "max_detections_per_image": cfg.TEST.DETECTIONS_PER_IMAGE,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "input_format": cfg.INPUT.FORMAT,
            "vis_period": cfg.VIS_PERIOD,
        }

    def forward_training(
        self,
        images: ImageList,
        features: list[Tensor],
        predictions: tuple[list[Tensor], list[Tensor]],
        gt_instances: list[Instances],
    ) -> dict[str, Tensor]:
        """Losses of a batch; `gt_instances` hold gt_boxes (XYXY px) and gt_classes."""
        logits, boxes, points = self._flatten(predictions)
        targets = self.assigner(
            logits.detach().sigmoid(), boxes.detach(), points, *_pad_ground_truth(gt_instances)
        )
        if self.vis_period > 0 and get_event_storage().iter % self.vis_period == 0:
            self._picture_of_assignment(images, points, targets)
        return self.losses(logits, boxes, targets)

    def losses(self, logits: Tensor, boxes: Tensor, targets: Targets) -> dict[str, Tensor]:
        """
        Args:
            logits: (B, P, K) float32.
            boxes: (B, P, 4) float32, XYXY px.
            targets: what they should be.
        """
        weights = targets.weights
        # Over all processes, so that many small batches learn as one large batch does.
        normalizer = weights.sum()
        if comm.get_world_size() > 1:
            torch.distributed.all_reduce(normalizer)
        normalizer = (normalizer / comm.get_world_size()).clamp(min=1.0)
        foreground = targets.foreground
        box_loss = generalized_box_iou_loss(
            boxes[foreground], targets.boxes[foreground], reduction="none"
        )
        return {
            "loss_cls": self.cls_weight
            * quality_focal_loss(logits, targets.scores).sum()
            / normalizer,
            "loss_box": self.box_weight * (box_loss * weights[foreground]).sum() / normalizer,
        }

    @torch.no_grad()
    def expected_initial_losses(self, batch: list[dict]) -> dict[str, tuple[float, float]]:
        """Lowest and highest healthy losses of a fresh model, see seriatim/gates/protocol.py.

        They are those of a head whose every score is the prior and whose every box has the initial
        size, but for the noise of its last layers.
        """
        images = self.preprocess_image(batch)
        height, width = images.tensor.shape[-2:]
        prior = self.head.prior_prob
        cells = [(-(-height // s), -(-width // s)) for s in self.strides]
        logit = math.log(prior / (1 - prior))
        fresh = (
            [torch.full((len(batch), self.num_classes, *c), logit) for c in cells],
            [torch.full((len(batch), 4, *c), self.head.initial_size / 2) for c in cells],
        )
        logits, boxes, points = self._flatten(fresh)
        targets = self.assigner(
            logits.sigmoid(),
            boxes,
            points,
            *(x.cpu() for x in _pad_ground_truth([x["instances"] for x in batch])),
        )
        scores, weights = targets.scores.double(), targets.weights.double()
        entropy = -(scores * math.log(prior) + (1 - scores) * math.log1p(-prior))
        normalizer = weights.sum().clamp(min=1)
        chosen = targets.foreground
        box_losses = generalized_box_iou_loss(boxes[chosen], targets.boxes[chosen])
        fresh_losses = {
            "loss_cls": self.cls_weight * ((scores - prior) ** 2 * entropy).sum() / normalizer,
            "loss_box": self.box_weight * (box_losses * weights[chosen]).sum() / normalizer,
        }
        # The noise of the last layers moves IoUs, and with them the quality that scores aim at.
        return {name: (0.4 * float(v), 2.5 * float(v)) for name, v in fresh_losses.items()}

    def forward_inference(
        self,
        images: ImageList,
        features: list[Tensor],
        predictions: tuple[list[Tensor], list[Tensor]],
    ) -> list[Instances]:
        """Detections at network size: pred_boxes, scores (descending), pred_classes."""
        logits, boxes, _ = self._flatten(predictions)
        return [
            self._detect(scores, image_boxes, size)
            for scores, image_boxes, size in zip(
                logits.sigmoid(), boxes, images.image_sizes, strict=True
            )
        ]

    def _detect(self, scores: Tensor, boxes: Tensor, image_size: tuple[int, int]) -> Instances:
        """(P, K) scores and (P, 4) boxes of one image → its detections."""
        point, label = torch.nonzero(scores > self.test_score_thresh, as_tuple=True)
        kept = scores[point, label]
        kept, order = kept.topk(min(self.test_topk_candidates, len(kept)))
        point, label = point[order], label[order]
        found = Boxes(boxes[point])
        found.clip(image_size)
        keep = batched_nms(found.tensor, kept, label, self.test_nms_thresh)
        keep = keep[: self.max_detections_per_image]
        return Instances(
            image_size, pred_boxes=found[keep], scores=kept[keep], pred_classes=label[keep]
        )

    def _flatten(
        self, predictions: tuple[list[Tensor], list[Tensor]]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """All levels in one: logits (B, P, K), boxes (B, P, 4) XYXY px, points (P, 2)."""
        level_logits, level_distances = predictions
        centers = [_points(d, s) for d, s in zip(level_distances, self.strides, strict=True)]
        points = torch.cat(centers)
        strides = torch.cat(
            [p.new_full((len(p), 1), s) for p, s in zip(centers, self.strides, strict=True)]
        )
        logits, distances = (
            torch.cat([x.flatten(2).transpose(1, 2) for x in levels], dim=1).float()
            for levels in (level_logits, level_distances)
        )
        distances = distances * strides
        boxes = torch.cat([points - distances[..., :2], points + distances[..., 2:]], dim=-1)
        return logits, boxes, points

    def _picture_of_assignment(self, images: ImageList, points: Tensor, targets: Targets) -> None:
        """The first image of the batch with each object's points in its colour, to TensorBoard."""
        from seriatim.visualization.assignment import draw_assignment

        height, width = images.image_sizes[0]
        image = images.tensor[0, :, :height, :width] * self.pixel_std + self.pixel_mean
        if self.input_format == "BGR":
            image = image.flip(0)
        image = image.clamp(0, 255).byte().permute(1, 2, 0).contiguous().cpu().numpy()
        foreground = targets.foreground[0]
        picture = draw_assignment(
            image,
            boxes=targets.boxes[0][foreground].cpu().numpy(),
            points=points[foreground].cpu().numpy(),
            objects=targets.matched[0][foreground].cpu().numpy(),
            quality=targets.weights[0][foreground].cpu().numpy(),
        )
        get_event_storage().put_image(
            "assignment", np.ascontiguousarray(picture.transpose(2, 0, 1))
        )


def quality_focal_loss(logits: Tensor, targets: Tensor, beta: float = 2.0) -> Tensor:
    """Binary cross entropy to a soft target, weighted by |target - score|**beta (arXiv 2006.04388,
    eq. 5).

    Args:
        logits: any shape.
        targets: the same shape, in [0, 1].

    Returns:
        Loss of each element, unreduced.
    """
    weight = (targets - logits.sigmoid()).abs().pow(beta)
    return weight * F.binary_cross_entropy_with_logits(logits, targets, reduction="none")


def _points(feature: Tensor, stride: int) -> Tensor:
    """(H*W, 2) float32: XY px of the centre of every cell, row by row."""
    height, width = feature.shape[-2:]
    y, x = torch.meshgrid(
        torch.arange(height, device=feature.device),
        torch.arange(width, device=feature.device),
        indexing="ij",
    )
    return (torch.stack([x, y], dim=-1).reshape(-1, 2).float() + 0.5) * stride


def _pad_ground_truth(instances: list[Instances]) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes (B, M, 4), classes (B, M) and which of them are real (B, M), M the most of an image."""
    pad = nn.utils.rnn.pad_sequence
    boxes = pad([i.gt_boxes.tensor.float() for i in instances], batch_first=True)
    classes = pad([i.gt_classes for i in instances], batch_first=True)
    counts = torch.tensor([len(i) for i in instances], device=boxes.device)
    valid = torch.arange(boxes.shape[1], device=boxes.device)[None, :] < counts[:, None]
    return boxes, classes, valid
