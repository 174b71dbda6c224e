"""--auto: what is chosen from drawn data, what stays, what is refused."""

import json
import math

import numpy as np
import pytest
import yaml

from dataset_tools.errors import InputError
from seriatim.config import explicit_keys, get_cfg
from seriatim.engine import auto
from seriatim.engine.auto import Pace, Shape
from seriatim.engine.run import start
from seriatim.testing.shapes import make_shapes

from .support import arguments, load

CELLS = Shape(
    images=205,
    height=480,
    width=640,
    small=36,
    large=226,
    crowd=28,
    test_images=87,
    test_side=640,
)


def _config(folder, own=None, **base):
    """A config on a base; `own` are keys of the file itself, `base` of its base."""
    for split, images, seed in (("train", 12, 1), ("val", 4, 2)):
        if not (folder / split).exists():
            make_shapes(folder / split, images, seed, size=(96, 128))
    (folder / "base.yaml").write_text(
        yaml.safe_dump(
            {
                "MODEL": {
                    "META_ARCHITECTURE": "TaskAlignedDetector",
                    "DEVICE": "cpu",
                    "BACKBONE": {"NAME": "build_timm_pan_backbone"},
                    "TIMM": {"NAME": "test_resnet"},
                    "FPN": {"IN_FEATURES": ["res3", "res4", "res5"], "OUT_CHANNELS": 16},
                    "TASK_ALIGNED": {"CHANNELS": 16, "NUM_CONVS": 1},
                },
                "SOLVER": {"IMS_PER_BATCH": 4, "BASE_LR": 0.002, "WARMUP_ITERS": 20},
                "DATALOADER": {"NUM_WORKERS": 0},
                "SEED": 7,
                "OUTPUT_DIR": str(folder / "output"),
            }
            | base
        )
    )
    names = {"TRAIN": [f"{folder.name}_train"], "TEST": [f"{folder.name}_val"]}
    content = {
        "_BASE_": "base.yaml",
        "DATASETS": names,
        "SERIATIM": {
            "DATASETS": [
                {
                    "NAME": f"{folder.name}_{split}",
                    "JSON": str(folder / split / "shapes.json"),
                    "IMAGES": str(folder / split / "images"),
                }
                for split in ("train", "val")
            ]
        },
    }
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(content | (own or {})))
    return path


@pytest.fixture
def quick(monkeypatch):
    """A machine that trains 100 images and tests 10 a second."""
    monkeypatch.setattr(auto, "measure", lambda cfg: Pace(train=0.01, test=0.1))


def _cfg(minutes=10.0):
    cfg = get_cfg()
    cfg.SERIATIM.AUTO_MINUTES = minutes
    cfg.SOLVER.BASE_LR = 0.001
    return cfg


def _values(choices):
    return {choice.key: choice.value for choice in choices}


# The data


def test_the_shape_of_drawn_data(tmp_path):
    cfg = load(_config(tmp_path))
    shape = auto.shape_of_data(cfg)
    content = json.loads((tmp_path / "train" / "shapes.json").read_text())
    sizes = {}
    for item in content["annotations"]:
        if not item["iscrowd"]:
            side = math.sqrt(item["bbox"][2] * item["bbox"][3])
            sizes.setdefault(item["category_id"], []).append(side)
    # Each class drawn equally often, the quantile of a large sample.
    rng = np.random.default_rng(0)
    drawn = np.concatenate([rng.choice(values, 20000) for values in sizes.values()])
    assert shape.small == pytest.approx(np.quantile(drawn, 0.1), rel=0.05)
    assert shape.large == pytest.approx(np.quantile(drawn, 0.95), rel=0.05)
    assert (shape.images, shape.test_images) == (11, 4)  # one has no object
    assert (shape.height, shape.width, shape.test_side) == (96, 128, 128)
    assert shape.crowd == max(
        sum(a["image_id"] == i["id"] for a in content["annotations"]) for i in content["images"]
    )


def test_a_rare_class_counts_like_a_frequent_one():
    frequent, rare = [100.0] * 900 + [101.0] * 100, [10.0, 11.0]
    small, large = auto.balanced_quantiles([frequent, rare], (0.1, 0.95))
    assert small == 10.0 and large in (100.0, 101.0)


# Sizes and levels


