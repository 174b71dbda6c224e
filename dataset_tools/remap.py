"""Rename, join, drop and order the categories of COCO files, by a map in YAML.

`dataset_tools.category_map` says what the map is. Several files (the splits of one dataset) get the
same categories with the same ids.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from dataset_tools.category_map import CategoryMap, alike, read_category_map
from dataset_tools.coco import (
    Annotation,
    Dataset,
    annotation_box,
    image_root,
    load_coco,
    write_coco,
)
from dataset_tools.errors import InputError
from dataset_tools.provenance import derived_info
from dataset_tools.table import text_table

EPILOG = """\
example:
  python -m dataset_tools remap train.json val.json --map map.yaml -o remapped

map.yaml:
  categories:            # old: new; several with the same new name are joined
    Car: car
    lorry: car
    unknown: null        # dropped, with its objects
  others: keep           # or drop: what is not named above
  order: [person, car]   # first, in this order; the others follow
"""

_PLACES_TOLD = 3


@dataclass
class Remapped:
    """Datasets with their new categories, and what happened."""

    datasets: list[Dataset]
    sources: dict[str, dict[str, int]]  # new category → old one → annotations
    dropped: dict[str, int]  # old category → annotations
    conflicts: list[str] = field(default_factory=list)  # contradictions, of which one side was kept
    doubles: list[str] = field(default_factory=list)  # one object, of two categories that are one


def remap_datasets(datasets: Sequence[Dataset], mapping: CategoryMap) -> Remapped:
    """Apply a map to datasets, which all get the same categories.

    Raises:
        InputError: the map names what is not there, or joins what has different keypoints.
    """
    everything = [category for dataset in datasets for category in dataset.categories]
    mapping.require_known(category.name for category in everything)
    categories, conflicts = mapping.categories(everything)
    if not categories:
        raise InputError("The map drops every category.")
    counts = Counter(a.category for d in datasets for image in d.images for a in image.annotations)
    sources: dict[str, dict[str, int]] = {category.name: {} for category in categories}
    dropped: dict[str, int] = {}
    for old in dict.fromkeys(category.name for category in everything):
        new = mapping(old)
        (dropped if new is None else sources[new])[old] = counts[old]
    result = Remapped([], sources, dropped, conflicts)
    for dataset in datasets:
        images = []
        for image in dataset.images:
            result.doubles += _doubles(image.annotations, mapping)
            images.append(replace(image, annotations=mapping.annotations(image.annotations)))
        result.datasets.append(replace(dataset, images=images, categories=categories))
    return result


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    add = parser.add_argument
    add("json", nargs="+", type=Path, metavar="JSON", help="COCO files: the splits of one dataset")
    add("--map", type=Path, required=True, metavar="YAML", help="the map, as below")
    add("-o", "--output", type=Path, required=True, metavar="OUT",
        help="COCO file to write (a folder for several)")  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Map, write, and print what became of every category."""
    outputs = _outputs(args.json, args.output)
    mapping = read_category_map(args.map)
    datasets = [load_coco(path) for path in args.json]
    found = remap_datasets(datasets, mapping)
    step = {"command": "remap", "categories": dict(mapping.names)}
    step |= {"others": "drop" if mapping.drop_others else "keep", "order": list(mapping.order)}
    summaries = []
    for path, output, old, new in zip(args.json, outputs, datasets, found.datasets, strict=True):
        info = derived_info(old.info, step, image_root(path, old.info), output)
        # Annotations and images keep their ids, categories are numbered in their new order.
        numbered = [replace(c, id=number) for number, c in enumerate(new.categories, start=1)]
        summaries.append(
            write_coco(output, new.images, numbered, info, new.licenses, keep_ids=True)
        )
    print(format_remapped(found), end="\n\n")
    print("written:", *(f"  {summary.path}" for summary in summaries), sep="\n")
    return 0


def format_remapped(found: Remapped) -> str:
    """A row for each old category, then conflicts."""
    rows = [(old, new, count) for new, olds in found.sources.items() for old, count in olds.items()]
    rows += [(old, "(dropped)", count) for old, count in found.dropped.items()]
    lines = [text_table(("category", "becomes", "annotations"), rows), ""]
    lines += [f"conflict (the first is kept): {conflict}" for conflict in found.conflicts]
    if found.doubles:
        places = ", ".join(found.doubles[:_PLACES_TOLD])
        more = ", …" if len(found.doubles) > _PLACES_TOLD else ""
        lines.append(
            f"conflict (both kept): {len(found.doubles):,} × one box that was of two categories "
            f"and now is there twice: {places}{more}"
        )
    for first, second in alike(found.sources):
        lines.append(f"alike: {first!r} and {second!r} stay two categories")
    dropped = sum(found.dropped.values())
    lines.append(f"dropped: {dropped:,} annotations of {len(found.dropped):,} categories")
    return "\n".join(lines)


def _doubles(annotations: Sequence[Annotation], mapping: CategoryMap) -> list[str]:
    """Annotations on the box of another one, of another category that is now the same."""
    first: dict[tuple, str] = {}
    found = []
    for annotation in annotations:
        name, box = mapping(annotation.category), annotation_box(annotation)
        if name is None or box is None:
            continue
        key = (name, *(round(value, 2) for value in box))
        if first.setdefault(key, annotation.category) != annotation.category:
            found.append(annotation.source or name)
    return found


def _outputs(paths: Sequence[Path], output: Path) -> list[Path]:
    outputs = [output / path.name for path in paths] if len(paths) > 1 else [output]
    if len(set(outputs)) < len(outputs):
        raise InputError("Two of the files have the same name: give them different ones.")
    clash = {path.resolve() for path in paths} & {path.resolve() for path in outputs}
    if clash:
        raise InputError(f"{clash.pop()} is one of the files to read. Give -o another name.")
    return outputs
