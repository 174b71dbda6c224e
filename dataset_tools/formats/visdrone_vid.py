"""VisDrone-VID and -MOT: one text file per sequence, a line per box and frame.

`frame,target,` and then the columns of `formats.visdrone`, as the toolkits' readmes have it
(https://github.com/VisDrone/VisDrone2018-VID-toolkit): frames are numbered from 1, so that frame 7
is sequences/NAME/0000007.jpg; a target keeps its number through a sequence, and those of regions to
ignore are no tracks.
"""

from __future__ import annotations

from pathlib import Path

from dataset_tools.formats.base import Evidence, Format, Glimpse, Plan, root_of
from dataset_tools.formats.frames import Dialect, VideoReader
from dataset_tools.formats.reading import IGNORED, all_lines
from dataset_tools.formats.visdrone import CLASSES, NAMES, categories, find_labels, is_box, read_box
from dataset_tools.notes import Notes


def _columns(line: str) -> list[str]:
    return line.rstrip(",").split(",")


def _folder(labels: str) -> str:
    return "sequences"


DIALECT = Dialect(_columns, read_box, _folder, 1, NAMES[0], CLASSES)


def plan(path: Path, notes: Notes, images: Path | None = None, ignored: str = "crowd") -> Plan:
    """Plan to read the folder of a dataset, of one split, or a single text file."""
    base, labels = find_labels(path, images, 10, "VisDrone's sequences")
    root = root_of(base, images)
    prefix = f"{base.resolve().name}/"  # VisDrone2019-VID-train is often given by itself
    return Plan(root, labels, VideoReader(DIALECT, base, root, ignored, prefix), categories)


def recognise(glimpse: Glimpse) -> Evidence | None:
    """Text files in annotations/, of lines of a frame, a target and a box of VisDrone's."""
    name = glimpse.first(lambda head: all_lines(head, _is_tracked), ".txt", most=50)
    return (
        Evidence(f"{name} has lines of a frame, a target and VisDrone's 8 numbers")
        if name
        else None
    )


def _is_tracked(line: str) -> bool:
    frame, _, rest = line.partition(",")
    target, _, rest = rest.partition(",")
    return frame.strip().isdecimal() and target.strip().lstrip("-").isdecimal() and is_box(rest)


FORMAT = Format(
    name="visdrone-vid",
    title="VisDrone-VID and -MOT text files",
    layout="folder with annotations/*.txt and sequences/, or with one such for each split "
    "(VisDrone2019-VID-train, …)",
    carries=("boxes", "tracks", "attributes", "splits"),
    loses="",
    recognise=recognise,
    plan=plan,
    conventions="As visdrone. The target becomes track_id. Frames are numbered from 1; those "
    "without a line are images without objects.",
    options=(IGNORED,),
)
