"""ImageClassifier: losses, outputs, what the config makes of it."""

from __future__ import annotations

import math

import pytest
import torch
from detectron2.modeling import build_model
from torch import nn

import seriatim.modeling  # noqa: F401 (registers it)
from dataset_tools.errors import InputError
from seriatim.config import get_cfg

CLASSES = 7


def config(**changes):
    cfg = get_cfg()
    cfg.MODEL.META_ARCHITECTURE = "ImageClassifier"
    cfg.MODEL.BACKBONE.NAME = "build_wide_resnet_backbone"
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.CLASSIFIER.NUM_CLASSES = CLASSES
    cfg.MODEL.WIDE_RESNET.DEPTH, cfg.MODEL.WIDE_RESNET.WIDTH = 10, 1
    cfg.merge_from_list([part for k, v in changes.items() for part in (k.replace("__", "."), v)])
    return cfg


def model(**changes):
    torch.manual_seed(0)
    return build_model(config(**changes))


def batch(count: int = 6, side: int = 16):
    generator = torch.Generator().manual_seed(1)
    return [
        {
            "image": torch.randint(256, (3, side, side), dtype=torch.uint8, generator=generator),
            "label": number % CLASSES,
        }
        for number in range(count)
    ]


def test_the_loss_at_the_start_is_ln_k():
    loss = model()(batch())["loss_cls"]
    assert loss.item() == pytest.approx(math.log(CLASSES), rel=0.05)


@pytest.mark.parametrize(
    ("loss", "formula"),
    [
        ("cross_entropy", math.log(CLASSES)),
        ("focal", (1 - 1 / CLASSES) ** 2 * math.log(CLASSES)),
    ],
)
def test_it_tells_the_gates_what_its_loss_starts_from(loss, formula):
    made = model(MODEL__CLASSIFIER__LOSS=loss)
    low, high = made.expected_initial_losses(batch())["loss_cls"]
    assert math.sqrt(low * high) == pytest.approx(formula, rel=1e-5)
    assert low < made(batch())["loss_cls"].item() < high


def test_label_smoothing_leaves_the_start_and_raises_the_floor():
    smooth = model(MODEL__CLASSIFIER__LABEL_SMOOTHING=0.1)
    targets = smooth.targets(batch())
    certain = 100 * targets
    assert smooth.supervised_loss(certain, targets).item() > 5
    assert model().supervised_loss(certain, targets).item() < 1e-6


def test_inference_gives_probabilities_logits_and_the_best_classes():
    made = model().eval()
    outputs = made(batch())
    assert len(outputs) == 6
    for output in outputs:
        assert output["scores"].shape == output["logits"].shape == (CLASSES,)
        assert output["scores"].dtype == torch.float32
        torch.testing.assert_close(output["scores"], output["logits"].softmax(0))
        order = output["scores"].argsort(descending=True)[:5]
        assert output["classes"].tolist() == order.tolist()


def test_pixels_are_normalised_by_the_config_in_its_own_order():
    made = model(MODEL__PIXEL_MEAN=[10.0, 20.0, 30.0], MODEL__PIXEL_STD=[1.0, 2.0, 4.0])
    items = batch()
    wanted = torch.stack([item["image"].float() for item in items])
    wanted -= torch.tensor([10.0, 20.0, 30.0]).view(3, 1, 1)
    wanted /= torch.tensor([1.0, 2.0, 4.0]).view(3, 1, 1)
    torch.testing.assert_close(made.pixels(items), wanted)
    torch.testing.assert_close(made.pixels([{"weak": i["image"]} for i in items], "weak"), wanted)


@pytest.mark.parametrize("name", ["mixup", "manifold", "cutmix"])
def test_mixing_happens_in_training_alone(name):
    made = model(SERIATIM__MIX__NAME=name)
    plain = model()
    torch.manual_seed(3)
    mixed = made(batch())["loss_cls"]
    torch.manual_seed(3)
    assert mixed.item() != plain(batch())["loss_cls"].item()
    made.load_state_dict(plain.state_dict())  # BatchNorm has seen other images
    with torch.no_grad():
        pairs = zip(made.eval()(batch()), plain.eval()(batch()), strict=True)
        assert all(torch.equal(a["scores"], b["scores"]) for a, b in pairs)


