"""Where to look: file and line of the code, and the value of the config key, that a cause names.

Gates speak of `build_mapper` and of keys. Of what somebody has written for the pipeline at hand the
place is told; of Seriatim's and the libraries' own code it is not: there the fault is not.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode

from seriatim.gates.context import Context
from seriatim.gates.fingerprint import is_library
from seriatim.gates.verdict import Cause, Finding

_METHOD = re.compile(r"\bbuild_\w+")
_KEY = re.compile(r"(?<![\w.…])[A-Z][A-Z0-9_]*(?:\.[A-Z][A-Z0-9_]*)*(?![\w.])")
_PROJECT = Path(__file__).parents[1]
_LONGEST = 40  # characters of a value that is told


def locate(findings: Iterable[Finding], context: Context) -> None:
    """Add to each cause the place of the code, and the value of each key, that it names."""
    for finding in findings:
        finding.causes = [_located(cause, context) for cause in finding.causes]


def _located(cause: Cause, context: Context) -> Cause:
    where = _KEY.sub(lambda found: _with_value(found[0], context.plain), cause.where)
    names = dict.fromkeys(_METHOD.findall(where))
    places = [place for name in names if (place := _place(name, context))]
    return replace(cause, where=", ".join([*([where] if where else []), *places]))


def _with_value(key: str, cfg: CfgNode) -> str:
    value: Any = cfg
    for part in key.split("."):
        if not isinstance(value, CfgNode) or part not in value:
            return key
        value = value[part]
    text = str(value)
    short = not isinstance(value, CfgNode) and 0 < len(text) <= _LONGEST
    return f"{key} = {text}" if short else key


def _place(method: str, context: Context) -> str:
    """FILE:LINE of what the trainer builds by `method`, or of the method itself."""
    if method == "build_mapper":
        try:
            with context.untouched():
                mapper = context.train_mapper()
        except Exception:  # the gate has told of it
            return ""
        call = mapper if inspect.isfunction(mapper) else type(mapper).__call__
        if place := _line_of(call):
            return place
    return _line_of(getattr(context.trainer_class, method, None))


def _line_of(code: Any) -> str:
    try:
        code = inspect.unwrap(code)
        file, (_, line) = inspect.getsourcefile(code), inspect.getsourcelines(code)
    except (TypeError, OSError):
        return ""
    if file is None or is_library(file) or Path(file).is_relative_to(_PROJECT):
        return ""
    return f"{file}:{line}"
