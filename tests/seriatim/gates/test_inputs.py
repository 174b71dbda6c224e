import numpy as np
import pytest
import torch
from detectron2.data import detection_utils
from detectron2.data import transforms as T

from seriatim.data.mapper import SeriatimMapper
from seriatim.engine.trainer import Trainer
from seriatim.gates.inputs import InputsGate
from seriatim.gates.oracle import OracleGate
from seriatim.gates.overfit import Overfit1Gate
from seriatim.gates.verdict import Status

from .pipelines import KINDS, ask, assert_caught, assert_healthy, pipeline
from .test_oracle import trainer_with

AUGMENTED = {
    "SERIATIM__AUG": {
        "ENABLED": True,
        "SIZE": [64, 64],
        "SCALE": [0.8, 1.4],
        "VFLIP": 0.5,
        "ROT90": 0.5,
        "BRIGHTNESS": 0.3,
        "SATURATION": 0.3,
    }
}


@pytest.mark.parametrize("kind", sorted(KINDS.keys() - {"rotated_rcnn"}))
def test_healthy(tmp_path, kind):
    verdict = ask(InputsGate(), pipeline(tmp_path, kind, **AUGMENTED), tmp_path)
    assert_healthy(verdict)
    tally = verdict.numbers["objects"]
    assert tally["objects"] > 10 or kind == "semantic"
    assert (tally["masks"] > 5) == ("mask" in kind or kind == "panoptic")
    assert (tally["points"] > 5) == (kind == "keypoint_rcnn")
    assert (tally["label_images"] == 8) == (kind in ("semantic", "panoptic"))
    assert (tmp_path / "gate" / "inputs.png").exists()


class OtherChannels(SeriatimMapper):
    def __call__(self, record):
        item = super().__call__(record)
        item["image"] = item["image"].flip(0)
        return item


class MirroredBehindTheBack(SeriatimMapper):
    def __call__(self, record):
        item = super().__call__(record)
        item["image"] = item["image"].flip(2)
        return item


class BoxesStay(SeriatimMapper):
    """Boxes are those of the file, whatever the augmentations did."""

    def __call__(self, record):
        item = super().__call__(record)
        from detectron2.structures import Boxes, BoxMode

        boxes = [
            BoxMode.convert(a["bbox"], a["bbox_mode"], BoxMode.XYXY_ABS)
            for a in record["annotations"]
            if not a.get("iscrowd")
        ]
        if "instances" in item and len(item["instances"]) == len(boxes):
            item["instances"].gt_boxes = Boxes(np.array(boxes))
        return item


class DividedAlready(SeriatimMapper):
    def __call__(self, record):
        item = super().__call__(record)
        item["image"] = item["image"].float() / 255
        return item


class SeedsItself(SeriatimMapper):
    def __call__(self, record):
        state = np.random.get_state()
        np.random.seed(self.calls % 2)
        self.calls += 1
        item = super().__call__(record)
        np.random.set_state(state)
        return item

    calls = 0


@pytest.mark.parametrize(
    ("mapper", "words"),
    [
        (OtherChannels, "channels"),
        (MirroredBehindTheBack, "mirrored"),
        (BoxesStay, "not moved with the image"),
        (DividedAlready, "255"),
    ],
    ids=["channels", "mirrored", "boxes stay", "divided"],
)
def test_a_mapper_with_a_fault(tmp_path, mapper, words):
    context = pipeline(tmp_path, "retinanet", trainer_with(mapper), INPUT__RANDOM_FLIP="vertical")
    assert_caught(ask(InputsGate(), context, tmp_path), words)


def test_workers_that_draw_the_same(tmp_path):
    context = pipeline(tmp_path, "retinanet", trainer_with(SeedsItself), **AUGMENTED)
    assert_caught(ask(InputsGate(), context, tmp_path), "seed")


class FlipsPixelsOnly(T.HFlipTransform):
    def apply_coords(self, coords):
        return coords


class Forgetful(T.Augmentation):
    def get_transform(self, image):
        return FlipsPixelsOnly(image.shape[1])


def test_an_augmentation_that_forgets_the_boxes(tmp_path):
    class Planted(Trainer):
        @classmethod
        def build_mapper(cls, cfg, is_train, **overrides):
            mapper = super().build_mapper(cfg, is_train, **overrides)
            if is_train:
                mapper.augmentations = T.AugmentationList([mapper.augmentations, Forgetful()])
            return mapper

    context = pipeline(tmp_path, "retinanet", Planted)
    assert_caught(ask(InputsGate(), context, tmp_path), "FlipsPixelsOnly")


def test_statistics_of_another_range(tmp_path):
    context = pipeline(
        tmp_path, "retinanet", MODEL__PIXEL_MEAN=[0.5] * 3, MODEL__PIXEL_STD=[0.2] * 3
    )
    assert_caught(ask(InputsGate(), context, tmp_path), "0–1")


