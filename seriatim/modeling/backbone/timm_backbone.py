"""Any timm model that gives a feature pyramid, as a Detectron2 backbone."""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path

import timm
import torch
from detectron2.config import CfgNode, configurable, get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from timm.layers import BatchNormAct2d, GroupNormAct
from timm.layers.norm_act import freeze_batch_norm_2d
from timm.models import FeatureInfo
from timm.utils.model import freeze
from torch import nn

from dataset_tools.errors import InputError
from seriatim.modeling.backbone.frozen_norm import quicken_frozen_norms
from seriatim.modeling.backbone.lite0_weights import load_lite0_weights

NORMS = ("", "FrozenBN", "GN")
PACKAGED_WEIGHTS = {"tf_efficientnet_lite0": load_lite0_weights}


@BACKBONE_REGISTRY.register()
class TimmBackbone(Backbone):
    """The feature levels of a timm model.

    Input: (N, C, H, W) float, normalised by the statistics that the weights were trained with
    (see `pixel_statistics`). Output: {"res2": (N, C2, H/4, W/4), "res3": stride 8, …}; of several
    levels with one stride the last is taken. H and W must be multiples of the largest stride.
    """

    @configurable
    def __init__(
        self,
        name: str,
        *,
        out_features: tuple[str, ...] = (),
        in_channels: int = 3,
        weights: str = "",
        norm: str = "",
        freeze_at: int = 0,
        drop_path: float = 0.0,
    ):
        """
        Args:
            name: a model of `timm.list_models()`.
            out_features: levels to compute, such as ("res3", "res4", "res5"); () for all.
            in_channels: channels of the input image.
            weights: "", "package" or a file (see MODEL.TIMM.WEIGHTS).
            norm: "", "FrozenBN" or "GN".
            freeze_at: levels of stride <= 2**freeze_at are not trained.
            drop_path: stochastic depth rate.

        Raises:
            InputError: timm has no such model, or it has no such level, or the weights do not fit.
        """
        super().__init__()
        self._name = name
        levels = _levels(name)
        unknown = set(out_features) - set(levels)
        if unknown:
            raise InputError(
                f"The timm model {name} has the levels {', '.join(levels)}, but the config asks "
                f"for {', '.join(sorted(unknown))} (MODEL.FPN.IN_FEATURES)."
            )
        self._out_features = [level for level in levels if level in (out_features or levels)]
        self.model = create(
            name,
            features_only=True,
            out_indices=tuple(levels[level] for level in self._out_features),
            in_chans=in_channels,
            drop_path_rate=drop_path,
            weights=weights,
        )
        _cut_behind(self.model)
        info = self.model.feature_info
        self._out_feature_strides = dict(zip(self._out_features, info.reduction(), strict=True))
        self._out_feature_channels = dict(zip(self._out_features, info.channels(), strict=True))
        self._channels_last_output = getattr(self.model, "output_fmt", "NCHW") == "NHWC"
        self.model = replace_norm(self.model, norm)
        self._freeze(freeze_at)
        quicken_frozen_norms(self.model, in_channels)

    @classmethod
    def from_config(cls, cfg, input_shape: ShapeSpec) -> dict:
        return {
            "name": cfg.MODEL.TIMM.NAME,
            "out_features": tuple(cfg.MODEL.FPN.IN_FEATURES),
            "in_channels": input_shape.channels,
            "weights": cfg.MODEL.TIMM.WEIGHTS,
            "norm": cfg.MODEL.TIMM.NORM,
            "freeze_at": cfg.MODEL.TIMM.FREEZE_AT,
            "drop_path": cfg.MODEL.TIMM.DROP_PATH,
        }

    @property
    def size_divisibility(self) -> int:
        return max(self._out_feature_strides.values())

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        features = self.model(x)
        if self._channels_last_output:
            features = [f.permute(0, 3, 1, 2).contiguous() for f in features]
        return dict(zip(self._out_features, features, strict=True))

    def _freeze(self, freeze_at: int) -> None:
        """Fix all that the forward pass meets up to the level of stride 2**freeze_at."""
        if freeze_at <= 0:
            return
        last = _last_frozen_module(self._name, 2**freeze_at)
        # features_only joins a sequential's name to its children's by _ in some families.
        ends = {last, last.replace(".", "_")}
        names = [n for n, m in self.model.named_modules() if n and _is_unit(m, n, ends)]
        if not ends & set(names):
            raise InputError(
                f"MODEL.TIMM.FREEZE_AT {freeze_at} cannot be applied to {self._name}: its stage "
                f"{last} is not a part that can be frozen alone. Set it to 0."
            )
        until = next(index for index, name in enumerate(names) if name in ends)
        freeze(self.model, names[: until + 1])


def _cut_behind(model: nn.Module) -> None:
    """Remove the stages behind the last level, which timm's EfficientNets would run for nothing."""
    container, _, last = model.feature_info.module_name()[-1].rpartition(".")
    stages = getattr(model, container, None)
    if isinstance(stages, nn.Sequential) and last.isdigit():
        del stages[int(last) + 1 :]


def _is_unit(module: nn.Module, name: str, ends: set[str]) -> bool:
    """A part to freeze whole: a child of the model, or of the container that holds the last one."""
    containers = {end.rpartition(".")[0] for end in ends}
    parent = name.rpartition(".")[0]
    return name not in containers and (parent == "" or parent in containers)


