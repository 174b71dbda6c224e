"""Bugs between the file and the network: mapping, augmentation, channels, normalisation."""

from __future__ import annotations

import itertools

import numpy as np
import torch
from detectron2.data import transforms as T
from detectron2.structures import Boxes, BoxMode, PolygonMasks

from seriatim.data.mapper import SeriatimMapper
from seriatim.engine.trainer import Trainer
from tests.bug_zoo.registry import Bug
from tests.seriatim.gates.pipelines import trainer_that

AUGMENTED = {
    "SERIATIM__AUG": {
        "ENABLED": True,
        "SIZE": [64, 64],
        "SCALE": [0.8, 1.4],
        "VFLIP": 0.5,
        "BRIGHTNESS": 0.3,
    }
}
LITE0 = {
    "INPUT__FORMAT": "RGB",
    "MODEL__TIMM": {"NAME": "tf_efficientnet_lite0", "WEIGHTS": "package"},
    "MODEL__PIXEL_MEAN": [127.0] * 3,
    "MODEL__PIXEL_STD": [128.0] * 3,
}


def trainer_with(mapper: type[SeriatimMapper]) -> type[Trainer]:
    """A trainer whose mapper is of another class."""

    class Planted(Trainer):
        @classmethod
        def build_mapper(cls, cfg, is_train, **overrides):
            return mapper(cfg, is_train=is_train, **overrides)

    return Planted


def augmented_by(*augmentations: T.Augmentation) -> type[Trainer]:
    """A trainer that augments by these too, after its own."""

    class Planted(Trainer):
        @classmethod
        def build_mapper(cls, cfg, is_train, **overrides):
            mapper = super().build_mapper(cfg, is_train, **overrides)
            if is_train:
                mapper.augmentations = T.AugmentationList([mapper.augmentations, *augmentations])
            return mapper

    return Planted


class Changed(SeriatimMapper):
    """A mapper whose result goes through `spoil(item)`, in training."""

    def __call__(self, record):
        item = super().__call__(record)
        if self.is_train:
            self.spoil(item, record)
        return item


class OtherChannels(Changed):
    def spoil(self, item, record):
        item["image"] = item["image"].flip(0)


class MirrorsPixels(Changed):
    def spoil(self, item, record):
        item["image"] = item["image"].flip(2)


class UpsideDown(Changed):
    def spoil(self, item, record):
        item["image"] = item["image"].flip(1)


class Transposed(Changed):
    def spoil(self, item, record):
        item["image"] = item["image"].transpose(1, 2).contiguous()


class Shifted(Changed):
    def spoil(self, item, record):
        item["image"] = item["image"].roll(10, 2)


class Grey(Changed):
    def spoil(self, item, record):
        item["image"] = item["image"].float().mean(0, keepdim=True).byte().expand(3, -1, -1)


class Smaller(Changed):
    def spoil(self, item, record):
        image = item["image"][None].float()
        item["image"] = torch.nn.functional.interpolate(image, scale_factor=0.75)[0].byte()


class Divided(Changed):
    def spoil(self, item, record):
        item["image"] = item["image"].float() / 255


class NormalisedAlready(Changed):
    def spoil(self, item, record):
        item["image"] = (item["image"].float() - 116.0) / 57.0


class Remembers(SeriatimMapper):
    """The image of the first record is kept for all others."""

    def __call__(self, record):
        item = super().__call__(record)
        first = self.__dict__.setdefault("first", item["image"])
        if first.shape == item["image"].shape:
            item["image"] = first
        return item


class WidthsForCorners(Changed):
    def spoil(self, item, record):
        boxes = item["instances"].gt_boxes.tensor
        boxes[:, 2:] -= boxes[:, :2]


class NextClass(Changed):
    def spoil(self, item, record):
        item["instances"].gt_classes = (item["instances"].gt_classes + 1) % 3


class ClassesOfTheNeighbour(Changed):
    """A sort of the boxes that the classes do not go through."""

    def spoil(self, item, record):
        item["instances"].gt_classes = item["instances"].gt_classes.roll(1)


class BoxesStay(Changed):
    """Boxes are those of the file, whatever the augmentations did."""

    def spoil(self, item, record):
        truth = item["instances"]
        boxes = [
            BoxMode.convert(a["bbox"], a["bbox_mode"], BoxMode.XYXY_ABS)
            for a in record["annotations"]
            if not a.get("iscrowd")
        ]
        if len(truth) == len(boxes):
            truth.gt_boxes = Boxes(np.array(boxes, dtype=np.float32).reshape(-1, 4))


class MasksStay(Changed):
    def spoil(self, item, record):
        masks = [a["segmentation"] for a in record["annotations"] if not a.get("iscrowd")]
        if len(masks) == len(item["instances"]):
            item["instances"].gt_masks = PolygonMasks([[np.array(p) for p in m] for m in masks])


class SidesNotExchanged(SeriatimMapper):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        if self.keypoint_hflip_indices is not None:
            self.keypoint_hflip_indices = np.arange(len(self.keypoint_hflip_indices))


