"""The gates that train a little: overfit1, overfit10, blind, lr."""

import numpy as np
import pytest
import torch

from seriatim.engine.trainer import Trainer
from seriatim.gates import blind
from seriatim.gates.blind import (
    BlindGate,
    blacken,
    chance,
    standing_still,
    with_labels_of_others,
)
from seriatim.gates.lr import LearningRateGate, suggest
from seriatim.gates.overfit import Overfit1Gate, Overfit10Gate
from seriatim.gates.practice import Practice, practise
from seriatim.gates.verdict import Status

from .pipelines import ask, assert_caught, assert_healthy, pipeline, trainer_that

QUICK = {"SOLVER__BASE_LR": 0.003}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["retinanet", "task_aligned", "faster_rcnn"])
def test_one_image_is_memorised(tmp_path, kind):
    verdict = ask(Overfit1Gate(), pipeline(tmp_path, kind, **QUICK), tmp_path)
    assert_healthy(verdict)
    assert verdict.numbers["score"] >= 90
    assert (tmp_path / "gate" / "memorised.png").exists()


@pytest.mark.slow
def test_boxes_that_are_decoded_with_another_stride_than_trained(tmp_path):
    def spoil(model):
        plain = model.forward_inference

        def shifted(images, features, predictions):
            found = plain(images, features, predictions)
            for instances in found:
                instances.pred_boxes.tensor += 9
            return found

        model.forward_inference = shifted

    context = pipeline(tmp_path, "task_aligned", trainer_that(spoil), **QUICK)
    gate = Overfit1Gate()
    gate.steps = 100
    verdict = ask(gate, context, tmp_path)
    assert verdict.status is Status.FAIL
    assert "decod" in " ".join(str(cause) for cause in verdict.findings[0].causes)


@pytest.mark.slow
def test_a_rate_of_nothing_learns_nothing(tmp_path):
    gate = Overfit10Gate()
    gate.steps = 50
    verdict = ask(gate, pipeline(tmp_path, "retinanet", SOLVER__BASE_LR=1e-7), tmp_path)
    assert verdict.status is Status.FAIL
    assert "→" in verdict.findings[0].measured


class SeesNothing(Trainer):
    """Its backbone gives zeros, whatever it is shown."""

    @classmethod
    def build_model(cls, cfg):
        model = super().build_model(cfg)
        model.backbone.register_forward_hook(
            lambda module, args, features: {k: v * 0 for k, v in features.items()}
        )
        return model


@pytest.mark.slow
def test_a_model_that_does_not_look(tmp_path):
    assert_caught(
        ask(BlindGate(), pipeline(tmp_path, "retinanet", SeesNothing, **QUICK), tmp_path),
        "features",
    )


@pytest.mark.slow
def test_a_model_that_looks(tmp_path):
    assert_healthy(ask(BlindGate(), pipeline(tmp_path, "retinanet", **QUICK), tmp_path))


@pytest.mark.slow
def test_what_a_step_does_not_tell_more_of_them_do(tmp_path, monkeypatch):
    monkeypatch.setattr(blind, "STEPS", (1, 60))
    verdict = ask(BlindGate(), pipeline(tmp_path, "retinanet", **QUICK), tmp_path)
    assert_healthy(verdict)
    assert verdict.numbers["steps"] == 60


def test_a_term_that_stands_still_while_others_fall():
    fall = np.geomspace(2, 0.1, 40)
    stuck = Practice(None, "", [{"loss_cls": 1.386, "loss_box_reg": value} for value in fall])
    assert [str(cause)[:36] for cause in standing_still(stuck)] == [
        "loss_cls stands still (1.39 → 1.39):"
    ]
    learning = Practice(None, "", [{"loss_cls": value} for value in fall])
    assert standing_still(learning) == []
    nothing = Practice(None, "", [{"loss_cls": 1.0, "loss_box_reg": 2.0}] * 40)
    assert standing_still(nothing) == []  # the learning rate, not a term


def test_chance_is_that_of_signed_ranks():
    rng = np.random.default_rng(0)
    high = rng.random(12) + 5
    assert chance(high - 1, high) == pytest.approx(0.5**12)  # all twelve one way: one in 2**12
    assert chance(high, high) == 1
    assert chance(high + 1, high) > 0.99


def test_labels_of_others_keep_inside_the_image():
    records = [
        {"file_name": str(i), "width": 100 * (i + 1), "height": 50, "annotations": [
            {"bbox": [10 * (i + 1), 5, 100 * (i + 1), 50], "category_id": i}]}
        for i in range(3)
    ]  # fmt: skip
    for before, after in zip(records, with_labels_of_others(records), strict=True):
        box = after["annotations"][0]["bbox"]
        assert box == pytest.approx([before["width"] / 10, 5, before["width"], 50])
        assert after["annotations"][0]["category_id"] != before["annotations"][0]["category_id"]


@pytest.mark.parametrize(("rate", "word"), [(1e-6, "below"), (3.0, "above")])
@pytest.mark.slow
def test_a_rate_far_off_is_a_warning(tmp_path, rate, word):
    verdict = ask(
        LearningRateGate(), pipeline(tmp_path, "retinanet", SOLVER__BASE_LR=rate), tmp_path
    )
    assert verdict.status is Status.WARN
    assert word in verdict.findings[0].measured


def test_the_suggestion_lies_where_a_parabola_still_falls():
    """Gradient descent on x² with rate r multiplies x by (1 - 2r): it diverges above 1."""
    rates = np.geomspace(1e-4, 10, 60)
    x, losses = 1.0, []
    for rate in rates:
        losses.append(x * x)
        x *= 1 - 2 * rate
    suggestion, limit = suggest(rates, np.asarray(losses))
    assert 1e-3 < suggestion < 0.5
    assert 0.3 < limit < 3
    assert torch.isfinite(torch.tensor([suggestion, limit])).all()


def test_what_alters_inputs_is_trained_on(tmp_path):
    context = pipeline(tmp_path, "retinanet")
    practice = practise(context, context.train_records[:4], 1, 2, "altered", alter=blacken)
    batch = next(practice.trainer._trainer._data_loader_iter)
    assert all(not item["image"].any() for item in batch)
