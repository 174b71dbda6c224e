"""Do boxes lie on the edges of their own image, more than on those of another?

A box drawn by a person runs along edges: the change of brightness across its sides is larger there
than across sides in a random place. For each image the boxes of many images are laid over it, and
the rank of its own among them is taken: 1 if they fit best, 0.5 on the average if they belong
elsewhere. Then the boxes are misread on purpose in the ways that happen: if one of these fits the
images better, it is what happened.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from detectron2.structures import BoxMode
from scipy.stats import wilcoxon

from seriatim.data.image import read_image
from seriatim.gates.context import Record, objects_of

MIN_IMAGES = 6  # with fewer the mean rank of healthy data is too uncertain to speak of
MOST_IMAGES = 48
SIDE = 192  # px that the longer side is reduced to: edges of objects survive, noise does not
# Chance that boxes which are right fit better when misread on purpose, for each misreading.
SIGNIFICANCE = 1e-4
SHIFTS = (-3, -2, -1, 1, 2, 3)  # in the list of images, as off-by-one errors make them


@dataclass
class Agreement:
    """Attributes:
    images: how many were looked at.
    rank: mean share of foreign boxes that fit an image worse than its own; 0.5 is chance.
    bound: rank below which that may be chance.
    shift: position in the list whose images the boxes fit best, if that is not their own.
    ranks: of each image; worst: the file names of the worst.
    misread: keys of MISREADINGS which undone make the boxes fit better, the best first.
    """

    images: int
    rank: float
    bound: float
    shift: int
    ranks: list[float]
    worst: list[Record]
    misread: list[str]

    @property
    def suspicious(self) -> bool:
        return self.rank < self.bound or bool(self.misread)

    def as_dict(self) -> dict[str, Any]:
        values = asdict(self)
        del values["worst"]
        values["ranks"] = [round(rank, 3) for rank in self.ranks]
        return values


def agreement(records: Sequence[Record]) -> Agreement:
    """The agreement of the records' boxes with their images, looking at consecutive records."""
    chosen = list(records[:MOST_IMAGES])
    edges = [_edges(record["file_name"]) for record in chosen]
    boxes = [_relative_boxes(record) for record in chosen]
    fit = np.array([[_fit(edge, box) for box in boxes] for edge in edges])  # image × boxes
    count = len(chosen)
    # Boxes that suit any image (large ones, central ones) must not count as fitting this one.
    fit = (fit - fit.mean(axis=0)) / (fit.std(axis=0) + 1e-9)
    others = ~np.eye(count, dtype=bool)
    own = np.diagonal(fit)
    ranks = np.array(
        [(fit[others[:, i], i] < own[i]).mean() + 0.5 * (fit[others[:, i], i] == own[i]).mean()
         for i in range(count)]
    )  # fmt: skip
    # A uniform rank has a standard deviation of 0.29; healthy photographs and drawings measured
    # 0.96 to 1.0, the same with their labels shifted or shuffled 0.40 to 0.57.
    bound = 0.5 + 3.0 * 0.29 / np.sqrt(count)
    means = {shift: float(np.mean(np.diagonal(fit, -shift))) for shift in SHIFTS}
    best = max(means, key=means.get)
    worst = [chosen[i] for i in np.argsort(ranks)[:4]]
    shift = best if means[best] > own.mean() + 2 / np.sqrt(count) else 0
    misread = _misread(edges, boxes)
    return Agreement(
        count, float(ranks.mean()), float(bound), shift, ranks.tolist(), worst, misread
    )


def _columns(boxes: np.ndarray, *columns: np.ndarray) -> np.ndarray:
    return np.stack(columns, axis=1) if len(boxes) else boxes


# What may have happened → from the boxes as they are read to what they would then have meant. All
# in shares of the image.
MISREADINGS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "images are mirrored (flipped left to right) against their labels": lambda b: _columns(
        b, 1 - b[:, 2], b[:, 1], 1 - b[:, 0], b[:, 3]
    ),
    "images are turned upside down (flipped) against their labels": lambda b: _columns(
        b, b[:, 0], 1 - b[:, 3], b[:, 2], 1 - b[:, 1]
    ),
    "images are turned by 90 degrees counter-clockwise against their labels": lambda b: _columns(
        b, b[:, 1], 1 - b[:, 2], b[:, 3], 1 - b[:, 0]
    ),
    "images are turned by 90 degrees clockwise against their labels": lambda b: _columns(
        b, 1 - b[:, 3], b[:, 0], 1 - b[:, 1], b[:, 2]
    ),
    "x and y of the boxes are swapped": lambda b: _columns(b, b[:, 1], b[:, 0], b[:, 3], b[:, 2]),
    "corners (XYXY) are read as width and height (XYWH)": lambda b: _columns(
        b, b[:, 0], b[:, 1], b[:, 2] - b[:, 0], b[:, 3] - b[:, 1]
    ),
    "widths and heights (XYWH) are read as corners (XYXY)": lambda b: _columns(
        b, b[:, 0], b[:, 1], b[:, 2] + b[:, 0], b[:, 3] + b[:, 1]
    ),
    "centres of the boxes are read as their upper left corners": lambda b: (
        b - np.tile((b[:, 2:] - b[:, :2]) / 2, 2)
    ),
    "boxes are at half the scale of the images": lambda b: 2 * b,
    "boxes are at twice the scale of the images": lambda b: b / 2,
}


