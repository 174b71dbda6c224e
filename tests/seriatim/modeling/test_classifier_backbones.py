"""WideResNet, PreActResNet, DenseNet and timm's classifiers: sizes by closed form and paper."""

from __future__ import annotations

import pytest
import timm
import torch
from detectron2.layers import ShapeSpec
from torch import nn

from dataset_tools.errors import InputError
from seriatim.modeling.backbone.densenet import DenseNet
from seriatim.modeling.backbone.preact_resnet import (
    PreActResNet,
    PreActUnit,
    Stage,
    build_preact_resnet_backbone,
    build_wide_resnet_backbone,
    preact_resnet_stages,
    wide_resnet_stages,
)
from seriatim.modeling.backbone.timm_classifier import TimmClassifierBackbone


def size(network: nn.Module, classes: int = 0) -> int:
    """Parameters, with those of a last layer for so many classes."""
    channels = network.output_shape()[list(network.output_shape())[-1]].channels
    head = (channels + 1) * classes
    return sum(p.numel() for p in network.parameters()) + head


def preact_size(stem: int, stages: list[tuple[int, int, int]], classes: int) -> int:
    """Closed form: (channels, units, stride) of each stage; images of three channels."""
    total, wide = 27 * stem, stem
    for channels, units, stride in stages:
        total += 2 * wide + 9 * wide * channels + 2 * channels + 9 * channels**2
        if stride > 1 or wide != channels:
            total += wide * channels
        total += (units - 1) * (4 * channels + 18 * channels**2)
        wide = channels
    return total + 2 * wide + (wide + 1) * classes


def wide(depth: int, width: int) -> PreActResNet:
    return PreActResNet(wide_resnet_stages(depth, width), stem_channels=16)


def preact(depth: int, width: int = 64) -> PreActResNet:
    return PreActResNet(preact_resnet_stages(depth, width), stem_channels=width)


@pytest.mark.parametrize(("depth", "width"), [(28, 2), (28, 10), (16, 2), (40, 4), (10, 1)])
def test_wide_resnet_has_the_parameters_of_its_closed_form(depth, width):
    n = (depth - 4) // 6
    stages = [(16 * width, n, 1), (32 * width, n, 2), (64 * width, n, 2)]
    assert size(wide(depth, width), classes=10) == preact_size(16, stages, 10)


@pytest.mark.parametrize(
    ("depth", "width", "millions"),
    # Zagoruyko and Komodakis, tables 2 and 4.
    [
        (40, 1, 0.6),
        (40, 2, 2.2),
        (40, 4, 8.9),
        (40, 8, 35.7),
        (28, 10, 36.5),
        (28, 12, 52.5),
        (22, 8, 17.2),
        (22, 10, 26.8),
        (16, 8, 11.0),
        (16, 10, 17.1),
    ],
)
def test_wide_resnet_is_as_large_as_its_paper_says(depth, width, millions):
    with torch.device("meta"):
        assert round(size(wide(depth, width), classes=10) / 1e6, 1) == millions


def test_wide_resnet_28_2_and_28_10_are_those_that_others_report():
    assert size(wide(28, 2), classes=10) == 1_467_610  # 1.5 M in Oliver 2018, arXiv 1804.09170
    assert size(wide(28, 10), classes=10) == 36_479_194


@pytest.mark.parametrize(("depth", "units"), [(18, (2, 2, 2, 2)), (34, (3, 4, 6, 3))])
@pytest.mark.parametrize("width", [64, 16])
def test_preact_resnet_has_the_parameters_of_its_closed_form(depth, units, width):
    stages = [(width * 2**i, n, 1 if i == 0 else 2) for i, n in enumerate(units)]
    assert size(preact(depth, width), classes=10) == preact_size(width, stages, 10)


def test_preact_resnet_110_is_as_large_as_its_paper_says():
    """He 2016, arXiv 1512.03385, table 6: 1.7 M; three stages from 16 channels."""
    stages = [Stage(16, 18, 1), Stage(32, 18, 2), Stage(64, 18, 2)]
    assert round(size(PreActResNet(stages, stem_channels=16), classes=10) / 1e6, 1) == 1.7


