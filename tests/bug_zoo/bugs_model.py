"""Silent bugs of models and losses: the training goes on, and what it learns is worth little."""

from __future__ import annotations

import torch
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.meta_arch import RetinaNet
from detectron2.modeling.proposal_generator import RPN
from detectron2.modeling.roi_heads import FastRCNNOutputLayers
from torch import nn
from torch.nn import functional as F

from seriatim.modeling.assigner import Targets
from seriatim.modeling.meta_arch.task_aligned import TaskAlignedDetector
from tests.bug_zoo.planting import model_bug
from tests.bug_zoo.registry import Bug

BUGS: list[Bug] = []

# The flow of features and gradients


@model_bug(
    BUGS,
    "backbone detached",
    area="model",
    what="The features are detached between backbone and heads, so the backbone stays random.",
    gates=("gradients",),
    causes=("detached",),
    kind="faster_rcnn",
)
def _(model: nn.Module) -> None:
    model.backbone.register_forward_hook(
        lambda module, inputs, output: {name: level.detach() for name, level in output.items()}
    )


class BoxesDetached(TaskAlignedDetector):
    def forward_training(self, images, features, predictions, gt_instances):
        logits, distances = predictions
        distances = [level.detach() for level in distances]
        return super().forward_training(images, features, (logits, distances), gt_instances)


@model_bug(
    BUGS,
    "box branch detached",
    area="model",
    what="Distances are detached before the loss, as they rightly are before the assignment.",
    gates=("gradients",),
    causes=("detached",),
    kind="task_aligned",
)
def _(model: nn.Module) -> None:
    model.__class__ = BoxesDetached


class ClassLossAsNumber(RetinaNet):
    def losses(self, *arguments):
        found = super().losses(*arguments)
        return {**found, "loss_cls": found["loss_cls"].detach()}


@model_bug(
    BUGS,
    "loss is a number",
    area="model",
    what="The class loss is put into the loss dict as it is logged: detached.",
    gates=("gradients",),
    causes=("plain number",),
    kind="retinanet",
)
def _(model: nn.Module) -> None:
    model.__class__ = ClassLossAsNumber


@model_bug(
    BUGS,
    "features times zero",
    area="model",
    what="A gate between neck and head is 0, so the heads see nothing of the image.",
    gates=("init",),
    causes=("overwritten or zero",),
    kind="task_aligned",
)
def _(model: nn.Module) -> None:
    model.backbone.register_forward_hook(
        lambda module, inputs, output: {name: 0 * level for name, level in output.items()}
    )


@model_bug(
    BUGS,
    "tower of dead relus",
    area="model",
    what="A bias of -100 before a ReLU: the box tower gives 0 for every image, and stays there.",
    gates=("gradients",),
    causes=("dead ReLU",),
    kind="retinanet",
)
def _(model: nn.Module) -> None:
    model.head.bbox_subnet.register_forward_hook(
        lambda module, inputs, output: (output - 100).relu()
    )


@model_bug(
    BUGS,
    "branch built and not called",
    area="model",
    what="A refining layer is made in __init__ and forgotten in forward.",
    gates=("gradients",),
    causes=("not used in forward",),
    kind="task_aligned",
)
def _(model: nn.Module) -> None:
    model.head.refine = nn.Conv2d(16, 16, 3, padding=1)


@model_bug(
    BUGS,
    "relu after the class layer",
    area="model",
    what="The class layer ends in a ReLU: no logit is negative, no score below 0.5.",
    gates=("init",),
    causes=("cut off at 0",),
    kind="retinanet",
)
def _(model: nn.Module) -> None:
    model.head.cls_score.register_forward_hook(lambda module, inputs, output: output.relu())


@model_bug(
    BUGS,
    "relu after the box layer",
    area="model",
    what="The last box layer ends in a ReLU: boxes grow and move right, never back.",
    gates=("init",),
    causes=("cut off at 0",),
    kind="faster_rcnn",
)
def _(model: nn.Module) -> None:
    model.roi_heads.box_predictor.bbox_pred.register_forward_hook(
        lambda module, inputs, output: output.relu()
    )


