"""Are the weights that a config names really in the model?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.layers import FrozenBatchNorm2d
from torch import nn

from seriatim.engine.trainer import Trainer
from seriatim.gates.context import Context
from seriatim.gates.modes import evaluating
from seriatim.gates.pixels import captured_input
from seriatim.gates.verdict import Cause, Finding

# Of a backbone's weights, those that a file must fill to count as loaded. One for classification
# fills all but the neck: of the usual backbones 0.6 to 0.95.
LOADED = 0.5
LOADED_TIMM = 0.95  # of the timm model alone, which its own weights fill as a whole
# Part of MODEL.WEIGHTS → order of the channels that these weights were trained with: Detectron2's
# model zoo is BGR but for the backbones that it took from torchvision.
CONVENTIONS = (
    ("ImageNetPretrained/torchvision", "RGB"),
    ("ImageNetPretrained/", "BGR"),
    ("detectron2://", "BGR"),
    ("fbaipublicfiles.com/detectron2/", "BGR"),
)
IMAGES, SHORT_EDGE = 32, 160
FIRST = 6  # BatchNorms, next to the input
# Photographs like ImageNet's (96 of COCO, EfficientNet-Lite0) measured a distance of 0.012 in the
# right order and 0.034 in the other one; microscopy 0.6 in both: of such nothing can be said.
SURE_FIT, BETTER = 0.05, 2.0
_NORMS = (nn.modules.batchnorm._BatchNorm, FrozenBatchNorm2d)


def pretrained(context: Context, trainer: Trainer, numbers: dict[str, Any]) -> Iterator[Finding]:
    """Weights that were loaded do not depend on the seed; random ones do."""
    cfg = context.cfg
    backbone = getattr(trainer.bare_model, "backbone", None)
    source = cfg.MODEL.WEIGHTS or cfg.MODEL.TIMM.WEIGHTS
    if backbone is None or not source:
        return
    key = "MODEL.WEIGHTS" if cfg.MODEL.WEIGHTS else "MODEL.TIMM.WEIGHTS"
    if key == "MODEL.TIMM.WEIGHTS" and "timm" not in cfg.MODEL.BACKBONE.NAME.lower():
        return
    torch.manual_seed(context.SEED + 1)
    other = context.trainer_class.build_model(cfg).backbone
    if key == "MODEL.TIMM.WEIGHTS":  # of the timm model alone, not of the neck on it
        inner = getattr(backbone, "bottom_up", backbone)
        other = getattr(other, "bottom_up", other)
        same, enough = _shared(inner, other), LOADED_TIMM
    else:
        enough = LOADED
        same = 1 - _shared(backbone, other)
    numbers["share of the backbone that was loaded"] = same
    if same >= enough:
        return
    report = getattr(trainer.checkpointer, "report", None)
    yield Finding(
        f"{same:.0%} of the backbone's weights are those of {source}, the others are random.",
        f"at least {enough:.0%} of them: {key} is set.",
        [
            Cause(
                "names or shapes in the file are others, and it was loaded without strictness",
                key,
            )
            if report is None or not report.complete
            else Cause("the weights are overwritten by an initialisation after loading"),
            Cause("the code that builds the model does not load them, or overwrites them"),
        ],
    )


def channel_order(context: Context, model: nn.Module, numbers: dict[str, Any]) -> Iterator[Finding]:
    """INPUT.FORMAT must be the order of channels that the pretrained weights know."""
    cfg = context.cfg
    wanted, used = convention_of(cfg), cfg.INPUT.FORMAT
    if wanted is not None and used in ("RGB", "BGR") and used != wanted:
        yield Finding(
            f"INPUT.FORMAT is {used}, and the backbone's pretrained weights are for {wanted}.",
            f"INPUT.FORMAT {wanted}, with statistics in that order.",
            [
                Cause(f"weights for {wanted} are loaded into a {used} pipeline", "INPUT.FORMAT"),
                Cause("weights of another source", "MODEL.WEIGHTS, MODEL.TIMM.WEIGHTS"),
            ],
        )
        return
    fits = _fits(context, model) if cfg.MODEL.WEIGHTS or cfg.MODEL.TIMM.WEIGHTS else None
    if fits is None:
        return
    numbers["statistics' distance to the weights' own: as is, channels reversed"] = list(fits)
    as_is, reversed_ = fits
    if reversed_ < SURE_FIT and as_is > BETTER * reversed_:
        yield Finding(
            f"with reversed channels the images fit the BatchNorms of the pretrained weights better"
            f" (distance {reversed_:.2g}, as they are {as_is:.2g}).",
            "the order of channels that the weights were trained with.",
            [
                Cause("weights for RGB are given BGR, or the other way round", "INPUT.FORMAT"),
                Cause("the mapper or preprocess_image swaps channels", "build_mapper"),
            ],
            fails=False,
        )


def convention_of(cfg: CfgNode) -> str | None:
    """RGB or BGR, as the pretrained weights that a config names were trained; None if unknown."""
    if cfg.MODEL.WEIGHTS:
        name = cfg.MODEL.WEIGHTS
        return next((order for part, order in CONVENTIONS if part in name), None)
    timm = "timm" in cfg.MODEL.BACKBONE.NAME.lower() and cfg.MODEL.TIMM.WEIGHTS
    return "RGB" if timm else None


def _fits(context: Context, model: nn.Module) -> tuple[float, float] | None:
    """How far the first BatchNorms' inputs are from the statistics that came with the weights, for
    images as they are and with their channels reversed; None where there are no such statistics."""
    backbone = getattr(model, "backbone", None)
    records = context.train_records[:IMAGES]
    if backbone is None or not len(records):
        return None
    norms = [m for m in backbone.modules() if isinstance(m, _NORMS) and m.running_mean.any()]
    pixels = captured_input(model, backbone, context.inputs(list(records), short_edge=SHORT_EDGE))
    if not norms or pixels is None or pixels.shape[1] != 3:
        return None
    return tuple(distance(backbone, norms[:FIRST], x) for x in (pixels, pixels.flip(1)))


def distance(backbone: nn.Module, norms: list[nn.Module], pixels: torch.Tensor) -> float:
    """Mean over channels of the Kullback-Leibler divergence of two normal distributions."""
    found: list[float] = []

    def compare(norm: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        mean, variance = inputs[0].mean((0, 2, 3)), inputs[0].var((0, 2, 3))
        share = variance / norm.running_var
        apart = (mean - norm.running_mean) ** 2 / norm.running_var
        distances = 0.5 * (share + apart - 1 - share.log())
        found.append(float(distances[distances.isfinite()].mean()))

    handles = [norm.register_forward_pre_hook(compare) for norm in norms]
    try:
        with evaluating(backbone):
            backbone(pixels)
    finally:
        for handle in handles:
            handle.remove()
    return sum(found) / len(found)


def _shared(one: nn.Module, other: nn.Module) -> float:
    """Share of the weights of two builds of a model that are equal."""
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    same = [(p.numel(), bool(torch.equal(p, q.to(p)))) for p, q in pairs if p.ndim > 1]
    return sum(n for n, equal in same if equal) / max(1, sum(n for n, _ in same))
