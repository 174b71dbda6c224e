"""Feature pyramids on a timm backbone: FPN as Detectron2 has it, and PAN."""

from __future__ import annotations

import fvcore.nn.weight_init as weight_init
import torch
from detectron2.layers import Conv2d, ShapeSpec, get_norm
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from detectron2.modeling.backbone.fpn import FPN, LastLevelMaxPool, LastLevelP6P7
from torch import nn

from dataset_tools.errors import InputError
from seriatim.modeling.backbone.timm_backbone import TimmBackbone


class PAN(FPN):
    """FPN with a second, bottom-up path, so that large objects see fine detail too.

    "Path Aggregation Network for Instance Segmentation", arXiv 1803.01534. Input and output are
    those of Detectron2's FPN: {"p3": (N, C, H/8, W/8), …}.
    """

    def __init__(self, bottom_up: Backbone, in_features: list[str], out_channels: int, **options):
        norm = options.get("norm", "")
        super().__init__(bottom_up, in_features, out_channels, **options)
        self.downsample_convs = nn.ModuleList()
        self.fuse_convs = nn.ModuleList()
        for _ in range(len(in_features) - 1):
            for convs, stride in ((self.downsample_convs, 2), (self.fuse_convs, 1)):
                conv = Conv2d(
                    out_channels,
                    out_channels,
                    kernel_size=3,
                    stride=stride,
                    padding=1,
                    bias=norm == "",
                    norm=get_norm(norm, out_channels),
                )
                weight_init.c2_xavier_fill(conv)
                convs.append(conv)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        features = super().forward(x)
        names = self._out_features[: len(self.in_features)]
        for below, name, down, fuse in zip(
            names[:-1], names[1:], self.downsample_convs, self.fuse_convs, strict=True
        ):
            features[name] = fuse(features[name] + down(features[below]))
        return features


def _build_neck(neck: type[FPN], cfg, input_shape: ShapeSpec) -> FPN:
    bottom_up = TimmBackbone(cfg, input_shape)
    channels = cfg.MODEL.FPN.OUT_CHANNELS
    in_features = list(cfg.MODEL.FPN.IN_FEATURES)
    if not in_features:
        raise InputError(
            "MODEL.FPN.IN_FEATURES is empty: name the levels of the backbone that the neck takes, "
            f'such as ["res3", "res4", "res5"] ({cfg.MODEL.TIMM.NAME} has '
            f"{', '.join(bottom_up.output_shape())})."
        )
    if cfg.MODEL.FPN.TOP_BLOCK and neck is PAN:
        raise InputError(
            "MODEL.FPN.TOP_BLOCK goes with build_timm_fpn_backbone: PAN has no levels above its "
            "own."
        )
    last = "p" + in_features[-1].removeprefix("res")
    top_blocks = {
        "": lambda: None,
        "maxpool": LastLevelMaxPool,
        "p6p7": lambda: LastLevelP6P7(channels, channels, in_feature=last),
    }
    if cfg.MODEL.FPN.TOP_BLOCK not in top_blocks:
        raise InputError(
            f"MODEL.FPN.TOP_BLOCK is {cfg.MODEL.FPN.TOP_BLOCK!r}; it takes one of "
            f"{', '.join(map(repr, top_blocks))}."
        )
    if cfg.MODEL.FPN.TOP_BLOCK and last != "p5":
        raise InputError(
            "MODEL.FPN.TOP_BLOCK adds levels above p5, but the last of IN_FEATURES is "
            f"{in_features[-1]}."
        )
    return neck(
        bottom_up,
        in_features,
        channels,
        norm=cfg.MODEL.FPN.NORM,
        fuse_type=cfg.MODEL.FPN.FUSE_TYPE,
        top_block=top_blocks[cfg.MODEL.FPN.TOP_BLOCK](),
    )


@BACKBONE_REGISTRY.register()
def build_timm_fpn_backbone(cfg, input_shape: ShapeSpec) -> Backbone:
    """MODEL.TIMM's model under Detectron2's FPN, set by MODEL.FPN."""
    return _build_neck(FPN, cfg, input_shape)


@BACKBONE_REGISTRY.register()
def build_timm_pan_backbone(cfg, input_shape: ShapeSpec) -> Backbone:
    """MODEL.TIMM's model under PAN, set by MODEL.FPN."""
    return _build_neck(PAN, cfg, input_shape)
