"""COCO's evaluation on Detectron2's conventions: boxes (rotated ones too), masks, keypoints."""

from __future__ import annotations

import json
import logging
import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.structures import Instances
from detectron2.utils import comm
from tabulate import tabulate

from dataset_tools.errors import InputError
from dataset_tools.rotated import with_rotated_boxes
from seriatim.evaluation.coco_scores import Scores, can_score, ground_truth, score_detections
from seriatim.evaluation.spool import Spool

logger = logging.getLogger(__name__)

RESULTS_FILE = "coco_instances_results.json"


class CocoEvaluator(DatasetEvaluator):
    """COCO's AP and AR with any limit of detections per image, also per category.

    The result is as Detectron2's COCOEvaluator gives it: `{"bbox": {"AP": …, "AP50": …, "AP-cat":
    …}, "segm": …, "keypoints": …}` in percent, NaN where nothing can be said. It adds the recalls
    (AR1, AR10, AR, ARs, ARm, ARl). Until the end detections wait on disk.
    """

    def __init__(
        self,
        dataset_name: str,
        output_dir: str | Path | None = None,
        *,
        tasks: Sequence[str] | None = None,
        max_detections: int = 100,
        keypoint_sigmas: Sequence[float] = (),
        distributed: bool = True,
    ):
        """
        Args:
            dataset_name: registered, with `json_file` in its metadata.
            output_dir: detections are written there as coco_instances_results.json.
            tasks: of "bbox", "segm", "keypoints"; None takes what the model's outputs have.
            max_detections: so many per image and category count.
            keypoint_sigmas: see `score_detections`.
            distributed: gather the detections of all processes; the first one evaluates.
        """
        self._metadata = MetadataCatalog.get(dataset_name)
        self._output_dir = Path(output_dir) if output_dir else None
        self._tasks = tasks
        self._max_detections = max_detections
        self._keypoint_sigmas = keypoint_sigmas
        self._distributed = distributed
        dataset = _read_json(dataset_name, self._metadata, self._output_dir)
        self._truth = ground_truth(dataset)
        # A test set without annotations has its detections written and nothing measured.
        self._has_annotations = "annotations" in dataset
        to_contiguous = self._metadata.get("thing_dataset_id_to_contiguous_id") or {
            category: i for i, category in enumerate(sorted(self._truth.cats))
        }
        self._category_ids = {contiguous: own for own, contiguous in to_contiguous.items()}
        self.reset()

    def reset(self) -> None:
        self._spool = Spool(self._output_dir)
        self._seen_tasks: set[str] = set()
        self._not_finite = 0

    def process(
        self, inputs: Sequence[Mapping[str, Any]], outputs: Sequence[Mapping[str, Any]]
    ) -> None:
        for given, output in zip(inputs, outputs, strict=True):
            if "instances" not in output:
                continue
            instances = output["instances"].to("cpu")
            detections = to_coco_results(instances, given["image_id"], self._category_ids)
            self._not_finite += len(instances) - len(detections)
            self._spool.add(detections)
            self._seen_tasks |= _tasks_of(instances)

    def evaluate(self) -> OrderedDict[str, dict[str, float]]:
        seen, dropped = self._gathered()
        if not comm.is_main_process() and self._distributed:
            return OrderedDict()
        if dropped:
            logger.warning("%d detections with a NaN or infinite number are left out.", dropped)
        if self._output_dir:
            self._spool.write(self._output_dir / RESULTS_FILE)
        results: OrderedDict[str, dict[str, float]] = OrderedDict()
        if not self._has_annotations:
            logger.info(
                "The dataset has no annotations: detections are written, nothing is measured."
            )
            return results
        for task in self._tasks or sorted(seen) or ["bbox"]:
            if self._truth.anns and not can_score(self._truth, task):
                logger.warning("The annotations have nothing to measure %s by: skipped.", task)
                continue
            scores = score_detections(
                self._truth,
                self._spool,
                task,
                max_detections=self._max_detections,
                keypoint_sigmas=self._keypoint_sigmas,
            )
            logger.info("%s", _report(task, scores, self._max_detections))
            results[task] = scores.overall
            if len(scores.categories) > 1:
                results[task].update({f"AP-{c.name}": c.ap for c in scores.categories})
        return results

    def _gathered(self) -> tuple[set[str], int]:
        """The tasks seen and the number of detections left out, over all processes; what they have
        found is in the first one's spool then."""
        mine = (self._seen_tasks, self._not_finite)
        if not self._distributed or comm.get_world_size() == 1:
            return mine
        comm.synchronize()
        self._spool.gather()
        parts = comm.gather(mine, dst=0) or [mine]
        return set().union(*(p[0] for p in parts)), sum(p[1] for p in parts)