def test_classes_of_another_image(tmp_path):
    class Shuffled(SeriatimMapper):
        def __call__(self, record):
            item = super().__call__(record)
            if "instances" in item:
                item["instances"].gt_classes = (item["instances"].gt_classes + 1) % 3
            return item

    context = pipeline(tmp_path, "retinanet", trainer_with(Shuffled))
    assert_caught(ask(InputsGate(), context, tmp_path), "class")


def test_rotated_boxes(tmp_path):
    verdict = ask(InputsGate(), pipeline(tmp_path, "rotated_rcnn"), tmp_path)
    assert_healthy(verdict)
    assert verdict.numbers["objects"]["objects"] > 10


class AngleStays(SeriatimMapper):
    """A flip that forgets that it turns the angle round."""

    def __call__(self, record):
        item = super().__call__(record)
        item["instances"].gt_boxes.tensor[:, 4] = item["instances"].gt_boxes.tensor[:, 4].abs()
        return item


def test_rotated_boxes_whose_angle_does_not_follow(tmp_path):
    context = pipeline(tmp_path, "rotated_rcnn", trainer_with(AngleStays))
    assert_caught(ask(InputsGate(), context, tmp_path), "boxes are not moved")


class LabelsStay(SeriatimMapper):
    def __call__(self, record):
        item = super().__call__(record)
        item["sem_seg"] = item["sem_seg"].flip(0)
        return item


def test_labels_of_pixels_that_are_not_moved(tmp_path):
    context = pipeline(tmp_path, "semantic", trainer_with(LabelsStay))
    assert_caught(ask(InputsGate(), context, tmp_path), "labels are not moved")


class ByItself:
    """A mapper as people write them: it crops, mirrors and scales, and tells nobody how."""

    image_alone = False

    def __init__(self, cfg, is_train):
        self.random = is_train
        self.format = cfg.INPUT.FORMAT

    def __call__(self, record):
        image = detection_utils.read_image(record["file_name"], self.format)
        steps = [T.Resize((64, 64))]
        if self.random:
            steps = [T.RandomCrop("relative_range", (0.6, 0.6)), T.RandomFlip(), *steps]
        given = T.AugInput(image)
        moves = T.AugmentationList(steps)(given)
        annotations = [
            detection_utils.transform_instance_annotations(
                {k: v for k, v in a.items() if k != "keypoints"}, moves, given.image.shape[:2]
            )
            for a in record["annotations"]
            if not a.get("iscrowd")
        ]
        instances = detection_utils.annotations_to_instances(annotations, given.image.shape[:2])
        pixels = given.image
        if self.image_alone and np.random.random() < 0.5:
            pixels = pixels[:, ::-1]
        return {
            **{key: record[key] for key in ("file_name", "height", "width", "image_id")},
            "image": torch.from_numpy(pixels.transpose(2, 0, 1).copy()),
            "instances": detection_utils.filter_empty_instances(instances),
        }


class ByItselfImageAlone(ByItself):
    image_alone = True


class ByItselfOtherChannels(ByItself):
    def __init__(self, cfg, is_train):
        super().__init__(cfg, is_train)
        self.format = {"RGB": "BGR", "BGR": "RGB"}[self.format]


class ByItselfWarped(ByItself):
    """Pixels are stirred, so that nothing leads back to the file."""

    def __call__(self, record):
        item = super().__call__(record)
        item["image"] = item["image"].flatten(1)[:, torch.randperm(64 * 64)].view(3, 64, 64)
        return item


@pytest.mark.parametrize("kind", ["retinanet", "mask_rcnn"])
def test_a_mapper_that_augments_by_itself_and_rightly(tmp_path, kind):
    context = pipeline(tmp_path, kind, trainer_with(ByItself))
    verdict = ask(InputsGate(), context, tmp_path)
    assert_healthy(verdict)
    assert verdict.numbers["objects"]["objects"] > 10
    assert context.restless
    assert_healthy(ask(OracleGate(), context, tmp_path))
    assert ask(Overfit1Gate(), context, tmp_path).status is Status.SKIP


@pytest.mark.parametrize(
    ("mapper", "words"),
    [(ByItselfImageAlone, "not moved with the image"), (ByItselfOtherChannels, "channels")],
)
def test_a_mapper_that_augments_by_itself_with_a_fault(tmp_path, mapper, words):
    verdict = ask(InputsGate(), pipeline(tmp_path, "retinanet", trainer_with(mapper)), tmp_path)
    assert_caught(verdict, words)


def test_inputs_that_nothing_leads_back_from_are_told(tmp_path):
    context = pipeline(tmp_path, "retinanet", trainer_with(ByItselfWarped))
    verdict = ask(InputsGate(), context, tmp_path)
    assert verdict.status is Status.WARN
    assert "not found again" in verdict.findings[0].measured
