"""Held out, new: bugs of models and losses that no gate had seen before."""

from __future__ import annotations

import torch
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.meta_arch import RetinaNet
from detectron2.modeling.proposal_generator import RPN
from detectron2.modeling.roi_heads import FastRCNNOutputLayers, StandardROIHeads
from torch import nn
from torch.nn import functional as F

from seriatim.modeling.meta_arch.task_aligned import TaskAlignedDetector
from tests.bug_zoo.held_out_data import wide
from tests.bug_zoo.planting import model_bug
from tests.bug_zoo.registry import Bug

BUGS: list[Bug] = []

# Features, levels, images


@model_bug(
    BUGS,
    "levels of the pooler reversed",
    area="model",
    what="RoIAlign gets the coarsest level where it looks for the finest.",
    gates=("init",),
    causes=("scale of RoIAlign", "level"),
    kind="faster_rcnn",
)
def _(model: nn.Module) -> None:
    model.roi_heads.box_pooler.register_forward_pre_hook(
        lambda module, inputs: (inputs[0][::-1], *inputs[1:])
    )


class ProposalsOfTheOther(StandardROIHeads):
    def forward(self, images, features, proposals, targets=None):
        if len(proposals) > 1:
            proposals = proposals[::-1]
        return super().forward(images, features, proposals, targets)


@model_bug(
    BUGS,
    "proposals of another image",
    area="model",
    what="The proposals of a batch come in another order than its images.",
    gates=("init", "independence"),
    causes=("another order", "another image", "another of the batch", "mixes the images"),
    kind="faster_rcnn",
)
def _(model: nn.Module) -> None:
    model.roi_heads.__class__ = ProposalsOfTheOther


@model_bug(
    BUGS,
    "features of the first image for all",
    area="model",
    what="An index of 0 was left from a test: all images of a batch get the first's features.",
    gates=("independence",),
    causes=("mixes the images", "across it"),
    kind="task_aligned",
)
def _(model: nn.Module) -> None:
    model.backbone.register_forward_hook(
        lambda module, inputs, output: {k: v[:1].expand_as(v) for k, v in output.items()}
    )


@model_bug(
    BUGS,
    "keep probability taken for drop probability",
    area="model",
    what="A keep probability of 0.95, ported from TensorFlow, drops 95 % of the features.",
    gates=("gradients", "overfit1"),
    causes=("dropout", "Dropout"),
    kind="task_aligned",
    seen=("piergiaj/pytorch-i3d#58", "hassony2/kinetics_i3d_pytorch#6"),
)
def _(model: nn.Module) -> None:
    model.head.cls_tower.append(nn.Dropout(0.95))
    model.head.box_tower.append(nn.Dropout(0.95))


@model_bug(
    BUGS,
    "pixel mean grows with every batch",
    area="model",
    what="The mean is changed in place in preprocess_image, a little with every batch.",
    gates=("gradients", "repeat"),
    causes=("pixel_mean", "buffer", "earlier batches", "every forward pass"),
    kind="retinanet",
)
def _(model: nn.Module) -> None:
    def drift(module, inputs):
        module.pixel_mean += 3.0

    model.register_forward_pre_hook(drift)


BUGS.append(
    Bug(
        "random backbone frozen",
        area="model",
        what="All stages are frozen as for pretrained weights, which are not loaded.",
        gates=("gradients",),
        causes=("frozen", "random", "pretrained"),
        kind="retinanet",
        changes={"MODEL__TIMM__FREEZE_AT": 5},
        seen=("zylo117/Yet-Another-EfficientDet-Pytorch#700",),
    )
)


@model_bug(
    BUGS,
    "half of the head frozen by its name",
    area="model",
    what="A pattern meant for the backbone also fits the box branch, which stays as initialised.",
    gates=("gradients",),
    causes=("frozen", "random", "requires_grad"),
    kind="retinanet",
)
def _(model: nn.Module) -> None:
    for name, parameter in model.named_parameters():
        if "bbox" in name:
            parameter.requires_grad = False


class Thousandth(FastRCNNOutputLayers):
    def forward(self, x):
        scores, deltas = super().forward(x)
        return scores / 1000, deltas


