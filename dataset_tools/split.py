"""Divide a COCO dataset into train, val, … by image.

Each image (or group of images) is assigned by a hash of its name and the seed, so new images never
move old ones from one split to another. With `--stratify` the shares are kept in every category
instead; then new images may move old ones.
"""

from __future__ import annotations

import argparse
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b
from pathlib import Path

from dataset_tools.coco import Dataset, Image, Summary, image_root, load_coco, write_coco
from dataset_tools.errors import InputError
from dataset_tools.provenance import derived_info
from dataset_tools.table import text_table

EPILOG = """\
examples:
  python -m dataset_tools split all.json -o splits --split train=0.8,val=0.1,test=0.1
  python -m dataset_tools split all.json -o splits --stratify
  python -m dataset_tools split all.json -o splits --group-by '^(patient\\d+)_'
  python -m dataset_tools split tiles.json -o splits --group-by-attribute tile.source
"""

DEFAULT = "train=0.8,val=0.2"


def assign_split(file_name: str, fractions: Mapping[str, float], seed: int = 0) -> str:
    """The split of a file (or group), which depends on nothing but these arguments.

    Args:
        file_name: POSIX path relative to the image root, or the group's name.
        fractions: share of each split; they add up to 1.
        seed: another seed, another division.
    """
    _check_fractions(fractions)
    position, total = uniform(file_name, seed), 0.0
    for name, fraction in fractions.items():
        total += fraction
        if position < total:
            return name
    # Rounding may leave the sum just below 1: then the last split that is to have anything.
    return next(name for name in reversed(list(fractions)) if fractions[name] > 0)


def split_dataset(
    dataset: Dataset,
    fractions: Mapping[str, float],
    seed: int = 0,
    *,
    stratify: bool = False,
    group: Callable[[Image], str] = lambda image: image.file_name,
) -> dict[str, list[Image]]:
    """The images of each split, in the dataset's order.

    Args:
        dataset: what to divide.
        fractions: share of each split; they add up to 1.
        seed: of the hash.
        stratify: keep the shares in every category, as far as whole groups allow.
        group: images with the same value stay together.
    """
    groups: dict[str, list[Image]] = defaultdict(list)
    for image in dataset.images:
        groups[group(image)].append(image)
    if stratify:
        split_of = _stratified(groups, fractions, seed)
    else:
        split_of = {name: assign_split(name, fractions, seed) for name in groups}
    splits: dict[str, list[Image]] = {name: [] for name in fractions}
    for image in dataset.images:
        splits[split_of[group(image)]].append(image)
    return splits


def parse_fractions(text: str) -> dict[str, float]:
    """`train=0.8,val=0.2` as a dict. InputError if it is not of this form or does not add up to
    1."""
    fractions: dict[str, float] = {}
    for part in text.split(","):
        name, _, share = part.partition("=")
        try:
            fraction = float(share)
        except ValueError:
            raise InputError(f"{part!r} is no split: write NAME=SHARE, as in {DEFAULT}.") from None
        if not re.fullmatch(r"[\w-]+", name) or name in fractions:
            raise InputError(
                f"{name!r} is no name of a split, or is there twice: it also names a file."
            )
        fractions[name] = fraction
    _check_fractions(fractions)
    return fractions


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    add = parser.add_argument
    add("json", type=Path, metavar="JSON", help="COCO file")
    add(
        "-o", "--output", type=Path, required=True, metavar="DIR", help="one file a split goes here"
    )
    add("--split", default=DEFAULT, metavar="NAME=SHARE,…", help="shares (default: %(default)s)")
    add("--seed", type=int, default=0, help="of the hash (default: %(default)s)")
    add("--stratify", action="store_true", help="keep the shares in every category")
    group = parser.add_mutually_exclusive_group()
    group.add_argument(
        "--group-by",
        metavar="REGEX",
        help="file names with the same match (its first bracket, if it has one) stay together",
    )
    group.add_argument(
        "--group-by-attribute", metavar="KEY", help="images with the same attribute stay together"
    )


def run(args: argparse.Namespace) -> int:
    """Divide, write one file a split, and print what each holds."""
    fractions = parse_fractions(args.split)
    dataset = load_coco(args.json)
    group, alone = _grouping(args, dataset)
    splits = split_dataset(dataset, fractions, args.seed, stratify=args.stratify, group=group)
    step = {
        "command": "split",
        "fractions": fractions,
        "seed": args.seed,
        "stratify": args.stratify,
        "group_by": args.group_by or args.group_by_attribute,
    }
    root = image_root(args.json, dataset.info)
    summaries = {}
    for name, images in splits.items():
        path = args.output / f"{name}.json"
        if path.resolve() == args.json.resolve():
            raise InputError(f"The split {name!r} would overwrite {path}. Give -o another folder.")
        info = derived_info(dataset.info, step | {"split": name}, root, path)
        summaries[name] = write_coco(
            path, images, dataset.categories, info, dataset.licenses, keep_ids=True
        )
    print(_format(summaries))
    if alone:
        print(f"{alone:,} images are in no group, each went its own way")
    return 0


