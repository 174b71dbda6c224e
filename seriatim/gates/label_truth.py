"""The labels of every pixel as a perfect model would predict them, and what they should score."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from detectron2.modeling.postprocessing import sem_seg_postprocess
from torch import Tensor
from torch.nn import functional as F

from seriatim.data.image import read_labels
from seriatim.gates.context import Record

IGNORED = 255


class LabelTruth:
    """True labels of images, at the size that the mapper gives them.

    Args:
        records: with a sem_seg_file_name.
        mapped: of each record the mapper's "sem_seg" (H, W); None takes the file's own labels.
        classes: how many there are.
    """

    def __init__(
        self, records: Sequence[Record], mapped: Sequence[Tensor | None], classes: int
    ) -> None:
        self._records, self._classes = records, classes
        self._mapped = [None if labels is None else labels.to(torch.uint8) for labels in mapped]

    def predicted(self, number: int, shift: int = 0) -> Tensor:
        """(C, H, W) scores of an image at its size on disk, after the model's postprocessing.

        `shift` is added to every class: a mistake.
        """
        labels, file = self._mapped[number], self._file(number)
        labels = torch.as_tensor(file) if labels is None else labels
        scores = self._scores(labels.long(), shift)
        return sem_seg_postprocess(scores, tuple(labels.shape), *file.shape)

    def expected(self) -> float:
        """The mIoU of the predictions, from the files alone: OpenCV scales, NumPy counts."""
        confusion = np.zeros((self._classes, self._classes))
        for number, mapped in enumerate(self._mapped):
            file = self._file(number)
            height, width = file.shape if mapped is None else mapped.shape
            small = cv2.resize(file, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
            scores = self._scores(torch.as_tensor(small).long())[None]
            scores = F.interpolate(scores, file.shape, mode="bilinear", align_corners=False)
            found, known = scores[0].argmax(0).numpy(), file != IGNORED
            np.add.at(confusion, (found[known], file[known]), 1)
        hits, present = np.diagonal(confusion), confusion.sum(0) > 0
        union = confusion.sum(0) + confusion.sum(1) - hits
        return float(100 * (hits[present] / union[present]).mean()) if present.any() else np.nan

    def _file(self, number: int) -> np.ndarray:
        labels = read_labels(self._records[number]["sem_seg_file_name"])
        return labels if labels.ndim == 2 else labels[:, :, 0]

    def _scores(self, labels: Tensor, shift: int = 0) -> Tensor:
        """(C, H, W), 1 at the label of each pixel; nothing where it is ignored."""
        shifted = torch.where(labels < self._classes, (labels + shift) % self._classes, labels)
        one_hot = F.one_hot(shifted.clamp(max=self._classes), self._classes + 1)
        return one_hot[:, :, : self._classes].permute(2, 0, 1).float()
