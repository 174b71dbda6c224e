"""List the known label formats, what each carries, and what is lost on the way to COCO."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Sequence

from dataset_tools.formats import CARRIED, Format, Option, all_formats, get_format
from dataset_tools.formats.base import Carried
from dataset_tools.table import text_table

EPILOG = """\
examples:
  python -m dataset_tools formats
  python -m dataset_tools formats voc      (its layout, conventions and options)
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument("name", nargs="?", metavar="FORMAT", help="say all about one format")
    parser.add_argument("--markdown", action="store_true", help="print docs/formats.md")


def run(args: argparse.Namespace) -> int:
    """Print the list, or all about one format."""
    if args.markdown:
        print(markdown(all_formats()), end="")
    elif args.name:
        print(describe(get_format(args.name)))
    else:
        print(overview(all_formats()))
    return 0


def overview(formats: Sequence[Format]) -> str:
    """A table of what each format carries, and below it what is lost."""
    rows = [
        (
            f.name,
            *(_mark(f, kind) for kind in CARRIED),
            f.title,
        )
        for f in formats
    ]
    width = max(len(f.name) for f in formats)
    lost = [f"  {f.name:<{width}}  {f.loses}" for f in formats if f.loses]
    return "\n".join(
        [
            text_table(("format", *CARRIED, "title"), rows),
            "",
            "r: read by convert, w: written by export",
            "",
            "lost on the way to COCO:",
            *lost,
            "  all others: nothing",
        ]
    )


def describe(format_: Format) -> str:
    """Everything about one format, as plain text."""
    parts = [
        f"{format_.name}: {format_.title}",
        f"PATH: {format_.layout}",
        f"carries: {', '.join(format_.carries)}",
        f"loses: {format_.loses or 'nothing'}",
        format_.conventions,
    ]
    if format_.write:
        parts.append(f"export writes: {', '.join(format_.written)}")
        parts.append(f"export loses: {format_.write_loses or 'nothing'}")
    for option in (*format_.options, *format_.write_options):
        values = (
            f" {{{','.join(option.choices)}}}" if option.choices else f" {option.metavar or ''}"
        )
        parts.append(f"{option.flag}{values}: {option.help}")
    return "\n".join(
        textwrap.fill(part, 100, subsequent_indent="  ", break_on_hyphens=False) for part in parts
    )


def markdown(formats: Sequence[Format]) -> str:
    """The page docs/formats.md."""
    lines = [
        "# Label formats",
        "",
        "<!-- Made by `python -m dataset_tools formats --markdown`; edit the formats, not this "
        "file. -->",
        "",
        "`python -m dataset_tools convert FORMAT PATH -o DIR` reads these; with `auto` as FORMAT "
        "the",
        "files' content decides. `python -m dataset_tools export FORMAT DATASET.json … -o DIR` "
        "writes",
        "those of which something is written. **r**: read, **w**: written, and read again as it "
        "was.",
        "",
        f"| format | | {' | '.join(CARRIED)} |",
        f"|---|---|{'---|' * len(CARRIED)}",
    ]
    for format_ in formats:
        marks = " | ".join(_mark(format_, kind) for kind in CARRIED)
        lines.append(f"| [{format_.name}](#{format_.name}) | {format_.title} | {marks} |")
    for format_ in formats:
        lines += ["", f"## {format_.name}", "", f"**{format_.title}.** PATH: {format_.layout}."]
        lines += ["", format_.conventions, "", f"Lost: {format_.loses or 'nothing'}."]
        lines += _option_table(format_.options)
        if format_.write:
            lines += ["", f"Exported to; lost then: {format_.write_loses or 'nothing'}."]
            lines += _option_table(format_.write_options)
    return "\n".join(lines) + "\n"


def _mark(format_: Format, kind: Carried) -> str:
    """Whether a format is read (r) and written (w) with it."""
    return "r" * (kind in format_.carries) + "w" * (kind in format_.written)


def _option_table(options: Sequence[Option]) -> list[str]:
    lines = ["", "| option | values | meaning |", "|---|---|---|"] if options else []
    for option in options:
        values = ", ".join(f"**{c}**" if c == option.default else c for c in option.choices or ())
        lines.append(f"| `{option.flag}` | {values or option.metavar} | {option.help} |")
    return lines
