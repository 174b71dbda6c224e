"""What a run would do, without doing it: config, data, model, time."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from detectron2.evaluation import inference_context
from detectron2.utils import comm
from detectron2.utils.analysis import FlopCountAnalysis
from detectron2.utils.events import EventStorage
from fvcore.nn import parameter_count_table
from torch import nn

from seriatim.config import get_cfg
from seriatim.data.catalog import dataset_facts
from seriatim.data.records import Facts
from seriatim.engine.trainer import Trainer

TIMED_STEPS = 3


def dry_run(cfg: CfgNode) -> int:
    """Print the four tables of `--dry-run`. Nothing is written to OUTPUT_DIR."""
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=False)
    seconds = time_steps(trainer)
    if comm.is_main_process():
        print("\nConfig, where it differs from the defaults:")
        print("\n".join(f"  {line}" for line in config_changes(cfg)))
        print(f"\nData:\n{dataset_table(cfg)}")
        print(f"\nModel:\n{parameter_count_table(trainer.bare_model, max_depth=2)}")
        print(flops_line(trainer, cfg))
        print(f"\n{time_line(cfg, seconds)}")
    return 0


def config_changes(cfg: CfgNode) -> list[str]:
    """KEY: default → value, for every key that differs."""
    return [f"{key}: {old!r} → {new!r}" for key, old, new in _differences(get_cfg(), cfg, "")]


def _differences(old: CfgNode, new: CfgNode, prefix: str) -> Iterator[tuple[str, Any, Any]]:
    for key, value in new.items():
        if isinstance(value, CfgNode):
            yield from _differences(old[key], value, f"{prefix}{key}.")
        elif value != old[key]:
            yield f"{prefix}{key}", old[key], value


def dataset_table(cfg: CfgNode) -> str:
    """One line per dataset of DATASETS.TRAIN and TEST, with its categories below."""
    rows = []
    for use, names in (("train", cfg.DATASETS.TRAIN), ("test", cfg.DATASETS.TEST)):
        for name in names:
            facts = dataset_facts(name)
            if facts is None:
                rows.append(f"  {use:<5} {name}: {len(DatasetCatalog.get(name))} images")
                continue
            rows.append(f"  {use:<5} {name}: {_contents(facts)}")
            rows += [f"          {label}: {count}" for label, count in facts.per_category.items()]
    return "\n".join(rows)


def _contents(facts: Facts) -> str:
    if facts.kind == "classification":
        return f"{facts.images} images ({facts.empty_images} without a label)"
    return (
        f"{facts.images} images ({facts.empty_images} without objects),"
        f" {facts.annotations} objects, {facts.crowds} crowd regions"
    )


def flops_line(trainer: Trainer, cfg: CfgNode) -> str:
    """Multiply-adds of one forward pass over one image, as fvcore counts them."""
    name = (*cfg.DATASETS.TEST, *cfg.DATASETS.TRAIN)[0]
    inputs = [trainer.build_mapper(cfg, is_train=False)(DatasetCatalog.get(name)[0])]
    height, width = inputs[0]["image"].shape[-2:]
    giga = count_flops(trainer.bare_model, inputs) / 1e9
    return f"  {giga:.2f} G multiply-adds for an image of {width} × {height} px"


def count_flops(model: nn.Module, inputs: list[dict[str, Any]]) -> float:
    """Multiply-adds of `model(inputs)` in evaluation mode."""
    noisy = logging.getLogger("fvcore.nn.jit_analysis")  # lists every operator it does not know
    level = noisy.level
    noisy.setLevel(logging.ERROR)
    try:
        with inference_context(model), torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # tracing warns of every Python value in the model
            return float(FlopCountAnalysis(model, inputs).total())
    finally:
        noisy.setLevel(level)


def time_steps(trainer: Trainer) -> float:
    """Mean seconds of a real training step, data loading included; the first, slower one apart."""
    with EventStorage():
        trainer.run_step()
        start = time.perf_counter()
        for trainer.iter in range(1, TIMED_STEPS + 1):
            trainer.run_step()
        return (time.perf_counter() - start) / TIMED_STEPS


def time_line(cfg: CfgNode, seconds: float) -> str:
    images = cfg.SOLVER.IMS_PER_BATCH * cfg.SERIATIM.SOLVER.ACCUMULATE
    total = timedelta(seconds=round(seconds * cfg.SOLVER.MAX_ITER))
    return (
        f"Time: {seconds:.2f} s per step of {images} images ({images / seconds:.1f} images/s),"
        f" {total} for {cfg.SOLVER.MAX_ITER} steps, evaluation apart"
    )
