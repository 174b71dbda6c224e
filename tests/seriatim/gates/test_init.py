import math

import pytest
import torch
from detectron2.data import MetadataCatalog
from torch import nn

from seriatim.engine.trainer import Trainer
from seriatim.gates.expectations import Suspect, softmax_at_chance
from seriatim.gates.gradients import GradientsGate
from seriatim.gates.independence import IndependenceGate
from seriatim.gates.init import InitGate, ranked
from seriatim.gates.verdict import Cause, Status
from seriatim.modeling.meta_arch import task_aligned

from .pipelines import KINDS, ask, assert_caught, assert_healthy, pipeline, trainer_that


@pytest.mark.parametrize("kind", list(KINDS))
def test_healthy(kind, tmp_path):
    verdict = ask(InitGate(), pipeline(tmp_path, kind), tmp_path)
    assert_healthy(verdict)
    assert "no closed form" not in verdict.summary
    assert (tmp_path / "gate" / "losses.png").stat().st_size > 1000


def test_softmax_at_chance_is_the_loss_on_independent_labels():
    g = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(40_000, 5, generator=g) + torch.arange(5.0)
    labels = torch.randint(3, (40_000,), generator=g)  # two of the classes never appear
    measured = nn.functional.cross_entropy(logits, labels)
    expected = softmax_at_chance(logits, torch.tensor([1 / 3, 1 / 3, 1 / 3, 0, 0]))
    assert expected.high == pytest.approx(1.5 * float(measured), rel=0.02)
    assert expected.low == pytest.approx(math.log(5) / 1.5)


# Planted bugs


@pytest.mark.parametrize("kind", ["retinanet", "task_aligned", "fcos"])
def test_classification_bias_at_zero(kind, tmp_path):
    def forget(model):
        head = model.head
        nn.init.zeros_((head.cls_logits if hasattr(head, "cls_logits") else head.cls_score).bias)

    context = pipeline(tmp_path, kind, trainer_that(forget))
    assert_caught(ask(InitGate(), context, tmp_path), "bias of the classification layer")


def test_last_layer_too_wide(tmp_path):
    def widen(model):
        nn.init.normal_(model.roi_heads.box_predictor.cls_score.weight, std=3.0)

    context = pipeline(tmp_path, "faster_rcnn", trainer_that(widen))
    assert_caught(ask(InitGate(), context, tmp_path), "last layer is initialised too wide")


def test_head_for_another_dataset(tmp_path):
    context = pipeline(tmp_path, "retinanet")
    name = context.cfg.DATASETS.TRAIN[0]
    context.new_model()  # built before the data turn out to have more classes
    names = MetadataCatalog.get(name).thing_classes
    MetadataCatalog.pop(name)
    MetadataCatalog.get(name).set(thing_classes=[*names, "hexagon"])
    assert_caught(ask(InitGate(), context, tmp_path), "number of classes")


def test_labels_from_one(tmp_path):
    class OffByOne(Trainer):
        @classmethod
        def build_mapper(cls, cfg, is_train, **overrides):
            mapper = super().build_mapper(cfg, is_train, **overrides)

            def off_by_one(record):
                mapped = mapper(record)
                mapped["instances"].gt_classes += 1
                return mapped

            return off_by_one

    context = pipeline(tmp_path, "retinanet", OffByOne)
    assert_caught(ask(InitGate(), context, tmp_path), "labels start from 1")


def test_focal_loss_averaged_over_all_anchors(tmp_path):
    def average(model):
        losses = model.losses

        def mean(anchors, logits, *rest):
            found = losses(anchors, logits, *rest)
            count = sum(level.numel() for level in logits)
            return {**found, "loss_cls": found["loss_cls"] * 100 / count}

        model.losses = mean

    context = pipeline(tmp_path, "retinanet", trainer_that(average))
    assert_caught(ask(InitGate(), context, tmp_path), "averaged over all predictions")


def test_focal_alpha_inverted(tmp_path):
    def invert(model):
        losses = model.losses

        def inverted(*arguments):
            model.focal_loss_alpha = 0.75
            found = losses(*arguments)
            model.focal_loss_alpha = 0.25
            return found

        model.losses = inverted

    context = pipeline(tmp_path, "retinanet", trainer_that(invert))
    assert_caught(ask(InitGate(), context, tmp_path), "alpha weighs the wrong side")


