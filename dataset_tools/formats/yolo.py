"""YOLO: one text file per image, a line per object: class, centre and size as shares of the image.

`class cx cy w h`, all but the class divided by the image's width or height (after EXIF orientation,
as Ultralytics does it). A sixth number is a score and is kept as an attribute. An odd number of
seven or more is a polygon `class x1 y1 x2 y2 …`, whose box is the tight one around its corners.
An image without a text file, or with an empty one, is an image without objects.
"""

from __future__ import annotations

import glob
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dataset_tools.coco import Annotation, Image
from dataset_tools.errors import InputError
from dataset_tools.formats.base import (
    Evidence,
    Format,
    Glimpse,
    Option,
    Plan,
    declared_categories,
    read_text,
    root_of,
    sorted_categories,
    split_of_folders,
)
from dataset_tools.images import image_size, is_image_name, walk_files
from dataset_tools.notes import Notes
from dataset_tools.rle import polygons_box

NAME_FILES = ("classes.txt", "obj.names", "classes.names", "labels.names")


@dataclass(frozen=True)
class Item:
    """An image (path relative to the image root) and its split."""

    image: str
    split: str | None


def plan(
    path: Path,
    notes: Notes,
    images: Path | None = None,
    names: str | None = None,
    labels: str | None = None,
) -> Plan:
    """Plan to read a data.yaml with all it names, or a folder of images and labels."""
    yaml_file = path if path.is_file() else _yaml_file(path)
    content = _load_yaml(yaml_file) if yaml_file else {}
    base = path if path.is_dir() else path.parent
    root = images or (_yaml_root(yaml_file, content) if yaml_file else base)
    root = root_of(path, root)
    found = _files_of_yaml(yaml_file, root, content, notes) if yaml_file else []
    if found:
        root = _common_root(root, [file for file, _ in found])
        items = [Item(_relative(file, root), split) for file, split in found]
    else:
        items = [
            Item(name, split_of_folders(name)) for name in walk_files(root) if is_image_name(name)
        ]
    if not items:
        raise InputError(
            f"{path}: there are no images in {root}. Labels as shares of the image need the "
            "images: give their folder by --images."
        )
    class_names, where = _class_names(base, yaml_file, content, names)
    finder = _LabelFinder(root, Path(labels) if labels else None, base)
    _note_unused_labels(Path(labels) if labels else base, items, notes)
    if class_names is None:
        remark = (
            "no class names found: categories are called by their numbers (or give --names FILE)"
        )
        categories = sorted_categories
    else:
        remark = f"class names are from {where}"
        categories = declared_categories(list(class_names.values()), where)
    return Plan(root, items, _Reader(root, finder, class_names), categories, remarks=[remark])


def recognise(glimpse: Glimpse) -> Evidence | None:
    """A data.yaml with `names` and `train` or `val`; or text files of numbers beside images."""
    for name in glimpse.with_suffix(".yaml", ".yml")[:20]:
        keys = {line.partition(":")[0].strip() for line in glimpse.head(name).splitlines()}
        if "names" in keys and keys & {"train", "val", "test"}:
            return Evidence(f"{name} is YAML with names and train, val or test")
    if not any(is_image_name(name) for name in glimpse.files):
        return None
    stems = {os.path.splitext(os.path.basename(n))[0] for n in glimpse.files if is_image_name(n)}
    for name in glimpse.with_suffix(".txt"):
        if os.path.splitext(os.path.basename(name))[0] not in stems:
            continue
        lines = [line for line in glimpse.head(name).splitlines() if line.strip()]
        if lines and all(_looks_like_label(line) for line in lines[:-1] or lines):
            return Evidence(
                f"{name} has lines of a class and shares, and there is an image of its name"
            )
    return None


@dataclass
class _LabelFinder:
    """Where the labels of an image are."""

    root: Path
    folder: Path | None  # given by the user
    base: Path  # of the dataset

    def candidates(self, image: str) -> Iterator[Path]:
        stem = os.path.splitext(image)[0]
        if self.folder is not None:
            yield self.folder / f"{stem}.txt"
            yield self.folder / f"{stem.rpartition('/')[2]}.txt"
            return
        parts = ("/" + stem).rpartition("/images/")
        if parts[1]:
            yield self.root / f"{parts[0]}/labels/{parts[2]}.txt".lstrip("/")
        yield self.root / f"{stem}.txt"
        # The image root may be an images/ folder itself, with labels/ beside it.
        yield self.root.parent / "labels" / f"{stem}.txt"
        yield self.base / "labels" / f"{stem}.txt"
        yield self.base / f"{stem}.txt"

    def find(self, image: str) -> Path | None:
        return next((file for file in self.candidates(image) if os.path.isfile(file)), None)


