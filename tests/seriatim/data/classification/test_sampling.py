"""Samplers on labelled images: shares of classes, and of datasets."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest

from dataset_tools.errors import InputError
from seriatim.data.loader import build_train_loader
from seriatim.testing.labelled import make_labelled, write_npz

COUNTS = (50, 20, 8)  # images of each class


@pytest.fixture
def skewed(tmp_path, labelled):
    images, _ = make_labelled(sum(COUNTS), 3, 8)
    np.savez(tmp_path / "x.npz", images=images, labels=np.repeat([0, 1, 2], COUNTS))
    return labelled({"NAME": "a", "LABELS": str(tmp_path / "x.npz")})


def shares(cfg, key="label", batches=250):
    loader = itertools.islice(build_train_loader(cfg, lambda record: record), batches)
    counts = Counter(record[key] for batch in loader for record in batch)
    return np.array([counts[value] for value in sorted(counts)]) / counts.total()


def test_plain_sampling_is_as_the_data(skewed):
    assert shares(skewed) == pytest.approx(np.array(COUNTS) / sum(COUNTS), abs=0.01)


def test_class_balanced_sampling_gives_every_class_its_share(skewed):
    skewed.DATALOADER.SAMPLER_TRAIN = "ClassBalancedTrainingSampler"
    assert shares(skewed) == pytest.approx(np.full(3, 1 / 3), abs=0.02)


def test_repeat_factors_are_those_of_lvis(skewed):
    """max(1, sqrt(t / f)) for the share f of a class (Gupta 2019)."""
    skewed.DATALOADER.SAMPLER_TRAIN = "RepeatFactorTrainingSampler"
    skewed.DATALOADER.REPEAT_THRESHOLD = 0.5
    counts = np.array(COUNTS)
    expected = counts * np.maximum(1, np.sqrt(0.5 / (counts / counts.sum())))
    assert shares(skewed) == pytest.approx(expected / expected.sum(), abs=0.02)


def test_classes_are_balanced_among_what_keeps_its_label(skewed):
    skewed.SERIATIM.SEMI.LABELS_PER_CLASS = 5
    skewed.SERIATIM.SEMI.UNLABELED_RATIO = 0
    assert shares(skewed) == pytest.approx(np.full(3, 1 / 3), abs=0.01)
    assert len(shares(skewed, "image_id")) == 15


def test_datasets_are_weighted_and_not_mixed_with_objects(tmp_path, labelled, config):
    write_npz(tmp_path / "x.npz", 30)
    write_npz(tmp_path / "y.npz", 90)
    cfg = labelled(*({"NAME": n, "LABELS": str(tmp_path / f"{n}.npz")} for n in "xy"))
    cfg.DATASETS.TRAIN = ("x", "y")
    cfg.SERIATIM.DATASET_WEIGHTS = (3, 1)
    loader = itertools.islice(build_train_loader(cfg, lambda record: record), 100)
    names = [record["file_name"][0] for batch in loader for record in batch]
    assert names.count("x") / len(names) == pytest.approx(0.75, abs=0.03)
    config()  # drawn shapes, with objects
    cfg.DATASETS.TRAIN, cfg.SERIATIM.DATASET_WEIGHTS = ("x", "shapes"), ()
    with pytest.raises(InputError, match="shapes has objects"):
        build_train_loader(cfg)
