"""The records of a dataset, the one writer of COCO JSON, and a strict reader of it.

Boxes in records are absolute XYXY in pixels, continuous and 0-based: the left edge of the image's
first pixel is 0, the right edge of the last one is the width. COCO's XYWH exists in the file only.
"""

from __future__ import annotations

import functools
import itertools
import json
import tempfile
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice, pairwise
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Self

from dataset_tools.errors import InputError
from dataset_tools.files import atomic_path, read_bytes
from dataset_tools.notes import Notes
from dataset_tools.rle import (
    Box,
    check_rle,
    compress_runs,
    polygons_area,
    polygons_box,
    rle_area,
    rle_box,
)

if TYPE_CHECKING:
    import msgspec

    from dataset_tools.coco_lines import Lines

Segmentation = list[list[float]] | dict[str, Any]

LARGEST = 2**53  # whole numbers beyond are not all floats
IMAGES_AT_ONCE = 64  # that are encoded together
# Keys that COCO gives to an image besides those of `Image`; kept in `attributes`, written where
# they were.
IMAGE_EXTRAS = ("license", "flickr_url", "coco_url", "date_captured")


@dataclass(slots=True)
class Category:
    """A class of objects. `extra` holds further keys of its COCO entry (`isthing`, `color`, …)."""

    name: str
    supercategory: str = ""
    keypoints: tuple[str, ...] = ()
    skeleton: tuple[tuple[int, int], ...] = ()  # pairs of 1-based indices into `keypoints`
    id: int | None = None
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class Annotation:
    """One object (or a crowd of them) in an image."""

    category: str
    bbox: Box | None = None  # XYXY px; None: taken from the segmentation, else from the keypoints
    # Polygons [[x, y, …], …], or RLE with text as counts. On its way from JSON to JSON: its text.
    segmentation: Segmentation | msgspec.Raw | None = None
    keypoints: list[float] | None = None  # x, y, visibility (0 absent, 1 hidden, 2 visible) triples
    iscrowd: bool = False
    area: float | None = None  # px²; None: of the segmentation, else of the box
    attributes: dict[str, Any] = field(default_factory=dict)
    id: int | None = None
    source: str = ""  # "file:line" or alike, for messages


@dataclass(slots=True)
class Image:
    """An image with its annotations; width and height are those after EXIF orientation is
    applied."""

    file_name: str  # POSIX path relative to the image root
    width: int
    height: int
    annotations: Sequence[Annotation] = field(default_factory=list)  # or `columns.Columns`
    split: str | None = None
    id: int | None = None
    attributes: dict[str, Any] = field(default_factory=dict)
    source: str = ""
    content: bytes | None = None  # the image file itself, where the labels hold it


@dataclass
class Dataset:
    """A whole COCO file in memory."""

    images: list[Image]
    categories: list[Category]
    info: dict[str, Any] = field(default_factory=dict)
    licenses: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class Summary:
    """What a written COCO file holds."""

    path: Path
    images: int
    empty_images: int  # images without an annotation
    annotations: int
    per_category: dict[str, int]  # in the order of the categories; 0 for unused ones


def whole_image(category: str, width: int, height: int, source: str = "") -> Annotation:
    """The annotation that says: the image is of this category. So classification is kept in
    COCO: a box around the whole image and the attribute `whole_image`."""
    return Annotation(
        category, (0, 0, width, height), attributes={"whole_image": True}, source=source
    )


def annotation_box(annotation: Annotation) -> Box | None:
    """The box of an annotation: its own, else that of its mask, else that of its labelled
    keypoints."""
    if annotation.bbox is not None:
        return annotation.bbox
    if isinstance(annotation.segmentation, dict):
        return rle_box(annotation.segmentation)
    if annotation.segmentation:
        return polygons_box(annotation.segmentation)
    points = annotation.keypoints or []
    labelled = [
        coordinate
        for x, y, visibility in zip(points[0::3], points[1::3], points[2::3], strict=False)
        if visibility > 0
        for coordinate in (x, y)
    ]
    return polygons_box([labelled])


