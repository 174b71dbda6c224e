"""Each function beside plain loops over forty samples, gradients beside differences."""

from __future__ import annotations

import math

import pytest
import torch
from mixup.functions import (
    average_guess,
    consistency,
    guess_statistics,
    larger_half,
    pseudo_label_loss,
    ramp_up,
    sharpen,
)

from dataset_tools.errors import InputError

SAMPLES, CLASSES = 40, 5


def logits(seed: int = 0, count: int = SAMPLES) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.randn(count, CLASSES, generator=generator)


def softmax(row: list[float]) -> list[float]:
    powers = [math.exp(value - max(row)) for value in row]
    return [power / sum(powers) for power in powers]


def probabilities(seed: int = 1) -> torch.Tensor:
    return torch.tensor([softmax(row) for row in logits(seed).tolist()])


def test_the_weight_rises_as_the_papers_say():
    for step in (0, 7, 50, 99, 100, 101, 5000):
        t = min(step / 100, 1)
        assert ramp_up(step, 100) == pytest.approx(math.exp(-5 * (1 - t) ** 2))
        assert ramp_up(step, 100, "linear") == pytest.approx(t)
    assert ramp_up(0, 0) == ramp_up(0, 0, "linear") == 1
    with pytest.raises(InputError, match="cosine"):
        ramp_up(1, 2, "cosine")


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_sharpening(temperature):
    for given, got in zip(probabilities(), sharpen(probabilities(), temperature), strict=True):
        powers = [p ** (1 / temperature) for p in given.tolist()]
        assert got.tolist() == pytest.approx([p / sum(powers) for p in powers], abs=1e-6)


def test_sharpening_of_certainty_is_certainty():
    certain = torch.eye(CLASSES)
    assert torch.equal(sharpen(certain, 0.5), certain)


def test_a_guess_is_the_mean_over_views():
    views = 3
    given = logits(count=views * SAMPLES)
    got = average_guess(given, views)
    for i in range(SAMPLES):
        rows = [softmax(given[view * SAMPLES + i].tolist()) for view in range(views)]
        mean = [sum(column) / views for column in zip(*rows, strict=True)]
        assert got[i].tolist() == pytest.approx(mean, abs=1e-6)


def mse_in_loops(z, targets):
    total = 0.0
    for row, target in zip(z.tolist(), targets.tolist(), strict=True):
        total += sum((p - t) ** 2 for p, t in zip(softmax(row), target, strict=True))
    return total / (len(z) * CLASSES)


def cross_entropy_in_loops(z, targets):
    total = 0.0
    for row, target in zip(z.tolist(), targets.tolist(), strict=True):
        total -= sum(t * math.log(p) for p, t in zip(softmax(row), target, strict=True))
    return total / len(z)


def pseudo_labels_in_loops(z, guesses, threshold=0.6):
    total = 0.0
    for row, guess in zip(z.tolist(), guesses.tolist(), strict=True):
        if max(guess) >= threshold:
            total -= math.log(softmax(row)[guess.index(max(guess))])
    return total / len(z)


TWINS = [
    (lambda z, t: consistency(z, t, "mse"), mse_in_loops),
    (lambda z, t: consistency(z, t, "cross_entropy"), cross_entropy_in_loops),
    (lambda z, t: pseudo_label_loss(z, t, 0.6), pseudo_labels_in_loops),
]


@pytest.mark.parametrize(("loss", "twin"), TWINS)
def test_losses_beside_loops(loss, twin):
    assert loss(logits(), probabilities()).item() == pytest.approx(
        twin(logits(), probabilities()), rel=1e-5
    )


@pytest.mark.parametrize(("loss", "twin"), TWINS)
def test_gradients_beside_differences_of_the_loops(loss, twin):
    z, targets = logits().requires_grad_(), probabilities()
    loss(z, targets).backward()
    for i, c in ((0, 0), (3, 2), (17, 4), (39, 1)):
        step = torch.zeros_like(z)
        step[i, c] = 1e-3
        above, below = (twin((z + s).detach().double(), targets) for s in (step, -step))
        assert z.grad[i, c].item() == pytest.approx((above - below) / 2e-3, rel=5e-3, abs=1e-6)


def test_an_unknown_consistency_is_told():
    with pytest.raises(InputError, match="kl"):
        consistency(logits(), probabilities(), "kl")


def test_unsure_guesses_count_in_the_mean_but_teach_nothing():
    guesses = torch.tensor([[0.9, 0.1, 0, 0, 0], [0.5, 0.5, 0, 0, 0]])
    z = logits(count=2).requires_grad_()
    pseudo_label_loss(z, guesses, 0.8).backward()
    assert z.grad[0].abs().sum() > 0 and not z.grad[1].any()
    alone = pseudo_label_loss(z[:1], guesses[:1], 0.8)
    assert pseudo_label_loss(z, guesses, 0.8).item() == pytest.approx(alone.item() / 2)


def test_mixtures_stay_closer_to_the_first():
    lam = torch.tensor([0.0, 0.2, 0.5, 0.7, 1.0])
    assert larger_half(lam).tolist() == pytest.approx([1.0, 0.8, 0.5, 0.7, 1.0])


def test_statistics_of_guesses():
    guesses = torch.tensor([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.7, 0.3]])
    assert guess_statistics(guesses, 0.75) == pytest.approx(
        {"confidence": 0.75, "kept": 0.5, "largest_class": 0.75}
    )
