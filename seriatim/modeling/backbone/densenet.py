"""DenseNet-BC for small images (Huang 2017, arXiv 1608.06993, sections 3 and 4.2)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from torch import Tensor, nn

from dataset_tools.errors import InputError
from seriatim.modeling.initialisation import initialise

BOTTLENECK = 4  # channels of the 1×1 convolution, in growth rates


class DenseLayer(nn.Module):
    """(N, C, H, W) → (N, C + growth, H, W): what came, and `growth` new channels."""

    def __init__(self, in_channels: int, growth: int, dropout: float) -> None:
        super().__init__()
        inner = BOTTLENECK * growth
        self.norm1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, inner, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, growth, 3, 1, 1, bias=False)
        self.relu1, self.relu2 = nn.ReLU(inplace=True), nn.ReLU(inplace=True)
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        new = self.conv1(self.relu1(self.norm1(x)))
        new = self.conv2(self.relu2(self.norm2(new)))
        return torch.cat([x, self.dropout(new)], dim=1)


class Transition(nn.Sequential):
    """Fewer channels at half the resolution."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(in_channels)
        self.relu = nn.ReLU(inplace=True)
        self.conv = nn.Conv2d(in_channels, out_channels, 1, bias=False)
        self.pool = nn.AvgPool2d(2)


class DenseNet(Backbone):
    """Input: (N, C, H, W) float. Output: {"features": (N, channels, H/stride, W/stride)}, active.

    Attributes:
        blocks: the dense blocks, each but the first with the transition before it.
    """

    def __init__(
        self,
        layers: Sequence[int],
        *,
        growth: int,
        stem_channels: int = 0,
        compression: float = 0.5,
        in_channels: int = 3,
        dropout: float = 0.0,
    ) -> None:
        """
        Args:
            layers: of each dense block.
            stem_channels: 0 for twice the growth rate, as the paper's BC variants have it.
            compression: share of the channels that a transition keeps.
            dropout: rate after each layer.

        Raises:
            InputError: there is no block, or `compression` is not above 0 and at most 1.
        """
        super().__init__()
        if not layers or not 0 < compression <= 1:
            raise InputError(
                "MODEL.DENSENET needs BLOCKS, the layers of each dense block, and a COMPRESSION"
                f" above 0 and at most 1; they are {tuple(layers)} and {compression:g}."
            )
        channels = stem_channels or 2 * growth
        self.stem = nn.Conv2d(in_channels, channels, 3, 1, 1, bias=False)
        self.blocks = nn.ModuleList()
        for number, count in enumerate(layers):
            block = nn.Sequential()
            if number:
                kept = int(channels * compression)
                block.add_module("transition", Transition(channels, kept))
                channels = kept
            for index in range(count):
                block.add_module(f"layer{index + 1}", DenseLayer(channels, growth, dropout))
                channels += growth
            self.blocks.append(block)
        self.norm = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self._out_features = ["features"]
        self._out_feature_channels = {"features": channels}
        self._out_feature_strides = {"features": 2 ** (len(layers) - 1)}
        initialise(self, "kaiming")

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return {"features": self.relu(self.norm(x))}


@BACKBONE_REGISTRY.register()
def build_densenet_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> DenseNet:
    """MODEL.DENSENET; the defaults are DenseNet-BC-121."""
    options = cfg.MODEL.DENSENET
    return DenseNet(
        options.BLOCKS,
        growth=options.GROWTH,
        stem_channels=options.STEM_CHANNELS,
        compression=options.COMPRESSION,
        in_channels=input_shape.channels,
        dropout=options.DROPOUT,
    )
