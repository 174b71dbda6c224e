"""Frozen norms in convolutions: what is computed, and what is learnt, is as with timm's own."""

import copy

import pytest
import timm
import torch
from timm.layers import BatchNormAct2d
from timm.layers.norm_act import freeze_batch_norm_2d
from torch import nn

from seriatim.modeling.backbone.frozen_norm import (
    NormedConv2d,
    quicken_frozen_norms,
)

MODELS = ["tf_efficientnet_lite0", "resnet18", "mobilenetv4_conv_small", "resnetv2_18"]


def frozen(name: str) -> nn.Module:
    """timm's model whose frozen norms all do something."""
    torch.manual_seed(0)
    model = freeze_batch_norm_2d(timm.create_model(name, features_only=True))
    for value in model.buffers():
        value.uniform_(0.5, 1.5)
    return model


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("name", MODELS)
def test_features_and_gradients_are_timms(name, layout):
    theirs = frozen(name).to(memory_format=layout)
    ours = copy.deepcopy(theirs)
    quicken_frozen_norms(ours, in_channels=3)
    folded = [m for m in ours.modules() if isinstance(m, NormedConv2d)]
    assert len(folded) >= 8
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    for value in (*theirs.parameters(), *ours.parameters()):
        value.data.mul_(0.9)  # what is loaded after the norms were folded counts
    images = torch.rand(2, 3, 64, 96).to(memory_format=layout)
    for expected, got in zip(theirs(images), ours(images), strict=True):
        scale = expected.abs().max()
        torch.testing.assert_close(got / scale, expected / scale, rtol=1e-4, atol=1e-5)
    for model in (theirs, ours):
        model(images)[-1].square().mean().sqrt().backward()
    grads = {name: p.grad for name, p in theirs.named_parameters()}
    for key, parameter in ours.named_parameters():
        if grads[key] is not None:
            scale = grads[key].abs().max() + 1e-12
            torch.testing.assert_close(
                parameter.grad / scale, grads[key] / scale, rtol=1e-2, atol=1e-3
            )


@pytest.mark.parametrize("name", MODELS)
def test_what_norms_hold_later_counts(name):
    theirs = frozen(name)
    ours = freeze_batch_norm_2d(timm.create_model(name, features_only=True))
    quicken_frozen_norms(ours, in_channels=3)
    ours.load_state_dict(theirs.state_dict())
    copied = copy.deepcopy(ours)
    with torch.no_grad():
        for buffer in ours.buffers():
            buffer.zero_()  # a copy reads its own norms, not those it was copied from
        images = torch.rand(1, 3, 64, 64)
        for expected, got in zip(theirs(images), copied(images), strict=True):
            scale = expected.abs().max()
            torch.testing.assert_close(got / scale, expected / scale, rtol=1e-4, atol=1e-5)


class Shared(nn.Module):
    """A convolution whose output goes to a norm and past it, and one whose goes to it alone."""

    def __init__(self):
        super().__init__()
        self.norm_after = BatchNormAct2d(4)  # registered before what it follows
        self.first = nn.Conv2d(3, 4, 3, bias=False)
        self.norm_before = BatchNormAct2d(4)
        self.second = nn.Conv2d(4, 4, 1, bias=False)

    def forward(self, x):
        x = self.first(x)
        return [x + self.norm_after(self.second(self.norm_before(x)))]


def test_a_convolution_whose_output_is_used_elsewhere_keeps_its_norm():
    torch.manual_seed(0)
    theirs = freeze_batch_norm_2d(Shared())
    for value in theirs.buffers():
        value.uniform_(0.5, 1.5)
    ours = copy.deepcopy(theirs)
    quicken_frozen_norms(ours, in_channels=3)
    assert isinstance(ours.second, NormedConv2d) and not isinstance(ours.first, NormedConv2d)
    assert ours.norm_after.folded and not ours.norm_before.folded
    image = torch.rand(1, 3, 8, 8)
    torch.testing.assert_close(ours(image), theirs(image))


def test_modes_weights_and_what_may_be_trained_stay():
    model = frozen("resnet18")
    model.conv1.weight.requires_grad_(False)
    model.layer1.eval()
    modes = {name: m.training for name, m in model.named_modules()}
    values = {k: v.clone() for k, v in model.state_dict().items()}
    trainable = {k for k, p in model.named_parameters() if p.requires_grad}
    quicken_frozen_norms(model, in_channels=3)
    after = {name: m.training for name, m in model.named_modules() if name in modes}
    assert all(after[name] == modes[name] for name in after) and len(after) > 40
    assert {k for k, p in model.named_parameters() if p.requires_grad} == trainable
    assert all(torch.equal(v, values[k]) for k, v in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
