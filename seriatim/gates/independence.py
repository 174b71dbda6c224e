"""Does the loss of one image depend on another image of its batch?

Models give losses summed over a batch, often over a common normaliser. So the gradient of each loss
by the pixels of image i is taken in two batches, [i, j] and [i, k]: a healthy companion can only
rescale it. What is random is made deterministic first: all proposals and anchors are sampled,
dropout is off, BatchNorm uses fixed statistics.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from detectron2.structures import BitMasks, Instances
from detectron2.utils.events import EventStorage
from torch import nn
from torch.nn import functional as F

from seriatim.engine.state import preserve_plain_state, preserve_rng
from seriatim.gates.base import Gate, Skip
from seriatim.gates.context import Batch, Context
from seriatim.gates.init import fresh_model
from seriatim.gates.modes import evaluating
from seriatim.gates.observe import some_records, tensors_in
from seriatim.gates.verdict import Cause, Finding

# Cosine between gradients that differ by a factor only. Healthy models measured 0.99999 and more in
# float32; labels of the other image or a mean over the batch give 0.9 and less.
LEAST_COSINE = 0.999
# Difference of an output between two batches, relative to its norm. Convolutions over one and over
# two images round differently: up to 1e-5 was measured.
ROUNDING = 1e-3
# The same batch, weights and seed give the same bits on a CPU; sums in another order move 1e-6.
REPRODUCED = 2e-5
# So many best scores of an image are compared, relative to the best, in a batch of one and of two.
SCORES, SCORE_TOLERANCE = 20, 1e-3
SHORT_EDGE = 192  # px; the question is the same for small images, and answered sooner
ALL = 10**6  # more than an image has anchors or proposals
FAINT = 1e-20  # a gradient of this norm is none


class IndependenceGate(Gate):
    name = "independence"
    question = "does image i's loss depend on image j?"
    packages = ("seriatim.modeling", "seriatim.data", "seriatim.checkpoint")

    def examine(self, context: Context, folder: Path) -> str:
        records = some_records(context, 3)
        if len(records) < 2:
            raise Skip("it takes two images to depend on each other")
        images = same_size(context.inputs(records, short_edge=SHORT_EDGE))
        if len(images) == 2:
            images.append({**images[1], "image": 255 - images[1]["image"]})
        probe = Probe(deterministic_copy(context, images), context.SEED)
        self._check_training(probe, *images)
        if not self.findings:
            self._check_evaluation(probe, images[0], images[1])
        cosines = self.numbers["cosines"]
        lowest = min(cosines.values(), default=1.0)
        return f"the gradients of {len(cosines)} losses keep their direction (cosine {lowest:.6f})"

    # Training

    def _check_training(self, probe: Probe, i: dict, j: dict, k: dict) -> None:
        """Image i in the company of j, and of k; then with j again, as if nothing had been."""
        before = {name: buffer.clone() for name, buffer in probe.model.named_buffers()}
        with_j = probe.gradients([i, j])
        with_k = probe.gradients([i, k])
        cosines = {name: with_j[name].cosine(with_k[name]) for name in with_j if name in with_k}
        self.numbers["cosines"] = cosines = {n: c for n, c in cosines.items() if c is not None}
        turned = [name for name, cosine in cosines.items() if cosine < LEAST_COSINE]
        moved = [n for n, b in probe.model.named_buffers() if not torch.equal(b, before[n])]
        if turned or not _same_losses(with_j, probe([i, j])):
            again = probe.gradients([i, j])
            remembered = [name for name in with_j if _changed(with_j[name], again.get(name))]
            if remembered:
                self._say_memory(remembered[0], with_j, again, moved)
                return
        turned = [name for name in turned if not _random(probe, [i, j], name)]
        if turned:
            self._say_leak(probe, turned, cosines, i, j, k)

    def _say_memory(
        self, name: str, first: dict[str, Term], again: dict[str, Term], moved: list[str]
    ) -> None:
        kept = (
            Cause("a buffer keeps what it saw of earlier batches", ", ".join(moved[:3]))
            if moved
            else Cause("an attribute or a global keeps values of earlier batches")
        )
        self._say(
            f"{name} of the same batch is {first[name].loss:.5g}, and {again[name].loss:.5g} after"
            " another batch came between, with the same weights and seeds.",
            "the same gradient, but for a factor that a running normaliser may give.",
            [
                kept,
                Cause("the loss reads the EventStorage, or another object that outlives a step"),
                Cause("randomness that does not come from torch's seeded generators"),
            ],
        )

    def _say_leak(
        self, probe: Probe, turned: list[str], cosines: dict[str, float], i: dict, j: dict, k: dict
    ) -> None:
        """Tell pixels from labels, and which module mixes images."""
        base = probe.gradients([i, j])
        pixels = probe.gradients([i, {**j, "image": k["image"]}])
        labels = probe.gradients([i, {**k, "image": j["image"]}])
        by_pixels = [name for name in turned if _turned(base[name], pixels.get(name))]
        by_labels = [name for name in turned if _turned(base[name], labels.get(name))]
        place = probe.mixer([i, j], [i, k])
        self.numbers["turned by the other image's pixels"] = by_pixels
        self.numbers["turned by the other image's labels"] = by_labels
        module = Cause(
            "this module mixes the images of a batch: statistics or a mean over dimension 0, or a"
            " view or reshape across it",
            place,
        )
        labelled = Cause(
            "an image is matched with the ground truth of another one: a wrong index, or a list in"
            " another order"
        )
        flattened = Cause(
            "predictions and targets are in different orders: a view or reshape, without permute,"
            " mixes images with channels, places or levels; or a part of the batch comes in another"
            " order than its images"
        )
        over = Cause("the loss takes a softmax, mean, maximum or norm over the batch")
        if place:
            causes = [module, flattened, labelled]
        elif by_pixels or not by_labels:
            causes = [flattened, over, labelled]
        else:
            causes = [labelled, flattened]
        whose = "pixels" if by_pixels else "labels" if by_labels else "presence"
        worst = min(turned, key=lambda name: cosines[name])
        self._say(
            f"the gradient of {worst} by one image turns with the {whose} of the other image of its"
            f" batch: cosine {cosines[worst]:.4f}.",
            f"a cosine of at least {LEAST_COSINE}: another image may rescale it, by a normaliser.",
            causes,
        )

    # Evaluation

    def _check_evaluation(self, probe: Probe, i: dict, j: dict) -> None:
        i, j = (_as_test_input(image) for image in (i, j))
        with evaluating(probe.model):
            noise = _difference(probe([i])[0], probe([i], seed=1)[0])
            if noise is not None and noise > SCORE_TOLERANCE:
                self._say(
                    f"in evaluation mode the output for an image differs by {noise:.2g} from one"
                    " seed to another.",
                    "the same output, whatever the seed.",
                    [
                        Cause(
                            "test-time randomness: dropout or sampling that evaluation mode does"
                            " not switch off"
                        ),
                        Cause("a module that ignores eval()"),
                    ],
                )
                return
            alone, pair, swapped = probe([i])[0], probe([i, j])[0], probe([j, i])[1]
            for what, other in (("beside another image", pair), ("as the second", swapped)):
                difference = _difference(alone, other)
                if difference is None or difference <= SCORE_TOLERANCE:
                    continue
                place = probe.mixer([i, i], [i, j])
                self._say(
                    f"in evaluation mode the output for an image differs by {difference:.2g} when"
                    f" it comes {what} of a batch.",
                    "the same output, alone or in company, in any order.",
                    [
                        Cause("batch statistics are used in evaluation mode", place)
                        if place
                        else Cause("results are put together in another order than the images"),
                        Cause("postprocessing takes the size or the boxes of another image"),
                        Cause("a threshold or top-k runs over the batch instead of each image"),
                    ],
                )
                return

    def _say(self, measured: str, expected: str, causes: list[Cause]) -> None:
        self.findings.append(Finding(measured, expected, causes))


@dataclass
class Term:
    """One loss of a batch, and its gradient by the pixels of the first image."""

    loss: float
    gradient: torch.Tensor

    def cosine(self, other: Term) -> float | None:
        """None where one has no gradient."""
        norms = self.gradient.norm(), other.gradient.norm()
        if min(norms) < FAINT or not all(math.isfinite(norm) for norm in norms):
            return None
        return float((self.gradient / norms[0]) @ (other.gradient / norms[1]))


class Probe:
    """Calls a model so that it leaves no trace, every time with the same random numbers."""

    def __init__(self, model: nn.Module, seed: int) -> None:
        self.model = model
        self._seed = seed

    def __call__(self, batch: Batch, seed: int | None = None) -> Any:
        with preserve_rng(), preserve_plain_state(self.model), EventStorage(), torch.no_grad():
            torch.manual_seed(self._seed if seed is None else seed)
            return self.model(_copied(batch))

    def gradients(self, batch: Batch, seed: int | None = None) -> dict[str, Term]:
        """Every loss by the pixels of the first image."""
        found: dict[str, Term] = {}
        with self._leaf() as leaves:
            with preserve_rng(), preserve_plain_state(self.model), EventStorage():
                torch.manual_seed(self._seed if seed is None else seed)
                with torch.jit.optimized_execution(False):
                    losses = self.model(_copied(batch))
            losses = losses if isinstance(losses, dict) else {"total_loss": losses}
            for name, loss in losses.items():
                if not loss.requires_grad or not leaves:
                    continue
                (gradient,) = torch.autograd.grad(
                    loss, leaves[0], retain_graph=True, allow_unused=True
                )
                if gradient is not None:
                    # In double precision: a loss over so many samples can be very small.
                    found[name] = Term(float(loss.detach()), gradient[0].double().flatten())
        return found

    @contextmanager
    def _leaf(self) -> Iterator[list[torch.Tensor]]:
        """The first batch of images that goes into a module is made a leaf of the graph.

        ImageList.from_tensors, which puts it together, is no differentiable function.
        """
        leaves: list[torch.Tensor] = []

        def hook(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
            if leaves or not inputs or not isinstance(inputs[0], torch.Tensor):
                return None
            if inputs[0].ndim != 4 or not inputs[0].is_floating_point():
                return None
            leaves.append(inputs[0].detach().requires_grad_())
            return (leaves[0], *inputs[1:])

        handles = [m.register_forward_pre_hook(hook) for n, m in self.model.named_modules() if n]
        try:
            yield leaves
        finally:
            for handle in handles:
                handle.remove()

    def mixer(self, batch: Batch, other: Batch) -> str:
        """The first module whose output for the first image differs between the two batches."""
        one, two = self._rows(batch), self._rows(other)
        for name, row in one.items():
            pair = zip(row, two.get(name, []), strict=False)
            if any(abs(a - b) > ROUNDING * max(size, 1e-12) for (a, size), (b, _) in pair):
                kind = type(self.model.get_submodule(name)).__name__
                return f"{name}, a {kind}"
        return ""

    def _rows(self, batch: Batch) -> dict[str, list[tuple[float, float]]]:
        """In the order in which modules finish: of each, projection and norm of the first rows."""
        rows: dict[str, list[tuple[float, float]]] = {}

        def keep(name: str) -> Callable[..., None]:
            def hook(module: nn.Module, inputs: Any, output: Any) -> None:
                if name not in rows:
                    outputs = [t for t in tensors_in(output) if t.ndim and len(t) == len(batch)]
                    rows[name] = [_projected(t[0]) for t in outputs]

            return hook

        handles = [m.register_forward_hook(keep(n)) for n, m in self.model.named_modules() if n]
        try:
            self(batch)
        finally:
            for handle in handles:
                handle.remove()
        return rows


def deterministic_copy(context: Context, images: Batch) -> nn.Module:
    """A fresh model that trains on all samples, without dropout, with these images' statistics."""
    model = fresh_model(context)
    batch_norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    momenta = [module.momentum for module in batch_norms]
    for module in batch_norms:
        module.momentum = 1.0
    with torch.no_grad():
        context.losses(model, images)
    for module, momentum in zip(batch_norms, momenta, strict=True):
        module.momentum = momentum
        module.eval()
    for module in model.modules():
        if "drop" in type(module).__name__.lower():
            module.eval()
        if hasattr(module, "batch_size_per_image"):
            module.batch_size_per_image = ALL
        for name in ("test_score_thresh", "test_score_threshold"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)  # a fresh model is sure of nothing
    return model


