"""What the model sees, in TensorBoard."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.engine import HookBase
from detectron2.utils import comm

from seriatim.data.image import record_image
from seriatim.engine.state import preserve_rng

MAX_SIDE = 800  # px of each picture that goes to TensorBoard


class Pictures(HookBase):
    """Put ground truth | prediction of the same few images into TensorBoard, again and again.

    The images are spread evenly over the dataset. It runs in process 0.

    Args:
        period: steps between two sets of pictures (also after the last step).
        dataset: a registered dataset.
        count: images.
        mapper: a record of the dataset → the model's input for inference.
        predict: one input → the model's output for it.
    """

    def __init__(
        self,
        period: int,
        dataset: str,
        count: int,
        mapper: Callable[[dict[str, Any]], dict[str, Any]],
        predict: Callable[[dict[str, Any]], dict[str, Any]],
    ) -> None:
        self._period, self._dataset, self._count = period, dataset, count
        self._mapper, self._predict = mapper, predict
        self._records: list[dict[str, Any]] | None = None

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        if comm.is_main_process() and (done % self._period == 0 or done >= self.trainer.max_iter):
            with preserve_rng(), torch.no_grad():
                for record in self._choose():
                    picture = self._draw(record)
                    name = f"predictions/{Path(record['file_name']).stem}"
                    self.trainer.storage.put_image(
                        name, np.ascontiguousarray(picture.transpose(2, 0, 1))
                    )

    def _choose(self) -> list[dict[str, Any]]:
        if self._records is None:
            records = DatasetCatalog.get(self._dataset)
            picks = np.linspace(0, len(records) - 1, min(self._count, len(records)))
            self._records = [records[round(i)] for i in picks]
        return self._records

    def _draw(self, record: dict[str, Any]) -> np.ndarray:
        """uint8 RGB (H, W, 3)."""
        from seriatim.visualization.classification import best_classes, grid, label_name
        from seriatim.visualization.draw import draw_ground_truth, draw_predictions

        image = record_image(record, "RGB")
        metadata = MetadataCatalog.get(self._dataset)
        output = _to_cpu(self._predict(self._mapper(dict(record))))
        if "label" in record:
            names = metadata.thing_classes
            lines = [f"true: {label_name(record['label'], names)}", *best_classes(output, names)]
            return grid([image], [lines])
        scale = min(1.0, MAX_SIDE / max(image.shape[:2]))
        truth = draw_ground_truth(image, record.get("annotations", []), metadata, scale=scale)
        prediction = draw_predictions(image, output, metadata, scale=scale)
        gap = np.full((truth.shape[0], 4, 3), 255, np.uint8)
        return np.concatenate([truth, gap, prediction], axis=1)


def _to_cpu(output: dict[str, Any]) -> dict[str, Any]:
    return {k: v.to("cpu") if hasattr(v, "to") else v for k, v in output.items()}
