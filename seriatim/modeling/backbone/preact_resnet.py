"""Pre-activation residual networks for small images: PreActResNet and WideResNet, CIFAR variants.

Both are the same network in other widths: a 3×3 convolution, stages of basic units (norm, ReLU,
convolution, twice, beside a shortcut), a norm and a ReLU (He 2016, arXiv 1603.05027; Zagoruyko and
Komodakis 2016, arXiv 1605.07146). Where a unit changes the number of channels or the stride, its
shortcut is a 1×1 convolution of the activated input.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from timm.layers import DropPath
from torch import Tensor, nn

from dataset_tools.errors import InputError
from seriatim.modeling.initialisation import initialise

# Units of each stage, by the name that the network goes under.
PREACT_DEPTHS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}


@dataclass(frozen=True)
class Stage:
    """`units` residual units of `channels`; the first of them has `stride`."""

    channels: int
    units: int
    stride: int


class PreActUnit(nn.Module):
    """x → shortcut(x) + branch(x), (N, in, H, W) → (N, out, H/stride, W/stride)."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int = 1,
        dropout: float = 0.0,
        drop_path: float = 0.0,
    ) -> None:
        """
        Args:
            dropout: rate between the two convolutions (arXiv 1605.07146, section 2.4).
            drop_path: probability that the branch of a sample is left out (arXiv 1603.09382).
        """
        super().__init__()
        self.norm1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(out_channels)
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False)
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()
        self.relu1, self.relu2 = nn.ReLU(inplace=True), nn.ReLU(inplace=True)
        self.shortcut = None
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        active = self.relu1(self.norm1(x))
        kept = x if self.shortcut is None else self.shortcut(active)
        branch = self.conv1(active)
        branch = self.conv2(self.dropout(self.relu2(self.norm2(branch))))
        return kept + self.drop_path(branch)

    def zero_init_last(self) -> None:
        """Start as the shortcut alone. The branch ends in a convolution, which is set to 0: with
        the norm before it at 0, the ReLU between them would pass no gradient."""
        nn.init.zeros_(self.conv2.weight)


class PreActResNet(Backbone):
    """Input: (N, C, H, W) float. Output: {"features": (N, channels, H/stride, W/stride)}, active.

    Attributes:
        blocks: the stages, in order.
    """

    def __init__(
        self,
        stages: Sequence[Stage],
        *,
        stem_channels: int,
        in_channels: int = 3,
        dropout: float = 0.0,
        drop_path: float = 0.0,
    ) -> None:
        """
        Args:
            drop_path: stochastic depth rate of the last unit; it rises linearly from 0.
        """
        super().__init__()
        self.stem = nn.Conv2d(in_channels, stem_channels, 3, 1, 1, bias=False)
        total = sum(stage.units for stage in stages)
        rates = iter([drop_path * (number + 1) / total for number in range(total)])
        self.blocks = nn.ModuleList()
        channels, stride = stem_channels, 1
        for stage in stages:
            units = []
            for number in range(stage.units):
                step = stage.stride if number == 0 else 1
                units.append(PreActUnit(channels, stage.channels, step, dropout, next(rates)))
                channels = stage.channels
            self.blocks.append(nn.Sequential(*units))
            stride *= stage.stride
        self.norm = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self._out_features = ["features"]
        self._out_feature_channels = {"features": channels}
        self._out_feature_strides = {"features": stride}
        initialise(self, "kaiming")

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return {"features": self.relu(self.norm(x))}


def wide_resnet_stages(depth: int, width: int) -> list[Stage]:
    """The stages of WRN-`depth`-`width`: 16, 32 and 64 channels times `width`.

    Raises:
        InputError: `depth` is not 6 n + 4 with n > 0, or `width` is below 1.
    """
    units, rest = divmod(depth - 4, 6)
    if rest or units < 1 or width < 1:
        raise InputError(
            f"MODEL.WIDE_RESNET: there is no WRN-{depth}-{width}. DEPTH is 6 n + 4 (10, 16, 22, 28,"
            " 34, 40 …) and WIDTH at least 1."
        )
    return [Stage(16 * width * 2**i, units, 1 if i == 0 else 2) for i in range(3)]


def preact_resnet_stages(depth: int, width: int) -> list[Stage]:
    """The stages of PreActResNet-`depth`: `width`, 2, 4 and 8 times `width` channels.

    Raises:
        InputError: `depth` is none of PREACT_DEPTHS, or `width` is below 1.
    """
    if depth not in PREACT_DEPTHS or width < 1:
        raise InputError(
            f"MODEL.PREACT_RESNET: there is no network of DEPTH {depth} and WIDTH {width}. DEPTH is"
            f" {' or '.join(map(str, PREACT_DEPTHS))}, and WIDTH at least 1."
        )
    units = PREACT_DEPTHS[depth]
    return [Stage(width * 2**i, n, 1 if i == 0 else 2) for i, n in enumerate(units)]


@BACKBONE_REGISTRY.register()
def build_wide_resnet_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> PreActResNet:
    """MODEL.WIDE_RESNET; its stem has 16 channels."""
    options = cfg.MODEL.WIDE_RESNET
    return PreActResNet(
        wide_resnet_stages(options.DEPTH, options.WIDTH),
        stem_channels=16,
        in_channels=input_shape.channels,
        dropout=options.DROPOUT,
        drop_path=options.DROP_PATH,
    )


@BACKBONE_REGISTRY.register()
def build_preact_resnet_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> PreActResNet:
    """MODEL.PREACT_RESNET; its stem is as wide as the first stage."""
    options = cfg.MODEL.PREACT_RESNET
    return PreActResNet(
        preact_resnet_stages(options.DEPTH, options.WIDTH),
        stem_channels=options.WIDTH,
        in_channels=input_shape.channels,
        dropout=options.DROPOUT,
        drop_path=options.DROP_PATH,
    )