def test_mixing_is_off_in_debug_mode():
    assert model(SERIATIM__MIX__NAME="mixup", SERIATIM__DETERMINISTIC_DEBUG=True).mixer is None


def test_it_mixes_with_a_second_batch_where_it_is_given_one():
    made = model(SERIATIM__MIX__NAME="manifold")
    images, targets = made.pixels(batch()), made.targets(batch())
    logits, soft = made.mixed(images, targets, (images.flip(0), targets.flip(0)))
    assert logits.shape == soft.shape == (6, CLASSES)


def test_layer_0_is_the_input_and_layer_i_that_of_stage_i():
    made = model()
    assert made.blocks[0] is made.backbone
    assert made.blocks[1:] == list(made.backbone.blocks)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("build_preact_resnet_backbone", {"MODEL__PREACT_RESNET__WIDTH": 8}),
        (
            "build_densenet_backbone",
            {"MODEL__DENSENET__BLOCKS": (2, 2), "MODEL__DENSENET__GROWTH": 4},
        ),
        ("build_timm_classifier_backbone", {"MODEL__TIMM__NAME": "test_resnet"}),
        ("build_timm_classifier_backbone", {"MODEL__TIMM__NAME": "test_efficientnet"}),
        (
            "build_resnet_backbone",
            {"MODEL__RESNETS__NORM": "BN", "MODEL__RESNETS__OUT_FEATURES": ["res5"]},
        ),
    ],
)
def test_any_backbone_learns_with_any_mixing(name, options):
    for mixing in ("", "mixup", "cutmix", "manifold"):
        made = model(MODEL__BACKBONE__NAME=name, SERIATIM__MIX__NAME=mixing, **options)
        loss = made(batch(4, side=64))["loss_cls"]
        loss.backward()
        assert all(p.grad is not None for p in made.parameters() if p.requires_grad)
        assert len(made.eval()(batch(1, side=64))) == 1


@pytest.mark.parametrize("name", ["kaiming", "orthogonal", "zero_gamma"])
def test_it_reports_how_it_was_initialised(name):
    made = model(MODEL__CLASSIFIER__INIT=name)
    report = made.initialisation_report()
    assert len(report) == sum(isinstance(m, nn.Conv2d) for m in made.backbone.modules())
    # the stem has 432 numbers; their deviation is within a tenth of theory's
    assert all(s.measured == pytest.approx(s.theory, rel=0.15) for s in report)


def test_dropout_stands_before_the_last_layer():
    assert model(MODEL__CLASSIFIER__DROPOUT=0.3).dropout.p == 0.3


@pytest.mark.parametrize("label", [-1, CLASSES])
def test_a_label_that_is_no_class_is_told(label):
    with pytest.raises(InputError, match=f"label of {label}"):
        model().targets([{"label": label}])


def test_images_of_two_sizes_are_told():
    with pytest.raises(InputError, match=r"3×16×16 and 3×32×32"):
        model().pixels([*batch(1), *batch(1, side=32)])


def test_what_the_backbone_does_not_have_is_told():
    with pytest.raises(InputError, match="IN_FEATURE"):
        model(MODEL__CLASSIFIER__IN_FEATURE="res9")
    with pytest.raises(InputError, match="layers 0"):
        model(SERIATIM__MIX__NAME="manifold", SERIATIM__MIX__LAYERS=(0, 4))


def test_a_layer_frozen_by_a_timm_key_is_told():
    with pytest.raises(InputError, match="FREEZE_AT"):
        model(
            MODEL__BACKBONE__NAME="build_timm_classifier_backbone",
            MODEL__TIMM__NAME="test_resnet",
            MODEL__TIMM__FREEZE_AT=2,
        )
