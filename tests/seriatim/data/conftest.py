"""Datasets of drawn shapes, registered under names of their own and forgotten after each test."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from seriatim.config import get_cfg
from seriatim.data import catalog
from seriatim.testing.shapes import make_panoptic_shapes, make_shapes


@pytest.fixture(autouse=True)
def forget_datasets() -> Iterator[None]:
    before = set(catalog._registered)
    yield
    catalog.unregister_datasets(set(catalog._registered) - before)


@pytest.fixture
def entry(tmp_path) -> Callable[..., dict]:
    """Draws shapes and gives their entry in SERIATIM.DATASETS."""

    def make(name: str = "shapes", **kwargs) -> dict:
        folder = tmp_path / name
        path = make_shapes(folder, **kwargs)
        return {"NAME": name, "JSON": str(path), "IMAGES": str(folder / "images")}

    return make


@pytest.fixture
def config(entry):
    """A config that trains on eight drawn images."""

    def make(*entries: dict, **drawing):
        cfg = get_cfg()
        cfg.SERIATIM.DATASETS = list(entries or [entry(**drawing)])
        cfg.DATASETS.TRAIN = tuple(e["NAME"] for e in cfg.SERIATIM.DATASETS)
        cfg.DATALOADER.NUM_WORKERS = 0
        cfg.SOLVER.IMS_PER_BATCH = 4
        cfg.SEED = 7
        cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MIN_SIZE_TEST = (96,), 96
        catalog.register_datasets(cfg)
        return cfg

    return make


@pytest.fixture
def panoptic_entries(tmp_path) -> dict[str, dict]:
    """The same images as standard panoptic, separated panoptic and semantic data."""
    paths = make_panoptic_shapes(tmp_path / "panoptic")
    images = {"IMAGES": str(paths.images)}
    panoptic = {
        "PANOPTIC_JSON": str(paths.panoptic_json),
        "PANOPTIC_ROOT": str(paths.panoptic_root),
    }
    labels = {"SEM_SEG_ROOT": str(paths.sem_seg_root)}
    return {
        "standard": {"NAME": "standard", **images, **panoptic},
        "separated": {
            "NAME": "separated",
            "JSON": str(paths.instances_json),
            **images,
            **panoptic,
            **labels,
        },
        "semantic": {
            "NAME": "semantic",
            "STUFF_CLASSES": ["things", "sky", "ground"],
            **images,
            **labels,
        },
    }
