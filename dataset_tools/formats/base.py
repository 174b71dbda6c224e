"""What a label format is to the rest of the house: how it is recognised, planned and read.

A format is one module in this folder that defines `FORMAT: Format`, and its name in
`formats.NAMES`. Nothing else needs to change for a new one.

Reading is in two steps, so that it can be shared between processes and streamed:

- `plan(path, notes, images=None, **options)` looks at the layout and gives a `Plan`: a list of
  items (label files, mostly) and a function that reads one of them;
- `plan.read(item, notes)` yields the `Image` records of one item. It depends on its arguments only.

Where COCO has no key of its own, all formats keep things in the same places, under `attributes`:

- rotated boxes: the annotation's `rbox`, [centre x, centre y, width, height, angle] as Detectron2
  has them (`dataset_tools.rotated`); its box is the tight one, its segmentation the four corners;
- tracks: the annotation's `track_id`; the image's `video` (name) and `frame` (number, from 0);
- labels of whole images: `coco.whole_image`; captions: the image's `captions`, a list of texts;
- points and lines: the annotation's `points`, [x, y, …], with `shape` "point" or "line";
- difficult, truncated, occluded, score …: attributes of that name.

A format with a `write` can be exported to: `write(splits, folder, notes, images, **options)`.
"""

from __future__ import annotations

import argparse
import os
import re
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, Literal, Protocol

from dataset_tools.coco import Category, Dataset, Image
from dataset_tools.errors import InputError
from dataset_tools.files import read_bytes
from dataset_tools.images import is_file, is_folder, is_image_name
from dataset_tools.notes import Notes

Carried = Literal[
    "boxes", "masks", "keypoints", "rotation", "tracks", "labels", "attributes", "splits"
]
CARRIED: tuple[Carried, ...] = Carried.__args__

# Folder and list names that mean a split, and the name that we give it.
SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}


@dataclass(frozen=True)
class Option:
    """A command-line option of a format; its value reaches `plan` under the flag's name."""

    flag: str  # "--pixel-origin" reaches plan as pixel_origin
    help: str
    default: Any = None
    type: Callable[[str], Any] = str
    choices: tuple[str, ...] | None = None
    metavar: str | None = None

    @property
    def name(self) -> str:
        """The keyword of `plan` that takes the value."""
        return self.flag.lstrip("-").replace("-", "_")

    def add_to(self, group: argparse._ArgumentGroup) -> None:
        """Let a parser take the option."""
        default = "" if self.default is None else f" (default: {self.default})"
        group.add_argument(
            self.flag,
            type=self.type,
            choices=self.choices,
            default=self.default,
            metavar=self.metavar,
            help=(self.help + default).replace("%", "%%"),
        )


@dataclass(frozen=True)
class Evidence:
    """Why a path is thought to be of a format. What is certain outweighs all that is not."""

    text: str
    certain: bool = True


@dataclass
class Plan:
    """What there is to read, and how. `read` and `items` can be sent to another process."""

    image_root: Path
    items: Sequence[Any]
    read: Callable[[Any, Notes], Iterable[Image]]
    # Categories in their order, from the names seen in the annotations.
    categories: Callable[[set[str]], list[Category]] = lambda names: sorted_categories(names)
    info: dict[str, Any] = field(default_factory=dict)  # goes into the COCO file's "info"
    licenses: list[dict[str, Any]] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)  # decisions taken, told in the summary
    keep_ids: bool = False  # records carry ids that the COCO file shall have
    embedded: bool = False  # records hold the image files (`Image.content`); they get written
    streams: bool = False  # an item may be as large as the dataset: its images are not gathered
    images_per_item: int = 1  # about so many; more than 1 where an item is a part of a file
    parallel: bool = True  # reading an item is work enough to be given to another process


class Planner(Protocol):
    """See `Plan`; raises InputError if there is nothing to read. `images`: folder of the images."""

    def __call__(
        self, path: Path, notes: Notes, images: Path | None = None, **options: Any
    ) -> Plan: ...


