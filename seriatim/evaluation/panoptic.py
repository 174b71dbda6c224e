"""Evaluation of panoptic segmentation."""

from __future__ import annotations

import json
import logging
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from PIL import Image

from dataset_tools.errors import InputError
from seriatim.evaluation.panoptic_quality import Counts, count_segments

logger = logging.getLogger(__name__)


class PanopticEvaluator(DatasetEvaluator):
    """Panoptic quality of a model's `panoptic_seg`, against a panoptic COCO file and its PNGs.

    The result is `{"panoptic_seg": {"PQ", "SQ", "RQ", "PQ_th", …, "RQ_st"}}` in percent, over all
    categories, things (`_th`) and stuff (`_st`). Images that are not processed do not count.
    """

    def __init__(self, dataset_name: str, distributed: bool = True) -> None:
        metadata = MetadataCatalog.get(dataset_name)
        self._name, self._distributed = dataset_name, distributed
        self._root = Path(metadata.panoptic_root)
        self._divisor = metadata.get("label_divisor", 1000)
        self._things = _reversed(metadata.thing_dataset_id_to_contiguous_id)
        self._stuff = _reversed(metadata.stuff_dataset_id_to_contiguous_id)
        content = json.loads(Path(metadata.panoptic_json).read_text(encoding="utf-8"))
        self._truth = {a["image_id"]: a for a in content["annotations"]}
        self._categories = {c["id"]: bool(c.get("isthing", 1)) for c in content["categories"]}
        self.reset()

    def reset(self) -> None:
        self._counts = Counts()

    def process(
        self, inputs: Sequence[Mapping[str, Any]], outputs: Sequence[Mapping[str, Any]]
    ) -> None:
        for given, output in zip(inputs, outputs, strict=True):
            found, segments = output["panoptic_seg"]
            found = found.cpu().numpy()
            categories = self._categories_of(found, segments)
            truth, annotation = self._truth_of(given["image_id"])
            if truth.shape != found.shape:
                raise InputError(
                    f"{self._name}: the panoptic PNG of image {given['image_id']} has"
                    f" {truth.shape[1]} × {truth.shape[0]} px, its prediction"
                    f" {found.shape[1]} × {found.shape[0]}."
                )
            true = {s["id"]: s["category_id"] for s in annotation["segments_info"]}
            crowds = frozenset(s["id"] for s in annotation["segments_info"] if s.get("iscrowd"))
            self._counts.add(count_segments(truth, true, found, categories, crowds))

    def evaluate(self) -> OrderedDict[str, dict[str, float]] | None:
        counts = self._counts
        if self._distributed:
            comm.synchronize()
            gathered = comm.gather(counts)
            if not comm.is_main_process():
                return None
            counts = Counts()
            for part in gathered:
                counts.add(part)
        result = counts.mean(self._categories)
        for suffix, things in (("_th", True), ("_st", False)):
            chosen = [c for c, isthing in self._categories.items() if isthing == things]
            result |= {name + suffix: v for name, v in counts.mean(chosen).items()}
        told = ", ".join(f"{name} {value:.2f}" for name, value in result.items())
        logger.info(f"{self._name}: {told}")
        return OrderedDict(panoptic_seg=result)

    def _categories_of(
        self, found: np.ndarray, segments: Sequence[Mapping[str, Any]] | None
    ) -> dict[int, int]:
        """Number of a predicted segment → the dataset's category. Without `segments` a pixel is
        class · label_divisor + instance, as Panoptic-DeepLab has it, and -1 nothing."""
        if segments is None:
            numbers = [int(number) for number in np.unique(found) if number >= 0]
            joint = self._stuff | self._things
            return {n: joint[n // self._divisor] for n in numbers}
        return {
            s["id"]: (self._things if s["isthing"] else self._stuff)[s["category_id"]]
            if "isthing" in s
            else s["category_id"]
            for s in segments
        }

    def _truth_of(self, image_id: Any) -> tuple[np.ndarray, dict[str, Any]]:
        annotation = self._truth[image_id]
        with Image.open(self._root / annotation["file_name"]) as picture:
            colours = np.asarray(picture.convert("RGB"), dtype=np.int64)
        return colours @ np.array([1, 256, 65536]), annotation


def _reversed(numbers: Mapping[int, int]) -> dict[int, int]:
    return {contiguous: own for own, contiguous in numbers.items()}