def _read_json(name: str, metadata: Any, output_dir: Path | None) -> dict[str, Any]:
    json_file = metadata.get("json_file")
    if json_file is None:
        if output_dir is None:
            raise InputError(
                f"Dataset {name} has no COCO JSON in its metadata; to evaluate on it, give the"
                " evaluator an output folder in which it can write one."
            )
        from detectron2.data.datasets import convert_to_coco_json

        json_file = output_dir / f"{name}_coco_format.json"
        convert_to_coco_json(name, str(json_file), allow_cached=False)
    content = json.loads(Path(json_file).read_text(encoding="utf-8"))
    return with_rotated_boxes(content) if metadata.get("boxes_are_rbox") else content


def _tasks_of(instances: Instances) -> set[str]:
    tasks = {"bbox"}
    if instances.has("pred_masks"):
        tasks.add("segm")
    if instances.has("pred_keypoints"):
        tasks.add("keypoints")
    return tasks


def to_coco_results(
    instances: Instances, image_id: int, category_ids: Mapping[int, int] | None = None
) -> list[dict[str, Any]]:
    """`Instances` on the CPU in COCO's results format; those with NaN or infinity are left out.

    Boxes become XYWH, rotated ones stay (centre x, y, width, height, degrees); masks become
    compressed run lengths; keypoints, which Detectron2 has at pixel centres, go back to COCO's
    pixel indices. `category_ids` maps contiguous class numbers to the dataset's.
    """
    boxes = instances.pred_boxes.tensor.detach().double().numpy().copy()
    scores = instances.scores.detach().double().numpy()
    if boxes.shape[1] == 4:
        boxes[:, 2:] -= boxes[:, :2]
    finite = np.isfinite(boxes).all(1) & np.isfinite(scores)
    keypoints = None
    if instances.has("pred_keypoints"):
        keypoints = instances.pred_keypoints.detach().double().numpy().copy()
        keypoints[:, :, :2] -= 0.5
        finite &= np.isfinite(keypoints).all((1, 2))
    results = []
    for i in finite.nonzero()[0]:
        category = int(instances.pred_classes[i])
        result = {
            "image_id": image_id,
            "category_id": category_ids[category] if category_ids else category,
            "bbox": boxes[i].tolist(),
            "score": float(scores[i]),
        }
        if instances.has("pred_masks"):
            result["segmentation"] = encode_mask(instances.pred_masks[i].detach().numpy())
        if keypoints is not None:
            result["keypoints"] = keypoints[i].ravel().tolist()
        results.append(result)
    return results


def encode_mask(mask: np.ndarray) -> dict[str, Any]:
    """(H, W) bool as COCO's compressed run lengths with text counts, fit for JSON."""
    from faster_coco_eval.core import mask as rle

    runs = rle.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": [int(s) for s in runs["size"]], "counts": runs["counts"].decode("ascii")}


def _report(task: str, scores: Scores, max_detections: int) -> str:
    overall = ", ".join(f"{name} {_percent(value)}" for name, value in scores.overall.items())
    limit = 20 if task == "keypoints" else max_detections
    rows = [
        (c.name, c.images, c.objects, _percent(c.ap), _percent(c.ap50), _percent(c.recall))
        for c in scores.categories
    ]
    table = tabulate(
        rows,
        headers=("category", "images", "objects", "AP", "AP50", "AR"),
        colalign=("left", *["right"] * 5),
        disable_numparse=True,
    )
    return (
        f"{task} in percent, at most {limit} detections per image and category: {overall}\n{table}"
    )


def _percent(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.1f}"
