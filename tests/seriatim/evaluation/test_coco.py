"""The evaluator keeps Detectron2's conventions, also when there is nothing to measure."""

import json
import logging
import math
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.evaluation import COCOEvaluator
from detectron2.structures import Boxes, Instances
from detectron2.utils import comm

from dataset_tools.errors import InputError
from seriatim.engine.launch import launch
from seriatim.evaluation import spool
from seriatim.evaluation.coco import RESULTS_FILE, CocoEvaluator, to_coco_results
from seriatim.evaluation.spool import Spool
from seriatim.testing.scenes import random_scene


@pytest.fixture
def scene(tmp_path):
    """A registered dataset whose category ids are not contiguous, and a model's outputs."""
    dataset, found = random_scene(0)
    for item in (*dataset["annotations"], *found):
        item["category_id"] *= 10
    for category in dataset["categories"]:
        category["id"] *= 10
    path = tmp_path / "truth.json"
    path.write_text(json.dumps(dataset))
    name = f"scene_{tmp_path.name}"
    MetadataCatalog.get(name).set(
        json_file=str(path),
        thing_classes=[c["name"] for c in dataset["categories"]],
        thing_dataset_id_to_contiguous_id={10 * i + 10: i for i in range(4)},
    )
    inputs = [{"image_id": image["id"]} for image in dataset["images"]]
    outputs = [{"instances": instances_of(found, i["image_id"])} for i in inputs]
    yield name, inputs, outputs
    MetadataCatalog.pop(name)


