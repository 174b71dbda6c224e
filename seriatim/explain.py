"""Where a model looked: Grad-CAM and integrated gradients of one class score or one detection."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from detectron2.structures import Boxes, pairwise_iou
from torch import Tensor, nn
from torch.nn import functional as F

from dataset_tools.errors import InputError

METHODS = ("gradcam", "integrated-gradients")
# Scores below a model's threshold are no detections, and a score that vanishes has no gradient: on
# the way from the empty image detections must live on down to this score.
LOWEST_SCORE = 1e-3
STEPS = 32  # of the integral
# Inputs of the integral that are in memory at once.
CHUNK = 4


@dataclass(frozen=True)
class Target:
    """What is explained: the score of a class, in an image or at a box.

    Attributes:
        category: the contiguous class number.
        score: the model's.
        box: XYXY px of the original image, or None for a classifier.
    """

    category: int
    score: float
    box: tuple[float, float, float, float] | None = None


class Explainer:
    """Attributions by captum for anything that takes Detectron2's inputs.

    A classifier gives `logits` of (C,) and is asked for one of them. A detector gives `instances`;
    there the value is the best score among the detections of the class, each weighted by its
    overlap with the box (the similarity that D-RISE uses, arXiv 2006.03204; the overlap counts as
    a constant), so that a value exists wherever the detector still sees something there.

    Args:
        model: in evaluation mode; its parameters get no gradients.
        layer: name of the module whose output Grad-CAM weighs; "": the last one of the backbone
            (below a feature pyramid, where there is one) that gives a map of more than one cell.
    """

    def __init__(self, model: nn.Module, layer: str = "") -> None:
        self.model = model.eval().requires_grad_(False)
        self._layer_name = layer

    def targets(
        self, given: dict[str, Any], threshold: float, category: int | None, most: int
    ) -> list[Target]:
        """The `most` best-scored targets of one input.

        Args:
            given: what the test mapper gives.
            threshold: detections below this score are left out.
            category: only this class; of a classifier its score, whatever it is.
        """
        with torch.no_grad():
            output = self.model([given])[0]
        if "instances" not in output:
            scores = _class_scores(output)
            chosen = scores.argsort(descending=True)[:most].tolist()
            if category is not None:
                chosen = [category]
            return [Target(c, float(scores[c])) for c in chosen]
        found = output["instances"]
        targets = [
            Target(int(c), float(score), tuple(box.tolist()))
            for c, score, box in zip(
                found.pred_classes, found.scores, _upright(found.pred_boxes), strict=True
            )
            if score >= threshold and category in (None, int(c))
        ]
        return sorted(targets, key=lambda target: -target.score)[:most]

    def explain(self, given: dict[str, Any], target: Target, method: str) -> np.ndarray:
        """(H, W) float32 of the input's px: how much each place speaks for `target`.

        Grad-CAM (arXiv 1610.02391; of a detection with each place's own gradient, which is
        HiResCAM, arXiv 2011.08891) gives values of at least 0. Integrated gradients (arXiv
        1703.01365), from the image of mean colour, are summed over the channels and signed: over
        the image they add up to what the picture raises the value by.
        """
        if method not in METHODS:
            raise InputError(f"There is no method {method!r}; there are {', '.join(METHODS)}.")
        with _low_thresholds(self.model):
            self._check_gradient(given, target)
            if method == "gradcam":
                return self._gradcam(given, target)
            return self._integrated_gradients(given, target)

    def _check_gradient(self, given: dict[str, Any], target: Target) -> None:
        output = self.model([{**given, "image": given["image"].float().requires_grad_()}])[0]
        if not _value_of(output, target).requires_grad:
            raise InputError(
                f"{type(self.model).__name__} lets no gradient through to its scores in evaluation:"
                " it cannot be explained by gradients."
            )

    def _gradcam(self, given: dict[str, Any], target: Target) -> np.ndarray:
        from captum.attr import LayerGradCam, LayerGradientXActivation

        value, layer = self._value(given, target), self._layer(given)
        # The parameters are fixed: it is the input that makes the layer's output need a gradient.
        pixels = _pixels(given).requires_grad_()
        with _without_inplace(self.model):
            if target.box is None:
                heat = LayerGradCam(value, layer).attribute(pixels)
            else:
                # A detection depends on one place of the map: gradients averaged over all of it
                # would light up whatever looks alike elsewhere.
                heat = LayerGradientXActivation(value, layer).attribute(pixels).sum(1, True)
        heat = heat.relu()
        size = given["image"].shape[-2:]
        multiple = getattr(getattr(self.model, "backbone", None), "size_divisibility", 0) or 1
        padded = [-(-side // multiple) * multiple for side in size]
        heat = F.interpolate(heat, padded, mode="bilinear", align_corners=False)
        return heat[0, 0, : size[0], : size[1]].detach().cpu().numpy()

    def _integrated_gradients(self, given: dict[str, Any], target: Target) -> np.ndarray:
        from captum.attr import IntegratedGradients

        pixels = _pixels(given)
        mean = getattr(self.model, "pixel_mean", None)
        baseline = torch.zeros_like(pixels)
        if mean is not None:
            baseline += mean.detach().float().cpu().view(1, -1, 1, 1)
        attributions = IntegratedGradients(self._value(given, target)).attribute(
            pixels, baseline, n_steps=STEPS, internal_batch_size=CHUNK
        )
        return attributions[0].sum(0).detach().float().cpu().numpy()

    def _value(self, given: dict[str, Any], target: Target):
        """(N, 3, H, W) pixels → (N,) values of `target`."""

        def value(pixels: Tensor) -> Tensor:
            # One by one: Detectron2's ImageList lets no gradient through to several images.
            outputs = [self.model([{**given, "image": image}])[0] for image in pixels]
            values = torch.stack([_value_of(output, target) for output in outputs])
            if not values.requires_grad:
                values = values + 0 * pixels.sum()  # nothing is detected there: a constant
            return values

        return value

    def _layer(self, given: dict[str, Any]) -> nn.Module:
        """The module for Grad-CAM.

        Raises:
            InputError: there is none of that name, or none that gives maps.
        """
        modules = dict(self.model.named_modules())
        if self._layer_name:
            if self._layer_name not in modules:
                names = ", ".join(self._maps(given)[-12:])
                raise InputError(
                    f"The model has no module {self._layer_name!r}. The last that give maps:"
                    f" {names}."
                )
            return modules[self._layer_name]
        names = self._maps(given)
        if not names:
            raise InputError(
                "No module of the model gives a map (N, C, H, W): Grad-CAM has nothing to weigh."
                " Use --method integrated-gradients."
            )
        for prefix in ("backbone.bottom_up", "backbone"):
            inside = [name for name in names if name == prefix or name.startswith(f"{prefix}.")]
            if inside:
                return modules[inside[-1]]
        return modules[names[-1]]

    def _maps(self, given: dict[str, Any]) -> list[str]:
        """Names of the modules that give a map of more than one cell, as they end one by one."""
        names: list[str] = []

        def note(name: str):
            def hook(module: nn.Module, inputs: Any, output: Any) -> None:
                if isinstance(output, Tensor) and output.ndim == 4 and output.shape[2:].numel() > 1:
                    names.append(name)

            return hook

        handles = [
            module.register_forward_hook(note(name)) for name, module in self.model.named_modules()
        ]
        try:
            with torch.no_grad():
                self.model([given])
        finally:
            for handle in handles:
                handle.remove()
        return names


def _pixels(given: dict[str, Any]) -> Tensor:
    return given["image"].float()[None]


def _class_scores(output: dict[str, Any]) -> Tensor:
    if "scores" not in output:
        raise InputError(
            "Only classifiers and detectors can be explained, which give scores or instances; this"
            f" model gives {', '.join(output)}."
        )
    return output["scores"]


def _value_of(output: dict[str, Any], target: Target) -> Tensor:
    """A scalar: the logit of a classifier (its score, where it tells no logits), or the best score
    of a detector's detections of the class, weighted by their overlap with the box."""
    if "instances" not in output:
        return output.get("logits", output["scores"])[target.category]
    found = output["instances"]
    found = found[found.pred_classes == target.category]
    if not len(found):
        return found.scores.new_zeros(())
    boxes = _upright(found.pred_boxes).detach()
    overlaps = pairwise_iou(Boxes(boxes), Boxes(boxes.new_tensor([target.box])))[:, 0]
    return (found.scores * overlaps).max()


