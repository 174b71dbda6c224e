"""A small TaskAlignedDetector."""

from __future__ import annotations

import torch
from detectron2.modeling import build_model

import seriatim.modeling  # noqa: F401 — registers the detector
from seriatim.config import get_cfg
from seriatim.modeling.meta_arch.task_aligned import TaskAlignedDetector


def small_detector(
    levels: tuple[int, ...] = (3, 4, 5), masks: bool = False, **options
) -> TaskAlignedDetector:
    """With random weights of seed 0; `options` are keys of MODEL.TASK_ALIGNED."""
    cfg = get_cfg()
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.META_ARCHITECTURE = "TaskAlignedDetector"
    cfg.MODEL.BACKBONE.NAME = "build_timm_fpn_backbone"
    cfg.MODEL.TIMM.NAME = "resnet10t"
    cfg.MODEL.TIMM.NORM = "GN"
    cfg.MODEL.FPN.IN_FEATURES = [f"res{level}" for level in levels]
    cfg.MODEL.FPN.OUT_CHANNELS = 16
    cfg.MODEL.MASK_ON = masks
    cfg.MODEL.TASK_ALIGNED.IN_FEATURES = [f"p{level}" for level in levels]
    cfg.MODEL.TASK_ALIGNED.CHANNELS = 16
    for key, value in options.items():
        cfg.MODEL.TASK_ALIGNED[key] = value
    torch.manual_seed(0)
    return build_model(cfg)
