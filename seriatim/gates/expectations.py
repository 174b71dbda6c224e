"""What the losses of a model that has learnt nothing should be, in closed form, by architecture.

A softmax over C classes that knows nothing loses ln C, a sigmoid ln 2; a focal loss at its prior p
loses alpha (1-p)^gamma (-ln p) for each positive and (1-alpha) p^gamma (-ln(1-p)) for each negative
(Lin 2017, arXiv 1708.02002, section 3.3). What depends on sampling is bounded.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.meta_arch.fcos import FCOS
from detectron2.modeling.meta_arch.retinanet import RetinaNet
from detectron2.modeling.proposal_generator.rpn import RPN
from detectron2.modeling.roi_heads.fast_rcnn import FastRCNNOutputLayers
from detectron2.modeling.roi_heads.keypoint_head import BaseKeypointRCNNHead
from detectron2.modeling.roi_heads.mask_head import BaseMaskRCNNHead
from detectron2.structures import Boxes
from fvcore.nn import giou_loss, smooth_l1_loss
from torch import nn

from seriatim.gates.context import Batch
from seriatim.gates.observe import Observation, tensors_in
from seriatim.gates.verdict import Cause
from seriatim.modeling.meta_arch.task_aligned import TaskAlignedDetector

# A last layer of small weights (std 0.01) leaves its noise; measured: healthy heads within 12 %.
LOG_SLACK = 1.25
# The focal loss is steep in the noise of its logits: E[exp(3 z)] is 1.6 at a std of 0.33.
FOCAL_SLACK = 1.8
# Smooth-L1 is linear in deltas; the head's own, nearly 0, are added to the upper bound.
REGRESSION_SLACK = 1.4
# Logits that are not nearly 0, as features of unnormalised necks make them, are compared with the
# loss that they have on labels which know nothing of them. Measured: healthy heads within 20 %.
CHANCE_SLACK = 1.5
# A loss so many times that of a uniform guess is no start, whatever explains it. Measured:
# Detectron2's heads on EfficientNet-Lite0 up to 2.8, those of its semantic FPN up to 4.
LOUDEST = 8.0
# Sums of four (rotated: five) deltas, weighted up to tenfold, of proposals with an IoU above 0.5.
LARGEST_BOX_LOSS = 20.0
LARGEST_RPN_BOX_LOSS = 10.0  # of one positive anchor; one that is merely the best may fit badly
_INITIAL_NORMALIZER = {"RetinaNet": 100.0, "FCOS": 300.0}  # that their running means start from


@dataclass(frozen=True)
class Suspect:
    """A mistake, and the factor by which it would change the loss."""

    factor: float
    cause: Cause


@dataclass(frozen=True)
class Expectation:
    """Attributes:
    low, high: the range of healthy values.
    why: the closed form in words.
    suspects: mistakes that can be told by their factor.
    """

    low: float
    high: float
    why: str
    suspects: tuple[Suspect, ...] = ()

    @property
    def middle(self) -> float:
        return math.sqrt(self.low * self.high) if self.low > 0 else self.high / 2

    def times(self, weight: float) -> Expectation:
        why = self.why if weight == 1 else f"{self.why}, times its weight {weight:g}"
        return Expectation(self.low * weight, self.high * weight, why, self.suspects)


def around(value: float, slack: float, why: str, suspects: Iterable[Suspect] = ()) -> Expectation:
    """From value / slack to value × slack."""
    return Expectation(value / slack, value * slack, why, tuple(suspects))


def is_informative(name: str, module: nn.Module) -> bool:
    """Modules whose outputs the closed forms, and the checks of outputs, need."""
    names = ("head", "backbone", "proposal_generator.rpn_head", "sem_seg_head.predictor")
    return (
        name in names
        or name.rpartition(".")[2] == "anchor_generator"
        or isinstance(module, FastRCNNOutputLayers)
    )


def expected_losses(
    model: nn.Module, cfg: CfgNode, seen: Observation, batch: Batch
) -> dict[str, Expectation]:
    """Name of a loss → what it should be, for those losses for which theory has an answer."""
    general = _over_images(len(batch))
    balance = getattr(model, "loss_balance", None)
    weights = {} if balance is None else balance.current()
    return {
        name: replace(e.times(weights.get(name, 1.0)), suspects=(*e.suspects, *general))
        for name, e in _expected(model, cfg, seen, batch).items()
    }


def _expected(
    model: nn.Module, cfg: CfgNode, seen: Observation, batch: Batch
) -> dict[str, Expectation]:
    told = getattr(model, "expected_initial_losses", None)
    if told is not None:
        return {
            name: Expectation(low, high, "as the model itself derives it")
            for name, (low, high) in told(batch).items()
        }
    found: dict[str, Expectation] = {}
    if isinstance(model, RetinaNet | FCOS):
        found |= _focal_detector(model, cfg, seen, batch)
    if isinstance(getattr(model, "proposal_generator", None), RPN):
        found |= _rpn(model.proposal_generator, seen)
    if hasattr(model, "roi_heads"):
        found |= _roi_heads(model.roi_heads, cfg, seen)
    if hasattr(model, "instance_loss_weight"):  # PanopticFPN's, on all but the semantic loss
        found = {name: e.times(model.instance_loss_weight) for name, e in found.items()}
    if hasattr(model, "sem_seg_head"):
        found |= _semantic(model.sem_seg_head, seen, batch)
    return found


def prior_of(model: nn.Module, cfg: CfgNode) -> tuple[float, str] | None:
    """The score that a dense detector's classes start from, and the key that says so."""
    if isinstance(model, TaskAlignedDetector):
        return cfg.MODEL.TASK_ALIGNED.PRIOR_PROB, "MODEL.TASK_ALIGNED.PRIOR_PROB"
    if isinstance(model, RetinaNet):
        return cfg.MODEL.RETINANET.PRIOR_PROB, "MODEL.RETINANET.PRIOR_PROB"
    if isinstance(model, FCOS):
        return cfg.MODEL.FCOS.PRIOR_PROB, "MODEL.FCOS.PRIOR_PROB"
    return None