@dataclass
class _Reader:
    root: Path
    finder: _LabelFinder
    names: dict[int, str] | None

    def __call__(self, item: Item, notes: Notes) -> Iterator[Image]:
        width, height = image_size(self.root / item.image)
        image = Image(
            item.image, width, height, split=item.split, source=str(self.root / item.image)
        )
        file = self.finder.find(item.image)
        if file is None:
            notes.suspect("image without a label file (kept, without objects)", item.image)
        else:
            for number, line in enumerate(read_text(file).splitlines(), start=1):
                if line.strip():
                    image.annotations.append(
                        self._annotation(line.split(), image, f"{file}:{number}")
                    )
        yield image

    def _annotation(self, words: list[str], image: Image, place: str) -> Annotation:
        numbers = [_number(word, place) for word in words]
        category = self._category(numbers[0], place)
        shares = numbers[1:]
        size = (image.width, image.height)
        if len(shares) in (4, 5):
            cx, cy, width, height = shares[:4]
            bbox = (
                (cx - width / 2) * image.width,
                (cy - height / 2) * image.height,
                (cx + width / 2) * image.width,
                (cy + height / 2) * image.height,
            )
            attributes: dict[str, Any] = {"score": shares[4]} if len(shares) == 5 else {}
            return Annotation(category, bbox, attributes=attributes, source=place)
        if len(shares) >= 6 and len(shares) % 2 == 0:
            polygon = [share * size[index % 2] for index, share in enumerate(shares)]
            return Annotation(category, polygons_box([polygon]), [polygon], source=place)
        raise InputError(
            f"{place}: {len(words)} numbers are neither a box (5, or 6 with a score) nor a polygon "
            "(an odd number of 7 or more). Mend or remove the line."
        )

    def _category(self, value: float, place: str) -> str:
        if value < 0 or not float(value).is_integer():
            raise InputError(f"{place}: the class {value:g} is not a whole number from 0.")
        number = int(value)
        if self.names is None:
            return str(number)
        if number not in self.names:
            raise InputError(
                f"{place}: there is no name for class {number}: {len(self.names)} names are known, "
                f"the last for class {max(self.names, default=-1)}. Mend the label or the names."
            )
        return self.names[number]


def _yaml_file(folder: Path) -> Path | None:
    files = sorted(
        file
        for file in (*folder.glob("*.yaml"), *folder.glob("*.yml"))
        if {"train", "val", "test", "names"} & _load_yaml(file).keys()
    )
    if len(files) > 1:
        names = ", ".join(file.name for file in files)
        raise InputError(
            f"{folder}: there are several: {names}. Give the one that is meant as PATH."
        )
    return files[0] if files else None


def _load_yaml(file: Path) -> dict[str, Any]:
    import yaml

    try:
        content = yaml.safe_load(read_text(file))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise InputError(
            f"{file}: broken YAML{where}: {getattr(error, 'problem', error)}."
        ) from error
    except RecursionError as error:
        raise InputError(f"{file}: nested too deeply.") from error
    return content if isinstance(content, dict) else {}


def _yaml_root(file: Path, content: dict[str, Any]) -> Path:
    """The folder that `path:` names (seen from the YAML file), else that of the file."""
    named = content.get("path")
    if isinstance(named, str) and named:
        for root in (file.parent / named, file.parent / Path(named.replace("\\", "/")).name):
            if os.path.isdir(root):  # unlike Path.is_dir, no error for impossible names
                return root
    return file.parent


def _files_of_yaml(
    yaml_file: Path, root: Path, content: dict[str, Any], notes: Notes
) -> list[tuple[str, str]]:
    """Full paths of the images that train, val and test name, with their split."""
    found: list[tuple[str, str]] = []
    for split in ("train", "val", "test"):
        entries = content.get(split) or []
        for entry in entries if isinstance(entries, list) else [entries]:
            files = _files_of_entry(root, str(entry).replace("\\", "/"))
            if not files:
                raise InputError(
                    f"{yaml_file}: {split}: {entry} gives no images (looked in {root}). Mend "
                    "`path` "
                    f"or `{split}`, or give the folder by --images."
                )
            for file in files:
                if os.path.isfile(file):
                    found.append((file, split))
                else:
                    notes.drop("listed image that is not there", f"{entry}: {file}")
    return found


def _files_of_entry(root: Path, entry: str) -> list[str]:
    """Images of a folder, a list of files or a glob; listed ones may not exist."""
    # Roboflow writes ../train/images and means train/images beside the YAML file.
    for place in (root / entry, root / entry.removeprefix("../")):
        if os.path.isdir(place):
            return [str(place / name) for name in walk_files(place) if is_image_name(name)]
        if os.path.isfile(place) and place.suffix == ".txt":
            lines = [line.strip().replace("\\", "/") for line in read_text(place).splitlines()]
            return [_listed(line, place.parent, root) for line in lines if line]
    if any(character in entry for character in "*?["):
        pattern = entry if os.path.isabs(entry) else str(root / entry)
        return sorted(name for name in glob.glob(pattern, recursive=True) if is_image_name(name))
    return []