@model_bug(
    BUGS,
    "logits divided by a thousand",
    area="model",
    what="A temperature of 1000 before the softmax: classes learn a thousand times slower.",
    gates=("gradients", "overfit1"),
    causes=("scale", "too low", "temperature", "classif"),
    kind="faster_rcnn",
)
def _(model: nn.Module) -> None:
    model.roi_heads.box_predictor.__class__ = Thousandth


# Inference that is not what was trained


class ClippedWrongly(TaskAlignedDetector):
    def _detect(self, scores, boxes, image_size):
        height, width = image_size
        limit = boxes.new_tensor([height, width, height, width])
        return super()._detect(scores, boxes.clamp(min=0).minimum(limit), image_size)


@model_bug(
    BUGS,
    "boxes clipped to height by width",
    area="model",
    what="Height and width are exchanged where boxes are clipped to the image.",
    gates=("init",),
    causes=("clip", "decodes boxes", "height and width"),
    kind="task_aligned",
    draw=wide,
    seen=("rwightman/efficientdet-pytorch#162",),
)
def _(model: nn.Module) -> None:
    model.__class__ = ClippedWrongly


class LogitsForScores(RetinaNet):
    def inference_single_image(self, anchors, box_cls, box_delta, image_size):
        logits = [level.logit(eps=1e-6) for level in box_cls]
        return super().inference_single_image(anchors, logits, box_delta, image_size)


@model_bug(
    BUGS,
    "logits for scores",
    area="model",
    what="Inference thresholds logits as if they were scores: half of the detections are lost.",
    gates=("init", "overfit1"),
    causes=("score", "sigmoid", "threshold"),
    kind="retinanet",
)
def _(model: nn.Module) -> None:
    model.__class__ = LogitsForScores


class BackgroundFirst(FastRCNNOutputLayers):
    def predict_probs(self, predictions, proposals):
        return tuple(p.roll(1, dims=1) for p in super().predict_probs(predictions, proposals))


@model_bug(
    BUGS,
    "background first in inference",
    area="model",
    what="Training has the background in the last place, inference in the first.",
    gates=("init",),
    causes=("numbers classes", "background"),
    kind="faster_rcnn",
    seen=("facebookresearch/detectron2#524",),
)
def _(model: nn.Module) -> None:
    model.roi_heads.box_predictor.__class__ = BackgroundFirst


@model_bug(
    BUGS,
    "sigmoid twice on masks in inference",
    area="model",
    what="Mask scores go through a second sigmoid: every mask fills its box.",
    gates=("init", "overfit1"),
    causes=("mask",),
    kind="mask_rcnn",
)
def _(model: nn.Module) -> None:
    model.roi_heads.mask_head.predictor.register_forward_hook(
        lambda module, inputs, output: output if module.training else output.sigmoid()
    )


@model_bug(
    BUGS,
    "mask loss of the next class",
    area="loss",
    what="Training teaches the mask of the next class, inference takes that of its own.",
    gates=("init", "overfit1"),
    causes=("mask",),
    kind="mask_rcnn",
)
def _(model: nn.Module) -> None:
    model.roi_heads.mask_head.predictor.register_forward_hook(
        lambda module, inputs, output: output.roll(1, dims=1) if module.training else output
    )


@model_bug(
    BUGS,
    "scores of the first image for all",
    area="model",
    what="In inference an index of 0 was left: all images of a batch get the scores of the first.",
    gates=("independence",),
    causes=("mixes the images", "another", "batch"),
    kind="retinanet",
)
def _(model: nn.Module) -> None:
    def first(module, inputs, output):
        if module.training:
            return output
        logits, deltas = output
        return [level[:1].expand_as(level).clone() for level in logits], deltas

    model.head.register_forward_hook(first)


# Losses


class NoBackground(FastRCNNOutputLayers):
    def losses(self, predictions, proposals):
        found = super().losses(predictions, proposals)
        labels = torch.cat([p.gt_classes for p in proposals])
        loss = F.cross_entropy(predictions[0], labels, ignore_index=self.num_classes)
        return {**found, "loss_cls": loss}


