"""A model as a function of one tensor, which tracing can follow whatever the image's size is."""

from __future__ import annotations

from collections.abc import Callable

import torch
from detectron2.modeling import RetinaNet
from detectron2.modeling.meta_arch.dense_detector import DenseDetector
from detectron2.modeling.meta_arch.fcos import FCOS
from torch import Tensor, nn

from dataset_tools.errors import InputError
from seriatim.modeling.meta_arch.classifier import ImageClassifier
from seriatim.modeling.meta_arch.task_aligned import TaskAlignedDetector

Levels = list[Tensor]


def graph_of(model: nn.Module) -> nn.Module:
    """The part of `model` that is exported: all but the choice among its answers.

    It takes "image", (N, C, H, W) float32 pixels as they are (0–255), and gives for a detector
    "scores" (N, P, K), "boxes" (N, P, 4) XYXY px and "levels" (P,), the feature level that each of
    the P places belongs to; for a classifier "logits" (N, K).

    Raises:
        InputError: the model has another kind of answer.
    """
    if isinstance(model, ImageClassifier):
        return ClassifierGraph(model)
    if getattr(model, "mask_head", None) is not None:
        raise InputError(
            "Models with masks are not exported: what finds a mask is made anew for each object."
            " Set MODEL.MASK_ON to False to export the boxes alone."
        )
    decode = next((d for kind, d in DECODERS.items() if isinstance(model, kind)), None)
    if decode is None:
        raise InputError(
            f"{type(model).__name__} is not exported: its second stage looks at as many regions as"
            " the first has found. What is exported: TaskAlignedDetector, RetinaNet, FCOSDetector"
            " and ImageClassifier."
        )
    return DetectorGraph(model, decode)


class ClassifierGraph(nn.Module):
    outputs = ("logits",)

    def __init__(self, model: ImageClassifier) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> Tensor:
        model = self.model
        normalised = (image - model.pixel_mean) / model.pixel_std
        return model.logits(model.whitening(normalised)).float()


class DetectorGraph(nn.Module):
    outputs = ("scores", "boxes", "levels")

    def __init__(self, model: DenseDetector, decode: Decode) -> None:
        super().__init__()
        self.model = model
        self.decode = decode

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        model = self.model
        features = model.backbone((image - model.pixel_mean) / model.pixel_std)
        features = [features[name] for name in model.head_in_features]
        scores, boxes = self.decode(model, features, model.head(features))
        levels = [torch.full_like(s[0, :, 0], i) for i, s in enumerate(scores)]
        return torch.cat(scores, 1), torch.cat(boxes, 1), torch.cat(levels)


Decode = Callable[[DenseDetector, Levels, tuple[Levels, ...]], tuple[Levels, Levels]]


def _task_aligned(
    model: TaskAlignedDetector, features: Levels, predictions: tuple[Levels, ...]
) -> tuple[Levels, Levels]:
    logits, boxes, _ = model._flatten(predictions)
    return [logits.sigmoid()], [boxes]  # it takes the best of all levels together


def _retinanet(
    model: RetinaNet, features: Levels, predictions: tuple[Levels, ...]
) -> tuple[Levels, Levels]:
    logits, deltas = model._transpose_dense_predictions(predictions, [model.num_classes, 4])
    return [x.sigmoid() for x in logits], _boxes(model, features, deltas)


def _fcos(model: FCOS, features: Levels, predictions: tuple[Levels, ...]) -> tuple[Levels, Levels]:
    logits, deltas, centerness = model._transpose_dense_predictions(
        predictions, [model.num_classes, 4, 1]
    )
    scores = [
        torch.sqrt(x.sigmoid() * c.sigmoid()) for x, c in zip(logits, centerness, strict=True)
    ]
    return scores, _boxes(model, features, deltas)


def _boxes(model: DenseDetector, features: Levels, deltas: Levels) -> Levels:
    """(N, P, 4) XYXY px of each level, from the deltas to its anchors."""
    boxes = []
    for anchors, delta in zip(model.anchor_generator(features), deltas, strict=True):
        all_anchors = anchors.tensor.expand(delta.shape[0], -1, -1).reshape(-1, 4)
        decoded = model.box2box_transform.apply_deltas(delta.reshape(-1, 4), all_anchors)
        boxes.append(decoded.reshape(delta.shape))
    return boxes


DECODERS: dict[type[nn.Module], Decode] = {
    TaskAlignedDetector: _task_aligned,
    RetinaNet: _retinanet,
    FCOS: _fcos,
}
