"""What train_net.py does once its command line is parsed."""

from __future__ import annotations

import argparse
import logging
import os
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.utils import comm

from dataset_tools.errors import InputError
from seriatim.engine.launch import alone, launch, under_torchrun

logger = logging.getLogger(__name__)


def start(args: argparse.Namespace) -> int:
    """Start as many processes as the command line asks for; the exit code."""
    if args.num_gpus > 1 and not torch.cuda.is_available():
        raise InputError(
            f"--num-gpus {args.num_gpus}, but there is no CUDA device. On CPU use --num-processes."
        )
    if _is_lazy(args):
        from seriatim.engine.lazy import main as body
    else:
        body = main
    if _processes(args) > 1:
        _gates_before_processes(args)
    return launch(
        body,
        args.num_processes or args.num_gpus,
        args.num_machines,
        args.machine_rank,
        args.dist_url,
        args=(args,),
    )


def main(args: argparse.Namespace) -> int:
    """Train, evaluate, or look, in one process of a run."""
    from seriatim.engine.setup import prepare_output, setup

    cfg = setup(args)
    if args.dry_run:
        from seriatim.engine.dry_run import dry_run

        return dry_run(cfg)
    if args.probe_batch_size:
        from seriatim.engine.batch_size import report

        return report(cfg)
    if args.eval_only:
        return evaluate(cfg, args)
    if not cfg.DATASETS.TRAIN:
        raise InputError("DATASETS.TRAIN is empty: there is nothing to train on.")
    prepare_output(cfg, args.resume, args.overwrite)
    if comm.get_world_size() == 1 and not args.resume:
        from seriatim.gates.entry import pass_gates

        pass_gates(cfg, args.gates)
    return train(cfg, args)


def _is_lazy(args: argparse.Namespace) -> bool:
    return str(args.config_file).endswith(".py")


def _processes(args: argparse.Namespace) -> int:
    if under_torchrun():
        return int(os.environ["WORLD_SIZE"])
    return (args.num_processes or args.num_gpus) * args.num_machines


def _gates_before_processes(args: argparse.Namespace) -> None:
    """Gates test the pipeline in one process, and so before there are several. Of several machines
    the first one asks them, under torchrun the first process: the others wait for it to join."""
    looks_only = args.dry_run or args.probe_batch_size or args.eval_only
    rank = int(os.environ["RANK"]) if under_torchrun() else args.machine_rank
    if looks_only or args.resume or args.gates == "off" or rank > 0:
        return
    processes = _processes(args)
    with alone():
        if _is_lazy(args):
            from seriatim.engine.lazy import ask_gates, load

            ask_gates(load(args), args, processes)
        else:
            from seriatim.engine.setup import setup
            from seriatim.gates.entry import pass_gates

            pass_gates(setup(args), args.gates, processes=processes)


def train(cfg: CfgNode, args: argparse.Namespace) -> int:
    from seriatim.engine.trainer import Trainer

    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=args.resume)
    results = trainer.train()
    if comm.is_main_process():
        print(summary(args.config_file, Path(cfg.OUTPUT_DIR), results))
    return 0


def evaluate(cfg: CfgNode, args: argparse.Namespace) -> int:
    """Evaluate MODEL.WEIGHTS, or what training left in OUTPUT_DIR."""
    from seriatim.engine.checkpointer import load_evaluated_weights
    from seriatim.engine.trainer import Trainer

    if not cfg.DATASETS.TEST:
        raise InputError("DATASETS.TEST is empty: there is nothing to evaluate on.")
    weights = weights_to_evaluate(cfg, args.resume)
    model = Trainer.build_model(cfg)
    load_evaluated_weights(model, weights)
    results = Trainer.test(cfg, model)
    if comm.is_main_process():
        print(f"\nEvaluated {weights}:\n{metrics_table(results)}")
    return 0


def weights_to_evaluate(cfg: CfgNode, resume: bool) -> Path | str:
    """MODEL.WEIGHTS; where that is empty, or with --resume, what training left in OUTPUT_DIR."""
    if cfg.MODEL.WEIGHTS and not resume:
        return cfg.MODEL.WEIGHTS
    folder = Path(cfg.OUTPUT_DIR)
    if (folder / "model_final.pth").is_file():
        return folder / "model_final.pth"
    if (folder / "last_checkpoint").is_file():
        return folder / (folder / "last_checkpoint").read_text().strip()
    raise InputError(
        f"There are no weights to evaluate: MODEL.WEIGHTS is empty and {folder} holds no"
        " checkpoint. Put MODEL.WEIGHTS path/to/model.pth behind the command, or train first."
    )


def summary(config_file: str, folder: Path, results: dict[str, Any] | None) -> str:
    """What was written, where, and the three commands that come next."""
    written = [
        ("model_final.pth", "the weights, for any DetectionCheckpointer"),
        ("model_best.pth", "the weights that scored best"),
        ("last_checkpoint", "names the checkpoint that --resume goes on from"),
        ("metrics.json", "every metric, one JSON object a line"),
        ("config.yaml", "the config with all that was filled in, the seed too"),
        ("log.txt", "the log"),
        ("watch", "what was noticed while training, with pictures"),
    ]
    lines = [""]
    if results:
        lines += [metrics_table(results), ""]
    lines.append(f"Written to {folder}:")
    lines += [f"  {name:<17} {what}" for name, what in written if (folder / name).exists()]
    weights = folder / "model_final.pth"
    lines += [
        "",
        "Next:",
        f"  tensorboard --logdir {folder}",
        f"  python visualize.py compare --config-file {config_file} --weights {weights}",
        f"  python train_net.py --config-file {config_file} --eval-only MODEL.WEIGHTS {weights}",
    ]
    return "\n".join(lines)


def metrics_table(results: dict[str, Any]) -> str:
    """The nested metrics as aligned lines, numbers rounded."""
    from detectron2.evaluation.testing import flatten_results_dict

    flat = flatten_results_dict(results)
    width = max(map(len, flat), default=0)
    return "\n".join(f"  {name:<{width}}  {float(value):8.3f}" for name, value in flat.items())
