"""The gates on classifiers: healthy ones pass, and each gate sees the faults of its kind."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest
import torch
from detectron2.data import DatasetCatalog
from torch import nn

from seriatim.engine.trainer import Trainer
from seriatim.gates.blind import BlindGate
from seriatim.gates.context import Context
from seriatim.gates.data import DataGate
from seriatim.gates.fingerprint import fingerprint
from seriatim.gates.gradients import GradientsGate
from seriatim.gates.independence import IndependenceGate
from seriatim.gates.init import InitGate
from seriatim.gates.inputs import InputsGate
from seriatim.gates.lr import LearningRateGate
from seriatim.gates.oracle import OracleGate
from seriatim.gates.overfit import Overfit1Gate, Overfit10Gate
from seriatim.gates.repeat import RepeatGate
from seriatim.gates.verdict import Status
from seriatim.testing.labelled import write_cifar, write_image_folder
from tests.bug_zoo.bugs_classifier import (
    AlwaysContent,
    ChannelsReversed,
    CountedFrom1,
    ReadsBackwards,
)

from ..engine.support import load, write_classifier_config
from .pipelines import ask, assert_caught, assert_healthy, trainer_that


def pipeline(folder: Path, trainer_class: type | None = None, **changes) -> Context:
    return Context(load(write_classifier_config(folder, **changes)), trainer_class)


FAST = [DataGate, OracleGate, InputsGate, InitGate, IndependenceGate, GradientsGate, RepeatGate]


@pytest.mark.parametrize("mixing", ["", "mixup", "manifold", "cutmix"])
def test_a_healthy_classifier_passes_with_any_mixing(tmp_path, mixing):
    context = pipeline(tmp_path, SERIATIM__MIX={"NAME": mixing})
    for gate in FAST:
        assert_healthy(ask(gate(), context, tmp_path))


@pytest.mark.parametrize(
    "changes",
    [
        {"MODEL__CLASSIFIER": {"INIT": "zero_gamma", "LOSS": "focal"}},
        {"MODEL__CLASSIFIER": {"INIT": "orthogonal", "LOSS": "class_balanced"}},
        {"MODEL__CLASSIFIER": {"LOSS": "logit_adjusted", "LABEL_SMOOTHING": 0.1, "DROPOUT": 0.2}},
        {"MODEL__BACKBONE__NAME": "build_densenet_backbone",
         "MODEL__DENSENET": {"BLOCKS": [2, 2], "GROWTH": 8}},
        {"MODEL__BACKBONE__NAME": "build_timm_classifier_backbone",
         "MODEL__TIMM": {"NAME": "test_resnet"}, "MODEL__CLASSIFIER": {"INIT": ""}},
        {"SERIATIM__LOSS_BALANCE": {"NAME": "fixed", "WEIGHTS": [["loss_cls", 5.0]]}},
        {"SERIATIM__LOSS_BALANCE": {"NAME": "uncertainty", "WEIGHTS": [["loss_cls", 1.0]]}},
        {"INPUT__FORMAT": "BGR", "SERIATIM__SEMI": {"LABELS_PER_CLASS": 4, "UNLABELED_RATIO": 0}},
    ],
    ids=["zero_gamma", "orthogonal", "logit_adjusted", "densenet", "timm", "fixed", "uncertainty",
         "few_labels"],
)  # fmt: skip
def test_other_healthy_classifiers_pass(tmp_path, changes):
    context = pipeline(tmp_path, **changes)
    for gate in (DataGate, OracleGate, InputsGate, InitGate, IndependenceGate, GradientsGate):
        assert_healthy(ask(gate(), context, tmp_path))


def test_images_in_files_pass(tmp_path):
    write_image_folder(tmp_path / "insects", names=("ant", "bee", "wasp"))
    entries = [
        {"NAME": f"{tmp_path.name}_{split}", "LABELS": str(tmp_path / "insects"), "SPLIT": split}
        for split in ("train", "test")
    ]
    context = pipeline(tmp_path, SERIATIM__DATASETS=entries)
    for gate in (DataGate, OracleGate, InputsGate, InitGate):
        assert_healthy(ask(gate(), context, tmp_path))
    assert_healthy(ask(Overfit1Gate(), context, tmp_path))


@pytest.mark.slow
def test_the_slow_gates_pass_with_mixing_switched_off(tmp_path):
    context = pipeline(tmp_path, SERIATIM__MIX={"NAME": "mixup", "ALPHA": 8.0})
    for gate in (BlindGate, Overfit1Gate, Overfit10Gate, LearningRateGate):
        verdict = ask(gate(), context, tmp_path)
        assert_healthy(verdict)
    verdict = ask(Overfit10Gate(), context, tmp_path)
    assert verdict.numbers["metric"] == "classification top1" and verdict.numbers["score"] >= 90
    assert (tmp_path / "gate" / "memorised.png").exists()


def test_the_init_report_shows_how_layers_start(tmp_path):
    verdict = ask(InitGate(), pipeline(tmp_path), tmp_path)
    starts = verdict.numbers["layers, root mean square of weights"]
    assert starts["stem"].startswith("16×3×3×3: 0.1") and "by theory 0.118" in starts["stem"]


# Data and oracle


def test_a_test_set_that_is_trained_on_is_found_by_its_pixels(tmp_path):
    entries = [
        {"NAME": f"{tmp_path.name}_{use}", "LABELS": str(tmp_path / "cifar"), "SPLIT": "train"}
        for use in ("train", "test")
    ]
    context = pipeline(tmp_path, SERIATIM__DATASETS=entries)
    verdict = ask(DataGate(), context, tmp_path)
    assert verdict.status is Status.FAIL
    assert "120 of 120 images" in verdict.findings[0].measured


def test_a_validation_set_that_is_kept_from_training_is_no_leak(tmp_path):
    context = pipeline(
        tmp_path,
        DATASETS__TEST=[f"{tmp_path.name}_train_validation"],
        SERIATIM__SEMI={"VALIDATION_PER_CLASS": 3, "LABELS_PER_CLASS": 2},
    )
    assert_healthy(ask(DataGate(), context, tmp_path))
    assert_healthy(ask(OracleGate(), context, tmp_path))


def test_equal_images_of_different_labels_are_told(tmp_path):
    context = pipeline(tmp_path)
    dataset = DatasetCatalog.get(context.cfg.DATASETS.TRAIN[0])
    dataset.labels[:] = (dataset.labels + 1) % 10
    dataset.positions[60:] = dataset.positions[:60]
    verdict = ask(DataGate(), context, tmp_path)
    assert_caught(verdict, "labels are shifted")


@pytest.mark.parametrize(
    ("trainer", "words"),
    [
        (CountedFrom1, ("mapper", "labels")),
        (ReadsBackwards, ("reverse order", "100.0")),
        (AlwaysContent, ("evaluator does not look",)),
    ],
)
def test_the_oracle_sees_labels_that_go_astray(tmp_path, trainer, words):
    assert_caught(ask(OracleGate(), pipeline(tmp_path, trainer), tmp_path), *words)


def test_inputs_with_another_label_are_seen(tmp_path):
    verdict = ask(InputsGate(), pipeline(tmp_path, CountedFrom1), tmp_path)
    assert_caught(verdict, "mapper", "labels")


def test_swapped_channels_of_pixels_in_arrays_are_seen(tmp_path):
    verdict = ask(InputsGate(), pipeline(tmp_path, ChannelsReversed), tmp_path)
    assert_caught(verdict, "channels are in the other order")


# Models


def with_loss(loss):
    def change(model):
        model.supervised_loss = functools.partial(loss, model)

    return trainer_that(change)


def softmax_twice(model, logits, targets):
    return model.loss(logits.softmax(1), targets)


def sigmoid_first(model, logits, targets):
    return model.loss(logits.sigmoid(), targets)


def negative(model, logits, targets):
    return -model.loss(logits, targets)


def summed(model, logits, targets):
    return model.loss(logits, targets, reduction="none").sum()


def shifted(model, logits, targets):
    return model.loss(logits, targets.roll(1, dims=1))


def over_the_batch(model, logits, targets):
    return -(targets * logits.log_softmax(0)).sum(1).mean()


@pytest.mark.parametrize("loss", [negative, summed, shifted])
def test_init_sees_a_loss_that_is_wrong(tmp_path, loss):
    verdict = ask(InitGate(), pipeline(tmp_path, with_loss(loss)), tmp_path)
    assert verdict.status is Status.FAIL


@pytest.mark.parametrize("loss", [softmax_twice, sigmoid_first])
def test_init_sees_an_activation_before_a_loss_that_has_one(tmp_path, loss):
    verdict = ask(InitGate(), pipeline(tmp_path, with_loss(loss)), tmp_path)
    assert_caught(verdict, "a softmax or sigmoid is applied before")


def test_init_sees_a_last_layer_that_is_too_wide(tmp_path):
    trainer = trainer_that(lambda m: nn.init.normal_(m.classifier.weight, std=2.0))
    verdict = ask(InitGate(), pipeline(tmp_path, trainer), tmp_path)
    assert verdict.status is Status.FAIL


def test_init_tells_of_weights_that_are_not_those_of_their_initialisation(tmp_path):
    trainer = trainer_that(lambda m: nn.init.uniform_(m.backbone.blocks[0][0].conv1.weight))
    verdict = ask(InitGate(), pipeline(tmp_path, trainer), tmp_path)
    assert verdict.status is Status.WARN
    assert "blocks.0.0.conv1 starts as" in verdict.findings[0].measured


def test_independence_sees_a_softmax_over_the_batch(tmp_path):
    verdict = ask(IndependenceGate(), pipeline(tmp_path, with_loss(over_the_batch)), tmp_path)
    assert verdict.status is Status.FAIL


def test_independence_sees_batch_statistics_in_evaluation_mode(tmp_path):
    class Normal(nn.Module):
        def forward(self, x):
            return (x - x.mean(0)) / (x.std(0, correction=0) + 1)

    def change(model):
        model.dropout = Normal()

    verdict = ask(IndependenceGate(), pipeline(tmp_path, trainer_that(change)), tmp_path)
    assert verdict.status is Status.FAIL


@pytest.mark.slow
def test_overfit_sees_an_inference_that_numbers_classes_in_another_way(tmp_path):
    def change(model):
        plain = model.inference
        model.inference = lambda logits: plain(logits.roll(1, dims=1))

    gate = Overfit10Gate()
    gate.steps = 50
    verdict = ask(gate, pipeline(tmp_path, trainer_that(change)), tmp_path)
    assert_caught(verdict, "another way")
    context = pipeline(tmp_path, trainer_that(change))
    assert ask(InitGate(), context, tmp_path).status is Status.FAIL


@pytest.mark.slow
def test_overfit_sees_features_that_do_not_arrive(tmp_path):
    class Zero(nn.Module):
        def forward(self, x):
            return 0 * x

    def change(model):
        model.dropout = Zero()

    gate = Overfit10Gate()
    gate.steps = 50
    verdict = ask(gate, pipeline(tmp_path, trainer_that(change)), tmp_path)
    assert_caught(verdict, "named alike")


def test_a_changed_file_of_labels_is_another_dataset(tmp_path):
    first = fingerprint(pipeline(tmp_path).plain, Trainer)
    assert first == fingerprint(pipeline(tmp_path).plain, Trainer)
    write_cifar(tmp_path / "cifar", 130, 40)
    assert first != fingerprint(pipeline(tmp_path).plain, Trainer)


def test_gates_leave_the_mixer_of_training_alone(tmp_path):
    context = pipeline(tmp_path, SERIATIM__MIX={"NAME": "mixup"})
    assert context.new_model().mixer is None
    assert context.trainer_class.build_model(context.cfg).mixer is not None
    assert torch.is_tensor(next(context.new_model().parameters()))