def same_size(batch: Batch) -> Batch:
    """The images padded at the right and below to one size, so that batching adds no padding."""
    height = max(image["image"].shape[-2] for image in batch)
    width = max(image["image"].shape[-1] for image in batch)
    return [_padded(image, height, width) for image in batch]


def _padded(image: dict[str, Any], height: int, width: int) -> dict[str, Any]:
    here = image["image"].shape[-2:]
    edges = (0, width - here[1], 0, height - here[0])
    padded = {**image, "image": F.pad(image["image"], edges), "height": height, "width": width}
    if "sem_seg" in image:
        padded["sem_seg"] = F.pad(image["sem_seg"], edges, value=255)
    if "instances" in image:
        instances = Instances((height, width), **copy.deepcopy(image["instances"]).get_fields())
        if instances.has("gt_masks") and isinstance(instances.gt_masks, BitMasks):
            instances.gt_masks = BitMasks(F.pad(instances.gt_masks.tensor, edges))
        padded["instances"] = instances
    return padded


def _copied(batch: Batch) -> Batch:
    return [copy.deepcopy(image) for image in batch]


def _as_test_input(image: dict[str, Any]) -> dict[str, Any]:
    return {key: image[key] for key in ("image", "height", "width", "proposals") if key in image}


def _turned(one: Term, other: Term | None) -> bool:
    cosine = None if other is None else one.cosine(other)
    return cosine is not None and cosine < LEAST_COSINE


