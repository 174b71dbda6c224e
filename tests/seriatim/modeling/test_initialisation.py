"""Weights after initialisation by name, beside the theory of each."""

from __future__ import annotations

import math

import pytest
import timm
import torch
from torch import nn

from dataset_tools.errors import InputError
from seriatim.modeling.backbone.densenet import DenseNet
from seriatim.modeling.backbone.preact_resnet import PreActResNet, Stage
from seriatim.modeling.initialisation import initialise, layer_starts


def small() -> PreActResNet:
    torch.manual_seed(0)
    return PreActResNet([Stage(32, 2, 1), Stage(64, 2, 2)], stem_channels=32)


def test_kaiming_has_the_variance_of_its_paper():
    network = small()
    initialise(network, "kaiming")
    for start in layer_starts(network, "kaiming"):
        out, _, *kernel = start.shape
        assert start.theory == pytest.approx(math.sqrt(2 / (out * math.prod(kernel))))
        assert start.measured == pytest.approx(start.theory, rel=0.1)


def test_orthogonal_rows_or_columns_are_orthogonal_and_of_the_gain():
    network = small()
    initialise(network, "orthogonal")
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            matrix = module.weight.detach().flatten(1)
            matrix = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
            torch.testing.assert_close(
                matrix @ matrix.T, 2 * torch.eye(len(matrix)), atol=1e-4, rtol=0
            )
    for start in layer_starts(network, "orthogonal"):
        assert start.measured == pytest.approx(start.theory, rel=1e-3)


@pytest.mark.parametrize("name", ["kaiming", "orthogonal"])
def test_a_signal_keeps_its_size_through_the_branches(name):
    """The reason for both: the branch of a unit has an output of the order of its input."""
    network = small()
    initialise(network, name)
    unit = network.blocks[0][1]
    x = torch.randn(16, 32, 16, 16)
    branch = unit(x.clone()) - x
    assert 0.3 < float(branch.std()) < 3


def test_zero_gamma_starts_as_the_shortcuts_and_still_learns():
    network = small()
    initialise(network, "zero_gamma")
    unit = network.blocks[0][1].train()
    x = torch.randn(8, 32, 8, 8)
    assert torch.equal(unit(x.clone()), x)
    optimizer = torch.optim.SGD(unit.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        unit(x.clone()).square().mean().backward()
        optimizer.step()
    assert all(float(p.grad.abs().sum()) > 0 for p in unit.parameters())
    zero = [s.layer for s in layer_starts(small_at_zero(), "zero_gamma") if s.theory == 0]
    assert zero == [f"blocks.{i}.{j}.conv2" for i in range(2) for j in range(2)]


def small_at_zero() -> PreActResNet:
    network = small()
    initialise(network, "zero_gamma")
    return network


def test_zero_gamma_of_timms_resnet_sets_the_last_norm_of_each_block():
    network = timm.create_model("resnet18", num_classes=0)
    initialise(network, "zero_gamma")
    assert all(not b.bn2.weight.any() for layer in ("layer1", "layer4")
               for b in getattr(network, layer))  # fmt: skip
    assert network.layer1[0].bn1.weight.eq(1).all()


def test_norms_and_biases_start_plain():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))
    for parameter in network.parameters():
        nn.init.constant_(parameter, 7.0)
    initialise(network, "kaiming")
    assert network[1].weight.eq(1).all()
    assert not any(m.bias.any() for m in network if getattr(m, "bias", None) is not None)


def test_what_cannot_be_initialised_is_told():
    with pytest.raises(InputError, match=r"MODEL\.CLASSIFIER\.INIT is 'xyz'"):
        initialise(small(), "xyz")
    with pytest.raises(InputError, match="no residual branch"):
        initialise(DenseNet((1,), growth=2), "zero_gamma")


def test_without_a_name_there_is_no_theory():
    assert all(start.theory is None for start in layer_starts(small(), ""))
    assert "by theory" in str(layer_starts(small(), "kaiming")[0])