def _listed(line: str, list_folder: Path, root: Path) -> str:
    """Full path of a line in a list: from the list's folder if it begins with ./, else from the
    root."""
    places = [list_folder / line, root / line]
    if not line.startswith("./"):
        places.reverse()
    return str(next((place for place in places if os.path.isfile(place)), places[0]))


def _common_root(root: Path, files: list[str]) -> Path:
    """`root` if all files are in it, else the deepest folder that holds them all."""
    inside = os.path.join(os.path.abspath(root), "")
    folders = {os.path.dirname(os.path.abspath(file)) for file in files}
    if all((folder + os.sep).startswith(inside) for folder in folders):
        return root
    return Path(os.path.commonpath(folders))


def _relative(file: str, root: Path) -> str:
    return os.path.relpath(file, root).replace(os.sep, "/")


def _class_names(
    base: Path, yaml_file: Path | None, content: dict[str, Any], given: str | None
) -> tuple[dict[int, str] | None, str]:
    """Names by class number and where they are from; None if there are none."""
    if given is not None:
        file = Path(given)
        if file.suffix.lower() in (".yaml", ".yml"):
            return _names_of_yaml(file, _load_yaml(file)), str(file)
        return _names_of_lines(file), str(file)
    if yaml_file is not None and content.get("names"):
        return _names_of_yaml(yaml_file, content), str(yaml_file)
    for name in NAME_FILES:
        for file in (base / name, base / "labels" / name, base.parent / name):
            if file.is_file():
                return _names_of_lines(file), str(file)
    return None, ""


def _names_of_lines(file: Path) -> dict[int, str]:
    lines = read_text(file).rstrip().splitlines()
    return {number: line.strip() for number, line in enumerate(lines)}


def _names_of_yaml(file: Path, content: dict[str, Any]) -> dict[int, str]:
    names = content.get("names")
    if isinstance(names, list):
        names = dict(enumerate(names))
    if not isinstance(names, dict) or not all(str(key).isdecimal() for key in names):
        raise InputError(
            f"{file}: `names` is neither a list nor a map from class numbers to names."
        )
    if not all(isinstance(name, str | int | float) for name in names.values()):
        raise InputError(f"{file}: `names` holds something that is neither text nor a number.")
    count = content.get("nc")
    if isinstance(count, int) and count != len(names):
        raise InputError(
            f"{file}: nc is {count}, but there are {len(names)} names. Mend one of them."
        )
    return {int(number): str(names[number]) for number in sorted(names, key=int)}


def _note_unused_labels(folder: Path, items: list[Item], notes: Notes) -> None:
    stems = {os.path.splitext(os.path.basename(item.image))[0] for item in items}
    for name in walk_files(folder):
        stem, suffix = os.path.splitext(os.path.basename(name))
        if suffix != ".txt" or stem in stems:
            continue
        lines = Glimpse(folder / name).head(os.path.basename(name)).splitlines()
        if lines and _looks_like_label(lines[0]):
            notes.drop("label file whose image is not there or not listed", str(folder / name))


def _looks_like_label(line: str) -> bool:
    """Whether a line is a class number and at least four numbers that may be shares."""
    words = line.split()
    try:
        return (
            len(words) >= 5
            and float(words[0]).is_integer()
            and all(-1 <= float(word) <= 2 for word in words[1:])
        )
    except (ValueError, OverflowError):
        return False


def _number(word: str, place: str) -> float:
    try:
        value = float(word)
        if math.isfinite(value):
            return value
    except ValueError:
        pass
    raise InputError(f"{place}: {word!r} is not a number. Mend or remove the line.")


FORMAT = Format(
    name="yolo",
    title="YOLO text files (Ultralytics, Darknet)",
    layout="a data.yaml or its folder; or a folder with images/ and labels/; or images and .txt "
    "side by side",
    carries=("boxes", "masks", "attributes", "splits"),
    loses="nothing of boxes and polygons; poses and rotated boxes are not read",
    recognise=recognise,
    plan=plan,
    conventions="Centre and size are shares of the image's width and height after EXIF "
    "orientation. "
    "Class numbers begin with 0; without names, categories are called by their numbers. "
    "Images without a label file are kept.",
    options=(
        Option("--names", "class names, one a line, or a YAML file with `names`", metavar="FILE"),
        Option(
            "--labels", "folder of the text files, if not labels/ beside images/", metavar="DIR"
        ),
    ),
)
