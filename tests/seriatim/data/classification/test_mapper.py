"""Augmentations and the mapper of labelled images."""

from __future__ import annotations

import itertools

import cv2
import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog
from detectron2.data import transforms as T
from scipy.stats import chisquare

from dataset_tools.errors import InputError
from seriatim.data.build import build_mapper
from seriatim.data.checks import check_data
from seriatim.data.classification.augmentations import (
    Cutout,
    FitCrop,
    RandAugment,
    RandomAreaCrop,
    RandomShift,
    ShiftTransform,
)
from seriatim.data.image import in_format
from seriatim.data.loader import build_test_loader, build_train_loader, seeded
from seriatim.testing.labelled import make_labelled, write_idx, write_image_folder, write_npz


def numbered(height=12, width=15, channels=3):
    return np.random.default_rng(0).integers(0, 256, (height, width, channels), np.uint8)


@pytest.mark.parametrize(("x", "y"), [(0, 0), (3, 2), (-4, 1), (2, -3), (-1, -4)])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("mode", "pad"), [("reflect", "reflect"), ("zero", "constant")])
def test_a_shift_is_a_crop_of_the_padded_image(x, y, channels, mode, pad):
    image = numbered(channels=channels)
    padded = np.pad(image, ((4, 4), (4, 4), (0, 0)), mode=pad)
    shifted = ShiftTransform(x, y, mode).apply_image(image)
    assert np.array_equal(shifted, padded[4 - y : 16 - y, 4 - x : 19 - x])
    # What is still inside comes back to where it was.
    back = ShiftTransform(x, y).inverse().apply_image(shifted)
    inner = (slice(4, -4), slice(4, -4))
    assert np.array_equal(back[inner], image[inner])
    assert ShiftTransform(x, y).apply_coords(np.array([[5.0, 6.0]])).tolist() == [[5 + x, 6 + y]]


def test_shifts_are_uniform():
    with seeded(0):
        moves = [RandomShift(4).get_transform(numbered()) for _ in range(2000)]
    for axis in ("x", "y"):
        values = np.array([getattr(move, axis) for move in moves])
        assert chisquare(np.bincount(values + 4, minlength=9)).pvalue > 1e-3


def test_fit_and_crop_takes_the_middle():
    image = numbered(20, 30)
    out = FitCrop((20, 20)).get_transform(image).apply_image(image)
    assert np.array_equal(out, image[:, 5:25])
    assert isinstance(FitCrop((20, 30)).get_transform(image), T.NoOpTransform)
    half = FitCrop((10, 10), share=0.5).get_transform(image).apply_image(image)
    assert np.array_equal(half, image[5:15, 10:20])
    assert FitCrop((64, 48)).get_transform(image).apply_image(image).shape == (64, 48, 3)


def test_area_crops_have_the_areas_and_shapes_that_were_asked_for():
    image = numbered(100, 100)
    areas, ratios = [], []
    with seeded(1):
        for _ in range(500):
            move = RandomAreaCrop((8, 8), (0.2, 0.6)).get_transform(image)
            crop = move.transforms[0]
            areas.append(crop.w * crop.h / 1e4)
            ratios.append(crop.w / crop.h)
            assert move.apply_image(image).shape == (8, 8, 3)
    assert 0.19 < min(areas) < 0.22 and 0.58 < max(areas) < 0.62
    assert 0.73 < min(ratios) < 0.8 and 1.25 < max(ratios) < 1.36
    assert np.mean(areas) == pytest.approx(0.4, abs=0.02)


def test_randaugment_is_torchvision_s_by_seed_and_in_any_order_of_channels():
    from PIL import Image
    from torchvision.transforms import v2

    image = make_labelled(1)[0][0]
    for seed in range(12):
        with seeded(seed):
            move = RandAugment(2, 20, "RGB").get_transform(image)
        with seeded(seed):
            turned = RandAugment(2, 20, "BGR").get_transform(image)
        torch.manual_seed(move.seed)
        expected = np.asarray(v2.RandAugment(2, 20)(Image.fromarray(image)))
        torch.manual_seed(99)
        before = torch.get_rng_state()
        assert np.array_equal(move.apply_image(image), expected)
        assert np.array_equal(turned.apply_image(image[:, :, ::-1]), expected[:, :, ::-1])
        assert torch.equal(torch.get_rng_state(), before)
    grey = image[:, :, :1]
    assert move.apply_image(grey).shape == grey.shape


def test_cutout_is_a_square_of_grey():
    image = np.zeros((20, 24, 3), np.uint8)
    areas = []
    with seeded(2):
        for _ in range(200):
            erased = Cutout(0.5, 200).get_transform(image).apply_image(image)
            rows, columns = np.nonzero(erased[..., 0])
            height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
            assert len(rows) == height * width and set(np.unique(erased)) == {0, 200}
            assert max(height, width) <= 10
            areas.append(len(rows))
    assert max(areas) == 100 and min(areas) < 60
    assert not image.any()


@pytest.mark.parametrize("image_format", ["RGB", "BGR", "L"])
def test_channels_are_those_of_the_format(image_format):
    colour, grey = numbered(), numbered(channels=1)
    expected = {
        "RGB": colour,
        "BGR": cv2.cvtColor(colour, cv2.COLOR_RGB2BGR),
        "L": cv2.cvtColor(colour, cv2.COLOR_RGB2GRAY)[..., None],
    }
    assert np.array_equal(in_format(colour, image_format), expected[image_format])
    found = in_format(grey, image_format)
    assert found.shape[2] == (1 if image_format == "L" else 3)
    assert np.array_equal(found, grey.repeat(found.shape[2], axis=2))


