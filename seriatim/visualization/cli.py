"""The command line of visualize.py.

Every command is a module of its own with `add_arguments`, `run`, an EPILOG of examples and a
docstring whose first line is its help. Heavy imports wait until a command runs: help is instant.
"""

from __future__ import annotations

import argparse
import difflib
import importlib
import sys
from collections.abc import Sequence

from dataset_tools import errors

# Command → one line of help; each is a module of seriatim.visualization.commands.
COMMANDS = {
    "data": "the ground truth of a dataset",
    "inputs": "the very tensors that the network gets, after augmentation",
    "predictions": "what a model finds in images, a video or a camera",
    "compare": "ground truth | prediction, the worst images first",
    "curves": "loss, AP and learning rate over the steps of training",
}

EXAMPLE = """\
examples:
  python visualize.py data --json datasets/cells/train.json --images photos
  python visualize.py inputs --config-file configs/demo.yaml
  python visualize.py compare --config-file configs/demo.yaml

python visualize.py COMMAND --help   says more of a command
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command in `argv` (default: the process's arguments) and return its exit code."""
    argv = list(sys.argv[1:] if argv is None else argv)
    return errors.run(lambda: _dispatch(argv))


def _dispatch(argv: list[str]) -> int:
    if not argv or argv[0].startswith("-"):
        _overview().parse_args(argv or ["--help"])
        return 0
    name = argv[0]
    if name not in COMMANDS:
        close = difflib.get_close_matches(name, COMMANDS)
        hint = f"Did you mean {close[0]!r}?" if close else f"There are: {', '.join(COMMANDS)}."
        raise errors.InputError(f"There is no command {name!r}. {hint}")
    module = importlib.import_module(f"seriatim.visualization.commands.{name}")
    return module.run(build_parser(name, module).parse_intermixed_args(argv[1:]))


def build_parser(name: str, module) -> argparse.ArgumentParser:
    """The parser of one command."""
    parser = argparse.ArgumentParser(
        prog=f"visualize.py {name}",
        description=module.__doc__.partition("\n")[0],
        epilog=module.EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    module.add_arguments(parser)
    return parser


def _overview() -> argparse.ArgumentParser:
    commands = "\n".join(f"  {name:<12} {text}" for name, text in COMMANDS.items())
    return argparse.ArgumentParser(
        prog="visualize.py",
        usage="%(prog)s COMMAND …",
        description=f"Pictures of data, inputs and predictions.\n\ncommands:\n{commands}",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
