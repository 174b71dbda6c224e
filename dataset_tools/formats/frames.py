"""Videos whose frames are image files, with the labels of all of them in one file."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

from dataset_tools.coco import Annotation, Image
from dataset_tools.formats.reading import (
    ignored_region,
    note_empty,
    numbered_lines,
    split_of_words,
    whole,
)
from dataset_tools.images import image_size, is_image_name, walk_files
from dataset_tools.notes import Notes

Frames = Mapping[int, str]  # images, relative to the image root, by the number that they are called


@dataclass
class Videos:
    """The folders of images below a root that are called by numbers (000012.png)."""

    root: Path

    def __post_init__(self) -> None:
        self._folders: dict[str, dict[int, str]] = {}
        for name in walk_files(self.root):
            number = re.fullmatch(r"(?:.*\D)?(\d{1,9})", PurePosixPath(name).stem, re.ASCII)
            if number and is_image_name(name):
                folder = self._folders.setdefault(name.rpartition("/")[0], {})
                folder.setdefault(int(number[1]), name)

    def of_label(self, label: Path, beside: str) -> Frames | None:
        """Frames of the video called like a label file: in the folder `beside` that of the label,
        or else in the one that shares most of the folders above it. None if there is none, or two
        are as good."""
        wanted = label.absolute().parent.with_name(beside) / label.stem
        shared = {
            name: _common_end(wanted.parts, name.split("/"))
            for name in self._folders
            if name.rpartition("/")[2] == label.stem
        }
        best = [name for name, length in shared.items() if length == max(shared.values())]
        return self._folders[best[0]] if len(best) == 1 else None


@dataclass(frozen=True)
class Dialect:
    """Text files of a video each, whose lines begin with a frame and a track.

    Attributes:
        columns: those of a line.
        read: makes an object of all columns but these two; the other argument is the place.
        folder: of the folders of frames, by the name of that of the labels.
        first: number of the first frame.
        region: category of the regions in which nothing is labelled, which are no tracks.
        classes: those that are labelled elsewhere.
    """

    columns: Callable[[str], list[str]]
    read: Callable[[list[str], str], Annotation]
    folder: Callable[[str], str]
    first: int
    region: str
    classes: Sequence[str]


@dataclass
class VideoReader:
    """Reads the label file of a video, an image for each frame. `above` is the path of the dataset
    as far as it says the split."""

    dialect: Dialect
    base: Path
    root: Path
    ignored: str
    above: str = ""

    @cached_property
    def videos(self) -> Videos:
        return Videos(self.root)

    def __call__(self, label: str, notes: Notes) -> Iterator[Image]:
        path = self.base / label
        frames = self.videos.of_label(path, self.dialect.folder(path.parent.name))
        if frames is None:
            notes.drop("sequence whose images are not there", str(path))
            return
        objects = self._objects(path, notes)
        for number in sorted(frames):
            yield Image(
                frames[number],
                *image_size(self.root / frames[number]),
                annotations=objects.pop(number, []),
                split=split_of_words(self.above + label),
                attributes={"video": path.stem, "frame": number - self.dialect.first},
                source=f"{path}: frame {number}",
            )
        for annotation in (one for left in objects.values() for one in left):
            notes.drop("object in a frame whose image is not there", annotation.source)

    def _objects(self, path: Path, notes: Notes) -> dict[int, list[Annotation]]:
        """By frame."""
        objects: dict[int, list[Annotation]] = defaultdict(list)
        for place, line in numbered_lines(path):
            frame, track, *columns = [*self.dialect.columns(line), "", ""]
            annotation = self.dialect.read(columns[:-2], place)
            note_empty(annotation.bbox, place, notes)
            number, track_id = whole(frame, place), whole(track, place)
            if annotation.category != self.dialect.region:
                annotation.attributes["track_id"] = track_id
                objects[number].append(annotation)
                continue
            if self.ignored == "drop":
                notes.drop(f"region of {annotation.category} (--ignored drop)", place)
            objects[number] += ignored_region(annotation, self.ignored, self.dialect.classes)
        return objects


def _common_end(first: Sequence[str], second: Sequence[str]) -> int:
    length = 0
    for one, other in zip(reversed(first), reversed(second), strict=False):
        if one != other:
            break
        length += 1
    return length
