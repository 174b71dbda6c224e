"""Take N images of a COCO dataset that show every category about as often.

In turn for the category that the images chosen so far show least, an image with it is taken: the
one whose other categories are shown least, of several by a hash of the name and the seed. So the
same seed gives the same images, and rare categories are not drowned by frequent ones.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from dataset_tools.arguments import positive
from dataset_tools.coco import Dataset, Image, image_root, load_coco, write_coco
from dataset_tools.errors import InputError
from dataset_tools.provenance import derived_info
from dataset_tools.split import uniform
from dataset_tools.table import text_table

EPILOG = """\
examples:
  python -m dataset_tools sample all.json -o look.json -n 50
  python -m dataset_tools sample all.json -o look.json -n 50 --seed 7 --categories cat dog

Images without objects of these categories are not taken. `subset` takes by other rules.
"""

# Of that many candidates (by hash) the best is taken: enough to balance, and quick for any number.
_CANDIDATES = 200


@dataclass
class Sample:
    """The images taken, in the dataset's order, and what each category has got."""

    dataset: Dataset
    images_per_category: dict[str, tuple[int, int]]  # taken, of all
    annotations_per_category: dict[str, tuple[int, int]]


def sample_images(
    dataset: Dataset, count: int, *, seed: int = 0, categories: Sequence[str] | None = None
) -> Sample:
    """`count` images (all that have objects, if there are fewer), balanced over categories.

    Args:
        dataset: what to take from; not changed.
        count: how many images.
        seed: another seed, other images.
        categories: those to balance; None: all. Objects of others stay where they are.

    Raises:
        InputError: a category is not there, or no image shows any.
    """
    names = [category.name for category in dataset.categories]
    unknown = sorted(set(categories or ()) - set(names))
    if unknown:
        raise InputError(
            f"There is no category {', '.join(map(repr, unknown))}. There are: {', '.join(names)}."
        )
    wanted = set(names if categories is None else categories)
    shows = [{a.category for a in image.annotations} & wanted for image in dataset.images]
    if not any(shows):
        raise InputError("No image shows an object of these categories.")
    chosen = _choose(dataset.images, shows, count, seed)
    part = replace(dataset, images=[dataset.images[index] for index in sorted(chosen)])
    taken, everything = _count(part.images), _count(dataset.images)
    images, annotations = (
        {name: (mine[name], all_of[name]) for name in names if name in wanted}
        for mine, all_of in zip(taken, everything, strict=True)
    )
    return Sample(part, images, annotations)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    add = parser.add_argument
    add("json", type=Path, metavar="JSON", help="COCO file")
    add("-o", "--output", type=Path, required=True, metavar="OUT", help="COCO file to write")
    add("-n", "--images", type=positive, required=True, metavar="N", help="how many images")
    add("--seed", type=int, default=0, help="another seed, other images (default: %(default)s)")
    add("--categories", nargs="+", metavar="NAME", help="balance these only")


def run(args: argparse.Namespace) -> int:
    """Choose, write, and print what each category has got."""
    if args.output.resolve() == args.json.resolve():
        raise InputError(f"{args.output} is the file to take from. Give -o another name.")
    dataset = load_coco(args.json)
    sample = sample_images(dataset, args.images, seed=args.seed, categories=args.categories)
    step = {"command": "sample", "images": args.images, "seed": args.seed}
    if args.categories:
        step["categories"] = args.categories
    root = image_root(args.json, dataset.info)
    info = derived_info(dataset.info, step, root, args.output)
    part = sample.dataset
    summary = write_coco(
        args.output, part.images, part.categories, info, part.licenses, keep_ids=True
    )
    rows = [
        (name, *images, *sample.annotations_per_category[name])
        for name, images in sample.images_per_category.items()
    ]
    print(text_table(("category", "images", "of", "annotations", "of"), rows))
    print(f"\n{summary.images:,} of {len(dataset.images):,} images")
    if summary.images < args.images:
        print(f"fewer than the {args.images:,} asked for: no other image shows these categories")
    absent = [name for name, (taken, _) in sample.images_per_category.items() if not taken]
    if absent:
        print(f"not shown by these images: {', '.join(absent)}")
    print(f"written: {summary.path}")
    return 0


def _choose(images: Sequence[Image], shows: Sequence[set[str]], count: int, seed: int) -> list[int]:
    """Indices of the images taken, in the order of taking."""
    order = sorted(
        (index for index, shown in enumerate(shows) if shown),
        key=lambda index: (uniform(images[index].file_name, seed), index),
    )
    waiting: dict[str, list[int]] = {}
    for index in order:
        for name in shows[index]:
            waiting.setdefault(name, []).append(index)
    shown: Counter[str] = Counter()
    chosen: list[int] = []
    taken: set[int] = set()
    while len(chosen) < count and waiting:
        name = min(waiting, key=lambda name: (shown[name], len(waiting[name]), name))
        left = [index for index in waiting[name][:_CANDIDATES] if index not in taken]
        if not left:
            waiting[name] = waiting[name][_CANDIDATES:]
            if not waiting[name]:
                del waiting[name]
            continue
        best = min(left, key=lambda index: sum(shown[other] for other in shows[index]))
        chosen.append(best)
        taken.add(best)
        shown.update(shows[best])
    return chosen


def _count(images: Sequence[Image]) -> tuple[Counter[str], Counter[str]]:
    """Images and annotations of each category."""
    shown = Counter(name for image in images for name in {a.category for a in image.annotations})
    return shown, Counter(a.category for image in images for a in image.annotations)
