"""The closed forms of gate init against torch's and torchvision's own losses on fresh models."""

import math

import pytest
import torch
import torchvision
from detectron2.layers import ShapeSpec
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.roi_heads.fast_rcnn import FastRCNNOutputLayers
from detectron2.structures import Boxes
from torch import nn
from torch.nn import functional

from seriatim.gates.expectations import (
    class_logits,
    expected_losses,
    is_informative,
    softmax_at_chance,
)
from seriatim.gates.init import ranked
from seriatim.gates.observe import observe, some_records

from .pipelines import pipeline, trainer_that

PRIOR, ALPHA, GAMMA = 0.01, 0.25, 2.0


class Fresh:
    """A RetinaNet that has learnt nothing, its losses and what is expected of them."""

    def __init__(self, folder, change=lambda model: None, **settings):
        context = pipeline(folder, "retinanet", trainer_that(change), **settings)
        self.batch = context.inputs(some_records(context, 2))
        self.model = context.new_model()
        seen = observe(context, self.model, self.batch, is_informative)
        self.losses = seen.losses
        self.expected = expected_losses(self.model, context.cfg, seen, self.batch)
        self.logits = class_logits(seen)
        self.anchors = Boxes.cat(seen.outputs["anchor_generator"]).tensor

    def positives(self):
        """Anchors and the boxes that they are to become: IoU from 0.5, or the best of a box."""
        pairs = []
        for image in self.batch:
            boxes = image["instances"].gt_boxes.tensor
            iou = torchvision.ops.box_iou(boxes, self.anchors)
            value, box = iou.max(0)
            best = (iou == iou.max(1, keepdim=True).values).any(0)
            chosen = (value >= 0.5) | best
            pairs.append((self.anchors[chosen], boxes[box[chosen]]))
        return tuple(torch.cat(parts) for parts in zip(*pairs, strict=True))

    @property
    def normaliser(self):
        """RetinaNet's running mean of positives: 100 at the start, with a momentum of 0.9."""
        return 90 + 0.1 * len(self.positives()[0])

    def agrees(self, name):
        return self.expected[name].low <= self.losses[name] <= self.expected[name].high

    def first_cause(self, name):
        expected = self.expected[name]
        return ranked(self.losses[name] / expected.middle, expected.suspects)[0].what


# Softmax


def box_head(classes):
    torch.manual_seed(0)
    transform = Box2BoxTransform((10.0, 10.0, 5.0, 5.0))
    return FastRCNNOutputLayers(
        ShapeSpec(channels=64), box2box_transform=transform, num_classes=classes
    )


def cross_entropy_of(head):
    logits, _ = head(torch.randn(512, 64))
    labels = torch.randint(logits.shape[1], (512,))
    return logits, float(functional.cross_entropy(logits, labels).detach())


@pytest.mark.parametrize("classes", [1, 3, 80])
def test_softmax_loses_the_logarithm_of_the_number_of_classes(classes):
    logits, measured = cross_entropy_of(box_head(classes))
    shares = torch.full((classes + 1,), 1 / (classes + 1))
    expected = softmax_at_chance(logits, shares)
    assert expected.middle == pytest.approx(math.log(classes + 1), rel=0.05)
    assert measured == pytest.approx(math.log(classes + 1), rel=0.05)
    assert expected.low <= measured <= expected.high


def test_softmax_over_the_classes_of_another_dataset():
    logits, _ = cross_entropy_of(box_head(3))
    expected = softmax_at_chance(logits, torch.full((4,), 0.25))
    _, measured = cross_entropy_of(box_head(80))
    assert measured > expected.high
    causes = ranked(measured / expected.middle, expected.suspects)
    assert causes[0].what == "the loss is over 80 classes, not these"


# Sigmoid focal loss


def test_focal_loss_at_the_prior(tmp_path):
    fresh = Fresh(tmp_path)
    targets = torch.zeros(len(fresh.logits))
    targets[: len(fresh.positives()[0])] = 1  # one class of each positive anchor
    logits = torch.full_like(targets, -math.log((1 - PRIOR) / PRIOR))
    total = torchvision.ops.sigmoid_focal_loss(logits, targets, ALPHA, GAMMA, reduction="sum")
    value = float(total) / fresh.normaliser
    assert fresh.expected["loss_cls"].middle == pytest.approx(value, rel=1e-4)
    assert fresh.agrees("loss_cls")


def test_focal_loss_without_the_prior(tmp_path):
    fresh = Fresh(tmp_path, lambda model: nn.init.zeros_(model.head.cls_score.bias))
    assert not fresh.agrees("loss_cls")
    assert "not at the prior of 0.01" in fresh.first_cause("loss_cls")


# Boxes


def test_smooth_l1_is_the_distance_from_anchors_to_boxes(tmp_path):
    beta = 0.1
    fresh = Fresh(tmp_path, MODEL__RETINANET__SMOOTH_L1_LOSS_BETA=beta)
    anchors, boxes = (torchvision.ops.box_convert(b, "xyxy", "cxcywh") for b in fresh.positives())
    offsets = (boxes[:, :2] - anchors[:, :2]) / anchors[:, 2:]
    deltas = torch.cat([offsets, (boxes[:, 2:] / anchors[:, 2:]).log()], dim=1)
    total = functional.smooth_l1_loss(torch.zeros_like(deltas), deltas, beta=beta, reduction="sum")
    value = float(total) / fresh.normaliser
    expected = fresh.expected["loss_box_reg"]
    assert expected.low == pytest.approx(value / 1.4, rel=1e-3)
    assert expected.high <= 2 * 1.4 * value
    assert fresh.agrees("loss_box_reg")


def test_giou_is_that_of_anchors_and_boxes(tmp_path):
    fresh = Fresh(tmp_path, MODEL__RETINANET__BBOX_REG_LOSS_TYPE="giou")
    anchors, boxes = fresh.positives()
    total = torchvision.ops.generalized_box_iou_loss(anchors, boxes, reduction="sum")
    value = float(total) / fresh.normaliser
    expected = fresh.expected["loss_box_reg"]
    assert expected.low == pytest.approx(value / 1.4, rel=1e-3)
    assert expected.high < 2 * len(anchors) / fresh.normaliser
    assert fresh.agrees("loss_box_reg")


@pytest.mark.parametrize("kind", ["smooth_l1", "giou"])
def test_a_box_loss_that_is_summed_over_the_positives(tmp_path, kind):
    def forget(model):
        losses = model.losses

        def summed(*arguments):
            found = losses(*arguments)
            return {**found, "loss_box_reg": found["loss_box_reg"] * model.loss_normalizer}

        model.losses = summed

    fresh = Fresh(tmp_path, forget, MODEL__RETINANET__BBOX_REG_LOSS_TYPE=kind)
    assert not fresh.agrees("loss_box_reg")
    assert "not divided by its normaliser" in fresh.first_cause("loss_box_reg")


class Misread(Box2BoxTransform):
    """Its boxes are XYXY, the corner moved by the whole side: taken for another format."""

    def apply_deltas(self, deltas, boxes):
        boxes = super().apply_deltas(deltas, boxes)
        return torch.cat([boxes[..., 2:], 2 * boxes[..., 2:] - boxes[..., :2]], dim=-1)


def test_giou_of_boxes_in_another_format(tmp_path):
    def misread(model):
        model.box2box_transform = Misread(model.box2box_transform.weights)

    fresh = Fresh(tmp_path, misread, MODEL__RETINANET__BBOX_REG_LOSS_TYPE="giou")
    assert fresh.losses["loss_box_reg"] > fresh.expected["loss_box_reg"].high
