"""Take a part of a COCO dataset: some categories, sizes or images, or a few images for all classes.

`--cover N` gives the small sets on which a network is first overfitted: N images that show as many
classes as N images can (greedily, which is within 1 - 1/e of the best).
"""

from __future__ import annotations

import argparse
import math
from collections import Counter
from collections.abc import Collection, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path

from dataset_tools.arguments import positive
from dataset_tools.coco import (
    Annotation,
    Dataset,
    Image,
    annotation_box,
    image_root,
    load_coco,
    write_coco,
)
from dataset_tools.errors import InputError
from dataset_tools.provenance import derived_info
from dataset_tools.table import text_table

EPILOG = """\
examples:
  python -m dataset_tools subset all.json -o cats.json --categories cat dog
  python -m dataset_tools subset all.json -o large.json --min-size 32
  python -m dataset_tools subset all.json -o ten.json --cover 10
"""


@dataclass
class Selection:
    """What was taken and what was left out."""

    dataset: Dataset
    dropped_annotations: dict[str, int]  # why → how many
    dropped_images: int  # that had objects, none of which was taken
    uncovered: list[str]  # categories with objects, none of which is in the images chosen by cover


def select(
    dataset: Dataset,
    *,
    categories: Collection[str] | None = None,
    min_size: float = 0,
    max_size: float = math.inf,
    first: int | None = None,
    cover: int | None = None,
    keep_empty: bool = False,
) -> Selection:
    """Part of a dataset. First the objects are chosen, then the images.

    Args:
        dataset: what to take from; not changed.
        categories: names to keep; the others disappear from the category list too. None keeps all.
        min_size: smallest size of an object in px: the square root of its box's area.
        max_size: largest size.
        first: at most that many images, in the file's order.
        cover: at most that many images, chosen to show as many categories as possible.
        keep_empty: keep images that lose all their objects. Images without any before are kept
        anyway,
            except by `cover`.

    Raises:
        InputError: a category is not in the dataset, or nothing is left.
    """
    names = [category.name for category in dataset.categories]
    unknown = sorted(set(categories or ()) - set(names))
    if unknown:
        raise InputError(
            f"There is no category {', '.join(map(repr, unknown))}. There are: {', '.join(names)}."
        )
    wanted = set(names if categories is None else categories)
    dropped: Counter[str] = Counter()
    images, emptied = [], 0
    for image in dataset.images:
        kept = [a for a in image.annotations if _is_wanted(a, wanted, min_size, max_size, dropped)]
        if image.annotations and not kept and not keep_empty:
            emptied += 1
            continue
        images.append(replace(image, annotations=kept))
    uncovered: list[str] = []
    if cover is not None:
        images, uncovered = cover_categories(images, cover)
    if first is not None:
        images = images[:first]
    if not images:
        raise InputError("No image is left. Ask for less.")
    kept_categories = [category for category in dataset.categories if category.name in wanted]
    part = replace(dataset, images=images, categories=kept_categories)
    return Selection(part, dict(dropped), emptied, uncovered)


def cover_categories(images: Sequence[Image], count: int) -> tuple[list[Image], list[str]]:
    """At most `count` images that show as many categories as possible, and the categories not
    shown.

    Greedy: always the image with most categories that are not yet shown; of several the one with
    fewest objects (easiest to look at), then the first. When all are shown, a new round begins.
    """
    shows = [{annotation.category for annotation in image.annotations} for image in images]
    everything = set().union(*shows)
    left = [index for index, shown in enumerate(shows) if shown]
    chosen: list[int] = []
    lacking = set(everything)
    while left and len(chosen) < count:

        def worth(index: int, lacking: Set[str] = lacking) -> tuple[int, int]:
            return len(shows[index] & lacking), -len(images[index].annotations)

        best = max(left, key=worth)
        if not shows[best] & lacking:
            lacking = set(everything)
            continue
        chosen.append(best)
        left.remove(best)
        lacking = lacking - shows[best]
    shown = set().union(*(shows[index] for index in chosen))
    return [images[index] for index in sorted(chosen)], sorted(everything - shown)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    add = parser.add_argument
    add("json", type=Path, metavar="JSON", help="COCO file")
    add("-o", "--output", type=Path, required=True, metavar="OUT", help="COCO file to write")
    add("--categories", nargs="+", metavar="NAME", help="keep objects of these only")
    add("--min-size", type=float, default=0, metavar="PX", help="smallest √(box area) to keep")
    add(
        "--max-size", type=float, default=math.inf, metavar="PX", help="largest √(box area) to keep"
    )
    add("--keep-empty", action="store_true", help="keep images that lose all their objects")
    number = parser.add_mutually_exclusive_group()
    number.add_argument("--first", type=positive, metavar="N", help="at most N images")
    number.add_argument(
        "--cover", type=positive, metavar="N", help="N images that show all classes"
    )


def run(args: argparse.Namespace) -> int:
    """Select, write, and print what was taken and what was not."""
    if args.output.resolve() == args.json.resolve():
        raise InputError(f"{args.output} is the file to take from. Give -o another name.")
    dataset = load_coco(args.json)
    selection = select(
        dataset,
        categories=args.categories,
        min_size=args.min_size,
        max_size=args.max_size,
        first=args.first,
        cover=args.cover,
        keep_empty=args.keep_empty,
    )
    asked = {
        key: value
        for key, value in vars(args).items()
        if key not in ("json", "output") and value not in (None, False, 0, math.inf)
    }
    part = selection.dataset
    root = image_root(args.json, dataset.info)
    info = derived_info(dataset.info, {"command": "subset", **asked}, root, args.output)
    summary = write_coco(
        args.output, part.images, part.categories, info, part.licenses, keep_ids=True
    )
    print(text_table(("category", "annotations"), list(summary.per_category.items())))
    print(f"\n{summary.images:,} of {len(dataset.images):,} images")
    for why, count in selection.dropped_annotations.items():
        print(f"dropped: {count:,} annotations {why}")
    if selection.dropped_images:
        print(f"dropped: {selection.dropped_images:,} images that lost all their objects")
    if selection.uncovered:
        print(f"not shown by these images: {', '.join(selection.uncovered)}")
    print(f"written: {summary.path}")
    return 0


def _is_wanted(
    annotation: Annotation,
    categories: Collection[str],
    min_size: float,
    max_size: float,
    dropped: Counter[str],
) -> bool:
    if annotation.category not in categories:
        dropped["of other categories"] += 1
        return False
    if min_size <= 0 and max_size == math.inf:
        return True
    x0, y0, x1, y1 = annotation_box(annotation) or (0, 0, 0, 0)
    size = math.sqrt(max(0, x1 - x0) * max(0, y1 - y0))
    if min_size <= size <= max_size:
        return True
    dropped["that are too small" if size < min_size else "that are too large"] += 1
    return False
