"""Count the classes, sizes and shapes of the objects in COCO datasets.

What a dataset holds decides about anchors, strides, tile sizes and sampling: look before training.
"""

from __future__ import annotations

import argparse
import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dataset_tools.coco import Dataset, annotation_area, annotation_box, load_coco
from dataset_tools.errors import InputError
from dataset_tools.files import atomic_path
from dataset_tools.notes import Notes
from dataset_tools.table import text_table

EPILOG = """\
examples:
  python -m dataset_tools stats datasets/mine/train.json
  python -m dataset_tools stats train.json val.json -o stats.png

Sizes of objects are square roots of their boxes' areas; small, medium and large are COCO's areas
(< 32², < 96², and above), taken of the mask where there is one.
"""

QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
_BINS = 40
SMALL, LARGE = 32**2, 96**2  # px², COCO's limits


@dataclass
class Statistics:
    """Numbers of one dataset. Quantiles are those of QUANTILES, empty if there is nothing to
    count."""

    images: int
    empty_images: int  # without an annotation
    annotations: int
    crowds: int
    with_mask: int
    with_keypoints: int
    per_category: dict[str, int]
    images_per_category: dict[str, int]
    by_area: dict[str, int]  # small, medium, large
    size: list[float]  # quantiles of √(box area), px
    relative_size: list[float]  # of √(box area / image area)
    aspect_ratio: list[float]  # of width / height
    per_image: list[float]  # of annotations per image
    image_sizes: dict[str, int]  # "width×height" → images, the most frequent first
    skipped: int = 0  # annotations without a box of positive area: only in the counts above


def dataset_statistics(dataset: Dataset) -> Statistics:
    """Count what is in a dataset."""
    annotations = [a for image in dataset.images for a in image.annotations]
    categories = {category.name: 0 for category in dataset.categories}
    shapes = _shapes(dataset)
    areas = Counter(_area_name(annotation_area(annotation)) for annotation in annotations)
    sizes = Counter(f"{image.width}×{image.height}" for image in dataset.images)
    shown = Counter(
        name for image in dataset.images for name in {a.category for a in image.annotations}
    )
    return Statistics(
        images=len(dataset.images),
        empty_images=sum(not image.annotations for image in dataset.images),
        annotations=len(annotations),
        crowds=sum(annotation.iscrowd for annotation in annotations),
        with_mask=sum(bool(annotation.segmentation) for annotation in annotations),
        with_keypoints=sum(bool(annotation.keypoints) for annotation in annotations),
        per_category=categories | Counter(annotation.category for annotation in annotations),
        images_per_category=categories | shown,
        by_area={name: areas[name] for name in ("small", "medium", "large")},
        size=_quantiles([size for size, _, _ in shapes]),
        relative_size=_quantiles([relative for _, relative, _ in shapes]),
        aspect_ratio=_quantiles([ratio for _, _, ratio in shapes]),
        per_image=_quantiles([len(image.annotations) for image in dataset.images]),
        image_sizes=dict(sizes.most_common()),
        skipped=len(annotations) - len(shapes),
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    add = parser.add_argument
    add("json", nargs="+", type=Path, metavar="JSON", help="COCO files")
    add("-o", "--output", type=Path, metavar="PNG", help="draw the distributions into a picture")
    add("--json", dest="as_json", action="store_true", help="print JSON, for machines")


def run(args: argparse.Namespace) -> int:
    """Count and print."""
    notes = Notes()
    datasets = [load_coco(path, notes) for path in args.json]
    statistics = {
        str(path): dataset_statistics(dataset)
        for path, dataset in zip(args.json, datasets, strict=True)
    }
    if args.output is not None:
        plot(datasets, [path.stem for path in args.json], args.output)
    dropped = {note.kind: note.count for note in notes.dropped.values()}
    if args.as_json:
        content = {path: asdict(one) for path, one in statistics.items()}
        print(json.dumps({"files": content, "left_out": dropped}, indent=1, ensure_ascii=False))
        return 0
    print(format_statistics(statistics))
    for kind, count in dropped.items():
        print(f"left out: {count:,} × {kind} (see check)")
    if args.output is not None:
        print(f"written: {args.output}")
    return 0


def format_statistics(statistics: dict[str, Statistics]) -> str:
    """Tables for people; one column (or row) for each file."""
    all_of = list(statistics.values())
    names = [Path(path).stem for path in statistics]
    counts = [
        (field.replace("_", " "), *(getattr(one, field) for one in all_of))
        for field in (
            "images",
            "empty_images",
            "annotations",
            "crowds",
            "with_mask",
            "with_keypoints",
        )
    ]
    counts += [(size, *(one.by_area[size] for one in all_of)) for size in all_of[0].by_area]
    counts.append(("without area", *(one.skipped for one in all_of)))
    categories = dict.fromkeys(name for one in all_of for name in one.per_category)
    per_category = [
        (name, *(value for one in all_of for value in _counts_of(one, name)))
        for name in sorted(
            categories, key=lambda name: -sum(_counts_of(o, name)[0] for o in all_of)
        )
    ]
    header = [f"{name}{what}" for name in names for what in ("", " (images)")]
    heads = ("least", *(f"{quantile:.0%}" for quantile in QUANTILES[1:-1]), "most")
    quantiles = [
        (what, name, *map(float, getattr(one, field)))
        for field, what in (
            ("size", "size of objects, px"),
            ("relative_size", "size / image size"),
            ("aspect_ratio", "width / height"),
            ("per_image", "objects an image"),
        )
        for name, one in zip(names, all_of, strict=True)
        if getattr(one, field)
    ]
    parts = [
        text_table(("", *names), counts),
        text_table(("category", *header), per_category),
        text_table(("", "file", *heads), quantiles),
        "image sizes: " + "; ".join(map(_most_frequent, names, all_of)),
    ]
    return "\n\n".join(parts)


def plot(datasets: Sequence[Dataset], names: Sequence[str], path: Path) -> None:
    """Draw counts, sizes, shapes and objects an image of each dataset into a picture at `path`."""
    if path.suffix.lower() not in (".png", ".svg", ".pdf"):
        raise InputError(f"{path}: the picture is a .png, .svg or .pdf file.")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 8), layout="constrained")
    (top_left, top_right), (low_left, low_right) = figure.subplots(2, 2)
    _plot_categories(top_left, datasets, names)
    shapes = [_shapes(dataset) for dataset in datasets]
    sizes = [[size for size, _, _ in some] for some in shapes]
    ratios = [[ratio for _, _, ratio in some] for some in shapes]
    counts = [[len(image.annotations) for image in dataset.images] for dataset in datasets]
    _plot_histogram(top_right, sizes, names, "size of objects: √(box area), px", log=True)
    _plot_histogram(low_left, ratios, names, "width / height", log=True)
    _plot_histogram(low_right, counts, names, "objects an image")
    for limit in (SMALL, LARGE):
        top_right.axvline(math.sqrt(limit), color="0.6", linewidth=1, linestyle=":")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=110)


