"""Figures of a classifier, from the probabilities that it gives and the true classes."""

from __future__ import annotations

import numpy as np


def top_k(scores: np.ndarray, labels: np.ndarray, k: int) -> np.ndarray:
    """(N,) bool: whether the true class is among the k best. Ties count against it.

    Args:
        scores: (N, C). labels: (N,) int64.
    """
    own = scores[np.arange(len(labels)), labels]
    better = (scores >= own[:, None]).sum(1) - 1  # without itself
    return better < k


def negative_log_likelihood(log_probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(N,) nats, of (N, C) natural logarithms of probabilities."""
    return -log_probabilities[np.arange(len(labels)), labels]


def expected_calibration_error(
    confidences: np.ndarray, correct: np.ndarray, bins: int = 15
) -> float:
    """Mean over images of |accuracy − confidence| of their bin (Guo 2017, arXiv 1706.04599).

    Args:
        confidences: (N,) probability of the class that was chosen. correct: (N,) bool.
        bins: of equal width in (0, 1], each without its lower and with its upper edge.
    """
    if not len(correct):
        return float("nan")
    numbers = np.clip(np.ceil(confidences * bins).astype(np.int64) - 1, 0, bins - 1)
    gaps = np.bincount(numbers, weights=correct - confidences, minlength=bins)
    return float(np.abs(gaps).sum() / len(correct))


def confusion_matrix(labels: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """(C, C) int64: row the true class, column the one that was chosen."""
    cells = np.bincount(labels * classes + predicted, minlength=classes * classes)
    return cells.reshape(classes, classes)
