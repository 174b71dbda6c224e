"""Would a perfect prediction lose nothing, and be found?

In place of the head's outputs go those that a head which knows the ground truth would give, in the
layout that the architecture documents. Training must then find (almost) no loss, inference the
objects. So what the loss and the inference make of outputs is tested without any training: class
numbers, formats of boxes, decoding, flattening, activations before a loss that has one.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from detectron2.modeling.meta_arch.retinanet import RetinaNet
from detectron2.modeling.roi_heads.fast_rcnn import FastRCNNOutputLayers
from detectron2.structures import BitMasks, Boxes, Instances, PolygonMasks, pairwise_iou
from detectron2.utils.events import EventStorage
from torch import Tensor, nn

from seriatim.gates.context import Batch, Context
from seriatim.gates.observe import Observation
from seriatim.gates.verdict import Cause, Finding
from seriatim.modeling.heads.mask import DynamicMaskHead
from seriatim.modeling.meta_arch.task_aligned import TaskAlignedDetector

CERTAIN = 10.0  # a logit: a score of 0.99995
# Of the loss of a fresh head: what is left are labels that are soft, or points outside of boxes.
LEFT_OVER = 0.25
CLOSE = 0.8  # IoU of a detection with its object; exact but for rounding and clipping
SAME_MASK = 0.7  # IoU: of small objects the edge is much
MOST = 0.6  # of the objects: NMS removes some, and points outside of their object cannot place it

Levels = list[Tensor]


@dataclass
class Perfection:
    """What became of perfect outputs.

    Attributes:
        losses: of training.
        found: share of the objects that inference gives, with their class; None if not asked.
        placed: the same, whatever the class.
        scores: lowest and highest score of what inference gives.
        drawn: share of the placed objects whose mask is theirs; None if there are no masks.
    """

    losses: dict[str, float]
    found: float | None = None
    placed: float | None = None
    scores: tuple[float, float] | None = None
    drawn: float | None = None


def perfection(
    context: Context, model: nn.Module, batch: Batch, seen: Observation
) -> Perfection | None:
    """None where the layout of the outputs is not known, or there are no upright objects."""
    truth = [image["instances"] for image in batch if "instances" in image]
    if len(truth) < len(batch) or not all(len(t) and _upright(t) for t in truth):
        return None
    heads = seen.outputs.get("head")
    if isinstance(model, RetinaNet) and "anchor_generator" in seen.outputs:
        outputs = _retinanet(model, heads, seen.outputs["anchor_generator"], truth)
        return _dense(context, model, batch, outputs, truth)
    if isinstance(model, TaskAlignedDetector) and heads is not None:
        outputs, placeable = _task_aligned(model, heads, truth)
        return _dense(context, model, batch, outputs, placeable)
    stage = getattr(getattr(model, "roi_heads", None), "box_predictor", None)
    if isinstance(stage, FastRCNNOutputLayers) and is_documented(stage):
        return _second_stage(stage, truth)
    return None


def findings(fresh: dict[str, float], perfect: Perfection) -> Iterator[Finding]:
    """What is wrong, given the losses of a fresh head."""
    bad = [
        name
        for name, value in perfect.losses.items()
        if name in fresh and value > LEFT_OVER * abs(fresh[name]) + 1e-3
    ]
    if bad:
        causes = _causes_of_loss(bad, fresh, perfect)
        told = ", ".join(f"{n} {perfect.losses[n]:.3g} (fresh {fresh[n]:.3g})" for n in bad)
        yield Finding(
            f"outputs that are exactly the ground truth lose {told}.",
            f"at most {LEFT_OVER:.0%} of what a fresh head loses.",
            causes,
        )
    elif perfect.placed is not None and perfect.placed < MOST:
        yield Finding(
            f"of outputs that are exactly the ground truth, inference finds {perfect.placed:.0%}.",
            f"at least {MOST:.0%} of the objects at IoU {CLOSE:g}.",
            [
                Cause("inference decodes boxes in another way than training encodes them"),
                Cause("inference flattens or reads predictions in another order than training"),
            ],
        )
    elif perfect.scores is not None and not 0 <= perfect.scores[0] <= perfect.scores[1] <= 1:
        yield Finding(
            f"inference gives scores of {perfect.scores[0]:.3g} to {perfect.scores[1]:.3g}.",
            "scores between 0 and 1.",
            [
                Cause("inference takes logits for scores: a sigmoid or softmax is missing"),
                Cause("scores are multiplied or added up beyond 1"),
            ],
        )
    elif perfect.found is not None and perfect.found < MOST * perfect.placed:
        yield Finding(
            f"of outputs that are exactly the ground truth, inference places {perfect.placed:.0%}"
            f" and names {perfect.found:.0%} rightly.",
            "the class of each object.",
            [
                Cause(
                    "inference numbers classes in another way than training: shifted by one, or"
                    " the background first"
                ),
                Cause("inference takes scores and labels from different orders"),
            ],
        )
    elif perfect.drawn is not None and perfect.drawn < MOST:
        yield Finding(
            f"of masks that are exactly the ground truth, inference draws {perfect.drawn:.0%}.",
            f"at least {MOST:.0%} of the masks at IoU {SAME_MASK:g}.",
            [
                Cause("masks are pasted in another frame than that which training cuts them in"),
                Cause("inference puts scores of masks through a sigmoid twice, or takes logits"),
                Cause("masks and boxes of inference are in different orders"),
            ],
        )


def _causes_of_loss(bad: list[str], fresh: dict[str, float], perfect: Perfection) -> list[Cause]:
    shifted = Cause("the targets of the class loss are shifted, or count the background first")
    twice = Cause("a sigmoid or softmax is applied before a loss that applies one itself")
    formats = Cause("the box loss compares boxes of two formats (XYXY, XYWH), or in two units")
    reverse = Cause("the box loss rewards distance: overlap is minimised, instead of 1 - overlap")
    order = Cause(
        "predictions are flattened in another order than their targets: a view or reshape where a"
        " permute is needed"
    )
    if bad == ["loss_mask"]:
        return [
            Cause("the mask loss compares masks in two frames: other boxes, or x and y exchanged"),
            Cause("a sigmoid is applied before a mask loss that applies one itself"),
            Cause("the mask loss takes the mask of another object"),
        ]
    classes = [name for name in bad if "cls" in name]
    if classes and len(bad) > len(classes):
        return [order, shifted]
    grown = any(perfect.losses[name] > fresh[name] for name in bad)
    if classes:
        return [shifted, twice, order] if grown else [twice, shifted, order]
    return [reverse, formats] if grown else [formats, reverse]


# Dense detectors


def _dense(
    context: Context,
    model: nn.Module,
    batch: Batch,
    outputs: tuple[Levels, Levels],
    truth: list[Instances],
) -> Perfection:
    with _replaced(model.head, outputs), _perfect_masks(model, batch), torch.no_grad():
        losses = {n: float(v) for n, v in context.losses(model, batch).items()}
        asked = []
        for image in batch:
            height, width = image["image"].shape[-2:]
            asked.append({"image": image["image"], "height": height, "width": width})
        found = [output["instances"] for output in context.detections(model, asked)]
    return _compared(losses, found, truth)


@contextmanager
def _replaced(head: nn.Module, outputs: tuple[Levels, Levels]) -> Iterator[None]:
    def hook(module: nn.Module, inputs: object, output: Sequence) -> tuple[Levels, ...]:
        # What else the head gives, such as embeddings for masks, stays.
        replaced = ([level.clone() for level in levels] for levels in outputs)
        return (*replaced, *output[len(outputs) :])

    handle = head.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def _perfect_masks(model: nn.Module, batch: Batch) -> Iterator[None]:
    """Where a mask head of ours looks through a box, it sees the object whose box that is most."""
    head = getattr(model, "mask_head", None)
    if not isinstance(head, DynamicMaskHead):
        yield
        return

    def hook(module: nn.Module, inputs: tuple, output: Tensor) -> Tensor:
        masks = []
        for image, boxes in zip(batch, inputs[2], strict=True):
            truth, windows = image["instances"], boxes.cpu()
            if len(windows):
                own = pairwise_iou(Boxes(windows), truth.gt_boxes).argmax(1)
                cut = truth.gt_masks[own].crop_and_resize(windows, head.resolution)
                masks.append(cut.float() * 2 * CERTAIN - CERTAIN)
        return torch.cat(masks).to(output) if masks else output

    handle = head.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def _retinanet(
    model: RetinaNet, heads: Sequence, anchors: list[Boxes], truth: list[Instances]
) -> tuple[Levels, Levels]:
    """Logits (N, A·K, H, W) and deltas (N, A·4, H, W) of each level."""
    classes, flat = model.num_classes, Boxes.cat(anchors).tensor
    labels, boxes = model.label_anchors(anchors, truth)
    logits = flat.new_full((len(truth), len(flat), classes), -CERTAIN)
    deltas = flat.new_zeros(len(truth), len(flat), 4)
    for image, (label, box) in enumerate(zip(labels, boxes, strict=True)):
        chosen = ((label >= 0) & (label < classes)).nonzero()[:, 0]
        logits[image, chosen, label[chosen]] = CERTAIN
        deltas[image, chosen] = model.box2box_transform.get_deltas(flat[chosen], box[chosen])
    sizes = [len(level) for level in anchors]
    shapes = [level.shape[-2:] for level in heads[0]]

    def layout(values: Tensor) -> Levels:
        levels = zip(values.split(sizes, dim=1), shapes, strict=True)
        return [
            x.unflatten(1, (*shape, -1)).permute(0, 3, 4, 1, 2).flatten(1, 2) for x, shape in levels
        ]

    return layout(logits), layout(deltas)


def _task_aligned(
    model: TaskAlignedDetector, heads: Sequence, truth: list[Instances]
) -> tuple[tuple[Levels, Levels], list[Instances]]:
    """Logits (N, K, H, W) and distances (N, 4, H, W) in strides of each level.

    Also the objects that they can place, which are those around a point.
    """
    shapes = [level.shape[-2:] for level in heads[0]]
    points, strides = _centers(shapes, model.strides)
    logits, distances, placeable = [], [], []
    for instances in truth:
        boxes, classes = instances.gt_boxes.tensor, instances.gt_classes
        own, inside = _smallest_around(points, boxes)
        predicted = torch.where(inside[:, None], boxes[own], 0.0)
        targets = model.assigner(
            points.new_full((1, len(points), model.num_classes), 0.5),
            predicted[None],
            points,
            boxes[None],
            classes[None],
            torch.ones(1, len(boxes), dtype=torch.bool),
        )
        chosen = (targets.scores[0].amax(-1) > 0.5).nonzero()[:, 0]
        image = points.new_full((len(points), model.num_classes), -CERTAIN)
        image[chosen, classes[targets.matched[0, chosen]]] = CERTAIN
        logits.append(image)
        placeable.append(instances[own[chosen][inside[chosen]].unique()])
        edges = torch.cat([points - boxes[own][:, :2], boxes[own][:, 2:] - points], dim=1)
        distances.append((edges / strides).clamp(min=0.01))
    sizes = [h * w for h, w in shapes]

    def layout(images: list[Tensor]) -> Levels:
        levels = zip(torch.stack(images).split(sizes, dim=1), shapes, strict=True)
        return [x.transpose(1, 2).unflatten(2, tuple(shape)) for x, shape in levels]

    return (layout(logits), layout(distances)), placeable


def _centers(shapes: list[torch.Size], strides: list[int]) -> tuple[Tensor, Tensor]:
    """(P, 2) XY px of the cells' centres, row by row and level by level, and (P, 1) strides."""
    points, sizes = [], []
    for (height, width), stride in zip(shapes, strides, strict=True):
        y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        points.append((torch.stack([x, y], dim=-1).reshape(-1, 2) + 0.5) * stride)
        sizes.append(torch.full((height * width, 1), float(stride)))
    return torch.cat(points), torch.cat(sizes)


