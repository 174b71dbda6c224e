"""Plain text tables, and their place in a page."""

from __future__ import annotations

from collections.abc import Sequence

from dataset_tools.errors import InputError

# Around the tables that a script writes into a page.
MARKS = "<!-- written by table.py -->\n", "\n<!-- end -->"


def text_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Columns as wide as they need be; numbers to the right with thousands separated, text to the
    left."""
    cells = [[_text(value) for value in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(header, *cells, strict=True)]
    right = [
        bool(rows) and all(isinstance(value, int | float) for value in column)
        for column in zip(*rows, strict=True)
    ] or [False] * len(header)
    lines = [list(header), ["-" * width for width in widths], *cells]
    return "\n".join(
        "  ".join(
            text.rjust(width) if to_right else text.ljust(width)
            for text, width, to_right in zip(line, widths, right, strict=True)
        ).rstrip()
        for line in lines
    )


def _text(value: object) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return f"{value:,.2f}" if isinstance(value, float) else str(value)


def insert(page: str, text: str) -> str:
    """`page` with `text` between its MARKS. InputError if it has none."""
    head, first, rest = page.partition(MARKS[0])
    _, last, tail = rest.partition(MARKS[1])
    if not first or not last:
        raise InputError(f"The page has no place for the table, {MARKS[0]}…{MARKS[1]}.")
    return f"{head}{first}{text}{last}{tail}"
