import copy
import re

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode

from seriatim.data.mapper import SeriatimMapper
from seriatim.engine.trainer import Trainer
from seriatim.gates.oracle import OracleGate
from seriatim.gates.verdict import Status
from seriatim.testing.shapes import make_shapes

from .pipelines import ask, assert_caught, assert_healthy, metadata_changed, pipeline


@pytest.mark.parametrize("kind", ["retinanet", "mask_rcnn", "keypoint_rcnn", "rpn", "panoptic"])
def test_healthy(tmp_path, kind):
    verdict = ask(OracleGate(), pipeline(tmp_path, kind), tmp_path)
    assert_healthy(verdict)
    assert verdict.numbers["AP of the ground truth"]["bbox"] == pytest.approx(100, abs=0.1)
    faults = verdict.numbers["AP under planted faults"]
    told = [value for value in faults.values() if not isinstance(value, str)]
    assert len(told) >= 5 and max(told) < 50


def test_another_scale_than_the_images(tmp_path):
    context = pipeline(tmp_path, "retinanet", INPUT__MIN_SIZE_TEST=96)
    verdict = ask(OracleGate(), context, tmp_path)
    assert_healthy(verdict)
    assert verdict.numbers["AP under planted faults"]["boxes scaled back twice"] < 50


class Mapped(SeriatimMapper):
    """Alters the boxes of every input."""

    def __call__(self, record):
        item = super().__call__(record)
        if "instances" in item:
            self.spoil(item["instances"])
        return item


def trainer_with(mapper: type[SeriatimMapper]) -> type[Trainer]:
    class Planted(Trainer):
        @classmethod
        def build_mapper(cls, cfg, is_train, **overrides):
            return mapper(cfg, is_train=is_train, **overrides)

    return Planted


class WidthsForCorners(Mapped):
    def spoil(self, instances):
        boxes = instances.gt_boxes.tensor
        boxes[:, 2:] -= boxes[:, :2]


class WrongClass(Mapped):
    def spoil(self, instances):
        instances.gt_classes = (instances.gt_classes + 1) % 3


class LosesSmallOnes(Mapped):
    def __call__(self, record):
        item = SeriatimMapper.__call__(self, record)
        if "instances" in item:
            item["instances"] = item["instances"][item["instances"].gt_boxes.area() > 200]
        return item


@pytest.mark.parametrize(
    ("mapper", "words"),
    [(WidthsForCorners, "XYWH"), (WrongClass, "class numbers"), (LosesSmallOnes, "lost")],
    ids=["box mode", "class", "lost"],
)
def test_a_mapper_that_spoils_the_ground_truth(tmp_path, mapper, words):
    context = pipeline(tmp_path, "retinanet", trainer_with(mapper))
    assert_caught(ask(OracleGate(), context, tmp_path), words)


def test_class_numbers_of_evaluator_and_data_one_apart(tmp_path):
    context = pipeline(tmp_path, "retinanet")
    name = context.cfg.DATASETS.TEST[0]
    right = MetadataCatalog.get(name).thing_dataset_id_to_contiguous_id
    wrong = {own: (contiguous + 1) % 3 for own, contiguous in right.items()}
    with metadata_changed(name, thing_dataset_id_to_contiguous_id=wrong):
        assert_caught(ask(OracleGate(), context, tmp_path), "class numbers")


def test_records_in_another_box_mode_than_the_file(tmp_path):
    context = pipeline(tmp_path, "retinanet")
    name = context.cfg.DATASETS.TEST[0]
    records = list(DatasetCatalog.get(name))
    for annotation in (a for record in records for a in record["annotations"]):
        other = {BoxMode.XYWH_ABS: BoxMode.XYXY_ABS, BoxMode.XYXY_ABS: BoxMode.XYWH_ABS}
        annotation["bbox_mode"] = other[annotation["bbox_mode"]]
    DatasetCatalog.remove(name)
    DatasetCatalog.register(name, lambda: records)
    assert_caught(ask(OracleGate(), context, tmp_path), "read as")


def test_more_objects_than_detections_count_shows_with_the_ceiling(tmp_path):
    context = pipeline(tmp_path, "retinanet", TEST__DETECTIONS_PER_IMAGE=2)
    verdict = ask(OracleGate(), context, tmp_path)
    assert_caught(verdict, "DETECTIONS_PER_IMAGE")
    assert verdict.numbers["ceiling"]["AP after NMS and limits"] < 90


def test_rotated_boxes(tmp_path):
    verdict = ask(OracleGate(), pipeline(tmp_path, "rotated_rcnn"), tmp_path)
    assert_healthy(verdict)
    seen = verdict.numbers["AP under planted faults"]
    assert seen["angles of the other sense (clockwise)"] < 70
    assert seen["x and y swapped"] == "does not apply"


class TurnedBack(Mapped):
    def spoil(self, instances):
        instances.gt_boxes.tensor[:, 4] *= -1


def test_rotated_boxes_of_the_other_sense(tmp_path):
    context = pipeline(tmp_path, "rotated_rcnn", trainer_with(TurnedBack))
    assert_caught(ask(OracleGate(), context, tmp_path), "other sense")


def test_semantic_labels(tmp_path):
    verdict = ask(OracleGate(), pipeline(tmp_path, "semantic", INPUT__MIN_SIZE_TEST=40), tmp_path)
    assert_healthy(verdict)
    expected = verdict.numbers["mIoU computed from the files alone"]
    assert 80 < expected < 99.9  # the labels were scaled down and up again
    assert verdict.numbers["mIoU of the ground truth"] == pytest.approx(expected, abs=1)


class OtherLabels(SeriatimMapper):
    def __call__(self, record):
        item = super().__call__(record)
        if "sem_seg" in item:
            item["sem_seg"] = (item["sem_seg"] + 1) % 3
        return item


