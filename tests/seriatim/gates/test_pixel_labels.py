"""Labels beside pixels: healthy sets pass, and the mistakes of their kind are named."""

from __future__ import annotations

import numpy as np
import pytest

from seriatim.config import get_cfg
from seriatim.data import catalog
from seriatim.gates.pixel_labels import above_chance, check_pixels
from seriatim.testing.labelled import make_labelled


@pytest.fixture
def findings(tmp_path):
    """Findings on a training and a test set, whose labels are changed first."""
    registered = []

    def ask(in_train=lambda labels: labels, in_test=lambda labels: labels, noise=None, count=300):
        entries = []
        for split, seed, change in (("train", 0, in_train), ("test", 1, in_test)):
            images, labels = make_labelled(count, 6, 16, seed=seed)
            if noise is not None:
                images = noise.integers(0, 256, images.shape, np.uint8)
            np.savez(tmp_path / f"{split}.npz", images=images, labels=change(labels))
            entries.append({"NAME": split, "LABELS": str(tmp_path / f"{split}.npz")})
        cfg = get_cfg()
        cfg.SERIATIM.DATASETS = entries
        registered[:] = catalog.register_datasets(cfg)
        numbers = {}
        return list(check_pixels(["train"], ["test"], numbers)), numbers

    yield ask
    catalog.unregister_datasets(registered)


def test_healthy(findings):
    found, numbers = findings()
    assert not found
    assert numbers["train: labels by thumbnails"] > 20
    assert numbers["test: labels by thumbnails of train"] > 20


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda labels: (labels + 1) % 6, "one too high"),
        (lambda labels: (labels - 1) % 6, "one too low"),
        (lambda labels: 5 - labels, "in reverse order"),
        (lambda labels: np.roll(labels, 1), "those of the image before"),
    ],
)
def test_labels_of_the_test_set_mean_something_else(findings, change, word):
    (found,), _ = findings(in_test=change)
    assert found.fails and word in found.measured


def test_labels_of_the_next_image(findings):
    found, _ = findings(in_train=lambda labels: np.roll(labels, 1))
    assert found[0].fails and "next image" in found[0].measured


def test_shuffled_labels_are_a_warning(findings):
    (found,), _ = findings(in_train=np.random.default_rng(0).permutation)
    assert not found.fails and "no better than chance" in found.measured


def test_chance_and_few_images_raise_nothing_worse(findings):
    """Over 20 sets of noise no failure, and the standard errors are those of chance."""
    values = []
    for seed in range(20):
        found, numbers = findings(noise=np.random.default_rng(seed), count=240)
        assert not any(finding.fails for finding in found)
        values.append(numbers["train: labels by thumbnails"])
    assert abs(np.mean(values)) < 1 and np.std(values) < 2
    found, numbers = findings(count=60)
    assert not found and "under 200" in numbers["train: labels by thumbnails"]


def test_above_chance_by_hand():
    predicted, labels = np.array([0, 0, 1, 1] * 25), np.array([0, 1, 1, 0] * 25)
    assert above_chance(predicted, labels) == pytest.approx(0)
    assert above_chance(labels, labels) == pytest.approx(0.5 / np.sqrt(0.25 / 100))
