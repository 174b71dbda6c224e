"""Bugs of the evaluation: what is trained is right, what is measured is not."""

from __future__ import annotations

import itertools

from detectron2.structures import Boxes, Instances

from seriatim.data.mapper import SeriatimMapper
from seriatim.engine.trainer import Trainer
from seriatim.evaluation.coco import CocoEvaluator
from tests.bug_zoo.bugs_inputs import AUGMENTED, trainer_with
from tests.bug_zoo.registry import Bug


class LosesSmallOnes(SeriatimMapper):
    def __call__(self, record):
        item = super().__call__(record)
        if "instances" in item:
            item["instances"] = item["instances"][item["instances"].gt_boxes.area() > 200]
        return item


def trainer_evaluated_by(evaluator: type[CocoEvaluator]) -> type[Trainer]:
    """A trainer with an evaluator of another class."""

    class Planted(Trainer):
        @classmethod
        def build_evaluator(cls, cfg, dataset_name):
            return evaluator(dataset_name, cfg.OUTPUT_DIR)

    return Planted


class Spoilt(CocoEvaluator):
    """An evaluator that takes detections through `spoil(instances, input)`."""

    def process(self, inputs, outputs):
        pairs = zip(inputs, outputs, strict=True)
        spoilt = [{"instances": self.spoil(o["instances"].to("cpu"), i)} for i, o in pairs]
        super().process(inputs, spoilt)


def _changed(instances: Instances, **fields) -> Instances:
    return Instances(instances.image_size, **{**instances.get_fields(), **fields})


class ScalesAgain(Spoilt):
    def spoil(self, instances, given):
        return _changed(instances, pred_boxes=Boxes(instances.pred_boxes.tensor * 64 / 96))


class ClassesFromOne(Spoilt):
    def spoil(self, instances, given):
        return _changed(instances, pred_classes=(instances.pred_classes + 1) % 3)


class CornersAsWidths(Spoilt):
    def spoil(self, instances, given):
        boxes = instances.pred_boxes.tensor.clone()
        boxes[:, 2:] += boxes[:, :2]  # as if they were XYWH, and turned into corners once more
        return _changed(instances, pred_boxes=Boxes(boxes))


class AxesSwapped(Spoilt):
    def spoil(self, instances, given):
        return _changed(instances, pred_boxes=Boxes(instances.pred_boxes.tensor[:, [1, 0, 3, 2]]))


class OnlyTheBest(Spoilt):
    def spoil(self, instances, given):
        return instances[:1]


class NeverForgets(CocoEvaluator):
    """`reset` does not reset: detections of all evaluations pile up."""

    def reset(self):
        if not hasattr(self, "_spool"):
            super().reset()