@pytest.mark.parametrize("image_format", ["RGB", "BGR", "L"])
def test_packed_and_unpacked_images_become_the_same_input(tmp_path, labelled, image_format):
    folder = write_image_folder(tmp_path / "f")
    seen = []
    for storage in ("memory", "disk"):
        cfg = labelled({"NAME": "a", "LABELS": str(folder), "SPLIT": "test"}, STORAGE=storage)
        cfg.INPUT.FORMAT = image_format
        batch = next(iter(build_test_loader(cfg, "a")))
        seen.append([(r["file_name"], r["label"], r["image"].numpy().tobytes()) for r in batch])
    if image_format == "L":  # Pillow rounds otherwise than OpenCV
        images = [np.frombuffer(x[2], np.uint8).astype(int) for part in seen for x in part]
        half = len(images) // 2
        assert (
            max(np.abs(a - b).max() for a, b in zip(images[:half], images[half:], strict=True)) <= 1
        )
        seen = [[x[:2] for x in part] for part in seen]
    assert seen[0] == seen[1]


def test_training_input(tmp_path, labelled):
    cfg = labelled(
        {"NAME": "a", "LABELS": str(write_idx(tmp_path / "mnist")), "SPLIT": "train"},
        {"NAME": "b", "LABELS": str(tmp_path / "mnist"), "SPLIT": "test"},
    )
    cfg.SERIATIM.CLASSIFICATION.SIZE = (32, 32)
    cfg.SERIATIM.CLASSIFICATION.CROP = "pad"
    cfg.SERIATIM.CLASSIFICATION.RANDAUGMENT = 1
    cfg.SERIATIM.CLASSIFICATION.CUTOUT = 0.2
    batch = next(iter(build_train_loader(cfg)))
    for record in batch:
        assert record["image"].shape == (3, 32, 32) and record["image"].dtype == torch.uint8
        assert set(record) == {"image", "label", "image_id", "file_name", "height", "width"}
        assert (record["height"], record["width"]) == (28, 28)
    first = next(iter(build_test_loader(cfg, "b")))
    assert len(first) == cfg.SOLVER.IMS_PER_BATCH
    expected = cv2.resize(DatasetCatalog.get("b")[0]["pixels"], (32, 32))
    assert np.abs(first[0]["image"][0].numpy().astype(int) - expected).max() <= 3
    cfg.SERIATIM.EVAL.BATCH_SIZE = 3
    assert len(next(iter(build_test_loader(cfg, "b")))) == 3


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_batch_k_is_batch_k(tmp_path, labelled, workers):
    cfg = labelled({"NAME": "a", "LABELS": str(write_npz(tmp_path / "x.npz"))})
    keys = cfg.SERIATIM.CLASSIFICATION
    keys.CROP, keys.HFLIP, keys.RANDAUGMENT, keys.CUTOUT = "pad", 0.5, 1, 0.3

    def take(start, count):
        loader = build_train_loader(cfg, start_iteration=start)
        batches = itertools.islice(loader, count)
        return [[(r["image_id"], r["image"].numpy().tobytes()) for r in b] for b in batches]

    whole = take(0, 15)
    cfg.DATALOADER.NUM_WORKERS = workers
    assert take(0, 15) == whole and take(9, 6) == whole[9:]


def test_transforms_are_kept_and_lead_back(tmp_path, labelled):
    cfg = labelled({"NAME": "a", "LABELS": str(write_npz(tmp_path / "x.npz"))})
    cfg.SERIATIM.CLASSIFICATION.CROP, cfg.SERIATIM.CLASSIFICATION.HFLIP = "pad", 0.5
    mapper = build_mapper(cfg, is_train=True, keep_transforms=True)
    record = DatasetCatalog.get("a")[0]
    for seed in range(8):
        with seeded(seed):
            given = mapper(record)
        image = given["image"].permute(1, 2, 0).numpy()
        back = given["transforms"].inverse().apply_image(image)
        assert np.array_equal(back[4:-4, 4:-4], record["pixels"][4:-4, 4:-4])
        assert given["sources"][0].file_name == "a#0"


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("CROP", "five", "none, pad, or"),
        ("CROP", "area", "with a SIZE"),
        ("SIZE", (32,), "(height, width)"),
        ("HFLIP", 1.5, "from 0 to 1"),
        ("PAD_MODE", "edge", "reflect or zero"),
        ("RANDAUGMENT_MAGNITUDE", 31, "from 0 to 30"),
    ],
)
def test_keys_that_are_wrong(tmp_path, labelled, key, value, words):
    cfg = labelled({"NAME": "a", "LABELS": str(write_npz(tmp_path / "x.npz"))})
    cfg.SERIATIM.CLASSIFICATION[key] = value
    with pytest.raises(InputError) as error:
        check_data(cfg)
    assert words in str(error.value)


def test_images_of_different_sizes_need_a_size(tmp_path, labelled):
    folder = write_image_folder(tmp_path / "f", sizes=(20, 31))
    cfg = labelled({"NAME": "a", "LABELS": str(folder), "SPLIT": "train"})
    with pytest.raises(InputError, match=r"different sizes.* SERIATIM\.CLASSIFICATION\.SIZE"):
        check_data(cfg)
    cfg.SERIATIM.CLASSIFICATION.SIZE = (24, 24)
    check_data(cfg)
    shapes = {r["image"].shape for r in next(iter(build_train_loader(cfg)))}
    assert shapes == {(3, 24, 24)}
