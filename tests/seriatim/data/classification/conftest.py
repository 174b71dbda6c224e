"""Configs of small labelled sets."""

from __future__ import annotations

import pytest

from seriatim.config import get_cfg
from seriatim.data import catalog


@pytest.fixture
def labelled(tmp_path):
    """A config of datasets with labels, which are registered; the first is trained on."""

    def make(*entries: dict, **data):
        cfg = get_cfg()
        cfg.SERIATIM.DATASETS = list(entries)
        cfg.DATASETS.TRAIN = (entries[0]["NAME"],)
        cfg.DATASETS.TEST = tuple(entry["NAME"] for entry in entries[1:2])
        cfg.DATALOADER.NUM_WORKERS = 0
        cfg.SOLVER.IMS_PER_BATCH = 8
        cfg.MODEL.META_ARCHITECTURE = "ImageClassifier"
        cfg.SEED = 7
        cfg.INPUT.FORMAT = "RGB"
        cfg.SERIATIM.DATA.CACHE_DIR = str(tmp_path / "cache")
        for key, value in data.items():
            cfg.SERIATIM.DATA[key] = value
        catalog.register_datasets(cfg)
        return cfg

    return make
