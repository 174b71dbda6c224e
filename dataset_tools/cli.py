"""The command line `python -m dataset_tools COMMAND …`.

Every command is a module of its own, imported only when it is called, so that help appears at once.
The module gives

- its docstring: the first line is what `COMMAND --help` says first;
- `EPILOG: str`, one or more examples, shown as they are at the end of the help;
- `add_arguments(parser: argparse.ArgumentParser) -> None`;
- `run(args: argparse.Namespace) -> int`, the exit code; it raises InputError for a user's mistake.

Help texts fit on a screen of 24 lines or little more.
"""

from __future__ import annotations

import argparse
import difflib
import importlib
import sys
from collections.abc import Sequence

from dataset_tools import errors

# Command → (module, one line of help).
COMMANDS: dict[str, tuple[str, str]] = {
    "convert": ("dataset_tools.convert", "labels of any known format to COCO JSON"),
    "export": ("dataset_tools.export", "COCO JSON to labels of another format"),
    "formats": ("dataset_tools.list_formats", "the known formats, what each carries and loses"),
    "check": ("dataset_tools.check", "find faults in a COCO dataset, and mend what can be mended"),
    "stats": ("dataset_tools.stats", "count classes, sizes and shapes of objects"),
    "split": ("dataset_tools.split", "divide a dataset into train, val, …"),
    "subset": ("dataset_tools.subset", "take some of the categories, sizes or images"),
    "merge": ("dataset_tools.merge", "join several datasets"),
    "tile": ("dataset_tools.tile", "cut large images into overlapping tiles"),
}

EXAMPLE = """\
example:
  python -m dataset_tools convert auto my_labels -o datasets/mine
  python -m dataset_tools check datasets/mine/all.json

python -m dataset_tools COMMAND --help   says more of a command
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
    module = importlib.import_module(COMMANDS[name][0])
    parser = argparse.ArgumentParser(
        prog=f"python -m dataset_tools {name}",
        description=module.__doc__.partition("\n")[0],
        epilog=module.EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    module.add_arguments(parser)
    if hasattr(module, "add_more_arguments"):
        module.add_more_arguments(parser, argv[1:])
    return module.run(parser.parse_args(argv[1:]))


def _overview() -> argparse.ArgumentParser:
    commands = "\n".join(f"  {name:<9} {text}" for name, (_, text) in COMMANDS.items())
    return argparse.ArgumentParser(
        prog="python -m dataset_tools",
        usage="%(prog)s COMMAND …",
        description=f"Labels of any format to a checked COCO dataset.\n\ncommands:\n{commands}",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
