"""Can a perfect model score perfectly?"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from detectron2.data import MetadataCatalog
from detectron2.layers import batched_nms
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import Boxes, BoxMode, Instances, RotatedBoxes
from torch import nn

from seriatim.data.loader import seeded
from seriatim.gates.base import Gate, Skip
from seriatim.gates.context import Context, Record, objects_of
from seriatim.gates.direct import direct_ap, pasted_mask
from seriatim.gates.quiet import quiet
from seriatim.gates.verdict import Cause, Finding

MOST_MAPPED = 200  # images that go through the mapper; of the others the record itself is taken
MOST_IMAGES = 3000
# Both ways to the AP use the same boxes; only rounding to float32 lies between them.
TOLERANCE = 0.1
# Masks are resampled at two scales on the two ways: 28 × 28 cells of objects of a few px differ a
# little.
MASK_TOLERANCE = 3.0
MASK_SIDE = 28  # Mask R-CNN's resolution
# A perturbed truth that still scores more than this share of the true one was not told apart from
# it.
SEEN = 0.9
CEILING_TOLD = 98.0  # AP below which the ceiling is worth a warning
SMALL_TOLD = 0.2  # share of objects smaller than the finest stride that is worth a warning


class OracleGate(Gate):
    """Ground truth goes through mapper, postprocessing and evaluator as if a model had found it."""

    name = "oracle"
    question = "can a perfect model score perfectly?"
    keys = ("DATASETS", "SERIATIM.DATASETS", "SERIATIM.EVAL", "INPUT", "TEST", "MODEL")
    packages = (
        "dataset_tools",
        "seriatim.data",
        "seriatim.evaluation",
        "seriatim.gates.direct",
        "seriatim.modeling",
    )

    def examine(self, context: Context, folder: Path) -> str:
        names = context.cfg.DATASETS.TEST or context.cfg.DATASETS.TRAIN
        name, records = names[0], (context.test_records or context.train_records)
        if len(records) > MOST_IMAGES:
            records = records[:MOST_IMAGES]
            name = context.dataset_of(records, name, "oracle")
        if not any(objects_of(record) for record in records):
            return self._semantic(context, name, records)
        oracle = Oracle(context, name, records)
        scores = oracle.scores()
        self.numbers["AP of the ground truth"] = scores
        self._judge(oracle, scores)
        if not self.findings:
            self._blindness(oracle, scores)
        self._ceiling(context, oracle)
        told = ", ".join(f"{task} AP {value:.1f}" for task, value in scores.items())
        return f"ground truth of {len(records)} images scores {told}"

    def _judge(self, oracle: Oracle, scores: dict[str, float]) -> None:
        expected = oracle.direct()
        self.numbers["AP computed from the file alone"] = expected
        for task, wanted in expected.items():
            got = scores.get(task, float("nan"))
            tolerance = TOLERANCE if task == "bbox" else MASK_TOLERANCE
            if wanted != wanted or abs(got - wanted) <= tolerance:
                continue
            causes = oracle.explain(scores.get("bbox", 0.0))
            self.findings.append(
                Finding(
                    f"the ground truth of {oracle.name}, given as predictions, scores {task} AP"
                    f" {got:.1f}.",
                    f"{wanted:.1f}, as computed from the annotation file alone.",
                    causes,
                )
            )
        if oracle.lost:
            self.findings.append(
                Finding(
                    f"{oracle.lost} of {oracle.total} objects of {oracle.mapped} images did not "
                    "come"
                    " through the mapper.",
                    "all of them, for without augmentation none is cropped away.",
                    [
                        Cause(
                            "the mapper filters objects that the evaluator counts", "build_mapper"
                        ),
                        Cause("boxes are empty after scaling: INPUT.MIN_SIZE_TEST too small"),
                    ],
                    fails=oracle.lost > 0.01 * oracle.total,
                )
            )

    def _blindness(self, oracle: Oracle, scores: dict[str, float]) -> None:
        """Every fault that can be planted must be seen: an evaluator that is always content is
        broken too."""
        seen: dict[str, float | str] = {}
        for fault in FAULTS:
            broken, changed = oracle.perturbed(fault)
            if not changed:
                seen[fault.name] = "does not apply"
                continue
            seen[fault.name] = value = oracle.evaluate(broken)["bbox"]
            if value > SEEN * scores["bbox"]:
                self.findings.append(
                    Finding(
                        f"with {fault.name} the evaluator still gives AP {value:.1f}.",
                        "a fall, for this fault misplaces or mislabels objects.",
                        [
                            Cause(
                                "the evaluator does not look at what it should", "build_evaluator"
                            ),
                            Cause("the dataset is so small or uniform that the fault hardly shows"),
                        ],
                        fails=value >= scores["bbox"] - 1e-9,
                    )
                )
        self.numbers["AP under planted faults"] = seen

    def _ceiling(self, context: Context, oracle: Oracle) -> None:
        """What the best possible detector could reach with this NMS, these limits and strides."""
        model = context.new_model()
        threshold, limit = nms_threshold(model), context.cfg.TEST.DETECTIONS_PER_IMAGE
        results = [_limited(instances, threshold, limit) for instances in oracle.perfect]
        results = [_without(found, "pred_masks", "pred_keypoints") for found in results]
        ceiling = oracle.evaluate(results)["bbox"]
        most = max(len(instances) for instances in oracle.perfect)
        small = oracle.smaller_than(finest_stride(model))
        self.numbers["ceiling"] = {
            "AP after NMS and limits": ceiling,
            "NMS threshold": threshold,
            "most objects in an image": most,
            "detections per image": limit,
            "share of objects smaller than the finest stride": small,
        }
        counted = context.cfg.SERIATIM.EVAL.MAX_DETECTIONS
        if ceiling < CEILING_TOLD and ceiling == ceiling:
            dense = Cause(
                f"images hold up to {most} objects, but {min(limit, counted)} detections count",
                "TEST.DETECTIONS_PER_IMAGE, SERIATIM.EVAL.MAX_DETECTIONS",
            )
            crowd = Cause(
                f"NMS at {threshold} removes objects that overlap", "the model's NMS_THRESH_TEST"
            )
            own = Cause("duplicate or degenerate boxes in the annotations", "dataset_tools check")
            causes = [dense, crowd, own] if most > min(limit, counted) else [crowd, own, dense]
            self.findings.append(
                Finding(
                    f"the best possible detector would reach AP {ceiling:.1f} on {oracle.name}.",
                    "close to 100.",
                    causes,
                    fails=False,
                )
            )
        if small > SMALL_TOLD:
            self.findings.append(
                Finding(
                    f"{small:.0%} of the objects are smaller than one cell of the finest level.",
                    f"less than {SMALL_TOLD:.0%}: such objects hardly leave a trace in a feature "
                    "map.",
                    [
                        Cause(
                            "the input size is too small", "INPUT.MIN_SIZE_TEST, SERIATIM.EVAL.TILE"
                        ),
                        Cause("the finest level is too coarse", "the model's IN_FEATURES"),
                    ],
                    fails=False,
                )
            )

    def _semantic(self, context: Context, name: str, records: list[Record]) -> str:
        """Semantic segmentation: the true label of every pixel must give mIoU 100."""
        inputs = context.inputs([r for r in records if "sem_seg_file_name" in r][:MOST_MAPPED])
        inputs = [item for item in inputs if "sem_seg" in item]
        if not inputs:
            raise Skip("the dataset has no objects and no label images to evaluate against")
        from seriatim.data.image import read_labels

        classes = len(MetadataCatalog.get(name).stuff_classes)
        chosen = context.dataset_of(records[: len(inputs)], name, "oracle_semantic")
        evaluator = context.trainer_class.build_evaluator(context.variant(), chosen)
        evaluator.reset()
        for item in inputs:
            labels = torch.as_tensor(read_labels(item["sem_seg_file_name"])).long()
            labels = labels if labels.ndim == 2 else labels[:, :, 0]
            one_hot = torch.stack([labels == number for number in range(classes)]).float()
            evaluator.process([item], [{"sem_seg": one_hot}])
        with quiet():
            score = (evaluator.evaluate() or {}).get("sem_seg", {}).get("mIoU", float("nan"))
        self.numbers["mIoU of the ground truth"] = score
        if not score > 100 - TOLERANCE:
            self.findings.append(
                Finding(
                    f"the true labels of {name}, given as predictions, score mIoU {score:.1f}.",
                    "100.",
                    [
                        Cause("label numbers in the images are not those of the classes", name),
                        Cause("the evaluator's ignore label is another than the data's"),
                    ],
                )
            )
        return f"true labels of {len(inputs)} images score mIoU {score:.1f}"


@dataclass(frozen=True)
class Fault:
    """A mistake that is often made: `name` and how it changes perfect predictions of an image.

    `change(instances, scale)` gives the changed ones, or None where the mistake changes nothing;
    `scale` is (x, y) from the image on disk to the network's input.
    """

    name: str
    where: str
    change: Callable[[Instances, tuple[float, float], int], Instances | None]


def _without(instances: Instances, *fields: str) -> Instances:
    kept = {k: v for k, v in instances.get_fields().items() if k not in fields}
    return Instances(instances.image_size, **kept)


def _with_boxes(instances: Instances, boxes: torch.Tensor) -> Instances:
    changed = Instances(instances.image_size, **instances.get_fields())
    changed.pred_boxes = Boxes(boxes)
    return changed


def _as_xywh(instances: Instances, scale: tuple[float, float], classes: int) -> Instances:
    boxes = instances.pred_boxes.tensor.clone()
    boxes[:, 2:] -= boxes[:, :2]
    return _with_boxes(instances, boxes)


def _as_xyxy(instances: Instances, scale: tuple[float, float], classes: int) -> Instances:
    boxes = instances.pred_boxes.tensor.clone()
    boxes[:, 2:] += boxes[:, :2]
    return _with_boxes(instances, boxes)


def _not_scaled(instances: Instances, scale: tuple[float, float], classes: int) -> Instances | None:
    if abs(scale[0] - 1) < 0.05 and abs(scale[1] - 1) < 0.05:
        return None
    factor = instances.pred_boxes.tensor.new_tensor([*scale, *scale])
    return _with_boxes(instances, instances.pred_boxes.tensor * factor)


def _scaled_twice(
    instances: Instances, scale: tuple[float, float], classes: int
) -> Instances | None:
    return _not_scaled(instances, (1 / scale[0], 1 / scale[1]), classes)


def _axes_swapped(instances: Instances, scale: tuple[float, float], classes: int) -> Instances:
    return _with_boxes(instances, instances.pred_boxes.tensor[:, [1, 0, 3, 2]])


def _next_class(instances: Instances, scale: tuple[float, float], classes: int) -> Instances | None:
    return _shifted_class(instances, 1, classes)


def _previous_class(instances: Instances, scale: tuple[float, float], classes: int):
    return _shifted_class(instances, -1, classes)


def _shifted_class(instances: Instances, by: int, classes: int) -> Instances | None:
    if classes < 2:
        return None
    changed = Instances(instances.image_size, **instances.get_fields())
    changed.pred_classes = (instances.pred_classes + by) % classes
    return changed


FAULTS = (
    Fault("corners read as width and height (XYXY as XYWH)", "bbox_mode", _as_xywh),
    Fault("width and height read as corners (XYWH as XYXY)", "bbox_mode", _as_xyxy),
    Fault(
        "class numbers one too high",
        "thing_dataset_id_to_contiguous_id or the label list",
        _next_class,
    ),
    Fault(
        "class numbers one too low",
        "thing_dataset_id_to_contiguous_id or the label list",
        _previous_class,
    ),
    Fault("boxes left at the scale of the network's input", "postprocessing", _not_scaled),
    Fault("boxes scaled back twice", "postprocessing", _scaled_twice),
    Fault("x and y swapped", "the order of height and width", _axes_swapped),
)


class Oracle:
    """Perfect predictions of a dataset, made from what the mapper gives for training.

    Attributes:
        name: of the dataset; records: of it.
        perfect: Instances at the size on disk, one a record.
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
        mapper = context.train_mapper(augment=False)
        self.mapped = min(len(records), MOST_MAPPED)
        for position, record in enumerate(records):
            if position < self.mapped:
                with seeded(context.SEED, position):
                    item = mapper(copy.deepcopy(record))
                self._add_mapped(item, record)
            else:
                self._add_record(record)
        names = MetadataCatalog.get(name).get("thing_classes") or ()
        found = (int(i.pred_classes.max()) + 1 for i in self.perfect if len(i))
        self.classes = len(names) or max(found, default=0)
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
        """Without the mapper, from the record as it is."""
        if len(self._scales) <= len(self.perfect):
            self._scales.append((1.0, 1.0))
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
        self.perfect.append(found)

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
        """AP by task of the perfect predictions."""
        return self.evaluate(self.perfect)

    def evaluate(self, results: list[Instances]) -> dict[str, float]:
        """AP by task that the trainer's evaluator gives."""
        if self._evaluator is None:
            self._evaluator = self.context.trainer_class.build_evaluator(
                self.context.variant(), self.name
            )
        evaluator = self._evaluator
        evaluator.reset()
        for record, instances in zip(self.records, results, strict=True):
            item = {key: record[key] for key in ("image_id", "file_name", "height", "width")}
            evaluator.process([item], [{"instances": instances}])
        with quiet():
            found = evaluator.evaluate() or {}
        return {task: float(values["AP"]) for task, values in found.items() if "AP" in values}

    def direct(self) -> dict[str, float]:
        """AP by task as pycocotools computes it from the annotation file, around everything that
        is tested."""
        json_file = MetadataCatalog.get(self.name).get("json_file")
        if not json_file:
            return {"bbox": 100.0}
        limit = self.context.cfg.SERIATIM.EVAL.MAX_DETECTIONS
        tasks = ["bbox", "segm"] if self.masks else ["bbox"]
        return {task: direct_ap(json_file, task, limit, MASK_SIDE) for task in tasks}

    def perturbed(self, fault: Fault) -> tuple[list[Instances], bool]:
        """The perfect boxes with `fault`, and whether it touches most of the objects. Masks and
        keypoints, which it would not move, are left out: they only cost time."""
        touched = total = 0
        results = []
        for instances, scale in zip(self.perfect, self._all_scales(), strict=True):
            upright = isinstance(instances.pred_boxes, Boxes)
            bare = _without(instances, "pred_masks", "pred_keypoints")
            found = fault.change(bare, scale, self.classes) if upright else None
            total += len(bare)
            touched += 0 if found is None else len(bare)
            results.append(bare if found is None else found)
        return results, touched > total / 2

    def explain(self, got: float) -> list[Cause]:
        """The faults whose opposite brings the AP of boxes back come first."""
        gains = []
        for fault, opposite in zip(FAULTS, _OPPOSITES, strict=True):
            results, changed = self.perturbed(opposite)
            value = self.evaluate(results).get("bbox", 0.0) if changed else 0.0
            if value > got + 5:
                gains.append((value, fault, value))
        gains.sort(key=lambda gain: -gain[0])
        causes = [
            Cause(f"{fault.name}: undone, AP is {value:.1f}", fault.where)
            for _, fault, value in gains
        ]
        if self.lost:
            causes.append(Cause(f"the mapper lost {self.lost} objects", "build_mapper"))
        return [
            *causes,
            Cause("the mapper changes boxes or classes", "build_mapper"),
            Cause("the evaluator compares with another file or limit", "build_evaluator"),
            Cause("the catalog's records are not those of the file", "DatasetCatalog"),
        ]

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