def _smallest_around(points: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
    """(P,) the smallest box around each point, else the nearest one; (P,) whether there is one."""
    margins = torch.cat(
        [points[:, None] - boxes[None, :, :2], boxes[None, :, 2:] - points[:, None]], dim=-1
    ).amin(-1)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(-1)
    around = margins > 0
    smallest = torch.where(around, areas[None], torch.inf).argmin(1)
    return torch.where(around.any(1), smallest, margins.argmax(1)), around.any(1)


# Two stages


def _second_stage(stage: FastRCNNOutputLayers, truth: list[Instances]) -> Perfection:
    classes, weight = stage.num_classes, stage.cls_score.weight
    proposals = []
    for instances in truth:
        boxes = instances.gt_boxes.tensor.to(weight)
        shift = 0.1 * (boxes[:, 2:] - boxes[:, :2])
        proposals.append(
            Instances(
                instances.image_size,
                proposal_boxes=Boxes(boxes + torch.cat([shift, -shift / 2], dim=1)),
                gt_boxes=Boxes(boxes),
                gt_classes=instances.gt_classes.to(weight.device),
                objectness_logits=boxes.new_full((len(boxes),), CERTAIN),
            )
        )
    labels = torch.cat([p.gt_classes for p in proposals])
    rows = torch.arange(len(labels))
    logits = weight.new_full((len(labels), classes + 1), -CERTAIN)
    logits[rows, labels] = CERTAIN
    wanted = stage.box2box_transform.get_deltas(
        torch.cat([p.proposal_boxes.tensor for p in proposals]),
        torch.cat([p.gt_boxes.tensor for p in proposals]),
    )
    if stage.bbox_pred.out_features == 4:
        deltas = wanted
    else:
        # The same for all classes: then a wrong class does not also misplace the box.
        deltas = wanted[:, None].expand(-1, classes, -1).flatten(1)
    with torch.no_grad(), EventStorage():
        losses = {n: float(v) for n, v in stage.losses((logits, deltas), proposals).items()}
        found, _ = stage.inference((logits, deltas), proposals)
    return _compared(losses, found, truth)


def is_documented(stage: FastRCNNOutputLayers) -> bool:
    """Whether its methods take what Detectron2's do, and its outputs are of their shape."""
    names = [list(inspect.signature(m).parameters) for m in (stage.losses, stage.inference)]
    outputs = getattr(stage.bbox_pred, "out_features", 0)
    return (
        names == [["predictions", "proposals"]] * 2
        and getattr(stage.cls_score, "out_features", 0) == stage.num_classes + 1
        and outputs in (4, 4 * stage.num_classes)
    )


# Both


def _compared(
    losses: dict[str, float], found: list[Instances], truth: list[Instances]
) -> Perfection:
    total = placed = named = drawn = 0
    scores = torch.cat([f.scores for f in found]) if found else torch.zeros(0)
    extent = (float(scores.min()), float(scores.max())) if len(scores) else None
    for detected, real in zip(found, truth, strict=True):
        total += len(real)
        if not len(detected):
            continue
        close = pairwise_iou(real.gt_boxes, detected.pred_boxes.to("cpu")) > CLOSE
        same = real.gt_classes[:, None] == detected.pred_classes.to("cpu")[None]
        placed += int(close.any(1).sum())
        named += int((close & same).any(1).sum())
        if detected.has("pred_masks") and real.has("gt_masks"):
            drawn += int((close & _same_masks(real, detected)).any(1).sum())
    if not total:
        return Perfection(losses)
    masks = all(f.has("pred_masks") for f in found) and placed > 0
    share = drawn / placed if masks else None
    return Perfection(losses, named / total, placed / total, extent, share)


def _same_masks(real: Instances, detected: Instances) -> Tensor:
    """(objects, detections) bool: the masks are the same, but for the grid they are found on."""
    truth = real.gt_masks
    if isinstance(truth, PolygonMasks):
        truth = BitMasks.from_polygon_masks(truth, *real.image_size)
    a, b = (m.flatten(1).float().cpu() for m in (truth.tensor, detected.pred_masks))
    both = a @ b.T
    return both > SAME_MASK * (a.sum(1)[:, None] + b.sum(1)[None] - both)


def _upright(instances: Instances) -> bool:
    return instances.has("gt_boxes") and instances.gt_boxes.tensor.shape[1] == 4
