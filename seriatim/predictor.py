"""One image in, the model's answer out: for scripts, pictures and notebooks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.data import transforms as T
from detectron2.modeling import build_model
from torch import nn

from seriatim.data.build import fixed_augmentations
from seriatim.data.image import full_size, read_image, record_image
from seriatim.data.resize import reduction_of
from seriatim.engine.checkpointer import load_evaluated_weights
from seriatim.engine.run import weights_to_evaluate
from seriatim.evaluation.tiled import wrap_tiled
from seriatim.visualization.image import to_rgb8

Model = Callable[[list[dict[str, Any]]], list[dict[str, Any]]]


class ImagePredictor:
    """Any model that takes and gives Detectron2's lists of dicts, for single images.

    Images of any depth are taken, in RGB order or from files.
    """

    def __init__(
        self, model: Model, image_format: str, augmentations: Sequence[T.Augmentation]
    ) -> None:
        """
        Args:
            model: in evaluation mode.
            image_format: order of the channels that it takes, as INPUT.FORMAT.
            augmentations: done to each image first.
        """
        self.model = model
        self.image_format = image_format
        self._augmentations = T.AugmentationList(augmentations)

    def __call__(self, image: np.ndarray) -> dict[str, Any]:
        """The model's output for `image`, (H, W[, C]) of any number type, grey or RGB, on the CPU.

        "instances", "sem_seg" and "panoptic_seg" are in px of `image`, as in Detectron2.
        """
        image = to_rgb8(image)
        if self.image_format == "L":
            image = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[:, :, None]
        elif self.image_format == "BGR":
            image = image[:, :, ::-1]
        return self._predict(image)

    def predict_file(self, path: str | Path) -> dict[str, Any]:
        """The model's output for an image file, read as in training, EXIF orientation too."""
        reduction = reduction_of(self._augmentations)
        return self._predict(read_image(path, self.image_format, reduction))

    def predict_record(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """The model's output for the image of a record, which is a file or its `pixels`."""
        return self._predict(record_image(record, self.image_format))

    def _predict(self, image: np.ndarray) -> dict[str, Any]:
        """`image` is (H, W, C) uint8 in the order of INPUT.FORMAT."""
        height, width = full_size(image)
        augmented = T.AugInput(image)
        self._augmentations(augmented)
        pixels = np.array(augmented.image.transpose(2, 0, 1), order="C")
        given = {"image": torch.from_numpy(pixels), "height": height, "width": width}
        with torch.inference_mode():
            output = self.model([given])[0]
        return {key: _to_cpu(value) for key, value in output.items()}


class Predictor(ImagePredictor):
    """The model of a config with its weights, for single images.

    As DefaultPredictor of Detectron2, but checkpoints are read as data only, averaged weights are
    taken where there are any, large images go by tiles where SERIATIM.EVAL.TILE says so, and images
    of any depth are taken, in RGB order.

    Attributes:
        metadata: of the config's first dataset, for names and colours; None without one.
        weights: the file that the weights came from.

    Example:
        predictor = Predictor(setup(args))
        found = predictor.predict_file("cells.jpg")["instances"]
    """

    def __init__(self, cfg: CfgNode, weights: str | Path | None = None) -> None:
        """
        Args:
            cfg: resolved, as `seriatim.engine.setup.setup` gives it.
            weights: default MODEL.WEIGHTS, or what training left in OUTPUT_DIR.

        Raises:
            InputError: there are no weights, or they are not this model's.
        """
        self.cfg = cfg
        model, self.weights = load_model(cfg, weights)
        names = [*cfg.DATASETS.TEST, *cfg.DATASETS.TRAIN]
        self.metadata = MetadataCatalog.get(names[0]) if names else None
        super().__init__(wrap_tiled(cfg, model), cfg.INPUT.FORMAT, fixed_augmentations(cfg))


def load_model(cfg: CfgNode, weights: str | Path | None = None) -> tuple[nn.Module, Path]:
    """The model of a resolved config in evaluation mode, and the file that its weights came from.

    Args:
        weights: default MODEL.WEIGHTS, or what training left in OUTPUT_DIR.

    Raises:
        InputError: there are no weights, or they are not this model's.
    """
    import seriatim.modeling  # noqa: F401 (registers our architectures and backbones)

    path = Path(weights or weights_to_evaluate(cfg, resume=False))
    model = build_model(cfg.clone())
    load_evaluated_weights(model, path)
    return model.eval(), path


def _to_cpu(value: Any) -> Any:
    if isinstance(value, tuple):  # panoptic: the map and what its numbers mean
        return tuple(_to_cpu(v) for v in value)
    return value.to("cpu") if hasattr(value, "to") else value
