"""Optimizer, gradient clipping and learning-rate scaling, from the config."""

from __future__ import annotations

import logging
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.layers import FrozenBatchNorm2d
from torch import nn

from dataset_tools.errors import InputError
from seriatim.engine.train_step import Clipper

OPTIMIZERS = ("AdamW", "SGD")
CLIP_TYPES = ("value", "norm", "full_model")
NORMS = (
    nn.modules.batchnorm._NormBase,  # every BatchNorm and InstanceNorm
    nn.GroupNorm,
    nn.LayerNorm,
    nn.RMSNorm,
    FrozenBatchNorm2d,
)


def build_optimizer(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    """AdamW (decoupled weight decay, arXiv 1711.05101) or SGD, over `parameter_groups`."""
    groups = parameter_groups(cfg, model)
    shared = {"lr": cfg.SOLVER.BASE_LR, "weight_decay": cfg.SOLVER.WEIGHT_DECAY}
    # Fused kernels exist for these devices; elsewhere torch takes the best that it has.
    if all(p.device.type in ("cpu", "cuda") for group in groups for p in group["params"]):
        shared["fused"] = True
    if cfg.SERIATIM.SOLVER.OPTIMIZER == "AdamW":
        return torch.optim.AdamW(groups, **shared)
    if cfg.SERIATIM.SOLVER.OPTIMIZER == "SGD":
        return torch.optim.SGD(
            groups, momentum=cfg.SOLVER.MOMENTUM, nesterov=cfg.SOLVER.NESTEROV, **shared
        )
    raise InputError(
        f"SERIATIM.SOLVER.OPTIMIZER is {cfg.SERIATIM.SOLVER.OPTIMIZER!r}; it can be"
        f" {' or '.join(OPTIMIZERS)}."
    )


def parameter_groups(cfg: CfgNode, model: nn.Module) -> list[dict[str, Any]]:
    """The trainable parameters, grouped by learning rate and weight decay.

    Weight decay falls on weights alone. Norm layers take SOLVER.WEIGHT_DECAY_NORM; biases take
    SOLVER.WEIGHT_DECAY_BIAS, where None means none; other vectors and scalars (layer scales,
    learned strides) take none. The backbone's rate is BASE_LR × SERIATIM.SOLVER.BACKBONE_MULTIPLIER
    and that of biases is × SOLVER.BIAS_LR_FACTOR.
    """
    solver = cfg.SOLVER
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    seen: set[nn.Parameter] = set()
    for module_name, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad or parameter in seen:
                continue
            seen.add(parameter)
            is_bias = name == "bias" or name.endswith("_bias")
            rate, decay = solver.BASE_LR, solver.WEIGHT_DECAY
            if is_bias:
                rate *= solver.BIAS_LR_FACTOR
            if module_name.split(".")[0] == "backbone":
                rate *= cfg.SERIATIM.SOLVER.BACKBONE_MULTIPLIER
            if isinstance(module, NORMS):
                decay = solver.WEIGHT_DECAY_NORM
            elif is_bias:
                decay = solver.WEIGHT_DECAY_BIAS or 0.0
            elif parameter.ndim <= 1:
                decay = 0.0
            groups.setdefault((rate, decay), []).append(parameter)
    if not groups:
        raise InputError("No parameter of the model can be trained: everything is frozen.")
    return [{"params": p, "lr": rate, "weight_decay": decay} for (rate, decay), p in groups.items()]


def build_clipper(cfg: CfgNode) -> Clipper | None:
    """What SOLVER.CLIP_GRADIENTS says, or None where it is off.

    CLIP_TYPE "value" clips each element, "norm" the norm of each parameter's gradient (both as in
    Detectron2), "full_model" the norm over all gradients (as Detectron2's projects name it).
    """
    clip = cfg.SOLVER.CLIP_GRADIENTS
    if not clip.ENABLED:
        return None
    limit, norm_type = clip.CLIP_VALUE, clip.NORM_TYPE
    if clip.CLIP_TYPE == "value":
        return lambda parameters: nn.utils.clip_grad_value_(parameters, limit)
    if clip.CLIP_TYPE == "full_model":
        return lambda parameters: nn.utils.clip_grad_norm_(parameters, limit, norm_type)
    if clip.CLIP_TYPE == "norm":
        return lambda parameters: _clip_each(parameters, limit, norm_type)
    raise InputError(
        f"SOLVER.CLIP_GRADIENTS.CLIP_TYPE is {clip.CLIP_TYPE!r}; it can be one of"
        f" {', '.join(CLIP_TYPES)}."
    )


def _clip_each(parameters: list[nn.Parameter], limit: float, norm_type: float) -> None:
    for parameter in parameters:
        nn.utils.clip_grad_norm_(parameter, limit, norm_type)


def scale_learning_rate(cfg: CfgNode) -> None:
    """Set BASE_LR for the batch in use where SERIATIM.SOLVER.REFERENCE_BATCH asks for it.

    The rate grows linearly with the images per step of the optimizer (arXiv 1706.02677).
    """
    reference = cfg.SERIATIM.SOLVER.REFERENCE_BATCH
    batch = cfg.SOLVER.IMS_PER_BATCH * cfg.SERIATIM.SOLVER.ACCUMULATE
    if reference in (0, batch):
        return
    rate = cfg.SOLVER.BASE_LR * batch / reference
    logging.getLogger(__name__).info(
        f"Learning rate {cfg.SOLVER.BASE_LR:g} is for {reference} images per step;"
        f" for {batch} it is scaled linearly to {rate:g}"
    )
    cfg.SOLVER.BASE_LR = rate
    cfg.SERIATIM.SOLVER.REFERENCE_BATCH = batch