def _levels(name: str) -> dict[str, int]:
    """Level name ("res3") → timm's feature index, for the last feature of each stride from 2 on."""
    info = _feature_info(name)
    strides = info.reduction()
    if len(set(strides)) < 2:
        raise InputError(
            f"The timm model {name} has one scale only (stride {strides[0]}), and a detector needs "
            "a pyramid. Take a convolutional or hierarchical model, such as resnet18, "
            "convnext_atto or tf_efficientnet_lite0."
        )
    return {f"res{int(math.log2(stride))}": index for index, stride in enumerate(strides)}


def _last_frozen_module(name: str, stride: int) -> str:
    info = _feature_info(name)
    within = [m for m, s in zip(info.module_name(), info.reduction(), strict=True) if s <= stride]
    if not within:
        raise InputError(f"MODEL.TIMM.FREEZE_AT: {name} has no level of stride <= {stride}.")
    return within[-1]


@cache
def _feature_info(name: str) -> FeatureInfo:
    """The levels of a model, asked of one without memory for its weights."""
    with torch.device("meta"):
        return create(name, features_only=True).feature_info


def create(name: str, *, weights: str = "", **options) -> nn.Module:
    """A timm model with the weights that MODEL.TIMM.WEIGHTS names.

    Raises:
        InputError: timm has no such model, cannot build it so, or there are no such weights.
    """
    if not timm.is_model(name):
        near = ", ".join(timm.list_models(f"*{name.split('_')[0]}*")[:8])
        raise InputError(
            f"timm has no model {name!r} (MODEL.TIMM.NAME)." + (f" Near: {near}." if near else "")
        )
    file_options = {}
    if weights and weights != "package":
        if not Path(weights).is_file():
            raise InputError(f"MODEL.TIMM.WEIGHTS: there is no file {weights}.")
        # timm's own loading renames and adapts weights before it takes the features out.
        file_options = {"pretrained": True, "pretrained_cfg_overlay": {"file": weights}}
    try:
        model = timm.create_model(name, **options, **file_options)
    except (RuntimeError, AttributeError) as error:
        kind = "a feature pyramid" if options.get("features_only") else "a backbone"
        raise InputError(f"timm cannot build {name} as {kind}: {error}") from error
    if weights == "package":
        if name not in PACKAGED_WEIGHTS:
            raise InputError(
                f"MODEL.TIMM.WEIGHTS is 'package', but no package carries weights of {name}: only "
                "of "
                f"{', '.join(PACKAGED_WEIGHTS)}. Give a file of weights, or '' for random ones."
            )
        PACKAGED_WEIGHTS[name](model)
    return model


def replace_norm(model: nn.Module, norm: str) -> nn.Module:
    """`model` with its BatchNorms as MODEL.TIMM.NORM says.

    Raises:
        InputError: there is no such `norm`.
    """
    if norm not in NORMS:
        raise InputError(
            f"MODEL.TIMM.NORM is {norm!r}; it takes one of {', '.join(map(repr, NORMS))}."
        )
    if norm == "FrozenBN":
        return freeze_batch_norm_2d(model)
    if norm == "GN":
        _batch_norm_to_group_norm(model)
    return model


def _batch_norm_to_group_norm(module: nn.Module) -> None:
    """Replace every BatchNorm by GroupNorm (arXiv 1803.08494) of at most 32 groups, in place."""
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            channels = child.num_features
            groups = math.gcd(channels, 32)
            if isinstance(child, BatchNormAct2d):
                norm = GroupNormAct(channels, num_groups=groups, apply_act=False)
                norm.act = child.act
            else:
                norm = nn.GroupNorm(groups, channels)
            setattr(module, name, norm)
        else:
            _batch_norm_to_group_norm(child)


def resolve_pixel_statistics(cfg: CfgNode) -> None:
    """Where the backbone is timm's, set MODEL.PIXEL_MEAN and PIXEL_STD to what it expects.

    Values that a config gives itself, other than Detectron2's defaults, stay.
    """
    ours = (
        "TimmBackbone",
        "build_timm_classifier_backbone",
        "build_timm_fpn_backbone",
        "build_timm_pan_backbone",
    )
    default = get_cfg().MODEL
    untouched = (
        cfg.MODEL.PIXEL_MEAN == default.PIXEL_MEAN and cfg.MODEL.PIXEL_STD == default.PIXEL_STD
    )
    if cfg.MODEL.BACKBONE.NAME in ours and untouched and timm.is_model(cfg.MODEL.TIMM.NAME):
        cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD = pixel_statistics(
            cfg.MODEL.TIMM.NAME, cfg.MODEL.TIMM.WEIGHTS, cfg.INPUT.FORMAT
        )


def pixel_statistics(name: str, weights: str, image_format: str) -> tuple[list[float], list[float]]:
    """Mean and standard deviation (0–255, in the channel order `image_format`) that the model
    expects.

    The packaged lite0 weights were trained on (pixel - 127) / 128; timm states the others' own.
    """
    if weights == "package":
        mean, std = [127.0] * 3, [128.0] * 3
    else:
        pretrained = timm.get_pretrained_cfg(name)
        mean, std = ([255.0 * v for v in values] for values in (pretrained.mean, pretrained.std))
    return (mean, std) if image_format == "RGB" else (mean[::-1], std[::-1])