def test_small_objects_cover_three_cells_of_the_finest_level():
    chosen = _values(auto.choose_inputs(CELLS, _cfg(), set()))
    assert chosen["MODEL.TASK_ALIGNED.IN_FEATURES"] == ("p3", "p4", "p5")
    assert chosen["SERIATIM.AUG.SIZE"] == (320, 416)  # 480 and 640 × 24 / 36, in steps of 32
    assert (chosen["INPUT.MIN_SIZE_TEST"], chosen["INPUT.MAX_SIZE_TEST"]) == (320, 427)
    assert "SERIATIM.EVAL.TILE" not in chosen


def test_tiny_objects_get_a_finer_level_and_nothing_is_blown_up_beyond_use():
    tiny = Shape(56, 256, 256, small=8, large=54, crowd=88, test_images=24, test_side=256)
    chosen = _values(auto.choose_inputs(tiny, _cfg(), set()))
    assert chosen["MODEL.FPN.IN_FEATURES"] == ["res2", "res3", "res4"]
    assert chosen["SERIATIM.AUG.SIZE"] == (384, 384)
    assert chosen["TEST.DETECTIONS_PER_IMAGE"] == 200
    dust = Shape(56, 256, 256, small=2, large=54, crowd=88, test_images=24, test_side=256)
    assert _values(auto.choose_inputs(dust, _cfg(), set()))["SERIATIM.AUG.SIZE"] == (384, 384)


def test_levels_that_are_given_decide_the_scale():
    cfg = _cfg()
    cfg.MODEL.TASK_ALIGNED.IN_FEATURES = ("p4", "p5")
    chosen = _values(auto.choose_inputs(CELLS, cfg, {"MODEL.TASK_ALIGNED.IN_FEATURES"}))
    assert chosen["SERIATIM.AUG.SIZE"] == (640, 864)  # 48 px for small objects
    assert "MODEL.FPN.IN_FEATURES" not in chosen


def test_large_images_become_crops_and_tiles():
    plan = Shape(40, 3000, 4000, small=30, large=200, crowd=300, test_images=5, test_side=4000)
    chosen = _values(auto.choose_inputs(plan, _cfg(), set()))
    assert chosen["SERIATIM.AUG.SIZE"] == (640, 640)
    assert chosen["SERIATIM.AUG.SCALE_FROM_ORIGINAL"]
    assert chosen["SERIATIM.AUG.SCALE"] == (0.64, 1.0)  # around 24 / 30
    assert chosen["SERIATIM.EVAL.TILE"] == 800 and chosen["INPUT.MIN_SIZE_TEST"] == 640


def test_a_test_image_larger_than_those_of_training_is_seen_by_tiles():
    trees = Shape(61, 400, 400, small=18, large=70, crowd=41, test_images=1, test_side=1200)
    chosen = _values(auto.choose_inputs(trees, _cfg(), set()))
    assert chosen["SERIATIM.EVAL.TILE"] == 400
    assert chosen["INPUT.MIN_SIZE_TEST"] == 533 == chosen["INPUT.MAX_SIZE_TEST"]
    assert chosen["TEST.DETECTIONS_PER_IMAGE"] == 800  # 2 × 41 × 9


def test_too_few_passes_make_images_smaller():
    cfg = _cfg(minutes=1)
    cfg.SERIATIM.AUG.SIZE = (640, 640)
    cfg.INPUT.MIN_SIZE_TEST = cfg.INPUT.MAX_SIZE_TEST = 640
    slow = Pace(train=60 / 205 / 6.4, test=0.1)  # 6.4 passes: 0.8² of 10
    shrunk = _values(auto.choose_shrink(CELLS, slow, cfg, set()))
    assert shrunk["SERIATIM.AUG.SIZE"] == (512, 512) and shrunk["INPUT.MIN_SIZE_TEST"] == 512
    assert auto.choose_shrink(CELLS, slow, cfg, {"SERIATIM.AUG.SIZE"}) == []
    assert auto.choose_shrink(CELLS, Pace(0.02, 0.1), cfg, set()) == []


# The schedule


def test_steps_fill_the_time_that_evaluation_leaves():
    pace = Pace(train=0.05, test=0.1)
    chosen = _values(auto.choose_schedule(CELLS, pace, 600, _cfg(), set()))
    assert chosen["SOLVER.IMS_PER_BATCH"] == 8
    assert chosen["SOLVER.MAX_ITER"] == int(0.93 * (600 - 8.7) / 0.4)
    assert chosen["SOLVER.BASE_LR"] == 0.001
    assert chosen["SERIATIM.SOLVER.EMA_DECAY"] == pytest.approx(0.9975, abs=0.0003)


