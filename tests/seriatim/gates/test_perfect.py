from dataclasses import replace

import pytest
import torch
from detectron2.modeling.meta_arch import RetinaNet
from detectron2.modeling.roi_heads import FastRCNNOutputLayers

from seriatim.gates.context import Context
from seriatim.gates.expectations import is_informative
from seriatim.gates.init import InitGate, fresh_model
from seriatim.gates.observe import observe, some_records
from seriatim.gates.perfect import perfection
from seriatim.modeling.meta_arch.task_aligned import TaskAlignedDetector

from .pipelines import ask, assert_caught, pipeline, trainer_that


def perfect_outputs(context: Context):
    model, batch = fresh_model(context), context.inputs(some_records(context, 2))
    seen = observe(context, model, batch, is_informative)
    return perfection(context, model, batch, seen)


@pytest.mark.parametrize(
    "kind", ["retinanet", "task_aligned", "task_aligned_masks", "faster_rcnn", "mask_rcnn"]
)
def test_perfect_outputs_lose_nothing_and_are_found(kind, tmp_path):
    found = perfect_outputs(pipeline(tmp_path, kind))
    assert max(found.losses.values()) < 0.01
    assert found.found == found.placed == 1.0
    assert found.drawn == (1.0 if kind == "task_aligned_masks" else None)


def test_layouts_that_are_not_known_are_not_judged(tmp_path):
    assert perfect_outputs(pipeline(tmp_path, "fcos")) is None
    assert perfect_outputs(pipeline(tmp_path, "cascade_rcnn")) is None


class ViewInsteadOfPermute(RetinaNet):
    @staticmethod
    def _transpose_dense_predictions(predictions, dims):
        return [
            [level.reshape(len(level), -1, dim) for level in levels]
            for levels, dim in zip(predictions, dims, strict=True)
        ]


class SoftmaxTwice(FastRCNNOutputLayers):
    def losses(self, predictions, proposals):
        return super().losses((predictions[0].softmax(-1), predictions[1]), proposals)


def test_view_instead_of_permute(tmp_path):
    def plant(model):
        model.__class__ = ViewInsteadOfPermute

    context = pipeline(tmp_path, "retinanet", trainer_that(plant))
    assert_caught(ask(InitGate(), context, tmp_path), "flattened in another order")


def test_softmax_twice(tmp_path):
    def plant(model):
        model.roi_heads.box_predictor.__class__ = SoftmaxTwice

    context = pipeline(tmp_path, "faster_rcnn", trainer_that(plant))
    assert_caught(ask(InitGate(), context, tmp_path), "softmax is applied before")


def test_strides_in_another_order(tmp_path):
    def plant(model):
        model.anchor_generator.strides = model.anchor_generator.strides[::-1]

    context = pipeline(tmp_path, "retinanet", trainer_that(plant))
    assert_caught(ask(InitGate(), context, tmp_path), "another stride")


def test_anchors_of_another_size(tmp_path):
    context = pipeline(
        tmp_path, "retinanet", MODEL__ANCHOR_GENERATOR__SIZES=[[512], [1024], [2048]]
    )
    assert_caught(ask(InitGate(), context, tmp_path), "larger or smaller objects")


class MasksShifted(TaskAlignedDetector):
    def forward_inference(self, *args):
        found = super().forward_inference(*args)
        for instances in found:
            instances.pred_masks = instances.pred_masks.roll(7, dims=3)
        return found


class MasksInverted(TaskAlignedDetector):
    def forward_inference(self, *args):
        found = super().forward_inference(*args)
        for instances in found:
            instances.pred_masks = 1 - instances.pred_masks
        return found


class MasksOfTheWholeImage(TaskAlignedDetector):
    def _mask_samples(self, boxes, targets, gt_instances):
        whole = [
            replace(
                s,
                masks=i.gt_masks[targets.matched[n, s.points]].crop_and_resize(
                    torch.tensor([[0.0, 0.0, *i.image_size[::-1]]]).expand(len(s.points), 4), 28
                ),
            )
            for n, (s, i) in enumerate(
                zip(super()._mask_samples(boxes, targets, gt_instances), gt_instances, strict=True)
            )
        ]
        return whole


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (MasksShifted, "pasted in another frame"),
        (MasksInverted, "pasted in another frame"),
        (MasksOfTheWholeImage, "masks in two frames"),
    ],
)
def test_masks_in_another_frame(kind, words, tmp_path):
    def plant(model):
        model.__class__ = kind

    context = pipeline(tmp_path, "task_aligned_masks", trainer_that(plant))
    assert_caught(ask(InitGate(), context, tmp_path), words)
