"""Each kind of dataset gets the evaluators that fit it."""

import json
import logging

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import SemSegEvaluator

from dataset_tools.errors import InputError
from seriatim.config import get_cfg
from seriatim.evaluation import build_evaluator
from seriatim.evaluation.coco import CocoEvaluator
from seriatim.testing.scenes import random_scene


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


def test_panoptic_without_panopticapi_measures_the_rest_and_says_so(
    register, json_file, monkeypatch, caplog
):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    both = register(evaluator_type="coco_panoptic_seg", json_file=json_file)
    with caplog.at_level(logging.WARNING):
        build_evaluator(get_cfg(), both)
    assert "panopticapi" in caplog.text
    with pytest.raises(InputError, match="panopticapi"):
        build_evaluator(get_cfg(), register(evaluator_type="coco_panoptic_seg", json_file=None))


def test_an_unknown_kind_is_named(register):
    with pytest.raises(InputError, match="sculpture"):
        build_evaluator(get_cfg(), register(evaluator_type="sculpture"))
