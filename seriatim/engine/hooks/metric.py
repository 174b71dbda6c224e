"""The one metric that best checkpoint and early stopping watch."""

from __future__ import annotations

import math
from collections.abc import Mapping

from dataset_tools.errors import InputError

MODES = ("max", "min")


def pick_metric(metrics: Mapping[str, float], name: str) -> float:
    """The metric called `name`.

    Raises:
        InputError: no evaluator gives it; the message names what there is.
    """
    if name in metrics:
        return metrics[name]
    raise InputError(
        f"SERIATIM.HOOKS.BEST_METRIC is {name!r}, but the evaluation gives no such metric. There"
        f" are: {', '.join(sorted(metrics))}. Go on with --resume and the right name; no step is"
        " lost."
    )


def is_better(value: float, best: float | None, mode: str, min_delta: float = 0.0) -> bool:
    """Whether `value` improves on `best` by more than `min_delta`. NaN never does."""
    if not math.isfinite(value):
        return False
    if best is None:
        return True
    return value > best + min_delta if mode == "max" else value < best - min_delta
