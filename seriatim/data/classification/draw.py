"""Which images of a training set keep their label, which lose it, and which are kept for testing.

The draw is by class, from a permutation that depends on the seed and the class alone. Validation is
taken from its end and labels from its beginning, so that the validation set is the same however
many labels there are, and ten labels of a class are ten of its forty.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from detectron2.config import CfgNode

from dataset_tools.errors import InputError
from seriatim.data.classification.dataset import UNLABELLED, LabelledDataset


@dataclass(frozen=True)
class Draw:
    """Indices of a dataset in ascending order, int64; together they are all of it."""

    labelled: np.ndarray
    unlabelled: np.ndarray
    validation: np.ndarray


def stratified_draw(
    labels: np.ndarray, labels_per_class: int, validation_per_class: int, seed: int
) -> Draw:
    """Draw so many images of each class as labelled, and as validation set; the others, and those
    without a label, are unlabelled.

    Args:
        labels: (N,) int64, contiguous from 0, or `UNLABELLED`.
        labels_per_class: 0: all that are not kept for validation are labelled.

    Raises:
        InputError: a class has too few images.
    """
    labelled, validation = [], []
    for label in range(labels.max(initial=-1) + 1):
        own = np.flatnonzero(labels == label)
        least = max(1, labels_per_class) + validation_per_class
        if len(own) < least:
            raise InputError(
                f"class {label} has {len(own)} images, and"
                f" {labels_per_class or 'at least 1'} labelled and {validation_per_class} for"
                " validation were asked for (SERIATIM.SEMI.LABELS_PER_CLASS, VALIDATION_PER_CLASS)."
            )
        order = np.random.default_rng((seed, label)).permutation(own)
        rest = len(own) - validation_per_class
        labelled.append(order[: labels_per_class or rest])
        validation.append(order[rest:])
    chosen = np.zeros(len(labels), np.int8)
    for mark, parts in ((1, labelled), (2, validation)):
        for part in parts:
            chosen[part] = mark
    return Draw(*(np.flatnonzero(chosen == mark) for mark in (1, 0, 2)))


def draw(cfg: CfgNode, name: str, dataset: LabelledDataset) -> Draw:
    """What SERIATIM.SEMI draws from the training set `name`. InputError if it is too small."""
    semi = cfg.SERIATIM.SEMI
    if semi.LABELS_PER_CLASS <= 0 and semi.VALIDATION_PER_CLASS <= 0:
        without = (dataset.labels == UNLABELLED).numpy()
        empty = np.zeros(0, np.int64)
        return Draw(np.flatnonzero(~without), np.flatnonzero(without), empty)
    try:
        return stratified_draw(
            dataset.labels.numpy(), semi.LABELS_PER_CLASS, semi.VALIDATION_PER_CLASS, semi.SEED
        )
    except InputError as error:
        raise InputError(f"{name}: {error}") from None
