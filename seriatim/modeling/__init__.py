"""Backbones, heads and meta-architectures; importing it registers them with Detectron2."""

from seriatim.modeling.backbone import (
    densenet,
    necks,
    preact_resnet,
    timm_backbone,
    timm_classifier,
)
from seriatim.modeling.meta_arch import classifier, fcos, task_aligned

__all__ = [
    "classifier",
    "densenet",
    "fcos",
    "necks",
    "preact_resnet",
    "task_aligned",
    "timm_backbone",
    "timm_classifier",
]
