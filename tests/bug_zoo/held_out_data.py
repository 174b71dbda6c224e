"""Held out, new: bugs of data, mapping, augmentation and evaluation, unknown to the gates."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from detectron2.data import transforms as T
from detectron2.structures import Boxes
from PIL import Image

from seriatim.data.mapper import SeriatimMapper
from seriatim.evaluation.coco import CocoEvaluator
from seriatim.testing.shapes import make_shapes
from tests.bug_zoo.bugs_data import Content, edited, with_boxes
from tests.bug_zoo.bugs_evaluation import Spoilt, _changed, trainer_evaluated_by
from tests.bug_zoo.bugs_inputs import AUGMENTED, Changed, augmented_by, trainer_with
from tests.bug_zoo.pipeline import draw_plain
from tests.bug_zoo.registry import Bug

# Files


def _next_test_image(content: Content) -> None:
    ids = [image["id"] for image in content["images"]]
    following = dict(zip(ids, [*ids[1:], ids[0]], strict=True))
    for annotation in content["annotations"]:
        annotation["image_id"] = following[annotation["image_id"]]


def _small_masks(content: Content) -> None:
    for annotation in content["annotations"]:
        if isinstance(annotation["segmentation"], list):
            annotation["segmentation"] = [
                [value / 2 for value in polygon] for polygon in annotation["segmentation"]
            ]


def _circles_are_crowds(content: Content) -> None:
    for annotation in content["annotations"]:
        annotation["iscrowd"] = int(annotation["iscrowd"] or annotation["category_id"] == 1)


def _top_never_visible(content: Content) -> None:
    for annotation in content["annotations"]:
        if "keypoints" in annotation:
            annotation["keypoints"][5] = 0  # x, y, visibility of each: the second one's


def lying_on_their_side(folder: Path) -> None:
    """Files that hold the image turned, and a note (EXIF) of how to turn it back."""
    draw_plain(folder)
    for split in ("train", "val"):
        for path in (folder / split / "images").iterdir():
            turned = Image.open(path).transpose(Image.Transpose.ROTATE_90)
            exif = turned.getexif()
            exif[0x0112] = 6  # turn it clockwise to see it upright
            turned.save(path, exif=exif)


def wide(folder: Path) -> None:
    make_shapes(folder / "train", 32, 1, size=(48, 112))
    make_shapes(folder / "val", 8, 2, size=(48, 112))


# Mappers


class NoExif(SeriatimMapper):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._read = lambda path, *_: np.asarray(Image.open(path).convert("RGB"))[:, :, ::-1]


class Blended(Changed):
    """Mixup of which only the pixels know."""

    def spoil(self, item, record):
        other = self.__dict__.get("last", item["image"])
        self.last = item["image"]
        if other.shape == item["image"].shape:
            item["image"] = item["image"] // 2 + other // 2


class QuartersInTheCorner(SeriatimMapper):
    """The boxes of a mosaic's quarters are left where they were in their own image."""

    def _mosaic(self, record):
        sample = super()._mosaic(record)
        corners = np.array([source.window[:2] for source in sample.sources])
        sample.objects.boxes -= np.tile(corners[sample.objects.source], 2)
        return sample


class DrawnOnce(SeriatimMapper):
    def __call__(self, record):
        state = np.random.get_state()
        np.random.seed(3)
        item = super().__call__(record)
        np.random.set_state(state)
        return item


