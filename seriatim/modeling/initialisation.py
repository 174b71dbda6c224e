"""Initialisation of a network by name, and what a look at its weights says of it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from dataset_tools.errors import InputError

RELU_GAIN = math.sqrt(2.0)
_NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)
_WEIGHTED = (nn.modules.conv._ConvNd, nn.Linear)


def initialise(network: nn.Module, name: str) -> None:
    """Draw all weights of `network` anew from torch's generator. Biases become 0, norms 1 and 0.

    Args:
        name: "kaiming": normal, of variance 2 / fan out (He 2015, arXiv 1502.01852).
            "orthogonal": orthogonal rows or columns, gain √2 (Saxe 2014, arXiv 1312.6120).
            "zero_gamma": as kaiming; then the last layer of every residual branch, its norm or,
            where activation comes first, its convolution, becomes 0, so that the network starts as
            its shortcuts (Goyal 2017, arXiv 1706.02677; Zhang 2019, arXiv 1901.09321). The units
            say which that is by `zero_init_last`, as timm's do.

    Raises:
        InputError: there is no such initialisation, or no residual branch to begin at 0.
    """
    draw, zero_last = _named(name)
    for module in network.modules():
        if isinstance(module, _WEIGHTED):
            draw(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, _NORMS) and module.weight is not None:
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
    if zero_last:
        units = [m for m in network.modules() if hasattr(m, "zero_init_last")]
        if not units:
            raise InputError(
                f"MODEL.CLASSIFIER.INIT is zero_gamma, but {type(network).__name__} has no residual"
                " branch that can begin at 0. Take kaiming or orthogonal."
            )
        for unit in units:
            unit.zero_init_last()


def _kaiming(weight: Tensor) -> None:
    nn.init.kaiming_normal_(weight, mode="fan_out", nonlinearity="relu")


def _orthogonal(weight: Tensor) -> None:
    nn.init.orthogonal_(weight, gain=RELU_GAIN)


_DRAWS: dict[str, tuple[Callable[[Tensor], None], bool]] = {
    "kaiming": (_kaiming, False),
    "orthogonal": (_orthogonal, False),
    "zero_gamma": (_kaiming, True),
}
INITIALISATIONS = tuple(_DRAWS)


def _named(name: str) -> tuple[Callable[[Tensor], None], bool]:
    if name not in _DRAWS:
        raise InputError(
            f"MODEL.CLASSIFIER.INIT is {name!r}; it can be '' (the backbone's own) or one of"
            f" {', '.join(INITIALISATIONS)}."
        )
    return _DRAWS[name]


def theoretical_std(weight: Tensor, name: str) -> float:
    """Root mean square of a (out, in, …) weight that `initialise` has drawn."""
    rows, columns = weight.shape[0], weight[0].numel()
    if name == "orthogonal":
        return RELU_GAIN / math.sqrt(max(rows, columns))
    fan_out = rows * weight[0, 0].numel()
    return RELU_GAIN / math.sqrt(fan_out)


@dataclass(frozen=True)
class LayerStart:
    """Root mean square of a layer's weights as measured, and as the initialisation's theory has it.

    `theory` is None where none is known, and 0 for a layer that begins at 0.
    """

    layer: str
    shape: tuple[int, ...]
    measured: float
    theory: float | None

    @property
    def numbers(self) -> int:
        """How many weights the layer has."""
        return math.prod(self.shape)

    def __str__(self) -> str:
        said = "" if self.theory is None else f", by theory {self.theory:.3g}"
        return f"{'×'.join(map(str, self.shape))}: {self.measured:.3g}{said}"


def layer_starts(network: nn.Module, name: str) -> list[LayerStart]:
    """Of every convolution and linear layer how it starts; `name` "" for an unknown theory."""
    starts = []
    for layer, module in network.named_modules():
        if not isinstance(module, _WEIGHTED):
            continue
        weight = module.weight.detach().float()
        measured = float(weight.square().mean().sqrt())
        theory = theoretical_std(weight, name) if name else None
        if name == "zero_gamma" and measured == 0:
            theory = 0.0
        starts.append(LayerStart(layer, tuple(weight.shape), measured, theory))
    return starts
