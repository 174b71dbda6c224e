"""Figures of classifiers against definitions in plain loops and numbers worked out by hand."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from detectron2.utils.events import EventStorage
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from dataset_tools.errors import InputError
from seriatim.config import get_cfg
from seriatim.data import catalog
from seriatim.evaluation import build_evaluator
from seriatim.evaluation.classification import ClassificationEvaluator, log_probabilities
from seriatim.evaluation.classification_scores import (
    confusion_matrix,
    expected_calibration_error,
    negative_log_likelihood,
    top_k,
)
from seriatim.testing.labelled import make_labelled

# Definitions


@given(seed=st.integers(0, 1000), k=st.integers(1, 6))
def test_top_k_is_among_the_k_first_of_the_sorted(seed, k):
    rng = np.random.default_rng(seed)
    scores, labels = rng.random((30, 6)), rng.integers(0, 6, 30)
    expected = [
        label in sorted(range(6), key=lambda c: -s[c])[:k]
        for s, label in zip(scores, labels, strict=True)
    ]
    assert top_k(scores, labels, k).tolist() == expected


def test_ties_count_against_the_true_class():
    assert not top_k(np.full((1, 8), 0.125), np.array([0]), 1).any()
    assert top_k(np.array([[0.4, 0.4, 0.2]]), np.array([1]), 2).all()


@given(seed=st.integers(0, 1000), bins=st.integers(1, 20))
def test_calibration_error_bin_by_bin(seed, bins):
    rng = np.random.default_rng(seed)
    confidences, correct = rng.random(50), rng.random(50) < 0.6
    total = 0.0
    for b in range(bins):
        inside = [i for i in range(50) if b / bins < confidences[i] <= (b + 1) / bins]
        if inside:
            accuracy = sum(bool(correct[i]) for i in inside) / len(inside)
            confidence = sum(confidences[i] for i in inside) / len(inside)
            total += len(inside) / 50 * abs(accuracy - confidence)
    assert expected_calibration_error(confidences, correct, bins) == pytest.approx(total)


def test_calibration_by_hand():
    # Two bins: 0.3 and 0.4, one of two right (gap 0.15); 0.9, wrong (gap 0.9).
    error = expected_calibration_error(np.array([0.3, 0.4, 0.9]), np.array([1, 0, 0], bool), 2)
    assert error == pytest.approx((2 * 0.15 + 0.9) / 3)
    sure = expected_calibration_error(np.ones(4), np.ones(4, bool))
    assert sure == 0
    assert math.isnan(expected_calibration_error(np.zeros(0), np.zeros(0, bool)))


def test_likelihood_is_torch_s_cross_entropy():
    logits, labels = torch.randn(20, 5, dtype=torch.float64), torch.randint(0, 5, (20,))
    found = negative_log_likelihood(torch.log_softmax(logits, 1).numpy(), labels.numpy())
    expected = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    assert found == pytest.approx(expected.numpy())


def test_confusion_counts_pairs():
    labels, predicted = np.array([0, 0, 1, 2, 2, 2]), np.array([0, 1, 1, 0, 2, 2])
    assert confusion_matrix(labels, predicted, 3).tolist() == [[1, 1, 0], [0, 1, 0], [1, 0, 2]]


def test_logits_keep_what_probabilities_lose():
    logits = torch.tensor([0.0, 500.0])
    output = {"logits": logits, "scores": logits.softmax(0)}
    assert log_probabilities(output)[0] == pytest.approx(-500)
    assert log_probabilities({"scores": output["scores"]})[0] < -80


# The evaluator


@pytest.fixture
def config(tmp_path):
    images, _ = make_labelled(8, 3, 8)
    labels = np.array([0, 0, 0, 1, 1, 2, 2, 2])
    np.savez(tmp_path / "x.npz", images=images, labels=labels, names=["ant", "bee", "wasp"])
    cfg = get_cfg()
    cfg.OUTPUT_DIR = str(tmp_path / "output")
    cfg.SERIATIM.DATASETS = [{"NAME": "insects", "LABELS": str(tmp_path / "x.npz")}]
    cfg.SERIATIM.EVAL.ECE_BINS = 10
    names = catalog.register_datasets(cfg)
    yield cfg
    catalog.unregister_datasets(names)


PREDICTED = [0, 0, 1, 1, 1, 2, 0, 0]  # true: 0 0 0 1 1 2 2 2
CONFIDENCE = 0.8


def outputs():
    for image_id, chosen in enumerate(PREDICTED):
        scores = torch.full((3,), (1 - CONFIDENCE) / 2)
        scores[chosen] = CONFIDENCE
        yield {"image_id": image_id}, {"scores": scores}


def test_all_figures_by_hand(config, tmp_path):
    evaluator = build_evaluator(config, "insects")
    for one, output in outputs():
        evaluator.process([one], [output])
    metrics = evaluator.evaluate()["classification"]
    assert metrics["top1"] == pytest.approx(100 * 5 / 8)
    assert "top5" not in metrics
    assert metrics["top1-ant"] == pytest.approx(100 * 2 / 3)
    assert metrics["top1-bee"] == 100
    assert metrics["top1-wasp"] == pytest.approx(100 / 3)
    assert metrics["balanced"] == pytest.approx(100 * 2 / 3)
    nll = -(5 * math.log(0.8) + 3 * math.log(0.1)) / 8
    assert metrics["nll"] == pytest.approx(nll, rel=1e-6)
    assert metrics["ece"] == pytest.approx(100 * abs(5 / 8 - 0.8), rel=1e-5)
    folder = tmp_path / "output" / "inference" / "insects"
    content = json.loads((folder / "classification.json").read_text())
    assert content["confusion"] == [[2, 1, 0], [0, 2, 0], [2, 0, 1]]
    assert content["classes"] == ["ant", "bee", "wasp"]
    assert content["images"][2] == {
        "image_id": 2,
        "label": 0,
        "predicted": 1,
        "confidence": 0.8,
        "probability": pytest.approx(0.1),
    }
    for name in ("confusion.png", "errors.png"):
        with Image.open(folder / name) as image:
            assert min(image.size) > 100


def test_the_order_and_the_batches_do_not_matter(config):
    pairs = list(outputs())
    alone = build_evaluator(config, "insects")
    alone.process(*zip(*pairs, strict=True))
    mixed = build_evaluator(config, "insects")
    for one, output in reversed(pairs):
        mixed.process([one], [output])
    assert alone.evaluate() == mixed.evaluate()
    alone.reset()
    with pytest.raises(InputError, match="no image that was predicted"):
        alone.evaluate()


def test_top5_and_classes_that_do_not_occur(tmp_path):
    images, _ = make_labelled(4, 4, 8)
    names = [f"c{i}" for i in range(7)]
    np.savez(tmp_path / "y.npz", images=images, labels=np.arange(4), names=names)
    cfg = get_cfg()
    cfg.SERIATIM.DATASETS = [{"NAME": "seven", "LABELS": str(tmp_path / "y.npz")}]
    registered = catalog.register_datasets(cfg)
    evaluator = ClassificationEvaluator("seven")
    for i in range(4):
        # The true class is the first, the second, the fifth and the sixth best.
        logits = torch.arange(7, 0, -1.0)
        rank = [0, 1, 4, 5][i]
        order = [c for c in range(7) if c != i]
        order.insert(rank, i)
        scores = torch.empty(7)
        scores[order] = logits
        evaluator.process([{"image_id": i}], [{"logits": scores}])
    metrics = evaluator.evaluate()["classification"]
    catalog.unregister_datasets(registered)
    assert metrics["top1"] == 25 and metrics["top5"] == 75
    assert math.isnan(metrics["top1-c5"]) and metrics["balanced"] == 25


def test_a_perfect_and_a_broken_model(config):
    labels = [0, 0, 0, 1, 1, 2, 2, 2]
    perfect, broken = (build_evaluator(config, "insects") for _ in range(2))
    for i, label in enumerate(labels):
        logits = torch.full((3,), -50.0)
        logits[label] = 50
        perfect.process([{"image_id": i}], [{"logits": logits}])
        broken.process([{"image_id": i}], [{"logits": torch.full((3,), math.nan)}])
    metrics = perfect.evaluate()["classification"]
    assert metrics["top1"] == metrics["balanced"] == 100
    assert metrics["nll"] == pytest.approx(0) and metrics["ece"] == pytest.approx(0)
    metrics = broken.evaluate()["classification"]
    assert metrics["top1"] == 0 and metrics["nll"] == math.inf


def test_pictures_reach_tensorboard(config):
    evaluator = build_evaluator(config, "insects")
    evaluator.process(*zip(*outputs(), strict=True))
    with EventStorage() as storage:
        evaluator.evaluate()
    names = {name for name, _, _ in storage._vis_data}
    assert names == {"insects/confusion", "insects/errors"}


def test_scores_of_another_number_of_classes(config):
    evaluator = build_evaluator(config, "insects")
    evaluator.process([{"image_id": 0}], [{"scores": torch.ones(4) / 4}])
    with pytest.raises(InputError, match="gives 4 scores, but insects has 3 classes"):
        evaluator.evaluate()
