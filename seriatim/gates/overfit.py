"""Can the model memorise one image, then ten?"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
import numpy as np
import torch
from detectron2.structures import Boxes, pairwise_iou

from seriatim.engine.train_step import NonFiniteError
from seriatim.gates.base import Gate, Skip
from seriatim.gates.context import Context, Record, objects_of
from seriatim.gates.labelled import has_labels
from seriatim.gates.memorised import causes_of_names, draw_named, named
from seriatim.gates.modes import evaluating
from seriatim.gates.pictures import input_tile, save_sheet
from seriatim.gates.practice import Practice, practise
from seriatim.gates.quiet import quiet
from seriatim.gates.verdict import Cause, Finding

# AP50 rather than AP: to find, name and roughly place all objects is what a whole pipeline does
# within a minute; the last percents of IoU, which AP asks for, take thousands of steps even where
# all is well.
METRICS = (
    ("bbox", "AP50"),
    ("classification", "top1"),
    ("sem_seg", "mIoU"),
    ("segm", "AP50"),
)
LOOK_EVERY = 25
LOOSE_IOU, USUAL_IOU = 0.3, 0.5


class _OverfitGate(Gate):
    """No augmentation, no randomness, the very images that are trained: only a fault stops this."""

    fast = False
    packages = ("seriatim", "dataset_tools")
    images: ClassVar[int]
    batch: ClassVar[int]
    steps: ClassVar[int]  # budget
    wanted: ClassVar[float]

    def examine(self, context: Context, folder: Path) -> str:
        records = context.covering(context.train_records, self.images)
        records = records or context.train_records[: self.images]
        if not records or (self.images > 1 and len(records) < 2):
            raise Skip(f"there are only {len(records)} images with objects")
        if context.restless:
            raise Skip(
                "the mapper augments by itself, in a way of its own: no image stays the same"
            )
        # BatchNorm over a pair that is always the same tells two classes by their difference.
        batch = len(records) if has_labels(records) else self.batch
        practice = practise(context, records, self.steps, batch, self.name)
        score = float("nan")
        try:
            while len(practice.losses) < self.steps:
                practice.run(LOOK_EVERY)
                score, metric = measure(context, practice)
                self.numbers.setdefault("score by step", []).append((len(practice.losses), score))
                if score >= self.wanted:
                    break
        except NonFiniteError as error:
            self._not_finite(str(error))
            return ""
        self._evidence(context, practice, records, folder)
        self.numbers |= {"score": score, "metric": metric, "steps": len(practice.losses)}
        if not score >= self.wanted:
            self._stalled(context, practice, records, score, metric)
        return f"{metric} {score:.0f} on {len(records)} image(s) after {len(practice.losses)} steps"

    def _not_finite(self, message: str) -> None:
        self.findings.append(
            Finding(
                f"while memorising {self.images} image(s) the loss stopped being finite. {message}",
                "a loss that falls.",
                [
                    Cause("the learning rate is too high", "SOLVER.BASE_LR"),
                    Cause("a loss divides by 0"),
                ],
            )
        )

    def _evidence(
        self, context: Context, practice: Practice, records: list[Record], folder: Path
    ) -> None:
        draw_losses(practice, folder / "losses.png")
        self.evidence.append("losses.png")
        if objects_of(records[0]):
            save_sheet(compare(context, practice, records[:4]), folder / "memorised.png", columns=2)
            self.evidence.insert(0, "memorised.png")
        elif has_labels(records):
            draw_named(records, named(context, practice, records), folder / "memorised.png")
            self.evidence.insert(0, "memorised.png")

    def _stalled(
        self, context: Context, practice: Practice, records: list[Record], score: float, metric: str
    ) -> None:
        causes = []
        if objects_of(records[0]):
            found = diagnose(context, practice, records)
            self.numbers["diagnosis"] = vars(found)
            causes = list(found.causes())
        elif has_labels(records):
            causes = list(causes_of_names(named(context, practice, records), practice))
        self.findings.append(
            Finding(
                f"after {len(practice.losses)} steps on {len(records)} image(s) the model reaches"
                f" {metric} {score:.0f} on them. {stalled_terms(practice)}",
                f"at least {self.wanted:.0f}.",
                [
                    *causes,
                    Cause("the learning rate is far off", "SOLVER.BASE_LR; gate lr"),
                    Cause(
                        "training and inference decode outputs differently", "the meta-architecture"
                    ),
                ],
                pictures=self.evidence[:1],
            )
        )


class Overfit1Gate(_OverfitGate):
    name = "overfit1"
    question = "can it memorise one image?"
    images, batch, steps, wanted = 1, 1, 250, 90.0


class Overfit10Gate(_OverfitGate):
    name = "overfit10"
    question = "can it memorise ten images?"
    images, batch, steps, wanted = 10, 2, 400, 80.0


def measure(context: Context, practice: Practice) -> tuple[float, str]:
    """The first of METRICS that the evaluator gives, and its name."""
    with quiet():
        results = context.trainer_class.test(practice.trainer.cfg, practice.model) or {}
    practice.model.train()
    for task, metric in METRICS:
        value = results.get(task, {}).get(metric)
        if value is not None and value == value:
            return float(value), f"{task} {metric}"
    raise Skip(f"the evaluator gives none of {', '.join(f'{t}/{m}' for t, m in METRICS)}")


@dataclass
class Diagnosis:
    """Shares of the true objects that are found: Attributes:
    found: at IoU 0.5 with the right class; placed: at IoU 0.5 whatever the class; near: at IoU 0.3
    whatever the class; shown: detections per object; confidence: mean score of the best detections.
    """

    found: float
    placed: float
    near: float
    shown: float
    confidence: float

    def causes(self) -> list[Cause]:
        """What stalls: classification, localisation or assignment."""
        classes = Cause(
            f"classification stalls: {self.placed:.0%} of the objects are boxed, {self.found:.0%}"
            " rightly named",
            "labels, class numbers, classification loss",
        )
        places = Cause(
            f"localisation stalls: {self.near:.0%} of the objects are found at IoU 0.3,"
            f" {self.placed:.0%} at 0.5",
            "box decoding, box loss, strides",
        )
        scores = Cause(
            f"nothing is found with confidence: {self.shown:.1f} detections per object, best scores"
            f" {self.confidence:.2f}",
            "assignment of objects to predictions, a loss without gradient, score thresholds",
        )
        if self.placed - self.found > 0.15:
            return [classes, scores, places]
        if self.near - self.placed > 0.15:
            return [places, scores, classes]
        return [scores, places, classes]


def diagnose(context: Context, practice: Practice, records: list[Record]) -> Diagnosis:
    """How far the model has come with the images it was trained on, at the network's scale."""
    found = placed = near = total = shown = 0
    confidence = []
    for item, instances in _predictions(context, practice, records):
        truth = item["instances"]
        if truth.gt_boxes.tensor.shape[1] != 4:
            continue
        total += len(truth)
        best = instances[instances.scores.argsort(descending=True)[: max(1, 3 * len(truth))]]
        shown += len(best)
        if not len(best) or not len(truth):
            continue
        confidence.append(float(best.scores[: len(truth)].mean()))
        iou = pairwise_iou(truth.gt_boxes, Boxes(best.pred_boxes.tensor))
        same = truth.gt_classes[:, None] == best.pred_classes[None]
        found += int((iou * same > USUAL_IOU).any(1).sum())
        placed += int((iou > USUAL_IOU).any(1).sum())
        near += int((iou > LOOSE_IOU).any(1).sum())
    total = max(total, 1)
    mean = float(np.mean(confidence)) if confidence else 0.0
    return Diagnosis(found / total, placed / total, near / total, shown / total, mean)


