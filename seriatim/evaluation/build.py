"""The evaluators that a dataset asks for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from dataset_tools.errors import InputError

if TYPE_CHECKING:
    from detectron2.config import CfgNode
    from detectron2.evaluation import DatasetEvaluator

# Detectron2's own evaluators for the datasets that it brings along, by metadata.evaluator_type.
_DETECTRON2 = {
    "cityscapes_instance": "CityscapesInstanceEvaluator",
    "cityscapes_sem_seg": "CityscapesSemSegEvaluator",
    "pascal_voc": "PascalVOCDetectionEvaluator",
    "lvis": "LVISEvaluator",
}


def build_evaluator(
    cfg: CfgNode, dataset_name: str, output_dir: str | Path | None = None
) -> DatasetEvaluator:
    """The evaluator for `metadata.evaluator_type` of a registered dataset.

    "coco" and "rotated_coco" give `CocoEvaluator`, "classification" `ClassificationEvaluator`,
    "sem_seg" Detectron2's, and "coco_panoptic_seg" `PanopticEvaluator`, beside the others where the
    dataset has instances or label images.

    Args:
        output_dir: where evaluators write; default OUTPUT_DIR/inference/DATASET.

    Raises:
        InputError: the type is unknown, or a package that it needs is not installed.
    """
    from detectron2 import evaluation
    from detectron2.data import MetadataCatalog

    folder = Path(output_dir or Path(cfg.OUTPUT_DIR) / "inference" / dataset_name)
    metadata = MetadataCatalog.get(dataset_name)
    kind = metadata.get("evaluator_type", "coco")
    if kind in _DETECTRON2:
        return getattr(evaluation, _DETECTRON2[kind])(dataset_name)
    if kind in ("coco", "rotated_coco"):
        return _coco(cfg, dataset_name, folder)
    if kind == "classification":
        from seriatim.evaluation.classification import ClassificationEvaluator

        return ClassificationEvaluator(dataset_name, folder, bins=cfg.SERIATIM.EVAL.ECE_BINS)
    if kind == "sem_seg":
        return evaluation.SemSegEvaluator(dataset_name, output_dir=str(folder))
    if kind == "coco_panoptic_seg":
        return evaluation.DatasetEvaluators(_panoptic(cfg, dataset_name, metadata, folder))
    own = ["coco", "rotated_coco", "classification", "sem_seg", "coco_panoptic_seg"]
    known = ", ".join([*own, *_DETECTRON2])
    raise InputError(
        f"Dataset {dataset_name} has evaluator_type {kind!r} in its metadata; known are {known}."
    )


def _coco(cfg: CfgNode, dataset_name: str, folder: Path) -> DatasetEvaluator:
    from seriatim.evaluation.coco import CocoEvaluator

    return CocoEvaluator(
        dataset_name,
        folder,
        max_detections=cfg.SERIATIM.EVAL.MAX_DETECTIONS,
        keypoint_sigmas=cfg.TEST.KEYPOINT_OKS_SIGMAS,
    )


def _panoptic(
    cfg: CfgNode, dataset_name: str, metadata: Any, folder: Path
) -> list[DatasetEvaluator]:
    from detectron2 import evaluation

    from seriatim.evaluation.panoptic import PanopticEvaluator

    evaluators = []
    if metadata.get("sem_seg_root"):
        evaluators.append(evaluation.SemSegEvaluator(dataset_name, output_dir=str(folder)))
    if metadata.get("json_file"):
        evaluators.append(_coco(cfg, dataset_name, folder))
    evaluators.append(PanopticEvaluator(dataset_name))
    return evaluators
