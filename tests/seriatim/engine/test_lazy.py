"""Detectron2's LazyConfigs."""

import json

import pytest

from dataset_tools.errors import InputError, run
from seriatim.engine.run import start
from seriatim.testing.shapes import make_shapes

from .support import arguments

CONFIG = """
from detectron2.data import DatasetCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.model_zoo import get_config
from detectron2.modeling.backbone import BasicStem, FPN, ResNet
from detectron2.config import LazyCall as L

name = "lazy_{name}"
if name not in DatasetCatalog.list():
    register_coco_instances(name, {{}}, "{folder}/shapes.json", "{folder}/images")

_base = get_config("COCO-Detection/fcos_R_50_FPN_1x.py")
model, dataloader, optimizer = _base.model, _base.dataloader, _base.optimizer
lr_multiplier, train = _base.lr_multiplier, _base.train
model.num_classes = 3
model.backbone.bottom_up.stem = L(BasicStem)(in_channels=3, out_channels=64, norm="BN")
model.backbone.bottom_up.stages = L(ResNet.make_default_stages)(depth=18, norm="BN")
for _part in (dataloader.train, dataloader.test):
    _part.dataset.names = name
    _part.num_workers = 0
    _part.mapper.augmentations = []
dataloader.train.total_batch_size = 2
dataloader.evaluator.dataset_name = name
train.init_checkpoint = ""
train.output_dir = "{folder}/output"
"""


@pytest.fixture
def config(tmp_path):
    make_shapes(tmp_path, 4, size=(64, 64))
    path = tmp_path / "config.py"
    path.write_text(CONFIG.format(folder=tmp_path, name=tmp_path.name))
    return path


@pytest.mark.slow
def test_fcos_trains_resumes_and_is_evaluated(config, tmp_path, capsys):
    words = ["train.max_iter=2", "train.log_period=1", "train.checkpointer.period=1"]
    # Its layers are frozen at random numbers, as the gates would say.
    assert start(arguments(config, "--gates", "off", *words)) == 0
    folder = tmp_path / "output"
    lines = [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]
    assert "loss_fcos_cls" in lines[0]
    assert (folder / "config.yaml").exists() and (folder / "model_final.pth").exists()
    with pytest.raises(InputError, match="--resume"):
        start(arguments(config, *words))
    assert start(arguments(config, "--resume", *words, "train.max_iter=3")) == 0
    assert "step 3/3" in capsys.readouterr().out
    with pytest.raises(InputError, match="init_checkpoint"):
        start(arguments(config, "--eval-only"))
    weights = f"train.init_checkpoint={folder}/model_final.pth"
    assert start(arguments(config, "--eval-only", weights)) == 0


def test_bad_input(config, tmp_path, capsys):
    def complaint(path, *words):
        assert run(lambda: start(arguments(path, *words))) == 2
        return " ".join(capsys.readouterr().err.split())

    assert "no config file" in complaint(tmp_path / "none.py")
    assert "key=value" in complaint(config, "train.max_iter", "3")
    (tmp_path / "broken.py").write_text("model = (")
    assert "not valid Python" in complaint(tmp_path / "broken.py")
    (tmp_path / "empty.py").write_text("model = 1")
    assert "optimizer" in complaint(tmp_path / "empty.py")
    assert "YAML" in complaint(config, "--dry-run")


def test_a_yaml_config_never_executes_a_program(tmp_path, capsys):
    """Only a .py that the command line names is executed; a _BASE_ is not."""
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'executed')!r}, 'w')")
    (tmp_path / "config.yaml").write_text("_BASE_: evil.py\n")
    assert run(lambda: start(arguments(tmp_path / "config.yaml"))) == 2
    assert not (tmp_path / "executed").exists()
