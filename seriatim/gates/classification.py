"""What the gates ask of images that have a label as a whole, in place of objects."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog

from seriatim.data.classification.dataset import UNLABELLED
from seriatim.data.loader import unlabelled_records
from seriatim.gates.context import Context, Record
from seriatim.gates.quiet import quiet
from seriatim.gates.verdict import Cause, Finding
from seriatim.modeling.initialisation import LayerStart

MOST_MAPPED = 200  # images that go through the mapper; of the others the record's label is taken
CERTAIN = 20.0  # a logit: a probability of 1 - 1e-8
SURE = 4.0  # a logit: sure, but no more than smoothed labels bear
# Logits so sure that softmax and sigmoid are 0 or 1 to 8 digits. What a loss may have left then, of
# that of equal logits, and what counts as no change.
SURER = (20.0, 40.0)
LEFT, STILL = 0.01, 1e-4
# Standard errors of a root mean square, 1 / √(2 n) of it, that are no accident: 8.5.
STRAY = 6.0
SEEN = 0.9  # of the true top-1 that a planted fault may leave at most
# Collections of photographs repeat themselves: CIFAR-100 has a share of 0.001 exact copies.
COPIED = 0.01
CONTRADICTED = 0.001  # of the training images: equal pixels with two labels


# The oracle's question


def oracle(
    context: Context, name: str, records: Sequence[Record]
) -> tuple[str, dict[str, Any], list[Finding]]:
    """Labels, given as predictions, must score 100 %, and mistaken ones must not.

    Returns:
        the healthy line, numbers, and findings.
    """
    classes = len(MetadataCatalog.get(name).thing_classes)
    records = [record for record in records if record["label"] != UNLABELLED]
    labels, changed = _mapped_labels(context, records)
    top1 = _scorer(context, name, records, classes)
    score = top1(labels)
    numbers: dict[str, Any] = {"top-1 of the labels": score}
    findings = []
    if changed:
        findings.append(
            Finding(
                f"the mapper gives {changed} of {min(len(records), MOST_MAPPED)} images another"
                " label than their records have.",
                "the same label.",
                [
                    Cause(
                        "the mapper changes labels, or takes those of other images", "build_mapper"
                    )
                ],
            )
        )
    if not score > 100 - 1e-6:
        findings.append(_imperfect(name, score, labels, classes, top1))
    else:
        numbers["top-1 under planted faults"] = seen = {
            fault: top1(change(labels, classes)) for fault, change in _FAULTS.items()
        }
        findings += [_blind(fault, value) for fault, value in seen.items() if value > 100 * SEEN]
    return (
        f"labels of {len(records)} images, as predictions, score top-1 {score:.1f}",
        (numbers),
        findings,
    )


def _mapped_labels(context: Context, records: Sequence[Record]) -> tuple[np.ndarray, int]:
    """(N,) labels as the mapper gives them, and how many it changed."""
    mapped = context.inputs(records[:MOST_MAPPED])
    own = np.array([record["label"] for record in records])
    given = own.copy()
    given[: len(mapped)] = [int(item["label"]) for item in mapped]
    return given, int((given != own).sum())


def _scorer(
    context: Context, name: str, records: Sequence[Record], classes: int
) -> Callable[[np.ndarray], float]:
    """Predicted classes → top-1 that the trainer's evaluator gives, in percent."""
    evaluator = context.trainer_class.build_evaluator(context.variant(), name)
    keys = ("image_id", "file_name", "height", "width")

    def score(predicted: np.ndarray) -> float:
        evaluator.reset()
        logits = CERTAIN * torch.eye(classes)
        for record, number in zip(records, predicted.tolist(), strict=True):
            row = logits[number % classes]
            output = {"scores": row.softmax(0), "logits": row, "classes": row.topk(1).indices}
            evaluator.process([{key: record[key] for key in keys}], [output])
        with quiet():
            found = evaluator.evaluate() or {}
        return float(found.get("classification", {}).get("top1", float("nan")))

    return score


_FAULTS: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {
    "class numbers one too high": lambda labels, classes: (labels + 1) % classes,
    "class numbers one too low": lambda labels, classes: (labels - 1) % classes,
    "classes in the reverse order": lambda labels, classes: classes - 1 - labels,
    "labels of the next image": lambda labels, classes: np.roll(labels, 1),
}
_UNDO = {
    "class numbers one too high": "class numbers one too low",
    "class numbers one too low": "class numbers one too high",
    "classes in the reverse order": "classes in the reverse order",
}


def _imperfect(
    name: str,
    score: float,
    labels: np.ndarray,
    classes: int,
    top1: Callable[[np.ndarray], float],
) -> Finding:
    undone = {fault: top1(_FAULTS[undo](labels, classes)) for fault, undo in _UNDO.items()}
    gains = sorted((f for f, v in undone.items() if v > score + 5), key=lambda f: -undone[f])
    return Finding(
        f"the labels of {name}, given as predictions, score top-1 {score:.1f}.",
        "100.",
        [
            *[Cause(f"{f}: undone, top-1 is {undone[f]:.1f}", "thing_classes") for f in gains],
            Cause("the mapper and the evaluator number the classes differently", "build_mapper"),
            Cause("the evaluator compares with the labels of other images", "build_evaluator"),
        ],
    )


