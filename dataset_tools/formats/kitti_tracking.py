"""KITTI tracking (2012): one text file per sequence in label_02, a line per object and frame.

`frame track_id` and then the columns of `formats.kitti`, as the development kit's readme has it
(https://www.cvlibs.net/datasets/kitti/eval_tracking.php): frames and tracks are numbered from 0,
truncated is 0, 1 or 2, and DontCare regions have the track -1. Frame 7 of sequence 0012 is
image_02/0012/000007.png; one without a line has no objects.
"""

from __future__ import annotations

from pathlib import Path

from dataset_tools.errors import InputError
from dataset_tools.formats.base import Evidence, Format, Glimpse, Plan, root_of
from dataset_tools.formats.frames import Dialect, VideoReader
from dataset_tools.formats.kitti import IGNORED_TYPE, TYPES, categories, is_object, read_object
from dataset_tools.formats.reading import IGNORED, all_lines, are_numbers, text_labels
from dataset_tools.notes import Notes

LABEL_FOLDERS = ("label_02", "label_03")


def _folder(labels: str) -> str:
    return labels.replace("label_", "image_")


DIALECT = Dialect(str.split, read_object, _folder, 0, IGNORED_TYPE, TYPES)


def plan(path: Path, notes: Notes, images: Path | None = None, ignored: str = "crowd") -> Plan:
    """Plan to read the folder of a dataset, of labels, or a single text file."""
    base = path if path.is_dir() else path.parent
    if base.name in LABEL_FOLDERS and images is None:
        base = base.parent.parent if base.parent.name in ("training", "testing") else base.parent
    labels = text_labels(path, base, _looks_like_labels)
    if not labels:
        raise InputError(
            f"{path}: no text file of KITTI tracking is in it. Give the folder of label_02/."
        )
    root = root_of(base, images)
    return Plan(root, labels, VideoReader(DIALECT, base, root, ignored), categories)


def recognise(glimpse: Glimpse) -> Evidence | None:
    """Text files of lines of two whole numbers, a name and 14 or 15 numbers."""
    name = glimpse.first(lambda head: all_lines(head, _is_tracked), ".txt", most=50)
    return (
        Evidence(f"{name} has lines of a frame, a track, a type and KITTI's 14 numbers")
        if name
        else None
    )


def _looks_like_labels(path: Path) -> bool:
    first = Glimpse(path).head(path.name).splitlines()[:1]
    return path.parent.name in LABEL_FOLDERS or (bool(first) and all(map(_is_tracked, first)))


def _is_tracked(line: str) -> bool:
    words = line.split(None, 2)
    return len(words) == 3 and are_numbers(words[:2]) and is_object(words[2])


FORMAT = Format(
    name="kitti-tracking",
    title="KITTI tracking",
    layout="folder with training/label_02/*.txt and training/image_02/SEQUENCE/; or the folder of "
    "the labels",
    carries=("boxes", "tracks", "attributes", "splits"),
    loses="calibration, point clouds",
    recognise=recognise,
    plan=plan,
    conventions="As kitti. The track becomes track_id. Frames without a line are images without "
    "objects.",
    options=(IGNORED,),
)
