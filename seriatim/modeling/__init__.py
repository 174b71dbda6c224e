"""Backbones, heads and meta-architectures; importing it registers them with Detectron2."""

from seriatim.modeling.backbone import necks, timm_backbone
from seriatim.modeling.meta_arch import fcos, task_aligned

__all__ = ["fcos", "necks", "task_aligned", "timm_backbone"]