@model_bug(
    BUGS,
    "towers shared",
    area="model",
    what="One tower by mistake serves classes and boxes, as list multiplication makes it.",
    gates=("gradients",),
    causes=("shared",),
    kind="task_aligned",
)
def _(model: nn.Module) -> None:
    model.head.box_tower = model.head.cls_tower


# Images that mix, places that mix


@model_bug(
    BUGS,
    "batch mean subtracted",
    area="model",
    what="Features are centred by the mean of the batch instead of that of the channel.",
    gates=("independence",),
    causes=("mean over dimension 0",),
    kind="faster_rcnn",
)
def _(model: nn.Module) -> None:
    model.backbone.bottom_up.model.layer2.register_forward_hook(
        lambda module, inputs, output: output - output.mean(dim=0)
    )


@model_bug(
    BUGS,
    "batch and channels reshaped",
    area="model",
    what="(N, C, H, W) is taken for (C, N, H, W) by a reshape.",
    gates=("independence",),
    causes=("view or reshape across it",),
    kind="task_aligned",
)
def _(model: nn.Module) -> None:
    model.head.cls_tower.register_forward_hook(
        lambda module, inputs, output: output.transpose(0, 1).reshape(output.shape)
    )


class LabelsOfTheOther(RetinaNet):
    def label_anchors(self, anchors, gt_instances):
        return super().label_anchors(anchors, gt_instances[::-1])


@model_bug(
    BUGS,
    "labels of another image",
    area="model",
    what="The ground truth of a batch is in another order than its images.",
    gates=("independence",),
    causes=("ground truth of another",),
    kind="retinanet",
)
def _(model: nn.Module) -> None:
    model.__class__ = LabelsOfTheOther


class ViewInsteadOfPermute(RetinaNet):
    @staticmethod
    def _transpose_dense_predictions(predictions, dims):
        return [
            [level.reshape(len(level), -1, dim) for level in levels]
            for levels, dim in zip(predictions, dims, strict=True)
        ]


@model_bug(
    BUGS,
    "view instead of permute",
    area="model",
    what="(N, A·K, H, W) becomes (N, H·W·A, K) by a view: channels are taken for places.",
    gates=("init",),
    causes=("flattened in another order",),
    seen=("jwyang/fpn.pytorch#6",),
    kind="retinanet",
)
def _(model: nn.Module) -> None:
    model.__class__ = ViewInsteadOfPermute