@model_bug(
    BUGS,
    "background not trained",
    area="loss",
    what="The background's label is ignored: nothing says where there is no object.",
    gates=("init", "overfit1"),
    causes=("background", "ignored"),
    kind="faster_rcnn",
)
def _(model: nn.Module) -> None:
    model.roi_heads.box_predictor.__class__ = NoBackground


class TargetsInPixels(Box2BoxTransform):
    def get_deltas(self, src_boxes, target_boxes):
        return target_boxes - src_boxes


@model_bug(
    BUGS,
    "targets in pixels",
    area="loss",
    what="The box loss compares deltas with distances in px: targets are not encoded.",
    gates=("init",),
    causes=("pixels", "encode", "decodes boxes", "unit"),
    kind="retinanet",
)
def _(model: nn.Module) -> None:
    model.box2box_transform.__class__ = TargetsInPixels


class Smoothed(FastRCNNOutputLayers):
    def losses(self, predictions, proposals):
        found = super().losses(predictions, proposals)
        labels = torch.cat([p.gt_classes for p in proposals])
        loss = F.cross_entropy(predictions[0], labels, label_smoothing=0.9)
        return {**found, "loss_cls": loss}


@model_bug(
    BUGS,
    "labels smoothed by 0.9",
    area="loss",
    what="Label smoothing is given the share that should be kept: targets are nearly uniform.",
    gates=("init", "overfit1"),
    causes=("smooth", "target", "classif"),
    kind="faster_rcnn",
    seen=("TimDettmers/ConvE#55", "lxztju/pytorch_classification#9"),
)
def _(model: nn.Module) -> None:
    model.roi_heads.box_predictor.__class__ = Smoothed


class InvertedObjectness(RPN):
    def losses(self, anchors, logits, labels, *rest):
        return super().losses(anchors, [-level for level in logits], labels, *rest)


@model_bug(
    BUGS,
    "objectness inverted",
    area="loss",
    what="The loss of the proposals takes 0 for object: the best proposals are background.",
    gates=("init", "overfit1"),
    causes=("inverted", "objectness", "proposal", "shifted"),
    kind="faster_rcnn",
)
def _(model: nn.Module) -> None:
    model.proposal_generator.__class__ = InvertedObjectness


BUGS.append(
    Bug(
        "only perfect proposals are positive",
        area="loss",
        what="Proposals are objects from an IoU of 0.95: none is, but the ground truth itself.",
        gates=("init",),
        causes=("IOU_THRESHOLDS", "proposals", "matched"),
        kind="faster_rcnn",
        changes={"MODEL__ROI_HEADS__IOU_THRESHOLDS": [0.95]},
        seen=("NVIDIA/retinanet-examples#176", "fizyr/keras-retinanet#81"),
    )
)


class Clamped(TaskAlignedDetector):
    def losses(self, logits, boxes, targets):
        found = super().losses(logits, boxes, targets)
        return {name: loss.clamp(max=0.1) for name, loss in found.items()}


@model_bug(
    BUGS,
    "loss clamped",
    area="loss",
    what="Large losses are cut off against spikes: above the limit nothing has a gradient.",
    gates=("gradients", "init"),
    causes=("clamp", "cut off", "detached"),
    kind="task_aligned",
)
def _(model: nn.Module) -> None:
    model.__class__ = Clamped


class OnlyEverySecond(RetinaNet):
    def label_anchors(self, anchors, gt_instances):
        labels, boxes = super().label_anchors(anchors, gt_instances)
        return [
            label.masked_fill(label == self.num_classes, -1) if number % 2 else label
            for number, label in enumerate(labels)
        ], boxes


@model_bug(
    BUGS,
    "background of every second image ignored",
    area="loss",
    what="A flag meant for images with unlabelled objects drops the background of half the images.",
    gates=("init", "overfit1"),
    causes=("background", "ignored"),
    kind="retinanet",
)
def _(model: nn.Module) -> None:
    model.__class__ = OnlyEverySecond


@model_bug(
    BUGS,
    "anchors of two pixels",
    area="model",
    what="Anchors of 2 px, for objects of 10 to 40: the sizes were meant in strides.",
    gates=("init",),
    causes=("anchor",),
    kind="faster_rcnn",
)
def _(model: nn.Module) -> None:
    for cells in model.proposal_generator.anchor_generator.cell_anchors:
        cells.mul_(0.1)
