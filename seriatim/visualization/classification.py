"""Pictures of labels of whole images: confusion matrices, and grids of images with a word."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from seriatim.visualization.image import resize

CELL = 128  # px of an image in a grid
_COLUMNS = 8
_MOST_NUMBERS = 25  # classes with which each cell still shows its number
_MOST_NAMES = 120  # and each row its name


def confusion_picture(matrix: np.ndarray, classes: Sequence[str]) -> np.ndarray:
    """(H, W, 3) uint8 RGB of (C, C) counts: row the true class, column the chosen one.

    The colour is the share of the row; the diagonal, which is right, is green and all else red.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    count = len(classes)
    total = matrix.sum(1, keepdims=True)
    shares = np.divide(matrix, total, out=np.zeros(matrix.shape), where=total > 0)
    side = float(np.clip(2.5 + 0.45 * count, 4, 16))
    figure = Figure(figsize=(side, side), dpi=100, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.imshow(_coloured(shares), interpolation="nearest")
    axes.set(xlabel="predicted", ylabel="true")
    if count <= _MOST_NAMES:
        size = float(np.clip(220 / max(count, 1), 4, 10))
        axes.set_xticks(range(count), classes, rotation=90, fontsize=size)
        axes.set_yticks(range(count), classes, fontsize=size)
    if count <= _MOST_NUMBERS:
        for row, column in np.argwhere(matrix > 0):
            colour = "white" if shares[row, column] > 0.5 else "black"
            text = str(matrix[row, column])
            axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=8)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _coloured(shares: np.ndarray) -> np.ndarray:
    """(C, C, 3) float: white to green on the diagonal, white to red beside it."""
    colours = np.where(
        np.eye(len(shares), dtype=bool)[..., None], (0.0, 0.42, 0.25), (0.70, 0.05, 0.08)
    )
    strength = np.sqrt(shares)[..., None]  # rare confusions are to be seen, too
    return 1 - strength * (1 - colours)


def label_grid(records: Sequence[Mapping[str, Any]], texts: Sequence[Sequence[str]]) -> np.ndarray:
    """(H, W, 3) uint8 RGB: the images of records as they are stored, each over its lines."""
    from seriatim.data.image import record_image

    return grid([record_image(record, "RGB") for record in records], texts)


def grid(images: Sequence[np.ndarray], texts: Sequence[Sequence[str]]) -> np.ndarray:
    """(H, W, 3) uint8 RGB of images (h, w, 3) uint8 RGB, eight a row, each over its lines of text
    (as many for each)."""
    from seriatim.visualization.sheet import caption_bar

    gap, columns = 4, min(_COLUMNS, len(images))
    cells = [
        np.concatenate([_fitted(image), *(caption_bar(CELL, line, (), 11) for line in lines)])
        for image, lines in zip(images, texts, strict=True)
    ]
    height, rows = cells[0].shape[0], -(-len(cells) // columns)
    sheet = np.full((rows * (height + gap) - gap, columns * (CELL + gap) - gap, 3), 24, np.uint8)
    for number, cell in enumerate(cells):
        y, x = (number // columns) * (height + gap), (number % columns) * (CELL + gap)
        sheet[y : y + height, x : x + CELL] = cell
    return sheet


def _fitted(image: np.ndarray) -> np.ndarray:
    """`image` scaled into the middle of a square of `CELL` px."""
    scaled = resize(image, CELL / max(image.shape[:2]))[:CELL, :CELL]
    square = np.full((CELL, CELL, 3), 24, np.uint8)
    y, x = ((CELL - side) // 2 for side in scaled.shape[:2])
    square[y : y + scaled.shape[0], x : x + scaled.shape[1]] = scaled
    return square


def best_classes(output: Mapping[str, Any], names: Sequence[str], count: int = 3) -> list[str]:
    """The most probable classes of a classifier's output, each with its probability in percent."""
    scores = output["scores"]
    best = scores.argsort(descending=True)[:count].tolist()
    return [f"{names[k]} {100 * float(scores[k]):.0f}%" for k in best]


def label_name(label: int, names: Sequence[str]) -> str:
    """The name of a class; "unlabelled" for what has none."""
    return names[label] if 0 <= label < len(names) else "unlabelled"