def class_logits(seen: Observation) -> torch.Tensor | None:
    """All class logits of a dense detector's head, flat."""
    output = seen.outputs.get("head")
    if not isinstance(output, tuple | list) or not isinstance(output[0], tuple | list):
        return None
    return torch.cat([level.detach().float().flatten() for level in output[0]])


def box_deltas(model: nn.Module, seen: Observation) -> Iterator[tuple[str, torch.Tensor]]:
    """Names of heads that predict Box2BoxTransform's deltas, and all of these, flat."""
    for name, output in seen.outputs.items():
        owner = model.get_submodule(name.rpartition(".")[0]) if "head" in name else None
        module = model.get_submodule(name)
        transform = getattr(owner, "box2box_transform", getattr(module, "box2box_transform", None))
        if isinstance(transform, Box2BoxTransform) and isinstance(output, tuple | list):
            yield name, torch.cat([t.detach().float().flatten() for t in tensors_in(output[1])])


def zero_weights(cfg: CfgNode, prefix: str = "MODEL.") -> list[Cause]:
    """Config keys that hold a loss's weight of 0."""
    found = []
    node = cfg
    for part in prefix.split(".")[:-1]:
        node = node[part]
    for key, value in node.items():
        if isinstance(value, CfgNode):
            found += zero_weights(cfg, f"{prefix}{key}.")
        elif "WEIGHT" in key and isinstance(value, int | float) and value == 0:
            found.append(Cause("its weight is 0", f"{prefix}{key}"))
    return found


# Dense detectors