class LosesTheLast(Changed):
    def spoil(self, item, record):
        item["instances"] = item["instances"][: max(1, len(item["instances"]) - 1)]


class SeedsItself(SeriatimMapper):
    calls = 0

    def __call__(self, record):
        state = np.random.get_state()
        np.random.seed(self.calls % 2)
        self.calls += 1
        item = super().__call__(record)
        np.random.set_state(state)
        return item


class FlipsPixelsOnly(T.HFlipTransform):
    def apply_coords(self, coords):
        return coords


class Forgetful(T.Augmentation):
    def get_transform(self, image):
        return FlipsPixelsOnly(image.shape[1])


class OffByTheScale(T.ResizeTransform):
    """Divides where it should multiply."""

    def apply_coords(self, coords):
        coords[:, 0] *= self.w / self.new_w
        coords[:, 1] *= self.h / self.new_h
        return coords


class ScalesBoxesBack(T.Augmentation):
    def get_transform(self, image):
        h, w = image.shape[:2]
        return OffByTheScale(h, w, h * 3 // 2, w * 3 // 2, 2)


class WrapsAround(T.Transform):
    """uint8 arithmetic: what becomes brighter than 255 begins at 0 again."""

    def apply_image(self, img):
        return (img.astype(int) * 2).astype(np.uint8)

    def apply_coords(self, coords):
        return coords


class Brighter(T.Augmentation):
    def get_transform(self, image):
        return WrapsAround()


class SameBatch(Trainer):
    """A generator that is made anew for every batch: the first one comes for ever."""

    @classmethod
    def build_train_loader(cls, cfg, start_iteration=0):
        return itertools.repeat(next(iter(super().build_train_loader(cfg, start_iteration))))


def _swaps_channels(model):
    normal = model.preprocess_image

    def swapped(batch):
        return normal([{**item, "image": item["image"].flip(0)} for item in batch])

    model.preprocess_image = swapped


BUGS = [
    Bug(
        "channels reversed in the mapper",
        "mapping",
        "The mapper gives RGB where INPUT.FORMAT says BGR.",
        ("inputs",),
        ("channels",),
        trainer=trainer_with(OtherChannels),
        seen=("zhanghang1989/ResNeSt#61", "CondadosAI/modern-yolonas#7"),
    ),
    Bug(
        "channels reversed in the model",
        "model",
        "The model swaps channels before it normalises, as if the mapper gave the other order.",
        ("inputs",),
        ("channels",),
        trainer=trainer_that(_swaps_channels),
        seen=("jayleicn/ClipBERT#43",),
    ),
    Bug(
        "image mirrored, boxes not",
        "augmentation",
        "A flip of the tensor after the augmentations, of which the boxes know nothing.",
        ("inputs",),
        ("mirrored",),
        trainer=trainer_with(MirrorsPixels),
        seen=("KaihuaTang/Scene-Graph-Benchmark.pytorch#92",),
    ),
    Bug(
        "image upside down, boxes not",
        "augmentation",
        "A vertical flip of the tensor, of which the boxes know nothing.",
        ("inputs",),
        ("upside down",),
        trainer=trainer_with(UpsideDown),
        seen=("PaddlePaddle/PaddleX#1755",),
    ),
    Bug(
        "height and width transposed",
        "mapping",
        "The image is handed on as (C, W, H).",
        ("inputs",),
        ("swapped", "transposed", "outside of its augmentations"),
        trainer=trainer_with(Transposed),
    ),
    Bug(
        "image shifted by ten pixels",
        "mapping",
        "A crop whose offset never reaches the boxes.",
        ("inputs",),
        ("outside of its augmentations", "shifted"),
        trainer=trainer_with(Shifted),
    ),
    Bug(
        "colours lost",
        "mapping",
        "The image is reduced to grey and repeated three times.",
        ("inputs",),
        ("outside of its augmentations", "grey"),
        trainer=trainer_with(Grey),
    ),
    Bug(
        "image scaled, boxes not",
        "mapping",
        "The mapper shrinks the image after the boxes were made.",
        ("oracle", "inputs"),
        ("scale", "outside of its augmentations"),
        trainer=trainer_with(Smaller),
    ),
    Bug(
        "every record shows the first image",
        "mapping",
        "A variable of a closure or a cache without a key: all records get one image.",
        ("inputs",),
        ("outside of its augmentations", "wrong image"),
        trainer=trainer_with(Remembers),
    ),
    Bug(
        "widths for corners in the mapper",
        "mapping",
        "The mapper hands XYWH to a model that takes XYXY.",
        ("oracle",),
        ("XYWH",),
        trainer=trainer_with(WidthsForCorners),
        seen=("facebookresearch/detectron2#126",),
    ),
    Bug(
        "class numbers one too high in the mapper",
        "mapping",
        "Classes are counted from 1 as if there were a background class.",
        ("oracle",),
        ("class numbers",),
        trainer=trainer_with(NextClass),
        seen=("open-mmlab/mmdetection#2361",),
    ),
    Bug(
        "classes of the neighbour",
        "mapping",
        "Boxes are sorted, their classes are not.",
        ("oracle", "inputs"),
        ("class", "another image"),
        trainer=trainer_with(ClassesOfTheNeighbour),
    ),
    Bug(
        "boxes stay where the file has them",
        "augmentation",
        "The image is flipped, the boxes are not.",
        ("inputs",),
        ("not moved with the image",),
        base={"INPUT__RANDOM_FLIP": "vertical"},
        trainer=trainer_with(BoxesStay),
        seen=("KaihuaTang/Scene-Graph-Benchmark.pytorch#92",),
    ),
    Bug(
        "masks stay where the file has them",
        "augmentation",
        "Image and boxes are flipped, the masks are not.",
        ("inputs",),
        ("masks are not moved",),
        kind="mask_rcnn",
        base={"INPUT__RANDOM_FLIP": "horizontal"},
        trainer=trainer_with(MasksStay),
        seen=("tongtybj/TrTr#13",),
    ),
    Bug(
        "left and right keypoints not exchanged",
        "augmentation",
        "After a flip the left side is still called left.",
        ("inputs",),
        ("exchanged",),
        kind="keypoint_rcnn",
        trainer=trainer_with(SidesNotExchanged),
        seen=("ultralytics/ultralytics#14312",),
    ),
    Bug(
        "the last object of every image is lost",
        "mapping",
        "A slice that ends one too early.",
        ("oracle",),
        ("lost", "filters objects"),
        trainer=trainer_with(LosesTheLast),
    ),
    Bug(
        "workers draw the same random numbers",
        "augmentation",
        "NumPy's generator has the same seed in all workers.",
        ("inputs",),
        ("seed",),
        base=AUGMENTED,
        trainer=trainer_with(SeedsItself),
        seen=("pytorch/pytorch#5059", "xingyizhou/CenterNet#233", "open-mmlab/OpenPCDet#886"),
    ),
    Bug(
        "an augmentation that forgets coordinates",
        "augmentation",
        "A transform flips pixels and gives coordinates back as they were.",
        ("inputs",),
        ("FlipsPixelsOnly",),
        trainer=augmented_by(Forgetful()),
    ),
    Bug(
        "a resize that scales boxes the other way",
        "augmentation",
        "Coordinates are divided by the scale instead of multiplied.",
        ("inputs",),
        ("OffByTheScale",),
        trainer=augmented_by(ScalesBoxesBack()),
    ),
    Bug(
        "brightness that wraps around",
        "augmentation",
        "An augmentation in uint8 arithmetic: bright pixels become dark.",
        ("inputs",),
        ("wrap", "WrapsAround", "overflow"),
        trainer=augmented_by(Brighter()),
    ),
    Bug(
        "the loader repeats its first batch",
        "data",
        "An iterator is made anew for every batch.",
        ("inputs",),
        ("sampler repeats",),
        trainer=SameBatch,
        seen=("DeepRegNet/DeepReg#159", "pytorch/pytorch#31771"),
    ),
    Bug(
        "crops that miss the objects",
        "augmentation",
        "The range of scales was meant as a share and read as a factor.",
        ("inputs",),
        ("crops miss",),
        base=AUGMENTED,
        changes={"SERIATIM__AUG": AUGMENTED["SERIATIM__AUG"] | {"SCALE": [8.0, 12.0]}},
    ),
    Bug(
        "statistics of 0–1",
        "normalisation",
        "Means and deviations meant for pixels of 0–1, while pixels are 0–255.",
        ("inputs",),
        ("0–1",),
        changes={"MODEL__PIXEL_MEAN": [0.485] * 3, "MODEL__PIXEL_STD": [0.225] * 3},
        seen=("facebookresearch/Detectron#868",),
    ),
    Bug(
        "no normalisation",
        "normalisation",
        "Mean 0 and deviation 1: the network gets pixels of 0–255.",
        ("inputs",),
        ("0–255",),
        changes={"MODEL__PIXEL_MEAN": [0.0] * 3, "MODEL__PIXEL_STD": [1.0] * 3},
        seen=("neptune-ai/open-solution-mapping-challenge#77",),
    ),
    Bug(
        "divided by 255 in the mapper",
        "normalisation",
        "The mapper gives 0–1, the model normalises as for 0–255.",
        ("inputs",),
        ("255",),
        trainer=trainer_with(Divided),
    ),
    Bug(
        "normalised twice",
        "normalisation",
        "Once in the mapper, once in the model.",
        ("inputs",),
        ("twice", "outside of its augmentations"),
        trainer=trainer_with(NormalisedAlready),
        seen=("alankbi/detecto#16",),
    ),
    Bug(
        "statistics of another backbone",
        "normalisation",
        "Weights that were trained with 127 and 128 get ImageNet's usual mean and deviation.",
        ("inputs",),
        ("statistics of another backbone",),
        base=LITE0,
        changes={
            "MODEL__PIXEL_MEAN": [103.53, 116.28, 123.675],
            "MODEL__PIXEL_STD": [57.375, 57.12, 58.395],
        },
        seen=("open-mmlab/mmdetection#796", "facebookresearch/detectron2#1477"),
    ),
]
