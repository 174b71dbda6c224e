"""What a config takes from the data: the numbers of classes and keypoints."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog

from dataset_tools.errors import InputError
from seriatim.data.catalog import is_classification
from seriatim.data.checks import require_known
from seriatim.data.loader import training_records
from seriatim.modeling.classification_losses import NEED_COUNTS

logger = logging.getLogger(__name__)

COCO_KEYPOINTS = 17
# About the mean of COCO's own sigmas, which are half the spread of people's labels
# (cocodataset.org).
DEFAULT_SIGMA = 0.07


def resolve_num_classes(cfg: CfgNode) -> None:
    """Fill every NUM_CLASSES, and NUM_KEYPOINTS, that is 0 from DATASETS.TRAIN and TEST.

    With keypoints other than COCO's 17, an empty TEST.KEYPOINT_OKS_SIGMAS becomes 0.07 for each.

    Raises:
        InputError: a dataset is unknown, there is none, the datasets differ in their categories, or
        a
            number that the meta-architecture reads contradicts them.
    """
    names = [*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST]
    if not names:
        raise InputError(
            "DATASETS.TRAIN and DATASETS.TEST are empty. Describe your data in SERIATIM.DATASETS"
            " and name it in DATASETS.TRAIN, or in DATASETS.TEST to evaluate only."
        )
    require_known(cfg, names)
    things, stuff = shared_metadata(names, "thing_classes"), shared_metadata(names, "stuff_classes")
    for path, group in _groups_with_classes(cfg.MODEL, "MODEL"):
        classes = stuff if path == "MODEL.SEM_SEG_HEAD" else things
        if classes is None:
            continue
        if group.NUM_CLASSES == 0:
            group.NUM_CLASSES = len(classes)
        elif len(classes) != group.NUM_CLASSES and _is_read(cfg, path):
            shown = f"{', '.join(classes[:12])}{', …' if len(classes) > 12 else ''}"
            raise InputError(
                f"{path}.NUM_CLASSES is {group.NUM_CLASSES}, but the data ({', '.join(names)}) has"
                f" {len(classes)} categories: {shown}. Set it to {len(classes)}, or to 0 to take"
                " it from the data."
            )
    if cfg.MODEL.KEYPOINT_ON:
        _resolve_keypoints(cfg, names)


def resolve_class_counts(cfg: CfgNode) -> None:
    """Fill an empty MODEL.CLASSIFIER.CLASS_COUNTS from the labels that training sees, where
    MODEL.CLASSIFIER.LOSS weighs classes by them."""
    options = cfg.MODEL.CLASSIFIER
    wanted = cfg.DATASETS.TRAIN and options.LOSS in NEED_COUNTS and not options.CLASS_COUNTS
    if wanted and all(is_classification(name) for name in cfg.DATASETS.TRAIN):
        labels = [record["label"] for record in training_records(cfg)[1]]
        counts = np.bincount(labels, minlength=options.NUM_CLASSES)
        options.CLASS_COUNTS = tuple(counts.tolist())


def shared_metadata(names: Sequence[str], field: str) -> list[str] | None:
    """The list of names that all datasets have under `field`, or None where they have none."""
    first, *others = ((name, list(MetadataCatalog.get(name).get(field) or [])) for name in names)
    for name, values in others:
        if values != first[1]:
            raise InputError(
                f"{first[0]} and {name} differ in their {field}: {_difference(first[1], values)}."
                " Datasets that are used together need the same ones in the same order; `python"
                " -m dataset_tools merge` makes them so."
            )
    return first[1] or None


def _difference(a: list[str], b: list[str]) -> str:
    only_a, only_b = [x for x in a if x not in b], [x for x in b if x not in a]
    if not only_a and not only_b:
        return f"the order is {', '.join(a)} and {', '.join(b)}"
    parts = [("first", only_a), ("second", only_b)]
    return ", ".join(f"only the {which} has {', '.join(x)}" for which, x in parts if x)


def _groups_with_classes(node: CfgNode, path: str) -> Iterator[tuple[str, CfgNode]]:
    for key, value in node.items():
        if isinstance(value, CfgNode):
            if "NUM_CLASSES" in value:
                yield f"{path}.{key}", value
            yield from _groups_with_classes(value, f"{path}.{key}")


_READERS = {
    "MODEL.CLASSIFIER": {"ImageClassifier"},
    "MODEL.RETINANET": {"RetinaNet"},
    "MODEL.ROI_HEADS": {"GeneralizedRCNN", "PanopticFPN"},
    "MODEL.SEM_SEG_HEAD": {"SemanticSegmentor", "PanopticFPN"},
}


def _is_read(cfg: CfgNode, group: str) -> bool:
    """Whether the meta-architecture reads this group; of ours and the user's, the one named like
    it.
    """
    architecture = cfg.MODEL.META_ARCHITECTURE
    if group in _READERS:
        return architecture in _READERS[group]
    name = group.rpartition(".")[2].replace("_", "").lower()
    return architecture.lower().startswith(name)


def _resolve_keypoints(cfg: CfgNode, names: Sequence[str]) -> None:
    keypoints = shared_metadata(names, "keypoint_names")
    if keypoints is None:
        return
    head = cfg.MODEL.ROI_KEYPOINT_HEAD
    if head.NUM_KEYPOINTS == 0:
        head.NUM_KEYPOINTS = len(keypoints)
    elif len(keypoints) != head.NUM_KEYPOINTS:
        raise InputError(
            f"MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS is {head.NUM_KEYPOINTS}, but the data has"
            f" {len(keypoints)}: {', '.join(keypoints)}. Set it to {len(keypoints)}, or to 0 to"
            " take it from the data."
        )
    sigmas = cfg.TEST.KEYPOINT_OKS_SIGMAS
    if not sigmas and len(keypoints) != COCO_KEYPOINTS:
        cfg.TEST.KEYPOINT_OKS_SIGMAS = [DEFAULT_SIGMA] * len(keypoints)
        logger.info(f"TEST.KEYPOINT_OKS_SIGMAS is empty: {DEFAULT_SIGMA} for each keypoint")
    elif sigmas and len(sigmas) != len(keypoints):
        raise InputError(
            f"TEST.KEYPOINT_OKS_SIGMAS has {len(sigmas)} numbers for {len(keypoints)} keypoints."
        )
