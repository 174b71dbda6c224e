"""Many parameters in a few words."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from seriatim.checkpoint import group_names

SHOWN = 3  # names in a message


def some_of(names: Sequence[str], universe: Iterable[str]) -> str:
    """`names`, those that make up a whole module of `universe` as that module."""
    groups = group_names(list(names), list(universe))
    more = f" and {len(groups) - SHOWN} more" if len(groups) > SHOWN else ""
    return ", ".join(groups[:SHOWN]) + more
