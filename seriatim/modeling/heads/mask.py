"""Masks of objects by small networks whose weights are predicted for each object."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from detectron2.layers import ShapeSpec
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import roi_align

from seriatim.modeling.heads.decoupled import tower


class DynamicMaskHead(nn.Module):
    """CondInst's mask head (arXiv 2003.05664), seen through the object's box.

    A tower on the finest level gives mask features for the whole image; the embedding of an object
    gives the weights of a few 1×1 convolutions that find its pixels in them. CondInst runs these
    over the whole image and tells objects apart by their distance from a point; here they see the
    features in the object's box, resampled to a fixed grid (as BlendMask does, arXiv 2001.00309),
    with the place in the box beside them. So the cost of an object does not grow with the image,
    memory is bounded by the number of objects, and Detectron2 pastes the result as it pastes Mask
    R-CNN's. With `num_convs` 1 an object's mask is a weighted sum of the features: YOLACT's
    prototypes (arXiv 1904.02689), with its place beside them.
    """

    def __init__(
        self,
        input_shape: ShapeSpec,
        *,
        embedding_channels: int,
        width: int,
        tower_convs: int,
        channels: int,
        num_convs: int,
        resolution: int,
    ):
        """
        Args:
            input_shape: channels and stride of the level that mask features are made of.
            embedding_channels: length of an object's embedding.
            width, tower_convs: of the tower that makes the mask features.
            channels: of the mask features, and between the object's convolutions.
            num_convs: 1×1 convolutions of an object.
            resolution: side of a mask in its box.
        """
        super().__init__()
        self.stride, self.resolution = input_shape.stride, resolution
        self.tower = tower(input_shape.channels, width, tower_convs)
        self.reduce = nn.Conv2d(width, channels, 1)
        nn.init.kaiming_normal_(self.reduce.weight, nonlinearity="linear")
        nn.init.zeros_(self.reduce.bias)
        ins = [channels + 2] + [channels] * (num_convs - 1)
        self.shapes = list(zip(ins, [*ins[1:], 1], strict=True))  # (in, out) of each convolution
        self.controller = nn.Linear(embedding_channels, sum((i + 1) * o for i, o in self.shapes))
        self._initialise()

    def _initialise(self) -> None:
        """At the start all objects share one common network, whose logits are nearly 0."""
        nn.init.normal_(self.controller.weight, std=0.01)
        with torch.no_grad():
            for number, (weight, bias) in enumerate(self._layers(self.controller.bias[None])):
                last = number == len(self.shapes) - 1
                weight.normal_(std=0.01 if last else math.sqrt(2 / weight.shape[2]))
                bias.zero_()

    def features(self, level: Tensor) -> Tensor:
        """(N, C, H, W) of the level → (N, channels, H, W) float32."""
        return self.reduce(self.tower(level)).float()

    def forward(
        self, features: Tensor, embeddings: Sequence[Tensor], boxes: Sequence[Tensor]
    ) -> Tensor:
        """Mask logits in boxes: the centres of a grid of resolution × resolution equal cells.

        Args:
            features: what `features` gave.
            embeddings: for each image (n_i, embedding_channels).
            boxes: for each image (n_i, 4), XYXY px.

        Returns:
            (Σ n_i, resolution, resolution) float32.
        """
        size = self.resolution
        # One sample in the middle of each cell. Half-pixel centres: a feature stands for the middle
        # of its stride × stride px.
        seen = roi_align(
            features,
            [box.float() for box in boxes],
            output_size=size,
            spatial_scale=1 / self.stride,
            sampling_ratio=1,
            aligned=True,
        )
        x = torch.cat([seen, self._places(seen)], dim=1).flatten(2).transpose(1, 2)
        layers = self._layers(self.controller(torch.cat(list(embeddings))).float())
        for number, (weight, bias) in enumerate(layers):
            x = torch.baddbmm(bias, x, weight.transpose(1, 2))
            if number < len(layers) - 1:
                x = F.relu(x)
        return x.view(-1, size, size)

    def _places(self, like: Tensor) -> Tensor:
        """(n, 2, R, R): x and y of each cell's centre in its box, from -1 to 1."""
        axis = (torch.arange(self.resolution, device=like.device) + 0.5) * 2 / self.resolution - 1
        y, x = torch.meshgrid(axis, axis, indexing="ij")
        return torch.stack([x, y]).expand(len(like), -1, -1, -1)

    def _layers(self, parameters: Tensor) -> list[tuple[Tensor, Tensor]]:
        """(n, …) → of each convolution, views: weights (n, out, in) and biases (n, 1, out)."""
        layers, start = [], 0
        for ins, outs in self.shapes:
            weight = parameters[:, start : start + ins * outs].unflatten(1, (outs, ins))
            start += ins * outs
            layers.append((weight, parameters[:, None, start : start + outs]))
            start += outs
        return layers


def mask_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Binary cross entropy plus dice loss (V-Net, arXiv 1606.04797) of each mask, in float32.

    The first teaches every pixel from the start, the second weighs small and large shapes alike.

    Args:
        logits: (n, R, R).
        targets: (n, R, R), 0 or 1.

    Returns:
        (n,) float32.
    """
    logits, targets = logits.float().flatten(1), targets.float().flatten(1)
    entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none").mean(1)
    scores = logits.sigmoid()
    overlap = 2 * (scores * targets).sum(1) + 1
    return entropy + 1 - overlap / (scores.square().sum(1) + targets.square().sum(1) + 1)


def take_turns(objects: Tensor, quality: Tensor, limit: int) -> Tensor:
    """Which at most `limit` of n points stand for their objects.

    Each object's best point comes first, then each one's second, and so on, so that none goes
    without before another has two.

    Args:
        objects: (n,) int64, the object of each point.
        quality: (n,) how well the point fits.

    Returns:
        Indices into the points.
    """
    best_first = quality.argsort(descending=True, stable=True)
    owner, by_owner = objects[best_first].sort(stable=True)
    rank = torch.empty_like(by_owner)
    rank[by_owner] = torch.arange(len(owner), device=owner.device) - torch.searchsorted(
        owner, owner
    )
    return best_first[rank.argsort(stable=True)[:limit]]
