"""The configs of this repository read, and their models train on data named by config alone."""

import json
from pathlib import Path

import pytest
import yaml
from detectron2.data import DatasetCatalog

from seriatim.config import load_config
from seriatim.data.catalog import unregister_datasets
from seriatim.engine.arguments import parse_arguments
from seriatim.engine.setup import setup
from seriatim.engine.trainer import Trainer
from seriatim.testing.shapes import make_shapes

CONFIGS = Path(__file__).parents[1] / "configs"


@pytest.mark.parametrize("path", sorted(CONFIGS.rglob("*.yaml")), ids=lambda p: p.stem)
def test_every_config_reads(path):
    load_config(path)


@pytest.fixture
def shapes(tmp_path):
    """A config file with a drawn dataset, for a config of ours to be joined with."""
    labels = make_shapes(tmp_path / "shapes", 6, seed=3, size=(96, 96))
    data = {
        "SERIATIM": {"DATASETS": [{"NAME": "config_shapes", "JSON": str(labels)}]},
        "DATASETS": {"TRAIN": ["config_shapes"], "TEST": ["config_shapes"]},
    }
    data["SERIATIM"]["DATASETS"][0]["IMAGES"] = str(tmp_path / "shapes" / "images")
    (tmp_path / "shapes.yaml").write_text(yaml.safe_dump(data))
    yield tmp_path
    if "config_shapes" in DatasetCatalog.list():
        unregister_datasets(["config_shapes"])


SMALL = {
    "INPUT.MIN_SIZE_TEST": 96,
    "SERIATIM.AUG.SIZE": (96, 96),
    "SOLVER.IMS_PER_BATCH": 2,
    "SOLVER.MAX_ITER": 2,
    "SOLVER.WARMUP_ITERS": 0,
    "DATALOADER.NUM_WORKERS": 0,
    "TEST.EVAL_PERIOD": 0,
    "MODEL.DEVICE": "cpu",
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "metric"),
    [
        ("Base-TaskAligned", "bbox"),
        ("Base-RetinaNet-Lite0-FPN", "bbox"),
        ("Base-FasterRCNN-Lite0-FPN", "bbox"),
        ("Nuclei-MaskRCNN-Lite0-FPN", "segm"),
        ("Nuclei-TaskAligned", "segm"),
    ],
)
def test_a_model_trains_and_is_evaluated_on_data_named_by_config(config, metric, shapes):
    train_and_evaluate(config, metric, shapes)


@pytest.mark.slow
def test_a_rotated_model_trains_on_the_rotated_boxes_of_converted_data(shapes):
    data = yaml.safe_load((shapes / "shapes.yaml").read_text())
    labels = Path(data["SERIATIM"]["DATASETS"][0]["JSON"])
    content = json.loads(labels.read_text())
    for annotation in content["annotations"]:
        x, y, width, height = annotation["bbox"]
        rbox = [x + width / 2, y + height / 2, width, height, 30.0]
        annotation["attributes"] = {"rbox": rbox}
    labels.write_text(json.dumps(content))
    data["SERIATIM"]["DATASETS"][0]["ROTATED"] = True
    (shapes / "shapes.yaml").write_text(yaml.safe_dump(data))
    few = {
        f"MODEL.RPN.{when}_NMS_TOPK_{mode}": 20
        for when in ("PRE", "POST")
        for mode in ("TRAIN", "TEST")
    }
    few |= {"MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": 8, "INPUT.MIN_SIZE_TRAIN": (96,)}
    few |= {"SOLVER.BASE_LR": 1e-4}  # from random weights
    train_and_evaluate("RotatedFasterRCNN-R50-FPN", "bbox", shapes, few)


def train_and_evaluate(config, metric, shapes, more=None):
    joined = shapes / "joined.yaml"
    bases = [str(CONFIGS / f"{config}.yaml"), str(shapes / "shapes.yaml")]
    joined.write_text(yaml.safe_dump({"_BASE_": bases}))
    small = SMALL | {"OUTPUT_DIR": shapes / "output"} | (more or {})
    overrides = [str(word) for pair in small.items() for word in pair]
    cfg = setup(parse_arguments(["--config-file", str(joined), *overrides]))
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=False)
    before = {k: v.clone() for k, v in trainer.bare_model.state_dict().items()}
    results = trainer.train()
    assert 0 <= results[metric]["AP"] <= 100
    after = trainer.bare_model.state_dict()
    trained = {name for name, p in trainer.bare_model.named_parameters() if p.requires_grad}
    assert sum(not before[name].equal(after[name]) for name in trained) > 0.9 * len(trained)
    assert (shapes / "output" / "model_final.pth").is_file()