def test_less_time_makes_batches_smaller_so_that_steps_are_left():
    pace = Pace(train=0.05, test=0.0)
    chosen = _values(auto.choose_schedule(CELLS, pace, 300, _cfg(), set()))
    assert chosen["SOLVER.IMS_PER_BATCH"] == 4 and chosen["SOLVER.MAX_ITER"] == 1395
    assert chosen["SOLVER.BASE_LR"] == 0.001 and chosen["SOLVER.WARMUP_ITERS"] == 100
    chosen = _values(auto.choose_schedule(CELLS, pace, 30, _cfg(), set()))
    assert chosen["SOLVER.IMS_PER_BATCH"] == 2 and chosen["SOLVER.WARMUP_ITERS"] == 46


def test_time_for_nothing_is_refused():
    with pytest.raises(InputError, match="more minutes"):
        auto.choose_schedule(CELLS, Pace(2.0, 1.0), 90, _cfg(1.5), set())


# From the command line


def test_only_the_file_itself_and_the_command_line_are_explicit(tmp_path):
    path = _config(tmp_path, own={"SOLVER": {"MAX_ITER": 33}})
    keys = explicit_keys(path, ["SEED", "3"])
    assert {"SOLVER.MAX_ITER", "SEED", "SERIATIM.DATASETS", "DATASETS.TRAIN"} <= keys
    assert "SOLVER.BASE_LR" not in keys and "_BASE_" not in keys


def test_what_the_user_says_stays(tmp_path, quick, caplog):
    path = _config(tmp_path, own={"SOLVER": {"MAX_ITER": 33}})
    with caplog.at_level("INFO"):
        cfg = load(path, "--auto", "9", "SERIATIM.AUG.SIZE", "(64, 64)")
    assert cfg.SOLVER.MAX_ITER == 33 and tuple(cfg.SERIATIM.AUG.SIZE) == (64, 64)
    assert cfg.SOLVER.WARMUP_ITERS == 5  # a sixth of the user's 33
    assert cfg.SOLVER.IMS_PER_BATCH == 8  # the base's 4 is no wish of the user
    assert cfg.SERIATIM.AUTO_MINUTES == 9


def test_it_trains_with_what_it_has_measured_and_is_resumed_with_it(tmp_path, capsys):
    path = _config(tmp_path)
    words = ("--auto", "0.5", "SOLVER.MAX_ITER", "12")
    assert start(arguments(path, *words)) == 0
    told = capsys.readouterr().out
    for key in auto.KEYS:
        if key not in ("SERIATIM.EVAL.TILE", "INPUT.MASK_FORMAT"):
            assert f"--auto: {key} " in told, key
    assert "(you say so)" in told and "cells of" in told
    saved = yaml.safe_load((tmp_path / "output" / "config.yaml").read_text())
    assert saved["SERIATIM"]["AUTO_MINUTES"] == 0.5 and saved["SOLVER"]["MAX_ITER"] == 12
    # As if the first run had been stopped: another machine's pace must not change the run.
    saved["SOLVER"]["IMS_PER_BATCH"] = 6
    (tmp_path / "output" / "config.yaml").write_text(yaml.safe_dump(saved))
    cfg = load(path, *words, "--resume")
    assert cfg.SOLVER.IMS_PER_BATCH == 6
    assert tuple(cfg.SERIATIM.AUG.SIZE) == tuple(saved["SERIATIM"]["AUG"]["SIZE"])


@pytest.mark.parametrize(
    ("own", "words", "message"),
    [
        ({}, ("--auto", "1", "--eval-only"), "eval-only"),
        ({}, ("--auto", "1", "DATASETS.TRAIN", "()"), "DATASETS.TRAIN is empty"),
        ({}, ("SERIATIM.AUTO_MINUTES", "-1"), "AUTO_MINUTES is -1"),
        ({}, ("--auto", "1", "MODEL.META_ARCHITECTURE", "RetinaNet"), "not RetinaNet"),
        ({}, ("--auto", "0.0001"), "more minutes"),
        ({}, ("--auto", "1", "SERIATIM.SOLVER.EPOCHS", "3"), "Leave one away"),
    ],
)
def test_what_makes_no_sense_is_refused(tmp_path, quick, own, words, message):
    with pytest.raises(InputError, match=message):
        load(_config(tmp_path, own), *words)


@pytest.mark.parametrize("text", ["0", "-3", "inf", "nan", "ten"])
def test_minutes_that_are_none_end_with_code_2(text, capsys):
    with pytest.raises(SystemExit) as caught:
        arguments("a.yaml", "--auto", text)
    assert caught.value.code == 2
