"""ImageFolder: the folder that an image lies in is its class.

As torchvision.datasets.ImageFolder, Keras, timm and many more read it: `CLASS/…/x.jpg`, or, with
splits, `train/CLASS/…/x.jpg` beside `val/` and `test/`. torchvision calls the first folder the
class, however deep the image lies; here the class of `animals/cat/x.jpg` is `animals/cat`, of the
supercategory `animals`, unless `--classes first` says otherwise.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from dataset_tools.coco import Category, Dataset, Image, whole_image
from dataset_tools.errors import InputError
from dataset_tools.export import place_image
from dataset_tools.formats.base import (
    SPLIT_NAMES,
    Evidence,
    Format,
    Glimpse,
    Option,
    Plan,
    root_of,
    sorted_categories,
)
from dataset_tools.images import image_size, is_image_name, walk_files
from dataset_tools.labels import image_labels
from dataset_tools.notes import Notes

# Files that lie beside classes without being labels of another format.
_HARMLESS = frozenset(("readme", "license", "licence", "classes", "thumbs", "desktop"))
# Folders that hold the images of other formats.
_NO_CLASSES = frozenset(("images", "jpegimages", "labels", "annotations", "masks", "imagesets"))


@dataclass(frozen=True)
class Item:
    """An image (path relative to the root), its class ("" if it has none) and its split."""

    image: str
    category: str
    split: str | None


def plan(
    path: Path,
    notes: Notes,
    images: Path | None = None,
    classes: str = "path",
    splits: str = "auto",
) -> Plan:
    """Plan to read a folder of class folders, with or without splits above them."""
    root = root_of(path, images)
    if not path.is_dir():
        raise InputError(f"{path} is a file. Give the folder that holds the class folders.")
    names = list(walk_files(root))
    pictures = [name for name in names if is_image_name(name)]
    for name in names:
        if not is_image_name(name):
            notes.drop("file that is no image", name)
    with_splits = splits == "yes" or (splits == "auto" and _has_splits(pictures))
    items = [_item(name, with_splits, classes) for name in pictures]
    if not any(item.category for item in items):
        raise InputError(f"{path}: no image lies in a class folder. Wanted is CLASS/x.jpg.")
    empty = _empty_folders(root, with_splits, classes) - {item.category for item in items}
    for name in sorted(empty):
        notes.suspect("class folder without an image (kept as a category)", name)
    remarks = []
    if with_splits:
        remarks.append("the first folders are splits (--splits no: they are classes)")
    if any("/" in item.category for item in items):
        remarks.append(
            "classes lie in folders of folders and are called by their whole path "
            "(--classes first: by the first folder, as torchvision has it)"
        )
    return Plan(root, items, _Reader(root), _Categories(frozenset(empty)), remarks=remarks)


def recognise(glimpse: Glimpse) -> Evidence | None:
    """Images in several folders, and nothing else. That is a hint, not a proof."""
    pictures = glimpse.images
    others = set(glimpse.files).difference(pictures)
    with_splits = _has_splits(pictures)
    found = {_item(name, with_splits, "path").category for name in pictures} - {""}
    parts = {part.lower() for name in found for part in name.split("/")}
    if len(found) < 2 or parts & _NO_CLASSES or not all(map(_is_harmless, others)):
        return None
    shown = ", ".join(sorted(found)[:3])
    return Evidence(f"images lie in {len(found)} folders: {shown}, …", certain=False)


def write(
    splits: Mapping[str | None, Dataset], folder: Path, notes: Notes, images: Path | None
) -> None:
    """Each image into the folder of its class; one without a class beside the class folders."""
    for split, dataset in splits.items():
        base = folder / _folder_name(split) if split else folder
        taken: set[str] = set()
        used: set[str] = set()
        for image in dataset.images:
            labels = image_labels(image, notes)
            used.update(labels[:1])
            if not labels:
                notes.suspect("image without a class (put beside the folders)", image.file_name)
            for label in labels[1:]:
                notes.drop(f"further class of an image: {label}", image.file_name)
            target = _free_name("".join(map(_folder_of, labels[:1])), image, taken)
            place_image(images, image.file_name, base / target)
        for category in dataset.categories:
            if category.name not in used:
                notes.drop("class without an image (it gets no folder)", category.name)


@dataclass
class _Reader:
    root: Path

    def __call__(self, item: Item, notes: Notes) -> Iterator[Image]:
        place = str(self.root / item.image)
        width, height = image_size(place)
        image = Image(item.image, width, height, split=item.split, source=place)
        if item.category:
            image.annotations.append(whole_image(item.category, width, height, place))
        else:
            notes.suspect("image that is in no class folder (kept, without a class)", item.image)
        yield image


@dataclass(frozen=True)
class _Categories:
    """Classes in their order; a class `animals/cat` has the supercategory `animals`."""

    empty: frozenset[str]

    def __call__(self, seen: set[str]) -> list[Category]:
        categories = sorted_categories(seen | self.empty)
        for category in categories:
            category.supercategory = category.name.rpartition("/")[0]
        return categories


def _has_splits(pictures: list[str]) -> bool:
    """Whether a first folder that is called like a split has class folders."""
    return any(
        name.count("/") > 1 and name.partition("/")[0].lower() in SPLIT_NAMES for name in pictures
    )


def _item(name: str, with_splits: bool, classes: str) -> Item:
    folders = PurePosixPath(name).parts[:-1]
    split = None
    if with_splits and folders:
        split = SPLIT_NAMES.get(folders[0].lower(), folders[0])
        folders = folders[1:]
    return Item(name, "/".join(folders[:1] if classes == "first" else folders), split)


def _empty_folders(root: Path, with_splits: bool, classes: str) -> set[str]:
    """Classes of the folders that hold neither files nor folders."""
    found = set()
    for place, folders, files in os.walk(root):
        if not folders and not files and Path(place) != root:
            name = Path(place).relative_to(root).as_posix()
            if not any(part.startswith(".") for part in name.split("/")):
                found.add(_item(f"{name}/x", with_splits, classes).category)
    return found - {""}


def _is_harmless(name: str) -> bool:
    stem, suffix = os.path.splitext(name.rpartition("/")[2].lower())
    return stem in _HARMLESS or suffix == ".md"


def _folder_name(name: str) -> str:
    """`name`, if a folder can be called so. InputError if not."""
    try:
        length = len(os.fsencode(name))
    except UnicodeEncodeError:
        length = 0
    if name.startswith(".") or not 0 < length <= 255 or "\0" in name or "\\" in name:
        raise InputError(f"No folder can be called {name!r}, which is a class or a split. Rename.")
    return name


def _folder_of(category: str) -> str:
    return "".join(f"{_folder_name(part)}/" for part in category.split("/"))


def _free_name(prefix: str, image: Image, taken: set[str]) -> str:
    """Where the image goes: by its own name, or one with a number if that is taken."""
    stem, suffix = os.path.splitext(PurePosixPath(image.file_name).name)
    target, count = f"{prefix}{stem}{suffix}", 1
    while target.casefold() in taken:
        count += 1
        target = f"{prefix}{stem}_{count}{suffix}"
    taken.add(target.casefold())
    return target


FORMAT = Format(
    name="imagefolder",
    title="ImageFolder: a folder for each class",
    layout="folder with CLASS/x.jpg, or with train/CLASS/x.jpg, val/CLASS/x.jpg, …",
    carries=("labels", "splits"),
    loses="files that are no images",
    recognise=recognise,
    plan=plan,
    conventions="The class is the path of folders between the split and the image; what stands "
    "before the last / is its supercategory. First folders are splits if one called train, val, "
    "test or alike has class folders. Images in no class folder are kept without a class.",
    options=(
        Option(
            "--classes",
            "path: a class is called by all its folders; first: by the first one alone",
            default="path",
            choices=("path", "first"),
        ),
        Option(
            "--splits",
            "whether the first folders are splits",
            default="auto",
            choices=("auto", "yes", "no"),
        ),
    ),
    write=write,
    write_loses="all but one class for each image",
)
