"""Is the input used at all?"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
import numpy as np
import torch
from scipy.stats import wilcoxon

from seriatim.engine.train_step import NonFiniteError
from seriatim.gates import labelled
from seriatim.gates.base import Gate, Skip
from seriatim.gates.context import Context, Record
from seriatim.gates.practice import Practice, practise, smoothed
from seriatim.gates.verdict import Cause, Finding

IMAGES, BATCH = 12, 2
# What learns slowly (rotated boxes) is given four times as long before it is called blind.
STEPS = (60, 240)
# Chance, at each try, that a model which does not use its input still does so much better: one in a
# hundred, so that both tries together miss at most one blind model in fifty.
SIGNIFICANCE = 0.01
# A term that keeps this share of itself has not been learnt. Only orders causes.
STILL = 0.99


@dataclass(frozen=True)
class _Comparison:
    """Losses by image, float (images,), of models that took so many steps on real images, on black
    ones (`dark`), and on labels of other images; `runs` are these in this order."""

    steps: int
    runs: dict[str, Practice]
    own: np.ndarray
    dark: np.ndarray
    other: np.ndarray
    chance_of_black: float


class BlindGate(Gate):
    """The same few steps with real images, with black ones, and with the labels of other images.

    A model that sees must end with a smaller loss on the real ones, image by image (Wilcoxon's
    signed-rank test, so that no margin has to be chosen). Where that is not plain yet, all is done
    again with more steps.
    """

    name = "blind"
    question = "is the input used at all?"
    fast = False

    def examine(self, context: Context, folder: Path) -> str:
        records = context.covering(context.train_records, IMAGES)
        if len(records) < 6:
            raise Skip(f"only {len(records)} images have objects; a test needs 6")
        try:
            found = self._compare(context, records)
        except NonFiniteError as error:
            raise Skip(f"the loss does not stay finite: {error}") from None
        self.numbers |= {
            "steps": found.steps,
            "mean loss, real images": float(found.own.mean()),
            "mean loss, black images": float(found.dark.mean()),
            "mean loss, labels of other images": float(found.other.mean()),
            "chance of black": found.chance_of_black,
            "chance of labels": (p_labels := chance(found.own, found.other)),
        }
        self._draw(found.runs, folder)
        if found.chance_of_black > SIGNIFICANCE:
            self._say_blind(found)
        elif p_labels > 0.5:
            self._say_shuffled(found)
        return f"loss {found.own.mean():.3g} on real images, {found.dark.mean():.3g} on black ones"

    def _compare(self, context: Context, records: list[Record]) -> _Comparison:
        """With the fewest steps that tell real images from black ones, else with the most."""
        inputs, shuffled = context.inputs(records), with_labels_of_others(records)
        blackened = [blacken(item) for item in inputs]
        for steps in STEPS:
            real = self._train(context, records, steps, "blind_real")
            black = self._train(context, records, steps, "blind_black", blacken)
            own, dark = image_losses(context, real, inputs), image_losses(context, black, blackened)
            if (chance_of_black := chance(own, dark)) <= SIGNIFICANCE:
                break
        mixed = self._train(context, shuffled, steps, "blind_shuffled")
        other = image_losses(context, mixed, context.inputs(shuffled))
        runs = {"real": real, "black": black, "labels of others": mixed}
        return _Comparison(steps, runs, own, dark, other, chance_of_black)

    def _say_blind(self, found: _Comparison) -> None:
        self.findings.append(
            Finding(
                f"after {found.steps} steps the loss on real images is {found.own.mean():.3g}, on"
                f" black ones {found.dark.mean():.3g}: chance would do that in"
                f" {found.chance_of_black:.1%} of cases.",
                f"a smaller loss on real images, by more than chance ({SIGNIFICANCE:.0%}).",
                [
                    *standing_still(found.runs["real"]),
                    Cause(
                        "the features do not reach the heads, or are overwritten",
                        "the meta-architecture",
                    ),
                    Cause(
                        "images are zeroed, saturated or all the same after normalisation",
                        "MODEL.PIXEL_MEAN, MODEL.PIXEL_STD; gate inputs",
                    ),
                    Cause("labels have nothing to do with the images", "DATASETS.TRAIN; gate data"),
                    Cause(
                        "the learning rate is so small that nothing was learnt", "SOLVER.BASE_LR"
                    ),
                ],
                pictures=["losses.png"],
            )
        )

    def _say_shuffled(self, found: _Comparison) -> None:
        self.findings.append(
            Finding(
                "labels of other images are learnt as well as the own ones"
                f" ({found.other.mean():.3g} and {found.own.mean():.3g}).",
                "that the own labels are easier.",
                [
                    Cause("labels do not belong to their images", "DATASETS.TRAIN; gate data"),
                    Cause("all images have nearly the same labels"),
                ],
                fails=False,
                pictures=["losses.png"],
            )
        )

    def _train(
        self,
        context: Context,
        records: list[Record],
        steps: int,
        name: str,
        alter: Callable | None = None,
    ) -> Practice:
        practice = practise(context, records, steps, BATCH, name, alter=alter)
        practice.run(steps)
        return practice

    def _draw(self, runs: dict[str, Practice], folder: Path) -> None:
        figure, axes = plt.subplots(figsize=(7, 3.2))
        for name, practice in runs.items():
            axes.plot(smoothed(practice.total(), 0.8), label=name)
        axes.set(xlabel="step", ylabel="loss, smoothed")
        axes.legend()
        figure.tight_layout()
        figure.savefig(folder / "losses.png", dpi=110)
        plt.close(figure)
        self.evidence.append("losses.png")


def standing_still(practice: Practice) -> list[Cause]:
    """The loss terms that end where they began, if others have fallen: theirs is the fault."""
    ends = practice.ends()
    still = [name for name, (start, end) in ends.items() if start > 0 and end > STILL * start]
    if len(still) == len(ends):
        return []
    return [
        Cause(
            f"{name} stands still ({ends[name][0]:.3g} → {ends[name][1]:.3g}): its outputs are"
            " scaled down, as by a temperature, or its gradient is lost",
            "the meta-architecture",
        )
        for name in still
    ]


def blacken(item: Record) -> Record:
    """An input whose image is 0 everywhere."""
    return {**item, "image": torch.zeros_like(item["image"])}


def with_labels_of_others(records: list[Record]) -> list[Record]:
    """Every record with the annotations of another one, scaled to its size, or its label."""
    order = list(range(len(records)))
    shift = random.Random(0).randrange(1, len(records))
    if labelled.has_labels(records):
        return labelled.with_labels_of_others(records, shift)
    mixed = []
    for place, record in enumerate(records):
        giver = records[order[(place + shift) % len(records)]]
        scale = (record["width"] / giver["width"], record["height"] / giver["height"])
        mixed.append({**record, "annotations": [_scaled(a, scale) for a in giver["annotations"]]})
    return mixed


def _scaled(annotation: Record, scale: tuple[float, float]) -> Record:
    scaled = copy.deepcopy(annotation)
    x, y = scale
    if len(scaled["bbox"]) == 4:
        scaled["bbox"] = [float(v) * s for v, s in zip(scaled["bbox"], (x, y, x, y), strict=True)]
    if isinstance(scaled.get("segmentation"), list):
        scaled["segmentation"] = [
            [v * (x, y)[i % 2] for i, v in enumerate(polygon)] for polygon in scaled["segmentation"]
        ]
    elif "segmentation" in scaled:
        del scaled["segmentation"]
    if "keypoints" in scaled:
        scaled["keypoints"] = [v * (x, y, 1)[i % 3] for i, v in enumerate(scaled["keypoints"])]
    return scaled


def image_losses(context: Context, practice: Practice, inputs: list[Record]) -> np.ndarray:
    """The total loss of each input alone. BatchNorms use what they have gathered: the statistics of
    one image would take away what tells it from others. The model is thrown away after."""
    for module in practice.model.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.eval()
    losses = []
    for item in inputs:
        with torch.no_grad():
            found = context.losses(practice.model, [item])
        losses.append(float(sum(value.detach() for value in found.values())))
    return np.asarray(losses)


def chance(smaller: np.ndarray, larger: np.ndarray) -> float:
    """Probability that `smaller` lies so much below `larger`, pair by pair, by luck."""
    if np.allclose(smaller, larger):
        return 1.0
    return float(wilcoxon(smaller, larger, alternative="less").pvalue)