def _predictions(context: Context, practice: Practice, records: list[Record]):
    """(input with ground truth, detections at the scale of that input) of each record."""
    for item in context.inputs(records):
        height, width = item["image"].shape[-2:]
        asked = {**copy.copy(item), "height": height, "width": width}
        with evaluating(practice.model):
            output = practice.model([{k: v for k, v in asked.items() if k != "instances"}])[0]
        if "instances" in output and "instances" in item:
            yield item, output["instances"].to("cpu")


def compare(context: Context, practice: Practice, records: list[Record]) -> list[np.ndarray]:
    """Of each record the true boxes, then the predicted ones above half of the best score."""
    bgr = context.cfg.INPUT.FORMAT == "BGR"
    tiles = []
    for item, found in _predictions(context, practice, records):
        truth = item["instances"]
        tiles.append(
            input_tile(item["image"], _upright(truth.gt_boxes), truth.gt_classes.tolist(), bgr)
        )
        kept = found[found.scores > 0.5 * found.scores.max()] if len(found) else found
        kept = kept[: 2 * len(truth) + 5]
        tiles.append(
            input_tile(item["image"], _upright(kept.pred_boxes), kept.pred_classes.tolist(), bgr)
        )
    return tiles


def _upright(boxes: Boxes) -> np.ndarray:
    values = boxes.tensor.detach().cpu()
    if values.shape[1] == 5:
        half = values[:, 2:4] / 2
        values = torch.cat([values[:, :2] - half, values[:, :2] + half], dim=1)
    return values.numpy()


def stalled_terms(practice: Practice) -> str:
    """Which loss terms fell, and which did not."""
    parts = [f"{name} {start:.3g} → {end:.3g}" for name, (start, end) in practice.ends().items()]
    return f"Losses: {', '.join(parts)}."


def draw_losses(practice: Practice, path: Path) -> None:
    """Every loss term over the steps."""
    figure, axes = plt.subplots(figsize=(7, 3.2))
    for name in practice.losses[0]:
        axes.plot([terms.get(name, np.nan) for terms in practice.losses], label=name, linewidth=1)
    axes.set(xlabel="step", ylabel="loss", yscale="symlog" if _wide(practice) else "linear")
    axes.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _wide(practice: Practice) -> bool:
    total = practice.total()
    return max(total) > 50 * max(min(total), 1e-9)
