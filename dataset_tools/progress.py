"""A progress bar on the terminal; nothing at all where there is none."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


def track(items: Iterable[T], total: int, what: str, wanted: bool = True) -> Iterator[T]:
    """Yield `items`, showing on standard error how many of `total` are done and how long is
    left."""
    if not wanted or not total or not sys.stderr.isatty():
        yield from items
        return
    from rich.console import Console
    from rich.progress import track as rich_track

    yield from rich_track(items, what, total, console=Console(stderr=True), transient=True)
