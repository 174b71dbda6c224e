"""Can a perfect model score perfectly?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from detectron2.data import MetadataCatalog
from detectron2.layers import batched_nms
from detectron2.structures import Instances
from torch import nn

from seriatim.gates import classification, tested
from seriatim.gates.base import Gate, Skip
from seriatim.gates.context import Context, Record, is_upright, objects_of
from seriatim.gates.faults import FAULTS, without
from seriatim.gates.label_truth import LabelTruth
from seriatim.gates.labelled import has_labels
from seriatim.gates.quiet import quiet
from seriatim.gates.truth import METRICS, MOST_MAPPED, Oracle
from seriatim.gates.verdict import Cause, Finding

MOST_IMAGES = 3000
# Both ways to the AP use the same boxes; only rounding to float32 lies between them.
TOLERANCE = 0.1
# Masks are resampled at two scales on the two ways: 28 × 28 cells of objects of a few px differ a
# little.
MASK_TOLERANCE = 3.0
LABEL_TOLERANCE = 1.0  # two libraries may take other pixels where a border falls between them
QUALITY_TOLERANCE = 5.0  # a small segment more or less reaches an IoU of one half
TOLERANCES = {"bbox": TOLERANCE, "segm": MASK_TOLERANCE, "sem_seg": LABEL_TOLERANCE} | {
    "panoptic_seg": QUALITY_TOLERANCE
}
# A perturbed truth that still scores more than this share of the true one was not told apart from
# it.
SEEN = 0.9
CEILING_TOLD = 98.0  # AP below which the ceiling is worth a warning
# Of a score, below which nothing is evaluated: 0.02 to 0.2 are in use. And of NMS: 0.5 to 0.7.
HIGHEST_SCORE, HIGHEST_NMS = 0.4, 0.95
INSTANCES = ("bbox", "segm", "keypoints")  # tasks that are scored by detections
LEAST_KEPT = 0.75  # of the objects, by the limit of detections an image
SMALL_TOLD = 0.2  # share of objects smaller than the finest stride that is worth a warning


class OracleGate(Gate):
    """Ground truth goes through mapper, postprocessing and evaluator as if a model had found it."""

    name = "oracle"
    question = "can a perfect model score perfectly?"
    packages = (
        "dataset_tools",
        "seriatim.data",
        "seriatim.evaluation",
        "seriatim.modeling",
    )

    def examine(self, context: Context, folder: Path) -> str:
        names = context.cfg.DATASETS.TEST or context.cfg.DATASETS.TRAIN
        name, records = names[0], (context.test_records or context.train_records)
        if len(records) > MOST_IMAGES:
            records = records[:MOST_IMAGES]
            name = context.dataset_of(records, name, "oracle")
        if has_labels(records):
            return self._labels(context, name, records)
        if not any(objects_of(record) for record in records):
            return self._semantic(context, name, records)
        self.findings += tested.images(context)
        oracle = Oracle(context, name, records)
        scores = oracle.scores()
        self.numbers["AP of the ground truth"] = scores
        if oracle.restless:
            self.numbers["mapper"] = "not asked: it augments by itself, in a way of its own"
        self._judge(oracle, scores)
        if not self.findings:
            self._memory(context, oracle, scores)
        if not self.findings:
            self._blindness(oracle, scores)
        self._ceiling(context, oracle)
        told = ", ".join(f"{t} {METRICS.get(t, 'AP')} {v:.1f}" for t, v in scores.items())
        without = " (without the mapper, which augments by itself)" if oracle.restless else ""
        return f"ground truth of {len(records)} images scores {told}{without}"

    def _labels(self, context: Context, name: str, records: Sequence[Record]) -> str:
        """Labels of whole images, as predictions, must give 100 %."""
        healthy, numbers, findings = classification.oracle(context, name, records)
        self.numbers |= numbers
        self.findings += findings
        return healthy

    def _judge(self, oracle: Oracle, scores: dict[str, float]) -> None:
        expected = oracle.direct()
        self.numbers["AP computed from the file alone"] = expected
        for task, wanted in expected.items():
            got = scores.get(task, float("nan"))
            tolerance = TOLERANCES[task]
            if wanted != wanted or abs(got - wanted) <= tolerance:
                continue
            causes = oracle.explain(scores.get("bbox", 0.0), expected["bbox"])
            if task == "segm" and abs(scores.get("bbox", 0.0) - expected["bbox"]) <= TOLERANCE:
                causes = [
                    Cause("masks are transposed: rows are taken for columns", "build_evaluator"),
                    Cause("masks are pasted in another place or size than their boxes"),
                    *causes,
                ]
            metric = METRICS.get(task, "AP")
            self.findings.append(
                Finding(
                    f"the ground truth of {oracle.name}, given as predictions, scores"
                    f" {task} {metric} {got:.1f}.",
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

    def _memory(self, context: Context, oracle: Oracle, scores: dict[str, float]) -> None:
        """Without detections there is no score, whatever was evaluated before; and with all of them
        a larger one, if larger is better."""
        found = oracle.evaluate([instances[:0] for instances in oracle.perfect])
        nothing = {task: value for task, value in found.items() if task in INSTANCES}
        self.numbers["AP of no detections"] = nothing
        if any(value > TOLERANCE for value in nothing.values()):
            self.findings.append(
                Finding(
                    f"without any detection the evaluator gives {max(nothing.values()):.1f}.",
                    "0.",
                    [
                        Cause("the evaluator keeps what it saw before: reset() does not empty it"),
                        Cause(
                            "the evaluator gives an old result again: it is cached",
                            "build_evaluator",
                        ),
                    ],
                )
            )
        keys = context.cfg.SERIATIM.HOOKS
        task, _, metric = keys.BEST_METRIC.partition("/")
        if metric.startswith("AP") and task in scores and keys.BEST_MODE == "min":
            self.findings.append(
                Finding(
                    f"the best checkpoint is the one with the smallest {keys.BEST_METRIC}; perfect"
                    f" detections have {scores[task]:.1f}, none 0.",
                    "the largest: perfect detections must be better than none.",
                    [
                        Cause("the mode is that of a loss", "SERIATIM.HOOKS.BEST_MODE"),
                        Cause("the metric is another than is meant", "SERIATIM.HOOKS.BEST_METRIC"),
                    ],
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
        threshold, limit = told_by(model, "test_nms_thresh"), context.cfg.TEST.DETECTIONS_PER_IMAGE
        results = [_limited(instances, threshold, limit) for instances in oracle.perfect]
        results = [without(found, "pred_masks", "pred_keypoints") for found in results]
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
        self._thresholds(model, threshold, limit, oracle)
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

    def _thresholds(self, model: nn.Module, nms: float | None, limit: int, oracle: Oracle) -> None:
        """What inference keeps of its detections must be what a score can be computed from."""
        score = told_by(model, "test_score_thresh")
        objects = sum(len(instances) for instances in oracle.perfect)
        kept = sum(min(len(instances), limit) for instances in oracle.perfect)
        if score is not None and score > HIGHEST_SCORE:
            self._say_cut(
                f"detections with a score below {score:g} are dropped before they are evaluated.",
                f"a threshold of at most {HIGHEST_SCORE:g}: AP ranks all of them by score.",
                Cause("the threshold is that of pictures, not of evaluation", "…SCORE_THRESH_TEST"),
            )
        if nms is not None and nms > HIGHEST_NMS:
            self._say_cut(
                f"NMS removes a detection from an IoU of {nms:g} with a better one on.",
                f"at most {HIGHEST_NMS:g}: every object is found many times, and all but one count"
                " as false.",
                Cause("NMS removes next to nothing", "…NMS_THRESH_TEST"),
            )
        if kept < LEAST_KEPT * objects:
            self._say_cut(
                f"{limit} detections an image are kept, which leaves {kept} of {objects} objects.",
                "as many as images have objects.",
                Cause("the limit of detections is too small", "TEST.DETECTIONS_PER_IMAGE"),
            )

    def _say_cut(self, measured: str, expected: str, cause: Cause) -> None:
        other = Cause("the model sets the value itself", "the meta-architecture")
        self.findings.append(Finding(measured, expected, [cause, other]))

    def _semantic(self, context: Context, name: str, records: list[Record]) -> str:
        """Semantic segmentation: the true label of every pixel must give mIoU 100."""
        records = [r for r in records if "sem_seg_file_name" in r][:MOST_MAPPED]
        if not records:
            raise Skip("the dataset has no objects and no label images to evaluate against")
        inputs = context.inputs(records)
        classes = len(MetadataCatalog.get(name).stuff_classes)
        truth = LabelTruth(records, [item.get("sem_seg") for item in inputs], classes)
        chosen = context.dataset_of(records, name, "oracle_semantic")
        evaluator = context.trainer_class.build_evaluator(context.variant(), chosen)

        def measured(shift: int = 0) -> float:
            evaluator.reset()
            for number, record in enumerate(records):
                evaluator.process([record], [{"sem_seg": truth.predicted(number, shift)}])
            with quiet():
                return (evaluator.evaluate() or {}).get("sem_seg", {}).get("mIoU", float("nan"))

        score, wanted = measured(), truth.expected()
        self.numbers["mIoU of the ground truth"] = score
        self.numbers["mIoU computed from the files alone"] = wanted
        if not abs(score - wanted) <= LABEL_TOLERANCE:
            self.findings.append(
                Finding(
                    f"the true labels of {name}, given as predictions, score mIoU {score:.1f}.",
                    f"{wanted:.1f}, as computed from the label images alone.",
                    [
                        Cause("label numbers in the images are not those of the classes", name),
                        Cause(
                            "the mapper changes labels, or not as it changes pixels", "build_mapper"
                        ),
                        Cause("the evaluator's ignore label is another than the data's"),
                    ],
                )
            )
        elif (shifted := measured(1)) > SEEN * score:
            self.findings.append(
                Finding(
                    f"with every label one too high the evaluator still gives mIoU {shifted:.1f}.",
                    "a fall.",
                    [Cause("the evaluator does not look at the labels", "build_evaluator")],
                )
            )
        return f"true labels of {len(inputs)} images score mIoU {score:.1f}"


def _limited(instances: Instances, threshold: float | None, limit: int) -> Instances:
    """`instances` after NMS within each class and the limit per image."""
    if threshold is not None and is_upright(instances.pred_boxes) and len(instances):
        boxes, scores = instances.pred_boxes.tensor, instances.scores
        instances = instances[batched_nms(boxes, scores, instances.pred_classes, threshold)]
    return instances[:limit]


def told_by(model: nn.Module, name: str) -> float | None:
    """A threshold of the model's inference, if its last stage or the model itself tells it."""
    predictor = getattr(getattr(model, "roi_heads", None), "box_predictor", None)
    if isinstance(predictor, nn.ModuleList) and len(predictor):  # a cascade
        predictor = predictor[-1]
    for owner in (model, predictor):
        value = getattr(owner, name, None)
        if isinstance(value, float | int):
            return float(value)
    return None


def finest_stride(model: nn.Module) -> float:
    """The smallest stride of the levels that the model's heads look at, px."""
    shapes = model.backbone.output_shape()
    names = getattr(model, "head_in_features", None)
    if names is None:
        names = getattr(getattr(model, "proposal_generator", None), "in_features", None)
    strides = [shapes[name].stride for name in names or shapes if name in shapes]
    return float(min(strides, default=1))
