"""What the methods are made of, as pure functions. Probabilities are (N, C), rows sum to 1."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from dataset_tools.errors import InputError
from seriatim.modeling.classification_losses import soft_target_cross_entropy

RAMPS = ("exp", "linear")
CONSISTENCIES = ("mse", "cross_entropy")


def ramp_up(step: int, steps: float, shape: str = "exp") -> float:
    """Factor from 0 to 1 for the weight of a loss, 1 from `steps` on.

    "exp" is exp(-5 (1 - t)²) with t = step / steps (Laine 2017, arXiv 1610.02242), "linear" is t.
    """
    progress = min(1.0, step / steps) if steps > 0 else 1.0
    if shape == "linear":
        return progress
    if shape == "exp":
        return math.exp(-5 * (1 - progress) ** 2)
    raise InputError(f"MIXUP.RAMP is {shape!r}; it can be {' or '.join(RAMPS)}.")


def sharpen(probabilities: Tensor, temperature: float) -> Tensor:
    """p^(1/T) / Σ p^(1/T) (Berthelot 2019, arXiv 1905.02249, equation 7)."""
    return (probabilities.log() / temperature).softmax(-1)


def average_guess(logits: Tensor, views: int) -> Tensor:
    """(N, C) mean probability over the views of an image; `logits` (views · N, C), view by view."""
    return logits.float().softmax(-1).unflatten(0, (views, -1)).mean(0)


def consistency(logits: Tensor, guesses: Tensor, kind: str) -> Tensor:
    """How far predictions are from guesses, a scalar.

    "mse" is the mean over images and classes of the squared difference of probabilities;
    "cross_entropy" is -Σ guess log p, the mean over images.
    """
    if kind == "mse":
        return F.mse_loss(logits.float().softmax(-1), guesses)
    if kind == "cross_entropy":
        return soft_target_cross_entropy(logits, guesses)
    raise InputError(f"MIXUP.CONSISTENCY is {kind!r}; it can be {' or '.join(CONSISTENCIES)}.")


def pseudo_label_loss(logits: Tensor, guesses: Tensor, threshold: float) -> Tensor:
    """Cross entropy with the most probable class of each guess, where that is at least `threshold`;
    the mean over all images, those that do not count too (Sohn 2020, arXiv 2001.07685, equation 4).
    """
    confidence, labels = guesses.max(-1)
    losses = F.cross_entropy(logits.float(), labels, reduction="none")
    return (losses * (confidence >= threshold)).mean()


def larger_half(lam: Tensor) -> Tensor:
    """max(λ, 1 - λ): what is mixed stays closer to the first of the two (MixMatch, equation 9)."""
    return torch.maximum(lam, 1 - lam)


def guess_statistics(guesses: Tensor, threshold: float) -> dict[str, float]:
    """What tells whether guesses are good for anything, each from 0 to 1.

    confidence: mean of the largest probability; kept: share of images whose largest probability is
    at least `threshold`; largest_class: share of the class that is guessed most often, which goes
    to 1 when a model talks itself into one class.
    """
    confidence, labels = guesses.max(-1)
    counts = torch.bincount(labels, minlength=guesses.shape[1])
    return {
        "confidence": float(confidence.mean()),
        "kept": float((confidence >= threshold).float().mean()),
        "largest_class": float(counts.max() / len(labels)),
    }