def annotation_area(annotation: Annotation) -> float:
    """The area in px²: the recorded one, else that of the mask, else that of the box."""
    if annotation.area is not None:
        return annotation.area
    if isinstance(annotation.segmentation, dict):
        return rle_area(annotation.segmentation)
    if annotation.segmentation:
        return polygons_area(annotation.segmentation)
    box = annotation.bbox or annotation_box(annotation)
    if box is None:
        return 0
    left, top, right, bottom = box
    return (right - left) * (bottom - top) if right > left and bottom > top else 0


class CocoWriter:
    """Writes images as they come, so that the memory used does not grow with the dataset.

    `add` appends to anonymous files in `folder`; `write` joins them. Ids are given at the end:
    those of categories when all names are known (several files, say train and val, can then share
    them). With `keep_ids` images, annotations and categories keep the ids they carry.
    """

    def __init__(self, folder: str | Path, keep_ids: bool = False) -> None:
        Path(folder).mkdir(parents=True, exist_ok=True)
        self._images, self._places, self._counts, self._annotations, self._categories = (
            self._files
        ) = [
            tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
            for _ in range(5)
        ]
        self._names = array("q")  # hashes, for names take a multiple of their memory
        self._keep_ids = keep_ids
        self._numbers = _Numbers()  # of category names
        self._num_images = self._num_annotations = self._num_empty = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._files:
            file.close()

    @property
    def category_names(self) -> set[str]:
        """Names of all categories that annotations added so far have."""
        return set(self._numbers)

    def add(self, lines: Lines) -> None:
        """Append images and their annotations, as `coco_lines.encode_images` gives them."""
        self._num_images += len(lines.counts)
        self._num_annotations += len(lines.numbers)
        self._num_empty += lines.counts.count(0)
        numbers = [self._numbers[name] for name in lines.categories]
        self._names.extend(map(hash, lines.names))
        self._places.writelines(place.encode("unicode_escape") + b"\n" for place in lines.places)
        self._images.write(lines.images)
        self._counts.write(lines.counts.tobytes())
        self._annotations.write(lines.annotations)
        self._categories.write(array("I", map(numbers.__getitem__, lines.numbers)).tobytes())

    def repeated(self) -> Iterator[str]:
        """Places of images whose name one before them has."""
        ordered = sorted(self._names)
        several = {one for one, other in pairwise(ordered) if one == other}
        if not several:
            return
        seen: set[int] = set()
        for name, place in zip(self._names, _rewound(self._places), strict=True):
            if name in seen:
                yield place[:-1].decode("unicode_escape")
            elif name in several:
                seen.add(name)

    def write(
        self,
        path: str | Path,
        categories: Sequence[Category] | None,
        info: dict[str, Any],
        licenses: Sequence[dict[str, Any]] = (),
    ) -> Summary:
        """Write the COCO file to `path`. Without `categories` they are the names seen, sorted.

        InputError if an annotation's category is not among `categories`, or a name is there twice.
        """
        if categories is None:
            categories = [Category(name) for name in sorted(self._numbers)]
        ids = self._category_ids(categories)
        unknown = sorted(set(self._numbers) - set(ids))
        if unknown:
            raise InputError(
                f"Annotations name the categories {', '.join(map(repr, unknown))}, which are not "
                f"among the declared ones ({', '.join(map(repr, ids)) or 'none'})."
            )
        beginnings = [b'{"category_id":%d,' % ids[name] for name in self._numbers]
        with open(path, "wb") as out:
            out.write(b'{\n"info": %b,\n' % encode_json(info, "info"))
            out.write(b'"licenses": %b,\n' % encode_json(list(licenses), "licenses"))
            entries = (encode_json(_category_entry(c, ids[c.name]), c.name) for c in categories)
            _write_list(out, b"categories", entries)
            out.write(b",\n")
            _write_list(out, b"images", self._image_entries())
            out.write(b",\n")
            counts = [0] * len(beginnings)
            _write_list(out, b"annotations", self._annotation_entries(beginnings, counts))
            out.write(b"\n}\n")
        return Summary(
            path=Path(path),
            images=self._num_images,
            empty_images=self._num_empty,
            annotations=self._num_annotations,
            per_category=dict.fromkeys(ids, 0) | dict(zip(self._numbers, counts, strict=True)),
        )

    def _image_entries(self) -> Iterator[bytes]:
        lines = _rewound(self._images)
        if self._keep_ids:
            return (b"{" + line[:-1] for line in lines)
        return (b'{"id":%d,%b' % (id_, line[:-1]) for id_, line in enumerate(lines, start=1))

    def _annotation_entries(
        self, beginnings: Sequence[bytes], counts: list[int]
    ) -> Iterator[bytes]:
        """Entries with that of the `beginnings` which the number of their category says; how often
        each is said is added to `counts`."""
        lines = iter(_rewound(self._annotations))
        of_image = enumerate(chain.from_iterable(_blocks_in(self._counts)), start=1)
        image_ids = chain.from_iterable(itertools.starmap(itertools.repeat, of_image))
        ids = itertools.count(1)
        for block in _blocks_in(self._categories):
            for number, count in Counter(block).items():
                counts[number] += count
            if self._keep_ids:
                yield from (
                    beginnings[n] + line[:-1] for n, line in zip(block, lines, strict=False)
                )
            else:
                for number, id_, image_id, line in zip(block, ids, image_ids, lines, strict=False):
                    yield b'%b"id":%d,"image_id":%d,%b' % (
                        beginnings[number],
                        id_,
                        image_id,
                        line[:-1],
                    )

    def _category_ids(self, categories: Sequence[Category]) -> dict[str, int]:
        ids: dict[str, int] = {}
        for position, category in enumerate(categories, start=1):
            if not category.name:
                raise InputError(f"The category number {position} has no name. Give it one.")
            if category.name in ids:
                raise InputError(
                    f"The category name {category.name!r} is declared twice. Rename one of them."
                )
            if self._keep_ids and category.id is None:
                raise InputError(
                    f"category {category.name!r}: ids are to be kept, but there is none here."
                )
            ids[category.name] = category.id if self._keep_ids else position
        return ids