def _same_losses(first: dict[str, Term], again: Any) -> bool:
    again = again if isinstance(again, dict) else {"total_loss": again}
    return all(
        abs(term.loss - float(again[name])) <= REPRODUCED * abs(term.loss)
        for name, term in first.items()
    )


def _changed(one: Term, other: Term | None) -> bool:
    """Whether the gradient turned, or grew by another factor than the loss did."""
    if other is None or _turned(one, other):
        return other is not None
    growth = float(other.gradient.norm() / one.gradient.norm().clamp(min=FAINT))
    return abs(other.loss - growth * one.loss) > REPRODUCED * abs(other.loss)


def _random(probe: Probe, batch: Batch, name: str) -> bool:
    """Whether another seed alone turns the gradient: then nothing can be said of it."""
    one, other = probe.gradients(batch), probe.gradients(batch, seed=1)
    return _turned(one[name], other.get(name))


def _projected(row: torch.Tensor) -> tuple[float, float]:
    """Of a tensor its product with a fixed direction, and its norm."""
    flat = row.detach().float().flatten()
    direction = torch.cos(torch.arange(len(flat), device=flat.device) * 1.618)
    return float(flat @ direction), float(flat.norm())


def _difference(one: Any, other: Any) -> float | None:
    """Largest difference of the best scores, of an image's own, or of semantic scores."""
    if not isinstance(one, dict):
        return None
    found = []
    if "instances" in one and one["instances"].has("scores"):
        a, b = (_best_scores(x["instances"].scores) for x in (one, other))
        found.append(float((a - b).abs().max() / a.max().clamp(min=1e-12)))
    if "scores" in one:
        found.append(float((one["scores"] - other["scores"]).abs().max() / one["scores"].max()))
    if "sem_seg" in one:
        scale = one["sem_seg"].abs().max().clamp(min=1e-12)
        found.append(float((one["sem_seg"] - other["sem_seg"]).abs().max() / scale))
    return max(found, default=None)


def _best_scores(scores: torch.Tensor) -> torch.Tensor:
    best = scores.detach().float().sort(descending=True).values[:SCORES]
    return F.pad(best, (0, SCORES - len(best)))