def _grouping(args: argparse.Namespace, dataset: Dataset) -> tuple[Callable[[Image], str], int]:
    """The function that names an image's group, and for how many images there is none."""
    if args.group_by is not None:
        find = _match_of(args.group_by)
    elif args.group_by_attribute is not None:
        find = _attribute_of(args.group_by_attribute)
    else:
        return (lambda image: image.file_name), 0
    names = {id(image): find(image) for image in dataset.images}
    alone = sum(name is None for name in names.values())
    if alone == len(names):
        raise InputError(
            f"No image of {args.json} has a group by {args.group_by or args.group_by_attribute!r}; "
            f"the first file name is {dataset.images[0].file_name if names else 'missing'}."
        )

    def group(image: Image) -> str:
        name = names[id(image)]
        return image.file_name if name is None else name

    return group, alone


def _match_of(pattern: str) -> Callable[[Image], str | None]:
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise InputError(f"--group-by {pattern!r} is no regular expression: {error}.") from error

    def find(image: Image) -> str | None:
        match = expression.search(image.file_name)
        return match and match[1 if expression.groups else 0]

    return find


def _attribute_of(key: str) -> Callable[[Image], str | None]:
    def find(image: Image) -> str | None:
        value: object = image.attributes
        for part in key.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        return None if value is None else str(value)

    return find


def _stratified(
    groups: Mapping[str, Sequence[Image]], fractions: Mapping[str, float], seed: int
) -> dict[str, str]:
    """Iterative stratification (Sechidis, Tsoumakas, Vlahavas 2011).

    The rarest category first, each group to the split that lacks most images with that category;
    of several the one that lacks most images at all, then by hash.
    """
    _check_fractions(fractions)
    images_with = {
        name: Counter(category for image in images for category in _categories_of(image))
        for name, images in groups.items()
    }
    remaining: Counter[str] = Counter()
    for counts in images_with.values():
        remaining.update(counts)
    lacking = {
        split: {category: fraction * count for category, count in remaining.items()}
        for split, fraction in fractions.items()
        if fraction > 0
    }
    lacking_images = {
        split: fraction * sum(map(len, groups.values())) for split, fraction in fractions.items()
    }
    split_of: dict[str, str] = {}

    def assign(name: str, category: str | None) -> None:
        def need(split: str) -> tuple[float, float, float]:
            wanted = lacking[split][category] if category is not None else 0
            return wanted, lacking_images[split], uniform(f"{name}\0{split}", seed)

        best = split_of[name] = max(lacking, key=need)
        lacking_images[best] -= len(groups[name])
        for other, count in images_with[name].items():
            lacking[best][other] -= count
        remaining.subtract(images_with[name])

    left = sorted(groups, key=lambda name: uniform(name, seed))
    while rarest := min(+remaining, key=lambda name: (remaining[name], name), default=None):
        chosen = [name for name in left if images_with[name][rarest]]
        # Large groups first: what is small fits in afterwards.
        for name in sorted(chosen, key=lambda name: -images_with[name][rarest]):
            assign(name, rarest)
        left = [name for name in left if name not in split_of]
    for name in left:
        assign(name, None)
    return split_of


def _categories_of(image: Image) -> set[str]:
    return {annotation.category for annotation in image.annotations}


def uniform(name: str, seed: int) -> float:
    """A number in [0, 1) that looks random, from the name and the seed."""
    digest = blake2b(f"{seed}\0{name}".encode(errors="surrogatepass"), digest_size=8).digest()
    # 53 bits are what a float holds: with more, rounding could give 1.
    return (int.from_bytes(digest, "big") >> 11) / 2**53


def _check_fractions(fractions: Mapping[str, float]) -> None:
    if any(not 0 <= share <= 1 for share in fractions.values()) or not (
        abs(sum(fractions.values()) - 1) < 1e-6
    ):
        told = ", ".join(f"{name}={share:g}" for name, share in fractions.items())
        raise InputError(f"The shares of the splits ({told}) lie in 0 to 1 and add up to 1.")


def _format(summaries: Mapping[str, Summary]) -> str:
    rows = [(name, one.images, one.annotations) for name, one in summaries.items()]
    parts = [text_table(("split", "images", "annotations"), rows), ""]
    first = next(iter(summaries.values()))
    counts = [
        (category, *(one.per_category[category] for one in summaries.values()))
        for category in first.per_category
    ]
    parts += [text_table(("category", *summaries), counts), "", "written:"]
    return "\n".join([*parts, *(f"  {one.path}" for one in summaries.values())])
