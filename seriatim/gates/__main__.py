"""`python -m seriatim.gates --config-file FILE`: the gates alone, without training."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from dataset_tools import errors

if TYPE_CHECKING:
    from detectron2.config import CfgNode

EXAMPLES = """\
examples:
  python -m seriatim.gates --config-file configs/BCCD-TaskAligned.yaml
  python -m seriatim.gates --config-file FILE --gates all
  python -m seriatim.gates --config-file FILE --gates oracle,inputs --fresh
  python -m seriatim.gates --config-file FILE --trainer my_project/train.py:MyTrainer
  python -m seriatim.gates --config-file FILE --project projects/Mixup/train_net.py
  python -m seriatim.gates --config-file FILE --gates all --num-processes 2

The exit code is 3 if a gate failed. Evidence is in OUTPUT_DIR/gates, with a page index.html.
"""


def main() -> int:
    args = build_parser().parse_intermixed_args()
    from seriatim.gates.entry import pass_gates

    cfg, trainer = pipeline_of(args)
    pass_gates(
        cfg, args.gates, trainer_class=trainer, processes=args.num_processes, fresh=args.fresh
    )
    print(f"evidence: {Path(cfg.OUTPUT_DIR) / 'gates' / 'index.html'}")
    return 0


def pipeline_of(args: argparse.Namespace) -> tuple[CfgNode, type | None]:
    """The config and the trainer class that a command line names."""
    from seriatim.engine.setup import setup
    from seriatim.gates.project import import_project, trainer_named

    if args.project:
        import_project(args.project)  # first: it makes keys and architectures known
    if args.config_file.endswith(".py"):
        from seriatim.engine.lazy import load
        from seriatim.gates.lazy import pipeline

        if args.trainer:
            raise errors.InputError("--trainer is for YAML configs: a LazyConfig names its parts.")
        return pipeline(load(args), args.config_file)
    trainer = trainer_named(args.trainer) if args.trainer else None
    return setup(args), trainer


def build_parser() -> argparse.ArgumentParser:
    """The parser of `python -m seriatim.gates`."""
    from seriatim.engine.arguments import add_gates_argument, count

    parser = argparse.ArgumentParser(
        prog="python -m seriatim.gates",
        description="Look for silent faults in the pipeline that a config describes.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--config-file", required=True, metavar="FILE", help="as train_net.py takes it")
    add_gates_argument(parser)
    add(
        "--trainer",
        metavar="MODULE:CLASS",
        help="your project's trainer (or FILE.py:CLASS), whose build_* methods make the parts",
    )
    add(
        "--project",
        metavar="FILE.py",
        help="imported first: what makes your project's config keys and architectures known, its"
        " train_net.py say (or a module's name)",
    )
    add(
        "--num-processes",
        type=count,
        default=1,
        metavar="N",
        help="that will train together; from 2 on gate repeat holds two against one (default: 1)",
    )
    add("--fresh", action="store_true", help="ask again even where nothing has changed")
    add("opts", nargs="*", metavar="KEY VALUE", help="config keys to change")
    return parser


if __name__ == "__main__":
    sys.exit(errors.run(main))
