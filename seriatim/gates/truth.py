"""Ground truth as a perfect model would predict it, and what the evaluator makes of it."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from detectron2.data import MetadataCatalog
from detectron2.modeling.meta_arch.panoptic_fpn import combine_semantic_and_instance_outputs
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import Boxes, BoxMode, Instances, RotatedBoxes

from dataset_tools.coco import read_json
from seriatim.data.image import read_labels
from seriatim.data.loader import seeded
from seriatim.evaluation.panoptic_quality import Counts, count_segments
from seriatim.gates.context import Context, Record, is_upright, objects_of
from seriatim.gates.direct import direct_ap, pasted_mask
from seriatim.gates.faults import FAULTS, Fault, without
from seriatim.gates.label_truth import LabelTruth
from seriatim.gates.quiet import quiet
from seriatim.gates.verdict import Cause

MOST_MAPPED = 200  # images that go through the mapper; of the others the record itself is taken
GAIN = 5.0  # AP that an explanation must bring
PROVEN = 0.9  # of the AP that there should be: then nothing else is needed to explain it
METRICS = {"sem_seg": "mIoU", "panoptic_seg": "PQ"}  # of tasks that have no AP
MASK_SIDE = 28  # Mask R-CNN's resolution


class Oracle:
    """Perfect predictions of a dataset, made from what the mapper gives for training.

    Attributes:
        name: of the dataset; records: of it.
        perfect: Instances at the size on disk, one a record.
        restless: whether the mapper augments by itself and cannot be told not to. Nothing leads
            back from what it gives to the image on disk: the records are taken as they are.
        total, lost: objects of the `mapped` images, and how many of them the mapper lost.
    """

    def __init__(self, context: Context, name: str, records: list[Record]) -> None:
        self.context, self.name, self.records = context, name, records
        self.masks = context.cfg.MODEL.MASK_ON
        self.keypoints = context.cfg.MODEL.KEYPOINT_ON
        self.total = self.lost = 0
        self.perfect: list[Instances] = []
        self._scales: list[tuple[float, float]] = []
        self._sizes: list[torch.Tensor] = []  # of the objects, at the network's input
        labels: list[torch.Tensor | None] = [None] * len(records)
        mapper = context.train_mapper(augment=False)
        self.restless = context.restless
        self.mapped = 0 if self.restless else min(len(records), MOST_MAPPED)
        for position, record in enumerate(records):
            if position < self.mapped:
                with seeded(context.SEED, position):
                    item = mapper(copy.deepcopy(record))
                self._add_mapped(item, record)
                labels[position] = item.get("sem_seg")
            else:
                self._add_record(record)
        names = MetadataCatalog.get(name).get("thing_classes") or ()
        found = (int(i.pred_classes.max()) + 1 for i in self.perfect if len(i))
        self.classes = len(names) or max(found, default=0)
        self._labels = None
        if all("sem_seg_file_name" in record for record in records):
            self._labels = LabelTruth(records, labels, len(MetadataCatalog.get(name).stuff_classes))
        self._evaluator: Any = None

    def _add_mapped(self, item: Record, record: Record) -> None:
        height, width = item["image"].shape[-2:]
        truth = item.get("instances")
        self._scales.append((width / record["width"], height / record["height"]))
        if truth is None:
            self._add_record(record)
            return
        self.total += len(objects_of(record))
        self.lost += max(0, len(objects_of(record)) - len(truth))
        found = Instances((height, width))
        found.pred_boxes = truth.gt_boxes.clone()
        found.pred_classes = truth.gt_classes
        found.scores = torch.ones(len(truth))
        if self.masks and truth.has("gt_masks") and len(truth):
            cells = truth.gt_masks.crop_and_resize(truth.gt_boxes.tensor, MASK_SIDE)
            found.pred_masks = cells.float()[:, None]
        if self.keypoints:
            found.pred_keypoints = (
                truth.gt_keypoints.tensor.clone()
                if truth.has("gt_keypoints")
                else torch.zeros(len(truth), self._number_of_keypoints, 3)
            )
        self._sizes.append(_sides(found.pred_boxes.tensor))
        self.perfect.append(detector_postprocess(found, record["height"], record["width"]))

    def _add_record(self, record: Record) -> None:
        if len(self._scales) <= len(self.perfect):
            self._scales.append((1.0, 1.0))
        self.perfect.append(self._of_record(record))

    def _of_record(self, record: Record) -> Instances:
        """Without the mapper, from the record as it is."""
        truth = objects_of(record)
        found = Instances((record["height"], record["width"]))
        rotated = any(len(annotation["bbox"]) == 5 for annotation in truth)
        boxes = [
            annotation["bbox"]
            if rotated
            else BoxMode.convert(
                list(annotation["bbox"]), annotation["bbox_mode"], BoxMode.XYXY_ABS
            )
            for annotation in truth
        ]
        kind, width = (RotatedBoxes, 5) if rotated else (Boxes, 4)
        found.pred_boxes = kind(torch.tensor(boxes, dtype=torch.float32).reshape(-1, width))
        found.pred_classes = torch.tensor([a["category_id"] for a in truth], dtype=torch.int64)
        found.scores = torch.ones(len(truth))
        if self.masks:
            found.pred_masks = self._masks_of(truth, found)
        if self.keypoints:
            shape = (len(truth), self._number_of_keypoints, 3)
            points = [a.get("keypoints") or [0.0] * (shape[1] * 3) for a in truth]
            found.pred_keypoints = torch.tensor(points, dtype=torch.float32).reshape(shape)
        return found

    @property
    def _number_of_keypoints(self) -> int:
        return self.context.cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS

    def _masks_of(self, truth: list[Record], found: Instances) -> torch.Tensor:
        """(N, H, W) bool, each through MASK_SIDE × MASK_SIDE cells; without a mask nothing."""
        masks = torch.zeros(len(truth), *found.image_size, dtype=torch.bool)
        for number, annotation in enumerate(truth):
            if annotation.get("segmentation"):
                box = tuple(found.pred_boxes.tensor[number].tolist())
                masks[number] = pasted_mask(
                    annotation["segmentation"], box, found.image_size, MASK_SIDE
                )
        return masks

    def scores(self) -> dict[str, float]:
        """AP by task of the perfect predictions, and the mIoU of perfect labels as "sem_seg"."""
        return self.evaluate(self.perfect)

    def evaluate(self, results: list[Instances], ap: str = "AP") -> dict[str, float]:
        """AP (or AP50 …), or mIoU, by task that the trainer's evaluator gives."""
        if self._evaluator is None:
            self._evaluator = self.context.trainer_class.build_evaluator(
                self.context.variant(), self.name
            )
        evaluator = self._evaluator
        evaluator.reset()
        for number, (record, instances) in enumerate(zip(self.records, results, strict=True)):
            item = {key: record[key] for key in ("image_id", "file_name", "height", "width")}
            evaluator.process([item], [self._output(number, instances)])
        with quiet():
            found = evaluator.evaluate() or {}
        names = {task: METRICS.get(task, ap) for task in found}
        return {t: float(v[names[t]]) for t, v in found.items() if names[t] in v}

    def _output(self, number: int, instances: Instances) -> dict[str, Any]:
        """What a model would give for an image, as far as there is truth for it."""
        output: dict[str, Any] = {"instances": instances}
        if self._labels is not None:
            output["sem_seg"] = self._labels.predicted(number)
            if self.masks:
                shown = instances if instances.has("pred_masks") else _without_any(instances)
                output["panoptic_seg"] = as_panoptic(shown, output["sem_seg"].argmax(0))
        return output

    def direct(self) -> dict[str, float]:
        """AP by task as pycocotools computes it from the annotation file, around everything that
        is tested; the mIoU of labels likewise."""
        json_file = MetadataCatalog.get(self.name).get("json_file")
        expected = {"bbox": 100.0}
        if json_file:
            limit = self.context.cfg.SERIATIM.EVAL.MAX_DETECTIONS
            tasks = ["bbox", "segm"] if self.masks else ["bbox"]
            expected = {task: direct_ap(json_file, task, limit, MASK_SIDE) for task in tasks}
        if self._labels is not None:
            expected["sem_seg"] = self._labels.expected()
            if self.masks and MetadataCatalog.get(self.name).get("panoptic_json"):
                expected["panoptic_seg"] = self._direct_quality()
        return expected

    def _direct_quality(self) -> float:
        """The panoptic quality of the records' own masks and label images, without mapper,
        postprocessing and evaluator."""
        metadata = MetadataCatalog.get(self.name)
        content = read_json(Path(metadata.panoptic_json))
        segments = {a["image_id"]: a for a in content["annotations"]}
        things = {c: own for own, c in metadata.thing_dataset_id_to_contiguous_id.items()}
        stuff = {c: own for own, c in metadata.stuff_dataset_id_to_contiguous_id.items()}
        counts = Counts()
        for record in self.records:
            labels = torch.as_tensor(read_labels(record["sem_seg_file_name"])).long()
            found, infos = as_panoptic(self._of_record(record), labels)
            categories = {
                s["id"]: (things if s["isthing"] else stuff)[s["category_id"]] for s in infos
            }
            annotation = segments[record["image_id"]]
            file = str(Path(metadata.panoptic_root) / annotation["file_name"])
            blue, green, red = np.moveaxis(cv2.imread(file).astype(np.int64), 2, 0)
            truth = {s["id"]: s for s in annotation["segments_info"]}
            true = {number: s["category_id"] for number, s in truth.items()}
            crowds = frozenset(number for number, s in truth.items() if s.get("iscrowd"))
            picture = red + 256 * green + 65536 * blue
            counts.add(count_segments(picture, true, found.numpy(), categories, crowds))
        return counts.mean(c["id"] for c in content["categories"])["PQ"]

    def perturbed(self, fault: Fault) -> tuple[list[Instances], bool]:
        """The perfect boxes with `fault`, and whether it touches most of the objects. Masks and
        keypoints, which it would not move, are left out: they only cost time."""
        touched = total = 0
        results = []
        for instances, scale in zip(self.perfect, self._all_scales(), strict=True):
            possible = fault.numbers in (0, instances.pred_boxes.tensor.shape[1])
            bare = without(instances, "pred_masks", "pred_keypoints")
            found = fault.change(bare, scale, self.classes) if possible else None
            total += len(bare)
            touched += 0 if found is None else len(bare)
            results.append(bare if found is None else found)
        return results, touched > total / 2

    def explain(self, got: float, ceiling: float) -> list[Cause]:
        """The likeliest first: what brings the AP of boxes near the `ceiling` when it is undone is
        proven; what only brings it up from `got` may be part of it, and comes last.

        Args:
            got: AP of boxes; ceiling: what it should be.
        """
        gains = sorted(self._gains(got), key=lambda gain: -gain[0])
        proven = [
            Cause(f"{what}: undone, AP is {value:.1f} of {ceiling:.1f}", where)
            for value, what, where in gains
            if value >= PROVEN * ceiling
        ]
        partly = [
            Cause(f"in part {what}: undone, AP is {value:.1f} of {ceiling:.1f}", where)
            for value, what, where in gains
            if value < PROVEN * ceiling
        ]
        finer = self._finer_causes(got)
        if self.lost:
            finer.append(Cause(f"the mapper lost {self.lost} objects", "build_mapper"))
        return [
            *proven,
            *finer,
            *partly,
            Cause("the mapper changes boxes or classes", "build_mapper"),
            Cause("the evaluator compares with another file or limit", "build_evaluator"),
            Cause("the catalog's records are not those of the file", "DatasetCatalog"),
        ]

    def _gains(self, got: float) -> Iterator[tuple[float, str, str]]:
        """AP, name and place of each fault that is not there any more, where AP rises by that."""
        for fault in FAULTS:
            results, changed = self.perturbed(fault.undone)
            value = self.evaluate(results).get("bbox", 0.0) if changed else 0.0
            if value > got + GAIN:
                yield value, fault.name, fault.where
        bare = [without(i, "pred_masks", "pred_keypoints") for i in self.perfect]
        for by, whose in ((1, "next"), (-1, "previous")):
            value = self.evaluate(bare[by:] + bare[:by]).get("bbox", 0.0)
            if value > got + GAIN:
                what = f"detections are counted for the {whose} image"
                yield value, what, "image_id, build_evaluator"

    def _finer_causes(self, got: float) -> list[Cause]:
        """What neither moves boxes nor renames them."""
        found = []
        loosely = self.evaluate(self.perfect, "AP50").get("bbox", 0.0)
        if loosely > got + GAIN:
            what = f"boxes are rounded, or lose precision otherwise: at an IoU of 0.5 {loosely:.1f}"
            found.append(Cause(what, "postprocessing, build_evaluator"))
        crowds = self.evaluate([self._with_crowds(i) for i in range(len(self.perfect))])
        if crowds.get("bbox", 0.0) > got + 1:
            what = (
                f"crowd regions count as objects: if they are found too, AP is {crowds['bbox']:.1f}"
            )
            found.append(Cause(what, "build_evaluator"))
        return found

    def _with_crowds(self, number: int) -> Instances:
        """The perfect predictions of an image, and its crowd regions as further ones."""
        perfect = without(self.perfect[number], "pred_masks", "pred_keypoints")
        crowds = [a for a in self.records[number].get("annotations", ()) if a.get("iscrowd")]
        if not crowds or not is_upright(perfect.pred_boxes):
            return perfect
        boxes = [BoxMode.convert(list(a["bbox"]), a["bbox_mode"], BoxMode.XYXY_ABS) for a in crowds]
        more = Instances(perfect.image_size)
        more.pred_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32))
        more.pred_classes = torch.tensor([a["category_id"] for a in crowds])
        more.scores = torch.ones(len(crowds))
        return Instances.cat([perfect, more]) if len(perfect) else more

    def smaller_than(self, stride: float) -> float:
        """Share of the objects whose smaller side at the network's input is below `stride` px."""
        if not self._sizes:
            return 0.0
        sides = torch.cat(self._sizes)
        tile = self.context.cfg.SERIATIM.EVAL.TILE
        if tile > 0:  # then the image is not shrunk as a whole
            scales = [s[0] for s in self._scales[: len(self._sizes)]]
            own = self.context.cfg.INPUT.MIN_SIZE_TEST / tile
            sides = torch.cat([s * (own / k) for s, k in zip(self._sizes, scales, strict=True)])
        return float((sides < stride).float().mean()) if len(sides) else 0.0

    def _all_scales(self) -> list[tuple[float, float]]:
        return self._scales + [(1.0, 1.0)] * (len(self.perfect) - len(self._scales))


def as_panoptic(instances: Instances, labels: torch.Tensor) -> tuple[torch.Tensor, list[Record]]:
    """Masks over labels, as PanopticFPN puts them together: (H, W) numbers, and what they are."""
    return combine_semantic_and_instance_outputs(instances, labels, 0.5, 0, 0.5)


def _without_any(instances: Instances) -> Instances:
    none = Instances(instances.image_size)
    none.pred_masks = torch.zeros(0, *instances.image_size, dtype=torch.bool)
    none.scores, none.pred_classes = torch.zeros(0), torch.zeros(0, dtype=torch.int64)
    return none


def _sides(boxes: torch.Tensor) -> torch.Tensor:
    """The smaller side of each box, px."""
    if boxes.shape[1] == 5:
        return boxes[:, 2:4].amin(dim=1)
    return (boxes[:, 2:] - boxes[:, :2]).amin(dim=1)
