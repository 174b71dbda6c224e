"""Every config of a published set takes two steps on small files of the form that the set has."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from detectron2.data import DatasetCatalog
from detectron2.utils.events import EventStorage
from kd3a.app import open_party
from kd3a.config import rounds, steps
from kd3a.party import PartyTrainer
from kd3a.student import Teachers

from dataset_tools.errors import InputError
from seriatim.config import load_config
from seriatim.data.catalog import register_datasets, unregister_datasets
from seriatim.data.classes import resolve_num_classes
from seriatim.testing.domains import (
    write_amazon,
    write_digitfive,
    write_domainnet,
    write_office,
)

CONFIGS = Path(__file__).parents[3] / "projects/KD3A/configs"


def write_digits(folder: Path) -> None:
    write_digitfive(folder / "DigitFive")


def write_lists(lists: str):
    return lambda folder: write_domainnet(folder / "DomainNet", lists, size=32, each=6)


def write_office31(folder: Path) -> None:
    write_office(folder / "Office31", ("amazon", "dslr", "webcam"), "images")


def write_caltech(folder: Path) -> None:
    write_office(folder / "OfficeCaltech10", ("amazon", "caltech", "dslr", "webcam"))


def write_reviews(folder: Path) -> None:
    write_amazon(folder / "AmazonReview", reviews=2008)


# Config → its files in small, two of its domains, its classes there, what the paper's code has of
# steps in a round, and changes that make it small.
SMALL_IMAGES = ["SERIATIM.CLASSIFICATION.SIZE", "(64, 64)", "MODEL.TIMM.WEIGHTS", ""]
SETS = {
    "DigitFive": (write_digits, ("mnist", "usps"), 10, 195, []),
    "DomainNet": (write_lists("splits"), ("clipart", "sketch"), 3, 600, SMALL_IMAGES),
    "MiniDomainNet": (write_lists("splits_mini"), ("clipart", "sketch"), 3, 180, SMALL_IMAGES),
    "Office-Caltech10": (write_caltech, ("caltech", "dslr"), 3, 62, SMALL_IMAGES),
    "Office31": (write_office31, ("amazon", "webcam"), 3, 156, SMALL_IMAGES),
    "AmazonReview": (write_reviews, ("books", "kitchen"), 2, 40, []),
}


@pytest.mark.parametrize("name", SETS)
def test_two_steps(tmp_path, monkeypatch, name):
    write, domains, classes, published_steps, opts = SETS[name]
    monkeypatch.chdir(tmp_path)
    write(Path("datasets"))
    cfg = load_config(CONFIGS / f"{name}.yaml", [*opts, "MODEL.DEVICE", "cpu"])
    assert steps(cfg, target=False) == published_steps and rounds(cfg) == cfg.KD3A.EPOCHS
    assert set(domains) <= set(cfg.KD3A.PARTIES) and cfg.KD3A.TARGET in cfg.KD3A.PARTIES
    kept = {f"{domain}_{split}" for domain in domains for split in ("train", "test")}
    cfg.SERIATIM.DATASETS = [d for d in cfg.SERIATIM.DATASETS if d["NAME"] in kept]
    cfg.KD3A.PARTIES, cfg.KD3A.TARGET = list(domains), domains[1]
    cfg.DATASETS.TRAIN = tuple(f"{domain}_train" for domain in domains)
    cfg.DATASETS.TEST = (f"{domains[1]}_test",)
    cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.MAX_ITER = 4, 2
    cfg.OUTPUT_DIR = str(tmp_path / "output")
    try:
        register_datasets(cfg)
        resolve_num_classes(cfg)
        assert classes == cfg.MODEL.CLASSIFIER.NUM_CLASSES
        take_two_steps(cfg)
    finally:
        unregister_datasets(kept & set(DatasetCatalog.list()))


def take_two_steps(cfg):
    """One on labels, one on what a teacher says; then the model is tested."""
    torch.manual_seed(0)
    model = PartyTrainer.build_model(cfg)
    optimizer = PartyTrainer.build_optimizer(cfg, model)
    batches = iter(PartyTrainer.build_train_loader(cfg))
    before = model.classifier.weight.detach().clone()
    with EventStorage():
        for teachers in (None, Teachers([PartyTrainer.build_model(cfg).eval()], 0.0, "code")):
            model.teachers = teachers
            loss = sum(model(next(batches)).values())
            assert math.isfinite(loss.item())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    assert not torch.equal(before, model.classifier.weight)
    results = PartyTrainer.test(cfg, model)
    assert 0 <= results["classification"]["top1"] <= 100


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("DigitFive", "FengHZ/KD3A"),
        ("DomainNet", r"ai\.bu\.edu/M3SDA"),
        ("MiniDomainNet", "splits_mini"),
        ("Office-Caltech10", "Office-Caltech10 .* CVPR 2012"),
        ("Office31", "Saenko"),
        ("AmazonReview", "MDAN"),
    ],
)
def test_a_missing_set_says_where_it_is_had(tmp_path, monkeypatch, name, words):
    monkeypatch.chdir(tmp_path)
    cfg = load_config(CONFIGS / f"{name}.yaml")
    with pytest.raises(InputError, match=f"there is no file or folder datasets.*{words}"):
        open_party(cfg, cfg.KD3A.PARTIES[0])


def test_published_networks():
    """8192 → 3072 → 2048, and a classifier behind them."""
    cfg = load_config(CONFIGS / "DigitFive.yaml", ["MODEL.DEVICE", "cpu"])
    cfg.MODEL.CLASSIFIER.NUM_CLASSES = 10
    model = PartyTrainer.build_model(cfg)
    linear = [m for m in model.modules() if isinstance(m, torch.nn.Linear)]
    assert [m.weight.shape[::-1] for m in linear] == [(8192, 3072), (3072, 2048), (2048, 10)]
    convolutions = [m for m in model.modules() if isinstance(m, torch.nn.Conv2d)]
    assert [m.weight.shape for m in convolutions] == [
        (64, 3, 5, 5),
        (64, 64, 5, 5),
        (128, 64, 5, 5),
    ]
    cfg = load_config(CONFIGS / "AmazonReview.yaml", ["MODEL.DEVICE", "cpu"])
    cfg.MODEL.CLASSIFIER.NUM_CLASSES = 2
    model = PartyTrainer.build_model(cfg)
    linear = [m for m in model.modules() if isinstance(m, torch.nn.Linear)]
    assert [m.out_features for m in linear] == [1000, 500, 100, 2]
