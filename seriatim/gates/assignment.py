"""What the parts of two-stage and anchor-based detectors make of labels: background, ignored ones,
proposals, masks.

Each is asked directly, with outputs or labels that are known: the loss of the background must be
there, that of ignored anchors must not, and the mask of a class is that of its own channel.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.meta_arch.retinanet import RetinaNet
from detectron2.modeling.proposal_generator.rpn import RPN
from detectron2.modeling.roi_heads.fast_rcnn import FastRCNNOutputLayers
from detectron2.modeling.roi_heads.mask_head import BaseMaskRCNNHead
from detectron2.structures import Boxes, Instances, pairwise_iou
from detectron2.utils.events import EventStorage
from torch import nn

from seriatim.gates.context import Batch, Context, is_upright
from seriatim.gates.observe import Observation
from seriatim.gates.perfect import CERTAIN, is_documented
from seriatim.gates.verdict import Cause, Finding

# From this IoU on nothing but the ground truth itself is an object: a detector is built for 0.5,
# the last stage of a cascade for 0.7.
STRICTEST = 0.9
# The loss of a certain and wrong answer is that certainty (10) for each of the places; of a right
# one nothing. Half of that of one place among 16 shows that it counts.
WRONG = 0.3
MASK_SIDE = 28
FLOODED = 0.01  # a mask of certain zeros or ones is so near to them


def findings(
    context: Context, model: nn.Module, batch: Batch, seen: Observation
) -> Iterator[Finding]:
    """What is wrong with assignment, background, proposals and masks."""
    truth = [image["instances"] for image in batch if "instances" in image]
    if len(truth) < len(batch) or not all(len(t) and is_upright(t.gt_boxes) for t in truth):
        return
    yield from _strictness(model)
    if isinstance(model, RetinaNet):
        yield from _ignored(model, seen, truth)
    rpn = getattr(model, "proposal_generator", None)
    if isinstance(rpn, RPN):
        yield from _objectness(rpn, seen, truth)
    heads = getattr(model, "roi_heads", None)
    stage = getattr(heads, "box_predictor", None)
    if isinstance(stage, FastRCNNOutputLayers) and is_documented(stage):
        yield from _background(stage)
    mask_head = getattr(heads, "mask_head", None)
    if isinstance(mask_head, BaseMaskRCNNHead):
        yield from _masks(context, model, mask_head, batch, truth)


def _strictness(model: nn.Module) -> Iterator[Finding]:
    for owner, matcher in _matchers(model):
        lowest = [
            low
            for low, label in zip(matcher.thresholds[:-1], matcher.labels, strict=True)
            if label == 1
        ]
        if lowest and min(lowest) >= STRICTEST:
            yield Finding(
                f"{owner} takes a place for an object from an IoU of {min(lowest):g} on.",
                f"below {STRICTEST:g}: 0.5 to 0.7 are usual.",
                [
                    Cause(
                        "hardly anything is matched but the ground truth itself", "…IOU_THRESHOLDS"
                    ),
                    Cause("the threshold of another place was written here"),
                ],
            )


def _matchers(model: nn.Module) -> Iterator[tuple[str, Matcher]]:
    """Matchers are plain attributes of modules."""
    for name, module in model.named_modules():
        for key, value in vars(module).items():
            for matcher in value if isinstance(value, list) else [value]:
                if isinstance(matcher, Matcher):
                    yield f"{name}.{key}".lstrip("."), matcher


def _ignored(model: RetinaNet, seen: Observation, truth: list[Instances]) -> Iterator[Finding]:
    """The labels of anchors are what the matcher says: object, background, or neither."""
    anchors = seen.outputs.get("anchor_generator")
    matcher = getattr(model, "anchor_matcher", None)
    if not isinstance(anchors, list) or not isinstance(matcher, Matcher):
        return
    flat = Boxes.cat(anchors)
    labels, _ = model.label_anchors(anchors, truth)
    wrong = total = 0
    for label, instances in zip(labels, truth, strict=True):
        _, kind = matcher(pairwise_iou(instances.gt_boxes, flat))
        for value, place in ((-1, -1), (0, model.num_classes)):
            chosen = kind == value
            total += int(chosen.sum())
            wrong += int((label[chosen] != place).sum())
    if wrong:
        yield Finding(
            f"{wrong} of {total} anchors that the matcher calls background or neither have another"
            " label in the loss.",
            "the labels that IOU_THRESHOLDS and IOU_LABELS give.",
            [
                Cause("ignored anchors count as background, or the background is ignored"),
                Cause("label_anchors reads the matcher's labels in another way"),
            ],
        )


def _objectness(rpn: RPN, seen: Observation, truth: list[Instances]) -> Iterator[Finding]:
    """Proposals that are certain and right lose nothing."""
    anchors = seen.outputs.get("proposal_generator.anchor_generator")
    if not isinstance(anchors, list):
        return
    with torch.no_grad(), EventStorage():
        labels, boxes = rpn.label_and_sample_anchors(anchors, truth)
        certain = torch.stack(labels).float().clamp(min=0) * 2 * CERTAIN - CERTAIN
        flat = Boxes.cat(anchors).tensor
        deltas = torch.stack(
            [rpn.box2box_transform.get_deltas(flat, box.to(flat)) for box in boxes]
        ).nan_to_num(0.0, 0.0, 0.0)
        sizes = [len(level) for level in anchors]
        levels = list(certain.split(sizes, dim=1)), list(deltas.split(sizes, dim=1))
        losses = rpn.losses(anchors, levels[0], labels, levels[1], boxes)
    lost = float(losses["loss_rpn_cls"]) if "loss_rpn_cls" in losses else 0.0
    if lost > WRONG * float(rpn.loss_weight.get("loss_rpn_cls", 1.0)):
        yield Finding(
            f"objectness that is certain and right loses {lost:.3g}.",
            "nothing.",
            [
                Cause("objectness is inverted: the loss takes 0 for an object"),
                Cause("the labels of the proposals' anchors are in another order than the logits"),
            ],
        )


def _background(stage: FastRCNNOutputLayers) -> Iterator[Finding]:
    """A place without an object that is called an object must cost something."""
    classes, weight = stage.num_classes, stage.cls_score.weight
    count = 16
    boxes = Boxes(weight.new_tensor([[4.0, 4.0, 20.0, 20.0]]).repeat(count, 1))
    labels = torch.full((count,), classes, dtype=torch.int64, device=weight.device)
    labels[0] = 0  # a batch without any object is a case of its own
    places = Instances((32, 32), proposal_boxes=boxes, gt_boxes=boxes, gt_classes=labels)
    logits = weight.new_full((count, classes + 1), -CERTAIN)
    logits[:, 0] = CERTAIN  # all are called an object of the first class; one is
    deltas = weight.new_zeros(count, stage.bbox_pred.out_features)
    with torch.no_grad(), EventStorage():
        lost = float(stage.losses((logits, deltas), [places])["loss_cls"])
    wanted = stage.loss_weight if isinstance(stage.loss_weight, dict) else {}
    if lost < WRONG * wanted.get("loss_cls", 1.0):
        yield Finding(
            f"{count - 1} places without an object that are called an object with certainty lose"
            f" {lost:.3g}.",
            "a loss of several units.",
            [
                Cause("the background's label is ignored: nothing says where there is no object"),
                Cause("the weight of the background's class is 0"),
            ],
        )


def _masks(
    context: Context,
    model: nn.Module,
    head: BaseMaskRCNNHead,
    batch: Batch,
    truth: list[Instances],
) -> Iterator[Finding]:
    """The channel of a class is taught by objects of the class, and gives their masks."""
    predictor = getattr(head, "predictor", None)
    bias = getattr(predictor, "bias", None)
    if bias is None or len(bias) < 1:
        return
    if len(bias) > 1:
        taught, shown = _taught(context, model, bias, batch, truth)
        if taught and taught != {shown}:
            yield Finding(
                f"objects of class {shown} alone teach the masks of {sorted(taught)}.",
                "those of their own class.",
                [
                    Cause("the mask loss takes the channel of another class"),
                    Cause("classes of the mask targets are shifted"),
                ],
            )
            return
    parameter = next(model.parameters())
    answers = _flooded(head, predictor, parameter)
    if answers is None:
        return
    low, high = answers
    if low > FLOODED or high < 1 - FLOODED:
        yield Finding(
            "where the channel of a class is certainly empty, or full, inference gives masks of"
            f" {low:.2g} and {high:.2g}.",
            "0 and 1.",
            [
                Cause(
                    "inference takes the mask of another class, or puts scores through a sigmoid"
                    " twice"
                ),
                Cause("an activation after the last layer of the mask head"),
            ],
        )


def _taught(
    context: Context, model: nn.Module, bias: nn.Parameter, batch: Batch, truth: list[Instances]
) -> tuple[set[int], int]:
    """The classes whose mask channels get a gradient from objects of one class, and that class."""
    shown = int(truth[0].gt_classes[0])
    alone = [
        {**image, "instances": image["instances"][image["instances"].gt_classes == shown]}
        for image in batch
    ]
    losses = context.losses(model, [image for image in alone if len(image["instances"])])
    loss = losses.get("loss_mask")
    if loss is None or not loss.requires_grad:
        return set(), shown
    gradient = torch.autograd.grad(loss, bias, allow_unused=True)[0]
    return set() if gradient is None else set(gradient.nonzero()[:, 0].tolist()), shown


def _flooded(
    head: BaseMaskRCNNHead, predictor: nn.Module, parameter: torch.Tensor
) -> tuple[float, float] | None:
    """The worst mask scores of objects of each class, when the channel of its class is certainly
    empty and all others full, and the other way round."""
    channels = getattr(head[0], "in_channels", None) if isinstance(head, nn.Sequential) else None
    if channels is None:
        return None
    classes = len(predictor.bias)
    head = copy.deepcopy(head).eval()
    worst = []
    for sign in (-1.0, 1.0):
        values = []
        for number in range(classes):
            with torch.no_grad():
                head.predictor.weight.zero_()
                head.predictor.bias.fill_(-sign * 2 * CERTAIN)
                head.predictor.bias[number] = sign * 2 * CERTAIN
                found = Instances((32, 32))
                found.pred_boxes = Boxes(parameter.new_tensor([[4.0, 4.0, 20.0, 20.0]]))
                found.pred_classes = torch.tensor([number], device=parameter.device)
                found.scores = parameter.new_ones(1)
                features = parameter.new_zeros(1, channels, MASK_SIDE // 2, MASK_SIDE // 2)
                result = head(features, [found])
            masks = result[0].pred_masks if isinstance(result, list) else None
            if masks is None:
                return None
            values.append(float(masks.max() if sign < 0 else masks.min()))
        worst.append(max(values) if sign < 0 else min(values))
    return worst[0], worst[1]