def write_coco(
    path: str | Path,
    images: Iterable[Image],
    categories: Sequence[Category] | None,
    info: dict[str, Any],
    licenses: Sequence[dict[str, Any]] = (),
    keep_ids: bool = False,
) -> Summary:
    """Stream `images` into the COCO file `path`, which appears whole or not at all.

    Image and annotation ids count from 1 in the order given; category ids count from 1 in the order
    of `categories`, or of the sorted names seen if that is None. `keep_ids` keeps those of the
    records.
    """
    from dataset_tools.coco_lines import lines_of

    images = iter(images)
    with atomic_path(path) as temporary, CocoWriter(temporary.parent, keep_ids) as writer:
        while some := list(islice(images, IMAGES_AT_ONCE)):
            writer.add(lines_of(some, keep_ids))
        summary = writer.write(temporary, categories, info, licenses)
    summary.path = Path(path)
    return summary


def load_coco(path: str | Path, notes: Notes | None = None) -> Dataset:
    """Read COCO instances or keypoints JSON.

    Whatever is not as COCO says (ids not unique or unknown, missing keys, wrong types, broken
    masks) raises an InputError that names the file and the entry; with `notes`, faults of single
    images and annotations drop the entry and are noted there instead. NaN and inverted or empty
    boxes are read as they are: finding those is the work of `check`. Unknown keys end in
    `attributes`.
    """
    from dataset_tools.coco_quick import read_quickly

    return read_quickly(path) or parse_coco(path, read_json(path), notes)


def parse_coco(path: str | Path, content: Any, notes: Notes | None = None) -> Dataset:
    """As `load_coco`, from the JSON value `content` of the file `path` (which is for messages
    only)."""
    return _Loader(Path(path), notes).dataset(content)


def image_root(path: str | Path, info: dict[str, Any]) -> Path | None:
    """Folder that file names in the COCO file `path` are relative to, if its `info` records it."""
    recorded = info.get("image_root")
    return Path(path).resolve().parent / recorded if isinstance(recorded, str) else None