class Writer(Protocol):
    """Write COCO datasets by split (None: without one) as files of the format into `folder`.

    The folder is new and empty, and appears at its place only when the writer has returned.
    `images` is the image root that file names are relative to, or None if it is not known: a format
    that needs the images puts them in place by `dataset_tools.export.place_image`. What the format
    cannot hold is noted as dropped. Raises InputError for what cannot be written at all.
    """

    def __call__(
        self,
        splits: Mapping[str | None, Dataset],
        folder: Path,
        notes: Notes,
        images: Path | None,
        **options: Any,
    ) -> None: ...


@dataclass(frozen=True)
class Format:
    """A label format."""

    name: str
    title: str
    layout: str  # what PATH looks like
    carries: tuple[Carried, ...]
    loses: str  # what of it does not reach COCO; "" if nothing
    recognise: Callable[[Glimpse], Evidence | None]
    plan: Planner
    options: tuple[Option, ...] = ()
    conventions: str = ""  # pixels, edges, flags: how numbers are understood
    write: Writer | None = None
    write_options: tuple[Option, ...] = ()
    write_loses: str = ""  # what of COCO the format cannot hold; "" if nothing
    write_carries: tuple[Carried, ...] | None = None  # what is written, if not all of `carries`

    @property
    def written(self) -> tuple[Carried, ...]:
        """What `write` writes; nothing if the format is read only."""
        if self.write is None:
            return ()
        return self.carries if self.write_carries is None else self.write_carries


class Glimpse:
    """A quick look at a path for `recognise`: names of its files and beginnings of some of them.

    Folders are listed once for all formats, up to a limit, so that a look at a very large dataset
    takes well under a second: nearest first, and of folders in one folder at first only some, so
    that thousands of them side by side do not hide what lies deeper elsewhere.
    """

    MOST_FILES = 20_000
    MOST_FOLDERS = 500
    FIRST_FOLDERS = 20  # of one folder
    DEEPEST = 5
    HEAD_BYTES = 64 * 1024

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.files: list[str] = []  # POSIX, relative to the path; the file's name if it is a file
        self.folders: list[str] = []
        self._heads: dict[str, bytes] = {}
        self._by_suffix: dict[str, list[str]] = {}
        self._sorted: dict[tuple[str, ...], list[str]] = {}
        self.is_file = self.path.is_file()
        if self.is_file:
            self.files = [self.path.name]
        elif self.path.is_dir():
            self._list_folder()
        else:
            raise InputError(f"There is no file or folder {path}. Check the path.")
        for name in self.files:
            self._by_suffix.setdefault(os.path.splitext(name)[1].lower(), []).append(name)

    @cached_property
    def images(self) -> list[str]:
        """Those of `files` that are images, by their suffix."""
        return [name for name in self.files if is_image_name(name)]

    def with_suffix(self, *suffixes: str) -> list[str]:
        """Files with one of the lower-case `suffixes`, nearest to the path first."""
        if suffixes not in self._sorted:
            found = [name for suffix in suffixes for name in self._by_suffix.get(suffix, [])]
            self._sorted[suffixes] = sorted(found, key=lambda name: (name.count("/"), name))
        return self._sorted[suffixes]

    def first(
        self, looks_right: Callable[[str], bool], *suffixes: str, most: int = 20
    ) -> str | None:
        """The first of the nearest `most` files with these suffixes the beginning of which looks
        right; None if none does."""
        names = self.with_suffix(*suffixes)[:most]
        return next((name for name in names if looks_right(self.head(name))), None)

    def head(self, name: str) -> str:
        """Beginning of a file of `files`, as text (bytes that are none are replaced)."""
        return decode_text(self.head_bytes(name), errors="replace")

    def head_bytes(self, name: str) -> bytes:
        """Beginning of a file of `files`."""
        if name not in self._heads:
            path = self.path if self.is_file else self.path / name
            try:
                with open(path, "rb") as file:
                    self._heads[name] = file.read(self.HEAD_BYTES)
            except OSError:
                self._heads[name] = b""
        return self._heads[name]

    def _list_folder(self) -> None:
        first, later = deque([""]), deque()
        for _ in range(self.MOST_FOLDERS):
            queue = first or later
            if not queue or len(self.files) >= self.MOST_FILES:
                break
            folders = self._list(queue.popleft())
            first += folders[: self.FIRST_FOLDERS]
            later += folders[self.FIRST_FOLDERS :]

    def _list(self, prefix: str) -> list[str]:
        """Take down what is in one folder; its folders that may be listed, as prefixes."""
        try:
            entries = sorted(os.scandir(self.path / prefix), key=lambda entry: entry.name)
        except OSError:
            return []
        prefixes = []
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if is_file(entry):
                self.files.append(prefix + entry.name)
            elif is_folder(entry) and prefix.count("/") < self.DEEPEST:
                self.folders.append(prefix + entry.name)
                prefixes.append(f"{prefix}{entry.name}/")
        return prefixes


