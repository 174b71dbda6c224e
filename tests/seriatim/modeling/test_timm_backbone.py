"""timm's models as Detectron2 backbones: stated shapes are real, what is frozen stays."""

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY
from torch import nn

from dataset_tools.errors import InputError
from seriatim.config import get_cfg
from seriatim.modeling.backbone.timm_backbone import (
    TimmBackbone,
    pixel_statistics,
    resolve_pixel_statistics,
)

IMAGE = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    "name", ["tf_efficientnet_lite0", "resnet18", "convnext_atto", "mobilenetv4_conv_small"]
)
def test_levels_have_the_stated_channels_and_strides(name):
    backbone = TimmBackbone(name).eval()
    shapes = backbone.output_shape()
    features = backbone(IMAGE)
    assert set(features) == set(shapes) >= {"res2", "res3", "res4", "res5"}
    for level, feature in features.items():
        stride = shapes[level].stride
        assert level == f"res{stride.bit_length() - 1}"
        assert feature.shape == (2, shapes[level].channels, 64 // stride, 96 // stride)


@pytest.mark.parametrize("name", ["resnet18", "tf_efficientnet_lite0", "mobilenetv4_conv_small"])
def test_only_the_levels_asked_for_are_computed(name):
    small, whole = TimmBackbone(name, out_features=("res3", "res4")), TimmBackbone(name)
    assert list(small(IMAGE)) == ["res3", "res4"]
    sum(feature.sum() for feature in small(IMAGE).values()).backward()
    assert all(p.grad is not None for p in small.parameters())
    small.load_state_dict(whole.state_dict(), strict=False)
    for level, feature in small.eval()(IMAGE).items():
        torch.testing.assert_close(feature, whole.eval()(IMAGE)[level])


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "resnet18"])
def test_frozen_batch_norm_equals_evaluation_and_learns_nothing(name):
    torch.manual_seed(0)
    free = TimmBackbone(name).eval()
    for buffer in free.buffers():
        if buffer.is_floating_point():
            buffer.uniform_(0.5, 1.5)
    frozen = TimmBackbone(name, norm="FrozenBN").train()
    frozen.load_state_dict(free.state_dict(), strict=False)
    for level, feature in frozen(IMAGE).items():
        torch.testing.assert_close(feature, free(IMAGE)[level], rtol=1e-4, atol=1e-5)
    norms = [m for m in frozen.modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms == []


def test_group_norm_replaces_every_batch_norm_and_keeps_the_activation():
    backbone = TimmBackbone("tf_efficientnet_lite0", norm="GN")
    assert not any(isinstance(m, nn.BatchNorm2d) for m in backbone.modules())
    before = TimmBackbone("tf_efficientnet_lite0").model.bn1.act
    assert type(backbone.model.bn1.act) is type(before)
    one, two = backbone(IMAGE)["res5"], backbone(IMAGE[:1])["res5"]
    torch.testing.assert_close(one[:1], two, rtol=1e-4, atol=1e-5)  # no image depends on another


@pytest.mark.parametrize(
    ("name", "fixed", "free"),
    [
        (
            "tf_efficientnet_lite0",
            ["conv_stem", "blocks.0.", "blocks.1."],
            ["blocks.2.", "blocks.6."],
        ),
        ("resnet18", ["conv1", "layer1."], ["layer2.", "layer4."]),
        ("convnext_atto", ["stem_0", "stages_0."], ["stages_1.", "stages_3."]),
    ],
)
def test_freeze_at_two_fixes_all_up_to_stride_four(name, fixed, free):
    backbone = TimmBackbone(name, freeze_at=2).train()
    before = {k: v.clone() for k, v in backbone.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in backbone.parameters() if p.requires_grad], lr=0.1)
    sum(f.square().mean() for level, f in backbone(IMAGE).items() if level > "res2").backward()
    optimizer.step()
    changed = {
        k.removeprefix("model.")
        for k, v in backbone.state_dict().items()
        if not torch.equal(v, before[k])
    }
    assert not any(k.startswith(prefix) for k in changed for prefix in fixed)
    assert all(any(k.startswith(prefix) for k in changed) for prefix in free)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "resnet_none"}, "no model"),
        ({"name": "vit_tiny_patch16_224"}, "one scale"),
        ({"name": "resnet18", "out_features": ("res9",)}, "res9"),
        ({"name": "resnet18", "weights": "package"}, "no package carries"),
        ({"name": "resnet18", "weights": "/nowhere.pth"}, "no file /nowhere.pth"),
        ({"name": "resnet18", "norm": "XN"}, "MODEL.TIMM.NORM"),
    ],
)
def test_a_wrong_option_is_named(options, message):
    with pytest.raises(InputError, match=message):
        TimmBackbone(**options)