def read_json(path: str | Path) -> Any:
    """The value in a JSON file in UTF-8, -16 or -32, with or without a byte order mark.

    InputError with line and column if it is not JSON.
    """
    try:
        return decode_json(read_bytes(path))
    except json.JSONDecodeError as error:
        raise InputError(
            f"{path}: not valid JSON at line {error.lineno}, column {error.colno}: {error.msg}. "
            "The file may be truncated or of another format."
        ) from error
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}: not text: byte {error.start} is not valid {error.encoding}."
        ) from error
    except RecursionError as error:
        raise InputError(f"{path}: nested too deeply to be a label file.") from error
    except ValueError as error:  # a number of thousands of digits
        raise InputError(f"{path}: cannot be read as JSON: {error}.") from error


def read_info(path: str | Path) -> dict[str, Any]:
    """The "info" of a COCO file, without making anything of the rest; {} if it has none."""
    import msgspec

    top = msgspec.defstruct("Top", [("info", Any, None)])
    try:
        info = msgspec.json.decode(Path(path).read_bytes(), type=top).info
    except (msgspec.MsgspecError, UnicodeDecodeError):
        content = read_json(path)  # knows more encodings, and what is wrong
        info = content.get("info") if isinstance(content, dict) else None
    return info if isinstance(info, dict) else {}


def decode_json(content: bytes) -> Any:
    """The value of JSON text in any encoding; the errors are those of `json.loads`."""
    import msgspec

    try:
        return msgspec.json.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        # Byte order marks, UTF-16, NaN, or a fault, which the slow way knows the line of.
        return json.loads(content)


class _Loader:
    def __init__(self, path: Path, notes: Notes | None) -> None:
        self.path = path
        self.notes = notes

    def dataset(self, content: Any) -> Dataset:
        if not isinstance(content, dict) or not isinstance(content.get("images"), list):
            raise InputError(f'{self.path}: not a COCO file: there is no list "images" at the top.')
        categories = read_categories(self.path, _list(content, "categories", self.path))
        names = {category.id: category.name for category in categories}
        images: dict[int, Image] = {}
        for index, entry in enumerate(content["images"]):
            self.entry(self.image, f"images[{index}]", entry, images)
        annotation_ids: set[int] = set()
        for index, entry in enumerate(_list(content, "annotations", self.path)):
            place = f"annotations[{index}]"
            self.entry(self.annotation, place, entry, images, names, annotation_ids)
        info = content.get("info")
        return Dataset(
            images=list(images.values()),
            categories=categories,
            info=info if isinstance(info, dict) else {},
            licenses=_list(content, "licenses", self.path),
        )

    def entry(self, read: Any, place: str, entry: Any, *more: Any) -> None:
        """Read one entry; a fault in it is an InputError, or a note if there is where to note
        it."""
        try:
            if not isinstance(entry, dict):
                raise ValueError("is not an object in braces")
            read(place, entry, *more)
        except ValueError as fault:
            if self.notes is None:
                raise InputError(f"{self.path}: {place} {_id_of(entry)}{fault}.") from fault
            self.notes.drop(f"{place.partition('[')[0][:-1]} {fault}", f"{self.path}:{place}")

    def image(self, place: str, entry: dict, images: dict[int, Image]) -> None:
        rest = dict(entry)
        image_id = _integer(rest, "id")
        if image_id in images:
            raise ValueError("has an id that is there twice")
        image = Image(
            file_name=_text(rest, "file_name"),
            width=_integer(rest, "width"),
            height=_integer(rest, "height"),
            id=image_id,
            source=f"{self.path}:{place}",
        )
        image.attributes = _attributes(rest)
        images[image_id] = image

    def annotation(
        self, place: str, entry: dict, images: dict[int, Image], names: dict, ids: set[int]
    ) -> None:
        rest = dict(entry)
        annotation_id = _integer(rest, "id")
        if annotation_id in ids:
            raise ValueError("has an id that is there twice")
        image = images.get(_integer(rest, "image_id"))
        if image is None:
            raise ValueError("has an image_id that no image has")
        category = names.get(_integer(rest, "category_id"))
        if category is None:
            raise ValueError("has a category_id that no category has")
        ids.add(annotation_id)
        rest.pop("num_keypoints", None)
        image.annotations.append(
            Annotation(
                category=category,
                bbox=read_box(rest.pop("bbox", None)),
                segmentation=read_segmentation(rest.pop("segmentation", None)),
                keypoints=_keypoints(rest.pop("keypoints", None)),
                iscrowd=_flag(rest.pop("iscrowd", 0)),
                area=None if rest.get("area") is None else _number(rest, "area"),
                attributes=_attributes(rest, drop=("area",)),
                id=annotation_id,
                source=f"{self.path}:{place}",
            )
        )


