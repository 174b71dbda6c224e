"""FCOS under a name that a YAML config can use, with keys of its own."""

from __future__ import annotations

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY, Backbone, build_backbone
from detectron2.modeling.meta_arch.fcos import FCOS, FCOSHead
from detectron2.structures import Boxes, ImageList, Instances
from torch import Tensor, nn


@META_ARCH_REGISTRY.register()
class FCOSDetector(FCOS):
    """Detectron2's FCOS (arXiv 1904.01355, 2006.09214), built from MODEL.FCOS.

    Detectron2 itself reaches FCOS from Python only. Training gives {"loss_fcos_cls",
    "loss_fcos_loc", "loss_fcos_ctr"}, inference [{"instances": Instances(pred_boxes, scores,
    pred_classes)}].
    """

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        head: nn.Module,
        head_in_features: list[str],
        num_classes: int,
        input_format: str,
        **options,
    ):
        """
        Args:
            backbone: gives the levels named in `head_in_features`.
            head: levels → (logits, box deltas, centerness), see Detectron2's `FCOSHead`.
            head_in_features: the levels, from fine to coarse.
            num_classes: number of foreground classes.
            input_format: colour order of the images, "BGR" or "RGB"; for whoever draws them.
            options: the other arguments of Detectron2's `FCOS`.
        """
        super().__init__(
            backbone=backbone,
            head=head,
            head_in_features=head_in_features,
            num_classes=num_classes,
            **options,
        )
        self.input_format = input_format

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        options = cfg.MODEL.FCOS
        backbone = build_backbone(cfg)
        shapes = backbone.output_shape()
        in_features = list(options.IN_FEATURES)
        in_shapes = [shapes[name] for name in in_features]
        head = FCOSHead(
            input_shape=in_shapes,
            num_classes=options.NUM_CLASSES,
            conv_dims=[in_shapes[0].channels] * options.NUM_CONVS,
            norm=options.NORM,
            prior_prob=options.PRIOR_PROB,
        )
        return {
            "backbone": backbone,
            "head": head,
            "head_in_features": in_features,
            "num_classes": options.NUM_CLASSES,
            "input_format": cfg.INPUT.FORMAT,
            "center_sampling_radius": options.CENTER_SAMPLING_RADIUS,
            "focal_loss_alpha": options.FOCAL_LOSS_ALPHA,
            "focal_loss_gamma": options.FOCAL_LOSS_GAMMA,
            "test_score_thresh": options.SCORE_THRESH_TEST,
            "test_topk_candidates": options.TOPK_CANDIDATES_TEST,
            "test_nms_thresh": options.NMS_THRESH_TEST,
            "max_detections_per_image": cfg.TEST.DETECTIONS_PER_IMAGE,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
        }

    def forward_training(
        self,
        images: ImageList,
        features: list[Tensor],
        predictions: list[list[Tensor]],
        gt_instances: list[Instances],
    ) -> dict[str, Tensor]:
        """Losses of a batch. `gt_instances` hold gt_boxes (XYXY px) and gt_classes, or nothing."""
        ground_truth = [_never_empty(instances) for instances in gt_instances]
        return super().forward_training(images, features, predictions, ground_truth)


def _never_empty(instances: Instances) -> Instances:
    """The instances, or one of no size, which no point lies in, where there are none.

    Version 0.6 of Detectron2 cannot match against nothing; this makes the image all background.
    """
    if len(instances):
        return instances
    device = instances.gt_boxes.device
    return Instances(
        instances.image_size,
        gt_boxes=Boxes(torch.zeros(1, 4, device=device)),
        gt_classes=torch.zeros(1, dtype=torch.int64, device=device),
    )
