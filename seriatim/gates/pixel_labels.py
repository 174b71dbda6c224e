"""Do labels of images agree with their pixels? A linear look at thumbnails can tell.

Ridge regression from thumbnails to classes tells far fewer images apart than a network, but more
than chance, unless labels belong to other images. What one half teaches is asked of the other half,
and what the training set teaches of the test set, also with the mistakes that are made most often:
labels one image on, classes numbered otherwise.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog

from seriatim.data.classification.dataset import UNLABELLED
from seriatim.data.image import record_image
from seriatim.gates.verdict import Cause, Finding

SIDE = 8  # px of a thumbnail
MOST_IMAGES = 3000  # of a dataset, neighbours in twos
LEAST_IMAGES = 200
RIDGE = 0.1  # of the features' variance, which is 1
# Standard errors by which hits must exceed those of chance: 5 is no luck, below 2 is no evidence.
SURE, NONE = 5.0, 2.0


@dataclass(frozen=True)
class Sample:
    """Thumbnails (N, D) float32 of images with their classes, and those of the next images."""

    thumbnails: np.ndarray
    labels: np.ndarray
    next_labels: np.ndarray


def check_pixels(
    train: Sequence[str], test: Sequence[str], numbers: dict[str, Any]
) -> Iterable[Finding]:
    """What is wrong with the labels of the training and test sets; what was measured is added to
    `numbers`: standard errors above chance."""
    for name in train:
        sample = draw_sample(DatasetCatalog.get(name))
        classes = len(MetadataCatalog.get(name).thing_classes)
        if len(sample.labels) < LEAST_IMAGES:
            numbers[f"{name}: labels by thumbnails"] = f"not asked: under {LEAST_IMAGES} images"
            continue
        own = _halves(sample.thumbnails, sample.labels, classes)
        numbers[f"{name}: labels by thumbnails"] = round(own, 1)
        following = _halves(sample.thumbnails, sample.next_labels, classes)
        if own < SURE <= following:
            yield _shifted(name, own, following)
        elif own < NONE:
            yield _unrelated(name, own)
        if own >= SURE:
            yield from _check_test(name, sample, classes, test, numbers)


def draw_sample(records: Sequence[dict[str, Any]]) -> Sample:
    """At most `MOST_IMAGES` records with a label, spread over the dataset."""
    labels = [_label(records, i) for i in range(len(records))]
    usable = np.flatnonzero(np.array(labels) != UNLABELLED)
    places = np.linspace(0, len(usable) - 1, min(MOST_IMAGES, len(usable))).astype(np.int64)
    chosen = usable[places].tolist()
    following = usable[(places + 1) % max(1, len(usable))].tolist()
    thumbnails = [_thumbnail(records[i]) for i in chosen]
    return Sample(
        np.array(thumbnails, np.float32).reshape(len(chosen), -1),
        np.array([labels[i] for i in chosen], np.int64),
        np.array([labels[i] for i in following], np.int64),
    )


def _label(records: Sequence[dict[str, Any]], index: int) -> int:
    labels = getattr(records, "labels", None)
    return int(records[index]["label"]) if labels is None else int(labels[index])


def _thumbnail(record: dict[str, Any]) -> np.ndarray:
    image = record_image(record, "RGB")
    return cv2.resize(image, (SIDE, SIDE), interpolation=cv2.INTER_AREA)


def _halves(thumbnails: np.ndarray, labels: np.ndarray, classes: int) -> float:
    """Standard errors above chance of what each half of the images teaches about the other."""
    order = np.random.default_rng(0).permutation(len(labels))
    parts = order[::2], order[1::2]
    predicted = np.empty(len(labels), np.int64)
    for known, asked in (parts, parts[::-1]):
        predicted[asked] = _learn(thumbnails[known], labels[known], classes)(thumbnails[asked])
    return above_chance(predicted, labels)


def _learn(thumbnails: np.ndarray, labels: np.ndarray, classes: int):
    """A function from thumbnails to classes, by ridge regression on standardised numbers."""
    mean, spread = thumbnails.mean(0), thumbnails.std(0) + 1e-3
    features = _features(thumbnails, mean, spread)
    targets = np.eye(classes)[labels]
    matrix = features.T @ features + RIDGE * len(features) * np.eye(features.shape[1])
    weights = np.linalg.solve(matrix, features.T @ (targets - targets.mean(0)))
    weights /= np.sqrt(targets.mean(0) + 1e-6)  # rare classes are asked for, too
    return lambda others: (_features(others, mean, spread) @ weights).argmax(1)


def _features(thumbnails: np.ndarray, mean: np.ndarray, spread: np.ndarray) -> np.ndarray:
    return ((thumbnails - mean) / spread).astype(np.float64)


def above_chance(predicted: np.ndarray, labels: np.ndarray) -> float:
    """How many standard errors more hits there are than if the two had nothing to do with each
    other, their shares of classes as they are."""
    count, size = len(labels), max(predicted.max(), labels.max()) + 1
    shares = [np.bincount(values, minlength=size) / count for values in (predicted, labels)]
    chance = float(shares[0] @ shares[1])
    error = np.sqrt(max(chance * (1 - chance), 1e-9) / count)
    return float(((predicted == labels).mean() - chance) / error)


def _check_test(
    train: str, sample: Sample, classes: int, test: Sequence[str], numbers: dict[str, Any]
) -> Iterable[Finding]:
    """Only what another numbering of classes would mend is told: another domain is no fault."""
    predict = _learn(sample.thumbnails, sample.labels, classes)
    for name in test:
        asked = draw_sample(DatasetCatalog.get(name))
        if len(asked.labels) < LEAST_IMAGES:
            continue
        predicted = predict(asked.thumbnails)
        own = above_chance(predicted, asked.labels)
        numbers[f"{name}: labels by thumbnails of {train}"] = round(own, 1)
        others = {
            "one too high": above_chance((predicted + 1) % classes, asked.labels),
            "one too low": above_chance((predicted - 1) % classes, asked.labels),
            "in reverse order": above_chance(classes - 1 - predicted, asked.labels),
            "those of the image before": above_chance(predicted, asked.next_labels),
        }
        best = max(others, key=others.get)
        if own < NONE and others[best] >= SURE:
            yield _numbered_otherwise(name, train, own, best, others[best])


def _shifted(name: str, own: float, following: float) -> Finding:
    return Finding(
        f"thumbnails of {name} tell the label of the next image ({following:.1f} standard errors"
        f" above chance), not their own ({own:.1f}).",
        f"their own, by at least {SURE:.0f} standard errors.",
        [Cause("the list of labels is one off the list of images", name)],
    )


def _unrelated(name: str, own: float) -> Finding:
    return Finding(
        f"a linear look at thumbnails of {name} tells labels no better than chance ({own:.1f}"
        " standard errors above it).",
        f"more than {NONE:.0f} standard errors, where classes differ in colour or coarse shape.",
        [
            Cause("labels belong to other images: shuffled, or sorted otherwise", name),
            Cause("classes differ in nothing but detail: then all is well"),
        ],
        fails=False,
    )


def _numbered_otherwise(name: str, train: str, own: float, fault: str, value: float) -> Finding:
    return Finding(
        f"by what thumbnails of {train} teach, labels of {name} are {fault} ({value:.1f} standard"
        f" errors above chance; as they stand {own:.1f}).",
        "labels that mean the same in both.",
        [
            Cause("the two files number their classes differently", f"{train}, {name}"),
            Cause("the list of labels is one off the list of images", name),
        ],
    )
