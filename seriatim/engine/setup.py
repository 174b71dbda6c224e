"""From a command line to a config that is resolved, checked and ready to run."""

from __future__ import annotations

import argparse
import logging
import math
import os
import random
import shutil
from pathlib import Path

import torch
import yaml
from detectron2.config import CfgNode
from detectron2.engine import DefaultTrainer
from detectron2.utils import comm

from dataset_tools.errors import InputError
from dataset_tools.files import write_text
from seriatim.config import get_cfg, load_config
from seriatim.data.build import classifies
from seriatim.data.catalog import register_datasets
from seriatim.data.checks import check_data
from seriatim.data.classes import resolve_class_counts, resolve_num_classes
from seriatim.data.loader import training_records
from seriatim.data.statistics import resolve_normalisation
from seriatim.engine.auto import resolve_auto
from seriatim.engine.checkpointer import remove_leftovers
from seriatim.engine.hooks.metric import MODES
from seriatim.engine.logs import setup_logging
from seriatim.engine.optimizer import OPTIMIZERS, scale_learning_rate
from seriatim.engine.state import seed_everything
from seriatim.hardware import choose_device, choose_memory_format, choose_precision
from seriatim.modeling.backbone.timm_backbone import resolve_pixel_statistics

logger = logging.getLogger(__name__)
SCHEDULES = ("WarmupMultiStepLR", "WarmupCosineLR", "WarmupStepWithFixedGammaLR")
# What a run leaves in OUTPUT_DIR, and --overwrite removes.
RUN_FILES = (
    "model_*.pth",
    ".model_*.pth",
    "last_checkpoint",
    "metrics.json",
    "config.yaml",
    "log.txt*",
    "events.out.tfevents.*",
)


def setup(args: argparse.Namespace) -> CfgNode:
    """The frozen config of `args.config_file` and `args.opts`, with the datasets registered.

    What the config leaves open is filled in: device, number of classes, schedule, seed. The global
    generators are seeded. Nothing is written.

    Raises:
        InputError: anything in the config contradicts itself, the data or this machine.
    """
    setup_logging(None, comm.get_rank())
    cfg = load_config(args.config_file, args.opts)
    if getattr(args, "auto", None):
        cfg.SERIATIM.AUTO_MINUTES = args.auto
    register_datasets(cfg)
    cfg.MODEL.DEVICE = str(choose_device(cfg.MODEL.DEVICE))
    resolve_num_classes(cfg)
    resolve_pixel_statistics(cfg)
    validate(cfg)
    check_data(cfg)
    resolve_normalisation(cfg)
    resolve_class_counts(cfg)
    resolve_best_metric(cfg)
    cfg = DefaultTrainer.auto_scale_workers(cfg, comm.get_world_size())
    resolve_auto(cfg, args)
    resolve_schedule(cfg)
    resolve_seed(cfg, resume=getattr(args, "resume", False))
    cfg.freeze()
    set_determinism(cfg)
    seed_everything(cfg.SEED + comm.get_rank())
    return cfg


def validate(cfg: CfgNode) -> None:
    """Check everything that can be checked before a model is built.

    Raises:
        InputError: for the first thing that is wrong.
    """
    from detectron2.modeling import BACKBONE_REGISTRY, META_ARCH_REGISTRY

    import seriatim.modeling  # noqa: F401 (registers our architectures and backbones)

    _one_of(
        "MODEL.META_ARCHITECTURE", cfg.MODEL.META_ARCHITECTURE, [n for n, _ in META_ARCH_REGISTRY]
    )
    _one_of("MODEL.BACKBONE.NAME", cfg.MODEL.BACKBONE.NAME, [n for n, _ in BACKBONE_REGISTRY])
    _one_of("SERIATIM.SOLVER.OPTIMIZER", cfg.SERIATIM.SOLVER.OPTIMIZER, OPTIMIZERS)
    _one_of("SOLVER.LR_SCHEDULER_NAME", cfg.SOLVER.LR_SCHEDULER_NAME, SCHEDULES)
    _one_of("SERIATIM.HOOKS.BEST_MODE", cfg.SERIATIM.HOOKS.BEST_MODE, MODES)
    choose_precision(cfg.SERIATIM.SOLVER.PRECISION, cfg.MODEL.DEVICE)
    choose_memory_format(cfg.SERIATIM.SOLVER.CHANNELS_LAST, cfg.MODEL.DEVICE)
    _positive("SOLVER.IMS_PER_BATCH", cfg.SOLVER.IMS_PER_BATCH)
    _positive("SERIATIM.SOLVER.ACCUMULATE", cfg.SERIATIM.SOLVER.ACCUMULATE)
    _positive("SERIATIM.HOOKS.LOG_PERIOD", cfg.SERIATIM.HOOKS.LOG_PERIOD)
    _positive("SERIATIM.HOOKS.WATCH_PERIOD", cfg.SERIATIM.HOOKS.WATCH_PERIOD)
    _positive("SOLVER.BASE_LR", cfg.SOLVER.BASE_LR)
    if not 0 <= cfg.SERIATIM.SOLVER.EMA_DECAY < 1:
        raise InputError(
            f"SERIATIM.SOLVER.EMA_DECAY is {cfg.SERIATIM.SOLVER.EMA_DECAY}; it is at least 0 and"
            " below 1."
        )
    if cfg.SERIATIM.SOLVER.OPTIMIZER == "SGD" and cfg.SOLVER.NESTEROV and cfg.SOLVER.MOMENTUM <= 0:
        raise InputError("SOLVER.NESTEROV needs SOLVER.MOMENTUM > 0.")
    processes = comm.get_world_size()
    if cfg.SOLVER.IMS_PER_BATCH % processes:
        raise InputError(
            f"SOLVER.IMS_PER_BATCH {cfg.SOLVER.IMS_PER_BATCH} cannot be shared evenly by"
            f" {processes} processes."
        )
    weights = cfg.MODEL.WEIGHTS
    if weights and "://" not in weights and not Path(weights).expanduser().is_file():
        raise InputError(f"MODEL.WEIGHTS: there is no file {weights}.")


