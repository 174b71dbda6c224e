"""Loaders: batch k is batch k, whoever asks for it."""

from __future__ import annotations

import itertools
import pickle
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog
from hypothesis import given, settings
from hypothesis import strategies as st

from dataset_tools.errors import InputError
from seriatim.data.loader import (
    Stream,
    TrainingBatches,
    build_test_loader,
    build_train_loader,
    class_aware_factors,
    seeded,
    training_records,
)


def take(loader, count):
    return list(itertools.islice(iter(loader), count))


def fingerprint(batch):
    """Everything in a batch that training sees."""
    rows = []
    for item in batch:
        instances = item["instances"]
        masks = instances.gt_masks.tensor if instances.has("gt_masks") else torch.zeros(0)
        tensors = (item["image"], instances.gt_boxes.tensor, instances.gt_classes, masks)
        rows.append((item["image_id"], *(t.numpy().tobytes() for t in tensors)))
    return rows


@pytest.fixture
def busy(config):
    """A config with every randomness there is."""
    cfg = config(num_images=10)
    cfg.MODEL.MASK_ON, cfg.INPUT.MASK_FORMAT = True, "bitmask"
    aug = cfg.SERIATIM.AUG
    aug.ENABLED, aug.SIZE = True, (64, 64)
    aug.MOSAIC = aug.COPY_PASTE = aug.ROT90 = aug.VFLIP = 0.5
    aug.BRIGHTNESS = aug.CONTRAST = aug.SATURATION = 0.3
    return cfg


# Exactness


@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("grouped", [False, True])
def test_resumed_is_uninterrupted_at_any_number_of_workers(busy, workers, grouped):
    busy.DATALOADER.ASPECT_RATIO_GROUPING = grouped
    whole = [fingerprint(batch) for batch in take(build_train_loader(busy), 9)]
    assert len({str(batch) for batch in whole}) == 9
    busy.DATALOADER.NUM_WORKERS = workers
    again = [fingerprint(batch) for batch in take(build_train_loader(busy), 9)]
    assert again == whole
    resumed = [fingerprint(b) for b in take(build_train_loader(busy, start_iteration=5), 4)]
    assert resumed == whole[5:]


def test_cache_changes_nothing(busy, tmp_path):
    whole = [fingerprint(batch) for batch in take(build_train_loader(busy), 9)]
    busy.SERIATIM.CACHE_MIB, busy.SERIATIM.DATA.CACHE_DIR = 1, str(tmp_path / "cache")
    for _ in range(2):  # filled, then full
        assert [fingerprint(batch) for batch in take(build_train_loader(busy), 9)] == whole


def test_seed_decides(busy):
    first = fingerprint(take(build_train_loader(busy), 1)[0])
    assert fingerprint(take(build_train_loader(busy, seed=7), 1)[0]) == first
    busy.SEED = 8
    assert fingerprint(take(build_train_loader(busy), 1)[0]) != first


def test_a_sample_is_augmented_anew_each_time(busy):
    batches = take(build_train_loader(busy), 30)
    images = {}
    for item in itertools.chain.from_iterable(batches):
        images.setdefault(item["image_id"], set()).add(item["image"].numpy().tobytes())
    assert all(len(versions) > 5 for versions in images.values())


@given(
    repeat=st.lists(st.floats(0, 3), min_size=1, max_size=12).filter(lambda r: sum(r) > 0.5),
    start=st.integers(0, 60),
    share=st.integers(1, 3),
    processes=st.sampled_from([1, 2, 4]),
    groups=st.integers(0, 2),
)
@settings(deadline=None)
def test_processes_share_the_batch_of_one(repeat, start, share, processes, groups):
    repeat = np.array(repeat)
    stream = Stream(repeat, seed=3)
    group = None if groups == 0 else np.arange(len(repeat)) % groups
    size = share * processes

    def batches(first, rank, world):
        sampler = TrainingBatches(stream, size, first, group, rank, world)
        return itertools.islice(iter(sampler), 4)

    alone = list(itertools.islice(iter(TrainingBatches(stream, size, 0, group)), start + 4))[start:]
    parts = [batches(start, rank, processes) for rank in range(processes)]
    together = [list(itertools.chain(*pieces)) for pieces in zip(*parts, strict=True)]
    assert together == alone
    if group is not None:
        assert all(len({group[index] for _, index in batch}) == 1 for batch in alone)


def test_batch_that_cannot_be_shared():
    with pytest.raises(InputError, match="shared evenly by 2"):
        TrainingBatches(Stream(np.ones(3), 0), 5, world_size=2)


