"""The mapper that a config's data asks for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import transforms as T

from seriatim.data.augmentations import build_augmentations
from seriatim.data.catalog import is_classification
from seriatim.data.classification.augmentations import build_label_augmentations
from seriatim.data.classification.mapper import ClassificationMapper
from seriatim.data.mapper import SeriatimMapper
from seriatim.data.records import Record

Mapper = Callable[[Record], Record]


def classifies(cfg: CfgNode) -> bool:
    """Whether the datasets of a config have labels of whole images."""
    return any(is_classification(name) for name in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST))


def build_mapper(cfg: CfgNode, is_train: bool, **overrides: Any) -> Mapper:
    """Record of a dataset → input of the model; `overrides` replace arguments of the mapper."""
    kind = ClassificationMapper if classifies(cfg) else SeriatimMapper
    return kind(cfg, is_train=is_train, **overrides)


def fixed_augmentations(cfg: CfgNode) -> list[T.Augmentation]:
    """Those of testing."""
    build = build_label_augmentations if classifies(cfg) else build_augmentations
    return build(cfg, is_train=False)