@pytest.mark.parametrize("kind", ["semantic", "panoptic"])
def test_semantic_labels_one_too_high(tmp_path, kind):
    context = pipeline(tmp_path, kind, trainer_with(OtherLabels))
    verdict = ask(OracleGate(), context, tmp_path)
    assert verdict.status is Status.FAIL and "mIoU" in verdict.summary


class LooksAtNoLabels:
    """An evaluator that is always content."""

    def reset(self): ...

    def process(self, inputs, outputs): ...

    def evaluate(self):
        return {"sem_seg": {"mIoU": 100.0}}


def test_an_evaluator_of_labels_that_is_always_content(tmp_path):
    class Content(Trainer):
        @classmethod
        def build_evaluator(cls, cfg, dataset_name):
            return LooksAtNoLabels()

    context = pipeline(tmp_path, "semantic", Content)
    assert_caught(ask(OracleGate(), context, tmp_path), "does not look at the labels")


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"MODEL__RETINANET__SCORE_THRESH_TEST": 0.7}, "SCORE_THRESH_TEST"),
        ({"MODEL__RETINANET__NMS_THRESH_TEST": 1.0}, "NMS_THRESH_TEST"),
        ({"SERIATIM__HOOKS__BEST_MODE": "min"}, "BEST_MODE"),
    ],
)
def test_what_the_score_is_computed_from(tmp_path, changes, word):
    assert_caught(ask(OracleGate(), pipeline(tmp_path, "retinanet", **changes), tmp_path), word)


OBLONG = {"INPUT__MIN_SIZE_TEST": 96}


def spoiling_boxes(change):
    """A trainer whose evaluator gets boxes that went through `change(boxes, height, width)`."""

    class Planted(Trainer):
        @classmethod
        def build_evaluator(cls, cfg, dataset_name):
            evaluator = super().build_evaluator(cfg, dataset_name)
            plain = evaluator.process

            def process(inputs, outputs):
                changed = [copy.deepcopy(output) for output in outputs]
                for output in changed:
                    boxes = output["instances"].pred_boxes.tensor
                    boxes[:] = change(boxes.clone(), *output["instances"].image_size)
                plain(inputs, changed)

            evaluator.process = process
            return evaluator

    return Planted


def as_sizes_swapped(boxes, height, width):
    return boxes * boxes.new_tensor([height / width, width / height] * 2)


def mirrored(boxes, height, width):
    return torch.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], 1)


PLANTED = {
    "scale of the network's input": lambda boxes, height, width: boxes * (96 / height),
    "scaled back twice": lambda boxes, height, width: boxes * (height / 96),
    "x and y swapped": lambda boxes, height, width: boxes[:, [1, 0, 3, 2]],
    "height and width of the image swapped": as_sizes_swapped,
    "mirrored left to right": mirrored,
    "XYXY as XYWH": lambda boxes, *_: torch.cat([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], 1),
    "XYWH as XYXY": lambda boxes, *_: torch.cat([boxes[:, :2], boxes[:, 2:] + boxes[:, :2]], 1),
}


@pytest.mark.parametrize("name", PLANTED)
def test_the_first_cause_is_what_was_planted_and_undone_it_is_near_the_ceiling(tmp_path, name):
    for split, seed in (("train", 1), ("val", 2)):
        make_shapes(tmp_path / split, 8, seed, size=(64, 96))
    context = pipeline(tmp_path, "retinanet", spoiling_boxes(PLANTED[name]), **OBLONG)
    first = str(ask(OracleGate(), context, tmp_path).findings[0].causes[0])
    assert name in first
    undone = re.search(r"undone, AP is ([\d.]+) of ([\d.]+)", first)
    assert float(undone[1]) >= 0.9 * float(undone[2])


def test_detections_of_the_next_image_are_told(tmp_path):
    class NextImage(Trainer):
        @classmethod
        def build_evaluator(cls, cfg, dataset_name):
            evaluator = super().build_evaluator(cfg, dataset_name)
            plain, names = (
                evaluator.process,
                [r["image_id"] for r in DatasetCatalog.get(dataset_name)],
            )
            following = dict(zip(names, names[1:] + names[:1], strict=True))

            def process(inputs, outputs):
                plain([{**i, "image_id": following[i["image_id"]]} for i in inputs], outputs)

            evaluator.process = process
            return evaluator

    verdict = ask(OracleGate(), pipeline(tmp_path, "retinanet", NextImage), tmp_path)
    assert_caught(verdict, "for the next image")


def test_panoptic_quality_is_judged(tmp_path):
    verdict = ask(OracleGate(), pipeline(tmp_path, "panoptic"), tmp_path)
    assert_healthy(verdict)
    expected = verdict.numbers["AP computed from the file alone"]["panoptic_seg"]
    assert 80 < expected <= 100
    assert verdict.numbers["AP of the ground truth"]["panoptic_seg"] == pytest.approx(
        expected, abs=5
    )


class StuffOfTheOther(Trainer):
    """Its panoptic evaluator numbers stuff the other way round."""

    @classmethod
    def build_evaluator(cls, cfg, dataset_name):
        evaluators = super().build_evaluator(cfg, dataset_name)
        last = evaluators._evaluators[-1]
        numbers = [n for n in last._stuff if n]
        last._stuff |= dict(zip(numbers, [last._stuff[n] for n in reversed(numbers)], strict=True))
        return evaluators


def test_a_panoptic_evaluator_with_other_classes_is_caught(tmp_path):
    verdict = ask(OracleGate(), pipeline(tmp_path, "panoptic", StuffOfTheOther), tmp_path)
    assert verdict.status is Status.FAIL
    assert "panoptic_seg PQ" in verdict.findings[0].measured
