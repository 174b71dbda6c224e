"""Plots of what datasets hold, each into axes of matplotlib, one colour for each dataset."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dataset_tools.coco import Dataset
from dataset_tools.errors import InputError
from dataset_tools.files import atomic_path
from dataset_tools.stats import LARGE, SMALL, box_shapes, solid_boxes

MOST_CATEGORIES = 30
_BINS = 40
MOST_CELLS = 48  # of the map of centres, along each side; fewer where there are few boxes
# Okabe and Ito's palette without its yellow: apart for colour-blind people, dark enough on white.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")

Draw = Callable[[Any], None]


@contextmanager
def plotting() -> Iterator[None]:
    """How all plots look. Names are taken as they are, `$` too."""
    import matplotlib
    from cycler import cycler

    style = {
        "text.parse_math": False,
        "axes.prop_cycle": cycler(color=_COLOURS),
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.titlesize": "medium",
        "legend.frameon": False,
    }
    with matplotlib.rc_context(style):
        yield


def plot(datasets: Sequence[Dataset], names: Sequence[str], path: Path) -> None:
    """Draw counts, sizes, shapes and objects an image of each dataset into a picture at `path`."""
    if path.suffix.lower() not in (".png", ".svg", ".pdf"):
        raise InputError(f"{path}: the picture is a .png, .svg or .pdf file.")
    from matplotlib.figure import Figure

    with plotting():
        figure = Figure(figsize=(13, 8), layout="constrained")
        (top_left, top_right), (low_left, low_right) = figure.subplots(2, 2)
        categories(top_left, datasets, names)
        box_sizes(top_right, datasets, names)
        for limit in (SMALL, LARGE):
            top_right.axvline(math.sqrt(limit), color="0.6", linewidth=1, linestyle=":")
        aspect_ratios(low_left, datasets, names)
        objects_an_image(low_right, datasets, names)
        with atomic_path(path) as temporary:
            figure.savefig(temporary, dpi=110)


def categories(axes: Any, datasets: Sequence[Dataset], names: Sequence[str]) -> None:
    """Objects of the most frequent categories."""
    counts = [Counter(a.category for i in d.images for a in i.annotations) for d in datasets]
    most = most_frequent(datasets)[::-1]
    height = 0.8 / len(datasets)
    for index, (count, name) in enumerate(zip(counts, names, strict=True)):
        places = [place + (index - (len(datasets) - 1) / 2) * height for place in range(len(most))]
        axes.barh(places, [count[category] for category in most], height, label=name)
    axes.set_yticks(range(len(most)), [_short(name) for name in most], fontsize=8)
    limited = len(sum(counts, Counter())) > len(most)
    axes.set_title(f"objects of the {len(most)} most frequent categories" if limited else "objects")
    _legend(axes)


def most_frequent(datasets: Sequence[Dataset], count: int = MOST_CATEGORIES) -> list[str]:
    """The categories with most objects in all datasets together, the first first."""
    everything = Counter(a.category for d in datasets for i in d.images for a in i.annotations)
    return [name for name, _ in everything.most_common(count)]


def box_sizes(
    axes: Any, datasets: Sequence[Dataset], names: Sequence[str], strides: Sequence[int] = ()
) -> None:
    """Sizes of boxes, with a line for the cell of each feature map."""
    values = [[size for size, _, _ in box_shapes(dataset)] for dataset in datasets]
    _histogram(axes, values, names, "size of objects: √(box area), px", log=True)
    for number, stride in enumerate(strides):
        axes.axvline(stride, color="0.45", linewidth=1, linestyle="--")
        place = axes.get_xaxis_transform()
        axes.text(stride, 0.99 - 0.05 * (number % 2), f" {stride}", color="0.35",
                  transform=place, va="top", fontsize=8)  # fmt: skip


def shorter_sides(
    axes: Any, datasets: Sequence[Dataset], names: Sequence[str], strides: Sequence[int]
) -> None:
    """Which share of boxes is narrower or lower than so many px: what a map can hardly tell
    apart."""
    axes.set_title("share of boxes whose shorter side is below … px (lines: strides)")
    for dataset, name in zip(datasets, names, strict=True):
        sides = sorted(min(x1 - x0, y1 - y0) for _, (x0, y0, x1, y1) in solid_boxes(dataset))
        if sides:
            shares = [(number + 1) / len(sides) for number in range(len(sides))]
            axes.plot(sides, shares, drawstyle="steps-post", label=name)
    for stride in strides:
        axes.axvline(stride, color="0.45", linewidth=1, linestyle="--")
        axes.text(stride, 1.0, f" {stride}", color="0.35", va="bottom", fontsize=8)
    if axes.lines[: -len(strides) or None]:
        _log_axis(axes)
    axes.set_ylim(0, 1.08)
    _legend(axes, "lower right")


def aspect_ratios(axes: Any, datasets: Sequence[Dataset], names: Sequence[str]) -> None:
    """Width over height."""
    values = [[ratio for _, _, ratio in box_shapes(dataset)] for dataset in datasets]
    _histogram(axes, values, names, "width / height", log=True)


def objects_an_image(axes: Any, datasets: Sequence[Dataset], names: Sequence[str]) -> None:
    """Annotations of each image, those without any too."""
    values = [[len(image.annotations) for image in dataset.images] for dataset in datasets]
    _histogram(axes, values, names, "objects an image")


def brightness(axes: Any, values: Sequence[Sequence[float]], names: Sequence[str]) -> None:
    """Mean grey of each image, 0 to 255."""
    _histogram(axes, values, names, "mean brightness of an image (0 black, 255 white)")
    axes.set_xlim(0, 255)


def centres(axes: Any, dataset: Dataset) -> None:
    """Where in the image the centres of boxes lie."""
    import numpy as np

    places = [
        ((x0 + x1) / 2 / image.width, (y0 + y1) / 2 / image.height)
        for image, (x0, y0, x1, y1) in solid_boxes(dataset)
    ]
    x, y = np.array(places, dtype=float).reshape(-1, 2).T
    cells = int(np.clip(math.sqrt(len(places) / 2), 8, MOST_CELLS))
    counts, _, _ = np.histogram2d(y, x, cells, [(0, 1), (0, 1)])
    axes.imshow(counts, cmap="magma", extent=(0, 1, 1, 0), aspect="auto")
    axes.set_title("centres of boxes (share of the image)")


def co_occurrence(axes: Any, dataset: Dataset, most: int = 20) -> None:
    """Of the images with one category the share that has another one too."""
    import numpy as np

    names = most_frequent([dataset], most)
    number = {name: index for index, name in enumerate(names)}
    together = np.zeros((len(names), len(names)))
    for image in dataset.images:
        shown = [number[name] for name in {a.category for a in image.annotations} if name in number]
        together[np.ix_(shown, shown)] += 1
    share = together / np.maximum(1, together.diagonal()[:, None])
    axes.set_title("of images with … (row), share that also has … (column)")
    if not names:
        return
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    labels = [_short(name) for name in names]
    axes.set_xticks(range(len(names)), labels, rotation=90, fontsize=7)
    axes.set_yticks(range(len(names)), labels, fontsize=7)
    if len(names) <= 12:
        for row, column in np.ndindex(share.shape):
            ink = "white" if share[row, column] > 0.6 else "black"
            axes.text(column, row, f"{share[row, column]:.0%}", ha="center", va="center",
                      color=ink, fontsize=7)  # fmt: skip


def image_sizes(axes: Any, datasets: Sequence[Dataset], names: Sequence[str]) -> None:
    """Width and height of images; the area of a disc tells how many there are."""
    for dataset, name in zip(datasets, names, strict=True):
        sizes = Counter((image.width, image.height) for image in dataset.images)
        if sizes:
            (x, y), most = zip(*sizes, strict=True), max(sizes.values())
            areas = [12 + 160 * count / most for count in sizes.values()]
            axes.scatter(x, y, areas, alpha=0.5, label=name)
    axes.set_title("image sizes: width and height, px")
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    _legend(axes, "lower right")


def _histogram(
    axes: Any,
    values: Sequence[Sequence[float]],
    names: Sequence[str],
    title: str,
    log: bool = False,
) -> None:
    """Densities, so that files of different lengths can be compared."""
    import numpy as np

    everything = np.concatenate([np.asarray(some, dtype=float) for some in values])
    axes.set_title(title)
    if not len(everything):
        return
    low, high = everything.min(), everything.max()
    if log:
        edges = np.geomspace(low, high * 1.001, _BINS)
    else:  # whole numbers: bins of whole numbers, or some would hold more of them than others
        edges = np.arange(math.floor(low), high + 2, math.ceil((high - low + 1) / _BINS))
    for some, name in zip(values, names, strict=True):
        if len(some):
            share = np.full(len(some), 1 / len(some))
            axes.hist(some, edges, weights=share, histtype="step", label=name)
    axes.set_ylabel("share")
    if log:
        _log_axis(axes)
    _legend(axes)


def _log_axis(axes: Any) -> None:
    from matplotlib.ticker import FormatStrFormatter, LogLocator, NullLocator

    axes.set_xscale("log")
    # 1, 2, 5, 10, …: more labels would run into each other.
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FormatStrFormatter("%g"))


def _legend(axes: Any, place: str = "best") -> None:
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc=place)


def _short(name: str, most: int = 24) -> str:
    return name if len(name) <= most else f"{name[: most - 1]}…"
