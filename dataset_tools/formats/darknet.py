"""Darknet: the lines of YOLO's boxes, with lists of files that begin in an obj.data.

`obj.data` has lines `key = value`: `names` is a file of class names, one a line, `train`, `valid`
(and, for some tools, `test`) are lists of images, one a line; see
https://github.com/AlexeyAB/darknet#how-to-train-to-detect-your-custom-objects. An image's labels
are in the text file beside it, or in `labels/` where it is in `images/`. Paths in these files are
relative to the folder that Darknet was started in, which is mostly the one above:
`data/obj_train_data/a.jpg` is looked for in the folder of obj.data, then without its first folder,
and so on.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from dataset_tools.coco import Dataset
from dataset_tools.errors import InputError
from dataset_tools.export import distinct_stems, joined_categories, place_image
from dataset_tools.files import write_text
from dataset_tools.formats.base import (
    SPLIT_NAMES,
    Evidence,
    Format,
    Glimpse,
    Option,
    Plan,
    declared_categories,
    read_text,
    root_of,
)
from dataset_tools.formats.yolo import is_darknet, names_of_lines
from dataset_tools.formats.yolo_lines import Item, LabelFinder, Reader, label_of
from dataset_tools.formats.yolo_write import (
    CROWDS,
    LineWriter,
    named_splits,
)
from dataset_tools.notes import Notes

_LISTS = ("train", "valid", "test")


def plan(path: Path, notes: Notes, images: Path | None = None, names: str | None = None) -> Plan:
    """Plan to read the images that the lists of an obj.data name."""
    data_file = path if path.is_file() else _data_file(path)
    settings = _settings(data_file)
    root = root_of(data_file, images)
    items: list[Item] = []
    for key in _LISTS:
        if key not in settings:
            continue
        for line in read_text(_file(data_file, settings, key)).splitlines():
            if not line.strip():
                continue
            image = _found(root, line.strip())
            if image is None:
                notes.drop("listed image that is not there", f"{settings[key]}: {line.strip()}")
            else:
                items.append(Item(image.relative_to(root).as_posix(), SPLIT_NAMES[key]))
    if not items:
        raise InputError(f"{data_file}: none of the images that its lists name is in {root}.")
    names_file = Path(names) if names else _file(data_file, settings, "names")
    class_names = names_of_lines(names_file)
    return Plan(
        root,
        items,
        Reader(root, LabelFinder(root, None, data_file.parent), class_names, task="detect"),
        declared_categories(list(class_names.values()), str(names_file)),
        remarks=[f"class names are from {names_file}"],
    )


def recognise(glimpse: Glimpse) -> Evidence | None:
    """A file *.data with `train = …` and `names = …`."""
    name = glimpse.first(is_darknet, ".data")
    return (
        Evidence(f"{name} has train and names, as Darknet's lists of files have") if name else None
    )


def write(
    splits: Mapping[str | None, Dataset],
    folder: Path,
    notes: Notes,
    images: Path | None,
    crowds: str = "drop",
) -> None:
    """Write obj.data, obj.names, the lists and, in obj_SPLIT_data, images with their labels."""
    names = [category.name for category in joined_categories(splits.values())]
    if any("\n" in name or "\r" in name or name != name.strip() for name in names):
        raise InputError("A category's name begins or ends in a space, or holds a line break.")
    lines = LineWriter("detect", {name: n for n, name in enumerate(names)}, 0, crowds, notes)
    settings = {"classes": str(len(names))}
    for split, dataset in named_splits(splits, notes).items():
        key = "valid" if split == "val" else split
        if key not in _LISTS:
            raise InputError(
                f"Darknet has no split {split!r}, but train, val and test. Rename the COCO file."
            )
        settings[key] = f"data/{key}.txt"
        listed = []
        for image, _ in distinct_stems(dataset.images, notes):
            name = f"obj_{key}_data/{image.file_name}"
            place_image(images, image.file_name, folder / name)
            write_text(folder / label_of(name), "".join(lines.of(image)))
            listed.append(f"data/{name}\n")
        write_text(folder / f"{key}.txt", "".join(listed))
    settings |= {"names": "data/obj.names", "backup": "backup/"}
    write_text(folder / "obj.names", "".join(f"{name}\n" for name in names))
    write_text(folder / "obj.data", "".join(f"{k} = {v}\n" for k, v in settings.items()))


def _data_file(folder: Path) -> Path:
    files = [file for file in sorted(folder.glob("*.data")) if is_darknet(read_text(file))]
    if len(files) == 1:
        return files[0]
    if not files:
        raise InputError(
            f"{folder}: there is no obj.data, with `train = …` and `names = …`, in it."
        )
    names = ", ".join(file.name for file in files)
    raise InputError(f"{folder}: there are several: {names}. Give the one that is meant as PATH.")


def _settings(file: Path) -> dict[str, str]:
    lines = (line.partition("#")[0].partition("=") for line in read_text(file).splitlines())
    return {key.strip(): value.strip() for key, equals, value in lines if equals}


def _file(data_file: Path, settings: Mapping[str, str], key: str) -> Path:
    """The file that obj.data names. InputError if it is not there."""
    found = _found(data_file.parent, settings[key]) if settings.get(key) else None
    if found is None:
        raise InputError(
            f"{data_file}: {key} = {settings.get(key, '')}: there is no such file in "
            f"{data_file.parent}. Mend the path."
        )
    return found


def _found(root: Path, name: str) -> Path | None:
    """The file `name` in `root`, without as many of its first folders as need be."""
    parts = PurePosixPath(name.replace("\\", "/")).parts
    for start in range(len(parts)):
        kept = parts[start:]
        if ".." not in kept and kept[0] != "/" and os.path.isfile(root.joinpath(*kept)):
            return root.joinpath(*kept)
    return None


FORMAT = Format(
    name="darknet",
    title="Darknet (obj.data, obj.names, lists of images)",
    layout="an obj.data or its folder, with the files that it names",
    carries=("boxes", "attributes", "splits"),
    loses="",
    recognise=recognise,
    plan=plan,
    conventions="Lines as in yolo: centre and size are shares of the image's sides, class numbers "
    "begin with 0. Paths in the files are looked for in the folder of obj.data, with their first "
    "folders or without. The list `valid` is the split val.",
    options=(Option("--names", "class names, one a line (default: obj.data's)", metavar="FILE"),),
    write=write,
    write_options=(CROWDS,),
    write_carries=("boxes", "splits"),
    write_loses="all but boxes",
)