def test_weights_from_a_file_are_loaded(tmp_path):
    import timm

    path = tmp_path / "weights.pth"
    classifier = timm.create_model("resnet18")
    torch.save(classifier.state_dict(), path)
    backbone = TimmBackbone("resnet18", weights=str(path))
    torch.testing.assert_close(
        backbone.model.state_dict()["layer4.1.conv2.weight"],
        classifier.layer4[1].conv2.weight.detach(),
    )


def _config(neck: str, **fpn):
    cfg = get_cfg()
    cfg.MODEL.BACKBONE.NAME = neck
    cfg.MODEL.FPN.IN_FEATURES = ["res3", "res4", "res5"]
    cfg.MODEL.FPN.OUT_CHANNELS = 32
    for key, value in fpn.items():
        cfg.MODEL.FPN[key] = value
    return cfg


@pytest.mark.parametrize(
    ("neck", "top", "levels"),
    [
        ("build_timm_fpn_backbone", "", {"p3": 8, "p4": 16, "p5": 32}),
        ("build_timm_fpn_backbone", "maxpool", {"p3": 8, "p4": 16, "p5": 32, "p6": 64}),
        ("build_timm_fpn_backbone", "p6p7", {"p3": 8, "p4": 16, "p5": 32, "p6": 64, "p7": 128}),
        ("build_timm_pan_backbone", "", {"p3": 8, "p4": 16, "p5": 32}),
    ],
)
def test_necks_give_the_stated_pyramid(neck, top, levels):
    cfg = _config(neck, TOP_BLOCK=top)
    backbone = BACKBONE_REGISTRY.get(neck)(cfg, ShapeSpec(channels=3))
    assert {name: shape.stride for name, shape in backbone.output_shape().items()} == levels
    features = backbone(torch.rand(1, 3, 128, 128))
    assert {name: 128 // f.shape[-1] for name, f in features.items()} == levels


@pytest.mark.parametrize(
    ("neck", "depends"), [("build_timm_fpn_backbone", False), ("build_timm_pan_backbone", True)]
)
def test_pan_alone_carries_fine_detail_up_to_the_top_level(neck, depends):
    """The bottom-up path: p5 changes with what res3 gives, which in FPN it cannot."""
    backbone = BACKBONE_REGISTRY.get(neck)(_config(neck), ShapeSpec(channels=3)).eval()
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        before = backbone(image)["p5"]
        backbone.fpn_lateral3.weight.mul_(2)
        assert torch.equal(backbone(image)["p5"], before) != depends


@pytest.mark.parametrize(
    ("neck", "fpn", "message"),
    [
        ("build_timm_fpn_backbone", {"TOP_BLOCK": "p9"}, "TOP_BLOCK"),
        ("build_timm_pan_backbone", {"TOP_BLOCK": "p6p7"}, "PAN has no levels"),
        ("build_timm_fpn_backbone", {"IN_FEATURES": []}, "IN_FEATURES is empty"),
    ],
)
def test_a_wrong_neck_is_named(neck, fpn, message):
    with pytest.raises(InputError, match=message):
        BACKBONE_REGISTRY.get(neck)(_config(neck, **fpn), ShapeSpec(channels=3))


def test_pixel_statistics_follow_the_colour_order():
    mean, std = pixel_statistics("resnet18", "", "RGB")
    assert mean == pytest.approx([123.675, 116.28, 103.53])
    assert pixel_statistics("resnet18", "", "BGR") == (mean[::-1], std[::-1])
    assert pixel_statistics("tf_efficientnet_lite0", "package", "RGB") == ([127.0] * 3, [128.0] * 3)


def test_a_config_gets_the_statistics_of_its_backbone_unless_it_has_its_own():
    cfg = get_cfg()
    cfg.MODEL.BACKBONE.NAME = "build_timm_fpn_backbone"
    cfg.MODEL.TIMM.WEIGHTS = "package"
    resolve_pixel_statistics(cfg)
    assert cfg.MODEL.PIXEL_MEAN == [127.0] * 3 and cfg.MODEL.PIXEL_STD == [128.0] * 3
    for name, mean in (
        ("build_timm_fpn_backbone", [1.0, 2.0, 3.0]),
        ("build_resnet_backbone", None),
    ):
        cfg = get_cfg()
        cfg.MODEL.BACKBONE.NAME = name
        cfg.MODEL.PIXEL_MEAN = before = mean or cfg.MODEL.PIXEL_MEAN
        resolve_pixel_statistics(cfg)
        assert before == cfg.MODEL.PIXEL_MEAN
