"""Values in JSON objects, of the type that they are to have."""

from __future__ import annotations

import math
from typing import Any

from dataset_tools.errors import InputError

_REQUIRED = object()


def number(entry: dict[str, Any], key: str, place: str, default: Any = _REQUIRED) -> Any:
    """A finite number, or text of one; `default` if the key is missing or null. InputError if it is
    none."""
    value = entry.get(key)
    if value is None and default is not _REQUIRED:
        return default
    try:
        if not isinstance(value, bool) and math.isfinite(result := float(value)):
            return value if isinstance(value, int) and abs(value) <= 2**53 else result
    except (TypeError, ValueError, OverflowError):
        pass
    raise InputError(f"{place}: {key} is {_short(value)}, not a number. Mend or remove it.")


def points(entry: dict[str, Any], key: str, place: str) -> list[float]:
    """[x, y, …] of a list of pairs [x, y] or objects {"x": …, "y": …}. InputError if it is none."""
    found: list[float] = []
    for position, value in enumerate(listed(entry, key, place)):
        where = f"{place} {key}[{position}]"
        if isinstance(value, list) and len(value) == 2:
            value = dict(zip("xy", value, strict=True))
        if not isinstance(value, dict):
            raise InputError(f"{where} is {_short(value)}, not a point. Mend or remove it.")
        found += (number(value, "x", where), number(value, "y", where))
    return found


def numbers(entry: dict[str, Any], key: str, place: str) -> list[float]:
    """A list of finite numbers. InputError if it is none."""
    values = listed(entry, key, place)
    return [
        number({key: value}, key, f"{place} {key}[{index}]") for index, value in enumerate(values)
    ]


def text(entry: dict[str, Any], key: str, place: str, default: Any = _REQUIRED) -> Any:
    """Text that is not empty; `default` if the key is missing or null. InputError if it is none."""
    value = entry.get(key)
    if value is None and default is not _REQUIRED:
        return default
    if isinstance(value, str) and value:
        return value
    raise InputError(f"{place}: {key} is {_short(value)}, not a text. Mend or remove the entry.")


def listed(entry: dict[str, Any], key: str, place: str) -> list[Any]:
    """A list, empty if the key is missing or null. InputError if it is another thing."""
    value = entry.get(key)
    if value is None:
        return []
    if isinstance(value, list):
        return value
    raise InputError(f"{place}: {key} is {_short(value)}, not a list. Mend or remove the entry.")


def mapped(entry: dict[str, Any], key: str, place: str) -> dict[str, Any]:
    """An object, empty if the key is missing or null. InputError if it is another thing."""
    value = entry.get(key)
    if value is None:
        return {}
    if isinstance(value, dict):
        return value
    raise InputError(f"{place}: {key} is {_short(value)}, not an object. Mend or remove the entry.")


def objects(entry: dict[str, Any], key: str, place: str) -> list[dict[str, Any]]:
    """A list of objects. InputError if it is none."""
    values = listed(entry, key, place)
    for index, value in enumerate(values):
        if not isinstance(value, dict):
            raise InputError(f"{place} {key}[{index}] is {_short(value)}, not an object in braces.")
    return values


def _short(value: Any) -> str:
    """A value for a message."""
    said = "missing" if value is None else repr(value)
    return said if len(said) <= 60 else said[:59] + "…"
