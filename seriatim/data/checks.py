"""Whether a config and its datasets fit together, asked before a model is built."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog

from dataset_tools.errors import InputError
from seriatim.data.catalog import Facts, dataset_facts

CHANNELS = {"BGR": 3, "RGB": 3, "L": 1, "YUV-BT.601": 3}


def check_data(cfg: CfgNode) -> None:
    """Check the keys that say what is read from the data and how, against the data itself.

    Raises:
        InputError: for the first thing that is wrong.
    """
    _check_input(cfg)
    _check_augmentation(cfg)
    _check_semi(cfg)
    names = [*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST]
    require_known(cfg, names)
    for name in names:
        facts = dataset_facts(name)
        if facts is not None:
            _check_dataset(cfg, name, facts, is_train=name in cfg.DATASETS.TRAIN)


def require_known(cfg: CfgNode, names: Iterable[str]) -> None:
    """Every name must be a registered dataset whose annotation file is there.

    Raises:
        InputError: one is not; names that are alike are proposed.
    """
    known = DatasetCatalog.list()
    own = [entry["NAME"] for entry in cfg.SERIATIM.DATASETS]
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, own, n=3) or difflib.get_close_matches(
                name, known, n=3
            )
            hint = f" Did you mean {' or '.join(near)}?" if near else ""
            raise InputError(
                f"DATASETS names {name}, which is not registered.{hint} SERIATIM.DATASETS"
                f" describes: {', '.join(own) or 'nothing'}."
            )
        json_file = MetadataCatalog.get(name).get("json_file")
        if name not in own and json_file and not Path(json_file).is_file():
            raise InputError(
                f"The dataset {name} is one that Detectron2 knows by name, but its file"
                f" {json_file} is not there. For your own data describe it in SERIATIM.DATASETS"
                " and name it in DATASETS.TRAIN and DATASETS.TEST; for this one set the"
                " environment variable DETECTRON2_DATASETS to the folder that holds it."
            )


def _check_input(cfg: CfgNode) -> None:
    channels = CHANNELS.get(cfg.INPUT.FORMAT)
    if channels is None:
        raise InputError(f"INPUT.FORMAT is {cfg.INPUT.FORMAT}; there are {', '.join(CHANNELS)}.")
    for key in ("PIXEL_MEAN", "PIXEL_STD"):
        if len(cfg.MODEL[key]) != channels and not cfg.SERIATIM.DATA.NORMALISE:
            raise InputError(
                f"MODEL.{key} has {len(cfg.MODEL[key])} numbers, but images in INPUT.FORMAT"
                f" {cfg.INPUT.FORMAT} have {channels} channels."
            )
    if cfg.INPUT.MASK_FORMAT not in ("polygon", "bitmask"):
        raise InputError(
            f"INPUT.MASK_FORMAT is {cfg.INPUT.MASK_FORMAT}; there are polygon and bitmask."
        )


def _check_augmentation(cfg: CfgNode) -> None:
    aug = cfg.SERIATIM.AUG
    if not aug.ENABLED:
        return
    for key in ("HFLIP", "VFLIP", "ROT90", "MOSAIC", "COPY_PASTE", "MIN_AREA_SHARE"):
        if not 0 <= aug[key] <= 1:
            raise InputError(f"SERIATIM.AUG.{key} is {aug[key]}; it lies between 0 and 1.")
    for key in ("BRIGHTNESS", "CONTRAST", "SATURATION"):
        if not 0 <= aug[key] < 1:
            raise InputError(f"SERIATIM.AUG.{key} is {aug[key]}; it is at least 0 and below 1.")
    for key, least in (("SIZE", 1), ("SCALE", 1e-6)):
        if len(aug[key]) != 2 or min(aug[key]) < least:
            raise InputError(f"SERIATIM.AUG.{key} is {aug[key]}; it takes two numbers above 0.")
    if aug.SCALE[0] > aug.SCALE[1]:
        raise InputError(f"SERIATIM.AUG.SCALE is {aug.SCALE}; the smaller number comes first.")
    if aug.COPY_PASTE > 0 and cfg.MODEL.MASK_ON and cfg.INPUT.MASK_FORMAT != "bitmask":
        raise InputError(
            "SERIATIM.AUG.COPY_PASTE cuts masks out of one another, which leaves no polygons: set"
            " INPUT.MASK_FORMAT to bitmask."
        )
    if (aug.COPY_PASTE > 0 or aug.MOSAIC > 0) and cfg.MODEL.LOAD_PROPOSALS:
        raise InputError("SERIATIM.AUG.MOSAIC and COPY_PASTE do not go with MODEL.LOAD_PROPOSALS.")


def _check_semi(cfg: CfgNode) -> None:
    semi = cfg.SERIATIM.SEMI
    for key in ("LABELS_PER_CLASS", "VALIDATION_PER_CLASS", "UNLABELED_RATIO"):
        if semi[key] < 0:
            raise InputError(f"SERIATIM.SEMI.{key} is {semi[key]}; it is at least 0.")
    for view in semi.VIEWS:
        if view not in ("weak", "strong"):
            raise InputError(f"SERIATIM.SEMI.VIEWS has {view!r}; a view is weak or strong.")


def _check_classification(cfg: CfgNode, name: str) -> None:
    keys = cfg.SERIATIM.CLASSIFICATION
    if cfg.INPUT.FORMAT not in ("RGB", "BGR", "L"):
        raise InputError(f"INPUT.FORMAT {cfg.INPUT.FORMAT}: for labels of images RGB, BGR or L.")
    if len(keys.SIZE) not in (0, 2) or min(keys.SIZE, default=1) < 1:
        raise InputError(
            f"SERIATIM.CLASSIFICATION.SIZE is {keys.SIZE}; it is (height, width) px or ()."
        )
    if keys.CROP not in ("none", "pad", "area") or (keys.CROP == "area" and not keys.SIZE):
        raise InputError(
            f"SERIATIM.CLASSIFICATION.CROP is {keys.CROP!r}; it is none, pad, or, with a SIZE,"
            " area."
        )
    if keys.PAD_MODE not in ("reflect", "zero"):
        raise InputError(
            f"SERIATIM.CLASSIFICATION.PAD_MODE is {keys.PAD_MODE!r}; it is reflect or zero."
        )
    for key, low, high in (
        ("TEST_SHARE", 0.01, 1),
        ("HFLIP", 0, 1),
        ("RANDAUGMENT", 0, 14),
        ("RANDAUGMENT_MAGNITUDE", 0, 30),
        ("CUTOUT", 0, 1),
    ):
        if not low <= keys[key] <= high:
            raise InputError(
                f"SERIATIM.CLASSIFICATION.{key} is {keys[key]}; it lies from {low} to {high}."
            )
    dataset = DatasetCatalog.get(name)
    sizes = zip(dataset.heights.tolist(), dataset.widths.tolist(), strict=True)
    if not keys.SIZE and len(set(sizes)) > 1:
        raise InputError(
            f"The images of {name} are of different sizes, and a batch needs one: set"
            " SERIATIM.CLASSIFICATION.SIZE to (height, width) px."
        )


_SEMANTIC = {"SemanticSegmentor": ("semantic", "panoptic", "panoptic_separated")}
_BOXES = ("instances", "rotated", "panoptic_separated")


def _check_dataset(cfg: CfgNode, name: str, facts: Facts, is_train: bool) -> None:
    architecture = cfg.MODEL.META_ARCHITECTURE
    if architecture == "ImageClassifier" and facts.kind != "classification":
        raise InputError(
            f"ImageClassifier needs labels of whole images, but those of {name} are {facts.kind}."
            " Where each annotation covers its image, say CLASSIFICATION: True in the dataset's"
            " entry."
        )
    wanted = _SEMANTIC.get(architecture, _BOXES)
    if architecture == "PanopticFPN":
        wanted = ("panoptic_separated",)
    elif architecture in _DETECTORS and architecture != "GeneralizedRCNN":
        wanted = ("instances", "panoptic_separated")
    if architecture in _DETECTORS | _SEMANTIC.keys() and facts.kind not in wanted:
        raise InputError(
            f"{architecture} cannot use {name}, whose labels are {facts.kind.replace('_', ', ')};"
            f" it takes {' or '.join(kind.replace('_', ', ') for kind in wanted)}."
            " seriatim/data/catalog.py lists which keys of SERIATIM.DATASETS make which."
        )
    rotated_model = cfg.MODEL.PROPOSAL_GENERATOR.NAME == "RRPN"
    if architecture == "GeneralizedRCNN" and (facts.kind == "rotated") != rotated_model:
        have, other = ("rotated", "upright") if facts.kind == "rotated" else ("upright", "rotated")
        raise InputError(
            f"The boxes of {name} are {have}, but MODEL.PROPOSAL_GENERATOR.NAME"
            f" {cfg.MODEL.PROPOSAL_GENERATOR.NAME} makes a model of {other} ones."
        )
    if facts.kind == "classification":
        _check_classification(cfg, name)
    if is_train and facts.kind in _BOXES:
        _check_objects(cfg, name, facts)


_DETECTORS = {"GeneralizedRCNN", "RetinaNet", "PanopticFPN", "TaskAlignedDetector", "FCOSDetector"}


def _check_objects(cfg: CfgNode, name: str, facts: Facts) -> None:
    if facts.annotations == 0:
        raise InputError(
            f"The training set {name} has {facts.images} images but not one object to learn from."
        )
    masks = facts.polygons + facts.rles
    pastes = cfg.SERIATIM.AUG.ENABLED and cfg.SERIATIM.AUG.COPY_PASTE > 0
    for key, wants in (("MODEL.MASK_ON", cfg.MODEL.MASK_ON), ("SERIATIM.AUG.COPY_PASTE", pastes)):
        if wants and (masks == 0 or (masks < facts.annotations and cfg.MODEL.MASK_ON)):
            raise InputError(
                f"{key} needs masks, but {facts.annotations - masks} of the {facts.annotations}"
                f" objects in {name} have none. Turn it off, or use data with masks."
            )
    if cfg.MODEL.MASK_ON and facts.rles and cfg.INPUT.MASK_FORMAT == "polygon":
        raise InputError(
            f"{facts.rles} masks in {name} are bitmaps (RLE), which INPUT.MASK_FORMAT polygon"
            " cannot hold. Set INPUT.MASK_FORMAT to bitmask."
        )
    if cfg.MODEL.KEYPOINT_ON and not (facts.keypoint_names and facts.keypoints):
        raise InputError(
            f"MODEL.KEYPOINT_ON needs keypoints, but {name} has none, or its categories do not"
            " agree in them. Turn it off, or use data whose categories name the same keypoints."
        )
