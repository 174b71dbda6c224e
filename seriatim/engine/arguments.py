"""The command line of train_net.py. Imports nothing heavy: `--help` must be instant."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

EXAMPLES = """\
examples:
  train                 train_net.py --config-file configs/Trees-TaskAligned.yaml
  change any key        train_net.py --config-file FILE SOLVER.MAX_ITER 500 OUTPUT_DIR output/long
  without a recipe      train_net.py --config-file FILE --auto 10
  look before you leap  train_net.py --config-file FILE --dry-run
  go on after a stop    train_net.py --config-file FILE --resume
  evaluate only         train_net.py --config-file FILE --eval-only MODEL.WEIGHTS model_final.pth
  4 GPUs                train_net.py --config-file FILE --num-gpus 4
  2 CPU processes       train_net.py --config-file FILE --num-processes 2
  torchrun              torchrun --nproc-per-node 4 train_net.py --config-file FILE
  a LazyConfig          train_net.py --config-file FILE.py train.max_iter=100
"""


def build_parser() -> argparse.ArgumentParser:
    """The parser of train_net.py."""
    parser = argparse.ArgumentParser(
        prog="train_net.py",
        description="Train or evaluate the model that a config describes.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--config-file",
        required=True,
        metavar="FILE",
        help="a YAML file, a name in Detectron2's model zoo, or a LazyConfig .py (it is executed)",
    )
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--eval-only", action="store_true", help="evaluate, do not train")
    mode.add_argument(
        "--dry-run",
        action="store_true",
        help="show the config's changes, datasets, model and a time estimate; write nothing",
    )
    mode.add_argument(
        "--probe-batch-size",
        action="store_true",
        help="find the largest SOLVER.IMS_PER_BATCH that the memory holds; write nothing",
    )
    start = parser.add_mutually_exclusive_group()
    start.add_argument(
        "--resume",
        action="store_true",
        help="go on from the last checkpoint in OUTPUT_DIR, exactly",
    )
    start.add_argument(
        "--overwrite",
        action="store_true",
        help="remove what an earlier run left in OUTPUT_DIR, start anew",
    )
    parser.add_argument(
        "--auto",
        type=_minutes,
        metavar="MINUTES",
        help="choose sizes, levels, batch, steps and learning rate from the data, for a training "
        "of so many minutes, gates apart; what the config file itself or KEY VALUE says stays",
    )
    parser.add_argument(
        "--num-gpus", type=count, default=1, metavar="N", help="GPUs per machine (default: 1)"
    )
    parser.add_argument(
        "--num-processes",
        type=count,
        metavar="N",
        help="processes per machine on CPU (default: 1)",
    )
    parser.add_argument(
        "--num-machines", type=count, default=1, metavar="N", help="machines (default: 1)"
    )
    parser.add_argument(
        "--machine-rank", type=int, default=0, metavar="I", help="this machine's number, from 0"
    )
    parser.add_argument(
        "--dist-url",
        default="auto",
        metavar="URL",
        help="tcp://HOST:PORT of machine 0 (several machines)",
    )
    add_gates_argument(parser)
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="config keys to change")
    return parser


def add_gates_argument(parser: argparse.ArgumentParser) -> None:
    """`--gates`, for every command that can run them."""
    parser.add_argument(
        "--gates",
        default="fast",
        metavar="WHICH",
        help="checks before training: all, fast (default; a minute), NAME,NAME or off",
    )


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line; options may stand before, between and after the KEY VALUE pairs."""
    return build_parser().parse_intermixed_args(arguments)


def count(text: str) -> int:
    """A number of processes on a command line: at least 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"at least 1, not {value}")
    return value


def _minutes(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"minutes above 0, not {text}")
    return value