def _focal_detector(
    model: nn.Module, cfg: CfgNode, seen: Observation, batch: Batch
) -> dict[str, Expectation]:
    logits, anchors = class_logits(seen), seen.outputs.get("anchor_generator")
    prior, _ = prior_of(model, cfg) or (0.01, "")
    if logits is None or anchors is None:
        return {}
    positives, sample = _positives(model, anchors, batch)
    kind = "RetinaNet" if isinstance(model, RetinaNet) else "FCOS"
    normalizer = 0.9 * _INITIAL_NORMALIZER[kind] + 0.1 * max(positives, 1)
    per_object = f"over a normaliser of {normalizer:.0f}, {positives} positives"
    alpha, gamma = model.focal_loss_alpha, model.focal_loss_gamma

    def focal(p: float, alpha: float, gamma: float) -> float:
        positive = alpha * (1 - p) ** gamma * -math.log(p)
        negative = (1 - alpha) * p**gamma * -math.log1p(-p)
        return (positives * positive + (len(logits) - positives) * negative) / normalizer

    value = focal(prior, alpha, gamma)
    elementwise = _reductions(normalizer, len(logits))
    suspects = [
        Suspect(focal(0.5, alpha, gamma) / value, _no_prior(prior)),
        Suspect(focal(prior, 1 - alpha, gamma) / value, Cause("alpha weighs the wrong side")),
        Suspect(focal(prior, alpha, 0) / value, Cause("the focusing exponent gamma is lost")),
        *elementwise,
    ]
    names = (
        ("loss_cls", "loss_box_reg") if kind == "RetinaNet" else ("loss_fcos_cls", "loss_fcos_loc")
    )
    found = {
        names[0]: around(
            value, FOCAL_SLACK, f"the focal loss at a prior of {prior:g} {per_object}", suspects
        ),
        names[1]: _dense_regression(model, seen, sample, normalizer, per_object, elementwise),
    }
    if kind == "FCOS" and positives:
        found["loss_fcos_ctr"] = around(
            positives * math.log(2) / normalizer,
            LOG_SLACK,
            f"ln 2 for each positive {per_object}",
            elementwise,
        )
    return found


def _no_prior(prior: float) -> Cause:
    return Cause(f"the bias of the classification layer is not at the prior of {prior:g}")


def _reductions(normalizer: float, elements: int) -> list[Suspect]:
    mean = Cause("the loss is averaged over all predictions, not over the positive ones")
    return [
        Suspect(normalizer / elements, mean),
        Suspect(normalizer, Cause("the loss is summed and not divided by its normaliser")),
    ]


def _over_images(images: int) -> list[Suspect]:
    if images == 1:
        return []
    return [
        Suspect(images, Cause(f"the loss is summed over the {images} images, not averaged")),
        Suspect(1 / images, Cause("the loss is divided by the number of images once too often")),
    ]


def _positives(
    model: nn.Module, anchors: list[Boxes], batch: Batch
) -> tuple[int, tuple[torch.Tensor, torch.Tensor]]:
    """How many anchors are positive; these anchors and the boxes that they should become."""
    device = anchors[0].device
    truth = [x["instances"].to(device) for x in batch if len(x["instances"])]
    flat = Boxes.cat(anchors).tensor
    if not truth:
        return 0, (flat[:0], flat[:0])
    labels, boxes = model.label_anchors(anchors, truth)
    chosen = [(label >= 0) & (label != model.num_classes) for label in labels]
    boxes = [getattr(b, "tensor", b) for b in boxes]
    pairs = [(flat[c], b[c]) for c, b in zip(chosen, boxes, strict=True)]
    sources, targets = (torch.cat(parts) for parts in zip(*pairs, strict=True))
    return len(sources), (sources, targets)