def instances_of(found, image_id):
    mine = [d for d in found if d["image_id"] == image_id]
    boxes = torch.tensor([d["bbox"] for d in mine], dtype=torch.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    instances = Instances((300, 400))
    instances.pred_boxes = Boxes(boxes)
    instances.scores = torch.tensor([d["score"] for d in mine])
    instances.pred_classes = torch.tensor(
        [d["category_id"] // 10 - 1 for d in mine], dtype=torch.long
    )
    return instances


def test_it_gives_the_numbers_of_detectron2s_own_evaluator(scene, tmp_path):
    name, inputs, outputs = scene
    theirs = COCOEvaluator(name, ("bbox",), False, str(tmp_path), use_fast_impl=False)
    ours = CocoEvaluator(name, tmp_path / "ours")
    for evaluator in (theirs, ours):
        evaluator.reset()
        evaluator.process(inputs, outputs)
    expected, got = theirs.evaluate()["bbox"], ours.evaluate()["bbox"]
    assert len(expected) == 10
    assert {k: got[k] for k in expected} == pytest.approx(expected, abs=1e-3, nan_ok=True)


def test_detections_are_written_with_the_datasets_own_category_ids(scene, tmp_path):
    name, inputs, outputs = scene
    evaluator = CocoEvaluator(name, tmp_path)
    evaluator.process(inputs, outputs)
    evaluator.evaluate()
    written = json.loads((tmp_path / RESULTS_FILE).read_text())
    assert {d["category_id"] for d in written} <= {10, 20, 30}
    assert len(written) == sum(len(o["instances"]) for o in outputs)


def test_a_model_that_finds_nothing_scores_zero(scene):
    name, inputs, _ = scene
    evaluator = CocoEvaluator(name)
    evaluator.process(inputs, [{"instances": instances_of([], 0)} for _ in inputs])
    results = evaluator.evaluate()
    assert results["bbox"]["AP"] == 0
    assert math.isnan(results["bbox"]["AP-c4"])
    evaluator.reset()
    assert evaluator.evaluate()["bbox"]["AP"] == 0  # not even an image was seen


def test_masks_are_scored_without_being_asked_for(scene):
    name, inputs, outputs = scene
    for output in outputs:
        boxes = output["instances"].pred_boxes.tensor.round().int().tolist()
        masks = torch.zeros(len(boxes), 300, 400, dtype=torch.bool)
        for mask, (left, top, right, bottom) in zip(masks, boxes, strict=True):
            mask[max(0, top) : bottom, max(0, left) : right] = True
        output["instances"].pred_masks = masks
    evaluator = CocoEvaluator(name)
    evaluator.process(inputs, outputs)
    results = evaluator.evaluate()
    assert results["segm"]["AP50"] == pytest.approx(results["bbox"]["AP50"], abs=3)


def test_detections_that_are_not_finite_are_counted_and_left_out(scene, caplog):
    name, inputs, outputs = scene
    outputs[0]["instances"].scores[:] = math.nan
    evaluator = CocoEvaluator(name)
    evaluator.process(inputs, outputs)
    with caplog.at_level(logging.WARNING):
        evaluator.evaluate()
    assert f"{len(outputs[0]['instances'])} detections" in caplog.text


def test_a_test_set_without_annotations_is_written_only(scene, tmp_path):
    name, inputs, outputs = scene
    metadata = MetadataCatalog.get(name)
    path = Path(metadata.json_file)
    dataset = json.loads(path.read_text())
    del dataset["annotations"]
    path.write_text(json.dumps(dataset))
    evaluator = CocoEvaluator(name, tmp_path)
    evaluator.process(inputs, outputs)
    assert evaluator.evaluate() == {}
    assert json.loads((tmp_path / RESULTS_FILE).read_text())


def test_a_dataset_without_json_needs_a_folder():
    MetadataCatalog.get("made_in_python").set(thing_classes=["a"])
    with pytest.raises(InputError, match="made_in_python"):
        CocoEvaluator("made_in_python")
    MetadataCatalog.pop("made_in_python")


def test_keypoints_go_back_to_pixel_indices_and_the_instances_stay():
    instances = Instances((10, 10), pred_boxes=Boxes(torch.tensor([[1.0, 2, 5, 8]])))
    instances.scores = torch.tensor([0.5])
    instances.pred_classes = torch.tensor([0])
    instances.pred_keypoints = torch.tensor([[[3.5, 4.5, 0.9]]])
    (result,) = to_coco_results(instances, 7, {0: 42})
    assert result["bbox"] == [1, 2, 4, 6] and result["category_id"] == 42
    assert result["keypoints"] == pytest.approx([3, 4, 0.9])
    assert np.allclose(instances.pred_keypoints, [[[3.5, 4.5, 0.9]]])


def evaluate_share(json_file, found, folder):
    """What one of several processes does: every second image, and the last process writes."""
    rank, size = comm.get_rank(), comm.get_world_size()
    MetadataCatalog.get("shared").set(json_file=str(json_file), thing_classes=["a", "b", "c", "d"])
    spool.CHUNK_BYTES = 200  # many parts
    evaluator = CocoEvaluator("shared", folder)
    for image in range(8 - rank, 0, -size):
        instances = instances_of(
            [{**d, "category_id": 10 * d["category_id"]} for d in found], image
        )
        evaluator.process([{"image_id": image}], [{"instances": instances}])
    (folder / f"results{rank}.json").write_text(json.dumps(evaluator.evaluate()))


@pytest.mark.slow
def test_several_processes_give_what_one_gives_to_the_byte(tmp_path):
    dataset, found = random_scene(0)
    path = tmp_path / "truth.json"
    path.write_text(json.dumps(dataset))
    for processes in (1, 2):
        folder = tmp_path / str(processes)
        folder.mkdir()
        launch(evaluate_share, num_processes=processes, args=(path, found, folder))
    one, two = tmp_path / "1", tmp_path / "2"
    assert json.loads((one / "results0.json").read_text())["bbox"]["AP"] > 0
    assert (one / RESULTS_FILE).read_bytes() == (two / RESULTS_FILE).read_bytes()
    assert (one / "results0.json").read_bytes() == (two / "results0.json").read_bytes()
    assert json.loads((two / "results1.json").read_text()) == {}
    MetadataCatalog.pop("shared")


def test_memory_does_not_grow_with_images(scene, tmp_path):
    name, _, outputs = scene
    evaluator = CocoEvaluator(name, tmp_path / "output")
    held = []
    tracemalloc.start()
    for number in range(1, 401):
        evaluator.process([{"image_id": 1}], [outputs[number % len(outputs)]])
        if number in (100, 400):
            held.append(tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    assert held[1] - held[0] < 10_000  # 300 images with 20 detections each
    assert not list(
        (tmp_path / "output").iterdir()
    )  # the file has no name, and nothing of it stays


def test_what_waits_on_disk_comes_back_in_the_order_of_images(tmp_path):
    waiting = Spool(tmp_path)
    for image in (3, 1, 2, 1):
        waiting.add([{"image_id": image, "score": 0.1 + image}, {"image_id": image, "score": 0}])
    waiting.add([])
    waiting.write(tmp_path / "all.json")
    assert [d["image_id"] for d in waiting] == [1, 1, 1, 1, 2, 2, 3, 3]
    assert json.loads((tmp_path / "all.json").read_text()) == list(waiting)
    Spool().write(tmp_path / "none.json")
    assert json.loads((tmp_path / "none.json").read_text()) == []
