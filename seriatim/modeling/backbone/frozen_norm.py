"""Frozen BatchNorm of timm's models at no cost: the convolution before it does its work."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from timm.layers.conv2d_same import Conv2dSame
from timm.layers.norm_act import FrozenBatchNormAct2d
from timm.layers.padding import pad_same
from torch import nn
from torch.nn import functional as F
from torchvision.ops import FrozenBatchNorm2d

_FROZEN = (FrozenBatchNorm2d, FrozenBatchNormAct2d)  # what `freeze_batch_norm_2d` puts in
_PROBE_SIZE = 64  # px; enough for five halvings


class FrozenNorm(FrozenBatchNorm2d):
    """torchvision's or timm's, in one pass over the features instead of two; in none where a
    convolution folds it."""

    def __init__(self, norm: FrozenBatchNorm2d | FrozenBatchNormAct2d) -> None:
        super().__init__(len(norm.weight), norm.eps)
        self.load_state_dict(norm.state_dict())
        self.drop = getattr(norm, "drop", nn.Identity())
        self.act = getattr(norm, "act", nn.Identity())
        self.folded = False
        self.train(norm.training)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.folded:
            fixed = (self.running_mean, self.running_var, self.weight, self.bias)
            x = F.batch_norm(x, *fixed, training=False, eps=self.eps)
        return self.act(self.drop(x))


class NormedConv2d(nn.Conv2d):
    """A convolution, and the frozen norm behind it in its weights and bias.

    They are joined in every forward pass, so that both keep their names and numbers in checkpoints,
    the weights can be trained, and what is loaded later counts.
    """

    def __init__(self, conv: nn.Conv2d, norm: FrozenNorm) -> None:
        super().__init__(
            conv.in_channels,
            conv.out_channels,
            conv.kernel_size,
            conv.stride,
            conv.padding,
            conv.dilation,
            conv.groups,
            bias=False,
            padding_mode=conv.padding_mode,
        )
        self.weight = conv.weight
        self.pads_same = type(conv) is Conv2dSame
        self._norm = (norm,)  # in a tuple, since it is registered where timm has it
        norm.folded = True
        self.train(conv.training)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        (norm,) = self._norm
        scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
        bias = norm.bias - norm.running_mean * scale
        if self.pads_same:
            x = pad_same(x, self.kernel_size, self.stride, self.dilation)
        return self._conv_forward(x, self.weight * scale[:, None, None, None], bias)


def quicken_frozen_norms(model: nn.Module, in_channels: int) -> None:
    """Fold frozen norms into the convolutions that they directly follow, in place; what the
    model computes stays the same but for rounding."""
    if not any(type(module) in _FROZEN for module in model.modules()):
        return
    _replace(model, lambda module: FrozenNorm(module) if type(module) in _FROZEN else module)
    normed = {
        conv: NormedConv2d(conv, norm) for conv, norm in _followers(model, in_channels).items()
    }
    _replace(model, lambda module: normed.get(module, module))


def _followers(model: nn.Module, in_channels: int) -> dict[nn.Conv2d, FrozenNorm]:
    """The frozen norm that takes a convolution's output, where nothing else takes it.

    Told by the graph of a forward pass: names and the order of registration prove nothing.
    """
    makers: dict[Any, nn.Conv2d] = {}  # of the graph's nodes
    takers: dict[Any, FrozenNorm] = {}
    hooks = []
    for module in model.modules():
        if type(module) in (nn.Conv2d, Conv2dSame) and module.bias is None:
            note = partial(_note_output, makers)
        elif isinstance(module, FrozenNorm):
            note = partial(_note_input, takers)
        else:
            continue
        hooks.append(module.register_forward_hook(note))
    modes = {module: module.training for module in model.modules()}
    image = torch.zeros(1, in_channels, _PROBE_SIZE, _PROBE_SIZE, requires_grad=True)
    try:
        with torch.enable_grad():
            outputs = model.eval()(image)
    finally:
        for hook in hooks:
            hook.remove()
        for module, mode in modes.items():
            module.training = mode
    uses = _uses([output.grad_fn for output in outputs])
    return {
        makers[node]: norm for node, norm in takers.items() if node in makers and uses[node] == 1
    }


def _note_output(makers: dict, conv: nn.Conv2d, _: tuple, output: torch.Tensor) -> None:
    makers[output.grad_fn] = conv


def _note_input(takers: dict, norm: FrozenNorm, inputs: tuple, _: torch.Tensor) -> None:
    takers[inputs[0].grad_fn] = norm


def _uses(outputs: list[Any]) -> Counter:
    """How often the output of each node of an autograd graph is used, as an output of all too."""
    uses: Counter = Counter(outputs)
    waiting = [*uses]
    while waiting:
        for node, _ in waiting.pop().next_functions:
            if node is not None:
                if node not in uses:
                    waiting.append(node)
                uses[node] += 1
    return uses


def _replace(module: nn.Module, by: Callable[[nn.Module], nn.Module]) -> None:
    for name, child in module.named_children():
        new = by(child)
        if new is child:
            _replace(child, by)
        else:
            setattr(module, name, new)
