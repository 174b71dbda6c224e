import pytest
import torch
from detectron2.modeling.meta_arch import RetinaNet
from detectron2.structures import BitMasks, Instances
from torch import nn

from seriatim.gates.independence import IndependenceGate, same_size
from seriatim.modeling.meta_arch.task_aligned import TaskAlignedDetector

from .pipelines import KINDS, ask, assert_caught, assert_healthy, pipeline, trainer_that


@pytest.mark.parametrize("kind", list(KINDS))
def test_healthy(kind, tmp_path):
    verdict = ask(IndependenceGate(), pipeline(tmp_path, kind), tmp_path)
    assert_healthy(verdict)
    assert len(verdict.numbers["cosines"]) >= (1 if kind == "semantic" else 2)
    assert min(verdict.numbers["cosines"].values()) > 0.9999


def caught(folder, kind, change, *words):
    context = pipeline(folder, kind, trainer_that(change))
    assert_caught(ask(IndependenceGate(), context, folder), *words)


def test_view_across_batch_and_channels(tmp_path):
    def mix(module, inputs, output):
        return output.transpose(0, 1).reshape(output.shape)

    def plant(model):
        model.head.cls_tower.register_forward_hook(mix)

    caught(tmp_path, "task_aligned", plant, "view or reshape across it", "head.cls_tower")


def test_mean_over_the_batch_is_subtracted(tmp_path):
    def center(module, inputs, output):
        return output - output.mean(dim=0)

    def plant(model):
        model.backbone.bottom_up.model.layer2.register_forward_hook(center)

    caught(tmp_path, "faster_rcnn", plant, "mean over dimension 0", "layer2")


class TakesTheLabelsOfTheOther(RetinaNet):
    def label_anchors(self, anchors, gt_instances):
        return super().label_anchors(anchors, gt_instances[::-1])


def test_ground_truth_of_the_other_image(tmp_path):
    def plant(model):
        model.__class__ = TakesTheLabelsOfTheOther

    caught(tmp_path, "retinanet", plant, "ground truth of another")


class FlattensPlacesFirst(TaskAlignedDetector):
    def _flatten(self, predictions):
        logits, boxes, points = super()._flatten(predictions)
        return logits.transpose(0, 1).reshape(logits.shape), boxes, points


def test_predictions_flattened_in_another_order(tmp_path):
    def plant(model):
        model.__class__ = FlattensPlacesFirst

    caught(tmp_path, "task_aligned", plant, "are in different orders: a view or reshape")


class Remembers(nn.Module):
    """Adds what it saw in the batch before."""

    def __init__(self):
        super().__init__()
        self.register_buffer("before", torch.zeros(()))

    def forward(self, x):
        mixed = x + 3 * self.before
        self.before = x.detach()[-1].amax()
        return mixed


def test_buffer_of_the_batch_before(tmp_path):
    def plant(model):
        model.head.cls_tower.append(Remembers())

    caught(tmp_path, "task_aligned", plant, "buffer", "earlier batches", "before")


def test_global_of_the_batch_before(tmp_path):
    seen = [torch.zeros(())]

    def add(module, inputs, output):
        seen.append(output.detach()[-1].amax())
        return output + 3 * seen[-2]

    def plant(model):
        model.head.cls_tower.register_forward_hook(add)

    caught(tmp_path, "task_aligned", plant, "global", "earlier batches")


class StaysInTraining(nn.BatchNorm2d):
    def train(self, mode=True):
        return super().train(True)


# In the shortcut: residual branches start as 0, and hide what happens inside of them.
def test_batchnorm_that_cannot_be_put_into_evaluation_mode(tmp_path):
    def plant(model):
        for name, module in model.named_modules():
            if name.endswith("layer3.0.downsample.2"):
                module.__class__ = StaysInTraining

    caught(tmp_path, "retinanet", plant, "statistics", "layer3.0.downsample.2")


class GivesTheOtherFirst(TaskAlignedDetector):
    def forward_inference(self, images, features, predictions):
        return super().forward_inference(images, features, predictions)[::-1]


def test_results_in_another_order(tmp_path):
    def plant(model):
        model.__class__ = GivesTheOtherFirst

    caught(tmp_path, "task_aligned", plant, "another order than the images")


def test_only_batchnorm_in_training_mode_mixes_and_that_is_no_leak(tmp_path):
    """The healthy pipelines have BatchNorm backbones: without fixed statistics they would fail."""
    context = pipeline(tmp_path, "retinanet")
    model = context.new_model()
    assert any(isinstance(m, nn.BatchNorm2d) and m.training for m in model.modules())


def test_same_size_pads_labels_with_the_image():
    instances = Instances((4, 6), gt_masks=BitMasks(torch.ones(1, 4, 6, dtype=torch.bool)))
    small = {
        "image": torch.ones(3, 4, 6, dtype=torch.uint8),
        "instances": instances,
        "sem_seg": torch.ones(4, 6, dtype=torch.long),
    }
    large = {"image": torch.ones(3, 8, 5, dtype=torch.uint8)}
    first, second = same_size([small, large])
    assert first["image"].shape == second["image"].shape == (3, 8, 6)
    assert first["instances"].image_size == first["instances"].gt_masks.image_size == (8, 6)
    assert int(first["instances"].gt_masks.tensor.sum()) == 24
    assert first["sem_seg"].shape == (8, 6)
    assert int((first["sem_seg"] == 255).sum()) == 24
    assert instances.image_size == (4, 6)
