"""Each kind of dataset gets the evaluators that fit it."""

import json

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import SemSegEvaluator

from dataset_tools.errors import InputError
from seriatim.config import get_cfg
from seriatim.data.catalog import register_datasets, unregister_datasets
from seriatim.evaluation import build_evaluator
from seriatim.evaluation.coco import CocoEvaluator
from seriatim.evaluation.panoptic import PanopticEvaluator
from seriatim.testing.scenes import random_scene
from seriatim.testing.shapes import make_panoptic_shapes


@pytest.fixture
def register(tmp_path):
    names = []

    def registered(**metadata):
        name = f"{tmp_path.name}_{len(names)}"
        DatasetCatalog.register(
            name, lambda: [{"file_name": "a.png", "sem_seg_file_name": "b.png"}]
        )
        MetadataCatalog.get(name).set(**metadata)
        names.append(name)
        return name

    yield registered
    for name in names:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


@pytest.fixture
def json_file(tmp_path):
    path = tmp_path / "truth.json"
    path.write_text(json.dumps(random_scene(0)[0]))
    return str(path)


@pytest.mark.parametrize("kind", ["coco", "rotated_coco"])
def test_instances(register, json_file, kind, tmp_path):
    evaluator = build_evaluator(
        get_cfg(), register(evaluator_type=kind, json_file=json_file), tmp_path
    )
    assert isinstance(evaluator, CocoEvaluator)


def test_semantic(register):
    name = register(
        evaluator_type="sem_seg",
        stuff_classes=["sky"],
        stuff_dataset_id_to_contiguous_id={0: 0},
        ignore_label=255,
    )
    assert isinstance(build_evaluator(get_cfg(), name), SemSegEvaluator)


def test_panoptic(tmp_path):
    drawn = make_panoptic_shapes(tmp_path, 2)
    cfg = get_cfg()
    entry = {"NAME": f"{tmp_path.name}_pan", "JSON": str(drawn.instances_json)}
    entry |= {"IMAGES": str(drawn.images), "SEM_SEG_ROOT": str(drawn.sem_seg_root)}
    entry |= {"PANOPTIC_JSON": str(drawn.panoptic_json), "PANOPTIC_ROOT": str(drawn.panoptic_root)}
    cfg.SERIATIM.DATASETS = [entry]
    cfg.DATASETS.TEST = (entry["NAME"],)
    register_datasets(cfg)
    try:
        kinds = [type(e) for e in build_evaluator(cfg, entry["NAME"])._evaluators]
    finally:
        unregister_datasets([entry["NAME"]])
    assert kinds == [SemSegEvaluator, CocoEvaluator, PanopticEvaluator]


def test_an_unknown_kind_is_named(register):
    with pytest.raises(InputError, match="sculpture"):
        build_evaluator(get_cfg(), register(evaluator_type="sculpture"))
