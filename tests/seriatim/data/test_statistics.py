"""Normalisation measured from data: against NumPy on all pixels, and scikit-learn's PCA."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog
from sklearn.decomposition import PCA

from dataset_tools.errors import InputError
from seriatim.config import get_cfg
from seriatim.data import catalog
from seriatim.data import statistics as subject
from seriatim.data.image import read_image
from seriatim.data.statistics import fit_zca, measure_channels, resolve_normalisation
from seriatim.modeling.whitening import Whitening, build_whitening
from seriatim.testing.labelled import write_image_folder, write_npz


def correlated(count=400, dimensions=12, seed=0):
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(dimensions, dimensions))
    return (rng.normal(size=(count, dimensions)) @ mixing + 5).astype(np.float32)


def test_zca_is_pca_whitening_turned_back():
    samples = correlated()
    mean, matrix = fit_zca(samples, epsilon=0)
    pca = PCA(whiten=True).fit(samples.astype(np.float64))
    expected = pca.transform(samples) @ pca.components_
    found = (samples - mean) @ matrix
    assert found == pytest.approx(expected, abs=2e-3)
    assert np.cov(found.T) == pytest.approx(np.eye(12), abs=2e-3)
    assert np.allclose(matrix, matrix.T, atol=1e-6)


def test_epsilon_is_added_to_the_eigenvalues():
    samples = correlated()
    epsilon = 0.3
    mean, matrix = fit_zca(samples, epsilon)
    pca = PCA().fit(samples.astype(np.float64))
    values = pca.explained_variance_
    scale = 1 / np.sqrt(values + epsilon * values.mean())
    expected = (pca.transform(samples) * scale) @ pca.components_
    assert (samples - mean) @ matrix == pytest.approx(expected, abs=2e-3)


def test_directions_without_variance_are_left_out():
    samples = correlated()
    samples[:, 0] = 3
    mean, matrix = fit_zca(samples, 0)
    assert np.isfinite(matrix).all()
    assert (samples - mean) @ matrix[:, 1:] == pytest.approx(
        (samples[:, 1:] - mean[1:]) @ fit_zca(samples[:, 1:], 0)[1], abs=1e-2
    )


def test_channels_are_numpy_s_mean_and_std():
    images = [np.random.default_rng(i).integers(0, 256, (5 + i, 7, 3), np.uint8) for i in range(4)]
    pixels = np.concatenate([image.reshape(-1, 3) for image in images])
    mean, std = measure_channels(images)
    assert mean == pytest.approx(pixels.mean(0), abs=1e-4)
    assert std == pytest.approx(pixels.std(0), abs=1e-4)
    assert measure_channels([np.full((2, 2, 1), 7, np.uint8)]) == ([7.0], [1.0])


@pytest.fixture
def config(tmp_path):
    """60 images of 12×12 px, of which 10 are for validation and 20 keep their label."""
    write_npz(tmp_path / "x.npz", 60, size=12)
    cfg = get_cfg()
    cfg.INPUT.FORMAT = "RGB"
    cfg.SERIATIM.DATA.CACHE_DIR = str(tmp_path / "cache")
    cfg.SERIATIM.DATASETS = [{"NAME": "a", "LABELS": str(tmp_path / "x.npz")}]
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("a",), ("a_validation",)
    cfg.SERIATIM.SEMI.VALIDATION_PER_CLASS, cfg.SERIATIM.SEMI.LABELS_PER_CLASS = 1, 2
    names = catalog.register_datasets(cfg)
    yield cfg
    catalog.unregister_datasets(names)


def trained():
    held = set(DatasetCatalog.get("a_validation").ids.tolist())
    return np.stack([r["pixels"] for r in DatasetCatalog.get("a") if r["image_id"] not in held])


@pytest.mark.parametrize("image_format", ["RGB", "BGR", "L"])
def test_measured_is_of_what_is_trained_on_in_the_order_of_the_input(config, image_format):
    config.INPUT.FORMAT = image_format
    config.SERIATIM.DATA.NORMALISE = "measured"
    resolve_normalisation(config)
    pixels = trained().reshape(-1, 3).astype(float)
    assert len(trained()) == 50
    mean = pixels.mean(0)[:: -1 if image_format == "BGR" else 1]
    if image_format == "L":
        mean = [pixels.mean(0) @ (0.299, 0.587, 0.114)]
    assert pytest.approx(mean, abs=0.02) == config.MODEL.PIXEL_MEAN
    assert not config.MODEL.WHITENING


def test_whitening_is_fitted_to_the_training_set_alone_and_cached(config, monkeypatch):
    config.SERIATIM.DATA.NORMALISE = "zca"
    resolve_normalisation(config)
    layer = build_whitening(config)
    assert isinstance(layer, Whitening) and not layer.state_dict()
    mean, std = (
        torch.tensor(v).view(3, 1, 1) for v in (config.MODEL.PIXEL_MEAN, config.MODEL.PIXEL_STD)
    )
    images = (torch.from_numpy(trained()).permute(0, 3, 1, 2).float() - mean) / std
    white = layer(images).flatten(1).numpy()
    flat = images.flatten(1).double().numpy()
    pca = PCA().fit(flat)
    values = pca.explained_variance_
    average = values.sum() / flat.shape[1]
    scale = 1 / np.sqrt(values + 0.1 * average)
    expected = (pca.transform(flat) * scale) @ pca.components_
    assert white == pytest.approx(expected, abs=5e-3)
    first = config.MODEL.WHITENING
    monkeypatch.setattr(subject, "fit_zca", lambda *_: pytest.fail("it was there already"))
    resolve_normalisation(config)
    assert first == config.MODEL.WHITENING


def test_another_epsilon_or_draw_is_another_file(config):
    config.SERIATIM.DATA.NORMALISE = "zca"
    files = set()
    for epsilon, seed in ((0.1, 0), (0.2, 0), (0.1, 1)):
        config.SERIATIM.DATA.ZCA_EPSILON, config.SERIATIM.SEMI.SEED = epsilon, seed
        catalog.register_datasets(config)
        resolve_normalisation(config)
        files.add(config.MODEL.WHITENING)
    assert len(files) == 3


def test_images_that_are_files_and_detection(tmp_path):
    from seriatim.testing.shapes import make_shapes

    folder = write_image_folder(tmp_path / "f")
    shapes = make_shapes(tmp_path / "s", num_images=5)
    cfg = get_cfg()
    cfg.SERIATIM.DATA.STORAGE, cfg.SERIATIM.DATA.NORMALISE = "disk", "measured"
    cfg.SERIATIM.DATASETS = [
        {"NAME": "f", "LABELS": str(folder), "SPLIT": "train"},
        {"NAME": "s", "JSON": str(shapes), "IMAGES": str(tmp_path / "s" / "images")},
    ]
    names = catalog.register_datasets(cfg)
    for name in names:
        cfg.DATASETS.TRAIN = (name,)
        resolve_normalisation(cfg)
        files = [r["file_name"] for r in DatasetCatalog.get(name) if r.get("annotations", True)]
        pixels = np.concatenate([read_image(f, "BGR").reshape(-1, 3) for f in files])
        assert config_mean(cfg) == pytest.approx(pixels.mean(0), abs=1e-3)
    catalog.unregister_datasets(names)


def config_mean(cfg):
    return np.array(cfg.MODEL.PIXEL_MEAN)


def test_what_cannot_be_done(config, tmp_path):
    config.SERIATIM.DATA.NORMALISE = "white"
    with pytest.raises(InputError, match="'measured', 'zca'"):
        resolve_normalisation(config)
    config.SERIATIM.DATA.NORMALISE = "zca"
    config.SERIATIM.CLASSIFICATION.SIZE = (96, 96)
    with pytest.raises(InputError, match="up to 64×64"):
        resolve_normalisation(config)
    config.MODEL.WHITENING = str(tmp_path / "none.npz")
    with pytest.raises(InputError, match="no file"):
        build_whitening(config)
    layer = Whitening((1, 2, 2), torch.zeros(4), torch.eye(4))
    with pytest.raises(InputError, match=r"1×2×2, but gets 1×3×3"):
        layer(torch.zeros(5, 1, 3, 3))
    images = torch.randn(2, 1, 2, 2)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer(images), images)
