"""Is the loss at initialisation what theory says?"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.layers import FrozenBatchNorm2d
from torch import nn

from seriatim.gates import assignment, classification, levels, perfect
from seriatim.gates.base import Gate
from seriatim.gates.context import Batch, Context
from seriatim.gates.expectations import (
    Expectation,
    Suspect,
    box_deltas,
    class_logits,
    expected_losses,
    is_informative,
    prior_of,
    zero_weights,
)
from seriatim.gates.observe import Observation, is_finite, observe, some_records, tensors_in
from seriatim.gates.verdict import Cause, Finding

IMAGES = 2  # more would say the same: losses are means
# The scores of a fresh head scatter around the prior p by a factor of exp(N(0, 0.3)); without the
# prior's bias they are near 0.5, fifty times the usual 0.01.
PRIOR_SLACK = 2.5
# Of a loss that theory has no answer for: those in use are between 0.01 and 20 at the start.
LARGEST_UNKNOWN = 1000.0
# So many numbers around 0 have both signs.
LEAST_DELTAS = 50
# A loss that agrees to so many digits on the negative of an image does not see it.
SAME = 1e-6


class InitGate(Gate):
    name = "init"
    question = "is the loss at initialisation what theory says?"
    packages = ("seriatim.modeling", "seriatim.data", "seriatim.checkpoint")

    def examine(self, context: Context, folder: Path) -> str:
        batch = context.inputs(some_records(context, IMAGES))
        model = fresh_model(context)
        self._check_classes(context, model, batch)
        if self.findings:
            return ""  # a label out of range makes a loss fail in ways of its own
        if hasattr(model, "initialisation_report"):
            starts = model.initialisation_report()
            self.numbers["layers, root mean square of weights"] = {s.layer: str(s) for s in starts}
            self.findings += classification.start_findings(starts)
        seen = observe(context, model, batch, is_informative)
        self.numbers["losses"] = seen.losses
        if not is_finite(seen.losses):
            self._blame_for_nan(context, model, batch, seen)
            return ""
        expected = expected_losses(model, context.cfg, seen, batch)
        self.numbers["expected"] = {k: [e.low, e.high] for k, e in expected.items()}
        self.findings += levels.findings(model, batch, seen)
        if not self._input_counts(context, model, batch, seen):
            return ""  # a constant is not worth an explanation of its value
        self._check_perfect(context, model, batch, seen)
        self.findings += assignment.findings(context, model, batch, seen)
        self._check_signs(model, seen)
        prior_broken = self._check_prior(context.cfg, model, seen)
        suspect = _frozen_noise(context.cfg, model)
        dense = prior_of(model, context.cfg) is not None
        known = prior_broken or suspect
        for name, value in seen.losses.items():
            self._check_loss(name, value, expected.get(name), context.cfg, known, dense)
        if expected:
            draw_losses(seen.losses, expected, folder / "losses.png")
            self.evidence.append("losses.png")
            for finding in self.findings:
                finding.pictures.append("losses.png")
        told = ", ".join(f"{name} {value:.3g}" for name, value in seen.losses.items())
        unknown = [name for name in seen.losses if name not in expected]
        more = f" (no closed form for {', '.join(unknown)})" if unknown else ""
        return f"as theory says: {told}{more}"

    # Classes

    def _check_classes(self, context: Context, model: nn.Module, batch: Batch) -> None:
        names = context.cfg.DATASETS.TRAIN
        things = len(MetadataCatalog.get(names[0]).get("thing_classes") or ()) if names else 0
        heads = dict(_thing_heads(model))
        for head, classes in heads.items():
            self.numbers[f"classes of {head or 'the model'}"] = classes
            if things and classes < things:
                self._say(
                    f"{head or 'the model'} has {classes} classes, the data {things}.",
                    "a class of the head for every class of the data.",
                    [
                        Cause("the number of classes is another dataset's", "…NUM_CLASSES"),
                        Cause("the datasets name more categories than are meant", names[0]),
                    ],
                )
            elif things and classes > things:
                self._say(
                    f"{head or 'the model'} has {classes} classes, the data {things}.",
                    "a class of the head for every class of the data.",
                    [
                        Cause("the number of classes is another dataset's", "…NUM_CLASSES"),
                        Cause("background is counted as a class"),
                    ],
                    fails=classes == things + 1,  # more than that is a head meant for other data
                )
        given = [
            int(label)
            for image in batch
            if "instances" in image and image["instances"].has("gt_classes")
            for label in image["instances"].gt_classes
        ] + [int(image["label"]) for image in batch if "label" in image]
        limit = min(heads.values(), default=0)
        wrong = [label for label in given if label < 0 or (limit and label >= limit)]
        if wrong:
            self._say(
                f"labels {sorted(set(wrong))} reach the model, which has {limit} classes.",
                f"labels from 0 to {limit - 1}: to Detectron2's detectors the next is background.",
                [
                    Cause(
                        "labels start from 1 instead of 0", "the mapper or the dataset's records"
                    ),
                    Cause("category ids are used without the map to contiguous ones"),
                ],
            )

    # Outputs

    def _check_perfect(
        self, context: Context, model: nn.Module, batch: Batch, seen: Observation
    ) -> None:
        self.findings += classification.perfect_findings(model, batch)
        outcome = perfect.perfection(context, model, batch, seen)
        if outcome is not None:
            self.numbers["losses of perfect outputs"] = outcome.losses
            self.numbers["objects that inference finds in them"] = outcome.found
            self.findings += perfect.findings(seen.losses, outcome)

    def _check_signs(self, model: nn.Module, seen: Observation) -> None:
        """Deltas of fresh heads scatter around 0: an activation after the last layer shows."""
        for name, deltas in box_deltas(model, seen):
            if len(deltas) >= LEAST_DELTAS and deltas.any() and float(deltas.min()) >= 0:
                self._say(
                    f"none of {len(deltas)} box deltas of {name} is negative.",
                    "deltas of both signs: boxes must move both ways, grow and shrink.",
                    [
                        Cause("box deltas are cut off at 0 by an activation after the last layer"),
                        Cause("the last layer's bias starts far from 0"),
                    ],
                )

    # Losses

    def _check_prior(self, cfg: CfgNode, model: nn.Module, seen: Observation) -> Cause | None:
        """The mean score of a dense detector; gives the cause if it is not at the prior."""
        prior, logits = prior_of(model, cfg), class_logits(seen)
        if prior is None or logits is None:
            return None
        value, key = prior
        mean = float(logits.sigmoid().mean())
        self.numbers["mean score"] = mean
        if value / PRIOR_SLACK <= mean <= value * PRIOR_SLACK:
            return None
        spread = float(logits.std())
        bias = Cause(
            f"the bias of the classification layer is not -ln((1-p)/p) with p = {value:g}", key
        )
        wide = Cause(
            f"the weights of the last layers or the features are too large: logits have a standard"
            f" deviation of {spread:.2g}"
        )
        causes = [wide, bias] if spread > 2 else [bias, wide]
        if float(logits.min()) >= 0:
            cut = Cause("logits are cut off at 0 by an activation after the last layer (ReLU)")
            causes = [cut, bias]
        self._say(
            f"the mean score of all places and classes is {mean:.3g}.",
            f"the prior, {value:g} ({key}), within a factor of {PRIOR_SLACK:g}.",
            [*causes, Cause("outputs of the head are in another order than is taken for granted")],
        )
        return causes[0]

    def _check_loss(
        self,
        name: str,
        value: float,
        expected: Expectation | None,
        cfg: CfgNode,
        known: Cause | None,
        dense: bool,
    ) -> None:
        if value < 0:
            self._say(
                f"{name} is {value:.4g} at initialisation.",
                "a loss is not negative.",
                [
                    Cause("its sign is wrong"),
                    Cause("it takes probabilities where logits are meant, or the other way round"),
                ],
            )
        elif value == 0 and (expected is None or expected.high > 0 or zero_weights(cfg)):
            self._say(
                f"{name} is exactly 0 at initialisation, on images with objects.",
                "a loss above 0: the network knows nothing yet.",
                [
                    *zero_weights(cfg),
                    Cause("a factor of 0 in the loss, or a mask that leaves nothing"),
                    Cause("no object is matched: its size fits no level or anchor"),
                ],
            )
        elif expected is None:
            if value > LARGEST_UNKNOWN:
                self._say(
                    f"{name} is {value:.4g} at initialisation.",
                    f"a loss of order 1, in any case below {LARGEST_UNKNOWN:g}.",
                    [
                        Cause("it is summed where it should be averaged"),
                        Cause("targets are in pixels where the head predicts relative numbers"),
                    ],
                    fails=False,
                )
        elif not expected.low <= value <= expected.high:
            self._say_out_of_range(name, value, expected, known, dense)

    def _say_out_of_range(
        self, name: str, value: float, expected: Expectation, known: Cause | None, dense: bool
    ) -> None:
        causes = ranked(value / expected.middle if expected.middle else math.inf, expected.suspects)
        high = value > expected.high
        focus = Cause("the focusing of the focal loss is lost: easy negatives count in full")
        focal = high and dense and "cls" in name
        general = [
            *([focus] if focal and focus.what not in str(causes) else []),
            Cause("the last layer is initialised too wide, or its input is not normalised")
            if high
            else Cause("the loss is averaged over too much"),
            Cause("the loss's weight or its reduction differs from what its formula says"),
            Cause(
                "labels are not independent of a fresh network: ground truth leaks into the input"
            )
            if not high
            else Cause("images are normalised wrongly", "MODEL.PIXEL_MEAN, MODEL.PIXEL_STD"),
        ]
        first = [known] if known and known not in causes else []
        bounds = f"{expected.low:.3g} to {expected.high:.3g}"
        self._say(
            f"{name} is {value:.4g} at initialisation.",
            f"{bounds}: {expected.why}.",
            [*first, *causes, *general][:4],
        )

    # The input

    def _input_counts(
        self, context: Context, model: nn.Module, batch: Batch, seen: Observation
    ) -> bool:
        """The negatives of the images must give other losses."""
        negatives = [{**image, "image": 255 - image["image"]} for image in batch]
        negative = observe(context, model, negatives, is_informative)
        others = negative.losses
        same = [
            name
            for name, value in seen.losses.items()
            if value > 0 and abs(others.get(name, 0.0) - value) <= SAME * value
        ]
        constant = bool(seen.losses) and len(same) == len(seen.losses)
        if constant:
            clamped = Cause("the losses are clamped, and so a constant without a gradient")
            logits, other = class_logits(seen), class_logits(negative)
            seen_by_heads = logits is not None and not torch.equal(logits, other)
            self._say(
                "the losses are the same to six digits when every image becomes its negative.",
                "losses that depend on the pixels.",
                [
                    *([clamped] if seen_by_heads else []),
                    Cause("the images do not reach the heads: features are overwritten or zero"),
                    Cause("the last layers are initialised to 0, or the backbone is dead"),
                    Cause("normalisation divides the pixels away", "MODEL.PIXEL_STD"),
                ],
            )
        return not constant

    def _blame_for_nan(
        self, context: Context, model: nn.Module, batch: Batch, seen: Observation
    ) -> None:
        bad = [name for name, value in seen.losses.items() if not math.isfinite(value)]
        place = first_non_finite(context, model, batch)
        std = [float(x) for x in context.cfg.MODEL.PIXEL_STD]
        causes = [
            Cause("MODEL.PIXEL_STD holds a 0", "MODEL.PIXEL_STD") if 0 in std else None,
            Cause(f"{place} gives numbers that are not finite") if place else None,
            Cause("a logarithm or a division by 0 in the loss"),
            Cause("a box without area", "python -m dataset_tools check"),
        ]
        self._say(
            f"{', '.join(bad)} is not finite at initialisation.",
            "finite losses.",
            [cause for cause in causes if cause],
        )

    def _say(self, measured: str, expected: str, causes: list[Cause], fails: bool = True) -> None:
        self.findings.append(Finding(measured, expected, causes, fails))


def fresh_model(context: Context) -> nn.Module:
    """Heads as they are initialised, on the backbone that training starts from."""
    model = context.new_model()
    if context.cfg.MODEL.WEIGHTS and hasattr(model, "backbone"):
        model.backbone.load_state_dict(context.starting_model().backbone.state_dict())
    return model


def ranked(ratio: float, suspects: tuple[Suspect, ...]) -> list[Cause]:
    """The causes whose factor explains `ratio` within 1.6, the closest first."""

    def distance(suspect: Suspect) -> float:
        if suspect.factor <= 0 or ratio <= 0 or not math.isfinite(ratio):
            return math.inf
        return abs(math.log(ratio / suspect.factor))

    near = [s for s in suspects if distance(s) < math.log(1.6)]
    return [suspect.cause for suspect in sorted(near, key=distance)]


def first_non_finite(context: Context, model: nn.Module, batch: Batch) -> str:
    """The first module, in the order of the forward pass, whose output is not finite."""
    found: list[str] = []

    def look(name: str):
        def hook(module: nn.Module, inputs: object, output: object) -> None:
            if not found and any(not bool(t.isfinite().all()) for t in tensors_in(output)):
                found.append(name)

        return hook

    handles = [m.register_forward_hook(look(n)) for n, m in model.named_modules() if n]
    try:
        observe(context, model, batch)
    finally:
        for handle in handles:
            handle.remove()
    return found[0] if found else ""


def _thing_heads(model: nn.Module) -> Iterator[tuple[str, int]]:
    """Modules that know how many classes of things they tell apart."""
    for name, module in model.named_modules():
        classes = getattr(module, "num_classes", None)
        # Backbones of other libraries know their ImageNet classes; semantic heads know stuff.
        if type(classes) is int and classes > 0 and not name.startswith(("backbone", "sem_seg")):
            yield name, classes


def _frozen_noise(cfg: CfgNode, model: nn.Module) -> Cause | None:
    """Frozen norms on random weights let activations grow from block to block."""
    if cfg.MODEL.WEIGHTS or cfg.MODEL.TIMM.WEIGHTS:
        return None
    backbone = getattr(model, "backbone", model)
    if any(isinstance(m, FrozenBatchNorm2d) for m in backbone.modules()):
        return Cause("BatchNorm is frozen although no weights are loaded", "MODEL.RESNETS.NORM")
    return None


def draw_losses(losses: dict[str, float], expected: dict[str, Expectation], path: Path) -> None:
    """Each loss as a dot, its healthy range as a bar."""
    from matplotlib.figure import Figure

    names = list(losses)
    figure = Figure(figsize=(6, 0.6 + 0.55 * len(names)), layout="constrained")
    axes = figure.subplots()
    for row, name in enumerate(names):
        e = expected.get(name)
        good = e is None or e.low <= losses[name] <= e.high
        if e is not None:
            axes.barh(row, e.high - e.low, left=e.low, height=0.5, color="#9ecae1")
        axes.plot(losses[name], row, "o", color="#1a7f37" if good else "#cf222e")
        told = f"{losses[name]:.3g}" + (
            "" if e is None else f", theory {e.low:.3g} to {e.high:.3g}"
        )
        axes.annotate(
            told, (losses[name], row), xytext=(0, 7), textcoords="offset points", ha="center"
        )
    axes.set_yticks(range(len(names)), names)
    axes.set_xscale("symlog", linthresh=0.1)
    axes.set_xlabel("loss at initialisation; healthy range in blue")
    figure.savefig(path, dpi=110)