def _plot_categories(axes: Any, datasets: Sequence[Dataset], names: Sequence[str]) -> None:
    counts = [Counter(a.category for i in d.images for a in i.annotations) for d in datasets]
    most = [name for name, _ in sum(counts, Counter()).most_common(30)][::-1]
    height = 0.8 / len(datasets)
    for index, (count, name) in enumerate(zip(counts, names, strict=True)):
        places = [place + (index - (len(datasets) - 1) / 2) * height for place in range(len(most))]
        axes.barh(places, [count[category] for category in most], height, label=name)
    axes.set_yticks(range(len(most)), most, fontsize=8)
    axes.set_title("objects" if len(most) < 30 else "objects of the 30 most frequent categories")
    axes.legend()


def _plot_histogram(
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
        edges = np.arange(low, high + 2, math.ceil((high - low + 1) / _BINS))
    for some, name in zip(values, names, strict=True):
        if len(some):
            share = np.full(len(some), 1 / len(some))
            axes.hist(some, edges, weights=share, histtype="step", label=name)
    axes.set_ylabel("share")
    if log:
        axes.set_xscale("log")
        for formatting in (axes.xaxis.set_major_formatter, axes.xaxis.set_minor_formatter):
            formatting("{x:g}")
    axes.legend()


def _shapes(dataset: Dataset) -> list[tuple[float, float, float]]:
    """√(box area) in px, the same relative to the image, width / height of every solid box."""
    shapes = []
    for image in dataset.images:
        for annotation in image.annotations:
            x0, y0, x1, y1 = annotation_box(annotation) or (0, 0, 0, 0)
            # Also False for NaN.
            if x1 > x0 and y1 > y0 and math.isfinite(x1 - x0) and math.isfinite(y1 - y0):
                area = (x1 - x0) * (y1 - y0)
                relative = math.sqrt(area / (image.width * image.height))
                shapes.append((math.sqrt(area), relative, (x1 - x0) / (y1 - y0)))
    return shapes


def _area_name(area: float) -> str:
    return "small" if area < SMALL else "medium" if area < LARGE else "large"


def _quantiles(values: Sequence[float]) -> list[float]:
    import numpy as np

    return [round(float(q), 4) for q in np.quantile(values, QUANTILES)] if values else []


def _counts_of(one: Statistics, name: str) -> tuple[int, int]:
    return one.per_category.get(name, 0), one.images_per_category.get(name, 0)


def _most_frequent(name: str, one: Statistics) -> str:
    first = [f"{size} ({count:,})" for size, count in list(one.image_sizes.items())[:4]]
    more = len(one.image_sizes) - len(first)
    return f"{name} {', '.join(first)}" + (f" and {more:,} more" if more else "")
