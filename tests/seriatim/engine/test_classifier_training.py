"""Classifiers train, resume bit for bit with any mixing, stop early, and leave weights behind."""

from __future__ import annotations

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer

from seriatim.data import catalog
from seriatim.engine.dry_run import count_flops
from seriatim.engine.hooks.validation_loss import mean_losses
from seriatim.engine.trainer import Trainer

from .support import load, write_classifier_config


@pytest.fixture(autouse=True)
def no_datasets_left():
    before = set(catalog._registered)
    yield
    catalog.unregister_datasets(set(catalog._registered) - before)


def train(path, *overrides, steps=None, resume=False) -> Trainer:
    trainer = Trainer(load(path, *overrides))
    trainer.resume_or_load(resume)
    trainer.max_iter = steps or trainer.max_iter
    trainer.train()
    return trainer


@pytest.mark.parametrize(
    "mix",
    [
        {"NAME": "mixup"},
        {"NAME": "manifold", "LAYERS": [0, 1, 2, 3]},
        {"NAME": "cutmix", "PER_SAMPLE": True},
    ],
    ids=["mixup", "manifold", "cutmix"],
)
def test_resumed_is_unbroken_with_any_mixing(tmp_path, mix):
    """λ, partners, layers and boxes come from a generator that a checkpoint holds."""
    config = write_classifier_config(
        tmp_path,
        SERIATIM__MIX=mix,
        SERIATIM__SOLVER={"EMA_DECAY": 0.9},
        MODEL__WIDE_RESNET={"DEPTH": 10, "WIDTH": 1, "DROPOUT": 0.1, "DROP_PATH": 0.1},
        DATASETS__TEST=[],
    )
    whole = train(config, "OUTPUT_DIR", str(tmp_path / "whole"), steps=6)
    train(config, "OUTPUT_DIR", str(tmp_path / "broken"), steps=3)
    resumed = train(config, "OUTPUT_DIR", str(tmp_path / "broken"), steps=6, resume=True)
    for one, other in (
        (whole.bare_model, resumed.bare_model),
        (whole.evaluation_model, resumed.evaluation_model),
    ):
        states = one.state_dict(), other.state_dict()
        assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    another = train(config, "OUTPUT_DIR", str(tmp_path / "other"), "SEED", "8", steps=6)
    assert not torch.equal(another.bare_model.classifier.weight, whole.bare_model.classifier.weight)


@pytest.mark.slow
@pytest.mark.parametrize(("mixing", "least"), [("", 90), ("mixup", 40)])
def test_it_learns_what_a_class_looks_like(tmp_path, mixing, least):
    config = write_classifier_config(
        tmp_path,
        SERIATIM__MIX={"NAME": mixing},
        SOLVER__MAX_ITER=100,
        SOLVER__LR_SCHEDULER_NAME="WarmupCosineLR",
        SERIATIM__CLASSIFICATION={"CROP": "pad"},
    )
    trainer = train(config)
    assert trainer.last_results["classification"]["top1"] > least  # chance is 10


def test_the_weights_that_are_left_give_the_same_scores_elsewhere(tmp_path):
    config = write_classifier_config(tmp_path, SERIATIM__SOLVER={"EMA_DECAY": 0.5})
    trainer = train(config, steps=4)
    path = trainer.export("model_final")
    other = Trainer.build_model(trainer.cfg)
    DetectionCheckpointer(other).load(str(path))
    batch = next(iter(Trainer.build_test_loader(trainer.cfg, trainer.cfg.DATASETS.TEST[0])))
    with torch.no_grad():
        pairs = zip(trainer.evaluation_model.eval()(batch), other.eval()(batch), strict=True)
        for a, b in pairs:  # memory formats round differently
            torch.testing.assert_close(a["scores"], b["scores"])
    trained = trainer.evaluation_model.state_dict()
    assert all(torch.equal(trained[k], v) for k, v in other.state_dict().items())


def test_it_stops_early(tmp_path):
    config = write_classifier_config(
        tmp_path,
        SOLVER__MAX_ITER=20,
        SOLVER__BASE_LR=1e-9,
        TEST__EVAL_PERIOD=2,
        SERIATIM__HOOKS={"BEST_METRIC": "classification/top1", "EARLY_STOPPING_PATIENCE": 2},
    )
    assert train(config).iter < 20


def test_the_validation_loss_is_that_of_unmixed_images(tmp_path):
    config = write_classifier_config(tmp_path, SERIATIM__MIX={"NAME": "mixup"})
    trainer = Trainer(load(config))
    model = trainer.bare_model
    (batch,) = [next(iter(Trainer.build_train_loader(trainer.cfg)))]
    mixer, measured = model.mixer, mean_losses(model, [batch], trainer.compute_losses)
    assert model.mixer is mixer
    model.eval()
    with torch.no_grad():
        logits = model.logits(model.pixels(batch))
        wanted = model.supervised_loss(logits, model.targets(batch))
    assert measured["loss_cls"] == pytest.approx(wanted.item(), rel=1e-5)


def test_the_best_metric_of_a_classifier_is_top_1_unless_another_is_named(tmp_path):
    config = write_classifier_config(tmp_path)
    test = load(config).DATASETS.TEST[0]
    assert load(config).SERIATIM.HOOKS.BEST_METRIC == "classification/top1"
    several = load(config, "DATASETS.TEST", f"('{test}', '{tmp_path.name}_train')")
    found = several.SERIATIM.HOOKS.BEST_METRIC
    assert found == f"{test}/classification/top1"
    other = load(config, "SERIATIM.HOOKS.BEST_METRIC", "classification/nll")
    assert other.SERIATIM.HOOKS.BEST_METRIC == "classification/nll"


def test_counts_of_classes_come_from_the_labels_that_are_kept(tmp_path):
    config = write_classifier_config(
        tmp_path,
        MODEL__CLASSIFIER={"LOSS": "class_balanced"},
        SERIATIM__SEMI={"LABELS_PER_CLASS": 3, "UNLABELED_RATIO": 0},
    )
    cfg = load(config)
    assert cfg.MODEL.CLASSIFIER.CLASS_COUNTS == (3,) * 10
    assert Trainer.build_model(cfg).loss.per_class.tolist() == pytest.approx([1.0] * 10)


def test_a_dry_run_can_count_its_operations(tmp_path):
    """WRN-10-1 on 32×32 px: 9 in out H W of each convolution, and its shortcuts."""
    trainer = Trainer(load(write_classifier_config(tmp_path)))
    image = {"image": torch.zeros(3, 32, 32, dtype=torch.uint8), "height": 32, "width": 32}
    stages = [(16, 16, 32), (16, 32, 16), (32, 64, 8)]
    wanted = 27 * 16 * 32**2 + 64 * 10
    wanted += sum(9 * (a * b + b * b) * side**2 for a, b, side in stages)
    wanted += sum(a * b * side**2 for a, b, side in stages[1:])
    assert count_flops(trainer.bare_model, [image]) == pytest.approx(wanted, rel=0.02)
