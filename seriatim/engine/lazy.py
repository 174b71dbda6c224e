"""Train and evaluate what a LazyConfig describes: Detectron2's configs in Python (ViTDet, FCOS, …).

A LazyConfig is a program. It is executed only where the user names a .py file on the command line.
"""

from __future__ import annotations

import argparse
import logging
import os
from pathlib import Path
from typing import Any

import torch
from detectron2.config import LazyConfig, instantiate
from detectron2.engine import hooks as detectron2_hooks
from detectron2.evaluation import inference_on_dataset, print_csv_format
from detectron2.utils import comm
from detectron2.utils.events import JSONWriter, TensorboardXWriter
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import nn

from dataset_tools.errors import InputError
from seriatim.engine import hooks
from seriatim.engine.checkpointer import AtomicCheckpointer, load_evaluated_weights
from seriatim.engine.logs import setup_logging
from seriatim.engine.state import preserve_rng, seed_everything
from seriatim.engine.train_step import TrainStep
from seriatim.engine.trainer import wrap_distributed

logger = logging.getLogger(__name__)
# What Detectron2's configs/common/train.py gives; a config may say otherwise.
DEFAULTS = {
    "output_dir": "./output",
    "init_checkpoint": "",
    "max_iter": 90000,
    "amp": {"enabled": False},
    "ddp": {},
    "checkpointer": {"period": 5000},
    "eval_period": 5000,
    "log_period": 20,
    "device": "cuda",
    "seed": -1,
}


def main(args: argparse.Namespace) -> int:
    """Train or evaluate in one process of a run."""
    if args.dry_run or args.probe_batch_size:
        raise InputError("--dry-run and --probe-batch-size are for YAML configs.")
    cfg = load(args)
    setup_logging(None, comm.get_rank())
    seed_everything(cfg.train.seed + comm.get_rank() if cfg.train.seed >= 0 else torch.seed())
    model = instantiate(cfg.model).to(cfg.train.device)
    if args.eval_only:
        if not cfg.train.init_checkpoint:
            raise InputError("There are no weights to evaluate: train.init_checkpoint is empty.")
        load_evaluated_weights(model, cfg.train.init_checkpoint)
        evaluate(cfg, model)
        return 0
    _prepare_output(cfg, args)
    if comm.get_world_size() == 1 and not args.resume:
        ask_gates(cfg, args)
    train(cfg, model, args.resume)
    return 0


def ask_gates(cfg: DictConfig, args: argparse.Namespace, processes: int = 1) -> None:
    """The gates of `--gates`, of the pipeline that the LazyConfig describes.

    Raises:
        GateFailed: one of them failed.
    """
    if args.gates == "off":
        return
    from seriatim.gates.entry import pass_gates
    from seriatim.gates.lazy import pipeline

    resolved, trainer = pipeline(cfg, args.config_file)
    pass_gates(resolved, args.gates, trainer_class=trainer, processes=processes)


def load(args: argparse.Namespace) -> DictConfig:
    """The config with the overrides (key=value) of the command line, on a device that exists."""
    path = Path(args.config_file)
    if not path.is_file():
        raise InputError(f"There is no config file {path}.")
    bad = [word for word in args.opts if "=" not in word]
    if bad:
        raise InputError(f"Overrides of a LazyConfig have the form key=value, not {bad[0]!r}.")
    try:
        cfg = LazyConfig.load(str(path))
    except SyntaxError as error:
        raise InputError(f"{path} is not valid Python: {error}") from None
    try:
        cfg = LazyConfig.apply_overrides(cfg, args.opts)
    except (OmegaConfBaseException, KeyError, AssertionError) as error:
        raise InputError(f"An override of {path} does not fit: {error}") from None
    missing = [
        key for key in ("model", "optimizer", "dataloader", "lr_multiplier") if key not in cfg
    ]
    if missing:
        raise InputError(
            f"{path} is not a config that can be trained: {', '.join(missing)} missing."
        )
    cfg.train = OmegaConf.merge(DEFAULTS, cfg.get("train", {}))
    if cfg.train.device == "cuda" and not torch.cuda.is_available():
        cfg.train.device = "cpu"
    return cfg


def train(cfg: DictConfig, model: nn.Module, resume: bool) -> None:
    """Train `model`; checkpoints, metrics and evaluation as the config's `train` says."""
    settings = cfg.train
    cfg.optimizer.params.model = model
    optimizer = instantiate(cfg.optimizer)
    half = torch.float16 if settings.device.startswith("cuda") else torch.bfloat16
    trainer = LazyTrainer(
        wrap_distributed(model),
        instantiate(cfg.dataloader.train),
        optimizer,
        precision=half if settings.amp.enabled else torch.float32,
    )
    checkpointer = AtomicCheckpointer(model, settings.output_dir, trainer=trainer)
    main = comm.is_main_process()
    trainer.register_hooks(
        [
            detectron2_hooks.IterationTimer(),
            detectron2_hooks.LRScheduler(scheduler=instantiate(cfg.lr_multiplier)),
            detectron2_hooks.PeriodicCheckpointer(checkpointer, **settings.checkpointer)
            if main
            else None,
            detectron2_hooks.EvalHook(settings.eval_period, lambda: evaluate(cfg, model)),
            hooks.Progress(settings.log_period) if main else None,
            hooks.Writers(lambda: _writers(settings.output_dir), settings.log_period)
            if main
            else None,
        ]
    )
    checkpointer.resume_or_load(settings.init_checkpoint, resume=resume)
    start = trainer.iter + 1 if resume and checkpointer.has_checkpoint() else 0
    trainer.train(start, settings.max_iter)


class LazyTrainer(TrainStep):
    """A TrainStep that is the whole trainer: its hooks are its own."""


def evaluate(cfg: DictConfig, model: nn.Module) -> dict[str, Any]:
    """Metrics of `model` by the config's own evaluator; none where it has no evaluator."""
    if "evaluator" not in cfg.dataloader:
        return {}
    with preserve_rng():
        evaluator = instantiate(cfg.dataloader.evaluator)
        results = inference_on_dataset(model, instantiate(cfg.dataloader.test), evaluator)
    if comm.is_main_process():
        print_csv_format(results)
    return results


def _writers(folder: str) -> list[Any]:
    return [JSONWriter(os.path.join(folder, "metrics.json")), TensorboardXWriter(folder)]


def _prepare_output(cfg: DictConfig, args: argparse.Namespace) -> None:
    from seriatim.engine.setup import claim_folder

    folder = Path(cfg.train.output_dir)
    if comm.is_main_process():
        claim_folder(folder, args.resume, args.overwrite)
        LazyConfig.save(cfg, str(folder / "config.yaml"))
    comm.synchronize()
    setup_logging(folder, comm.get_rank())