def read_categories(path: Path, entries: list[Any]) -> list[Category]:
    """The entries of "categories"; InputError if there is a fault in one."""
    found: dict[int, Category] = {}
    names: set[str] = set()
    for index, entry in enumerate(entries):
        place = f"{path}: categories[{index}]"
        if not isinstance(entry, dict):
            raise InputError(f"{place} is not an object in braces.")
        try:
            category = _category(entry)
        except ValueError as fault:
            raise InputError(f"{place} {fault}.") from fault
        if category.id in found:
            raise InputError(f"{place}: the id {category.id} is there twice.")
        if category.name in names:
            raise InputError(f"{place}: the name {category.name!r} is there twice. Rename one.")
        found[category.id] = category
        names.add(category.name)
    return list(found.values())


def read_segmentation(value: Any) -> Segmentation | None:
    """A COCO `segmentation` as polygons or a compressed RLE; ValueError if it is neither."""
    if value is None or value == []:
        return None
    if isinstance(value, list):
        if isinstance(value[0], int | float):
            value = [value]  # a single polygon without its list, as some tools write
        for polygon in value:
            if not isinstance(polygon, list) or not all(map(_is_number, polygon)):
                raise ValueError("has a polygon that is not a list of numbers")
            if len(polygon) % 2:
                raise ValueError("has a polygon with an odd number of coordinates")
        return value
    if not isinstance(value, dict) or not {"size", "counts"} <= value.keys():
        raise ValueError("has a segmentation that is neither polygons nor an RLE")
    size, counts = value["size"], value["counts"]
    if not (
        isinstance(size, list) and len(size) == 2 and all(type(n) is int and n > 0 for n in size)
    ):
        raise ValueError("has an RLE whose size is not [height, width]")
    try:
        if isinstance(counts, list):
            return compress_runs(counts, *size)
        if not isinstance(counts, str):
            raise ValueError("the counts are neither text nor a list")
        rle = {"size": size, "counts": counts}
        check_rle(rle)
    except ValueError as fault:
        raise ValueError(f"has a broken RLE: {fault}") from fault
    return rle


def _category(entry: dict) -> Category:
    rest = dict(entry)
    keypoints = rest.pop("keypoints", None) or []
    skeleton = rest.pop("skeleton", None) or []
    if not all(isinstance(name, str) for name in keypoints):
        raise ValueError("has keypoint names that are not text")
    if not all(isinstance(bone, list) and len(bone) == 2 for bone in skeleton):
        raise ValueError("has a skeleton that is not a list of pairs")
    return Category(
        id=_integer(rest, "id"),
        name=_text(rest, "name"),
        supercategory=str(rest.pop("supercategory", "") or ""),
        keypoints=tuple(keypoints),
        skeleton=tuple((first, second) for first, second in skeleton),
        extra=rest,
    )


def _attributes(rest: dict, drop: tuple[str, ...] = ()) -> dict[str, Any]:
    """What is left of an entry, joined with its own `attributes`."""
    own = rest.pop("attributes", None)
    attributes = {key: value for key, value in rest.items() if key not in drop}
    if isinstance(own, dict):
        return attributes | own
    return attributes if own is None else attributes | {"attributes": own}


def _is_number(value: Any) -> bool:
    # Whole numbers in JSON have no limit, but beyond this one a float would lose them.
    return isinstance(value, float) or (type(value) is int and abs(value) <= LARGEST)