def _blind(fault: str, value: float) -> Finding:
    return Finding(
        f"with {fault} the evaluator still gives top-1 {value:.1f}.",
        "a fall, for this fault mislabels images.",
        [
            Cause("the evaluator does not look at what it should", "build_evaluator"),
            Cause("nearly all images have the same label"),
        ],
        fails=value > 100 - 1e-6 and fault != "labels of the next image",
    )


# The questions to the data


def check_data(context: Context, train: Sequence[str], test: Sequence[str]) -> Iterable[Finding]:
    """Copies of test images in the training set, and equal images of different labels."""
    seen: dict[bytes, int] = {}
    contradicted = total = 0
    for record in _trained(context):
        total += 1
        key, label = _content(record), record["label"]
        known = seen.setdefault(key, label)
        contradicted += UNLABELLED not in (known, label) and known != label
    if contradicted > CONTRADICTED * total:
        yield Finding(
            f"{contradicted} of {total} training images have the same pixels as another with"
            " another label.",
            f"at most {CONTRADICTED:.1%} of them.",
            [
                Cause("labels are shifted against their images, or shuffled", ", ".join(train)),
                Cause("images are blank, or were lost when the data was converted"),
            ],
            fails=contradicted > 10 * CONTRADICTED * total,
        )
    for name in test:
        asked = DatasetCatalog.get(name)
        copies = [record["file_name"] for record in asked if _content(record) in seen]
        if not copies:
            continue
        debugging = len(copies) == len(asked) and name in train
        yield Finding(
            f"{len(copies)} of {len(asked)} images of {name} are training images to the last"
            f" pixel, {copies[0]} first.",
            "no image in both.",
            [
                Cause("training is tested on its own images", "DATASETS.TRAIN, DATASETS.TEST")
                if name in train
                else Cause("the split was made after images were copied"),
                Cause("the same file or SPLIT is named for both", "SERIATIM.DATASETS"),
            ],
            fails=len(copies) > COPIED * len(asked) and not debugging,
        )


def _trained(context: Context) -> Iterable[Record]:
    yield from context.train_records
    yield from unlabelled_records(context.cfg) or ()


def _content(record: Record) -> bytes:
    pixels = record.get("pixels")
    content = Path(record["file_name"]).read_bytes() if pixels is None else pixels.tobytes()
    return hashlib.blake2b(content, digest_size=16).digest()


# The questions to a fresh model


def perfect_findings(model: Any, batch: Sequence[dict[str, Any]]) -> Iterable[Finding]:
    """Logits that know the labels must lose less than mistaken ones, and be named rightly.

    Nothing for a model that does not say how it comes from logits to losses and outputs, as
    ImageClassifier does.
    """
    parts = ("targets", "supervised_loss", "inference")
    if not all(hasattr(model, part) for part in parts) or any("label" not in x for x in batch):
        return
    with torch.no_grad():
        targets = model.targets(batch)
        right = float(model.supervised_loss(SURE * targets, targets))
        wrong = float(model.supervised_loss(SURE * targets.roll(1, dims=1), targets))
        outputs = model.inference(SURE * targets)
        losses = [float(model.supervised_loss(x * targets, targets)) for x in SURER]
        unsure = float(model.supervised_loss(0 * targets, targets))
    named = [int(output["scores"].argmax()) for output in outputs]
    missed = sum(n != int(item["label"]) for n, item in zip(named, batch, strict=True))
    if right >= wrong:
        yield Finding(
            f"logits that know the labels lose {right:.3g}, those of the next class {wrong:.3g}.",
            "less for the right ones.",
            [
                Cause("the loss has the wrong sign, or its targets are shifted by a class"),
                Cause("a softmax is applied before a loss that applies one itself"),
            ],
        )
    elif _squashed(losses, unsure):
        yield Finding(
            f"logits that know the labels lose {losses[0]:.3g} however sure they are, and"
            f" {unsure:.3g} if they know nothing.",
            "nothing from logits that are sure, or more and more where labels are soft.",
            [
                Cause("a softmax or sigmoid is applied before a loss that applies one itself"),
                Cause("logits are clamped, or squashed by a tanh, before the loss"),
            ],
        )
    if missed:
        yield Finding(
            f"inference misnames {missed} of {len(batch)} images whose logits know the labels.",
            "the class of the highest logit.",
            [Cause("inference numbers classes in another way than training, or sorts wrongly")],
        )


def _squashed(losses: Sequence[float], unsure: float) -> bool:
    """Whether the loss of SURER logits stands still, well above 0.

    Against one label it goes to 0, against soft ones it grows with the logits: it stands still only
    if a function with bounds lies between.
    """
    first, last = losses
    return first > LEFT * unsure and abs(last - first) <= STILL * first


def start_findings(starts: Iterable[LayerStart]) -> Iterable[Finding]:
    """Layers whose weights do not start as the initialisation that the config names has it."""
    wrong = [
        start
        for start in starts
        if start.theory is not None
        and abs(start.measured - start.theory) > start.theory * STRAY / math.sqrt(start.numbers)
    ]
    if wrong:
        yield Finding(
            f"{wrong[0].layer} starts as {wrong[0]}"
            + (f"; {len(wrong) - 1} more differ." if len(wrong) > 1 else "."),
            "the root mean square of MODEL.CLASSIFIER.INIT, within its sampling error.",
            [
                Cause("weights are loaded or drawn again after the initialisation", wrong[0].layer),
                Cause("a layer is scaled on purpose: set MODEL.CLASSIFIER.INIT to ''"),
            ],
            fails=False,
        )