def test_every_epoch_is_another_order_of_all():
    stream = Stream(np.ones(10), seed=0)
    indices = [index for _, index in itertools.islice(stream.start_at(0), 30)]
    epochs = [indices[i : i + 10] for i in (0, 10, 20)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert [p for p, _ in itertools.islice(stream.start_at(17), 5)] == [17, 18, 19, 20, 21]
    plain = Stream(np.ones(4), seed=0, shuffle=False)
    assert [index for _, index in itertools.islice(plain.start_at(2), 5)] == [2, 3, 0, 1, 2]


def test_debugging_is_in_order_and_without_chance(busy):
    busy.SERIATIM.DETERMINISTIC_DEBUG = True
    first, second = take(build_train_loader(busy), 6)[::3]  # nine images are not empty
    expected = [r["image_id"] for r in DatasetCatalog.get("shapes") if r["annotations"]]
    assert [item["image_id"] for item in first] == expected[:4]
    busy.SEED = 99
    assert fingerprint(take(build_train_loader(busy), 1)[0]) == fingerprint(first)
    assert second is not first


# Generators


def draw():
    return random.random(), np.random.rand(), torch.rand(1).item()


def test_seeded_is_by_key_and_leaves_no_trace():
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    first = draw()
    with seeded(3, 5):
        inside = draw()
    second = draw()
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    assert draw() == first
    assert draw() == second
    with seeded(3, 5):
        assert draw() == inside
    with seeded(3, 6):
        assert not set(draw()) & set(inside)


def test_loading_does_not_disturb_the_model_s_chance(busy):
    torch.manual_seed(0)
    expected = [torch.rand(1).item() for _ in range(3)]
    loader = iter(build_train_loader(busy))
    next(loader)  # torch draws a seed when an iterator is made
    torch.manual_seed(0)
    values = []
    for _ in range(3):
        values.append(torch.rand(1).item())
        next(loader)
    assert values == expected


# What is sampled


def names_only(record):
    return record


def shares(cfg, key, batches=200):
    loader = build_train_loader(cfg, names_only)
    counts = Counter(key(item) for batch in take(loader, batches) for item in batch)
    return {key: count / counts.total() for key, count in counts.items()}


def test_weights_of_datasets(config, entry):
    cfg = config(entry("a", num_images=3), entry("b", num_images=9))
    cfg.SERIATIM.DATASET_WEIGHTS = (3, 1)
    found = shares(cfg, lambda item: Path(item["file_name"]).parent.parent.name)
    assert found["a"] == pytest.approx(0.75, abs=0.03)
    for weights in ((1,), (-1, 2), (0, 0)):
        cfg.SERIATIM.DATASET_WEIGHTS = weights
        with pytest.raises(InputError, match="DATASET_WEIGHTS"):
            build_train_loader(cfg)


def test_without_weights_every_image_equally_often(config, entry):
    cfg = config(entry("a", num_images=3), entry("b", num_images=5))
    found = shares(cfg, lambda item: item["file_name"], batches=20)
    assert list(found.values()) == [pytest.approx(1 / 8)] * 8


def test_repeat_factor_sampling(config):
    cfg = config(num_images=8)
    cfg.DATALOADER.SAMPLER_TRAIN = "RepeatFactorTrainingSampler"
    cfg.DATALOADER.REPEAT_THRESHOLD = 3.0
    from detectron2.data.samplers import RepeatFactorTrainingSampler as Theirs

    _, records = training_records(cfg)
    factors = Theirs.repeat_factors_from_category_frequency(records, 3.0).numpy()
    expected = factors / factors.sum()
    found = shares(cfg, lambda item: item["image_id"])
    for record, share in zip(records, expected, strict=True):
        assert found[record["image_id"]] == pytest.approx(share, abs=0.03)
    assert len({round(f, 3) for f in factors}) > 1


def test_class_aware_factors_are_drawing_a_class_then_an_image():
    """Against the definition, with crowds that do not count and images that show nothing."""
    shown = [{0}, {0}, {0, 1}, {1, 2}, set(), {0}]
    records = [
        {"annotations": [{"category_id": c, "iscrowd": 0} for c in classes for _ in range(2)]}
        for classes in shown
    ]
    records[4]["annotations"] = [{"category_id": 2, "iscrowd": 1}]
    with_objects = [i for i, classes in enumerate(shown) if classes]
    expected = np.zeros(len(shown))
    for c in range(3):
        images = [i for i in with_objects if c in shown[i]]
        expected[images] += 1 / 3 / len(images)
    factors = class_aware_factors(records)
    assert factors[with_objects] == pytest.approx(expected[with_objects] * len(with_objects))
    assert factors[4] == 1


def test_class_balanced_sampling_of_detection(config):
    cfg = config(num_images=8)
    cfg.DATALOADER.SAMPLER_TRAIN = "ClassBalancedTrainingSampler"
    _, records = training_records(cfg)
    factors = class_aware_factors([dict(record) for record in records])
    found = shares(cfg, lambda item: item["image_id"])
    for record, share in zip(records, factors / factors.sum(), strict=True):
        assert found[record["image_id"]] == pytest.approx(share, abs=0.03)


def test_random_subset(config):
    cfg = config(num_images=8)
    cfg.DATALOADER.SAMPLER_TRAIN = "RandomSubsetTrainingSampler"
    cfg.DATALOADER.RANDOM_SUBSET_RATIO = 0.5
    assert len(shares(cfg, lambda item: item["image_id"])) == 3  # half of seven, rounded down


def test_unknown_sampler(config):
    cfg = config()
    cfg.DATALOADER.SAMPLER_TRAIN = "WeightedTrainingSampler"
    with pytest.raises(InputError, match="DATASET_WEIGHTS"):
        build_train_loader(cfg)


def test_empty_images_by_config(config):
    cfg = config(num_images=8)
    assert training_records(cfg)[0] == [7]
    cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS = False
    assert training_records(cfg)[0] == [8]


def test_datasets_that_cannot_be_used(config, entry):
    cfg = config(entry("a", num_images=1))
    cfg.DATASETS.TRAIN = ()
    with pytest.raises(InputError, match=r"DATASETS\.TRAIN is empty"):
        build_train_loader(cfg)
    cfg.DATASETS.TRAIN = ("b",)
    with pytest.raises(InputError, match="no dataset b"):
        build_train_loader(cfg)
    with pytest.raises(InputError, match="no dataset b"):
        build_test_loader(cfg, "b")


# Testing


@pytest.mark.parametrize("workers", [0, 2])
def test_test_loader_gives_every_image_once_in_order(config, workers):
    cfg = config()
    cfg.DATALOADER.NUM_WORKERS = workers
    loader = build_test_loader(cfg, "shapes")
    ids = [item["image_id"] for batch in loader for item in batch]
    assert ids == list(range(1, 9))
    assert len(loader) == 8
    assert "instances" not in next(iter(loader))[0]
    larger = build_test_loader(cfg, "shapes", batch_size=3)
    assert [len(batch) for batch in larger] == [3, 3, 2]


# Precomputed proposals


class Evil:
    def __reduce__(self):
        return print, ("code of the file",)


def test_proposals(config, tmp_path, capsys):
    cfg = config()
    cfg.MODEL.LOAD_PROPOSALS = True
    cfg.DATASETS.TEST = ("shapes",)
    with pytest.raises(InputError, match="file of proposals for each"):
        build_train_loader(cfg)
    path = tmp_path / "proposals.pkl"
    cfg.DATASETS.PROPOSAL_FILES_TRAIN = cfg.DATASETS.PROPOSAL_FILES_TEST = (str(path),)
    with pytest.raises(InputError, match="no file of proposals"):
        build_train_loader(cfg)
    proposals = {
        "ids": list(range(1, 9)),
        "boxes": [np.array([[0, 0, 10, 20], [5, 5, 30, 30]], dtype=np.float32)] * 8,
        "objectness_logits": [np.array([0.2, 0.9], dtype=np.float32)] * 8,
    }
    path.write_bytes(pickle.dumps(proposals))
    for loader in (build_train_loader(cfg), build_test_loader(cfg, "shapes")):
        item = next(iter(loader))[0]["proposals"]
        assert item.objectness_logits.tolist() == pytest.approx([0.9, 0.2])
        assert len(item.proposal_boxes) == 2
    path.write_bytes(pickle.dumps({**proposals, "bbox_mode": Evil()}))
    with pytest.raises(InputError, match="refused"):
        build_train_loader(cfg)
    assert "code of the file" not in capsys.readouterr().out


# What is wrong


@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_image_is_named_in_one_paragraph(config, workers):
    cfg = config()
    cfg.DATALOADER.NUM_WORKERS = workers
    path = Path(DatasetCatalog.get("shapes")[4]["file_name"])
    path.write_bytes(path.read_bytes()[:100])
    for loader in (build_train_loader(cfg), build_test_loader(cfg, "shapes")):
        with pytest.raises(InputError) as error:
            take(loader, 8)
        assert path.name in str(error.value)
        assert "\n" not in str(error.value)


def test_a_mapper_of_the_user_s_own(config):
    cfg = config()

    def mapper(record):
        return {"image_id": record["image_id"], "draw": draw()}

    first = take(build_train_loader(cfg, mapper), 4)
    assert take(build_train_loader(cfg, mapper, 2), 2) == first[2:]
    assert len({item["draw"] for batch in first for item in batch}) == 16
