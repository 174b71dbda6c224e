"""The networks of KD3A's public experiments, as backbones; ResNets are timm's."""

from __future__ import annotations

import itertools

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from torch import Tensor, nn


class DigitsCNN(Backbone):
    """Three 5×5 convolutions with BatchNorm, and fully connected layers behind them.

    With `width` 64 and `hidden` (3072, 2048) it is the network that KD3A and others train on
    DigitFive, 32×32 (8192 → 3072 → 2048; a linear classifier follows).

    Args:
        channels: of the images.
        width: channels of the first two convolutions; the third has twice as many.
        hidden: sizes of the fully connected layers.
        dropout: rate behind the first of these.
        pools: halve the image by max pooling behind the first two convolutions; else these have a
            stride of 2, which takes a third of the time.
    """

    def __init__(
        self,
        channels: int,
        width: int,
        hidden: tuple[int, ...],
        dropout: float = 0.5,
        pools: bool = True,
    ) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            *_halving(channels, width, pools),
            *_halving(width, width, pools),
            *_convolution(width, 2 * width),
            nn.Flatten(),
        )
        sizes = (2 * width * 8 * 8, *hidden)
        layers: list[nn.Module] = []
        for i, (before, after) in enumerate(itertools.pairwise(sizes)):
            layers += [nn.Linear(before, after), nn.BatchNorm1d(after), nn.ReLU()]
            if i == 0 and dropout:
                layers.append(nn.Dropout(dropout))
        self.fully_connected = nn.Sequential(*layers)
        self._features = sizes[-1]

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """(N, C, 32, 32) → {"features": (N, F)}."""
        return {"features": self.fully_connected(self.convolutions(images))}

    def output_shape(self) -> dict[str, ShapeSpec]:
        return {"features": ShapeSpec(channels=self._features)}


class ReviewsMLP(Backbone):
    """Bag-of-words of 5,000 → 1000 → 500 → 100, for Amazon's reviews.

    A review comes as an "image" of 5,000 channels, 1×1 px.
    """

    def __init__(self, words: int = 5000, hidden: tuple[int, ...] = (1000, 500, 100)) -> None:
        super().__init__()
        sizes = (words, *hidden)
        layers: list[nn.Module] = [nn.Flatten()]
        for before, after in itertools.pairwise(sizes):
            layers += [nn.Linear(before, after), nn.ReLU()]
        self.layers = nn.Sequential(*layers)
        self._features = sizes[-1]

    def forward(self, reviews: Tensor) -> dict[str, Tensor]:
        """(N, words, 1, 1) → {"features": (N, F)}."""
        return {"features": self.layers(reviews)}

    def output_shape(self) -> dict[str, ShapeSpec]:
        return {"features": ShapeSpec(channels=self._features)}


@BACKBONE_REGISTRY.register()
def build_digits_cnn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> Backbone:
    """The network of the public experiments on DigitFive."""
    return DigitsCNN(input_shape.channels, 64, (3072, 2048))


@BACKBONE_REGISTRY.register()
def build_light_cnn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> Backbone:
    """The same, a quarter as wide, strided and with one fully connected layer: for a CPU."""
    return DigitsCNN(input_shape.channels, 16, (256,), dropout=0.0, pools=False)


@BACKBONE_REGISTRY.register()
def build_reviews_mlp_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> Backbone:
    """The network of the public experiments on Amazon's reviews."""
    return ReviewsMLP()


def _halving(before: int, after: int, pools: bool) -> list[nn.Module]:
    if pools:
        return [*_convolution(before, after), nn.MaxPool2d(3, stride=2, padding=1)]
    return _convolution(before, after, stride=2)


def _convolution(before: int, after: int, stride: int = 1) -> list[nn.Module]:
    return [
        nn.Conv2d(before, after, kernel_size=5, stride=stride, padding=2),
        nn.BatchNorm2d(after),
        nn.ReLU(),
    ]