def _dense_regression(
    model: nn.Module,
    seen: Observation,
    sample: tuple[torch.Tensor, torch.Tensor],
    normalizer: float,
    per_object: str,
    suspects: list[Suspect],
) -> Expectation:
    positives = len(sample[0])
    if not positives:
        return Expectation(0.0, 0.0, "0, since no anchor is positive")
    kind = getattr(model, "box_reg_loss_type", "giou")
    noise = float(torch.cat([level.flatten() for level in seen.outputs["head"][1]]).abs().mean())
    if kind == "smooth_l1":
        deltas = model.box2box_transform.get_deltas(*sample)
        value = float(
            smooth_l1_loss(deltas.new_zeros(deltas.shape), deltas, model.smooth_l1_beta).sum()
        )
        highest = (value + min(noise * deltas.numel(), value)) * REGRESSION_SLACK
        form = "smooth-L1 of the anchors' distance to their boxes"
    elif kind == "giou":
        anchors, boxes = sample
        start, transform = anchors, model.box2box_transform
        if not isinstance(transform, Box2BoxTransform):  # FCOS's distances of 0 leave a point
            start = transform.apply_deltas(torch.zeros_like(anchors), anchors)
        value = float(giou_loss(start, boxes).sum())
        highest = min((value + noise * anchors.numel()) * REGRESSION_SLACK, 2.0 * positives)
        form = "1 - GIoU of where boxes start and where they belong"
    else:
        value, highest, form = 0.0, 2.0 * positives, "at most 2 for each box"
    return Expectation(
        value / REGRESSION_SLACK / normalizer,
        highest / normalizer,
        f"{form} {per_object}",
        tuple(suspects),
    )


# Two stages


def _rpn(rpn: RPN, seen: Observation) -> dict[str, Expectation]:
    positives = seen.scalars.get("rpn/num_pos_anchors")
    negatives = seen.scalars.get("rpn/num_neg_anchors")
    per_image = rpn.batch_size_per_image
    sampled = per_image if positives is None else positives + negatives
    share = (per_image if positives is None else positives) / per_image
    value = math.log(2) * sampled / per_image
    suspects = (*_sigmoid_twice(), Suspect(per_image, Cause("the loss is summed, not averaged")))
    why = f"ln 2 for {sampled:.0f} of {per_image} anchors an image"
    high = LARGEST_RPN_BOX_LOSS * share
    weight = rpn.loss_weight
    return {
        "loss_rpn_cls": around(value, LOG_SLACK, why, suspects).times(
            weight.get("loss_rpn_cls", 1.0)
        ),
        "loss_rpn_loc": Expectation(0.0, high, f"at most {high:.2g} for so few positives").times(
            weight.get("loss_rpn_loc", 1.0)
        ),
    }


def _sigmoid_twice() -> list[Suspect]:
    """Of logits at 0 and mostly negative labels."""
    twice = Cause("a sigmoid is applied before a loss that applies one itself")
    return [Suspect(math.log1p(math.exp(0.5)) / math.log(2), twice)]


def _roi_heads(heads: nn.Module, cfg: CfgNode, seen: Observation) -> dict[str, Expectation]:
    found: dict[str, Expectation] = {}
    predictor = getattr(heads, "box_predictor", None)
    cascade = isinstance(predictor, nn.ModuleList)
    for number, stage in enumerate(predictor if cascade else [predictor]):
        if isinstance(stage, FastRCNNOutputLayers):
            prefix, suffix = (f"stage{number}/", f"_stage{number}") if cascade else ("", "")
            path = f"roi_heads.box_predictor.{number}" if cascade else "roi_heads.box_predictor"
            fresh = _box_head(stage, seen.outputs.get(path), _foreground_share(seen, prefix))
            found |= {name + suffix: expectation for name, expectation in fresh}
    mask_head = getattr(heads, "mask_head", None)
    if isinstance(mask_head, BaseMaskRCNNHead):
        found["loss_mask"] = around(
            math.log(2), LOG_SLACK, "ln 2 for each pixel of a mask", _sigmoid_twice()
        ).times(mask_head.loss_weight)
    keypoint_head = getattr(heads, "keypoint_head", None)
    if isinstance(keypoint_head, BaseKeypointRCNNHead):
        found["loss_keypoint"] = _keypoint_head(keypoint_head, cfg)
    return found


def _foreground_share(seen: Observation, prefix: str) -> float:
    foreground = seen.scalars.get(f"{prefix}roi_head/num_fg_samples", 0.0)
    background = seen.scalars.get(f"{prefix}roi_head/num_bg_samples", 0.0)
    return foreground / max(foreground + background, 1.0)


