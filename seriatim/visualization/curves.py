"""Loss and accuracy over the steps of training, from metrics.json."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from dataset_tools.errors import InputError
from dataset_tools.files import atomic_path
from seriatim.visualization import palette

# Of an evaluation these are drawn, of every task (bbox/AP, segm/AP50, NAME/bbox/AP …).
_ACCURACY = re.compile(r"(?:^|/)(AP|AP50|mIoU|PQ|accuracy)$")
_LOSS = re.compile(r"(?:^|[/_])loss(?:_|$)")


@dataclass(slots=True)
class Series:
    """One metric over the steps of training."""

    steps: list[int] = field(default_factory=list)
    values: list[float] = field(default_factory=list)

    def add(self, step: int, value: float) -> None:
        """A run that was resumed repeats steps: what was there from `step` on is forgotten."""
        while self.steps and self.steps[-1] >= step:
            self.steps.pop()
            self.values.pop()
        self.steps.append(step)
        self.values.append(value)


def read_metrics(path: str | Path) -> dict[str, Series]:
    """Every metric in a metrics.json (one JSON object a line), or in the folder of a run.

    A last line that a killed run left half written is passed over.

    Raises:
        InputError: the file is missing, empty, or not of this form.
    """
    path = Path(path)
    if path.is_dir():
        path /= "metrics.json"
    if not path.is_file():
        raise InputError(f"There is no {path}. Name a metrics.json, or the OUTPUT_DIR of a run.")
    series: dict[str, Series] = {}
    lines = path.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
            step = int(record["iteration"])
        except (ValueError, KeyError, TypeError):
            if number == len(lines) and number > 1:
                break
            raise InputError(
                f"{path}, line {number} is not a JSON object with an iteration. Detectron2's"
                " JSONWriter writes one such object a line."
            ) from None
        for name, value in record.items():
            if name != "iteration" and isinstance(value, int | float):
                series.setdefault(name, Series()).add(step, float(value))
    if not series:
        raise InputError(f"{path} holds no metrics yet.")
    return series


def draw_curves(runs: Mapping[str, Mapping[str, Series]], path: str | Path) -> Path:
    """Write a picture of loss, accuracy and learning rate of one run or several; returns its path.

    Args:
        runs: name of each run → its metrics, from `read_metrics`.
        path: .png, .svg or .pdf.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = [
        ("loss", _loss_names),
        ("accuracy, %", _accuracy_names),
        ("learning rate", _rate_names),
    ]
    panels = [(title, names) for title, names in panels if any(map(names, runs.values()))]
    if not panels:
        raise InputError("The metrics have neither losses nor AP nor a learning rate to draw.")
    figure = Figure(figsize=(6.2 * len(panels), 4.6), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    for number, (title, names) in enumerate(panels):
        axes = figure.add_subplot(1, len(panels), number + 1)
        _draw_panel(axes, title, names, runs)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format=Path(path).suffix.lstrip(".") or "png")
    return Path(path)


def _draw_panel(
    axes: Any, title: str, names: Any, runs: Mapping[str, Mapping[str, Series]]
) -> None:
    single = len(runs) == 1
    for number, (run, metrics) in enumerate(runs.items()):
        chosen = names(metrics)
        if title == "loss" and not single:  # the parts of several runs would be a thicket
            chosen = [name for name in chosen if "total" in name] or chosen[:1]
        for k, name in enumerate(chosen):
            # One run: a colour for each metric. Several: a colour for each run, dashes for metrics.
            color = tuple(c / 255 for c in _on_white(palette.color(k if single else number)))
            label = name if single else run if len(chosen) == 1 else f"{run}: {name}"
            dashes = "-" if single else ("-", "--", ":", "-.")[k % 4]
            _draw_series(axes, metrics[name], title, label=label, color=color, linestyle=dashes)
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold")
    axes.set_xlabel("step")
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    if title == "loss" and axes.get_lines():
        values = np.concatenate([line.get_ydata() for line in axes.get_lines()])
        values = values[np.isfinite(values) & (values > 0)]
        if values.size and values.max() > 30 * np.median(values):
            axes.set_yscale("log")
    axes.legend(fontsize=8, frameon=False)


def _draw_series(axes: Any, series: Series, title: str, **style: Any) -> None:
    steps, values = np.array(series.steps), np.array(series.values)
    if title != "loss" or len(steps) < 20:
        marker = "o" if title.startswith("accuracy") else None
        axes.plot(steps, values, marker=marker, markersize=3.5, **style)
        if marker and np.isfinite(values).any():
            best = int(np.nanargmax(values))
            axes.annotate(
                f"{values[best]:.1f}",
                (steps[best], values[best]),
                xytext=(0, 6),
                textcoords="offset points",
                ha="center",
                fontsize=8,
                color=style["color"],
            )
        return
    axes.plot(steps, values, color=style["color"], alpha=0.22, linewidth=0.8)
    axes.plot(steps, smooth(values), linewidth=1.6, **style)


def smooth(values: np.ndarray) -> np.ndarray:
    """A centred median over about a fifteenth of the values; NaN does not spread."""
    half = max(1, len(values) // 30)
    with np.errstate(all="ignore"):
        return np.array(
            [
                np.nanmedian(part) if np.isfinite(part).any() else math.nan
                for part in (values[max(0, i - half) : i + half + 1] for i in range(len(values)))
            ]
        )


def _loss_names(metrics: Mapping[str, Series]) -> Sequence[str]:
    losses = [name for name in metrics if _LOSS.search(name)]
    # The total first; a share of the whole is worth a line, thousands are not.
    return sorted(losses, key=lambda name: ("total" not in name, name))[:10]


def _accuracy_names(metrics: Mapping[str, Series]) -> Sequence[str]:
    return sorted(name for name in metrics if _ACCURACY.search(name))[:8]


def _rate_names(metrics: Mapping[str, Series]) -> Sequence[str]:
    return ["lr"] if "lr" in metrics else []


def _on_white(color: palette.RGB) -> palette.RGB:
    """The palette is made for photographs; on paper its light colours need to be darker."""
    luminance = float(np.array(color) @ (0.2126, 0.7152, 0.0722)) / 255
    factor = min(1.0, 0.52 / luminance)
    red, green, blue = (round(c * factor) for c in color)
    return red, green, blue