class BatchOfQueries(nn.Module):
    """Attention over dimension 0, which is the batch unless batch_first is set."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = x.flatten(2).transpose(1, 2)
        mixed = self.attention(tokens, tokens, tokens)[0]
        return x + mixed.transpose(1, 2).reshape(x.shape)


@model_bug(
    BUGS,
    "attention over the batch",
    area="model",
    what="MultiheadAttention without batch_first on (N, L, C): images attend to each other.",
    gates=("independence",),
    causes=("mixes the images",),
    seen=(
        "aipixel/AEMatter#3",
        "om-ai-lab/OmDet#19",
    ),
    kind="task_aligned",
)
def _(model: nn.Module) -> None:
    model.head.cls_tower.append(BatchOfQueries(16))


@model_bug(
    BUGS,
    "normalised by the maximum of the batch",
    area="model",
    what="Logits are normalised by the largest of the batch, place by place.",
    gates=("independence",),
    causes=("over the batch",),
    kind="retinanet",
)
def _(model: nn.Module) -> None:
    model.__class__ = LargestOfTheBatch


class LargestOfTheBatch(RetinaNet):
    def losses(self, anchors, pred_logits, *rest):
        logits = [level - level.amax(dim=0, keepdim=True) - 4.6 for level in pred_logits]
        return super().losses(anchors, logits, *rest)


# Modes and statistics


@model_bug(
    BUGS,
    "dropout in evaluation",
    area="model",
    what="F.dropout without training=self.training drops in evaluation too.",
    gates=("independence",),
    causes=("randomness",),
    seen=(
        "pytorch/pytorch#11999",
        "BogiHsu/Tacotron2-PyTorch#8",
        "yangze0930/NTS-Net#14",
    ),
    kind="task_aligned",
)
def _(model: nn.Module) -> None:
    model.head.cls_tower.register_forward_hook(
        lambda module, inputs, output: F.dropout(output, 0.3)
    )


class StaysInTraining(nn.BatchNorm2d):
    def train(self, mode=True):
        return super().train(True)


@model_bug(
    BUGS,
    "batchnorm stays in training",
    area="model",
    what="A BatchNorm that ignores eval(): what an image gives depends on its company.",
    gates=("independence",),
    causes=("statistics",),
    kind="retinanet",
)
def _(model: nn.Module) -> None:
    for module in model.backbone.bottom_up.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.__class__ = StaysInTraining


@model_bug(
    BUGS,
    "batchnorm momentum zero",
    area="model",
    what="BatchNorm's momentum is 0: evaluation normalises by 0 and 1 for ever.",
    gates=("gradients",),
    causes=("statistics stand still",),
    kind="retinanet",
)
def _(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.0


@model_bug(
    BUGS,
    "batchnorm momentum of tensorflow",
    area="model",
    what="BatchNorm's momentum is 0.99, TensorFlow's meaning: statistics are those of one batch.",
    gates=("gradients",),
    causes=("momentum",),
    seen=(
        "pytorch/vision#8250",
        "kazuto1011/deeplab-pytorch#79",
        "eriklindernoren/PyTorch-YOLOv3#230",
    ),
    kind="task_aligned",
)
def _(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.99


class StaysInEvaluation(nn.BatchNorm2d):
    def train(self, mode=True):
        return super().train(False)


@model_bug(
    BUGS,
    "batchnorm never trained",
    area="model",
    what="BatchNorm is frozen in evaluation mode as for pretrained weights, which are not loaded.",
    gates=("gradients",),
    causes=("statistics stand still",),
    kind="faster_rcnn",
)
def _(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.__class__ = StaysInEvaluation


@model_bug(
    BUGS,
    "memory of the batch before",
    area="model",
    what="A module adds what it kept of the batch before.",
    gates=("independence",),
    causes=("earlier batches",),
    kind="task_aligned",
)
def _(model: nn.Module) -> None:
    kept = [torch.zeros(())]

    def add(module, inputs, output):
        kept.append(output.detach()[-1].amax())
        return output + 3 * kept[-2]

    model.head.cls_tower.register_forward_hook(add)


# Geometry


@model_bug(
    BUGS,
    "strides of levels reversed",
    area="model",
    what="The levels of the pyramid come coarse to fine, their strides fine to coarse.",
    gates=("init",),
    causes=("stride",),
    kind="retinanet",
)
def _(model: nn.Module) -> None:
    model.anchor_generator.strides = model.anchor_generator.strides[::-1]


@model_bug(
    BUGS,
    "stride off by two",
    area="model",
    what="Boxes are decoded with half of the stride, after a stem was changed.",
    gates=("init",),
    causes=("stride",),
    kind="task_aligned",
)
def _(model: nn.Module) -> None:
    model.strides = [stride // 2 for stride in model.strides]


BUGS.append(
    Bug(
        "anchors of large images",
        area="model",
        what="Anchors of 512 to 2048 px, for objects of 10 to 40.",
        gates=("init",),
        causes=("anchor",),
        kind="retinanet",
        changes={"MODEL__ANCHOR_GENERATOR__SIZES": [[512], [1024], [2048]]},
    )
)


@model_bug(
    BUGS,
    "roi align scale",
    area="model",
    what="RoIAlign's spatial_scale is 1/8 where the level's stride is 4.",
    gates=("init",),
    causes=("scale of RoIAlign",),
    kind="faster_rcnn",
)
def _(model: nn.Module) -> None:
    for pooler in model.roi_heads.box_pooler.level_poolers:
        pooler.spatial_scale /= 2


class SizesFirst(Box2BoxTransform):
    def apply_deltas(self, deltas, boxes):
        dx, dy, dw, dh = deltas.unflatten(-1, (-1, 4)).unbind(-1)
        return super().apply_deltas(torch.stack([dw, dh, dx, dy], -1).flatten(-2), boxes)


@model_bug(
    BUGS,
    "deltas in another order",
    area="model",
    what="Inference reads (dw, dh, dx, dy) where training writes (dx, dy, dw, dh).",
    gates=("init",),
    causes=("decodes boxes in another way",),
    kind="retinanet",
)
def _(model: nn.Module) -> None:
    model.box2box_transform.__class__ = SizesFirst


class OtherWeights(Box2BoxTransform):
    def apply_deltas(self, deltas, boxes):
        return super().apply_deltas(10 * deltas, boxes)


@model_bug(
    BUGS,
    "delta weights forgotten in inference",
    area="model",
    what="Inference decodes deltas without the weights (10, 10, 5, 5) that training encodes with.",
    gates=("init",),
    causes=("decodes boxes in another way",),
    kind="faster_rcnn",
)
def _(model: nn.Module) -> None:
    model.roi_heads.box_predictor.box2box_transform.__class__ = OtherWeights


class NextClass(TaskAlignedDetector):
    def forward_inference(self, *arguments):
        results = super().forward_inference(*arguments)
        for found in results:
            found.pred_classes = (found.pred_classes + 1) % self.num_classes
        return results


@model_bug(
    BUGS,
    "predicted class plus one",
    area="model",
    what="Inference counts classes from 1, as if there were a background in place 0.",
    gates=("init",),
    causes=("numbers classes",),
    seen=(
        "roboflow/rf-detr#961",
        "PaddlePaddle/PaddleDetection#3764",
    ),
    kind="task_aligned",
)
def _(model: nn.Module) -> None:
    model.__class__ = NextClass


class ResultsReversed(TaskAlignedDetector):
    def forward_inference(self, images, features, predictions):
        return super().forward_inference(images, features, predictions)[::-1]


@model_bug(
    BUGS,
    "results in another order",
    area="model",
    what="Results of a batch come in another order than its images.",
    gates=("independence",),
    causes=("another order than the images",),
    kind="task_aligned",
)
def _(model: nn.Module) -> None:
    model.__class__ = ResultsReversed


@model_bug(
    BUGS,
    "mask of class zero",
    area="model",
    what="Inference takes the mask of the first class for every object.",
    gates=("overfit1",),
    causes=("mask",),
    kind="mask_rcnn",
)
def _(model: nn.Module) -> None:
    def first(module, inputs, output):
        return output if module.training else output[:, :1].expand_as(output)

    model.roi_heads.mask_head.predictor.register_forward_hook(first)


# Losses


class TwiceSigmoid(RPN):
    def losses(self, anchors, logits, *rest):
        return super().losses(anchors, [level.sigmoid() for level in logits], *rest)


@model_bug(
    BUGS,
    "sigmoid twice",
    area="loss",
    what="Objectness goes through a sigmoid, and then into a loss that has one.",
    gates=("init",),
    causes=("sigmoid is applied before",),
    seen=(
        "hustvl/YOLOP#141",
        "nv-tlabs/GSCNN#62",
        "Turoad/lanedet#32",
    ),
    kind="faster_rcnn",
)
def _(model: nn.Module) -> None:
    model.proposal_generator.__class__ = TwiceSigmoid


class SoftmaxTwice(FastRCNNOutputLayers):
    def losses(self, predictions, proposals):
        scores, deltas = predictions
        return super().losses((scores.softmax(dim=-1), deltas), proposals)


@model_bug(
    BUGS,
    "softmax twice",
    area="loss",
    what="Cross entropy of probabilities, which takes their softmax again.",
    gates=("init",),
    causes=("softmax is applied before",),
    seen=(
        "jaehong31/CGES#1",
        "NVIDIA/DeepLearningExamples#468",
        "jindongwang/Deep-learning-activity-recognition#10",
    ),
    kind="faster_rcnn",
)
def _(model: nn.Module) -> None:
    model.roi_heads.box_predictor.__class__ = SoftmaxTwice


class SoftmaxOverProposals(FastRCNNOutputLayers):
    def losses(self, predictions, proposals):
        scores, deltas = predictions
        return super().losses((scores.log_softmax(dim=0), deltas), proposals)


@model_bug(
    BUGS,
    "softmax over the wrong dimension",
    area="loss",
    what="log_softmax(dim=0): the proposals of a batch compete, not the classes.",
    gates=("independence",),
    causes=("over the batch",),
    seen=(
        "Lackel/DPN#1",
        "perone/euclidesdb#2",
        "ctallec/world-models#10",
    ),
    kind="faster_rcnn",
)
def _(model: nn.Module) -> None:
    model.roi_heads.box_predictor.__class__ = SoftmaxOverProposals


class NegativeLikelihood(RetinaNet):
    def losses(self, *arguments):
        found = super().losses(*arguments)
        return {**found, "loss_cls": -found["loss_cls"]}


@model_bug(
    BUGS,
    "sign of the loss",
    area="loss",
    what="The log-likelihood is minimised instead of its negative.",
    gates=("init",),
    causes=("sign",),
    kind="retinanet",
)
def _(model: nn.Module) -> None:
    model.__class__ = NegativeLikelihood


class OverlapIsTheLoss(TaskAlignedDetector):
    def losses(self, logits, boxes, targets):
        found = super().losses(logits, boxes, targets)
        normalizer = targets.weights.sum().clamp(min=1.0)
        overlap = self.box_weight * targets.weights.sum() / normalizer - found["loss_box"]
        return {**found, "loss_box": overlap}


@model_bug(
    BUGS,
    "giou instead of one minus giou",
    area="loss",
    what="GIoU itself is the loss: boxes learn to miss.",
    gates=("init",),
    causes=("rewards distance",),
    kind="task_aligned",
)
def _(model: nn.Module) -> None:
    model.__class__ = OverlapIsTheLoss


class GIoUOfOtherFormat(TaskAlignedDetector):
    def losses(self, logits, boxes, targets):
        lower, upper = boxes[..., :2], boxes[..., 2:]
        return super().losses(logits, torch.cat([lower, upper - lower], -1), targets)


@model_bug(
    BUGS,
    "giou of xywh boxes",
    area="loss",
    what="The box loss reads XYXY where XYWH is given.",
    gates=("init",),
    causes=("boxes of two formats",),
    seen=("stevebottos/owl-vit-object-detection#14",),
    kind="task_aligned",
)
def _(model: nn.Module) -> None:
    model.__class__ = GIoUOfOtherFormat


class Summed(RPN):
    def losses(self, anchors, logits, labels, *rest):
        found = super().losses(anchors, logits, labels, *rest)
        return {name: loss * self.batch_size_per_image for name, loss in found.items()}


@model_bug(
    BUGS,
    "sum instead of mean",
    area="loss",
    what="The loss is the sum over sampled anchors.",
    gates=("init",),
    causes=("summed, not averaged",),
    kind="faster_rcnn",
)
def _(model: nn.Module) -> None:
    model.proposal_generator.__class__ = Summed


class NotNormalised(TaskAlignedDetector):
    def losses(self, logits, boxes, targets):
        found = super().losses(logits, boxes, targets)
        normalizer = targets.weights.sum().clamp(min=1.0)
        return {name: loss * normalizer for name, loss in found.items()}


@model_bug(
    BUGS,
    "normaliser missing",
    area="loss",
    what="The loss is not divided by the objects, so that crowded images rule.",
    gates=("init",),
    causes=("reduction",),
    kind="task_aligned",
)
def _(model: nn.Module) -> None:
    model.__class__ = NotNormalised


class MeanOverAnchors(RetinaNet):
    def losses(self, anchors, logits, *rest):
        found = super().losses(anchors, logits, *rest)
        normalizer = getattr(self, "loss_normalizer", 100)
        count = sum(level.numel() for level in logits)
        return {**found, "loss_cls": found["loss_cls"] * normalizer / count}


@model_bug(
    BUGS,
    "mean over all anchors",
    area="loss",
    what="The focal loss is averaged over all anchors: objects drown in background.",
    gates=("init",),
    causes=("averaged over all predictions",),
    kind="retinanet",
)
def _(model: nn.Module) -> None:
    model.__class__ = MeanOverAnchors


class NextTarget(TaskAlignedDetector):
    def losses(self, logits, boxes, targets):
        shifted = Targets(targets.scores.roll(1, dims=-1), targets.boxes, targets.matched)
        return super().losses(logits, boxes, shifted)


@model_bug(
    BUGS,
    "targets shifted by one class",
    area="loss",
    what="The targets of the loss count classes from 1.",
    gates=("init",),
    causes=("targets of the class loss are shifted",),
    kind="task_aligned",
)
def _(model: nn.Module) -> None:
    model.__class__ = NextTarget


class IgnoredCount(RetinaNet):
    def label_anchors(self, anchors, gt_instances):
        labels, boxes = super().label_anchors(anchors, gt_instances)
        return [label.masked_fill(label < 0, self.num_classes) for label in labels], boxes


@model_bug(
    BUGS,
    "ignored anchors are background",
    area="loss",
    what="Anchors between the two thresholds, label -1, count as background.",
    gates=("init",),
    causes=("ignored",),
    kind="retinanet",
)
def _(model: nn.Module) -> None:
    model.__class__ = IgnoredCount


class BackgroundBoxes(TaskAlignedDetector):
    def losses(self, logits, boxes, targets):
        nowhere = torch.where(targets.foreground, -1, 0)
        other = Targets(targets.scores, targets.boxes, nowhere)
        found = super().losses(logits, boxes, other)
        return found


@model_bug(
    BUGS,
    "boxes of the background",
    area="loss",
    what="The mask of the box loss is inverted: it counts where no object is.",
    gates=("init",),
    causes=("mask that leaves nothing",),
    kind="task_aligned",
)
def _(model: nn.Module) -> None:
    model.__class__ = BackgroundBoxes


BUGS.append(
    Bug(
        "weight of a loss zero",
        area="loss",
        what="A weight of 0 that was set for an experiment, and stayed.",
        gates=("init",),
        causes=("weight is 0",),
        kind="faster_rcnn",
        changes={"MODEL__ROI_BOX_HEAD__BBOX_REG_LOSS_WEIGHT": 0.0},
    )
)


class ClippedLogarithm(RetinaNet):
    def losses(self, anchors, logits, *rest):
        clipped = [level.sigmoid().clamp(0.05, 0.95).logit() for level in logits]
        return super().losses(anchors, clipped, *rest)


@model_bug(
    BUGS,
    "logarithm of clipped scores",
    area="loss",
    what="Scores are clamped before the logarithm: below 0.05 nothing has a gradient.",
    gates=("gradients",),
    causes=("cut off",),
    kind="retinanet",
)
def _(model: nn.Module) -> None:
    model.__class__ = ClippedLogarithm


class InvertedAlpha(RetinaNet):
    def losses(self, *arguments):
        alpha = self.focal_loss_alpha
        self.focal_loss_alpha = 1 - alpha
        found = super().losses(*arguments)
        self.focal_loss_alpha = alpha
        return found


@model_bug(
    BUGS,
    "focal alpha inverted",
    area="loss",
    what="alpha weighs the negatives, 1 - alpha the objects.",
    gates=("init",),
    causes=("alpha weighs the wrong side",),
    seen=(
        "clcarwin/focal_loss_pytorch#10",
        "liuyuisanai/Focal-Loss#4",
        "fudannlp16/focal-loss#6",
    ),
    kind="retinanet",
)
def _(model: nn.Module) -> None:
    model.__class__ = InvertedAlpha


@model_bug(
    BUGS,
    "prior bias forgotten",
    area="loss",
    what="The class layer's bias starts at 0: every place is an object with 50 %.",
    gates=("init",),
    causes=("bias of the classification layer",),
    seen=(
        "xingyizhou/CenterNet#826",
        "kuangliu/pytorch-retinanet#10",
    ),
    kind="task_aligned",
)
def _(model: nn.Module) -> None:
    nn.init.zeros_(model.head.cls_logits.bias)