class FadesInTheCache(SeriatimMapper):
    """An augmentation that works in place on what the cache keeps."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        kept, read = {}, self._read

        def faded(path, *how):
            image = kept.setdefault(path, np.array(read(path, *how)))
            if self.is_train:
                image[:] = image * 0.6
            return image

        self._read = faded


class InTestingAlone(SeriatimMapper):
    """A mapper whose result goes through `spoil(item)` in testing, and in testing alone."""

    def __call__(self, record):
        item = super().__call__(record)
        if not self.is_train:
            self.spoil(item)
        return item


class OtherChannelsInTesting(InTestingAlone):
    def spoil(self, item):
        item["image"] = item["image"].flip(0)


class DividedInTesting(InTestingAlone):
    def spoil(self, item):
        item["image"] = item["image"].float() / 255


class SmallerInTesting(InTestingAlone):
    """Half of the size at which the network was trained."""

    def spoil(self, item):
        image = torch.nn.functional.interpolate(item["image"][None].float(), scale_factor=0.5)
        item["image"] = image[0].byte()


# Transforms


class TurnsTheOtherWay(T.RotationTransform):
    def apply_coords(self, coords):
        opposite = T.RotationTransform(self.h, self.w, -self.angle, self.expand)
        return opposite.apply_coords(coords)


class TurnsTwoCorners(T.RotationTransform):
    def apply_box(self, box):
        corners = self.apply_coords(np.asarray(box).reshape(-1, 2)).reshape(-1, 2, 2)
        return np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)


class Turned(T.Augmentation):
    def __init__(self, transform, angle):
        self.transform, self.angle = transform, angle

    def get_transform(self, image):
        return self.transform(*image.shape[:2], self.angle)


# Evaluation


class RoundsToStrides(Spoilt):
    """Boxes are rounded before they are scaled from cells of 8 px to the image."""

    def spoil(self, instances, given):
        return _changed(instances, pred_boxes=Boxes((instances.pred_boxes.tensor / 8).round() * 8))


class CrowdsCount(CocoEvaluator):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        for annotation in self._truth.anns.values():
            annotation["iscrowd"] = 0
            annotation["ignore"] = 0


class MasksTransposed(Spoilt):
    """Masks are encoded row by row where the format goes column by column."""

    def spoil(self, instances, given):
        if not instances.has("pred_masks"):
            return instances
        return _changed(instances, pred_masks=instances.pred_masks.transpose(1, 2))


class KeepsTheWeakest(Spoilt):
    def spoil(self, instances, given):
        return instances[instances.scores.argsort()[: max(1, len(instances) // 3)]]


class EveryClassIsTheFirst(Spoilt):
    def spoil(self, instances, given):
        return _changed(instances, pred_classes=torch.zeros_like(instances.pred_classes))


BUGS = [
    Bug(
        "boxes relative to the image",
        "data",
        "YOLO's numbers of 0–1 were written where COCO has pixels.",
        ("data",),
        ("relative", "unit, order", "0–1", "normalised", "share of the image"),
        files=edited(with_boxes(lambda x, y, w, h: [x / 64, y / 64, w / 64, h / 64])),
    ),
    Bug(
        "labels of the next test image",
        "data",
        "In the test set alone images and annotations were paired one place off.",
        ("data",),
        ("other images",),
        files=edited(_next_test_image, "val"),
    ),
    Bug(
        "masks at half the size",
        "data",
        "The images and boxes were enlarged, the polygons were not.",
        ("data",),
        ("mask", "polygon"),
        kind="mask_rcnn",
        files=edited(_small_masks),
        seen=("dbolya/yolact#219",),
    ),
    Bug(
        "a class of crowds",
        "data",
        "A converter wrote a flag of its own as iscrowd: one class is never trained.",
        ("data",),
        ("crowd", "split left", "category"),
        files=edited(_circles_are_crowds),
        seen=("CondadosAI/modern-yolonas#53",),
    ),
    Bug(
        "a keypoint is never visible",
        "data",
        "The converter wrote 0 (not labelled) as the visibility of one keypoint of all objects.",
        ("data", "init", "oracle"),
        ("keypoint", "visib"),
        kind="keypoint_rcnn",
        files=edited(_top_never_visible),
        seen=("pytorch/vision#2125",),
    ),
    Bug(
        "orientation of photographs ignored",
        "mapping",
        "The mapper reads the pixels and not the EXIF tag that says how to turn them.",
        ("inputs",),
        ("EXIF", "orientation", "turned", "axes are swapped", "outside of its augmentations"),
        draw=lying_on_their_side,
        trainer=trainer_with(NoExif),
        seen=("facebookresearch/detectron2#262", "Peterande/D-FINE#308"),
    ),
    Bug(
        "two images blended, labels of one",
        "augmentation",
        "Mixup adds the pixels of another image, and forgets its objects.",
        ("inputs",),
        ("outside of its augmentations", "wrong image", "blend"),
        trainer=trainer_with(Blended),
        seen=("MultimediaTechLab/YOLO#105", "timeseriesAI/tsai#791"),
    ),
    Bug(
        "quarters of a mosaic not shifted",
        "augmentation",
        "Boxes of a mosaic stay where they were in their own quarter.",
        ("inputs",),
        ("not moved with the image", "mosaic"),
        base={"SERIATIM__AUG": AUGMENTED["SERIATIM__AUG"] | {"MOSAIC": 1.0}},
        trainer=trainer_with(QuartersInTheCorner),
    ),
    Bug(
        "augmentation drawn once",
        "augmentation",
        "The generator is seeded anew for every image: all get the same flip, scale and crop.",
        ("inputs",),
        ("seed",),
        base=AUGMENTED,
        trainer=trainer_with(DrawnOnce),
        seen=("dbolya/yolact#455",),
    ),
    Bug(
        "images fade in the cache",
        "augmentation",
        "An augmentation in place changes the cached image, darker each time it is read.",
        ("inputs",),
        ("outside of its augmentations", "in place", "cache"),
        trainer=trainer_with(FadesInTheCache),
        seen=("Megvii-BaseDetection/YOLOX#275",),
    ),
    Bug(
        "boxes turned the other way",
        "augmentation",
        "A rotation turns pixels counter-clockwise and coordinates clockwise.",
        ("inputs",),
        ("TurnsTheOtherWay",),
        trainer=augmented_by(Turned(TurnsTheOtherWay, 20)),
        seen=("facebookresearch/AugLy#199",),
    ),
    Bug(
        "two corners turned",
        "augmentation",
        "A rotation moves two corners of a box where it should move all four.",
        ("inputs",),
        ("TurnsTwoCorners", "boxes are not moved", "corner"),
        trainer=augmented_by(Turned(TurnsTwoCorners, 40)),
        seen=("aleju/imgaug#483", "FluxML/DataAugmentation.jl#94"),
    ),
    Bug(
        "channels reversed in testing",
        "mapping",
        "Training reads BGR, testing RGB.",
        ("inputs",),
        ("channels",),
        trainer=trainer_with(OtherChannelsInTesting),
        seen=(
            "shyam671/Mask2Anomaly-Unmasking-Anomalies-in-Road-Scene-Segmentation#6",
            "rodrigo2019/keras_yolo2#19",
        ),
    ),
    Bug(
        "divided by 255 in testing",
        "normalisation",
        "Pixels of 0–1 in testing, of 0–255 in training.",
        ("inputs",),
        ("255", "0–1"),
        trainer=trainer_with(DividedInTesting),
    ),
    Bug(
        "half the size in testing",
        "evaluation",
        "The mapper for testing shrinks the image to half of the size of training.",
        ("inputs",),
        ("size", "outside of its augmentations", "testing"),
        trainer=trainer_with(SmallerInTesting),
    ),
    Bug(
        "tested at four times the size",
        "evaluation",
        "MIN_SIZE_TEST is still that of another model: objects are four times as large.",
        ("inputs", "oracle"),
        ("MIN_SIZE_TEST", "scale"),
        changes={"INPUT__MIN_SIZE_TEST": 256},
    ),
    Bug(
        "detections below 0.7 are dropped",
        "evaluation",
        "The threshold for pictures is also that of the evaluation.",
        ("oracle", "init"),
        ("SCORE_THRESH",),
        changes={"MODEL__RETINANET__SCORE_THRESH_TEST": 0.7},
        seen=("xhzdeng/stela#10", "open-mmlab/mmdetection#6150"),
    ),
    Bug(
        "no detection is suppressed",
        "evaluation",
        "The IoU of NMS is 1: every object is found a dozen times.",
        ("oracle", "init"),
        ("NMS",),
        kind="task_aligned",
        changes={"MODEL__TASK_ALIGNED__NMS_THRESH_TEST": 1.0},
    ),
    Bug(
        "boxes rounded to cells",
        "evaluation",
        "Boxes are rounded to cells of 8 px before they are scaled to the image.",
        ("oracle",),
        ("round", "precision"),
        trainer=trainer_evaluated_by(RoundsToStrides),
        seen=("yhenon/keras-frcnn#152",),
    ),
    Bug(
        "crowds count as objects",
        "evaluation",
        "The evaluator takes a crowd region for an object that nobody finds.",
        ("oracle",),
        ("crowd",),
        trainer=trainer_evaluated_by(CrowdsCount),
        seen=("tensorflow/models#7378",),
    ),
    Bug(
        "masks transposed in the results",
        "evaluation",
        "Masks are encoded row by row where the format goes column by column.",
        ("oracle",),
        ("mask", "x and y"),
        kind="mask_rcnn",
        trainer=trainer_evaluated_by(MasksTransposed),
        seen=("cocodataset/cocoapi#91", "roboflow/supervision#2228"),
    ),
    Bug(
        "the weakest detections are kept",
        "evaluation",
        "Detections are sorted upwards, and the first third is kept.",
        ("oracle",),
        ("limit", "weakest", "score"),
        trainer=trainer_evaluated_by(KeepsTheWeakest),
    ),
    Bug(
        "every class is the first",
        "evaluation",
        "Detections lose their class on the way to the evaluator.",
        ("oracle",),
        ("class",),
        kind="faster_rcnn",
        trainer=trainer_evaluated_by(EveryClassIsTheFirst),
        seen=("matterport/Mask_RCNN#890",),
    ),
]