def _misread(
    edges: Sequence[tuple[np.ndarray, np.ndarray]], boxes: Sequence[np.ndarray]
) -> list[str]:
    """The MISREADINGS which undone make the boxes fit their own images better, image by image
    (Wilcoxon's signed-rank test)."""
    stated = np.array([_fit(edge, box) for edge, box in zip(edges, boxes, strict=True)])
    gains = {}
    for name, undo in MISREADINGS.items():
        fits = np.array([_fit(edge, undo(box)) for edge, box in zip(edges, boxes, strict=True)])
        if fits.mean() <= stated.mean() or np.allclose(fits, stated):
            continue
        if wilcoxon(fits, stated, alternative="greater").pvalue < SIGNIFICANCE:
            gains[name] = float(fits.mean() - stated.mean())
    return sorted(gains, key=lambda name: -gains[name])


def draw_agreement(found: Agreement, path: Path) -> None:
    """The images whose own boxes fit worst, with these boxes, side by side."""
    tiles = []
    for record in found.worst:
        image = np.ascontiguousarray(read_image(record["file_name"], "BGR"))
        for annotation in objects_of(record):
            box = BoxMode.convert(annotation["bbox"], annotation["bbox_mode"], BoxMode.XYXY_ABS)
            x0, y0, x1, y1 = (round(v) for v in box)
            cv2.rectangle(image, (x0, y0), (x1, y1), (0, 220, 255), max(1, image.shape[1] // 200))
        tiles.append(cv2.resize(image, (320, 320)))
    cv2.imwrite(str(path), np.hstack(tiles))


def _edges(file_name: str) -> tuple[np.ndarray, np.ndarray]:
    """Absolute change of colour along x and along y, (S, S) each, relative to the image's mean."""
    image = read_image(file_name, "BGR").astype(np.float32)
    image = cv2.GaussianBlur(
        cv2.resize(image, (SIDE, SIDE), interpolation=cv2.INTER_AREA), (3, 3), 0
    )
    along_x = np.abs(cv2.Sobel(image, cv2.CV_32F, 1, 0)).max(axis=-1)
    along_y = np.abs(cv2.Sobel(image, cv2.CV_32F, 0, 1)).max(axis=-1)
    return along_x / (along_x.mean() + 1e-6), along_y / (along_y.mean() + 1e-6)


def _relative_boxes(record: Record) -> np.ndarray:
    """(N, 4) XYXY as shares of the image."""
    size = (record["width"], record["height"]) * 2
    boxes = [
        BoxMode.convert(list(annotation["bbox"]), annotation["bbox_mode"], BoxMode.XYXY_ABS)
        for annotation in objects_of(record)
        if len(annotation["bbox"]) == 4
    ]
    return np.asarray(boxes, np.float32) / np.asarray(size, np.float32)


def _fit(edges: tuple[np.ndarray, np.ndarray], boxes: np.ndarray) -> float:
    """Mean edge strength across the sides of the boxes; the sides may be off by two px."""
    along_x, along_y = edges
    total, count = 0.0, 0
    for box in boxes:
        x0, y0, x1, y1 = np.clip(np.round(box * SIDE).astype(int), 0, SIDE - 1)
        if x1 <= x0 or y1 <= y0:
            continue
        for x in (x0, x1):
            if 2 <= x < SIDE - 2:  # the image's border is no edge
                total += along_x[y0 : y1 + 1, x - 2 : x + 3].mean(axis=0).max()
                count += 1
        for y in (y0, y1):
            if 2 <= y < SIDE - 2:
                total += along_y[y - 2 : y + 3, x0 : x1 + 1].mean(axis=1).max()
                count += 1
    return total / max(count, 1)
