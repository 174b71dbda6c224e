"""Write COCO datasets as labels of another format.

`export_dataset` is the same for Python.
"""

from __future__ import annotations

import argparse
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from dataset_tools.coco import Category, Dataset, Image, image_root, load_coco
from dataset_tools.errors import InputError
from dataset_tools.files import new_folder
from dataset_tools.formats import Format, get_format, written_formats
from dataset_tools.formats.base import SPLIT_NAMES, split_of_folders
from dataset_tools.images import inside
from dataset_tools.notes import Notes

EPILOG = """\
examples:
  python -m dataset_tools export yolo datasets/mine/train.json datasets/mine/val.json -o mine_yolo
  python -m dataset_tools export voc all.json -o mine_voc --images photos
  python -m dataset_tools export yolo --help     (options of one format)
"""


@dataclass
class Export:
    """What `export_dataset` wrote and could not write."""

    format: Format
    folder: Path
    images: int
    annotations: int
    notes: Notes


def export_dataset(
    format_name: str,
    datasets: Mapping[str | None, str | Path],
    output: str | Path,
    *,
    images: str | Path | None = None,
    **options: Any,
) -> Export:
    """Write the COCO files of `datasets` (by split; None: without one) into the new folder
    `output`.

    The folder appears whole or not at all. `images` is the image root; by default that which the
    files record.

    Raises:
        InputError: the format has no writer, `output` is there already, or a file cannot be read.
    """
    chosen = _writable(format_name)
    splits = {split: load_coco(path) for split, path in datasets.items()}
    root = Path(images) if images else _common_root(datasets, splits)
    notes = Notes()
    with new_folder(output) as folder:
        chosen.write(splits, folder, notes, root, **options)
    return Export(
        chosen,
        Path(output),
        images=sum(len(dataset.images) for dataset in splits.values()),
        annotations=sum(len(i.annotations) for d in splits.values() for i in d.images),
        notes=notes,
    )


def place_image(root: Path | None, file_name: str, target: Path) -> None:
    """Put the image `file_name` of the image root at `target`: as a hard link where that can be,
    else as a copy. InputError if it is not there, or its name leads out of the root."""
    if root is None:
        raise InputError("This format needs the images. Give their folder by --images.")
    source = inside(root, file_name)
    if not source.is_file():
        raise InputError(f"{source}: this image file is missing. Check --images.")
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source.resolve(), target)
    except FileExistsError as error:
        raise InputError(
            f"Two images would be written to {target.name}, {file_name} one of them. Rename it."
        ) from error
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, target)


def split_path(split: str | None, file_name: str) -> str:
    """Path below the exported folder for an image of a split: in a folder that `split_of_folders`
    knows the split by, unless its own folders say so already. InputError if it leads out."""
    inside("", file_name)
    if split is None or split_of_folders(file_name) == SPLIT_NAMES.get(split, split):
        return file_name
    return f"{split}/{file_name}"


def joined_categories(datasets: Iterable[Dataset]) -> list[Category]:
    """Categories of all datasets, each name once, in the order in which they come."""
    joined: dict[str, Category] = {}
    for dataset in datasets:
        for category in dataset.categories:
            joined.setdefault(category.name, category)
    return list(joined.values())


def distinct_stems(images: Iterable[Image], notes: Notes) -> Iterator[tuple[Image, str]]:
    """Each image with its file name less the suffix, for formats that name label files so.

    An image of several splits comes once for each, which is noted. InputError if the names of two
    images differ in the suffix, or in case, only: they would share a label file.
    """
    taken: dict[str, str] = {}
    for image in images:
        stem = str(PurePosixPath(os.path.splitext(image.file_name)[0]))
        other = taken.get(stem.casefold())
        if other == image.file_name:
            notes.suspect("image that is there twice (labelled as the first time)", other)
        elif other is not None:
            raise InputError(
                f"{other} and {image.file_name} would have the same label file. Rename one of them."
            )
        taken[stem.casefold()] = image.file_name
        yield image, stem


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments that all formats take."""
    parser.usage = "%(prog)s FORMAT DATASET.json … -o DIR [options]"
    add = parser.add_argument
    add("format", metavar="FORMAT", help=f"one of {', '.join(written_formats())}")
    add("datasets", metavar="DATASET.json", type=Path, nargs="+", help="COCO files; each a split")
    add("-o", "--output", metavar="DIR", type=Path, required=True, help="new folder")
    add("--images", metavar="DIR", type=Path, help="image root, if the files do not record it")


def add_more_arguments(parser: argparse.ArgumentParser, argv: Sequence[str]) -> None:
    """The options of the format that the command line names."""
    name = next((word for word in argv if not word.startswith("-")), None)
    if name is not None:
        chosen = _writable(name)
        group = parser.add_argument_group(f"options of {chosen.name}: {chosen.title}")
        for option in chosen.write_options:
            option.add_to(group)


def run(args: argparse.Namespace) -> int:
    """Export and print what was written and what was not."""
    chosen = get_format(args.format)
    export = export_dataset(
        args.format,
        _by_split(args.datasets),
        args.output,
        images=args.images,
        **{option.name: getattr(args, option.name) for option in chosen.write_options},
    )
    print(f"{chosen.title}: {export.images:,} images, {export.annotations:,} annotations")
    if chosen.write_loses:
        print(f"what {chosen.name} cannot hold: {chosen.write_loses}")
    for line in export.notes.lines():
        print(line)
    print(f"written: {export.folder}")
    print(f"next:\n  python -m dataset_tools convert {chosen.name} {export.folder} -o DIR")
    return 0


def _writable(name: str) -> Format:
    """The format called `name`. InputError if it has no writer."""
    if name == "auto":
        fault = "There is nothing to recognise"
    elif get_format(name).write is None:
        fault = f"{name} is read only"
    else:
        return get_format(name)
    raise InputError(f"{fault}. There are writers for: {', '.join(written_formats())}.")


def _by_split(paths: Sequence[Path]) -> dict[str | None, Path]:
    """Each file by its split, which is its name; a single `all.json` is no split."""
    if len(paths) == 1 and paths[0].stem == "all":
        return {None: paths[0]}
    splits: dict[str | None, Path] = {path.stem: path for path in paths}
    if len(splits) < len(paths):
        raise InputError("Two datasets have the same file name, which is to be the split's name.")
    return splits


def _common_root(
    paths: Mapping[str | None, str | Path], splits: Mapping[str | None, Dataset]
) -> Path | None:
    """The image root that the files record, if it is the same for all."""
    roots = {image_root(paths[split], dataset.info) for split, dataset in splits.items()}
    resolved = {root.resolve() for root in roots if root is not None}
    return resolved.pop() if len(resolved) == len(roots) == 1 else None
