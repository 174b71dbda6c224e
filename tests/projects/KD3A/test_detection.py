"""A detector over parties that hold COCO folders of drawn shapes."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest
import torch
from detectron2.data import DatasetCatalog
from kd3a.app import build_strategy, initial_weights, open_party, simulate_here
from kd3a.averaging import average
from kd3a.federation import CHECKPOINT
from kd3a.messages import Work

from seriatim.data.catalog import unregister_datasets
from seriatim.engine.setup import setup
from seriatim.testing.shapes import make_shapes

pytestmark = pytest.mark.slow
CONFIG = Path(__file__).parents[3] / "projects/KD3A/configs/BCCD-Detection.yaml"
PARTIES = ("a", "b", "c")


def config(folder: Path, output: str, *opts: str, rounds: str = "2"):
    entries = []
    for seed, name in enumerate(PARTIES):
        path = make_shapes(folder / name, num_images=6, seed=seed, size=(64, 64))
        entries += [
            {"NAME": f"{name}_{split}", "JSON": str(path), "IMAGES": str(path.parent / "images")}
            for split in ("train", "test")
        ]
    sets = [str(tuple(f"{name}_{split}" for name in PARTIES)) for split in ("train", "test")]
    small = {
        "SERIATIM.DATASETS": str(entries),
        "SERIATIM.AUG.SIZE": "(64, 64)",
        "INPUT.MIN_SIZE_TEST": "64",
        "INPUT.MAX_SIZE_TEST": "64",
        "MODEL.DEVICE": "cpu",
        "MODEL.TIMM.WEIGHTS": "",
        "MODEL.TIMM.FREEZE_AT": "0",
        "SOLVER.IMS_PER_BATCH": "2",
        "KD3A.EPOCH_IMAGES": "4",
        "KD3A.EPOCHS": rounds,
        "DATASETS.TRAIN": sets[0],
        "DATASETS.TEST": sets[1],
        "OUTPUT_DIR": str(folder / output),
    }
    flat = [word for pair in small.items() for word in pair]
    return setup(argparse.Namespace(config_file=str(CONFIG), opts=[*flat, *opts]))


@pytest.fixture(autouse=True)
def _forget_datasets():
    yield
    names = {f"{name}_{split}" for name in PARTIES for split in ("train", "test")}
    unregister_datasets(names & set(DatasetCatalog.list()))


def test_fedavg_is_the_average_of_detectors_trained_by_hand(tmp_path):
    found = simulate_here(config(tmp_path, "federated")).arrays.to_torch_state_dict()
    cfg = config(tmp_path, "hand")
    state = initial_weights(cfg).to_torch_state_dict()
    start = state
    parties = [open_party(cfg, name) for name in PARTIES]
    for number in (1, 2):
        states = [party.train(Work(number, state, {}, {}))[0] for party in parties]
        state = average(states, torch.full((3,), 1 / 3, dtype=torch.float64))
    assert all(torch.equal(found[name], state[name]) for name in state)
    moved = [name for name in start if not torch.equal(start[name], state[name])]
    assert any("backbone" in name for name in moved) and any("head" in name for name in moved)
    saved = torch.load(tmp_path / "federated" / CHECKPOINT, weights_only=True)
    assert saved["round"] == 2


def test_parties_tell_their_ap_and_fedprox_holds_them_back(tmp_path):
    moved = {}
    for strategy, mu in (("fedavg", "0.0"), ("fedprox", "1000.0")):
        opts = ["KD3A.STRATEGY", strategy, "KD3A.PROXIMAL_MU", mu]
        cfg = config(tmp_path, strategy, *opts, rounds="1")
        start = initial_weights(cfg).to_torch_state_dict()
        result = simulate_here(cfg)
        end = result.arrays.to_torch_state_dict()
        floats = [n for n in start if n.endswith("weight")]
        moved[strategy] = sum((end[n] - start[n]).square().sum() for n in floats).sqrt().item()
        metrics = result.evaluate_metrics_clientapp[1]
        assert {f"{name}/AP50" for name in PARTIES} <= set(metrics)
    assert moved["fedprox"] < 0.9 * moved["fedavg"]


def test_a_detector_is_no_student(tmp_path):
    """KD3A's vote is of classes of images."""
    cfg = config(tmp_path, "kd3a").clone()
    cfg.defrost()
    cfg.KD3A.STRATEGY, cfg.KD3A.TARGET = "kd3a", "c"
    build_strategy(cfg)
    party = open_party(cfg, "c")
    state = initial_weights(cfg).to_torch_state_dict()
    with pytest.raises(TypeError, match="ConsensusStudent"):
        party.distil(Work(1, state, {"gate": 0.9}, {"a": state}))
