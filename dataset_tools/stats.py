"""Count the classes, sizes and shapes of the objects in COCO datasets.

What a dataset holds decides about anchors, strides, tile sizes and sampling: look before training.
"""

from __future__ import annotations

import argparse
import json
import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from dataset_tools.coco import (
    Dataset,
    Image,
    annotation_area,
    annotation_box,
    load_coco,
)
from dataset_tools.errors import InputError
from dataset_tools.notes import Notes
from dataset_tools.provenance import images_if_any
from dataset_tools.rle import Box
from dataset_tools.strides import DEFAULT, parse_strides, strides_of_config
from dataset_tools.table import text_table

EPILOG = """\
examples:
  python -m dataset_tools stats datasets/mine/train.json
  python -m dataset_tools stats train.json val.json -o stats.png
  python -m dataset_tools stats train.json --html stats.html --config configs/mine.yaml

Sizes of objects are square roots of their boxes' areas; small, medium and large are COCO's areas
(< 32², < 96², and above), taken of the mask where there is one.
"""

QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
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
    shapes = box_shapes(dataset)
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
    add("--html", type=Path, metavar="FILE", help="write all plots into one page")
    add("--images", nargs="+", type=Path, metavar="DIR",
        help="image root, or one for each file: for the brightness of images")  # fmt: skip
    strides = parser.add_mutually_exclusive_group()
    strides.add_argument(
        "--strides", metavar="N,N,…", help="of the feature maps (default: 8,16,32)"
    )
    strides.add_argument("--config", type=Path, metavar="YAML", help="a config to take them from")
    add("--json", dest="as_json", action="store_true", help="print JSON, for machines")


def run(args: argparse.Namespace) -> int:
    """Count and print."""
    notes = Notes()
    if args.images and len(args.images) not in (1, len(args.json)):
        raise InputError(f"Give one image root for all of the {len(args.json)} files, or as many.")
    strides = list(DEFAULT)
    if args.strides or args.config:
        strides = parse_strides(args.strides) if args.strides else strides_of_config(args.config)
    datasets = [load_coco(path, notes) for path in args.json]
    statistics = {
        str(path): dataset_statistics(dataset)
        for path, dataset in zip(args.json, datasets, strict=True)
    }
    roots = [
        images_if_any(path, dataset.info, args.images and args.images[index % len(args.images)])
        for index, (path, dataset) in enumerate(zip(args.json, datasets, strict=True))
    ]
    names = _names(args.json)
    if args.output is not None:
        from dataset_tools.stats_plots import plot

        plot(datasets, names, args.output)
    if args.html is not None:
        from dataset_tools.stats_page import write_page

        write_page(datasets, names, args.html, strides=strides, roots=roots)
    dropped = {note.kind: note.count for note in notes.dropped.values()}
    if args.as_json:
        content = {path: asdict(one) for path, one in statistics.items()}
        print(json.dumps({"files": content, "left_out": dropped}, indent=1, ensure_ascii=False))
        return 0
    print(format_statistics(statistics), end="\n\n")
    print(format_strides(datasets, names, strides))
    for kind, count in dropped.items():
        print(f"left out: {count:,} × {kind} (see check)")
    for written in (args.output, args.html):
        if written is not None:
            print(f"written: {written}")
    return 0


def format_strides(
    datasets: Sequence[Dataset], names: Sequence[str], strides: Sequence[int]
) -> str:
    """A table of the boxes that are smaller than one cell of a feature map."""
    shares = [share_below(dataset, strides) for dataset in datasets]
    rows = [(f"{s} px", *(f"{share[s]:.1%}" for share in shares)) for s in strides]
    return text_table(("boxes narrower or lower than one cell of", *names), rows)


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


def solid_boxes(dataset: Dataset) -> Iterator[tuple[Image, Box]]:
    """All boxes of positive, finite area, with their images."""
    for image in dataset.images:
        for annotation in image.annotations:
            x0, y0, x1, y1 = annotation_box(annotation) or (0, 0, 0, 0)
            # Also False for NaN.
            if x1 > x0 and y1 > y0 and math.isfinite(x1 - x0) and math.isfinite(y1 - y0):
                yield image, (x0, y0, x1, y1)


def box_shapes(dataset: Dataset) -> list[tuple[float, float, float]]:
    """√(box area) in px, the same relative to the image, width / height of every solid box."""
    shapes = []
    for image, (x0, y0, x1, y1) in solid_boxes(dataset):
        area = (x1 - x0) * (y1 - y0)
        relative = math.sqrt(area / (image.width * image.height))
        shapes.append((math.sqrt(area), relative, (x1 - x0) / (y1 - y0)))
    return shapes


def share_below(dataset: Dataset, strides: Sequence[int]) -> dict[int, float]:
    """For each stride the share of boxes whose shorter side is less than one cell of that map."""
    shorter = sorted(min(x1 - x0, y1 - y0) for _, (x0, y0, x1, y1) in solid_boxes(dataset))
    return {stride: bisect_left(shorter, stride) / max(1, len(shorter)) for stride in strides}


def _names(paths: Sequence[Path]) -> list[str]:
    """The files' stems, with their folders if they would be the same."""
    stems = [path.stem for path in paths]
    if len(set(stems)) == len(stems):
        return stems
    return [f"{path.resolve().parent.name}/{path.stem}" for path in paths]


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
