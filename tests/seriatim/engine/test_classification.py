"""Training a classifier by config: hooks, dry run, resumption, pictures."""

from __future__ import annotations

import json

import pytest
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from seriatim.data import catalog
from seriatim.engine.dry_run import dataset_table
from seriatim.engine.trainer import Trainer
from seriatim.testing.labelled import write_cifar
from seriatim.visualization.cli import main

from .support import load


@pytest.fixture
def config(tmp_path):
    """A WideResNet-10-1 on 100 images in CIFAR's files, of which 20 are kept for validation."""
    write_cifar(tmp_path / "cifar")
    folder = str(tmp_path / "cifar")
    content = {
        "MODEL": {
            "META_ARCHITECTURE": "ImageClassifier",
            "DEVICE": "cpu",
            "BACKBONE": {"NAME": "build_wide_resnet_backbone"},
            "WIDE_RESNET": {"DEPTH": 10, "WIDTH": 1},
        },
        "DATASETS": {"TRAIN": ["cifar_train"], "TEST": ["cifar_train_validation", "cifar_test"]},
        "INPUT": {"FORMAT": "RGB"},
        "SOLVER": {
            "IMS_PER_BATCH": 16,
            "BASE_LR": 0.05,
            "MAX_ITER": 4,
            "STEPS": [],
            "WARMUP_ITERS": 0,
            "CHECKPOINT_PERIOD": 2,
        },
        "DATALOADER": {"NUM_WORKERS": 0},
        "SEED": 3,
        "OUTPUT_DIR": str(tmp_path / "output"),
        "SERIATIM": {
            "DATASETS": [
                {"NAME": f"cifar_{split}", "LABELS": folder, "SPLIT": split}
                for split in ("train", "test")
            ],
            "DATA": {"NORMALISE": "zca", "CACHE_DIR": str(tmp_path / "cache")},
            "CLASSIFICATION": {"CROP": "pad", "HFLIP": 0.5, "RANDAUGMENT": 1},
            "SEMI": {"VALIDATION_PER_CLASS": 2},
            "HOOKS": {
                "BEST_METRIC": "cifar_train_validation/classification/top1",
                "LOG_PERIOD": 1,
                "PICTURE_PERIOD": 4,
                "PICTURE_IMAGES": 1,
                "VALIDATION_LOSS_PERIOD": 4,
                "VALIDATION_LOSS_IMAGES": 8,
            },
        },
    }
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(content))
    before = set(catalog._registered)
    yield path
    catalog.unregister_datasets(set(catalog._registered) - before)


def train(path, *overrides, resume=False):
    trainer = Trainer(load(path, *overrides))
    trainer.resume_or_load(resume)
    return trainer, trainer.train()


def test_training_writes_figures_and_pictures(config, tmp_path):
    _, results = train(config)
    assert results["cifar_test"]["classification"]["top1"] <= 100
    folder = tmp_path / "output"
    rows = [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]
    last = {key: value for row in rows for key, value in row.items()}
    assert last["validation/total_loss"] > 0
    assert "cifar_train_validation/classification/nll" in last
    assert (folder / "model_best.pth").is_file()
    for name in ("cifar_train_validation", "cifar_test"):
        assert (folder / "inference" / name / "confusion.png").is_file()
    board = EventAccumulator(str(folder), size_guidance={"images": 0})
    board.Reload()
    tags = board.Tags()["images"]
    assert [image.step for image in board.Images("inputs")] == [0, 3]
    assert {"cifar_test/confusion", "predictions/cifar_train_validation#0"} & set(tags)
    assert any(tag.startswith("predictions/") for tag in tags)


def test_resumed_is_uninterrupted(config, tmp_path):
    whole, _ = train(config, "OUTPUT_DIR", str(tmp_path / "whole"))
    train(config, "SOLVER.MAX_ITER", "2")
    resumed, _ = train(config, resume=True)
    for name, value in whole.bare_model.state_dict().items():
        assert torch.equal(value, resumed.bare_model.state_dict()[name]), name


def test_validation_set_is_not_trained_on(config):
    cfg = load(config)
    loader = Trainer.build_train_loader(cfg)
    seen = set()
    for _, batch in zip(range(20), loader, strict=False):
        seen |= {record["image_id"] for record in batch}
    from detectron2.data import DatasetCatalog

    held = set(DatasetCatalog.get("cifar_train_validation").ids.tolist())
    assert len(held) == 20 and len(seen) == 80 and not held & seen


def test_the_table_of_a_dry_run(config):
    table = dataset_table(load(config))
    assert "train cifar_train: 100 images (0 without a label)" in table
    assert "test  cifar_train_validation: 20 images" in table and "bird: 2" in table


def test_commands_of_visualize(config, tmp_path, capsys):
    train(config)
    arguments = ["--config-file", str(config), "-o"]
    assert main(["data", *arguments, str(tmp_path / "data"), "--num", "3"]) == 0
    assert len(list((tmp_path / "data").glob("cifar_train#*.jpg"))) == 3
    words = ["SERIATIM.SEMI.LABELS_PER_CLASS", "3", "SERIATIM.SEMI.VIEWS", "('strong',)"]
    inputs = ["inputs", *arguments, str(tmp_path / "inputs"), "--num", "2", "--draws", "1"]
    assert main([*inputs, *words]) == 0
    # One labelled image, and one without a label with its second view; each as it is on disk.
    assert len(list((tmp_path / "inputs").glob("cifar*.jpg"))) == 5
    folder = tmp_path / "predictions"
    assert main(["predictions", "cifar_test", *arguments, str(folder), "--num", "4"]) == 0
    said = json.loads((folder / "predictions.json").read_text())
    assert len(said) == 4 and [entry["image_id"] for entry in said] == [0, 13, 26, 39]
    assert all(len(entry["top"]) == 5 and entry["class"] == entry["top"][0][0] for entry in said)
    again = ["predictions", str(tmp_path / "data"), *arguments, str(tmp_path / "files")]
    assert main([*again, "--num", "2"]) == 2  # enlarged pictures are not 32×32 px
    assert "fitted to images of 3×32×32" in capsys.readouterr().err
    compare = ["compare", *arguments, str(tmp_path / "compare"), "--dataset", "cifar_test"]
    assert main(compare) == 0
    assert (tmp_path / "compare" / "errors.png").is_file()
