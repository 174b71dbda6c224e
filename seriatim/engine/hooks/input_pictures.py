"""What a classifier gets, in TensorBoard."""

from __future__ import annotations

from typing import Any

import numpy as np
from detectron2.data import MetadataCatalog
from detectron2.data.detection_utils import convert_image_to_rgb
from detectron2.engine import HookBase
from detectron2.utils import comm


class InputPictures(HookBase):
    """Put the first images of a training batch, as the classifier gets them, into TensorBoard with
    their labels: of the first step and of every `period`th one. It runs in process 0.

    Args:
        dataset: a registered one, for the names of classes.
        image_format: INPUT.FORMAT.
    """

    COUNT = 16  # images with a label, and as many without one

    def __init__(self, period: int, dataset: str, image_format: str) -> None:
        self._period, self._dataset, self._format = period, dataset, image_format

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        first = done == self.trainer.start_iter + 1
        if comm.is_main_process() and (first or done % self._period == 0):
            batch = self.trainer.train_step.seen[0][0]
            picture = self._draw(batch)
            self.trainer.storage.put_image(
                "inputs", np.ascontiguousarray(picture.transpose(2, 0, 1))
            )

    def _draw(self, batch: list[dict[str, Any]]) -> np.ndarray:
        from seriatim.visualization.classification import grid, label_name

        names = MetadataCatalog.get(self._dataset).thing_classes
        labelled = [item for item in batch if item["label"] >= 0][: self.COUNT]
        others = [item for item in batch if item["label"] < 0][: self.COUNT]
        images, lines = [], []
        for item in [*labelled, *others]:
            views = [item["image"], *item.get("views", ())]
            for number, view in enumerate(views):
                images.append(convert_image_to_rgb(view.permute(1, 2, 0), self._format))
                label = label_name(item["label"], names)
                lines.append([f"{label}, view {number}" if number else label])
        return grid([image.astype(np.uint8) for image in images], lines)
