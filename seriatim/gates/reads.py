"""Which keys of a config are read: a config that takes notes."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from detectron2.config import CfgNode


class Reads:
    """The notes: full names of the keys that are read while somebody collects them."""

    def __init__(self) -> None:
        self._open: list[set[str]] = []

    @contextmanager
    def collecting(self) -> Iterator[set[str]]:
        """The names of the keys that the body reads; complete when it has ended."""
        found: set[str] = set()
        self._open.append(found)
        try:
            yield found
        finally:
            self._open.pop()

    def note(self, names: Iterable[str]) -> None:
        for found in self._open:
            found.update(names)


class NotingConfig(CfgNode):
    """A config like any other, that notes which of its keys are read.

    What is written to it, and read after that, is not noted: such a value is the writer's own and
    depends on no config. Copies take notes too; what is pickled is a plain config.
    """

    @classmethod
    def of(
        cls, config: CfgNode, reads: Reads, written: Iterable[str] = (), prefix: str = ""
    ) -> NotingConfig:
        """A copy of `config` that notes into `reads`.

        Args:
            written: full names of keys that do not count.
            prefix: full name of `config` itself, with a dot behind it.
        """
        return cls._copy(config, (reads, set(written)), prefix, {})

    @classmethod
    def _copy(cls, config: CfgNode, notes: tuple, prefix: str, memo: dict) -> NotingConfig:
        new = cls.__new__(cls)
        vars(new).update(vars(config))  # whether it is frozen, which keys are deprecated
        vars(new).update(_notes=notes, _prefix=prefix)
        for key, value in dict.items(config):
            if isinstance(value, CfgNode):
                value = cls._copy(value, notes, f"{prefix}{key}.", memo)
            else:
                value = copy.deepcopy(value, memo)
            dict.__setitem__(new, key, value)
        return new

    def __getitem__(self, key: str) -> Any:
        value = dict.__getitem__(self, key)
        if not isinstance(value, CfgNode):
            reads, written = vars(self)["_notes"]
            name = vars(self)["_prefix"] + key
            if name not in written:
                reads.note([name])
        return value

    def __setitem__(self, key: str, value: Any) -> None:
        dict.__setitem__(self, key, value)
        vars(self)["_notes"][1].add(vars(self)["_prefix"] + key)

    # Whoever goes through the whole of it has read it. (Without an __iter__ of its own, **config
    # and dict(config) would go around __getitem__.)

    def __iter__(self) -> Iterator[str]:
        return dict.__iter__(self)

    def get(self, key: str, default: Any = None) -> Any:
        if key not in self:
            return default
        return self[key]

    def values(self) -> list[Any]:
        return [self[key] for key in self]

    def items(self) -> list[tuple[str, Any]]:
        return [(key, self[key]) for key in self]

    # Copying and freezing read nothing

    def __deepcopy__(self, memo: dict) -> NotingConfig:
        reads, written = vars(self)["_notes"]
        return self._copy(self, (reads, set(written)), vars(self)["_prefix"], memo)

    def __reduce_ex__(self, protocol: Any) -> tuple[type, tuple]:
        return CfgNode, (_plain(self),)

    def _immutable(self, is_immutable: bool) -> None:
        vars(self)[CfgNode.IMMUTABLE] = is_immutable
        for value in dict.values(self):
            if isinstance(value, CfgNode):
                value._immutable(is_immutable)


def _plain(config: CfgNode) -> dict[str, Any]:
    return {k: _plain(v) if isinstance(v, CfgNode) else v for k, v in dict.items(config)}


class shared:  # noqa: N801 (a decorator, like functools.cached_property)
    """A property that is made once. What making it reads counts for everybody who asks for it.

    Its owner has `reads`, a `Reads`.
    """

    def __init__(self, make: Callable[[Any], Any]) -> None:
        self._make, self.__doc__ = make, make.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, owner: Any, kind: type | None = None) -> Any:
        if owner is None:
            return self
        known = vars(owner).setdefault("_shared", {})
        if self._name not in known:
            with owner.reads.collecting() as names:
                known[self._name] = self._make(owner), names
        value, names = known[self._name]
        owner.reads.note(names)
        return value