def test_quality_focal_loss_without_focus(tmp_path, monkeypatch):
    def plain(logits, targets, beta=0.0):
        return nn.functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")

    monkeypatch.setattr(task_aligned, "quality_focal_loss", plain)
    verdict = ask(InitGate(), pipeline(tmp_path, "task_aligned"), tmp_path)
    assert_caught(verdict, "focusing")


def test_loss_summed_over_images(tmp_path):
    def double(model):
        forward = model.proposal_generator.losses

        def summed(*arguments):
            return {name: 2 * loss for name, loss in forward(*arguments).items()}

        model.proposal_generator.losses = summed

    context = pipeline(tmp_path, "faster_rcnn", trainer_that(double))
    assert_caught(ask(InitGate(), context, tmp_path), "summed over the 2 images")


def test_weight_of_zero(tmp_path):
    context = pipeline(tmp_path, "task_aligned", MODEL__TASK_ALIGNED__BOX_WEIGHT=0.0)
    assert_caught(ask(InitGate(), context, tmp_path), "weight is 0", "BOX_WEIGHT")


def test_features_thrown_away(tmp_path):
    def cut(model):
        nn.init.zeros_(model.head.cls_logits.weight)
        nn.init.zeros_(model.head.box_distances.weight)

    context = pipeline(tmp_path, "task_aligned", trainer_that(cut))
    assert_caught(ask(InitGate(), context, tmp_path), "last layers are initialised to 0")


def test_standard_deviation_of_zero(tmp_path):
    context = pipeline(tmp_path, "task_aligned", MODEL__PIXEL_STD=[58.0, 0.0, 58.0])
    assert_caught(ask(InitGate(), context, tmp_path), "PIXEL_STD")


def test_frozen_norm_on_random_weights(tmp_path):
    context = pipeline(
        tmp_path,
        "faster_rcnn",
        MODEL__BACKBONE__NAME="build_resnet_fpn_backbone",
        MODEL__RESNETS__OUT_FEATURES=["res2", "res3", "res4", "res5"],
        MODEL__FPN__TOP_BLOCK="",
    )
    assert_caught(ask(InitGate(), context, tmp_path), "BatchNorm is frozen")


def test_unknown_architecture_needs_only_sane_losses(tmp_path):
    class Unknown(Trainer):
        @classmethod
        def build_model(cls, cfg):
            return Meaner(super().build_model(cfg))

    class Meaner(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, batch):
            return {"loss": sum(self.inner(batch).values())}

    verdict = ask(InitGate(), pipeline(tmp_path, "faster_rcnn", Unknown), tmp_path)
    assert_healthy(verdict)
    assert "no closed form for loss" in verdict.summary


def test_told_by_the_model(tmp_path):
    def lie(model):
        model.expected_initial_losses = lambda batch: {"loss_cls": (100.0, 200.0)}

    verdict = ask(InitGate(), pipeline(tmp_path, "retinanet", trainer_that(lie)), tmp_path)
    assert verdict.status is Status.FAIL
    assert "as the model itself derives it" in verdict.findings[0].expected


def test_causes_are_ranked_by_how_well_their_factor_fits():
    suspects = (Suspect(2, Cause("twice")), Suspect(2.6, Cause("more")), Suspect(9, Cause("much")))
    assert [c.what for c in ranked(2.5, suspects)] == ["more", "twice"]
    assert ranked(0.1, suspects) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fixed", "uncertainty", "gradnorm"])
def test_a_detector_with_balanced_losses_is_healthy(tmp_path, name):
    weights = [["loss_cls", 3.0], ["loss_box_reg", 0.5]]
    changes = {"SERIATIM__LOSS_BALANCE": {"NAME": name, "WEIGHTS": weights}}
    context = pipeline(tmp_path, "retinanet", **changes)
    for gate in (InitGate(), IndependenceGate(), GradientsGate()):
        assert_healthy(ask(gate, context, tmp_path))
