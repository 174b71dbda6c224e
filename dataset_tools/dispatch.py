"""Command lines made of commands, `PROGRAM COMMAND …`, whose help appears at once.

Every command is a module of its own, imported only when it is called. The module gives

- its docstring: the first line is what `COMMAND --help` says first;
- `EPILOG: str`, one or more examples, shown as they are at the end of the help;
- `add_arguments(parser: argparse.ArgumentParser) -> None`;
- `run(args: argparse.Namespace) -> int`, the exit code; it raises InputError for a user's mistake;
- `add_more_arguments(parser, argv) -> None`, where what is asked for decides about further options.

Help texts fit on a screen of 24 lines or little more.
"""

from __future__ import annotations

import argparse
import difflib
import importlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dataset_tools import errors


@dataclass(frozen=True)
class CommandLine:
    """A program of several commands."""

    prog: str  # how it is called
    description: str
    commands: Mapping[str, tuple[str, str]]  # command → (module, one line of help)
    example: str

    def main(self, argv: Sequence[str] | None = None) -> int:
        """Run the command in `argv` (default: the process's arguments) and return its exit code."""
        argv = list(sys.argv[1:] if argv is None else argv)
        return errors.run(lambda: self._dispatch(argv))

    def _dispatch(self, argv: list[str]) -> int:
        if not argv or argv[0].startswith("-"):
            self._overview().parse_args(argv or ["--help"])
            return 0
        name, *rest = argv
        if name not in self.commands:
            close = difflib.get_close_matches(name, self.commands)
            known = f"There are: {', '.join(self.commands)}."
            hint = f"Did you mean {close[0]!r}?" if close else known
            raise errors.InputError(f"There is no command {name!r}. {hint}")
        module = importlib.import_module(self.commands[name][0])
        parser = _parser(f"{self.prog} {name}", module.__doc__.partition("\n")[0], module.EPILOG)
        module.add_arguments(parser)
        if hasattr(module, "add_more_arguments"):
            module.add_more_arguments(parser, rest)
        return module.run(parser.parse_intermixed_args(rest))

    def _overview(self) -> argparse.ArgumentParser:
        width = max(map(len, self.commands))
        lines = "\n".join(f"  {name:<{width}}  {text}" for name, (_, text) in self.commands.items())
        example = f"{self.example}\n{self.prog} COMMAND --help   says more of a command\n"
        parser = _parser(self.prog, f"{self.description}\n\ncommands:\n{lines}", example)
        parser.usage = "%(prog)s COMMAND …"
        return parser


def _parser(prog: str, description: str, epilog: str) -> argparse.ArgumentParser:
    return argparse.ArgumentParser(
        prog=prog,
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
