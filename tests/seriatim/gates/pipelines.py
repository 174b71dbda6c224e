"""Tiny pipelines on drawn shapes, healthy as they stand; tests plant bugs into them."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from detectron2.data import MetadataCatalog
from torch import nn

from seriatim.engine.trainer import Trainer
from seriatim.gates.base import Gate
from seriatim.gates.context import Context
from seriatim.gates.verdict import Status, Verdict
from seriatim.testing.shapes import make_panoptic_shapes, make_shapes

from ..engine.support import load, write_classifier_config, write_config

TWO_STAGES = {
    "MODEL__META_ARCHITECTURE": "GeneralizedRCNN",
    "MODEL__FPN__IN_FEATURES": ["res2", "res3", "res4", "res5"],
    "MODEL__FPN__TOP_BLOCK": "maxpool",
    "MODEL__ANCHOR_GENERATOR__SIZES": [[8], [16], [32], [64], [128]],
    "MODEL__ANCHOR_GENERATOR__ASPECT_RATIOS": [[0.5, 1.0, 2.0]],
    "MODEL__RPN__IN_FEATURES": ["p2", "p3", "p4", "p5", "p6"],
    "MODEL__RPN__PRE_NMS_TOPK_TRAIN": 100,
    "MODEL__RPN__POST_NMS_TOPK_TRAIN": 50,
    "MODEL__RPN__PRE_NMS_TOPK_TEST": 100,
    "MODEL__RPN__POST_NMS_TOPK_TEST": 50,
    "MODEL__ROI_HEADS__NAME": "StandardROIHeads",
    "MODEL__ROI_HEADS__IN_FEATURES": ["p2", "p3", "p4", "p5"],
    "MODEL__ROI_HEADS__BATCH_SIZE_PER_IMAGE": 32,
    "MODEL__ROI_BOX_HEAD__NAME": "FastRCNNConvFCHead",
    "MODEL__ROI_BOX_HEAD__NUM_FC": 1,
    "MODEL__ROI_BOX_HEAD__FC_DIM": 32,
    "MODEL__ROI_BOX_HEAD__POOLER_RESOLUTION": 7,
}
SEMANTIC = {
    "MODEL__FPN__IN_FEATURES": ["res2", "res3", "res4", "res5"],
    "MODEL__FPN__TOP_BLOCK": "maxpool",
    "MODEL__SEM_SEG_HEAD": {"IN_FEATURES": ["p2", "p3", "p4", "p5"], "CONVS_DIM": 32},
}
KINDS: dict[str, dict] = {
    "retinanet": {"MODEL__RETINANET__NORM": "GN", "MODEL__FPN__OUT_CHANNELS": 32},
    "task_aligned": {
        "MODEL__META_ARCHITECTURE": "TaskAlignedDetector",
        "MODEL__TASK_ALIGNED": {"CHANNELS": 16, "NUM_CONVS": 1},
    },
    "task_aligned_masks": {
        "MODEL__META_ARCHITECTURE": "TaskAlignedDetector",
        "MODEL__MASK_ON": True,
        "MODEL__TASK_ALIGNED": {"CHANNELS": 16, "NUM_CONVS": 1},
    },
    "fcos": {
        "MODEL__META_ARCHITECTURE": "FCOSDetector",
        "MODEL__FPN__OUT_CHANNELS": 32,
        "MODEL__FCOS": {"NUM_CONVS": 1, "IN_FEATURES": ["p3", "p4", "p5"]},
    },
    "faster_rcnn": TWO_STAGES,
    "mask_rcnn": TWO_STAGES
    | {
        "MODEL__MASK_ON": True,
        "MODEL__ROI_MASK_HEAD": {
            "NAME": "MaskRCNNConvUpsampleHead",
            "NUM_CONV": 1,
            "CONV_DIM": 16,
            "POOLER_RESOLUTION": 14,
        },
    },
    "keypoint_rcnn": TWO_STAGES
    | {
        "MODEL__KEYPOINT_ON": True,
        "MODEL__ROI_KEYPOINT_HEAD": {"CONV_DIMS": [16], "POOLER_RESOLUTION": 14},
        "DATALOADER__FILTER_EMPTY_ANNOTATIONS": True,
        # Detectron2's keypoint loss takes views that the channels-last format does not allow.
    },
    "cascade_rcnn": TWO_STAGES
    | {
        "MODEL__ROI_HEADS__NAME": "CascadeROIHeads",
        "MODEL__ROI_BOX_HEAD__CLS_AGNOSTIC_BBOX_REG": True,
    },
    # One level of stride 16, and the last stage of the backbone as the head.
    "c4_rcnn": {
        "MODEL__META_ARCHITECTURE": "GeneralizedRCNN",
        "MODEL__BACKBONE": {"NAME": "build_resnet_backbone", "FREEZE_AT": 0},
        "MODEL__RESNETS": {"NORM": "BN", "STEM_OUT_CHANNELS": 8, "RES2_OUT_CHANNELS": 16}
        | {"WIDTH_PER_GROUP": 8},
        "MODEL__ANCHOR_GENERATOR__SIZES": [[8, 16, 32]],
        "MODEL__ROI_HEADS": {"NAME": "Res5ROIHeads", "BATCH_SIZE_PER_IMAGE": 32},
        "MODEL__RPN": {"POST_NMS_TOPK_TRAIN": 50, "POST_NMS_TOPK_TEST": 50},
    },
    "rotated_rcnn": TWO_STAGES
    | {
        "MODEL__ANCHOR_GENERATOR__NAME": "RotatedAnchorGenerator",
        "MODEL__ANCHOR_GENERATOR__ANGLES": [[-60, 0, 60]],
        "MODEL__PROPOSAL_GENERATOR__NAME": "RRPN",
        "MODEL__RPN__BBOX_REG_WEIGHTS": [1.0] * 5,
        "MODEL__ROI_HEADS__NAME": "RROIHeads",
        "MODEL__ROI_BOX_HEAD__POOLER_TYPE": "ROIAlignRotated",
        "MODEL__ROI_BOX_HEAD__BBOX_REG_WEIGHTS": [10.0, 10.0, 5.0, 5.0, 1.0],
        "INPUT__RANDOM_FLIP": "horizontal",
    },
    "rpn": {key: value for key, value in TWO_STAGES.items() if "__ROI_" not in key}
    | {"MODEL__META_ARCHITECTURE": "ProposalNetwork"},
    "semantic": SEMANTIC | {"MODEL__META_ARCHITECTURE": "SemanticSegmentor"},
}
KINDS["panoptic"] = KINDS["mask_rcnn"] | SEMANTIC | {"MODEL__META_ARCHITECTURE": "PanopticFPN"}


def rotated(folder: Path) -> dict:
    """Every object in a box that is turned by its own angle."""
    datasets = []
    for split, images, seed in (("train", 12, 1), ("val", 4, 2)):
        path = make_shapes(folder / split, images, seed, size=(64, 64))
        content = json.loads(path.read_text())
        for number, annotation in enumerate(content["annotations"]):
            x, y, width, height = annotation["bbox"]
            box = [x + width / 2, y + height / 2, width, 0.8 * height, 17 * number % 90 - 45]
            annotation["attributes"] = {"rbox": box}
        path.write_text(json.dumps(content))
        datasets.append(_entry(folder, split, JSON=path, ROTATED=True))
    return {"SERIATIM__DATASETS": datasets}


def semantic(folder: Path) -> dict:
    """A label for every pixel."""
    return {"SERIATIM__DATASETS": [_labels(folder, split, False) for split in ("train", "val")]}


def panoptic(folder: Path) -> dict:
    """Objects, and labels for what is around them."""
    return {"SERIATIM__DATASETS": [_labels(folder, split, True) for split in ("train", "val")]}


def _labels(folder: Path, split: str, objects: bool) -> dict:
    images, seed = {"train": (12, 1), "val": (4, 2)}[split]
    drawn = make_panoptic_shapes(folder / split, images, seed, size=(64, 64))
    if not objects:
        stuff = ["things", "sky", "ground"]
        return _entry(folder, split, SEM_SEG_ROOT=drawn.sem_seg_root, STUFF_CLASSES=stuff)
    return _entry(
        folder,
        split,
        JSON=drawn.instances_json,
        SEM_SEG_ROOT=drawn.sem_seg_root,
        PANOPTIC_JSON=drawn.panoptic_json,
        PANOPTIC_ROOT=drawn.panoptic_root,
    )


def _entry(folder: Path, split: str, **more) -> dict:
    entry = {"NAME": f"{folder.name}_{split}", "IMAGES": str(folder / split / "images")}
    return entry | {k: str(v) if isinstance(v, Path) else v for k, v in more.items()}


CLASSIFIER = "classifier"  # a kind beside KINDS, on images that have a label as a whole
# Kinds that need other labels than boxes: what draws them and gives the config's keys for them.
LABELS: dict[str, Callable[[Path], dict]] = {
    "rotated_rcnn": rotated,
    "semantic": semantic,
    "panoptic": panoptic,
}


def trainer_that(change: Callable[[nn.Module], None]) -> type[Trainer]:
    """A trainer whose models go through `change`."""

    class Changed(Trainer):
        @classmethod
        def build_model(cls, cfg):
            model = super().build_model(cfg)
            change(model)
            return model

    return Changed


def pipeline(folder: Path, kind: str, trainer_class: type | None = None, **changes) -> Context:
    """The healthy pipeline of a kind, but for `changes` (keys with __ for a dot)."""
    if kind == CLASSIFIER:
        return Context(load(write_classifier_config(folder, **changes)), trainer_class)
    labels = LABELS[kind](folder) if kind in LABELS else {}
    settings = copy.deepcopy({**KINDS[kind], **labels, **changes})
    return Context(load(write_config(folder, **settings)), trainer_class)


def ask(gate: Gate, context: Context, folder: Path) -> Verdict:
    """The gate's verdict; its own folder lies in `folder`."""
    (folder / "gate").mkdir(exist_ok=True)
    return gate.run(context, folder / "gate")


def assert_healthy(verdict: Verdict) -> None:
    assert verdict.status is Status.PASS, verdict.paragraph("gate")


def assert_caught(verdict: Verdict, *words: str) -> None:
    """It failed, and one of the first two causes of a finding holds all of `words`."""
    assert verdict.status is Status.FAIL, verdict.summary
    causes = [str(cause) for finding in verdict.findings for cause in finding.causes[:2]]
    assert any(all(word in cause for word in words) for cause in causes), verdict.paragraph("gate")


@contextmanager
def metadata_changed(name: str, **changes) -> Iterator[None]:
    """A dataset with other metadata, which is otherwise written once."""
    before = MetadataCatalog.get(name).as_dict()
    _set_metadata(name, {**before, **changes})
    try:
        yield
    finally:
        _set_metadata(name, before)


def _set_metadata(name: str, values: dict) -> None:
    MetadataCatalog.remove(name)
    MetadataCatalog.get(name).set(**{k: v for k, v in values.items() if k != "name"})