def _integer(entry: dict, key: str) -> int:
    value = entry.pop(key, None)
    if value is None:
        raise ValueError(f"has no {key}")
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError(f"has a {key} that is not a whole number")
    return value


def _number(entry: dict, key: str) -> float:
    value = entry.pop(key)
    if not _is_number(value):
        raise ValueError(f"has {key} that is not a number")
    return value


def _text(entry: dict, key: str) -> str:
    value = entry.pop(key, None)
    if not isinstance(value, str) or not value:
        raise ValueError(f"has no {key}")
    return value


def _flag(value: Any) -> bool:
    if value not in (0, 1, None):
        raise ValueError("has an iscrowd that is neither 0 nor 1")
    return bool(value)


def read_box(value: Any) -> Box | None:
    """A COCO `bbox` (XYWH) as XYXY, None if there is none; ValueError if it is not four numbers."""
    if value is None or value == []:
        return None
    if not isinstance(value, list) or len(value) != 4 or not all(map(_is_number, value)):
        raise ValueError("has a bbox that is not four numbers")
    x, y, width, height = value
    return (x, y, x + width, y + height)


def _keypoints(value: Any) -> list[float] | None:
    if value is None or value == []:
        return None
    if not isinstance(value, list) or len(value) % 3 or not all(map(_is_number, value)):
        raise ValueError("has keypoints that are not triples of numbers")
    return value


def _list(content: dict, key: str, path: Path) -> list[Any]:
    value = content.get(key)
    if value is None:
        return []
    if not isinstance(value, list):
        raise InputError(f'{path}: "{key}" is not a list.')
    return value


def _id_of(entry: Any) -> str:
    return f"(id {entry['id']}) " if isinstance(entry, dict) and "id" in entry else ""


def _category_entry(category: Category, category_id: int) -> dict[str, Any]:
    entry = {"id": category_id, "name": category.name, "supercategory": category.supercategory}
    if category.keypoints:
        entry["keypoints"] = category.keypoints
        entry["skeleton"] = category.skeleton
    return entry | category.extra


def encode_json(value: Any, where: str) -> bytes:
    """`value` as compact JSON in UTF-8. InputError that names `where` for what JSON cannot hold."""
    try:
        encoded = json_encoder().encode(value)
        if b"null" not in encoded:
            return encoded
        # NaN and infinity have become null: the slow way tells them from None, and refuses them.
    except UnicodeEncodeError:
        pass
    except (TypeError, OverflowError):  # as numbers of NumPy, which the slow way takes
        pass
    if hasattr(value, "__struct_fields__"):
        value = _plain(value)
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InputError(
            f"{where!r}: a name holds bytes that are no text. Rename the file or category."
        ) from error
    except ValueError as error:
        raise InputError(
            f"{where}: a number is NaN or infinite, which JSON cannot hold. Mend or remove this "
            "record."
        ) from error


def _plain(entry: msgspec.Struct) -> dict[str, Any]:
    from msgspec import UNSET, structs

    return {key: value for key, value in structs.asdict(entry).items() if value is not UNSET}


@functools.cache
def json_encoder() -> msgspec.json.Encoder:
    import msgspec

    return msgspec.json.Encoder()


class _Numbers(dict[str, int]):
    """Numbers of names, from 0, in the order in which they are first asked for."""

    def __missing__(self, name: str) -> int:
        number = self[name] = len(self)
        return number


def _blocks_in(file: IO[bytes]) -> Iterator[array[int]]:
    """The numbers that were written to a file, some at a time."""
    file.seek(0)
    while block := file.read(4096):
        yield array("I", block)


def _rewound(file: IO[bytes]) -> IO[bytes]:
    file.seek(0)
    return file


def _write_list(out: IO[bytes], key: bytes, entries: Iterable[bytes]) -> None:
    out.write(b'"%b": [' % key)
    entries = iter(entries)
    separator = b"\n"
    while block := list(islice(entries, 256)):
        out.write(separator + b",\n".join(block))
        separator = b",\n"
    out.write(b"\n]")