def _box_head(
    stage: FastRCNNOutputLayers, output: Any, foreground: float
) -> Iterator[tuple[str, Expectation]]:
    classes = stage.num_classes
    weight = stage.loss_weight
    weight = weight if isinstance(weight, dict) else {}
    if getattr(stage, "use_sigmoid_ce", False):
        why = f"ln 2 for each of {classes} classes"
        expectation = around(classes * math.log(2), LOG_SLACK, why)
    elif isinstance(output, tuple) and output[0].shape[-1] == classes + 1:
        shares = torch.full((classes + 1,), foreground / classes)
        shares[-1] = 1 - foreground
        expectation = softmax_at_chance(output[0], shares)
    else:
        expectation = around(math.log(classes + 1), CHANCE_SLACK, f"ln {classes + 1}")
    yield "loss_cls", expectation.times(weight.get("loss_cls", 1.0))
    boxes = Expectation(0.0, LARGEST_BOX_LOSS, "small, since few proposals are positive")
    yield "loss_box_reg", boxes.times(weight.get("loss_box_reg", 1.0))


def softmax_at_chance(logits: torch.Tensor, shares: torch.Tensor) -> Expectation:
    """Of the cross entropy of logits (N, C) on independent labels of frequencies `shares` (C,)."""
    logits = logits.detach().float()
    classes = logits.shape[1]
    uniform = math.log(classes)
    chance = float(logits.logsumexp(1).mean() - (logits.mean(0) * shares.to(logits)).sum())
    why = f"ln {classes} = {uniform:.2f} for {classes} classes with background, if there is one"
    if chance > 1.1 * uniform:
        why += f"; {chance:.2f} for logits that scatter as these do"
    suspects = [
        Suspect(
            math.log(other + 1) / uniform, Cause(f"the loss is over {other} classes, not these")
        )
        for other in (1, 20, 80, 365, 1203)
        if not 0.8 < math.log(other + 1) / uniform < 1.25
    ]
    suspects.append(Suspect(float(len(logits)), Cause("the loss is summed, not averaged")))
    low, high = min(uniform, chance) / CHANCE_SLACK, max(uniform, chance) * CHANCE_SLACK
    if chance > LOUDEST * uniform:
        wide = Cause(
            f"the last layer is initialised too wide: its logits scatter by {logits.std():.2g}"
        )
        suspects = [Suspect(1.0, wide), Suspect(chance / uniform, wide)]
    return Expectation(low, min(high, LOUDEST * uniform), why, tuple(suspects))


def _keypoint_head(head: BaseKeypointRCNNHead, cfg: CfgNode) -> Expectation:
    side = 4 * cfg.MODEL.ROI_KEYPOINT_HEAD.POOLER_RESOLUTION  # it upsamples twice by two
    value, why = math.log(side * side), f"ln ({side}·{side}) for each visible keypoint"
    if head.loss_normalizer == "visible":
        return around(value, CHANCE_SLACK, why).times(head.loss_weight)
    low = value / CHANCE_SLACK / 1000  # few objects count little under a fixed normaliser
    return Expectation(low, CHANCE_SLACK * value, f"at most {why}").times(head.loss_weight)


# Semantic segmentation


def _semantic(head: nn.Module, seen: Observation, batch: Batch) -> dict[str, Expectation]:
    logits = seen.outputs.get("sem_seg_head.predictor")
    if not isinstance(logits, torch.Tensor):
        return {}
    classes = logits.shape[1]
    labels = torch.cat([image["sem_seg"].flatten() for image in batch])
    labels = labels[(labels >= 0) & (labels < classes)].long()
    shares = torch.bincount(labels, minlength=classes) / max(len(labels), 1)
    flat = logits.movedim(1, -1).reshape(-1, classes)
    return {
        "loss_sem_seg": softmax_at_chance(flat, shares).times(getattr(head, "loss_weight", 1.0))
    }
