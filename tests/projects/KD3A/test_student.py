"""The student beside its loss in plain words; what it must not depend on."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import Backbone
from detectron2.utils.events import EventStorage
from kd3a.focus import all_coalitions, shapley_values
from kd3a.student import ConsensusStudent, Teachers
from kd3a.vote import coalition_values, knowledge_vote
from torch import nn

from seriatim.modeling.classification_losses import ClassificationLoss


class Tiny(Backbone):
    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU())

    def forward(self, x):
        return {"out": self.stem(x)}

    def output_shape(self):
        return {"out": ShapeSpec(channels=8, stride=2)}


def student(seed: int, mix_alpha: float = 0.0) -> ConsensusStudent:
    model = ConsensusStudent(
        backbone=Tiny(seed),
        num_classes=4,
        loss=ClassificationLoss("cross_entropy"),
        pixel_mean=(127.0,) * 3,
        pixel_std=(64.0,) * 3,
        mix_alpha=mix_alpha,
    )
    nn.init.normal_(model.classifier.weight, std=3.0)  # votes that are worth something
    return model


def batch(size: int = 12, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    shape = (size, 3, 9, 9)
    images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    return [{"image": image, "label": i % 4} for i, image in enumerate(images)]


def teachers(variant: str = "code", gate: float = 0.9, count: int = 3) -> Teachers:
    return Teachers([student(10 + i) for i in range(count)], gate, variant)


def loss_of(model, items):
    with EventStorage():
        return model(items)


def plain_probabilities(asked: Teachers, images):
    with torch.no_grad():
        return torch.stack([m.logits(images).softmax(-1) for m in asked.models], 1)


@pytest.mark.parametrize("variant", ["code", "paper"])
def test_loss_is_the_weighted_cross_entropy_of_the_consensus(variant):
    model, asked = student(0), teachers(variant)
    model.teachers = asked
    found = loss_of(model, batch())
    images = model.pixels(batch())
    consensus = knowledge_vote(plain_probabilities(asked, images), 0.9, variant)
    assert 0 < consensus.coverage < 1  # or nothing is tested
    logs = model.logits(images).log_softmax(-1)
    expected = 0.0
    for row, target, weight in zip(logs, consensus.targets, consensus.weights, strict=True):
        expected += weight * sum(-t * x for t, x in zip(target, row, strict=True)) / 12
    assert found.keys() == {"loss_consensus"}
    torch.testing.assert_close(found["loss_consensus"], expected)


def test_mixed_pairs_keep_a_weight_for_each_half():
    model, asked = student(0, mix_alpha=2.0), teachers()
    model.teachers = asked
    np.random.seed(3)
    torch.manual_seed(3)
    found = loss_of(model, batch())["loss_consensus"]
    np.random.seed(3)
    torch.manual_seed(3)
    share, other = np.random.beta(2.0, 2.0), torch.randperm(12)
    images = model.pixels(batch())
    consensus = knowledge_vote(plain_probabilities(asked, images), 0.9)
    logs = model.logits(share * images + (1 - share) * images[other]).log_softmax(-1)
    each = -(consensus.targets * logs).sum(-1) * consensus.weights * share
    pair = -(consensus.targets[other] * logs).sum(-1) * consensus.weights[other] * (1 - share)
    torch.testing.assert_close(found, (each + pair).mean(), atol=1e-5, rtol=1e-5)


def test_labels_of_the_target_are_not_looked_at():
    losses = []
    for label in (0, 3, -1):
        model = student(0)
        model.teachers = teachers()
        losses.append(loss_of(model, [{**item, "label": label} for item in batch()]))
    assert losses[0]["loss_consensus"] == losses[1]["loss_consensus"]
    assert losses[0]["loss_consensus"] == losses[2]["loss_consensus"]


def test_account_over_batches_is_that_of_all_images():
    asked = teachers()
    images = student(0).pixels(batch(24))
    for part in images.split(8):
        asked.vote(part)
    # By its batch's statistics a model answers for a batch, hence part by part.
    parts = [plain_probabilities(asked, part) for part in images.split(8)]
    worth = coalition_values(torch.cat(parts), 0.9, all_coalitions(3))
    torch.testing.assert_close(asked.focus(), shapley_values(worth), atol=1e-9, rtol=0)
    shares = [knowledge_vote(p, 0.9).coverage for p in parts]
    assert asked.coverage == pytest.approx(sum(shares) / 3)


def test_paper_leaves_one_out():
    asked = teachers("paper")
    images = student(0).pixels(batch(24))
    asked.vote(images)
    p = plain_probabilities(asked, images)
    whole = knowledge_vote(p, 0.9, "paper").support.double().sum()
    for source in range(3):
        rest = knowledge_vote(p[:, [k for k in range(3) if k != source]], 0.9, "paper")
        expected = (whole - rest.support.double().sum()).item()
        assert asked.focus()[source].item() == pytest.approx(expected, abs=1e-4)


def test_teachers_are_asked_as_the_variant_says():
    images = student(0).pixels(batch())
    outputs = {}
    for variant in ("code", "paper"):
        asked = teachers(variant)
        before = [{k: v.clone() for k, v in m.state_dict().items()} for m in asked.models]
        asked.vote(images)
        changed = asked.statistics()
        for model, state, statistics in zip(asked.models, before, changed, strict=True):
            for name, value in model.state_dict().items():
                if not name.endswith("num_batches_tracked"):
                    assert torch.equal(value, state[name]) == (name not in statistics), name
        outputs[variant] = plain_probabilities(asked, images)
    evaluated = torch.stack(
        [student(10 + i).eval().logits(images).softmax(-1) for i in range(3)], 1
    )
    torch.testing.assert_close(outputs["paper"], evaluated)
    assert (outputs["code"] - outputs["paper"]).abs().max() > 0.01


def test_voting_draws_the_statistics_of_sources_to_the_targets():
    images = student(0).pixels(batch(24))
    asked = teachers("code")
    by_hand = copy.deepcopy(asked.models[0]).train()
    for _ in range(2):
        asked.vote(images)
        by_hand.logits(images)
    expected = by_hand.state_dict()
    assert asked.statistics()[0].keys() == {n for n in expected if ".running_" in n}
    for name, value in asked.statistics()[0].items():
        torch.testing.assert_close(value, expected[name])
    assert teachers("paper").statistics() == [{}, {}, {}]


def test_without_teachers_it_is_a_classifier():
    model = student(0)
    assert loss_of(model, batch()).keys() == {"loss_cls"}
    model.teachers = teachers()
    model.eval()
    assert model(batch(2))[0]["scores"].shape == (4,)
    assert not any("teachers" in name for name in model.state_dict())
