"""LazyConfigs: Detectron2's configs in Python."""

import json

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from dataset_tools.errors import GateFailed, InputError, run
from seriatim.engine.lazy import load
from seriatim.engine.run import start
from seriatim.gates.lazy import digest, pipeline
from seriatim.testing.shapes import make_shapes

from ..engine.support import arguments

CONFIG = """
from detectron2.config import LazyCall as L
from detectron2.data import DatasetCatalog, DatasetMapper
from detectron2.data.datasets import register_coco_instances
from detectron2.data.transforms import RandomFlip
from detectron2.model_zoo import get_config
from detectron2.modeling.backbone import BasicStem, ResNet

for split in ("train", "val"):
    name, folder = "{name}_" + split, "{folder}/" + split
    if name not in DatasetCatalog.list():
        register_coco_instances(name, {{}}, folder + "/shapes.json", folder + "/images")

_base = get_config("COCO-Detection/fcos_R_50_FPN_1x.py")
model, dataloader, optimizer = _base.model, _base.dataloader, _base.optimizer
lr_multiplier, train = _base.lr_multiplier, _base.train
model.num_classes = 3
model.backbone.bottom_up.stem = L(BasicStem)(in_channels=3, out_channels=64, norm="BN")
model.backbone.bottom_up.stages = L(ResNet.make_default_stages)(depth=18, norm="BN")
model.backbone.bottom_up.freeze_at = 0
model.head.conv_dims = [256]
dataloader.train.dataset.names = "{name}_train"
dataloader.test.dataset.names = "{name}_val"
dataloader.train.mapper.use_instance_mask = False
dataloader.train.mapper.augmentations = [L(RandomFlip)()]
dataloader.test.mapper.augmentations = []
dataloader.train.num_workers = dataloader.test.num_workers = 0
dataloader.train.total_batch_size = 4
dataloader.train.aspect_ratio_grouping = False
train.init_checkpoint = ""
train.output_dir = "{folder}/output"
train.max_iter = 2
train.seed = 7
"""
MIRRORED = """

class Mirrored(DatasetMapper):
    def __call__(self, record):
        item = super().__call__(record)
        item["image"] = item["image"].flip(2)
        return item


dataloader.train.mapper._target_ = Mirrored
"""


@pytest.fixture
def config(tmp_path):
    names = [f"{tmp_path.name}_{split}" for split in ("train", "val")]
    for seed, (split, images) in enumerate((("train", 12), ("val", 4))):
        make_shapes(tmp_path / split, images, seed, size=(64, 64))
    path = tmp_path / "config.py"
    path.write_text(CONFIG.format(folder=tmp_path, name=tmp_path.name))
    yield path
    for name in names:
        if name in DatasetCatalog.list():
            DatasetCatalog.remove(name)
            MetadataCatalog.remove(name)


def test_what_gates_read_is_what_the_config_says(config, tmp_path):
    overrides = arguments(config, "optimizer.lr=0.5", "dataloader.train.total_batch_size=6")
    cfg, trainer = pipeline(load(overrides), config)
    assert list(cfg.DATASETS.TRAIN) == [f"{tmp_path.name}_train"]
    assert cfg.SOLVER.IMS_PER_BATCH == 6 and cfg.SOLVER.BASE_LR == 0.5
    assert cfg.INPUT.FORMAT == "BGR" and cfg.MODEL.META_ARCHITECTURE == "FCOS"
    assert not cfg.MODEL.MASK_ON and cfg.INPUT.MIN_SIZE_TEST == 0
    changed = cfg.clone()
    changed.defrost()
    changed.DATASETS.TRAIN, changed.SOLVER.IMS_PER_BATCH = cfg.DATASETS.TEST, 3
    batch = next(iter(trainer.build_train_loader(changed)))
    assert len(batch) == 3 and all("/val/" in item["file_name"] for item in batch)


def test_its_digest_knows_the_model_and_not_the_folder(config):
    known = digest(load(arguments(config)), config)
    assert digest(load(arguments(config, "train.output_dir=/elsewhere")), config) == known
    assert digest(load(arguments(config, "model.num_classes=4")), config) != known
    config.write_text(config.read_text() + "# another program\n")
    assert digest(load(arguments(config)), config) != known


def test_a_dataset_without_a_name(config):
    config.write_text(config.read_text() + "\ndataloader.train.dataset.names = 'nowhere'\n")
    with pytest.raises(InputError, match=r"nowhere.*--gates off"):
        pipeline(load(arguments(config)), config)


@pytest.mark.slow
def test_a_healthy_one_passes_and_trains(config, tmp_path, capsys):
    assert start(arguments(config, "--gates", "fast")) == 0
    verdicts = json.loads((tmp_path / "output" / "gates" / "gates.json").read_text())
    assert {name: entry["verdict"]["status"] for name, entry in verdicts.items()} == {
        name: "pass" for name in ("data", "oracle", "inputs", "init", "independence", "gradients")
    }, capsys.readouterr().out
    assert (tmp_path / "output" / "model_final.pth").is_file()


@pytest.mark.slow
def test_a_mapper_that_mirrors_the_image_alone_is_caught(config, tmp_path):
    config.write_text(config.read_text() + MIRRORED)
    with pytest.raises(GateFailed, match="mirrored"):
        start(arguments(config, "--gates", "inputs"))
    assert not (tmp_path / "output" / "model_final.pth").exists()


def test_layers_that_are_frozen_at_random_numbers_are_caught(config):
    frozen = arguments(config, "model.backbone.bottom_up.freeze_at=2", "--gates", "gradients")
    with pytest.raises(GateFailed, match="frozen at random numbers"):
        start(frozen)


@pytest.mark.slow
def test_gates_alone(config, capsys, monkeypatch):
    from seriatim.gates.__main__ import main

    words = ["gates", "--config-file", str(config), "--gates", "init"]
    monkeypatch.setattr("sys.argv", words)
    assert run(main) == 0
    assert "gate init" in capsys.readouterr().out
