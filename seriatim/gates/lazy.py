"""A LazyConfig as gates take it: a CfgNode of what they read, and a trainer that instantiates it.

Gates change a pipeline by keys of a CfgNode (other datasets, smaller batches). The trainer carries
what they may change over into a copy of the LazyConfig before it instantiates a part of it.
"""

from __future__ import annotations

import copy
import hashlib
import itertools
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode, instantiate
from detectron2.data import DatasetCatalog
from detectron2.data import transforms as T
from detectron2.evaluation import DatasetEvaluator
from detectron2.solver import LRMultiplier
from omegaconf import DictConfig, ListConfig, OmegaConf
from torch import nn

from dataset_tools.errors import InputError
from seriatim.config import get_cfg
from seriatim.engine.trainer import Trainer

# Key of the CfgNode → where a LazyConfig says the same; the first that is there counts.
SAME: dict[str, tuple[str, ...]] = {
    "DATALOADER.FILTER_EMPTY_ANNOTATIONS": ("dataloader.train.dataset.filter_empty",),
    "DATALOADER.NUM_WORKERS": ("dataloader.train.num_workers",),
    "INPUT.FORMAT": ("dataloader.train.mapper.image_format",),
    "MODEL.DEVICE": ("train.device",),
    "MODEL.KEYPOINT_ON": ("dataloader.train.mapper.use_keypoint",),
    "MODEL.MASK_ON": ("dataloader.train.mapper.use_instance_mask",),
    "MODEL.PIXEL_MEAN": ("model.pixel_mean",),
    "MODEL.PIXEL_STD": ("model.pixel_std",),
    "MODEL.FCOS.PRIOR_PROB": ("model.head.prior_prob",),
    "MODEL.RETINANET.PRIOR_PROB": ("model.head.prior_prob",),
    "MODEL.WEIGHTS": ("train.init_checkpoint",),
    "OUTPUT_DIR": ("train.output_dir",),
    "SOLVER.BASE_LR": ("optimizer.lr",),
    "SOLVER.IMS_PER_BATCH": ("dataloader.train.total_batch_size",),
    "SOLVER.MAX_ITER": ("train.max_iter",),
    "TEST.DETECTIONS_PER_IMAGE": (
        "model.max_detections_per_image",
        "model.roi_heads.box_predictor.test_topk_per_image",
    ),
}
PARTS = ("model", "optimizer", "lr_multiplier", "dataloader")  # what verdicts depend on


def pipeline(lazy: DictConfig, file: str | Path) -> tuple[CfgNode, type[Trainer]]:
    """What `seriatim.gates.run` takes, of the LazyConfig that `file` gave.

    Raises:
        InputError: its datasets are not named as Detectron2's configs name them.
    """
    cfg = get_cfg()
    cfg.DATASETS.TRAIN = _names(lazy, "train", file)
    cfg.DATASETS.TEST = _names(lazy, "test", file) if "test" in lazy.dataloader else ()
    for key, places in SAME.items():
        found = (OmegaConf.select(lazy, place) for place in places)
        value = next((value for value in found if value is not None), None)
        if value is not None:
            cfg.merge_from_list([key, _plain(value, like=_value(cfg, key))])
    cfg.MODEL.META_ARCHITECTURE = _name_of(lazy.model._target_).rpartition(".")[2]
    cfg.MODEL.BACKBONE.NAME = _name_of(OmegaConf.select(lazy, "model.backbone._target_") or "")
    cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST = _resizing(lazy, cfg)
    cfg.SEED = max(lazy.train.seed, 0)
    half = "bfloat16" if cfg.MODEL.DEVICE == "cpu" else "float16"
    cfg.SERIATIM.SOLVER.PRECISION = half if lazy.train.amp.enabled else "float32"
    cfg.SERIATIM.SOLVER.CHANNELS_LAST = "off"
    cfg.freeze()
    return cfg, trainer_of(lazy, file)