def _one_of(key: str, value: str, choices) -> None:
    if value not in choices:
        raise InputError(f"{key} is {value!r}; it can be one of {', '.join(sorted(choices))}.")


def _positive(key: str, value: float) -> None:
    if not value > 0:
        raise InputError(f"{key} is {value}; it must be above 0.")


def resolve_best_metric(cfg: CfgNode) -> None:
    """Classifiers have no AP: where BEST_METRIC was left as it is, theirs is top-1."""
    hooks, tests = cfg.SERIATIM.HOOKS, cfg.DATASETS.TEST
    if classifies(cfg) and tests and hooks.BEST_METRIC == get_cfg().SERIATIM.HOOKS.BEST_METRIC:
        prefix = f"{tests[0]}/" if len(tests) > 1 else ""
        hooks.BEST_METRIC = f"{prefix}classification/top1"


def resolve_schedule(cfg: CfgNode) -> None:
    """Set the steps from EPOCHS, the learning rate from the batch, and a warm-up that fits."""
    solver = cfg.SOLVER
    if cfg.SERIATIM.SOLVER.EPOCHS > 0:
        images = sum(training_records(cfg)[0])
        batch = solver.IMS_PER_BATCH * cfg.SERIATIM.SOLVER.ACCUMULATE
        steps = max(1, math.ceil(cfg.SERIATIM.SOLVER.EPOCHS * images / batch))
        scale = steps / solver.MAX_ITER
        solver.STEPS = tuple(max(1, round(s * scale)) for s in solver.STEPS)
        solver.WARMUP_ITERS = round(solver.WARMUP_ITERS * scale)
        solver.MAX_ITER = steps
        logger.info(
            f"{cfg.SERIATIM.SOLVER.EPOCHS:g} epochs of {images} images at {batch} per step:"
            f" {steps} steps, {solver.WARMUP_ITERS} of them warm-up"
        )
    if solver.MAX_ITER < 1:
        raise InputError(f"SOLVER.MAX_ITER is {solver.MAX_ITER}; training takes at least one step.")
    if solver.WARMUP_ITERS >= solver.MAX_ITER:
        shorter = solver.MAX_ITER // 10
        logger.warning(
            f"SOLVER.WARMUP_ITERS {solver.WARMUP_ITERS} would outlast the {solver.MAX_ITER} steps"
            f" of training: warming up over {shorter} steps instead"
        )
        solver.WARMUP_ITERS = shorter
    scale_learning_rate(cfg)


def resolve_seed(cfg: CfgNode, resume: bool) -> None:
    """Replace SEED -1 by that of the run that is resumed, or by a new one for all processes."""
    if cfg.SEED >= 0:
        return
    saved = Path(cfg.OUTPUT_DIR) / "config.yaml"
    if resume and saved.is_file():
        cfg.SEED = int(yaml.safe_load(saved.read_text()).get("SEED", -1))
    if cfg.SEED < 0:
        cfg.SEED = comm.all_gather(random.SystemRandom().randrange(2**31))[0]
    logger.info(f"SEED {cfg.SEED}")


def set_determinism(cfg: CfgNode) -> None:
    """Allow deterministic algorithms only where SERIATIM.SOLVER.DETERMINISTIC asks for it."""
    if cfg.SERIATIM.SOLVER.DETERMINISTIC:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS demands it
        torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = cfg.CUDNN_BENCHMARK and not cfg.SERIATIM.SOLVER.DETERMINISTIC


def prepare_output(cfg: CfgNode, resume: bool, overwrite: bool) -> None:
    """Make OUTPUT_DIR ready for training: config.yaml and log.txt in it, no other run's files.

    Raises:
        InputError: it holds another run and neither `resume` nor `overwrite` was asked for, or it
            cannot be written.
    """
    folder = Path(cfg.OUTPUT_DIR)
    if comm.is_main_process():
        claim_folder(folder, resume, overwrite)
        write_text(folder / "config.yaml", cfg.dump())
    comm.synchronize()
    setup_logging(folder, comm.get_rank())
    logger.debug(f"Config:\n{cfg.dump()}")


def claim_folder(folder: Path, resume: bool, overwrite: bool) -> None:
    """Make sure that `folder` can be written and, unless `resume`, holds nothing of another run.

    Raises:
        InputError: it holds another run and `overwrite` was not asked for, or it cannot be written.
    """
    if not resume:
        _clear(folder, overwrite)
    _check_writable(folder)
    remove_leftovers(folder)


def _clear(folder: Path, overwrite: bool) -> None:
    finished, tag = folder / "model_final.pth", folder / "last_checkpoint"
    if (finished.exists() or tag.exists()) and not overwrite:
        state = "a finished run" if finished.exists() else "an unfinished run"
        raise InputError(
            f"OUTPUT_DIR {folder} already holds {state}. Go on with it by --resume, name another"
            f" folder (OUTPUT_DIR {folder}_2 at the end of the command), or replace it by"
            " --overwrite."
        )
    for pattern in RUN_FILES:
        for path in folder.glob(pattern):
            path.unlink()
    for name in ("inference", "watch"):
        shutil.rmtree(folder / name, ignore_errors=True)


def _check_writable(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise InputError(
            f"OUTPUT_DIR {folder} cannot be written: {error.strerror}. Name another one by"
            " OUTPUT_DIR."
        ) from None
