"""Draws of labels, and the loader of two streams."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog
from hypothesis import given
from hypothesis import strategies as st

from dataset_tools.errors import InputError
from seriatim.data import catalog
from seriatim.data.classification.draw import stratified_draw
from seriatim.data.loader import build_train_loader, training_records, unlabelled_records
from seriatim.testing.labelled import write_npz


@given(
    labels=st.lists(st.integers(0, 3), min_size=60, max_size=120),
    seed=st.integers(0, 5),
    labelled=st.integers(0, 3),
    validation=st.integers(0, 2),
)
def test_a_draw_is_a_partition_with_so_many_of_each_class(labels, seed, labelled, validation):
    labels = np.array([*labels, *([0, 1, 2, 3] * 6), -1, -1])
    found = stratified_draw(labels, labelled, validation, seed)
    parts = (found.labelled, found.unlabelled, found.validation)
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(labels)))
    assert np.bincount(labels[found.validation], minlength=4).tolist() == [validation] * 4
    if labelled:
        assert np.bincount(labels[found.labelled]).tolist() == [labelled] * 4
    else:
        assert (labels[found.unlabelled] == -1).all()
    assert all((np.diff(part) > 0).all() for part in parts)
    again = stratified_draw(labels, labelled, validation, seed)
    assert np.array_equal(found.labelled, again.labelled)


def test_more_labels_are_added_and_validation_stays():
    labels = np.arange(1000) % 10
    few, many = (stratified_draw(labels, n, 5, seed=3) for n in (4, 40))
    assert set(few.labelled) < set(many.labelled)
    assert np.array_equal(few.validation, many.validation)
    assert not np.array_equal(few.labelled, stratified_draw(labels, 4, 5, seed=4).labelled)


def test_the_draw_is_uniform():
    """Each image of a class equally often: chi-square over 400 seeds."""
    from scipy.stats import chisquare

    labels = np.zeros(20, np.int64)
    counts = np.zeros(20)
    for seed in range(400):
        counts[stratified_draw(labels, 5, 0, seed).labelled] += 1
    assert chisquare(counts).pvalue > 1e-3


def test_too_few_images(tmp_path, labelled):
    cfg = labelled({"NAME": "a", "LABELS": str(write_npz(tmp_path / "x.npz", 50))})
    cfg.SERIATIM.SEMI.LABELS_PER_CLASS = 6
    with pytest.raises(InputError, match="a: class 0 has 5 images, and 6 labelled"):
        build_train_loader(cfg)


@pytest.fixture
def semi(tmp_path, labelled):
    cfg = labelled({"NAME": "a", "LABELS": str(write_npz(tmp_path / "x.npz", 120))})
    keys = cfg.SERIATIM.SEMI
    keys.LABELS_PER_CLASS, keys.VALIDATION_PER_CLASS, keys.UNLABELED_RATIO = 3, 2, 2
    keys.VIEWS = ("weak", "strong")
    cfg.SERIATIM.CLASSIFICATION.CROP, cfg.SERIATIM.CLASSIFICATION.HFLIP = "pad", 0.5
    catalog.register_datasets(cfg)
    return cfg


def fingerprint(batch):
    return [
        (
            r["image_id"],
            r["label"],
            *(i.numpy().tobytes() for i in (r["image"], *r.get("views", ()))),
        )
        for r in batch
    ]


def test_streams_are_what_was_drawn(semi):
    dataset = DatasetCatalog.get("a")
    drawn = stratified_draw(dataset.labels.numpy(), 3, 2, 0)
    batches = list(itertools.islice(build_train_loader(semi), 30))
    labelled = [r for batch in batches for r in batch[:8]]
    others = [r for batch in batches for r in batch[8:]]
    assert all(len(batch) == 24 for batch in batches)
    assert {r["image_id"] for r in labelled} == set(drawn.labelled.tolist())
    assert {r["image_id"] for r in others} == set(drawn.unlabelled.tolist())
    assert all(r["label"] == dataset[r["image_id"]]["label"] for r in labelled)
    assert all(r["label"] == -1 and len(r["views"]) == 2 for r in others)
    assert not any("views" in r for r in labelled)
    assert [r["image_id"] for r in DatasetCatalog.get("a_validation")] == drawn.validation.tolist()
    assert catalog.dataset_facts("a_validation").per_category["4"] == 2
    # An epoch of each stream is its own: 30 labelled ones, 70 unlabelled.
    assert sorted(r["image_id"] for r in labelled[:30]) == drawn.labelled.tolist()
    assert sorted(r["image_id"] for r in others[:70]) == drawn.unlabelled.tolist()


def test_views_differ_and_the_streams_are_not_augmented_alike(semi):
    records = next(iter(build_train_loader(semi)))[8:]
    differ = [torch.stack([r["image"], *r["views"]]).unique(dim=0).shape[0] for r in records]
    assert np.mean(differ) > 2.8


@pytest.mark.parametrize("workers", [0, 2])
def test_resumed_is_uninterrupted(semi, workers):
    whole = [fingerprint(b) for b in itertools.islice(build_train_loader(semi), 7)]
    semi.DATALOADER.NUM_WORKERS = workers
    loader = build_train_loader(semi, start_iteration=4)
    assert [fingerprint(b) for b in itertools.islice(loader, 3)] == whole[4:]


def test_processes_share_both_streams(semi, monkeypatch):
    from detectron2.utils import comm

    whole = fingerprint(next(iter(build_train_loader(semi))))
    monkeypatch.setattr(comm, "get_world_size", lambda: 2)
    parts = []
    for rank in range(2):
        monkeypatch.setattr(comm, "get_rank", lambda rank=rank: rank)
        parts.append(fingerprint(next(iter(build_train_loader(semi)))))
    assert parts[0][:4] + parts[1][:4] == whole[:8]
    assert parts[0][4:] + parts[1][4:] == whole[8:]


def test_labelled_ones_alone(semi):
    semi.SERIATIM.SEMI.UNLABELED_RATIO = 0
    assert unlabelled_records(semi) is None
    assert len(next(iter(build_train_loader(semi)))) == 8
    assert training_records(semi)[0] == [30]
    semi.SERIATIM.SEMI.LABELS_PER_CLASS = 0
    assert training_records(semi)[0] == [100]  # but for the validation set
    semi.SERIATIM.SEMI.UNLABELED_RATIO = 1
    assert unlabelled_records(semi) is None


def test_another_seed_makes_another_validation_set(semi):
    first = [r["image_id"] for r in DatasetCatalog.get("a_validation")]
    semi.SERIATIM.SEMI.SEED = 1
    catalog.register_datasets(semi)
    assert [r["image_id"] for r in DatasetCatalog.get("a_validation")] != first


def test_views_and_debugging(semi):
    semi.SERIATIM.DETERMINISTIC_DEBUG = True
    batch = next(iter(build_train_loader(semi)))
    for record in batch[8:]:
        assert all(torch.equal(view, record["image"]) for view in record["views"])
    dataset = DatasetCatalog.get("a")
    for record in batch:
        pixels = dataset[record["image_id"]]["pixels"]
        assert np.array_equal(record["image"].permute(1, 2, 0).numpy(), pixels)
