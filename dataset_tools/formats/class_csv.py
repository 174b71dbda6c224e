"""CSV and its kin with a row for each image: its class, or a column with 0 or 1 for each class.

`image,label` is what Kaggle's competitions and most scripts write; one column for each class is
that of labels of which an image may have several (Roboflow's `_classes.csv`). Files of boxes are of
the format csv.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from dataset_tools.coco import Image, whole_image
from dataset_tools.errors import InputError
from dataset_tools.formats.base import (
    SPLIT_NAMES,
    Evidence,
    Format,
    Glimpse,
    Option,
    Plan,
    declared_categories,
    read_text,
    root_of,
    sorted_categories,
)
from dataset_tools.formats.csv_ import (
    FORMS,
    column_names,
    csv_rows,
    delimiter_of,
    files_by_split,
    is_header,
)
from dataset_tools.images import ImageIndex, image_size, is_image_name
from dataset_tools.labels import class_name, read_names
from dataset_tools.notes import Notes

_FLAGS = {"0": False, "1": True, "0.0": False, "1.0": True, "": False}
_BOXES = {"bbox", *(name for form in FORMS.values() for name in form)}


@dataclass(frozen=True)
class Item:
    """A row: an image with its classes."""

    image: str
    labels: tuple[str, ...]
    split: str | None
    attributes: tuple[tuple[str, str], ...]
    place: str


def plan(
    path: Path,
    notes: Notes,
    images: Path | None = None,
    names: str | None = None,
    label_separator: str | None = None,
    encoding: str | None = None,
) -> Plan:
    """Plan to read a file of rows, or those in a folder, each a split if there are several."""
    files = {path: None} if path.is_file() else files_by_split(path, _evidence)
    given = read_names(names) if names else None
    items: list[Item] = []
    remarks: list[str] = []
    declared = list(given or [])
    for file, split in files.items():
        table = _Table(file, read_text(file, encoding))
        items += table.items(split, given, label_separator, notes)
        declared += [name for name in table.classes if name not in declared]
        what = f"one for each of {len(table.classes)} classes" if table.classes else "label"
        remarks.append(f"{file.name}: columns {table.header[table.image]!r} and {what}")
    root = root_of(path, images)
    base = path if path.is_dir() else path.parent
    return Plan(
        image_root=root,
        items=items,
        read=_Reader(base, ImageIndex(root)),
        categories=declared_categories(declared, path.name) if declared else sorted_categories,
        remarks=remarks,
    )


def recognise(glimpse: Glimpse) -> Evidence | None:
    """A header line with a column of images, and none of boxes but one of labels, or of 0 and 1."""
    for name in glimpse.with_suffix(".csv", ".tsv")[:20]:
        if evidence := _evidence(name, glimpse.head(name)):
            return evidence
    return None


def _evidence(name: str, text: str) -> Evidence | None:
    if name.rpartition("/")[2].startswith("metadata."):
        return None  # Hugging Face's
    try:
        table = _Table(Path(name), "\n".join(text.splitlines()[:50]), strict=False)
    except InputError:
        return None
    first = table.rows[0][1][table.image].strip() if table.rows else ""
    what = f"{len(table.classes)} columns of 0 and 1" if table.classes else "a column of labels"
    certain = table.has_header and is_image_name(first)
    return Evidence(f"{name} has a column of images and {what}, and no boxes", certain)


class _Table:
    """The rows of a file, with the columns that matter."""

    def __init__(self, file: Path, text: str, strict: bool = True) -> None:
        self.file = file
        rows = list(csv_rows(text, delimiter_of(text, file), file))
        self.rows = [(line, cells) for line, cells in rows if any(cell.strip() for cell in cells)]
        if not self.rows:
            raise InputError(f"{file}: there is no row in it.")
        first = [cell.strip() for cell in self.rows[0][1]]
        self.has_header = is_header(first)
        if self.has_header:
            self.header, known = first, column_names(first)
            self.rows = self.rows[1:]
        elif len(first) == 2 and is_image_name(first[0]):
            self.header = known = ["image", "label"]
        else:
            raise InputError(f"{file}: there is no header line that names columns.")
        if "image" not in known and "id" in known:
            known[known.index("id")] = "image"
        if "image" not in known or len(_BOXES & set(known)) >= (4 if strict else 1):
            raise InputError(
                f"{file}: among its columns {', '.join(self.header)} there is none called image or "
                "alike, or there are those of a box, which the format csv reads."
            )
        self.image = known.index("image")
        self.label = known.index("label") if "label" in known else None
        self.split = known.index("split") if "split" in known else None
        others = [i for i in range(len(known)) if i not in (self.image, self.split)]
        flags = [i for i in others if self._is_flag(i)] if self.label is None else []
        self.flags = {index: self.header[index] for index in flags}
        self.classes = list(self.flags.values())
        if self.label is None and len(flags) < 2:
            raise InputError(
                f"{file}: found neither a column called label or alike, nor several of 0 and 1 "
                f"alone among {', '.join(self.header)}."
            )

    def items(
        self,
        own_split: str | None,
        names: Sequence[str] | None,
        separator: str | None,
        notes: Notes,
    ) -> Iterator[Item]:
        """The rows with an image."""
        for line, cells in self.rows:
            place = f"{self.file}:{line}"
            if len(cells) != len(self.header):
                raise InputError(
                    f"{place}: {len(cells)} cells, but {len(self.header)} columns. A text with the "
                    "delimiter in it needs quotes."
                )
            cells = [cell.strip() for cell in cells]
            if not cells[self.image]:
                notes.drop("row without an image", place)
                continue
            split = cells[self.split] if self.split is not None else ""
            used = {self.image, self.label, self.split, *self.flags}
            yield Item(
                cells[self.image],
                tuple(self._labels(cells, names, separator, place)),
                SPLIT_NAMES.get(split.lower(), split) or own_split,
                tuple(
                    (self.header[i], cell) for i, cell in enumerate(cells) if cell and i not in used
                ),
                place,
            )

    def _labels(
        self, cells: list[str], names: Sequence[str] | None, separator: str | None, place: str
    ) -> Iterator[str]:
        if self.label is None:
            yield from (name for index, name in self.flags.items() if _FLAGS[cells[index]])
            return
        text = cells[self.label]
        for label in text.split(separator) if separator else [text]:
            label = label.strip()
            if names is not None and label.isdecimal() and label not in names:
                label = class_name(int(label), names, place)
            if label:
                yield label

    def _is_flag(self, column: int) -> bool:
        values = {cells[column].strip() if column < len(cells) else "" for _, cells in self.rows}
        return values <= _FLAGS.keys() and values != {""}


@dataclass
class _Reader:
    base: Path
    index: ImageIndex

    def __call__(self, item: Item, notes: Notes) -> Iterator[Image]:
        near = Path(item.place).relative_to(self.base).as_posix()
        found = self.index.find(item.image, near=near)
        if found is None:
            raise InputError(
                f"{item.place}: the image {item.image} is not in {self.index.root}. Give the "
                "folder of images by --images, or leave such rows out by --on-error skip."
            )
        width, height = image_size(self.index.root / found)
        if not item.labels:
            notes.suspect("image without a class (kept)", item.place)
        yield Image(
            found,
            width,
            height,
            [whole_image(label, width, height, item.place) for label in item.labels],
            split=item.split,
            attributes=dict(item.attributes),
            source=item.place,
        )


FORMAT = Format(
    name="class-csv",
    title="CSV, one image a row with its class or classes",
    layout="a .csv or .tsv file, or the folder of one or of one for each split; images beside it "
    "or in --images",
    carries=("labels", "attributes", "splits"),
    loses="",
    recognise=recognise,
    plan=plan,
    conventions="A column image (or filename, path, id, …) and a column label (or class, category, "
    "…), or one of 0 and 1 for each class. Images are found without their suffix, too. Further "
    "columns become attributes; a column split is the split.",
    options=(
        Option("--names", "class names for labels that are numbers, one a line", metavar="FILE"),
        Option("--label-separator", "between several labels in a cell", metavar="TEXT"),
        Option("--encoding", "of the text (default: UTF-8, or by byte order mark)", metavar="NAME"),
    ),
)
