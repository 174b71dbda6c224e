"""YOLO: one text file per image, a line per object: class, centre and size as shares of the image.

All numbers but the class are divided by the image's width or height (after EXIF orientation, as
Ultralytics does it); https://docs.ultralytics.com/datasets/ says what the lines of its tasks are:

- detect: `class cx cy w h`;
- segment: `class x1 y1 x2 y2 …`, whose box is the tight one around its corners;
- pose: `class cx cy w h`, then `x y` or `x y visibility` (0, 1 or 2) for each keypoint, as
  `kpt_shape: [number, 2 or 3]` in data.yaml has it. Of pairs, those with a negative number are
  absent, and so are those at 0 0, which is what other tools write then;
- obb (oriented boxes): `class x1 y1 x2 y2 x3 y3 x4 y4`, the corners in order.

One number more is a score and is kept as an attribute, but for polygons, which need an odd number.
An image without a text file, or with an empty one, is an image without objects.

Four corners are a rotated box as well as a polygon. Which one is meant is said by --task, or by
`task` in data.yaml (which we write), or else by content: if all lines of the first label files have
four corners, all of them right-angled in pixels and some of them turned, they are rotated boxes.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from operator import attrgetter
from pathlib import Path
from typing import Any

from dataset_tools.coco import Category, Image
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
from dataset_tools.formats.reading import stem
from dataset_tools.formats.yolo_lines import (
    SPLITS,
    TASKS,
    Item,
    LabelFinder,
    Pose,
    Reader,
    in_pixels,
    label_lines,
    packed_items,
)
from dataset_tools.formats.yolo_write import CROWDS, write
from dataset_tools.images import image_size, is_image_name, walk_files
from dataset_tools.notes import Notes
from dataset_tools.packed import KeyedStrings, Mapped, PackedStrings
from dataset_tools.rotated import from_corners

NAME_FILES = ("classes.txt", "obj.names", "classes.names", "labels.names")
FILES_LOOKED_AT = 50
# Keys of a data.yaml whose text names no images.
_SETTINGS = frozenset(
    ("path", "names", "nc", "task", "kpt_shape", "kpt_names", "flip_idx", "skeleton", "download")
)


def plan(
    path: Path,
    notes: Notes,
    images: Path | None = None,
    names: str | None = None,
    labels: str | None = None,
    task: str = "auto",
    kpt_shape: str | None = None,
) -> Plan:
    """Plan to read a data.yaml with all it names, or a folder of images and labels."""
    yaml_file = path if path.is_file() else _yaml_file(path)
    content = _load_yaml(yaml_file) if yaml_file else {}
    base = path if path.is_dir() else path.parent
    root = images or (_yaml_root(yaml_file, content) if yaml_file else base)
    root = root_of(path, root)
    found = packed_items(_files_of_yaml(yaml_file, root, content, notes) if yaml_file else ())
    if found:
        root = _common_root(root, {os.path.dirname(file.image) for file in found})
        items = packed_items(Item(_relative(file.image, root), file.split) for file in found)
    else:
        found = filter(is_image_name, walk_files(root))
        items = packed_items(Item(name, split_of_folders(name)) for name in found)
    if not items:
        raise InputError(
            f"{path}: there are no images in {root}. Labels as shares of the image need the "
            "images: give their folder by --images."
        )
    class_names, where = _class_names(base, yaml_file, content, names)
    finder = LabelFinder(root, Path(labels) if labels else None, base)
    _note_unused_labels(Path(labels) if labels else base, items, notes)
    if yaml_file is None and not any(finder.find(item.image) for item in items):
        raise InputError(
            f"{path}: none of the {len(items):,} images in {root} has a label file (.txt). Give "
            "their folder by --labels, or name another format."
        )
    if class_names is None:
        remarks = [
            "no class names found: categories are called by their numbers (or give --names FILE)"
        ]
        categories = sorted_categories
    else:
        remarks = [f"class names are from {where}"]
        categories = declared_categories(list(class_names.values()), where)
    pose = _pose(yaml_file or path, content, kpt_shape)
    task, why = _task(task, content, pose, items, finder)
    remarks += [why] if why else []
    if task == "pose":
        if pose is None:
            raise InputError(
                f"{path}: poses are read by kpt_shape, which is not in a data.yaml. Give it by "
                "--kpt-shape 17,3 (number of keypoints, 2 or 3 numbers each)."
            )
        categories = _PoseCategories(categories, pose, class_names or {})
    read = Reader(root, finder, class_names, task, pose)
    return Plan(root, items, read, categories, remarks=remarks)


def recognise(glimpse: Glimpse) -> Evidence | None:
    """A data.yaml with `names` and `train` or `val`; or text files of numbers beside images."""
    for name in glimpse.with_suffix(".yaml", ".yml")[:20]:
        keys = {line.partition(":")[0].strip() for line in glimpse.head(name).splitlines()}
        if "names" in keys and keys & {"train", "val", "test"}:
            return Evidence(f"{name} is YAML with names and train, val or test")
    if any(is_darknet(glimpse.head(name)) for name in glimpse.with_suffix(".data")):
        return None
    labels = glimpse.with_suffix(".txt")
    if not glimpse.images or not labels:
        return None
    stems = {os.path.splitext(os.path.basename(name))[0] for name in glimpse.images}
    for name in labels:
        if os.path.splitext(os.path.basename(name))[0] not in stems:
            continue
        lines = [line for line in glimpse.head(name).splitlines() if line.strip()]
        if lines and all(_looks_like_label(line) for line in lines[:-1] or lines):
            return Evidence(
                f"{name} has lines of a class and shares, and there is an image of its name"
            )
    return None


def is_darknet(text: str) -> bool:
    """Whether this is an obj.data, the list of files that Darknet begins with."""
    keys = {line.partition("=")[0].strip() for line in text.splitlines() if "=" in line}
    return "names" in keys and bool(keys & {"train", "valid"})


@dataclass(frozen=True)
class _PoseCategories:
    """For `Plan.categories`: with keypoints."""

    plain: Callable[[set[str]], list[Category]]
    pose: Pose
    class_names: dict[int, str]

    def __call__(self, seen: set[str]) -> list[Category]:
        categories = self.plain(seen)
        numbers = {name: number for number, name in self.class_names.items()}
        for category in categories:
            category.keypoints = self.pose.names_of(numbers.get(category.name, -1))
            if category.keypoints:
                category.skeleton = self.pose.skeleton
                if self.pose.flips is not None:
                    category.extra["flip_idx"] = list(self.pose.flips)
        return categories


def _task(
    task: str,
    content: dict[str, Any],
    pose: Pose | None,
    items: Sequence[Item],
    finder: LabelFinder,
) -> tuple[str, str]:
    """What the lines are, and a remark that says so if it was found out."""
    if task != "auto":
        return task, ""
    if content.get("task") in TASKS:
        return content["task"], f"data.yaml says --task {content['task']}"
    if pose is not None:
        return "pose", f"kpt_shape of {pose.count} keypoints: lines are poses (--task pose)"
    turned = quads = 0
    labelled = ((item, label) for item in items if (label := finder.read(item.image)))
    for _, (item, label) in zip(range(FILES_LOOKED_AT), labelled, strict=False):
        for _, words in label_lines(*label):
            if len(words) != 9:
                return "auto", ""
            quads += 1
            try:
                quad = in_pixels([float(word) for word in words[1:]], _sized(finder.root, item))
            except ValueError:
                return "auto", ""  # told when it is this file's turn to be read
            box, error = from_corners(quad)
            if error > max(0.5, 0.02 * max(box[2:4])):
                remark = "all lines have four corners: read as polygons (or --task obb)"
                return "auto", remark
            turned += 0.5 < box[4] % 90 < 89.5
    if not quads:
        return "auto", ""
    if turned:
        return "obb", "all lines have four right-angled corners: rotated boxes (--task obb)"
    return "auto", "all lines are upright rectangles: read as polygons (or --task obb)"


def _sized(root: Path, item: Item) -> Image:
    return Image(item.image, *image_size(root / item.image))


def _pose(file: Path, content: dict[str, Any], given: str | None) -> Pose | None:
    """The keypoints that a data.yaml, or --kpt-shape, declares."""
    shape = content.get("kpt_shape")
    if given is not None:
        shape = [int(word) if word.strip().isdecimal() else word for word in given.split(",")]
    if shape is None:
        return None
    if not (
        isinstance(shape, list)
        and len(shape) == 2
        and all(type(number) is int for number in shape)
        and shape[0] > 0
        and shape[1] in (2, 3)
    ):
        raise InputError(f"{file}: kpt_shape {shape} is not like [17, 3] or [17, 2].")
    count, dimensions = shape
    flips = content.get("flip_idx")
    if flips is not None and not _is_permutation(flips, count):
        raise InputError(
            f"{file}: flip_idx {flips} does not hold each of 0 … {count - 1} once. Mend it."
        )
    skeleton = content.get("skeleton") or []
    if not all(isinstance(bone, list) and len(bone) == 2 for bone in skeleton):
        raise InputError(f"{file}: skeleton is not a list of pairs.")
    return Pose(
        count,
        dimensions,
        names=tuple(str(number) for number in range(count)),
        own_names=_keypoint_names(file, content.get("kpt_names"), count),
        skeleton=tuple((first, second) for first, second in skeleton),
        flips=None if flips is None else tuple(flips),
    )


def _is_permutation(value: Any, count: int) -> bool:
    return (
        isinstance(value, list)
        and all(type(number) is int for number in value)
        and sorted(value) == list(range(count))
    )


def _keypoint_names(file: Path, value: Any, count: int) -> dict[int, tuple[str, ...]] | None:
    if value is None:
        return None
    if not (
        isinstance(value, dict)
        and all(type(number) is int for number in value)
        and all(isinstance(names, list) and len(names) == count for names in value.values())
    ):
        raise InputError(
            f"{file}: kpt_names does not give a list of {count} names for each class number."
        )
    return {number: tuple(map(str, names)) for number, names in value.items()}


def _yaml_file(folder: Path) -> Path | None:
    files = sorted(
        file
        for file in (*folder.glob("*.yaml"), *folder.glob("*.yml"))
        if file.is_file()
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
    except (yaml.YAMLError, ValueError) as error:
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
) -> Iterator[Item]:
    """Full paths of the images that train, val and test name, with their split."""
    others = [key for key in content if key not in (*SPLITS, *_SETTINGS)]
    for split in (*SPLITS, *others):
        entries = content.get(split) or []
        for entry in entries if isinstance(entries, list) else [entries]:
            if split in others and not (isinstance(entry, str) and os.path.isdir(root / entry)):
                continue
            files = _files_of_entry(root, str(entry).replace("\\", "/"))
            if not files and "roboflow" in content:
                # Roboflow names all three splits, whichever there are.
                notes.suspect("split of Roboflow without images", f"{yaml_file}: {entry}")
                continue
            if not files:
                raise InputError(
                    f"{yaml_file}: {split}: {entry} gives no images (looked in {root}). Mend "
                    "`path` "
                    f"or `{split}`, or give the folder by --images."
                )
            for file in files:
                if isinstance(files, PackedStrings) or os.path.isfile(file):
                    yield Item(file, split)
                else:
                    notes.drop("listed image that is not there", f"{entry}: {file}")


def _files_of_entry(root: Path, entry: str) -> Sequence[str]:
    """Images of a folder (packed, for they are many), a list of files or a glob; listed ones may
    not exist."""
    # Roboflow writes ../train/images and means train/images beside the YAML file; or the folder
    # that it was unpacked to before it, on another machine.
    parts = entry.split("/")
    tails = ["/".join(parts[start:]) for start in range(1, len(parts) - 1)]
    for place in (root / entry, root / entry.removeprefix("../"), *(root / t for t in tails)):
        if os.path.isdir(place):
            return PackedStrings(f"{place}/{n}" for n in walk_files(place) if is_image_name(n))
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


def _common_root(root: Path, folders: set[str]) -> Path:
    """`root` if all `folders` are in it, else the deepest folder that holds them all."""
    inside = os.path.join(os.path.abspath(root), "")
    folders = set(map(os.path.abspath, folders))
    if all((folder + os.sep).startswith(inside) for folder in folders):
        return root
    return Path(os.path.commonpath(folders))


def _relative(file: str, root: Path) -> str:
    folder, _, name = file.rpartition("/")
    relative = _relative_folder(folder, str(root))
    return name if relative == "." else f"{relative}/{name}"


@lru_cache(maxsize=1000)
def _relative_folder(folder: str, root: str) -> str:
    return os.path.relpath(folder, root).replace(os.sep, "/")


def _class_names(
    base: Path, yaml_file: Path | None, content: dict[str, Any], given: str | None
) -> tuple[dict[int, str] | None, str]:
    """Names by class number and where they are from; None if there are none."""
    if given is not None:
        file = Path(given)
        if file.suffix.lower() in (".yaml", ".yml"):
            return _names_of_yaml(file, _load_yaml(file)), str(file)
        return names_of_lines(file), str(file)
    if yaml_file is not None and content.get("names"):
        return _names_of_yaml(yaml_file, content), str(yaml_file)
    for name in NAME_FILES:
        for file in (base / name, base / "labels" / name, base.parent / name):
            if file.is_file():
                return names_of_lines(file), str(file)
    return None, ""


def names_of_lines(file: Path) -> dict[int, str]:
    """Class names, one a line."""
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


def _note_unused_labels(folder: Path, items: Sequence[Item], notes: Notes) -> None:
    used = KeyedStrings(Mapped(attrgetter("image"), items), stem)
    for name in walk_files(folder):
        if not name.endswith(".txt") or stem(name) in used:
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


FORMAT = Format(
    name="yolo",
    title="YOLO text files (Ultralytics: boxes, polygons, poses, oriented boxes)",
    layout="a data.yaml or its folder; or a folder with images/ and labels/; or images and .txt "
    "side by side",
    carries=("boxes", "masks", "keypoints", "rotation", "attributes", "splits"),
    loses="",
    recognise=recognise,
    plan=plan,
    conventions="Centre and size are shares of the image's width and height after EXIF "
    "orientation. "
    "Class numbers begin with 0; without names, categories are called by their numbers. "
    "Images without a label file are kept. Four corners are a rotated box if --task or data.yaml "
    "says so, or if all lines are such, right-angled, and some are turned; else a polygon. "
    "A flip_idx is kept with the category.",
    options=(
        Option("--names", "class names, one a line, or a YAML file with `names`", metavar="FILE"),
        Option(
            "--labels", "folder of the text files, if not labels/ beside images/", metavar="DIR"
        ),
        Option(
            "--task",
            "what the lines are; auto: by data.yaml, else by their length",
            default="auto",
            choices=("auto", *TASKS),
        ),
        Option(
            "--kpt-shape",
            "number of keypoints and of numbers for each, if no data.yaml says it: 17,3",
            metavar="N,D",
        ),
    ),
    write=write,
    write_options=(
        Option(
            "--task",
            "what lines to write; auto: the richest one that some object has",
            default="auto",
            choices=("auto", *TASKS),
        ),
        CROWDS,
    ),
    write_carries=("boxes", "masks", "keypoints", "rotation", "splits"),
    write_loses="attributes and crowds; all of an object that its task has no place for; of masks, "
    "holes and parts are joined by lines without width",
)
