"""Entries of SERIATIM.DATASETS, read from the config and checked. `catalog` says what they are."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from dataset_tools.coco import image_root, read_info
from dataset_tools.errors import InputError
from dataset_tools.formats import get_format
from seriatim.data.classification.published import where_to_get


@dataclass(frozen=True)
class Entry:
    """One mapping in SERIATIM.DATASETS, paths expanded."""

    name: str
    images: Path | None
    json: Path | None = None
    panoptic_json: Path | None = None
    panoptic_root: Path | None = None
    sem_seg_root: Path | None = None
    stuff_classes: tuple[str, ...] = ()
    keypoint_flip_map: tuple[tuple[str, str], ...] = ()
    rotated: bool = False
    classification: bool = False
    labels: Path | None = None
    format: str = "auto"
    split: str = ""
    fractions: tuple[tuple[str, float], ...] = ()
    options: tuple[tuple[str, Any], ...] = ()


_KEYS = {f.name.upper(): f.name for f in fields(Entry)}
_FILES = ("json", "panoptic_json")
_FOLDERS = ("images", "panoptic_root", "sem_seg_root")


def parse_entry(value: Any, index: int) -> Entry:
    where = f"SERIATIM.DATASETS[{index}]"
    if not isinstance(value, Mapping):
        raise InputError(f"{where} is a mapping with NAME, JSON and IMAGES, not {value!r}.")
    for key in value:
        if key not in _KEYS:
            near = difflib.get_close_matches(str(key).upper(), _KEYS, n=1)
            hint = f" Did you mean {near[0]}?" if near else f" There are {', '.join(_KEYS)}."
            raise InputError(f"{where} has an unknown key {key}.{hint}")
    given = {_KEYS[key]: item for key, item in value.items() if item not in (None, "", [], ())}
    if not isinstance(given.get("name"), str):
        raise InputError(f"{where} has no NAME.")
    where = f"{where} ({given['name']})"
    for key in _FILES + _FOLDERS:
        if key in given:
            given[key] = _path(given[key], f"{where}: {key.upper()}", folder=key in _FOLDERS)
    if "labels" in given:
        return _labels_entry(given, where)
    if odd := given.keys() & {"format", "split", "fractions", "options"}:
        raise InputError(f"{where}: {', '.join(sorted(odd)).upper()} goes with LABELS.")
    if "images" not in given:
        given["images"] = _recorded_images(given.get("json") or given.get("panoptic_json"), where)
    kinds = given.keys() & {"json", "panoptic_json", "panoptic_root", "sem_seg_root"}
    if kinds not in _COMBINATIONS:
        raise InputError(
            f"{where} has {', '.join(sorted(k.upper() for k in kinds)) or 'no labels'}. Give JSON;"
            " or PANOPTIC_JSON and PANOPTIC_ROOT, with or without JSON and SEM_SEG_ROOT; or"
            " SEM_SEG_ROOT and STUFF_CLASSES; or, for classification, LABELS."
        )
    if kinds == {"sem_seg_root"} and "stuff_classes" not in given:
        raise InputError(f"{where} has SEM_SEG_ROOT but no STUFF_CLASSES, the names of its labels.")
    for key in ("rotated", "classification"):
        if not isinstance(given.get(key, False), bool):
            raise InputError(f"{where}: {key.upper()} is True or False, not {given[key]!r}.")
        if given.get(key) and kinds != {"json"}:
            raise InputError(f"{where}: {key.upper()} goes with JSON alone.")
    if given.get("rotated") and given.get("classification"):
        raise InputError(f"{where}: ROTATED is of boxes, CLASSIFICATION of whole images: take one.")
    try:
        given["stuff_classes"] = tuple(map(str, given.get("stuff_classes", ())))
        pairs = given.get("keypoint_flip_map", ())
        given["keypoint_flip_map"] = tuple((str(a), str(b)) for a, b in pairs)
    except (TypeError, ValueError):
        raise InputError(
            f"{where}: STUFF_CLASSES is a list of names, KEYPOINT_FLIP_MAP one of pairs of names."
        ) from None
    return Entry(**given)


def _labels_entry(given: dict[str, Any], where: str) -> Entry:
    """The entry of a dataset that `dataset_tools` reads as it is."""
    path = Path(os.path.expandvars(str(given["labels"]))).expanduser()
    allowed = {"name", "images", "labels", "format", "split", "fractions", "options"}
    if odd := given.keys() - allowed - {"classification"}:
        raise InputError(f"{where}: {', '.join(sorted(odd)).upper()} does not go with LABELS.")
    name = given.get("format", "auto")
    if name != "auto" and "labels" not in get_format(str(name)).carries:
        raise InputError(f"{where}: files of the format {name} have no labels of whole images.")
    if not path.exists():
        hint = where_to_get(path, name)
        raise InputError(
            f"{where}: LABELS: there is no file or folder {path}{_relative(path)}."
            f"{f' {hint}' if hint else ''}"
        )
    try:
        fractions = tuple((str(k), float(v)) for k, v in given.get("fractions", {}).items())
        options = tuple((str(k), v) for k, v in given.get("options", {}).items())
    except (AttributeError, TypeError, ValueError):
        raise InputError(
            f"{where}: FRACTIONS is a mapping like {{train: 0.8, test: 0.2}}, OPTIONS one of the"
            " format's options and their values."
        ) from None
    split = str(given.get("split", ""))
    if fractions and split not in dict(fractions):
        raise InputError(f"{where}: SPLIT is one of {', '.join(dict(fractions))}, not {split!r}.")
    return Entry(
        given["name"],
        given.get("images"),
        labels=path,
        format=str(name),
        split=split,
        fractions=fractions,
        options=options,
    )


_COMBINATIONS = (
    {"json"},
    {"panoptic_json", "panoptic_root"},
    {"panoptic_json", "panoptic_root", "json", "sem_seg_root"},
    {"sem_seg_root"},
)


def _path(value: Any, where: str, folder: bool) -> Path:
    path = Path(os.path.expandvars(str(value))).expanduser()
    if folder and not path.is_dir():
        raise InputError(f"{where}: there is no folder {path}{_relative(path)}.")
    if not folder and not path.is_file():
        raise InputError(f"{where}: there is no file {path}{_relative(path)}.")
    return path


def _recorded_images(labels: Path | None, where: str) -> Path:
    """The image folder that a converted JSON remembers."""
    root = image_root(labels, read_info(labels)) if labels else None
    if root is None:
        raise InputError(
            f"{where} has no IMAGES, the folder that file names start from, and its JSON does not"
            " remember one (info.image_root)."
        )
    return _path(root, f"{where}: the image folder that {labels} remembers", folder=True)


def _relative(path: Path) -> str:
    return "" if path.is_absolute() else f" in {Path.cwd()}"
