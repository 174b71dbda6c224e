"""Parquet files of Hugging Face datasets, which hold the image files.

A column of images is a struct of `bytes` (the image file) and `path`; the schema's metadata has
under the key `huggingface` the features in JSON, with the names of classes. What the columns mean
is told in `dataset_tools.hf_rows`. Files are of a split by their name or folder:
`data/train-00000-of-00002.parquet`, `train/0000.parquet`.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dataset_tools.coco import Dataset, Image
from dataset_tools.errors import InputError
from dataset_tools.formats.base import (
    Evidence,
    Format,
    Glimpse,
    Plan,
    declared_categories,
    sorted_categories,
    split_of_shard,
)
from dataset_tools.formats.hf_folder import OPTIONS, split_folder
from dataset_tools.hf_rows import RowReader, row_of
from dataset_tools.images import (
    content_size,
    image_suffix,
    inside,
    is_image_name,
    walk_files,
)
from dataset_tools.labels import read_names
from dataset_tools.notes import Notes
from dataset_tools.unpack import check_size

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

IMAGES = ("image", "img", "images", "picture")
ROWS_PER_GROUP = 100  # so many images are in memory at a time; Hugging Face writes as many
TAIL_BYTES = 64 * 1024  # of a file, in which its schema stands
MOST_GROUP_BYTES = 2 << 30


@dataclass(frozen=True)
class Item:
    """A row group of a file, and what its images are to be called."""

    file: Path
    group: int
    first: int  # row in the file
    split: str | None
    names: Sequence[str | None]  # paths that the rows give
    number: int  # in the split, of the first row


def plan(
    path: Path,
    notes: Notes,
    images: Path | None = None,
    names: str | None = None,
    box: str = "xywh",
) -> Plan:
    """Plan to read a Parquet file, or all below a folder."""
    files = [path] if path.is_file() else [path / n for n in walk_files(path) if _is_parquet(n)]
    if not files:
        raise InputError(f"{path}: there is no Parquet file in it.")
    given = read_names(names) if names else None
    column = _image_column(files[0], _features(files[0]))
    rows = RowReader(_names_of_files(files), given, box)
    items: list[Item] = []
    counts: Counter[str | None] = Counter()
    for file in files:
        split = split_of_shard(file.relative_to(path).as_posix() if path.is_dir() else file.name)
        first = 0
        for group, paths in enumerate(_paths(file, column)):
            items.append(Item(file, group, first, split, paths, counts[split]))
            first += len(paths)
            counts[split] += len(paths)
    declared = rows.declared()
    return Plan(
        image_root=path if path.is_dir() else path.parent,
        items=_with_unique_names(items),
        read=_Reader(column, rows, images or (path if path.is_dir() else path.parent)),
        categories=declared_categories(declared, str(path)) if declared else sorted_categories,
        remarks=[f"images are the column {column!r}"],
        embedded=True,
    )


def recognise(glimpse: Glimpse) -> Evidence | None:
    """A Parquet file whose schema has images."""
    for name in glimpse.with_suffix(".parquet")[:5]:
        path = glimpse.path if glimpse.is_file else glimpse.path / name
        try:
            with open(path, "rb") as file:
                size = file.seek(0, 2)
                file.seek(max(0, size - TAIL_BYTES))
                tail = file.read()
        except OSError:
            continue
        if tail.endswith(b"PAR1") and re.search(rb'"_type": ?"Image"|bytes.{0,60}path', tail, re.S):
            return Evidence(f"{name} is a Parquet file with a column of images")
    return None


def write(
    splits: Mapping[str | None, Dataset], folder: Path, notes: Notes, images: Path | None
) -> None:
    """One Parquet file for each split, with the image files in it."""
    pa, pq = _pyarrow()
    if images is None:
        raise InputError("This format needs the images. Give their folder by --images.")
    (folder / "data").mkdir()
    for split, dataset in splits.items():
        names = [category.name for category in dataset.categories]
        rows = [row_of(image, notes) for image in dataset.images]
        schema, features = _schema(names, rows, pa)
        metadata = {"huggingface": json.dumps({"info": {"features": features}})}
        target = folder / f"data/{split_folder(split or 'all')}-00000-of-00001.parquet"
        numbers = {name: number for number, name in enumerate(names)}
        with pq.ParquetWriter(target, schema.with_metadata(metadata)) as file:
            for start in range(0, len(rows), ROWS_PER_GROUP):
                part = [
                    _written(image, row, numbers, images, schema.names)
                    for image, row in zip(
                        dataset.images[start : start + ROWS_PER_GROUP],
                        rows[start : start + ROWS_PER_GROUP],
                        strict=True,
                    )
                ]
                file.write_table(pa.Table.from_pylist(part, schema))


@dataclass
class _Reader:
    column: str
    rows: RowReader
    root: Path  # of images that rows name but do not hold

    def __call__(self, item: Item, notes: Notes) -> Iterator[Image]:
        with _opened(item.file) as file:
            group = file.metadata.row_group(item.group)
            check_size(
                f"{item.file}: row group {item.group}", _group_bytes(group), MOST_GROUP_BYTES
            )
            rows = file.read_row_group(item.group).to_pylist()
        for index, row in enumerate(rows):
            place = f"{item.file}[{item.first + index}]"
            picture = row.pop(self.column, None)
            content = self._content(picture, place)
            if content is None:
                notes.drop("row without an image", place)
                continue
            name = item.names[index] or f"{item.number + index:06}{image_suffix(content)}"
            width, height = content_size(content, place)
            image = Image(
                f"{item.split}/{name}" if item.split else name,
                width,
                height,
                split=item.split,
                source=place,
                content=content,
            )
            self.rows.fill(image, row, notes)
            yield image

    def _content(self, picture: Any, place: str) -> bytes | None:
        if isinstance(picture, bytes):
            return picture
        if not isinstance(picture, dict):
            return None
        if picture.get("bytes"):
            return picture["bytes"]
        named = picture.get("path")
        if not named:
            return None
        file = inside(self.root, named)
        if not file.is_file():
            raise InputError(
                f"{place}: the image {named} is neither in the file nor in {self.root}. Give the "
                "folder of images by --images."
            )
        return file.read_bytes()


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ModuleNotFoundError as error:
        raise InputError(
            "Parquet files need the Python package pyarrow, which is not installed here. Install "
            "it by `pip install pyarrow`, or with all that formats need by "
            "`pip install 'seriatim[formats]'`."
        ) from error
    return pyarrow, pyarrow.parquet


@contextmanager
def _opened(path: Path) -> Iterator[pq.ParquetFile]:
    pa, pq = _pyarrow()
    try:
        with pq.ParquetFile(path) as file:
            yield file
    except (pa.ArrowException, OSError, UnicodeEncodeError) as error:  # also of the name
        raise InputError(f"{path}: not a whole Parquet file: {error}. Get it again.") from error


def _is_parquet(name: str) -> bool:
    return name.lower().endswith(".parquet")


def _group_bytes(group: pq.RowGroupMetaData) -> int:
    return max(group.total_byte_size, 0)


def _features(path: Path) -> dict[str, Any]:
    """The features that Hugging Face's library has written; empty if it did not."""
    with _opened(path) as file:
        content = (file.schema_arrow.metadata or {}).get(b"huggingface", b"{}")
    try:
        found = json.loads(content)["info"]["features"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _image_column(path: Path, features: dict[str, Any]) -> str:
    declared = [
        key
        for key, value in features.items()
        if isinstance(value, dict) and value.get("_type") == "Image"
    ]
    with _opened(path) as file:
        schema = file.schema_arrow
    structs = [field.name for field in schema if _is_picture(field.type)]
    plain = [name for name in IMAGES if name in schema.names]
    found = [name for name in (*declared, *structs, *plain) if name in schema.names]
    if not found:
        raise InputError(
            f"{path}: none of its columns {', '.join(schema.names)} holds images: wanted is a "
            "struct of bytes and path, as Hugging Face datasets have it."
        )
    return next((name for name in IMAGES if name in found), found[0])


def _is_picture(kind: pa.DataType) -> bool:
    import pyarrow as pa

    return pa.types.is_struct(kind) and {"bytes", "path"} <= {field.name for field in kind}


def _class_names(features: Any, column: str = "") -> dict[str, list[str]]:
    """Names of each column of classes, through lists and structs (`objects.category`)."""
    if isinstance(features, list):
        return _class_names(features[0], column) if features else {}
    if not isinstance(features, dict):
        return {}
    if features.get("_type") == "ClassLabel":
        names = features.get("names")
        return {column: [str(name) for name in names]} if isinstance(names, list) else {}
    if isinstance(features.get("_type"), str):
        return _class_names(features.get("feature"), column)
    found: dict[str, list[str]] = {}
    for key, value in features.items():
        found |= _class_names(value, f"{column}.{key}" if column else key)
    return found


def _names_of_files(files: Sequence[Path]) -> dict[str, list[str]]:
    """Names of each column, which a part of the files may have, but none other names."""
    names: dict[str, list[str]] = {}
    for file in files:
        for column, found in _class_names(_features(file)).items():
            if names.setdefault(column, found) != found:
                raise InputError(
                    f"{file}: the classes of {column} are not those of the files before it. "
                    "Convert the datasets one by one, and merge them."
                )
    return names


def _paths(path: Path, column: str) -> Iterator[list[str | None]]:
    """By row group, the names that rows give to their images; the images are not read."""
    with _opened(path) as file:
        known = {file.schema.column(index).path for index in range(len(file.schema))}
        for group in range(file.num_row_groups):
            if f"{column}.path" not in known:
                yield [None] * file.metadata.row_group(group).num_rows
                continue
            values = file.read_row_group(group, columns=[f"{column}.path"])[column].to_pylist()
            yield [_plain_name((value or {}).get("path")) for value in values]


def _plain_name(path: str | None) -> str | None:
    """The path, if it is one below a folder and of an image; else its last part."""
    name = (path or "").replace("\\", "/")
    parts = name.split("/")
    if not parts[0] or ".." in parts or ":" in parts[0]:
        name = parts[-1]
    return name if is_image_name(name) and name.isprintable() else None


def _with_unique_names(items: list[Item]) -> list[Item]:
    """The items, without names in a split whose names are not unique: its images get numbers."""
    seen: dict[str | None, Counter[str | None]] = {}
    for item in items:
        seen.setdefault(item.split, Counter()).update(item.names)
    doubtful = {
        split
        for split, names in seen.items()
        if None in names or max(names.values(), default=0) > 1
    }
    return [
        Item(i.file, i.group, i.first, i.split, [None] * len(i.names), i.number)
        if i.split in doubtful
        else i
        for i in items
    ]


def _schema(
    names: list[str], rows: list[dict[str, Any]], pa: Any
) -> tuple[pa.Schema, dict[str, Any]]:
    """The columns that rows need, for Arrow and as Hugging Face's features."""
    label = {"names": names, "_type": "ClassLabel"}

    def value(kind: str) -> dict[str, str]:
        return {"dtype": kind, "_type": "Value"}

    def sequence(feature: Any) -> dict[str, Any]:
        return {"feature": feature, "_type": "Sequence"}

    fields = [
        pa.field("image", pa.struct({"bytes": pa.binary(), "path": pa.string()})),
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
    ]
    features: dict[str, Any] = {
        "image": {"_type": "Image"},
        "width": value("int32"),
        "height": value("int32"),
    }
    if any(row["objects"]["bbox"] for row in rows) or not any(row["labels"] for row in rows):
        kinds = {
            "bbox": pa.list_(pa.list_(pa.float64())),
            "category": pa.list_(pa.int64()),
            "area": pa.list_(pa.float64()),
            "iscrowd": pa.list_(pa.bool_()),
        }
        fields.append(pa.field("objects", pa.struct(kinds)))
        features["objects"] = sequence(
            {
                "bbox": sequence(value("float64")),
                "category": label,
                "area": value("float64"),
                "iscrowd": value("bool"),
            }
        )
    if any(row["labels"] for row in rows):
        fields.append(pa.field("labels", pa.list_(pa.int64())))
        features["labels"] = sequence(label)
    if any(row["text"] for row in rows):
        fields.append(pa.field("text", pa.list_(pa.string())))
        features["text"] = sequence(value("string"))
    return pa.schema(fields), features


def _written(
    image: Image, row: dict[str, Any], numbers: dict[str, int], root: Path, columns: list[str]
) -> dict[str, Any]:
    file = inside(root, image.file_name)
    if not file.is_file():
        raise InputError(f"{file}: this image file is missing. Check --images.")
    objects = row["objects"] | {"category": [numbers[name] for name in row["objects"]["category"]]}
    filled = {
        "image": {"bytes": file.read_bytes(), "path": image.file_name},
        "width": image.width,
        "height": image.height,
        "objects": objects,
        "labels": [numbers[name] for name in row["labels"]],
        "text": row["text"],
    }
    return {column: filled[column] for column in columns}


FORMAT = Format(
    name="hf-parquet",
    title="Parquet files of Hugging Face datasets",
    layout="a Parquet file, or a folder of them (data/train-00000-of-00001.parquet, …)",
    carries=("boxes", "labels", "attributes", "splits"),
    loses="",
    recognise=recognise,
    plan=plan,
    conventions="objects.bbox is XYWH in pixels from 0, unless --box says otherwise. Names of "
    "classes are from the schema. text becomes captions, further columns become attributes. "
    "Needs the package pyarrow.",
    options=OPTIONS,
    write=write,
    write_carries=("boxes", "labels", "splits"),
    write_loses="masks, keypoints, rotation, attributes",
)
