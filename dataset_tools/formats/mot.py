"""MOT Challenge (MOT15 to MOT20): a folder for each sequence, gt/gt.txt with a line per box.

`frame,id,left,top,width,height,conf,class,visibility`, as the MOT16 paper has it (arXiv 1603.00831,
section 3.3): frames, ids and pixels are numbered from 1, so the image's top left corner is (1, 1).
In gt.txt, conf is a flag: 0 says that the box is ignored in the evaluation. In MOT15 there are
three coordinates, all -1, after it. det/det.txt has the same columns with id -1, and conf is a
score. seqinfo.ini says how many frames there are, and of what size.
"""

from __future__ import annotations

import configparser
import os
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from dataset_tools.coco import Annotation, Category, Image
from dataset_tools.errors import InputError
from dataset_tools.formats.base import Evidence, Format, Glimpse, Option, Plan, read_text, root_of
from dataset_tools.formats.reading import (
    are_numbers,
    leads_out,
    note_empty,
    number,
    numbered_lines,
    sized_box,
    split_of_words,
    whole,
)
from dataset_tools.images import walk_files
from dataset_tools.notes import Notes

CLASSES = (
    *("pedestrian", "person on vehicle", "car", "bicycle", "motorbike", "non motorized vehicle"),
    *("static person", "distractor", "occluder", "occluder on the ground", "occluder full"),
    *("reflection", "crowd"),
)
INFO_FILE = "seqinfo.ini"
MOST_FRAMES = 1_000_000  # of a sequence, ten hours of video: more is a mistake
_DETECTOR = re.compile(r"-(DPM|FRCNN|SDP)$")  # MOT17 has each sequence once for each of these


@dataclass(frozen=True)
class Sequence:
    """A folder with seqinfo.ini, relative to the dataset, and what the file says."""

    folder: str
    name: str
    width: int
    height: int
    length: int
    image_folder: str
    suffix: str
    frame_rate: float | None

    def image(self, frame: int) -> str:
        """Path of the image of a frame, which are numbered from 1."""
        return str(PurePosixPath(self.folder, self.image_folder, f"{frame:06}{self.suffix}"))


def plan(path: Path, notes: Notes, images: Path | None = None, boxes: str = "gt") -> Plan:
    """Plan to read a sequence's folder, or one with many of them."""
    if not path.is_dir():
        raise InputError(f"{path}: is a file. Give the folder of the sequence, or of all of them.")
    infos = [name for name in walk_files(path) if name.rpartition("/")[2] == INFO_FILE]
    if not infos:
        raise InputError(f"{path}: no {INFO_FILE} is in it, which says what a sequence is like.")
    remarks: list[str] = []
    sequences: list[Sequence] = []
    seen: dict[str, str] = {}
    for name in infos:
        sequence = _sequence(path, name)
        if not (path / sequence.folder / boxes / f"{boxes}.txt").is_file():
            notes.drop(f"sequence without {boxes}/{boxes}.txt", sequence.folder)
            continue
        frames = _DETECTOR.sub("", sequence.folder)
        first = seen.setdefault(frames, sequence.folder)
        if boxes == "gt" and first != sequence.folder:
            remarks.append(f"{sequence.folder} has the frames and the truth of {first}: not read")
            continue
        sequences.append(sequence)
    if not sequences:
        raise InputError(f"{path}: no sequence in it has a {boxes}/{boxes}.txt.")
    return Plan(
        image_root=root_of(path, images),
        items=sequences,
        read=_Reader(path, root_of(path, images), boxes),
        categories=_categories,
        info={"frame_rates": {sequence.name: sequence.frame_rate for sequence in sequences}},
        remarks=remarks,
    )


def recognise(glimpse: Glimpse) -> Evidence | None:
    """A seqinfo.ini beside a gt or det folder with lines of numbers."""
    for name in glimpse.with_suffix(".txt"):
        folder, file = os.path.split(name)
        kind = os.path.basename(folder)
        info = str(PurePosixPath(os.path.dirname(folder), INFO_FILE))
        if kind not in ("gt", "det") or file != f"{kind}.txt" or info not in glimpse.files:
            continue
        first = glimpse.head(name).splitlines()[:1]
        if all(are_numbers(line.split(",")) for line in first):
            return Evidence(f"{name} is of a MOT Challenge sequence ({info} is there)")
    return None


