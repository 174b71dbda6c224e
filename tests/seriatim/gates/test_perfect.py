import pytest
from detectron2.modeling.meta_arch import RetinaNet
from detectron2.modeling.roi_heads import FastRCNNOutputLayers

from seriatim.gates.context import Context
from seriatim.gates.expectations import is_informative
from seriatim.gates.init import InitGate, fresh_model
from seriatim.gates.observe import observe, some_records
from seriatim.gates.perfect import perfection

from .pipelines import ask, assert_caught, pipeline, trainer_that


def perfect_outputs(context: Context):
    model, batch = fresh_model(context), context.inputs(some_records(context, 2))
    seen = observe(context, model, batch, is_informative)
    return perfection(context, model, batch, seen)


@pytest.mark.parametrize("kind", ["retinanet", "task_aligned", "faster_rcnn", "mask_rcnn"])
def test_perfect_outputs_lose_nothing_and_are_found(kind, tmp_path):
    found = perfect_outputs(pipeline(tmp_path, kind))
    assert max(found.losses.values()) < 0.01
    assert found.found == found.placed == 1.0


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