def sorted_categories(names: Iterable[str]) -> list[Category]:
    """Categories in alphabetical order; in that of their numbers if all names are numbers."""
    names = set(names)
    if all(name.isdecimal() for name in names):
        return [Category(name) for name in sorted(names, key=lambda name: (int(name), name))]
    return [Category(name) for name in sorted(names)]


def declared_categories(names: Sequence[str], where: str) -> Callable[[set[str]], list[Category]]:
    """For `Plan.categories`: just these, in this order. InputError if one is there twice."""
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise InputError(
            f"{where}: the category name {repeated[0]!r} is there twice. Rename one of them."
        )
    return _Declared(tuple(names))


@dataclass(frozen=True)
class _Declared:
    names: tuple[str, ...]

    def __call__(self, seen: set[str]) -> list[Category]:
        return [Category(name) for name in self.names]


def split_of_folders(path: str) -> str | None:
    """The split that a folder in a POSIX path stands for (`train/images/a.jpg` → train)."""
    for folder in path.split("/")[:-1]:
        if folder.lower() in SPLIT_NAMES:
            return SPLIT_NAMES[folder.lower()]
    return None


def split_of_shard(name: str) -> str | None:
    """The split that a file's name, or else a folder of it, stands for
    (`coco_train.record-00000-of-00010` → train)."""
    *folders, file = PurePosixPath(name).parts
    words = [*re.split(r"[-_.]", file), *reversed(folders)]
    return next((SPLIT_NAMES[word.lower()] for word in words if word.lower() in SPLIT_NAMES), None)


def decode_text(content: bytes, encoding: str | None = None, errors: str = "strict") -> str:
    """Text of `content`: by its byte order mark, else by `encoding`, else UTF-8."""
    for mark, marked in (
        (b"\xef\xbb\xbf", "utf-8-sig"),
        (b"\xff\xfe", "utf-16"),
        (b"\xfe\xff", "utf-16"),
    ):
        if content.startswith(mark):
            return content.decode(marked, errors)
    return content.decode(encoding or "utf-8", errors)


def read_text(path: str | Path, encoding: str | None = None) -> str:
    """Text of a file in `encoding` (default UTF-8; a byte order mark overrules). InputError if it
    is not."""
    try:
        return decode_text(read_bytes(path), encoding)
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}: byte {error.start} is not {error.encoding}. Save the file as UTF-8"
            + (
                "."
                if encoding
                else ", or say which encoding it has if the format takes --encoding."
            )
        ) from error
    except LookupError as error:
        raise InputError(f"There is no text encoding {encoding!r}.") from error


def root_of(path: Path, images: Path | None) -> Path:
    """The image root: the folder given, else the dataset's own. InputError if it is no folder."""
    root = images or (path if path.is_dir() else path.parent)
    if not root.is_dir():
        raise InputError(f"There is no folder of images {root}. Check --images.")
    return root
