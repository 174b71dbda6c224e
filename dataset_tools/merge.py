"""Join several COCO datasets into one, categories by their names.

File names become relative to the folder that holds all image roots, so equal names from different
sources stay apart; the same file in several sources becomes one image with all its objects.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from dataset_tools.category_map import CategoryMap, alike, read_category_map
from dataset_tools.coco import Dataset, Image, load_coco, write_coco
from dataset_tools.errors import InputError
from dataset_tools.provenance import derived_info, find_images
from dataset_tools.table import text_table

EPILOG = """\
examples:
  python -m dataset_tools merge a/all.json b/all.json -o both.json
  python -m dataset_tools merge a.json b.json --images a_photos b_photos -o both.json
  python -m dataset_tools merge a.json b.json -o both.json --rename Car=car 'motor bike=motorbike'
  python -m dataset_tools merge a.json b.json -o both.json --map map.yaml   (see remap --help)
"""


@dataclass
class Merged:
    """The joined dataset, and what happened on the way."""

    dataset: Dataset
    root: Path  # that the file names are relative to
    same_files: list[str] = field(default_factory=list)  # images that several sources have
    clashes: list[str] = field(default_factory=list)  # file names that meant different files
    conflicts: list[str] = field(default_factory=list)  # categories that contradict each other


def merge_datasets(
    sources: Sequence[tuple[Dataset, Path]],
    rename: Mapping[str, str] | None = None,
    mapping: CategoryMap | None = None,
) -> Merged:
    """Join datasets, given with their image roots.

    Args:
        sources: datasets and the folders that their file names are relative to.
        rename: old category name → new one, in every source.
        mapping: which categories are dropped, and their order, too; `rename` adds to it.

    Raises:
        InputError: a renamed category is nowhere, two categories of one name have different
            keypoints, or files have two sizes. All such are named.
    """
    mapping = mapping or CategoryMap()
    mapping = replace(mapping, names={**mapping.names, **(rename or {})})
    everything = [category for dataset, _ in sources for category in dataset.categories]
    mapping.require_known(category.name for category in everything)
    categories, conflicts = mapping.categories(everything)
    roots = [Path(os.path.abspath(root)) for _, root in sources]
    common = Path(os.path.commonpath(roots))
    images: dict[str, Image] = {}
    merged = Merged(Dataset([], categories), common, conflicts=conflicts)
    sizes: list[str] = []
    meanings: dict[str, set[str]] = {}
    licenses = _Licenses()
    for (dataset, _), root in zip(sources, roots, strict=True):
        license_ids = licenses.renumbered(dataset)
        for image in dataset.images:
            name = Path(os.path.relpath(root / image.file_name, common)).as_posix()
            meanings.setdefault(image.file_name, set()).add(name)
            annotations = mapping.annotations(image.annotations)
            attributes = _licensed(image.attributes, license_ids)
            there = images.get(name)
            if there is None:
                images[name] = replace(
                    image, file_name=name, annotations=annotations, attributes=attributes
                )
                continue
            if (there.width, there.height) != (image.width, image.height):
                sizes.append(_two_sizes(there, image))
            there.annotations += annotations
            there.attributes = attributes | there.attributes
            merged.same_files.append(name)
    if sizes:
        more = f" {len(sizes) - 3:,} more images are so." if len(sizes) > 3 else ""
        raise InputError(f"{' '.join(sizes[:3])}{more} Run check on the sources.")
    merged.dataset.images = list(images.values())
    merged.dataset.licenses = licenses.entries
    merged.clashes = [name for name, files in meanings.items() if len(files) > 1]
    return merged


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    add = parser.add_argument
    add("json", nargs="+", type=Path, metavar="JSON", help="COCO files")
    add("-o", "--output", type=Path, required=True, metavar="OUT", help="COCO file to write")
    add("--images", nargs="+", type=Path, metavar="DIR", help="image root, or one for each file")
    add("--rename", nargs="+", default=[], metavar="OLD=NEW", help="join or rename categories")
    add("--map", type=Path, metavar="YAML", help="rename, join, drop and order categories")


def run(args: argparse.Namespace) -> int:
    """Join, write, and print what was joined."""
    if args.output.resolve() in {path.resolve() for path in args.json}:
        raise InputError(f"{args.output} is one of the files to join. Give -o another name.")
    if len({path.resolve() for path in args.json}) < len(args.json):
        raise InputError(
            "One of the files is given twice: all of its annotations would be there twice. Give "
            "each once."
        )
    given = args.images or [None]
    if len(given) not in (1, len(args.json)):
        raise InputError(
            f"{len(given)} image folders were given for {len(args.json)} files. Give one for all, "
            "or one for each."
        )
    datasets = [load_coco(path) for path in args.json]
    sources = [
        (dataset, find_images(path, dataset.info, given[index % len(given)]))
        for index, (path, dataset) in enumerate(zip(args.json, datasets, strict=True))
    ]
    rename = dict(_rename(text) for text in args.rename)
    mapping = read_category_map(args.map) if args.map else CategoryMap()
    merged = merge_datasets(sources, rename, mapping)
    output_folder = args.output.resolve().parent
    step = {
        "command": "merge",
        "sources": [os.path.relpath(path.resolve(), output_folder) for path in args.json],
        "rename": {**mapping.names, **rename},
    }
    info = derived_info({}, step, merged.root, args.output)
    dataset = merged.dataset
    summary = write_coco(args.output, dataset.images, dataset.categories, info, dataset.licenses)
    rows = [
        (str(path), len(part.images), sum(len(image.annotations) for image in part.images))
        for path, part in zip(args.json, datasets, strict=True)
    ]
    rows.append((str(summary.path), summary.images, summary.annotations))
    dropped = sum(row[2] for row in rows[:-1]) - summary.annotations
    print(text_table(("file", "images", "annotations"), rows), end="\n\n")
    print(text_table(("category", "annotations"), list(summary.per_category.items())))
    _tell("images in several sources, joined into one", merged.same_files)
    _tell("file names of several files, told apart by their folders", merged.clashes)
    for conflict in merged.conflicts:
        print(f"conflict (the first is kept): {conflict}")
    for first, second in alike(summary.per_category):
        print(f"alike: {first!r} and {second!r} stay two categories (--rename joins them)")
    if dropped:
        print(f"dropped: {dropped:,} annotations of categories that the map drops")
    print(f"image root: {os.path.relpath(merged.root)}")
    return 0


def _tell(what: str, names: Sequence[str]) -> None:
    if names:
        print(f"{len(names):,} {what}: {', '.join(names[:3])}{', …' if len(names) > 3 else ''}")


def _rename(text: str) -> tuple[str, str]:
    old, _, new = text.partition("=")
    if not old or not new:
        raise InputError(f"--rename {text!r}: write OLD=NEW, in quotes if there are spaces.")
    return old, new


def _two_sizes(first: Image, second: Image) -> str:
    return (
        f"{second.source} says that {first.file_name} is {second.width}×{second.height}, "
        f"{first.source} says {first.width}×{first.height}."
    )


class _Licenses:
    """Licences of all sources, numbered anew: each source counts its own from 1."""

    def __init__(self) -> None:
        self.entries: list[dict[str, Any]] = []

    def renumbered(self, dataset: Dataset) -> dict[Any, int]:
        """Add those of a source: its ids → ours."""
        ids = {}
        for entry in dataset.licenses:
            terms = {key: value for key, value in entry.items() if key != "id"}
            same = [mine for mine in self.entries if mine | {"id": None} == terms | {"id": None}]
            if not same:
                same = [{"id": len(self.entries) + 1, **terms}]
                self.entries += same
            ids[entry.get("id")] = same[0]["id"]
        return ids


def _licensed(attributes: dict[str, Any], ids: Mapping[Any, int]) -> dict[str, Any]:
    if attributes.get("license") not in ids:
        return attributes
    return attributes | {"license": ids[attributes["license"]]}