_BY_CHANGE = {fault.change: fault for fault in FAULTS}
# What undoes each of FAULTS.
_OPPOSITES = tuple(
    _BY_CHANGE[change]
    for change in (
        _as_xyxy,
        _as_xywh,
        _previous_class,
        _next_class,
        _scaled_twice,
        _not_scaled,
        _axes_swapped,
    )
)


def _sides(boxes: torch.Tensor) -> torch.Tensor:
    """The smaller side of each box, px."""
    if boxes.shape[1] == 5:
        return boxes[:, 2:4].amin(dim=1)
    return (boxes[:, 2:] - boxes[:, :2]).amin(dim=1)


def _limited(instances: Instances, threshold: float | None, limit: int) -> Instances:
    """`instances` after NMS within each class and the limit per image."""
    if threshold is not None and isinstance(instances.pred_boxes, Boxes) and len(instances):
        boxes, scores = instances.pred_boxes.tensor, instances.scores
        instances = instances[batched_nms(boxes, scores, instances.pred_classes, threshold)]
    return instances[:limit]


def nms_threshold(model: nn.Module) -> float | None:
    """The IoU above which the model's final NMS removes a box of the same class, if it is told."""
    for path in ("test_nms_thresh", "roi_heads.box_predictor.test_nms_thresh"):
        value: Any = model
        for part in path.split("."):
            value = getattr(value, part, None)
        if isinstance(value, float):
            return value
    predictors = getattr(getattr(model, "roi_heads", None), "box_predictor", None)
    if isinstance(predictors, nn.ModuleList) and len(predictors):  # a cascade
        return predictors[-1].test_nms_thresh
    return None


def finest_stride(model: nn.Module) -> float:
    """The smallest stride of the levels that the model's heads look at, px."""
    shapes = model.backbone.output_shape()
    names = getattr(model, "head_in_features", None)
    if names is None:
        names = getattr(getattr(model, "proposal_generator", None), "in_features", None)
    strides = [shapes[name].stride for name in names or shapes if name in shapes]
    return float(min(strides, default=1))
