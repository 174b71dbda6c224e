"""Test-time augmentation, by Detectron2's own piece and its own keys."""

from __future__ import annotations

from detectron2.config import CfgNode
from detectron2.modeling import GeneralizedRCNN, GeneralizedRCNNWithTTA
from torch import nn

from dataset_tools.errors import InputError


def wrap_augmented(cfg: CfgNode, model: nn.Module) -> nn.Module:
    """`model` itself, or, where TEST.AUG.ENABLED asks for it, Detectron2's TTA around it.

    Each image is seen at TEST.AUG.MIN_SIZES and, with TEST.AUG.FLIP, mirrored; the detections are
    merged by NMS and the masks averaged.

    Raises:
        InputError: Detectron2 has no test-time augmentation for this model.
    """
    if not cfg.TEST.AUG.ENABLED:
        return model
    if cfg.SERIATIM.EVAL.TILE > 0:
        raise InputError(
            "TEST.AUG.ENABLED and SERIATIM.EVAL.TILE cannot be combined. Turn one of them off."
        )
    if not isinstance(model, GeneralizedRCNN) or cfg.MODEL.KEYPOINT_ON:
        what = "keypoints" if cfg.MODEL.KEYPOINT_ON else cfg.MODEL.META_ARCHITECTURE
        raise InputError(
            f"TEST.AUG.ENABLED: Detectron2's test-time augmentation is for GeneralizedRCNN with"
            f" boxes and masks, not for {what}. Set TEST.AUG.ENABLED to False."
        )
    return GeneralizedRCNNWithTTA(cfg, model)
