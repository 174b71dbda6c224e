"""Losses of soft targets beside their formulas in double precision, and by finite differences."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torchvision.ops import sigmoid_focal_loss

from dataset_tools.errors import InputError
from seriatim.modeling import classification_losses as losses

SAMPLES, CLASSES = 40, 6


def some(seed: int = 0, scale: float = 3.0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(SAMPLES, CLASSES, generator=generator)
    targets = torch.rand(SAMPLES, CLASSES, generator=generator)
    return logits, targets / targets.sum(1, keepdim=True)


def probabilities(row) -> list[float]:
    top = max(row)
    parts = [math.exp(z - top) for z in row]
    return [p / sum(parts) for p in parts]


WEIGHTS = torch.tensor([0.2, 1.0, 2.0, 0.5, 1.3, 1.0])
PRIOR = losses.log_prior([5, 100, 7, 30, 1, 57])

CASES = {
    "cross_entropy": (
        lambda z, t: losses.soft_target_cross_entropy(z, t, reduction="none"),
        lambda z, t: -sum(b * math.log(p) for b, p in zip(t, probabilities(z), strict=True)),
    ),
    "weighted": (
        lambda z, t: losses.soft_target_cross_entropy(z, t, WEIGHTS.to(z.dtype), "none"),
        lambda z, t: -sum(
            w * b * math.log(p)
            for w, b, p in zip(WEIGHTS.tolist(), t, probabilities(z), strict=True)
        ),
    ),
    "focal": (
        lambda z, t: losses.focal_loss(z, t, 2.0, "none"),
        lambda z, t: -sum(
            b * (1 - p) ** 2 * math.log(p) for b, p in zip(t, probabilities(z), strict=True)
        ),
    ),
    "logit_adjusted": (
        lambda z, t: losses.logit_adjusted_cross_entropy(z, t, PRIOR.to(z.dtype), 1.5, "none"),
        lambda z, t: -sum(
            b * math.log(p)
            for b, p in zip(
                t,
                probabilities([a + 1.5 * q for a, q in zip(z, PRIOR.tolist(), strict=True)]),
                strict=True,
            )
        ),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_loss_is_its_formula_sample_by_sample(name):
    ours, formula = CASES[name]
    logits, targets = some()
    wanted = [formula(z, t) for z, t in zip(logits.tolist(), targets.tolist(), strict=True)]
    np.testing.assert_allclose(ours(logits, targets).numpy(), wanted, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("name", CASES)
def test_the_gradient_is_the_finite_difference(name):
    ours, formula = CASES[name]
    logits, targets = some(scale=2.0)
    logits.requires_grad_()
    ours(logits, targets).sum().backward()
    step = 1e-5
    for row in range(SAMPLES):
        z, t = logits[row].tolist(), targets[row].tolist()
        for k in range(CLASSES):
            up, down = list(z), list(z)
            up[k] += step
            down[k] -= step
            slope = (formula(up, t) - formula(down, t)) / (2 * step)
            assert float(logits.grad[row, k]) == pytest.approx(slope, rel=1e-3, abs=2e-5)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("size", [1e2, 1e4, 1e6])
def test_logits_of_any_size_give_finite_losses_and_gradients(name, size):
    ours, _ = CASES[name]
    logits, targets = some(scale=size)
    logits.requires_grad_()
    value = ours(logits, targets).mean()
    value.backward()
    assert torch.isfinite(value) and torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_low_precision_logits_are_taken_to_float32(dtype):
    logits, targets = some()
    value = losses.soft_target_cross_entropy(logits.to(dtype), targets)
    assert value.dtype == torch.float32
    torch.testing.assert_close(
        value, losses.soft_target_cross_entropy(logits.to(dtype).float(), targets)
    )


def test_hard_targets_give_torchs_cross_entropy():
    logits, _ = some()
    labels = torch.arange(SAMPLES) % CLASSES
    got = losses.soft_target_cross_entropy(logits, losses.one_hot(labels, CLASSES))
    torch.testing.assert_close(got, F.cross_entropy(logits, labels))


def test_label_smoothing_is_torchs():
    logits, _ = some()
    labels = torch.arange(SAMPLES) % CLASSES
    smoothed = losses.smooth_labels(losses.one_hot(labels, CLASSES), 0.1)
    got = losses.soft_target_cross_entropy(logits, smoothed)
    torch.testing.assert_close(got, F.cross_entropy(logits, labels, label_smoothing=0.1))


def test_focal_loss_of_two_classes_is_torchvisions_of_their_difference():
    logits = torch.randn(SAMPLES, 2)
    labels = torch.arange(SAMPLES) % 2
    got = losses.focal_loss(logits, losses.one_hot(labels, 2), 2.0, "none")
    wanted = sigmoid_focal_loss(logits[:, 1] - logits[:, 0], labels.float(), alpha=-1, gamma=2)
    torch.testing.assert_close(got, wanted)


def test_focal_loss_without_focus_is_cross_entropy():
    logits, targets = some()
    torch.testing.assert_close(
        losses.focal_loss(logits, targets, 0.0), losses.soft_target_cross_entropy(logits, targets)
    )


def test_class_balanced_weights_are_the_papers():
    counts, beta = [1, 10, 500, 20_000], 0.999
    raw = [(1 - beta) / (1 - beta**n) for n in counts]
    wanted = [w * len(counts) / sum(raw) for w in raw]
    np.testing.assert_allclose(losses.class_balanced_weights(counts, beta).numpy(), wanted, 1e-5)
    assert losses.class_balanced_weights(counts, 0.0).tolist() == pytest.approx([1.0] * 4)
    nearly = losses.class_balanced_weights(counts, 1 - 1e-10)
    inverse = torch.tensor([1 / n for n in counts])
    torch.testing.assert_close(nearly, inverse * 4 / inverse.sum(), rtol=1e-3, atol=1e-6)


def test_logit_adjustment_makes_the_prior_the_best_constant():
    """With π added, logits of 0 are optimal where the labels follow π: the gradient vanishes."""
    counts = torch.tensor([8.0, 1.0, 3.0])
    logits = torch.zeros(1, 3, requires_grad=True)
    targets = (counts / counts.sum())[None]
    losses.logit_adjusted_cross_entropy(
        logits, targets, losses.log_prior(counts.int().tolist())
    ).backward()
    torch.testing.assert_close(logits.grad, torch.zeros(1, 3), atol=1e-7, rtol=0)


@pytest.mark.parametrize("name", losses.LOSSES)
def test_a_loss_by_name_is_the_function_after_smoothing(name):
    logits, targets = some()
    counts = [5, 100, 7, 30, 1, 57]
    loss = losses.ClassificationLoss(
        name, label_smoothing=0.2, gamma=1.5, beta=0.9, tau=0.7, class_counts=counts
    )
    smooth = losses.smooth_labels(targets, 0.2)
    wanted = {
        "cross_entropy": lambda: losses.soft_target_cross_entropy(logits, smooth),
        "focal": lambda: losses.focal_loss(logits, smooth, 1.5),
        "class_balanced": lambda: losses.soft_target_cross_entropy(
            logits, smooth, losses.class_balanced_weights(counts, 0.9)
        ),
        "logit_adjusted": lambda: losses.logit_adjusted_cross_entropy(
            logits, smooth, losses.log_prior(counts), 0.7
        ),
    }[name]()
    torch.testing.assert_close(loss(logits, targets), wanted)
    assert loss(logits, targets, reduction="none").shape == (SAMPLES,)
    torch.testing.assert_close(loss(logits, targets, reduction="none").mean(), wanted)
    zeros = loss(torch.zeros_like(logits), targets)
    assert loss.of_equal_logits(targets) == pytest.approx(zeros.item(), rel=1e-5)
    assert not loss.state_dict()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [({"name": "hinge"}, "LOSS"), ({"label_smoothing": 1.0}, "LABEL_SMOOTHING"),
     ({"beta": 1.0}, "CLASS_BALANCE"), ({"name": "class_balanced"}, "CLASS_COUNTS")],
)  # fmt: skip
def test_what_no_loss_can_be_made_of_is_told(arguments, said):
    with pytest.raises(InputError, match=said):
        losses.ClassificationLoss(**arguments)