def trainer_of(lazy: DictConfig, file: str | Path) -> type[Trainer]:
    """A trainer whose parts are the LazyConfig's own."""

    class LazyPipeline(Trainer):
        made_from = digest(lazy, file)

        @classmethod
        def build_model(cls, cfg: CfgNode) -> nn.Module:
            return instantiate(lazy.model).to(cfg.MODEL.DEVICE)

        @classmethod
        def build_optimizer(cls, cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
            part = copy.deepcopy(lazy.optimizer)
            if "lr" in part:
                part.lr = cfg.SOLVER.BASE_LR
            part.params.model = model
            return instantiate(part)

        @classmethod
        def build_lr_scheduler(cls, cfg: CfgNode, optimizer: torch.optim.Optimizer) -> Any:
            return LRMultiplier(optimizer, instantiate(lazy.lr_multiplier), cfg.SOLVER.MAX_ITER)

        @classmethod
        def build_train_loader(cls, cfg: CfgNode, start_iteration: int = 0) -> Iterable:
            parts = copy.deepcopy(lazy.dataloader)
            parts.train.dataset.names = list(cfg.DATASETS.TRAIN)
            parts.train.total_batch_size = cfg.SOLVER.IMS_PER_BATCH
            parts.train.num_workers = cfg.DATALOADER.NUM_WORKERS
            if cfg.SERIATIM.DETERMINISTIC_DEBUG and "test" in parts:
                parts.train.mapper.augmentations = parts.test.mapper.augmentations
            loader = instantiate(parts.train)
            return itertools.islice(loader, start_iteration, None) if start_iteration else loader

        @classmethod
        def build_test_loader(cls, cfg: CfgNode, dataset_name: str) -> Iterable:
            parts = copy.deepcopy(lazy.dataloader)
            parts.test.dataset.names = dataset_name
            parts.test.num_workers = cfg.DATALOADER.NUM_WORKERS
            return instantiate(parts.test)

        @classmethod
        def build_mapper(cls, cfg: CfgNode, is_train: bool, **overrides: Any) -> Any:
            loader = lazy.dataloader.train if is_train else lazy.dataloader.test
            mapper = instantiate(loader.mapper)
            if "augmentations" in overrides:
                mapper.augmentations = T.AugmentationList(overrides["augmentations"])
            return mapper

        @classmethod
        def build_evaluator(cls, cfg: CfgNode, dataset_name: str) -> DatasetEvaluator:
            if "evaluator" not in lazy.dataloader:
                return super().build_evaluator(cfg, dataset_name)
            parts = copy.deepcopy(lazy.dataloader)
            parts.evaluator.dataset_name = dataset_name
            folder = Path(cfg.OUTPUT_DIR) / "inference" / dataset_name
            parts.evaluator.output_dir = str(folder)
            return instantiate(parts.evaluator)

    return LazyPipeline


def digest(lazy: DictConfig, file: str | Path) -> str:
    """A hash of all of the config that a verdict can depend on, and of the program that gave it."""
    parts = {
        name: OmegaConf.to_container(lazy[name], resolve=False) for name in PARTS if name in lazy
    }
    text = json.dumps([parts, lazy.train.init_checkpoint, lazy.train.max_iter], default=_name_of)
    return hashlib.sha256(text.encode() + Path(file).read_bytes()).hexdigest()


def _names(lazy: DictConfig, part: str, file: str | Path) -> tuple[str, ...]:
    names = OmegaConf.select(lazy, f"dataloader.{part}.dataset.names")
    names = list(names) if isinstance(names, ListConfig) else [names]
    unknown = [name for name in names if name not in DatasetCatalog.list()]
    if unknown:
        what = "is not given" if unknown == [None] else f"names {unknown[0]}, which is unknown"
        raise InputError(
            f"Gates cannot be asked of {file}: dataloader.{part}.dataset.names {what}. Register the"
            " dataset in Detectron2's DatasetCatalog and name it there, as Detectron2's own"
            " configs do, or train without gates: --gates off."
        )
    return tuple(names)


def _resizing(lazy: DictConfig, cfg: CfgNode) -> tuple[int, int]:
    """The edges (short, longest) in px that the test mapper resizes to; 0: as the files are."""
    steps = OmegaConf.select(lazy, "dataloader.test.mapper.augmentations") or []
    for step in steps:
        edge = step.get("short_edge_length") if isinstance(step, DictConfig) else None
        if edge is not None:
            edge = max(edge) if isinstance(edge, ListConfig) else edge
            return int(edge), int(step.get("max_size", cfg.INPUT.MAX_SIZE_TEST))
    return 0, cfg.INPUT.MAX_SIZE_TEST


def _value(cfg: CfgNode, key: str) -> Any:
    for part in key.split("."):
        cfg = cfg[part]
    return cfg


def _plain(value: Any, like: Any) -> Any:
    value = OmegaConf.to_container(value) if isinstance(value, ListConfig) else value
    return type(like)(value) if isinstance(like, bool | int | float | str) else value


def _name_of(thing: Any) -> str:
    """Of a class or function its full name, of another object its type's; texts as they are."""
    if isinstance(thing, str):
        return thing
    named = thing if hasattr(thing, "__qualname__") else type(thing)
    return f"{named.__module__}.{named.__qualname__}"
