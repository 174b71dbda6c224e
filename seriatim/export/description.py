"""What a model's file does not say: how images are prepared and answers chosen. export.json."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import msgspec
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.data import transforms as T
from torch import nn

from dataset_tools.errors import InputError
from dataset_tools.files import write_json
from seriatim.data.classification.augmentations import FitCrop
from seriatim.data.resize import ResizeShortestEdge
from seriatim.modeling.meta_arch.classifier import ImageClassifier
from seriatim.modeling.meta_arch.task_aligned import TaskAlignedDetector

FILE = "export.json"
FILES = {"onnx": "model.onnx", "openvino": "model.xml", "torchscript": "model.pt"}


@dataclass(frozen=True)
class Choice:
    """How detections are chosen from a detector's answers.

    Attributes:
        score: those below are dropped.
        candidates: so many of the best of each level go into NMS.
        nms: IoU above which the weaker of two boxes of one class is dropped.
        detections: most detections of an image.
        clip: boxes are cut to the image before NMS.
    """

    score: float
    candidates: int
    nms: float
    detections: int
    clip: bool


@dataclass(frozen=True)
class Description:
    """
    Attributes:
        format: "onnx", "openvino" or "torchscript".
        classes: their names, in order.
        colours: order of the channels, as INPUT.FORMAT.
        resize: the shorter and the longer side of the image, px, as INPUT.MIN_SIZE_TEST and
            MAX_SIZE_TEST; of a classifier height and width, () for as it is.
        share: of the shorter side that a classifier sees.
        padding: pixels of this colour fill up sides to multiples of `divisor`.
        choice: of detections; None for a classifier.
        top_k: classes that a classifier names.
    """

    format: str
    classes: tuple[str, ...]
    colours: str
    resize: tuple[int, ...]
    share: float
    padding: tuple[float, ...]
    divisor: int
    choice: Choice | None
    top_k: int

    @classmethod
    def of(cls, cfg: CfgNode, model: nn.Module, format: str) -> Description:
        """The description of a config's model."""
        labels = isinstance(model, ImageClassifier)
        size = (cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST)
        return cls(
            format=format,
            classes=_names(cfg, model.num_classes),
            colours=cfg.INPUT.FORMAT,
            resize=tuple(cfg.SERIATIM.CLASSIFICATION.SIZE) if labels else size,
            share=cfg.SERIATIM.CLASSIFICATION.TEST_SHARE if labels else 1.0,
            padding=tuple(cfg.MODEL.PIXEL_MEAN),
            divisor=1 if labels else max(1, model.backbone.size_divisibility),
            choice=None if labels else _choice(model),
            top_k=model.top_k if labels else 0,
        )

    @classmethod
    def read(cls, folder: Path) -> Description:
        """
        Raises:
            InputError: the folder holds no exported model.
        """
        path = folder / FILE
        if not path.is_file():
            raise InputError(
                f"{folder} holds no exported model: there is no {FILE} in it. Write one by"
                " python -m seriatim.export."
            )
        try:
            return msgspec.json.decode(path.read_bytes(), type=cls)
        except msgspec.DecodeError as error:
            raise InputError(f"{path} is not as seriatim.export writes it: {error}.") from None

    def write(self, folder: Path) -> None:
        write_json(folder / FILE, asdict(self))

    def augmentations(self) -> list[T.Augmentation]:
        """What is done to an image first, as in testing."""
        if self.choice is not None:
            return [ResizeShortestEdge(*self.resize, "choice")]
        return [FitCrop(self.resize, self.share)] if self.resize else []


def _choice(model: Any) -> Choice:
    return Choice(
        score=model.test_score_thresh,
        candidates=model.test_topk_candidates,
        nms=model.test_nms_thresh,
        detections=model.max_detections_per_image,
        clip=isinstance(model, TaskAlignedDetector),
    )


def _names(cfg: CfgNode, count: int) -> tuple[str, ...]:
    for name in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST):
        metadata = MetadataCatalog.get(name)
        if names := metadata.get("thing_classes"):
            return tuple(names)
    return tuple(map(str, range(count)))
