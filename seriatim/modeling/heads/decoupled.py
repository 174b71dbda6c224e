"""The head of a dense detector: one tower for what it is, one for where it is."""

from __future__ import annotations

import math

import torch
from detectron2.layers import Conv2d, ShapeSpec
from torch import nn
from torch.nn import functional as F


class DecoupledHead(nn.Module):
    """Towers of convolutions, shared by all levels, with GroupNorm (FCOS, arXiv 1904.01355).

    Input: a list over levels of (N, C, H_l, W_l). Output: two such lists, class logits
    (N, num_classes, H_l, W_l) and distances (N, 4, H_l, W_l) from each point to the left, top,
    right and bottom edge of its box, in strides, positive. Distances are exp(scale_l * x + bias),
    so that a fresh head starts with boxes of `initial_size` strides at every level. With
    `embeddings` a third list holds what the distances are predicted from, (N, channels, H_l, W_l).
    """

    def __init__(
        self,
        input_shapes: list[ShapeSpec],
        *,
        num_classes: int,
        channels: int,
        num_convs: int,
        prior_prob: float,
        initial_size: float = 4.0,
        embeddings: bool = False,
    ):
        """
        Args:
            input_shapes: channels of each level, all equal.
            num_classes: number of foreground classes.
            channels: width of both towers.
            num_convs: 3×3 convolutions in each tower.
            prior_prob: score of every class at initialisation (arXiv 1708.02002, section 4.1).
            initial_size: side of every box at initialisation, in strides.
            embeddings: give them as a third output.
        """
        super().__init__()
        in_channels = {shape.channels for shape in input_shapes}
        if len(in_channels) != 1:
            raise ValueError(f"the levels of a shared head have equal channels, not {in_channels}")
        width = in_channels.pop()
        self.cls_tower = tower(width, channels, num_convs)
        self.box_tower = tower(width, channels, num_convs)
        self.cls_logits = nn.Conv2d(channels, num_classes, 3, padding=1)
        self.box_distances = nn.Conv2d(channels, 4, 3, padding=1)
        self.prior_prob, self.initial_size = prior_prob, initial_size
        self.embeddings = embeddings
        self.scales = nn.Parameter(torch.ones(len(input_shapes)))
        for layer in (self.cls_logits, self.box_distances):
            nn.init.normal_(layer.weight, std=0.01)
        nn.init.constant_(self.cls_logits.bias, -math.log((1 - prior_prob) / prior_prob))
        nn.init.constant_(self.box_distances.bias, math.log(initial_size / 2))

    def forward(self, features: list[torch.Tensor]) -> tuple[list[torch.Tensor], ...]:
        logits, distances, embeddings = [], [], []
        for level, feature in enumerate(features):
            logits.append(self.cls_logits(self.cls_tower(feature)))
            embeddings.append(self.box_tower(feature))
            raw = self.box_distances(embeddings[-1]) * self.scales[level]
            # exp in float32 and bounded: a wild step must not overflow the box loss for good.
            distances.append(torch.exp(raw.float().clamp(max=8.0)))
        return (logits, distances, embeddings) if self.embeddings else (logits, distances)


def tower(in_channels: int, channels: int, num_convs: int) -> nn.Sequential:
    """3×3 convolutions with GroupNorm and ReLU."""
    layers = []
    for index in range(num_convs):
        conv = Conv2d(
            in_channels if index == 0 else channels,
            channels,
            kernel_size=3,
            padding=1,
            bias=False,
            norm=nn.GroupNorm(math.gcd(channels, 16), channels),
            activation=F.relu,
        )
        nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
        layers.append(conv)
    return nn.Sequential(*layers)