@dataclass
class _Reader:
    base: Path
    root: Path
    boxes: str

    def __call__(self, sequence: Sequence, notes: Notes) -> Iterator[Image]:
        path = self.base / sequence.folder / self.boxes / f"{self.boxes}.txt"
        frames: dict[int, list[Annotation]] = defaultdict(list)
        for place, line in numbered_lines(path):
            words = line.rstrip(",").split(",")
            if len(words) < 7:
                raise InputError(
                    f"{place}: {len(words)} columns, but there are at least 7. Mend the line."
                )
            frame = whole(words[0], place)
            if not 1 <= frame <= sequence.length:
                raise InputError(
                    f"{place}: frame {frame} of a sequence of {sequence.length} ({INFO_FILE})."
                )
            annotation = self._annotation(words, place)
            note_empty(annotation.bbox, place, notes)
            frames[frame].append(annotation)
        split = split_of_words(f"{self.base.resolve().name}/{sequence.folder}/")
        for frame in range(1, sequence.length + 1):
            name = sequence.image(frame)
            if not os.path.isfile(self.root / name):
                notes.suspect("image file that is missing (kept)", str(self.root / name))
            yield Image(
                name,
                sequence.width,
                sequence.height,
                annotations=frames[frame],
                split=split,
                attributes={"video": sequence.name, "frame": frame - 1},
                source=f"{path}: frame {frame}",
            )

    def _annotation(self, words: list[str], place: str) -> Annotation:
        left, top, width, height = (number(word, place) for word in words[2:6])
        box = sized_box(left - 1, top - 1, width, height)
        confidence = number(words[6], place)
        attributes: dict[str, Any] = {}
        track = whole(words[1], place)
        if track >= 0:
            attributes["track_id"] = track
        if self.boxes == "det":
            return Annotation(
                CLASSES[0], box, attributes=attributes | {"score": confidence}, source=place
            )
        label = whole(words[7], place) if len(words) in (8, 9) else 1  # MOT15: pedestrians alone
        if not 1 <= label <= len(CLASSES):
            raise InputError(f"{place}: there is no class {label}: 1 to {len(CLASSES)} are known.")
        if len(words) == 9:
            attributes["visibility"] = number(words[8], place)
        return Annotation(
            CLASSES[label - 1], box, iscrowd=confidence == 0, attributes=attributes, source=place
        )


def _sequence(base: Path, name: str) -> Sequence:
    file = base / name
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read_string(read_text(file), str(file))
        section = parser["Sequence"]
        if leads_out(section.get("imDir", "img1")) or "/" in section.get("imExt", ""):
            raise ValueError("imDir or imExt leads out of the sequence's folder")
        if not 0 < int(section["seqLength"]) <= MOST_FRAMES:
            raise ValueError(f"seqLength is not from 1 to {MOST_FRAMES:,}")
        return Sequence(
            folder=name.removesuffix(INFO_FILE).rstrip("/"),
            name=section["name"],
            width=int(section["imWidth"]),
            height=int(section["imHeight"]),
            length=int(section["seqLength"]),
            image_folder=section.get("imDir", "img1"),
            suffix=section.get("imExt", ".jpg"),
            frame_rate=section.getfloat("frameRate"),
        )
    except (configparser.Error, KeyError, ValueError, TypeError) as error:
        reason = str(error).replace("\n", " ")
        raise InputError(
            f"{file}: not a sequence's description: {reason}. It needs [Sequence] with name, "
            "seqLength, imWidth and imHeight."
        ) from error


def _categories(seen: set[str]) -> list[Category]:
    return [Category(name) for name in CLASSES if name in seen]


FORMAT = Format(
    name="mot",
    title="MOT Challenge (MOT15 to MOT20)",
    layout="folder of a sequence with seqinfo.ini, gt/gt.txt and img1/, or one with many of them "
    "(MOT17/train/MOT17-02-FRCNN, …)",
    carries=("boxes", "tracks", "attributes", "splits"),
    loses="coordinates in the world (MOT15)",
    recognise=recognise,
    plan=plan,
    conventions="left and top are pixel numbers from 1: 1 is taken off. Boxes of conf 0 are not "
    "evaluated: iscrowd. id and visibility become the attributes track_id and visibility. Frames "
    "without a box are kept. MOT17 has each sequence for three detectors; with --boxes gt it is "
    "read once.",
    options=(
        Option(
            "--boxes",
            "gt: the truth; det: what a detector found, with its score",
            default="gt",
            choices=("gt", "det"),
        ),
    ),
)
