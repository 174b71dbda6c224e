"""CVAT for video 1.1: one XML file with a <track> for each object, and its shapes by frame.

See `cvat_elements` for what the shapes mean. A shape holds until the next one of its track; between
two, boxes, ellipses, points and polygons of equally many corners move evenly, rotation the shorter
way, as CVAT does it (`dataset_manager/annotation.py`). Flags and attributes are those of the
earlier one. After a shape that is `outside` the object is not there; the last shape of a track that
is not holds to the end of the video.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from dataset_tools.coco import Annotation, Image
from dataset_tools.errors import InputError
from dataset_tools.formats.base import Evidence, Format, Glimpse, Plan, root_of
from dataset_tools.formats.cvat import xml_files
from dataset_tools.formats.cvat_elements import (
    CONVENTIONS,
    SHAPES,
    Meta,
    annotation,
    declared,
    flag,
    number,
    points,
)
from dataset_tools.images import ImageIndex, image_size
from dataset_tools.notes import Notes
from dataset_tools.xml_tree import Node, stream_xml

MOST_FRAMES = 10_000_000  # more than ten days of video: a mistake
_MOVED = ("xtl", "ytl", "xbr", "ybr", "cx", "cy", "rx", "ry")


def plan(path: Path, notes: Notes, images: Path | None = None) -> Plan:
    """Plan to read an XML file, or all those of CVAT in a folder, each a video."""
    files, metas = xml_files(path, notes)
    root = root_of(path, images)
    index = ImageIndex(root)
    frames, how = _frame_files(index, files, metas)
    remarks = [f"frames are {how}"]
    return Plan(
        image_root=root,
        items=files,
        read=_Reader(index, metas, frames),
        categories=declared(metas.values()),
        remarks=remarks,
        streams=True,
        parallel=len(files) > 1,
    )


def recognise(glimpse: Glimpse) -> Evidence | None:
    """XML with <annotations> and a <track> in it."""
    for name in glimpse.with_suffix(".xml")[:5]:
        head = glimpse.head(name)
        mode = "<mode>interpolation</mode>" in head and "<image" not in head
        if re.search(r"<annotations[\s>]", head) and (mode or re.search(r"<track\s", head)):
            return Evidence(f"{name} is XML with <annotations> and tracks as CVAT has them")
    return None


def between(first: Node, second: Node, share: float, path: Path) -> Node | None:
    """The shape at `share` of the way from one to the next; None if it cannot be told.

    Raises:
        InputError: a coordinate is no number.
    """
    said = dict(first.attributes)
    if first.tag != second.tag:
        return None
    if "points" in said:
        ends = [points(node, path) for node in (first, second)]
        if len(ends[0]) != len(ends[1]):
            return None
        moved = [one + share * (other - one) for one, other in zip(*ends, strict=True)]
        said["points"] = ";".join(
            f"{x!r},{y!r}" for x, y in zip(moved[::2], moved[1::2], strict=True)
        )
    for key in _MOVED:
        if key in said:
            one, other = number(first, key, path), number(second, key, path)
            said[key] = repr(one + share * (other - one))
    if first.tag in ("box", "ellipse"):
        one, other = (number(node, "rotation", path, 0) for node in (first, second))
        turn = (other - one + 180) % 360 - 180
        if one or turn:
            said["rotation"] = repr((one + share * turn) % 360)
    children = first.children
    if first.tag == "skeleton":
        following = {node.attributes.get("label"): node for node in second.all("points")}
        children = [
            _element(node, following.get(node.attributes.get("label")), share, path)
            for node in first.children
        ]
    return replace(first, attributes=said, children=children)


def _element(first: Node, second: Node | None, share: float, path: Path) -> Node:
    moved = between(first, second, share, path) if second is not None else None
    return moved or first


@dataclass
class _Reader:
    index: ImageIndex
    metas: dict[Path, Meta]
    frames: dict[tuple[Path, int], str]  # image of a file's frame

    def __call__(self, path: Path, notes: Notes) -> Iterator[Image]:
        meta = self.metas[path]
        tracks: dict[str, list[_Track]] = {}  # by task
        for node in stream_xml(path):
            if node.tag == "track":
                track = _Track.of(node, path, notes)
                if track is not None:
                    tracks.setdefault(node.attributes.get("task_id", ""), []).append(track)
            elif node.tag == "image":
                notes.drop("image (read as format cvat)", f"{path}:{node.line}")
        for task, found in (tracks or {"": []}).items():
            yield from self._video(task, found, path, meta, notes)

    def _video(
        self, task: str, tracks: Sequence[_Track], path: Path, meta: Meta, notes: Notes
    ) -> Iterator[Image]:
        name = meta.tasks.get(task) or meta.name or path.stem
        several = len(self.metas) > 1 or len(meta.tasks) > 1
        size = meta.size
        numbers = _numbers(tracks, meta, path)
        for frame in numbers:
            found = self.frames.get((path, frame))
            if size is None and found is not None:
                size = image_size(self.index.root / found)
            if size is None:
                notes.drop(
                    "frame whose size is neither recorded nor in an image", f"{path}: {frame}"
                )
                continue
            if found is None:
                notes.suspect("image file that is missing (kept)", f"{path}: frame {frame}")
                found = f"{_plain(name)}/" * several + f"frame_{frame:06d}.jpg"
            image = Image(found, *size, source=f"{path}: frame {frame}")
            image.attributes = {"video": name, "frame": frame}
            for track in tracks:
                shape = track.at(frame, notes)
                record = shape and annotation(shape, image, path, meta, notes)
                if record:
                    image.annotations.append(track.named(record, shape))
            yield image


@dataclass
class _Track:
    """The shapes of a track, by frame, and how far reading them has come."""

    shapes: list[tuple[int, Node]]
    number: int | str
    path: Path
    _next: int = 0

    @staticmethod
    def of(node: Node, path: Path, notes: Notes) -> _Track | None:
        """Of a <track>; None, noted as dropped, if it has no shape."""
        shapes: dict[int, Node] = {}
        for child in node.children:
            if child.tag not in SHAPES:
                if child.tag != "attribute":
                    kind = f"shape of a kind that is not known ({child.tag})"
                    notes.drop(kind, f"{path}:{child.line}")
                continue
            frame = number(child, "frame", path)
            if not 0 <= frame < MOST_FRAMES:
                raise InputError(
                    f"{path}:{child.line}: frame {frame:g} is not one of a video. Mend or remove "
                    "this shape."
                )
            inherited = {
                key: node.attributes[key]
                for key in ("label", "source", "group_id")
                if key in node.attributes
            }
            child.attributes = {**inherited, **child.attributes}
            if int(frame) in shapes:
                notes.suspect(
                    "two shapes of a track in a frame (the last taken)", f"{path}:{child.line}"
                )
            shapes[int(frame)] = child
        if not shapes:
            notes.drop("track without a shape", f"{path}:{node.line}")
            return None
        own = node.attributes.get("id", "")
        return _Track(sorted(shapes.items()), int(own) if own.isdecimal() else own, path)

    def at(self, frame: int, notes: Notes) -> Node | None:
        """The shape in a frame; None if it is not there. Frames are asked for in their order."""
        while self._next < len(self.shapes) and self.shapes[self._next][0] <= frame:
            self._next += 1
        if self._next == 0:
            return None
        start, shape = self.shapes[self._next - 1]
        if _outside(shape):
            return None
        if start == frame or self._next == len(self.shapes):
            return shape
        end, following = self.shapes[self._next]
        if shape.tag == "mask":
            return shape  # CVAT has masks stand still
        moved = between(shape, following, (frame - start) / (end - start), self.path)
        if moved is None:
            place = f"{self.path}:{shape.line}"
            notes.suspect("shapes of a track that differ in corners (the earlier one kept)", place)
        return moved or shape

    def named(self, record: Annotation, shape: Node) -> Annotation:
        """The record of a shape with what is of the track."""
        record.attributes["track_id"] = self.number
        start = self.shapes[self._next - 1][1]
        if shape is start and flag(shape, "keyframe"):
            record.attributes["keyframe"] = True
        return record


def _outside(shape: Node) -> bool:
    elements = list(shape.all("points"))
    if shape.tag == "skeleton" and elements and all(flag(node, "outside") for node in elements):
        return True
    return flag(shape, "outside")


def _numbers(tracks: Sequence[_Track], meta: Meta, path: Path) -> range:
    """The frames of a video: as many as the file says, else up to the last one with a shape."""
    last = max((frame for track in tracks for frame, _ in track.shapes), default=-1)
    if meta.frames is None:
        return range(meta.first_frame, last + 1, meta.step)
    if meta.frames > MOST_FRAMES:
        raise InputError(f"{path}: a video of {meta.frames} frames. Mend <size> in <meta>.")
    return range(meta.first_frame, meta.first_frame + meta.frames * meta.step, meta.step)


def _frame_files(
    index: ImageIndex, files: Sequence[Path], metas: dict[Path, Meta]
) -> tuple[dict[tuple[Path, int], str], str]:
    """The image of each frame, and how they were found.

    CVAT names frames frame_000000, frame_000001, …. Files of other names are the frames if there
    are as many as the one video has; then they count in their order, by the numbers in their names.
    """
    found: dict[tuple[Path, int], str] = {}
    for name in index.paths:
        stem = os.path.splitext(name.rpartition("/")[2])[0]
        if match := re.fullmatch(r"frame_(\d{6,})", stem):
            for path in files:
                if len(files) == 1 or _belongs(name, path, metas[path]):
                    found[path, int(match[1])] = name
    if found:
        return found, "the images called frame_000000, frame_000001, …"
    meta = metas[files[0]]
    if len(files) == 1 and meta.frames and len(index.paths) == meta.frames:
        names = sorted(index.paths, key=_natural)
        numbers = range(meta.first_frame, meta.first_frame + meta.frames * meta.step, meta.step)
        pairs = zip(numbers, names, strict=True)
        return {
            (files[0], n): name for n, name in pairs
        }, f"the images in their order: {names[0]} is the first"
    return {}, "called frame_000000.jpg, …: there are no images of theirs"


def _belongs(name: str, path: Path, meta: Meta) -> bool:
    """Whether an image is in a folder called like the video or its file, or like its folder."""
    folders = name.split("/")[:-1]
    return bool({_plain(meta.name), path.stem, path.parent.name} & set(folders))


def _natural(name: str) -> list[tuple[int, str]]:
    return [
        (int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)
    ]


def _plain(name: str) -> str:
    """A name as that of a folder."""
    return re.sub(r"[/\\:]+|^\.+$", "_", name)


FORMAT = Format(
    name="cvat-video",
    title="CVAT for video 1.1 XML",
    layout="annotations.xml of a task, or a folder with such files; frames as images beside it or "
    "by --images",
    carries=("boxes", "masks", "keypoints", "rotation", "tracks", "attributes"),
    loses="tracks' subsets; cuboids become boxes and stand still between keyframes",
    recognise=recognise,
    plan=plan,
    conventions=f"{CONVENTIONS} Between the shapes of a track boxes, ellipses, points and polygons "
    "of equally many corners move evenly, rotation the shorter way; others stand still until the "
    "next. Frames are the images called frame_000000, …, else the images in their order if there "
    "are as many; else such names are written down, for images that are to be put there. Every "
    "frame that <meta> counts becomes an image. Shapes get track_id, and keyframe if they are one.",
)
