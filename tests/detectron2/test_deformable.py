"""Deformable convolution against a plain one at zero offset, and finite differences."""

import pytest
import torch
import torch.nn.functional as F
from detectron2.layers import DeformConv, ModulatedDeformConv
from detectron2.layers.deform_conv import deform_conv, modulated_deform_conv

from .flavour import mended_only

pytestmark = mended_only


def _tensors(groups=1, deformable_groups=1):
    generator = torch.Generator().manual_seed(0)

    def random(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    points = deformable_groups * 9
    # 3 x 4 px at stride 2 and padding 1 give 2 x 2.
    return {
        "input": random(2, 4, 3, 4),
        "offset": random(2, 2 * points, 2, 2) * 0.6,
        "mask": random(2, points, 2, 2).sigmoid(),
        "weight": random(2, 4 // groups, 3, 3),
        "bias": random(2),
    }


@pytest.mark.parametrize(("groups", "deformable_groups"), [(1, 1), (2, 1), (1, 2), (2, 4)])
def test_zero_offset_is_a_plain_convolution(groups, deformable_groups):
    t = _tensors(groups, deformable_groups)
    offset, mask = torch.zeros_like(t["offset"]), torch.ones_like(t["mask"])
    args = (2, 1, 1, groups, deformable_groups)
    plain = F.conv2d(t["input"], t["weight"], None, 2, 1, 1, groups)
    torch.testing.assert_close(deform_conv(t["input"], offset, t["weight"], *args), plain)
    modulated = modulated_deform_conv(t["input"], offset, mask / 2, t["weight"], t["bias"], *args)
    torch.testing.assert_close(modulated, plain / 2 + t["bias"][:, None, None])


def test_an_offset_of_one_px_moves_the_input():
    t = _tensors()
    offset = torch.zeros(2, 18, 3, 4, dtype=torch.float64)
    offset[:, 1::2] = 1  # (y, x) pairs: one px to the right
    moved = F.pad(t["input"], (0, 1))[..., 1:]
    ours = deform_conv(t["input"], offset, t["weight"], 1, 1)[..., 1:-1]
    torch.testing.assert_close(ours, F.conv2d(moved, t["weight"], None, 1, 1)[..., 1:-1])


@pytest.mark.parametrize(("groups", "deformable_groups"), [(1, 1), (2, 2)])
def test_gradients_equal_finite_differences(groups, deformable_groups):
    t = _tensors(groups, deformable_groups)
    args = (2, 1, 1, groups, deformable_groups)
    leaves = [t[k].requires_grad_() for k in ("input", "offset", "weight")]
    assert torch.autograd.gradcheck(lambda *x: deform_conv(*x, *args), leaves)
    leaves = [t[k].requires_grad_() for k in ("input", "offset", "mask", "weight", "bias")]
    assert torch.autograd.gradcheck(lambda *x: modulated_deform_conv(*x, *args), leaves)
    without_bias = leaves[:-1]
    assert torch.autograd.gradcheck(lambda *x: modulated_deform_conv(*x, None, *args), without_bias)


def test_modules_train_on_the_cpu():
    x = torch.randn(2, 4, 8, 8)
    for module, extra in ((DeformConv, ()), (ModulatedDeformConv, (torch.ones(2, 9, 8, 8),))):
        layer = module(4, 4, kernel_size=3, padding=1)
        layer(x, torch.zeros(2, 18, 8, 8), *extra).sum().backward()
        assert layer.weight.grad.abs().sum() > 0