class AnyClassWillDo(CocoEvaluator):
    """Classes are not compared."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        first = min(self._truth.cats)
        for annotation in self._truth.anns.values():
            annotation["category_id"] = first
        self._truth.createIndex()
        self._category_ids = dict.fromkeys(self._category_ids, first)


class OldResults(CocoEvaluator):
    """The results of the first evaluation are cached and given for ever."""

    def evaluate(self):
        self.__dict__.setdefault("old", super().evaluate())
        return self.old


class ImagesOneApart(Spoilt):
    def process(self, inputs, outputs):
        moved = [{**given, "image_id": given["image_id"] % 8 + 1} for given in inputs]
        CocoEvaluator.process(self, moved, outputs)


class OtherFile(Trainer):
    @classmethod
    def build_evaluator(cls, cfg, dataset_name):
        return CocoEvaluator(cfg.DATASETS.TRAIN[0], cfg.OUTPUT_DIR)


class AugmentsInTesting(Trainer):
    @classmethod
    def build_test_loader(cls, cfg, dataset_name):
        from seriatim.data.augmentations import build_augmentations
        from seriatim.data.loader import build_test_loader

        mapper = cls.build_mapper(
            cfg, is_train=False, augmentations=build_augmentations(cfg, is_train=True)
        )
        return build_test_loader(cfg, dataset_name, mapper=mapper)


class HalfOfTheImages(Trainer):
    @classmethod
    def build_test_loader(cls, cfg, dataset_name):
        loader = super().build_test_loader(cfg, dataset_name)
        return list(itertools.islice(loader, len(loader) // 2))


def _evaluator(name: str, what: str, evaluator: type, *causes: str, **kwargs) -> Bug:
    trainer = trainer_evaluated_by(evaluator)
    return Bug(name, "evaluation", what, ("oracle",), causes, trainer=trainer, **kwargs)


BUGS = [
    Bug(
        "small objects are filtered in training only",
        "evaluation",
        "The mapper drops small objects, which the evaluation counts.",
        ("oracle",),
        ("lost", "filters objects"),
        trainer=trainer_with(LosesSmallOnes),
    ),
    _evaluator(
        "boxes scaled back twice",
        "The model scales boxes to the image, and the evaluator does so once more.",
        ScalesAgain,
        "scaled back twice",
        base={"INPUT__MIN_SIZE_TEST": 96, "INPUT__MIN_SIZE_TRAIN": [96]},
        seen=("Megvii-BaseDetection/YOLOX#1569",),
    ),
    _evaluator(
        "evaluator counts classes from 1",
        "Class numbers are written without the map back to the dataset's ids.",
        ClassesFromOne,
        "class numbers",
        seen=("open-mmlab/mmdetection#474",),
    ),
    _evaluator(
        "evaluator takes corners for widths",
        "Boxes are converted once too often on the way to COCO's format.",
        CornersAsWidths,
        "XYWH as XYXY",
    ),
    _evaluator(
        "evaluator swaps x and y",
        "Rows and columns are exchanged on the way to COCO's format.",
        AxesSwapped,
        "x and y swapped",
    ),
    _evaluator(
        "only the best detection counts",
        "The limit of detections per image is that of a test.",
        OnlyTheBest,
        "limit",
        "detections",
        seen=("facebookresearch/detectron2#3359", "open-mmlab/mmdetection#10951"),
    ),
    _evaluator(
        "evaluator never forgets",
        "The detections of earlier evaluations are counted again.",
        NeverForgets,
        "reset",
        "earlier",
    ),
    _evaluator(
        "evaluator does not compare classes",
        "All categories are evaluated as one.",
        AnyClassWillDo,
        "does not look",
    ),
    _evaluator(
        "evaluator repeats its first result",
        "The result is cached without a key.",
        OldResults,
        "does not look",
        "cached",
    ),
    _evaluator(
        "detections belong to the next image",
        "Image ids are counted from 1 in one place and from 0 in another.",
        ImagesOneApart,
        "image",
        seen=("voxel51/fiftyone#1541",),
    ),
    Bug(
        "evaluated against the training file",
        "evaluation",
        "The evaluator reads the annotations of another dataset.",
        ("oracle",),
        ("another file",),
        trainer=OtherFile,
    ),
    Bug(
        "augmentation in testing",
        "evaluation",
        "Test images are scaled and flipped at random.",
        ("oracle", "inputs", "repeat"),
        ("augment", "random"),
        base=AUGMENTED,
        trainer=AugmentsInTesting,
    ),
    Bug(
        "half of the test images",
        "evaluation",
        "The loader ends early; objects of the images that never come count as missed.",
        ("oracle",),
        ("test loader", "build_test_loader"),
        trainer=HalfOfTheImages,
    ),
    Bug(
        "two detections an image",
        "evaluation",
        "TEST.DETECTIONS_PER_IMAGE was left at a value for a test.",
        ("oracle",),
        ("DETECTIONS_PER_IMAGE",),
        changes={"TEST__DETECTIONS_PER_IMAGE": 2},
        seen=("facebookresearch/detectron2#3359",),
    ),
]