def _upright(boxes: Any) -> Tensor:
    """(N, 4) XYXY of boxes, or those around rotated ones."""
    tensor = boxes.tensor
    if tensor.shape[1] == 4:
        return tensor
    x, y, width, height, degrees = tensor.unbind(1)
    c, s = torch.deg2rad(degrees).cos().abs(), torch.deg2rad(degrees).sin().abs()
    half_w, half_h = (c * width + s * height) / 2, (s * width + c * height) / 2
    return torch.stack([x - half_w, y - half_h, x + half_w, y + half_h], 1)


@contextmanager
def _low_thresholds(model: nn.Module) -> Iterator[None]:
    """Let detections of low scores through; Detectron2's detectors all call it the same."""
    held = [m for m in model.modules() if "test_score_thresh" in vars(m)]
    before = [module.test_score_thresh for module in held]
    for module, threshold in zip(held, before, strict=True):
        module.test_score_thresh = min(threshold, LOWEST_SCORE)
    try:
        yield
    finally:
        for module, threshold in zip(held, before, strict=True):
            module.test_score_thresh = threshold


@contextmanager
def _without_inplace(model: nn.Module) -> Iterator[None]:
    """Activations that overwrite a layer's output would put theirs in its place."""
    held = [m for m in model.modules() if vars(m).get("inplace") is True]
    for module in held:
        module.inplace = False
    try:
        yield
    finally:
        for module in held:
            module.inplace = True