def dense_size(layers: tuple[int, ...], growth: int, stem: int, classes: int) -> int:
    total, channels = 27 * stem, stem
    for number, count in enumerate(layers):
        if number:
            total += 2 * channels + channels * (channels // 2)
            channels //= 2
        for _ in range(count):
            total += 2 * channels + 4 * growth * channels + 8 * growth + 36 * growth**2
            channels += growth
    return total + 2 * channels + (channels + 1) * classes


@pytest.mark.parametrize("stem", [0, 16])
def test_densenet_121_has_the_parameters_of_its_closed_form(stem):
    layers = (6, 12, 24, 16)
    network = DenseNet(layers, growth=32, stem_channels=stem)
    assert size(network, classes=10) == dense_size(layers, 32, stem or 64, 10)


@pytest.mark.parametrize(
    ("depth", "growth", "millions"),
    [(100, 12, 0.8), (250, 24, 15.3), (190, 40, 25.6)],  # Huang 2017, table 2, DenseNet-BC
)
def test_densenet_bc_is_as_large_as_its_paper_says(depth, growth, millions):
    layers = ((depth - 4) // 6,) * 3
    with torch.device("meta"):
        network = DenseNet(layers, growth=growth)
    assert round(size(network, classes=10) / 1e6, 1) == millions


def test_densenet_121_is_timms_but_for_the_stem():
    """timm's stem is for large images: a 7×7 convolution, two norm parameters a channel."""
    ours = size(DenseNet((6, 12, 24, 16), growth=32), classes=1000)
    theirs = sum(p.numel() for p in timm.create_model("densenet121").parameters())
    assert theirs - ours == (49 - 9) * 3 * 64 + 2 * 64


@pytest.mark.parametrize(
    ("network", "channels", "stride"),
    [
        (wide(10, 2), 128, 4),
        (preact(18, 8), 64, 8),
        (DenseNet((2, 2, 2, 2), growth=4), 16, 8),
    ],
)
def test_features_have_the_shape_that_is_promised(network, channels, stride):
    features = network(torch.randn(2, 3, 32, 32))["features"]
    shape = network.output_shape()["features"]
    assert features.shape == (2, channels, 32 // stride, 32 // stride)
    assert (shape.channels, shape.stride) == (channels, stride)
    assert float(features.detach().min()) >= 0


def test_a_unit_is_its_formula():
    """The shortcut of a unit that changes width takes the activated input, any other the input."""
    torch.manual_seed(0)
    x = torch.randn(2, 4, 6, 6)
    for unit in (PreActUnit(4, 8, stride=2).eval(), PreActUnit(4, 4).eval()):
        active = torch.relu(unit.norm1(x))
        branch = unit.conv2(torch.relu(unit.norm2(unit.conv1(active))))
        kept = x if unit.shortcut is None else unit.shortcut(active)
        assert torch.allclose(unit(x), kept + branch)


def test_stochastic_depth_rises_linearly_and_leaves_out_whole_branches():
    network = PreActResNet([Stage(8, 4, 1)], stem_channels=8, drop_path=0.4)
    assert [unit.drop_path.drop_prob for unit in network.blocks[0]] == pytest.approx(
        [0.1, 0.2, 0.3, 0.4]
    )
    unit = PreActUnit(4, 4, drop_path=0.5).train()
    x = torch.randn(64, 4, 4, 4)
    kept = [bool(torch.equal(a, b)) for a, b in zip(unit(x.clone()), x, strict=True)]
    assert 10 < sum(kept) < 54


def test_dropout_stands_between_the_convolutions():
    unit = PreActUnit(4, 4, dropout=0.3)
    assert isinstance(unit.dropout, nn.Dropout) and unit.dropout.p == 0.3


@pytest.mark.parametrize("build", [wide_resnet_stages, preact_resnet_stages])
def test_a_depth_that_does_not_exist_is_told(build):
    with pytest.raises(InputError, match="DEPTH"):
        build(27, 2)


def test_backbones_are_built_from_the_config():
    from seriatim.config import get_cfg

    cfg = get_cfg()
    cfg.merge_from_list(["MODEL.WIDE_RESNET.DEPTH", 10, "MODEL.WIDE_RESNET.WIDTH", 3])
    cfg.merge_from_list(["MODEL.PREACT_RESNET.DEPTH", 34, "MODEL.PREACT_RESNET.WIDTH", 8])
    wide_one = build_wide_resnet_backbone(cfg, ShapeSpec(channels=1))
    assert wide_one.output_shape()["features"].channels == 192
    assert wide_one.stem.weight.shape == (16, 1, 3, 3)
    assert [len(b) for b in build_preact_resnet_backbone(cfg, ShapeSpec(channels=3)).blocks] == [
        3, 4, 6, 3,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "blocks"),
    [("resnet18", 4), ("vit_tiny_patch16_224", 12), ("tf_efficientnet_lite0", 5),
     ("convnext_atto", 4), ("mobilenetv3_small_050", 4)],
)  # fmt: skip
def test_timm_classifiers_give_pooled_features_and_name_their_blocks(name, blocks):
    backbone = TimmClassifierBackbone(name).eval()
    side = 224 if "224" in name else 64
    with torch.no_grad():
        pooled = backbone(torch.randn(1, 3, side, side))["pooled"]
    assert pooled.shape == (1, backbone.output_shape()["pooled"].channels)
    assert len(backbone.blocks) == blocks


def test_a_timm_model_that_does_not_exist_is_told():
    with pytest.raises(InputError, match="no model"):
        TimmClassifierBackbone("resnet_of_dreams")
