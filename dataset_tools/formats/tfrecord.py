"""TFRecord files of TensorFlow's Object Detection API, read without TensorFlow.

A file is a row of records: the length (8 bytes, little-endian), a checksum of it, the data, a
checksum of them (`dataset_tools.crc32c`). The data are a protocol buffer `tf.train.Example`: a map
from names to lists of bytes, floats or integers. The API's "Preparing inputs" names them:
`image/encoded`, `image/filename`, `image/object/bbox/xmin` … as shares of the image,
`image/object/class/text` and `/label` (from 1, named by a label_map.pbtxt), `image/object/mask` as
PNG files, `image/object/is_crowd`, and `image/class/text` or `/label` for the image as a whole.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from dataset_tools.coco import Annotation, Category, Image, whole_image
from dataset_tools.crc32c import masked_crc32c
from dataset_tools.errors import InputError
from dataset_tools.formats.base import (
    Evidence,
    Format,
    Glimpse,
    Option,
    Plan,
    read_text,
    sorted_categories,
    split_of_shard,
)
from dataset_tools.images import content_size, image_suffix, walk_files
from dataset_tools.notes import Notes
from dataset_tools.protobuf import Features, read_example
from dataset_tools.rle import encode_mask
from dataset_tools.unpack import open_unpacked

if TYPE_CHECKING:
    import numpy as np

HEAD_BYTES = 12
MOST_RECORD_BYTES = 1 << 30
ITEM_BYTES = 16 << 20  # of records that are read at a time
_SUFFIX = re.compile(r"\.(tfrecords?|record)s?(\.gz)?(-\d+-of-\d+)?(\.gz)?$", re.IGNORECASE)
_SHARD = re.compile(r"-\d{5}-of-\d{5}(\.gz)?$")
_EDGES = ("xmin", "ymin", "xmax", "ymax")
_OBJECT = "image/object/"
_BOX = f"{_OBJECT}bbox/"
_FLAGS = ("difficult", "truncated", "is_crowd", "group_of", "occluded", "depiction")
_KNOWN = frozenset(
    (
        "image/encoded",
        "image/format",
        "image/width",
        "image/height",
        "image/filename",
        "image/class/text",
        "image/class/label",
    )
)


@dataclass(frozen=True)
class Item:
    """Some consecutive records of a file."""

    file: Path
    start: int  # byte
    first: int  # record in the file
    count: int | None  # None: all that are left (of a packed file)
    number: int  # of the first one in the split
    split: str | None


def plan(
    path: Path, notes: Notes, images: Path | None = None, label_map: str | None = None
) -> Plan:
    """Plan to read a TFRecord file, or all below a folder."""
    base = path if path.is_dir() else path.parent
    files = [path.name] if path.is_file() else [n for n in walk_files(base) if _is_record_name(n)]
    if not files:
        raise InputError(
            f"{path}: there is no file called *.tfrecord, *.record or *-00000-of-00001."
        )
    names, remark = _label_map(base, label_map)
    items: list[Item] = []
    counts: dict[str | None, int] = {}
    for name in files:
        split = split_of_shard(name)
        for start, first, count in _groups(base / name):
            items.append(Item(base / name, start, first, count, counts.get(split, 0), split))
            counts[split] = counts.get(split, 0) + (count or 0)
    return Plan(
        image_root=base,
        items=items,
        read=_Reader(names),
        categories=_Categories(tuple(names.values())),
        remarks=[remark],
        embedded=True,
    )


def recognise(glimpse: Glimpse) -> Evidence | None:
    """A file whose first bytes are a length and its checksum, before an Example with an image."""
    for name in glimpse.files:
        if not _is_record_name(name) and not glimpse.is_file:
            continue
        with open_unpacked(glimpse.path if glimpse.is_file else glimpse.path / name) as file:
            try:
                head = file.read(HEAD_BYTES)
                start = file.read(4096)
            except (OSError, EOFError):
                continue
        if len(head) == HEAD_BYTES and _checksum(head[:8]) == head[8:] and b"image/" in start:
            return Evidence(f"{name} begins with a record of an image, its checksum is right")
    return None


def read_records(file: IO[bytes], place: str, count: int | None, first: int = 0) -> Iterator[bytes]:
    """The data of records from where `file` stands. InputError if a checksum is wrong."""
    number = first
    while count is None or number < first + count:
        where = f"{place}[{number}]"
        head = file.read(HEAD_BYTES)
        if not head and count is None:
            return
        size = _size(head, where)
        data, checksum = file.read(size), file.read(4)
        if len(data) < size or len(checksum) < 4:
            raise InputError(f"{where}: the file ends in the middle of this record. Get it again.")
        if _checksum(data) != checksum:
            raise InputError(f"{where}: the checksum is wrong: the file is damaged. Get it again.")
        yield data
        number += 1


@dataclass
class _Reader:
    names: Mapping[int, str]

    def __call__(self, item: Item, notes: Notes) -> Iterator[Image]:
        with open_unpacked(item.file) as file:
            file.seek(item.start)
            records = read_records(file, str(item.file), item.count, item.first)
            for index, data in enumerate(records):
                place = f"{item.file}[{item.first + index}]"
                features = read_example(data, place)
                image = self._image(features, item, item.number + index, place, notes)
                if image is not None:
                    yield image

    def _image(
        self, features: Features, item: Item, number: int, place: str, notes: Notes
    ) -> Image | None:
        encoded = features.get("image/encoded") or []
        if not encoded or not isinstance(encoded[0], bytes):
            notes.drop("record without an image (image/encoded)", place)
            return None
        content = encoded[0]
        width, height = content_size(content, place)
        name = f"{number:06}{image_suffix(content)}"
        image = Image(
            f"{item.split}/{name}" if item.split else name,
            width,
            height,
            split=item.split,
            source=place,
            content=content,
        )
        recorded = (_first(features, "image/width"), _first(features, "image/height"))
        if None not in recorded and recorded != (width, height):
            notes.suspect("image of another size than recorded (its own taken)", place)
        if features.get("image/filename"):
            image.attributes["original_name"] = _text(_first(features, "image/filename"))
        image.annotations = [
            *self._labels(features, image, place),
            *self._objects(features, image, place, notes),
        ]
        for key, values in features.items():
            if key not in _KNOWN and not key.startswith(_OBJECT):
                _keep(image.attributes, key.removeprefix("image/"), values, place, notes)
        return image

    def _labels(self, features: Features, image: Image, place: str) -> list[Annotation]:
        count = max(len(features.get(f"image/class/{k}", [])) for k in ("text", "label"))
        names = self._classes(features, "image/class/", count, place)
        return [whole_image(name, image.width, image.height, place) for name in names]

    def _objects(
        self, features: Features, image: Image, place: str, notes: Notes
    ) -> Iterator[Annotation]:
        edges = [features.get(_BOX + edge, []) for edge in _EDGES]
        count = len(edges[0])
        if any(len(values) != count for values in edges):
            lengths = ", ".join(f"{len(v)} {e}" for e, v in zip(_EDGES, edges, strict=True))
            raise InputError(f"{place}: edges of boxes are not of one number: {lengths}.")
        names = self._classes(features, f"{_OBJECT}class/", count, place)
        columns: dict[str, list[Any]] = {}
        for key, values in features.items():
            if not key.startswith(_OBJECT) or key.startswith((_BOX, f"{_OBJECT}class/")):
                continue
            if len(values) == count:
                columns[key.removeprefix(_OBJECT)] = values
            elif values:
                notes.drop(f"{key}, which is not one for each object", place)
        for index, name in enumerate(names):
            where = f"{place} object {index}"
            shares = [values[index] for values in edges]
            if not all(isinstance(share, int | float) for share in shares):
                raise InputError(f"{where}: the edges of its box are no numbers.")
            left, top, right, bottom = shares
            annotation = Annotation(
                name,
                (
                    left * image.width,
                    top * image.height,
                    right * image.width,
                    bottom * image.height,
                ),
                source=where,
            )
            for key, values in columns.items():
                self._put(annotation, key, values[index], image, notes)
            yield annotation

    def _put(
        self, annotation: Annotation, key: str, value: Any, image: Image, notes: Notes
    ) -> None:
        if key == "is_crowd":
            annotation.iscrowd = bool(value)
        elif key == "area":
            annotation.area = float(value)
        elif key == "mask":
            mask = _read_mask(value, (image.width, image.height), annotation.source)
            if mask.any():
                annotation.segmentation = encode_mask(mask)
            else:
                notes.drop("mask without a pixel (the box is kept)", annotation.source)
        elif key in _FLAGS:
            annotation.attributes[key] = bool(value)
        elif value != b"":
            _keep(annotation.attributes, key, [value], annotation.source, notes)

    def _classes(self, features: Features, prefix: str, count: int, place: str) -> list[str]:
        """A name for each: the text, else that of the number in the label map, else the number."""
        texts, numbers = (features.get(prefix + kind, []) for kind in ("text", "label"))
        if any(len(values) not in (0, count) for values in (texts, numbers)) or (
            count and not texts and not numbers
        ):
            raise InputError(
                f"{place}: {count} objects, but {len(texts)} {prefix}text and {len(numbers)} "
                f"{prefix}label."
            )
        names = []
        for index in range(count):
            name = _text(texts[index]) if texts else ""
            if not name and not numbers:
                raise InputError(f"{place}: object {index} has no class.")
            names.append(name or self.names.get(numbers[index], str(numbers[index])))
        return names


@dataclass(frozen=True)
class _Categories:
    """Those of the label map in its order, then others."""

    declared: tuple[str, ...]

    def __call__(self, seen: set[str]) -> list[Category]:
        declared = list(dict.fromkeys(self.declared))
        others = sorted_categories(seen - set(declared))
        return [*map(Category, declared), *others]


def _checksum(data: bytes) -> bytes:
    return masked_crc32c(data).to_bytes(4, "little")


def _size(head: bytes, where: str) -> int:
    """The size that the head of a record says. InputError if its checksum is wrong."""
    if len(head) < HEAD_BYTES:
        raise InputError(f"{where}: the file ends in the middle of this record. Get it again.")
    if _checksum(head[:8]) != head[8:]:
        raise InputError(
            f"{where}: here begins no record: the checksum of its length is wrong. The file is "
            "damaged, or no TFRecord file."
        )
    size = int.from_bytes(head[:8], "little")
    if size > MOST_RECORD_BYTES:
        raise InputError(f"{where}: a record of {size:,} bytes; the limit is 1 GiB.")
    return size


def _groups(path: Path) -> Iterator[tuple[int, int, int | None]]:
    """Byte, first record and number of records, of parts that are not too large."""
    with open(path, "rb") as file:
        if file.read(2) == b"\x1f\x8b":
            yield 0, 0, None  # packed: there is no place to begin but the start
            return
        end = file.seek(0, os.SEEK_END)
        start = position = 0
        first = number = 0
        while position < end:
            file.seek(position)
            position += HEAD_BYTES + 4 + _size(file.read(HEAD_BYTES), f"{path}[{number}]")
            number += 1
            if position - start >= ITEM_BYTES:
                yield start, first, number - first
                start, first = position, number
        if number > first:
            yield start, first, number - first


def _is_record_name(name: str) -> bool:
    return bool(_SUFFIX.search(name) or _SHARD.search(name))


def _read_mask(content: Any, size: tuple[int, int], place: str) -> np.ndarray:
    import numpy as np
    from PIL import Image as Pillow

    if not isinstance(content, bytes) or content_size(content, f"{place} mask") != size:
        raise InputError(f"{place}: the mask is no image of the image's size.")
    try:
        with Pillow.open(io.BytesIO(content)) as picture:
            values = np.asarray(picture)
    except (OSError, SyntaxError, ValueError) as error:
        raise InputError(f"{place}: the mask cannot be read: {error}") from error
    return (values if values.ndim == 2 else values.max(axis=2)) != 0


def _label_map(base: Path, given: str | None) -> tuple[dict[int, str], str]:
    """Names by number, and where they are from."""
    files = [Path(given)] if given else sorted(base.glob("**/*.pbtxt"))
    if len(files) > 1:
        shown = ", ".join(str(file) for file in files[:3])
        raise InputError(f"{base}: there are several label maps: {shown}. Name one by --label-map.")
    if not files:
        return {}, "no label map (*.pbtxt): classes without a text are called by their numbers"
    return read_label_map(files[0]), f"class names are from {files[0]}"


def read_label_map(path: Path) -> dict[int, str]:
    """Names by number of a label_map.pbtxt: `item { id: 1 name: "cat" }`; display names first."""
    text = re.sub(r"(?m)^\s*#.*$", "", read_text(path))
    names: dict[int, str] = {}
    for block in re.findall(
        r"\bitem\s*:?\s*\{((?:[^{}\"']|\"(?:\\.|[^\"\\])*\"|'(?:\\.|[^'\\])*')*)", text
    ):
        fields = {
            key: quoted[1:-1] if quoted else plain
            for key, quoted, plain in re.findall(
                r"(\w+)\s*:\s*(?:(\"(?:\\.|[^\"\\])*\"|'(?:\\.|[^'\\])*')|([-\w.]+))", block
            )
        }
        name = fields.get("display_name") or fields.get("name")
        if not re.fullmatch(r"-?\d{1,18}", fields.get("id", "")) or not name:
            raise InputError(f"{path}: an item without id or name: {' '.join(block.split())!r}.")
        names[int(fields["id"])] = re.sub(r"\\(.)", r"\1", name)
    if not names:
        raise InputError(f"{path}: there is no `item {{ id: 1 name: 'cat' }}` in it.")
    return dict(sorted(names.items()))


def _first(features: Features, key: str) -> Any:
    return next(iter(features.get(key, [])), None)


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _keep(
    attributes: dict[str, Any], key: str, values: list[Any], place: str, notes: Notes
) -> None:
    """Numbers and text as attributes; other bytes are noted."""
    kept = []
    for value in values:
        if isinstance(value, bytes):
            try:
                value = value.decode("utf-8")
            except UnicodeDecodeError:
                notes.drop(f"bytes of {key}, which are no text", place)
                return
        if isinstance(value, float) and value - value != 0:
            notes.drop(f"{key}, which is no finite number", place)
            return
        kept.append(value)
    if kept:
        attributes[key] = kept[0] if len(kept) == 1 else kept


FORMAT = Format(
    name="tfrecord",
    title="TFRecord files of TensorFlow's Object Detection API",
    layout="a TFRecord file, or a folder of them (train.tfrecord, train.record-00000-of-00010, …) "
    "with label_map.pbtxt, if any",
    carries=("boxes", "masks", "labels", "attributes", "splits"),
    loses="keypoints (they are counted)",
    recognise=recognise,
    plan=plan,
    conventions="Edges of boxes are shares of the image. Checksums are checked. Classes are called "
    "by their text, else by their number's name in the label map. Images are called by their "
    "number; image/filename is the attribute original_name. TensorFlow is not needed.",
    options=(Option("--label-map", "label_map.pbtxt, if not in the folder", metavar="FILE"),),
)
