"""From the command line to a config that is ready."""

import pytest
import yaml

from dataset_tools.errors import InputError
from seriatim.config import get_cfg
from seriatim.engine.setup import prepare_output, resolve_schedule, resolve_seed

from .support import load, write_config


def test_the_config_is_filled_in(config_file):
    cfg = load(config_file, "MODEL.DEVICE", "auto")
    assert cfg.MODEL.DEVICE in ("cpu", "cuda", "mps")
    assert cfg.MODEL.RETINANET.NUM_CLASSES == 3
    assert cfg.is_frozen()


def test_epochs_become_steps_and_the_schedule_keeps_its_shape(tmp_path):
    keys = ["SERIATIM.SOLVER.EPOCHS", "3", "SERIATIM.SOLVER.ACCUMULATE", "2"]
    schedule = ["SOLVER.MAX_ITER", "100", "SOLVER.STEPS", "(80,)", "SOLVER.WARMUP_ITERS", "20"]
    cfg = load(write_config(tmp_path), *keys, *schedule, "SOLVER.IMS_PER_BATCH", "1")
    # 12 images, one of them without objects: 3 · 11 / (1 · 2) steps, rounded up.
    assert cfg.SOLVER.MAX_ITER == 17
    assert cfg.SOLVER.STEPS == (14,)
    assert cfg.SOLVER.WARMUP_ITERS == 3


def test_a_warm_up_longer_than_training_is_shortened_aloud(caplog):
    cfg = get_cfg()
    cfg.SOLVER.MAX_ITER = 100
    resolve_schedule(cfg)
    assert cfg.SOLVER.WARMUP_ITERS == 10
    assert "WARMUP_ITERS" in caplog.text


def test_a_seed_is_chosen_saved_and_found_again(tmp_path):
    cfg = get_cfg()
    cfg.OUTPUT_DIR = str(tmp_path)
    resolve_seed(cfg, resume=False)
    assert cfg.SEED >= 0
    prepare_output(cfg, resume=False, overwrite=False)
    again = get_cfg()
    again.OUTPUT_DIR = str(tmp_path)
    resolve_seed(again, resume=True)
    assert again.SEED == cfg.SEED
    assert yaml.safe_load((tmp_path / "config.yaml").read_text())["SEED"] == cfg.SEED


def test_another_run_is_not_overwritten(tmp_path):
    cfg = get_cfg()
    cfg.OUTPUT_DIR = str(tmp_path)
    for name in ("model_final.pth", "last_checkpoint", "metrics.json", "notes.txt"):
        (tmp_path / name).write_text("mine")
    with pytest.raises(InputError, match="--resume"):
        prepare_output(cfg, resume=False, overwrite=False)
    prepare_output(cfg, resume=True, overwrite=False)
    assert (tmp_path / "model_final.pth").exists()
    prepare_output(cfg, resume=False, overwrite=True)
    left = {p.name for p in tmp_path.iterdir()}
    assert left == {"notes.txt", "config.yaml", "log.txt"}


def test_what_a_run_without_a_checkpoint_left_is_cleared(tmp_path):
    cfg = get_cfg()
    cfg.OUTPUT_DIR = str(tmp_path)
    (tmp_path / "metrics.json").write_text("{}")
    prepare_output(cfg, resume=False, overwrite=False)
    assert not (tmp_path / "metrics.json").exists()
