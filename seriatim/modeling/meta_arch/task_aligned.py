"""TaskAlignedDetector: anchor-free, one stage, for small data sets and modest machines."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec, batched_nms
from detectron2.modeling import META_ARCH_REGISTRY, Backbone, build_backbone
from detectron2.modeling.meta_arch.dense_detector import DenseDetector
from detectron2.structures import Boxes, ImageList, Instances
from detectron2.structures.boxes import matched_pairwise_iou
from detectron2.utils import comm
from detectron2.utils.events import get_event_storage
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import complete_box_iou_loss, distance_box_iou_loss, generalized_box_iou_loss

from dataset_tools.errors import InputError
from seriatim.modeling.assigner import (
    Assigner,
    ATSSAssigner,
    SimOTAAssigner,
    Targets,
    TaskAlignedAssigner,
)
from seriatim.modeling.heads.decoupled import DecoupledHead
from seriatim.modeling.heads.mask import DynamicMaskHead, mask_loss, take_turns

Predictions = tuple[list[Tensor], ...]  # of `DecoupledHead`
BOX_LOSSES = {
    "giou": generalized_box_iou_loss,  # arXiv 1902.09630
    "diou": distance_box_iou_loss,  # arXiv 1911.08287
    "ciou": complete_box_iou_loss,  # the same, with the shape
}


@META_ARCH_REGISTRY.register()
class TaskAlignedDetector(DenseDetector):
    """One prediction a point: class scores and the distances to the four edges of a box.

    Points and distances are FCOS's (arXiv 1904.01355); assignment is TOOD's (arXiv 2108.07755), so
    that the points which answer for an object are those that both classify and place it well; the
    classification loss is quality focal loss (arXiv 2006.04388), whose target is the IoU-scaled
    alignment; the box loss is GIoU (arXiv 1902.09630) in float32. Other assigners and box losses
    are there to compare with. In training the module gives
    {"loss_cls", "loss_box"}, in inference Detectron2's [{"instances": Instances(pred_boxes, scores,
    pred_classes)}]. With a mask head come "loss_mask", for which gt_masks are needed, and
    pred_masks.
    """

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        head: nn.Module,
        head_in_features: list[str],
        assigner: Assigner,
        num_classes: int,
        cls_weight: float,
        box_weight: float,
        cls_focus: float = 2.0,
        box_loss: str = "giou",
        test_score_thresh: float,
        test_topk_candidates: int,
        test_nms_thresh: float,
        max_detections_per_image: int,
        pixel_mean: list[float],
        pixel_std: list[float],
        input_format: str = "BGR",
        vis_period: int = 0,
        mask_head: DynamicMaskHead | None = None,
        mask_weight: float = 1.0,
        mask_points: int = 128,
    ):
        """
        Args:
            backbone: gives the levels named in `head_in_features`.
            head: levels → (logits, distances in strides), and embeddings for a mask head; see
                `DecoupledHead`.
            assigner: chooses the points that answer for each object.
            num_classes: number of foreground classes.
            cls_weight, box_weight: factors of the two losses.
            cls_focus: exponent of the quality focal loss; 0 is binary cross entropy.
            box_loss: a name of BOX_LOSSES.
            test_score_thresh: detections below this score are dropped.
            test_topk_candidates: best candidates per image that go into NMS.
            test_nms_thresh: IoU above which the weaker of two boxes of one class is dropped.
            max_detections_per_image: most detections that are kept.
            pixel_mean, pixel_std: per channel, in the order `input_format`, 0–255.
            vis_period: steps between two pictures of the assignment in TensorBoard; 0 for none.
            mask_head: finds the masks of objects; None for boxes alone.
            mask_weight: factor of its loss.
            mask_points: most points of an image that its loss is taken at in a step.
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
        self.cls_focus = cls_focus
        self.box_loss = BOX_LOSSES[box_loss]
        self.test_score_thresh = test_score_thresh
        self.test_topk_candidates = test_topk_candidates
        self.test_nms_thresh = test_nms_thresh
        self.max_detections_per_image = max_detections_per_image
        self.input_format = input_format
        self.vis_period = vis_period
        self.mask_head = mask_head
        self.mask_weight = mask_weight
        self.mask_points = mask_points

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
            embeddings=cfg.MODEL.MASK_ON,
        )
        mask_head = _mask_head(options, shapes[in_features[0]]) if cfg.MODEL.MASK_ON else None
        return {
            "backbone": backbone,
            "head": head,
            "head_in_features": in_features,
            "assigner": _assigner(options, [shapes[name].stride for name in in_features]),
            "num_classes": options.NUM_CLASSES,
            "cls_weight": options.CLS_WEIGHT,
            "box_weight": options.BOX_WEIGHT,
            "cls_focus": options.CLS_FOCUS,
            "box_loss": _one_of("BOX_LOSS", options.BOX_LOSS, BOX_LOSSES),
            "test_score_thresh": options.SCORE_THRESH_TEST,
            "test_topk_candidates": options.TOPK_CANDIDATES_TEST,
            "test_nms_thresh": options.NMS_THRESH_TEST,
            "max_detections_per_image": cfg.TEST.DETECTIONS_PER_IMAGE,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "input_format": cfg.INPUT.FORMAT,
            "vis_period": cfg.VIS_PERIOD,
            "mask_head": mask_head,
            "mask_weight": options.MASK_WEIGHT,
            "mask_points": options.MASK_POINTS,
        }

    def forward_training(
        self,
        images: ImageList,
        features: list[Tensor],
        predictions: Predictions,
        gt_instances: list[Instances],
    ) -> dict[str, Tensor]:
        """Losses of a batch; `gt_instances` hold gt_boxes (XYXY px) and gt_classes."""
        logits, boxes, points = self._flatten(predictions)
        targets = self.assigner(
            logits.detach().sigmoid(), boxes.detach(), points, *_pad_ground_truth(gt_instances)
        )
        if self.vis_period > 0 and get_event_storage().iter % self.vis_period == 0:
            self._picture_of_assignment(images, points, targets)
        losses = self.losses(logits, boxes, targets)
        if self.mask_head is not None:
            samples = self._mask_samples(boxes.detach(), targets, gt_instances)
            embeddings = _by_point(predictions[2])
            masks = self.mask_head(
                self.mask_head.features(features[0]),
                [image[s.points] for image, s in zip(embeddings, samples, strict=True)],
                [s.boxes for s in samples],
            )
            losses["loss_mask"] = self._mask_loss(masks, samples)
        return losses

    def losses(self, logits: Tensor, boxes: Tensor, targets: Targets) -> dict[str, Tensor]:
        """
        Args:
            logits: (B, P, K) float32.
            boxes: (B, P, 4) float32, XYXY px.
            targets: what they should be.
        """
        weights = targets.weights
        normalizer = _over_processes(weights.sum())
        foreground = targets.foreground
        box_loss = self.box_loss(boxes[foreground], targets.boxes[foreground], reduction="none")
        return {
            "loss_cls": self.cls_weight
            * quality_focal_loss(logits, targets.scores, self.cls_focus).sum()
            / normalizer,
            "loss_box": self.box_weight * (box_loss * weights[foreground]).sum() / normalizer,
        }

    @torch.no_grad()
    def _mask_samples(
        self, boxes: Tensor, targets: Targets, gt_instances: list[Instances]
    ) -> list[MaskSamples]:
        """The points of each image at which masks are taught, and what is to be seen there.

        A point looks through the box that it predicts, as it will in inference, once that fits its
        object; until then through the object's own.
        """
        samples = []
        for image, instances in enumerate(gt_instances):
            points = targets.foreground[image].nonzero()[:, 0]
            points = points[
                take_turns(
                    targets.matched[image, points], targets.weights[image, points], self.mask_points
                )
            ]
            objects = targets.matched[image, points]
            own, predicted = targets.boxes[image, points], Boxes(boxes[image, points])
            predicted.clip(instances.image_size)
            fits = matched_pairwise_iou(predicted, Boxes(own)) >= 0.5
            window = torch.where(fits[:, None], predicted.tensor, own)
            resolution = self.mask_head.resolution
            masks = (
                instances.gt_masks[objects].crop_and_resize(window, resolution)
                if len(points)
                else window.new_zeros(0, resolution, resolution)
            )
            samples.append(MaskSamples(points, window, masks, targets.weights[image, points]))
        return samples

    def _mask_loss(self, logits: Tensor, samples: list[MaskSamples]) -> Tensor:
        """Mean over the samples of all processes, each weighed by how well its point fits."""
        weights = torch.cat([s.weights for s in samples])
        masks = torch.cat([s.masks for s in samples])
        loss = (mask_loss(logits, masks) * weights).sum()
        return self.mask_weight * loss / _over_processes(weights.sum())

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
        truth = [image["instances"].to("cpu") for image in batch]
        targets = self.assigner(logits.sigmoid(), boxes, points, *_pad_ground_truth(truth))
        scores, weights = targets.scores.double(), targets.weights.double()
        entropy = -(scores * math.log(prior) + (1 - scores) * math.log1p(-prior))
        normalizer = weights.sum().clamp(min=1)
        chosen = targets.foreground
        box_losses = self.box_loss(boxes[chosen], targets.boxes[chosen])
        fresh_losses = {
            "loss_cls": self.cls_weight
            * ((scores - prior).abs() ** self.cls_focus * entropy).sum()
            / normalizer,
            "loss_box": self.box_weight * (box_losses * weights[chosen]).sum() / normalizer,
        }
        if self.mask_head is not None:
            samples = self._mask_samples(boxes, targets, truth)
            blank = torch.zeros_like(torch.cat([s.masks for s in samples]), dtype=torch.float32)
            fresh_losses["loss_mask"] = self._mask_loss(blank, samples)
        # The noise of the last layers moves IoUs, and with them the quality that scores aim at.
        return {name: (0.4 * float(v), 2.5 * float(v)) for name, v in fresh_losses.items()}

    def forward_inference(
        self,
        images: ImageList,
        features: list[Tensor],
        predictions: Predictions,
    ) -> list[Instances]:
        """Detections at network size: pred_boxes, scores (descending), pred_classes."""
        logits, boxes, _ = self._flatten(predictions)
        found, points = zip(
            *map(self._detect, logits.sigmoid(), boxes, images.image_sizes), strict=True
        )
        if self.mask_head is not None:
            embeddings = _by_point(predictions[2])
            masks = self.mask_head(
                self.mask_head.features(features[0]),
                [image[point] for image, point in zip(embeddings, points, strict=True)],
                [instances.pred_boxes.tensor for instances in found],
            )
            # (n, 1, R, R) scores in the box, as Mask R-CNN's: Detectron2 pastes them.
            counts = [len(instances) for instances in found]
            for instances, scores in zip(found, masks.sigmoid().split(counts), strict=True):
                instances.pred_masks = scores[:, None]
        return list(found)

    def _detect(
        self, scores: Tensor, boxes: Tensor, image_size: tuple[int, int]
    ) -> tuple[Instances, Tensor]:
        """(P, K) scores and (P, 4) boxes of one image → its detections, and the point of each."""
        point, label = torch.nonzero(scores > self.test_score_thresh, as_tuple=True)
        kept = scores[point, label]
        kept, order = kept.topk(min(self.test_topk_candidates, len(kept)))
        point, label = point[order], label[order]
        found = Boxes(boxes[point])
        found.clip(image_size)
        keep = batched_nms(found.tensor, kept, label, self.test_nms_thresh)
        keep = keep[: self.max_detections_per_image]
        instances = Instances(
            image_size, pred_boxes=found[keep], scores=kept[keep], pred_classes=label[keep]
        )
        return instances, point[keep]

    def _flatten(self, predictions: Predictions) -> tuple[Tensor, Tensor, Tensor]:
        """All levels in one: logits (B, P, K), boxes (B, P, 4) XYXY px, points (P, 2)."""
        level_logits, level_distances = predictions[:2]
        centers = [_points(d, s) for d, s in zip(level_distances, self.strides, strict=True)]
        points = torch.cat(centers)
        strides = torch.cat(
            [torch.full_like(p[:, :1], s) for p, s in zip(centers, self.strides, strict=True)]
        )
        logits, distances = (
            _by_point(levels).float() for levels in (level_logits, level_distances)
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


@dataclass(frozen=True)
class MaskSamples:
    """What the mask head is taught at n points of an image.

    Attributes:
        points: (n,) int64, indices of the points.
        boxes: (n, 4) XYXY px, through which they look.
        masks: (n, R, R) what is to be seen there.
        weights: (n,) how much each counts.
    """

    points: Tensor
    boxes: Tensor
    masks: Tensor
    weights: Tensor


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


def _assigner(options: CfgNode, strides: list[int]) -> Assigner:
    known = {
        "task_aligned": lambda: TaskAlignedAssigner(options.TOPK, options.ALPHA, options.BETA),
        "atss": lambda: ATSSAssigner(tuple(strides)),
        "simota": SimOTAAssigner,
    }
    return known[_one_of("ASSIGNER", options.ASSIGNER, known)]()


def _one_of(key: str, value: str, known: Iterable[str]) -> str:
    if value not in known:
        raise InputError(
            f"MODEL.TASK_ALIGNED.{key} is {value!r}; it takes one of {', '.join(known)}."
        )
    return value


def _mask_head(options: CfgNode, finest: ShapeSpec) -> DynamicMaskHead:
    for key in ("MASK_CHANNELS", "MASK_CONVS", "MASK_RESOLUTION", "MASK_POINTS"):
        if options[key] < 1:
            raise InputError(f"MODEL.TASK_ALIGNED.{key} is {options[key]}; it is at least 1.")
    return DynamicMaskHead(
        finest,
        embedding_channels=options.CHANNELS,
        width=options.CHANNELS,
        tower_convs=options.NUM_CONVS,
        channels=options.MASK_CHANNELS,
        num_convs=options.MASK_CONVS,
        resolution=options.MASK_RESOLUTION,
    )


def _over_processes(total: Tensor) -> Tensor:
    """Mean over all processes, at least 1: many small batches learn as one large batch does."""
    if comm.get_world_size() > 1:
        torch.distributed.all_reduce(total)
    return (total / comm.get_world_size()).clamp(min=1.0)


def _by_point(levels: list[Tensor]) -> Tensor:
    """(B, C, H_l, W_l) of each level → (B, P, C), level by level, row by row."""
    return torch.cat([x.flatten(2).transpose(1, 2) for x in levels], dim=1)


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
