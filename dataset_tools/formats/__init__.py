"""The known label formats, one module each. `base` says what a format is."""

from __future__ import annotations

import difflib
import importlib
from pathlib import Path

from dataset_tools.errors import InputError
from dataset_tools.formats.base import CARRIED, Evidence, Format, Glimpse, Option, Plan

__all__ = [
    "CARRIED",
    "NAMES",
    "Evidence",
    "Format",
    "Glimpse",
    "Option",
    "Plan",
    "all_formats",
    "get_format",
    "recognise",
    "written_formats",
]

# Name on the command line → module here. In this order they are listed.
NAMES: dict[str, str] = {
    "coco": "coco",
    "voc": "voc",
    "yolo": "yolo",
    "labelme": "labelme",
    "darknet": "darknet",
    "cvat": "cvat",
    "cvat-video": "cvat_video",
    "via": "via",
    "vott": "vott",
    "csv": "csv_",
    "class-csv": "class_csv",
    "createml": "createml",
    "label-studio": "label_studio",
    "supervisely": "supervisely",
    "datumaro": "datumaro",
    "labelbox": "labelbox",
    "sagemaker": "sagemaker",
    "masks": "masks",
    "imagefolder": "imagefolder",
    "idx": "idx",
    "cifar": "cifar",
    "npz": "npz",
    "svhn": "svhn",
    "usps": "usps",
    "digitfive": "digitfive",
    "amazon-reviews": "amazon_reviews",
    "image-list": "image_list",
    "lvis": "lvis",
    "hf-folder": "hf_folder",
    "hf-parquet": "hf_parquet",
    "tfrecord": "tfrecord",
    "dota": "dota",
    "openimages": "openimages",
    "kitti": "kitti",
    "kitti-tracking": "kitti_tracking",
    "visdrone": "visdrone",
    "visdrone-vid": "visdrone_vid",
    "mot": "mot",
    "widerface": "widerface",
    "crowdhuman": "crowdhuman",
    "bdd100k": "bdd100k",
    "bdd100k-masks": "bdd100k_masks",
    "cityscapes": "cityscapes",
}


def get_format(name: str) -> Format:
    """The format called `name`. InputError if there is none."""
    if name not in NAMES:
        close = difflib.get_close_matches(name, NAMES)
        hint = f"Did you mean {close[0]!r}?" if close else f"There are: auto, {', '.join(NAMES)}."
        raise InputError(f"There is no format {name!r}. {hint}")
    return importlib.import_module(f"dataset_tools.formats.{NAMES[name]}").FORMAT


def all_formats() -> list[Format]:
    """Every format, in the order of `NAMES`."""
    return [get_format(name) for name in NAMES]


def written_formats() -> list[str]:
    """Names of the formats that can be exported to."""
    return [candidate.name for candidate in all_formats() if candidate.write]


def recognise(path: str | Path) -> list[tuple[Format, Evidence]]:
    """The formats that the files at `path` may be of; the certain ones alone if there are any."""
    glimpse = Glimpse(path)
    found = [
        (candidate, evidence)
        for candidate in all_formats()
        if (evidence := candidate.recognise(glimpse)) is not None
    ]
    return [pair for pair in found if pair[1].certain] or found
