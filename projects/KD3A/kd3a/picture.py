"""A federation in one picture: accuracy and shares over rounds, and what is read on test images."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dataset_tools.files import atomic_path
from kd3a.federation import HISTORY

COLUMNS = 12


@dataclass(frozen=True)
class Readings:
    """Test images of a domain, (N, H, W[, 3]) uint8, their labels, and what a model read."""

    images: np.ndarray
    labels: np.ndarray
    read: np.ndarray


def draw_federation(history: Path, readings: Mapping[str, Readings], path: Path) -> None:
    """Write a PNG of the rounds in the folder `history` and of `readings` by domain."""
    from matplotlib.figure import Figure

    lines = [json.loads(line) for line in (history / HISTORY).read_text("utf-8").splitlines()]
    rounds = [line["round"] for line in lines]
    figure = Figure(figsize=(12, 3.2 + 0.9 * len(readings)), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=[3, 0.9 * len(readings)])
    accuracy, shares = above.subplots(1, 2)
    for name in readings:
        accuracy.plot(rounds, [_top1(line, name) for line in lines], marker="o", label=name)
        shares.plot(rounds, [line["shares"].get(name, 0) for line in lines], marker="o")
    accuracy.set(title="top-1 on own test images, %", xlabel="round", ylim=(0, 101))
    shares.set(title="share in the average", xlabel="round", ylim=(0, 1))
    for axes in (accuracy, shares):
        axes.set_xticks(rounds)
        axes.grid(alpha=0.3)
    accuracy.legend(loc="lower right")
    _draw_readings(below, readings)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=100)


def _draw_readings(figure, readings: Mapping[str, Readings]) -> None:
    grid = figure.subplots(len(readings), COLUMNS, squeeze=False)
    for row, (name, found) in zip(grid, readings.items(), strict=True):
        for axes in row:
            axes.set_axis_off()
        row[0].set_title(name, loc="left", fontsize=9)
        for i, axes in enumerate(row[: len(found.images)]):
            axes.imshow(found.images[i], cmap="gray", vmin=0, vmax=255)
            right = found.read[i] == found.labels[i]
            axes.text(
                1.02,
                0.5,
                str(found.read[i]),
                color="tab:green" if right else "tab:red",
                fontsize=14,
                transform=axes.transAxes,
                va="center",
            )


def _top1(line: dict, name: str) -> float:
    return line["metrics"].get(f"{name}/top1", float("nan"))
