"""CSV and its kin: one row per box.

Columns are found by their names in a header line, or given by `--columns`, or, without either,
taken as `image, x1, y1, x2, y2, label`, the order that RetinaNet's CSV files made common. A row
whose box is empty stands for an image without objects.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path, PurePosixPath

from dataset_tools.coco import Annotation, Box, Image
from dataset_tools.columns import BoxColumns
from dataset_tools.errors import InputError
from dataset_tools.formats.base import (
    SPLIT_NAMES,
    Evidence,
    Format,
    Glimpse,
    Option,
    Plan,
    read_text,
    root_of,
    split_of_folders,
)
from dataset_tools.images import ImageIndex, image_size, is_image_name
from dataset_tools.notes import Notes

# Our name of a column → names it goes by in headers (lower case, without spaces, dots, - and _).
# If several of them are there, the first in this order is meant.
COLUMNS: dict[str, tuple[str, ...]] = {
    name: tuple(synonyms.split())
    for name, synonyms in {
        "image": "imagepath filename filepath image imagename imagefile file path imageid",
        "label": "label class classname labelname category categoryname name species",
        "x1": "x1 xmin left minx bboxx1 bboxxmin x0",
        "y1": "y1 ymin top miny bboxy1 bboxymin y0",
        "x2": "x2 xmax right maxx bboxx2 bboxxmax",
        "y2": "y2 ymax bottom maxy bboxy2 bboxymax",
        "x": "x bboxx",
        "y": "y bboxy",
        "cx": "cx xcenter xcentre centerx centrex",
        "cy": "cy ycenter ycentre centery centrey",
        "w": "w bboxwidth bboxw boxwidth",
        "h": "h bboxheight bboxh boxheight",
        "bbox": "bbox box",
        "width": "width imagewidth imgwidth imgw",
        "height": "height imageheight imgheight imgh",
        "split": "split set subset usage",
    }.items()
}
# Form of a box → the columns it takes.
FORMS = {
    "xyxy": ("x1", "y1", "x2", "y2"),
    "xywh": ("x", "y", "w", "h"),
    "cxcywh": ("cx", "cy", "w", "h"),
}
WITHOUT_HEADER = ("image", "x1", "y1", "x2", "y2", "label")


@dataclass
class Item:
    """All rows of an image."""

    line: int  # of the first row
    image: str
    split: str | None
    size: tuple[int, int] | None
    file: Path
    form: str
    # Of each row with a box:
    lines: list[int] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    numbers: list[Box] = field(default_factory=list)
    attributes: list[dict[str, str]] = field(default_factory=list)


def plan(
    path: Path,
    notes: Notes,
    images: Path | None = None,
    columns: str | None = None,
    box: str = "auto",
    units: str = "auto",
    delimiter: str = "auto",
    decimal: str = "auto",
    encoding: str | None = None,
) -> Plan:
    """Plan to read a CSV file, or those in a folder, each a split if there are several."""
    files = {path: None} if path.is_file() else files_by_split(path, _evidence)
    tables = {
        file: _Table.of(file, read_text(file, encoding), columns, box, delimiter, decimal)
        for file in files
    }
    items = [item for file, table in tables.items() for item in table.items(files[file], notes)]
    unit = _units(items) if units == "auto" else units
    root = root_of(path, images)
    remarks = [
        f"{file.name if path.is_file() else file.relative_to(path)}: columns "
        f"{', '.join(table.names)}; boxes are {table.form} in {unit}"
        + ("" if table.has_header else " (no header line found)")
        for file, table in tables.items()
    ]
    return Plan(
        image_root=root,
        items=items,
        read=_Reader(path if path.is_dir() else path.parent, ImageIndex(root), _DIVISORS[unit]),
        remarks=remarks,
        parallel=False,  # the work is done: all rows are read
    )


def recognise(glimpse: Glimpse) -> Evidence | None:
    """A text file whose first line names columns of images and boxes, or has an image and
    numbers."""
    for name in glimpse.with_suffix(".csv", ".tsv")[:20]:
        if evidence := _evidence(name, glimpse.head(name)):
            return evidence
    return None


def _evidence(name: str, text: str) -> Evidence | None:
    """Whether a file that begins with `text` has boxes."""
    first = text.splitlines()[:1]
    cells = next(csv.reader(first, delimiter=delimiter_of(text)), []) if first else []
    names = column_names(cells) if is_header(cells) else []
    if "image" in names and ("bbox" in names or _form_of(names)):
        known = ", ".join(column for column in names if column in COLUMNS)
        # Open Images' files could be read as any CSV, but their own reader knows what they mean.
        certain = not {"LabelName", "IsGroupOf"} <= set(cells)
        return Evidence(f"{name} has a header line with {known}", certain)
    if len(cells) == len(WITHOUT_HEADER) and is_image_name(cells[0]):
        return Evidence(f"{name} has rows of an image, four numbers and a label", certain=False)
    return None


class _Table:
    """Rows of a file with named columns, turned into items."""

    def __init__(
        self, file: Path, lines: list[tuple[int, list[str]]], columns: str | None, decimal: str
    ) -> None:
        self.file = file
        self.decimal = decimal
        self._sizes: dict[tuple[str, str], tuple[int, int] | None] = {}  # by their texts
        first = lines[0][1]
        self.has_header = is_header(first)
        found = column_names(first) if self.has_header else list(WITHOUT_HEADER)
        self.names = _given(columns) if columns else found
        self._lines = lines[1:] if self.has_header else lines
        if "image" not in self.names:
            raise InputError(
                f"{self.file}: no column is called image or alike (found: "
                f"{', '.join(self.names)}). "
                "Name them by --columns image,x1,y1,x2,y2,label or alike; - for those to leave out."
            )

    @classmethod
    def of(
        cls, file: Path, text: str, columns: str | None, box: str, delimiter: str, decimal: str
    ) -> _Table:
        """The table in `text`, by the options of the format."""
        separator = delimiter_of(text, file) if delimiter == "auto" else _DELIMITERS[delimiter]
        lines = [
            (number, row)
            for number, row in csv_rows(text, separator, file)
            if any(cell.strip() for cell in row)
        ]
        if not lines:
            raise InputError(f"{file}: there is no row in it.")
        if decimal == "auto":
            decimal = "," if separator != "," else "."
        table = cls(file, lines, columns, decimal)
        table.form = table._form(box)
        return table

    def _form(self, wanted: str) -> str:
        """Form of the boxes, xyxy, xywh or cxcywh; the columns then have the names of `FORMS`."""
        if "bbox" in self.names:
            return "xywh" if wanted == "auto" else wanted
        form = _form_of(self.names) if wanted == "auto" else wanted
        renamed = _as_form(self.names, form) if form else self.names
        if form is None or not set(FORMS[form]) <= set(renamed):
            raise InputError(
                f"{self.file}: found no columns of a box among {', '.join(self.names)}. Name them "
                "by --columns; a box is x1,y1,x2,y2 or x,y,w,h or cx,cy,w,h, or one column bbox."
            )
        self.names = renamed
        return form

    def items(self, own_split: str | None, notes: Notes) -> list[Item]:
        """Rows by image, in the order in which the images first occur. `own_split`: the file's."""
        items: dict[tuple[str, str | None], Item] = {}
        width = len(self.names)
        places = {name: index for index, name in enumerate(self.names) if name != "-"}
        image_at, label_at, split_at = map(places.get, ("image", "label", "split"))
        box_at = [places[name] for name in (("bbox",) if "bbox" in places else FORMS[self.form])]
        own = {image_at, label_at, split_at, *box_at, places.get("width"), places.get("height")}
        others = [(name, index) for name, index in places.items() if index not in own]
        for number, cells in self._lines:
            if len(cells) != width:
                cells = self._filled_up(cells, number)
            cells = list(map(str.strip, cells))
            image = cells[image_at]
            if not image:
                notes.drop("row without an image", f"{self.file}:{number}")
                continue
            split = own_split
            if split_at is not None and (said := cells[split_at]):
                split = SPLIT_NAMES.get(said.lower(), said)
            size = self._size(cells, places, number)
            item = items.get((image, split))
            if item is None:
                item = items[image, split] = Item(number, image, split, size, self.file, self.form)
            box = self._box([cells[index] for index in box_at], number)
            label = "object" if label_at is None else cells[label_at]
            if box is not None and not label:
                notes.drop("box without a label", f"{self.file}:{number}")
            elif box is not None:
                item.lines.append(number)
                item.labels.append(label)
                item.numbers.append(box)
                extra = {name: cells[index] for name, index in others if cells[index]}
                item.attributes.append(extra)
        return list(items.values())

    def _filled_up(self, cells: list[str], number: int) -> list[str]:
        """A row with as many cells as there are columns. InputError if it has more."""
        width = len(self.names)
        if len(cells) > width and any(cells[width:]):
            raise InputError(
                f"{self.file}:{number}: {len(cells)} cells, but {width} columns "
                f"({', '.join(self.names)}). A text with the delimiter in it needs quotes."
            )
        return (cells + [""] * (width - len(cells)))[:width]

    def _size(
        self, cells: list[str], places: dict[str, int], number: int
    ) -> tuple[int, int] | None:
        if "width" not in places or "height" not in places:
            return None
        texts = (cells[places["width"]], cells[places["height"]])
        if texts not in self._sizes:
            sides = [int(self._number(side, number)) for side in texts] if all(texts) else None
            self._sizes[texts] = sides and (sides[0], sides[1])
        return self._sizes[texts]

    def _box(self, cells: list[str], number: int) -> Box | None:
        if len(cells) == 1:
            cells = [cell for cell in re.split(r"[\s,;\[\]()]+", cells[0]) if cell]
        if not any(cells):
            return None
        if len(cells) != 4:
            raise InputError(f"{self.file}:{number}: a box has four numbers, not {len(cells)}.")
        try:
            first, second, third, fourth = map(float, cells)
            if math.isfinite(first + second + third + fourth):
                return (first, second, third, fourth)
        except ValueError:
            pass
        return tuple(self._number(cell, number) for cell in cells)

    def _number(self, text: str, line: int) -> float:
        try:
            value = float(text.replace(",", ".") if self.decimal == "," else text)
            if math.isfinite(value):
                return value
        except ValueError:
            pass
        raise InputError(
            f"{self.file}:{line}: {text!r} is not a number. Mend the row, or check --delimiter, "
            "--decimal and --columns."
        )


@dataclass
class _Reader:
    base: Path
    index: ImageIndex
    divisor: float | None

    def __call__(self, item: Item, notes: Notes) -> Iterator[Image]:
        place = f"{item.file}:{item.line}"
        near = _relative(item.file, self.base)
        found = self.index.find(item.image, near=near)
        if found is None:
            notes.suspect("image file that is missing (kept)", f"{place}: {item.image}")
        name = found or re.split(r"[\\/]", item.image)[-1]
        size = item.size
        if size is None:
            if found is None:
                raise InputError(
                    f"{place}: the image {item.image} is not in {self.index.root}, and there is no "
                    "width and height in the file. Give the images' folder by --images."
                )
            size = image_size(self.index.root / found)
        yield Image(
            name,
            *size,
            annotations=self._boxes(item, size),
            split=item.split,
            source=place,
        )

    def _boxes(self, item: Item, size: tuple[int, int]) -> BoxColumns | list[Annotation]:
        if not item.lines:
            return []
        boxes = item.numbers
        if item.form != "xyxy" or self.divisor is not None:
            boxes = [self._box(numbers, item.form, size) for numbers in boxes]
        sides = zip(*boxes, strict=True)
        said = item.attributes if any(item.attributes) else ()
        return BoxColumns(item.labels, *sides, str(item.file), item.lines, said)

    def _box(self, numbers: Box, form: str, size: tuple[int, int]) -> Box:
        first, second, third, fourth = numbers
        if form == "xywh":
            third, fourth = first + third, second + fourth
        elif form == "cxcywh":
            first, second, third, fourth = (
                first - third / 2,
                second - fourth / 2,
                first + third / 2,
                second + fourth / 2,
            )
        if self.divisor is None:
            return (first, second, third, fourth)
        width, height = size[0] / self.divisor, size[1] / self.divisor
        return (first * width, second * height, third * width, fourth * height)


@lru_cache(maxsize=100)
def _relative(file: Path, base: Path) -> str:
    return file.relative_to(base).as_posix()


_DELIMITERS = {"comma": ",", "semicolon": ";", "tab": "\t", "pipe": "|", "space": " "}
_DIVISORS: dict[str, float | None] = {"pixels": None, "fractions": 1, "percent": 100}


def files_by_split(
    folder: Path, evidence: Callable[[str, str], Evidence | None]
) -> dict[Path, str | None]:
    """The only fitting file in a folder, or several with the split of each, by folder or name.

    `evidence` says from a file's name and beginning whether it is of the format.
    """
    glimpse = Glimpse(folder)
    names = glimpse.with_suffix(".csv", ".tsv")
    if len(names) > 1:
        names = [name for name in names if evidence(name, glimpse.head(name))] or names
    splits = {
        name: split_of_folders(name) or SPLIT_NAMES.get(PurePosixPath(name).stem.lower())
        for name in names
    }
    if len(names) > 1 and (None in splits.values() or len(set(splits.values())) < len(names)):
        raise InputError(
            f"{folder}: there are {len(names)}: {', '.join(names[:5])}. Their folders and names "
            "do not tell which is of which split. Give the path of one."
        )
    if not names:
        raise InputError(f"{folder}: wanted is a CSV file, but there is none. Give its path.")
    return {folder / name: split for name, split in splits.items()}


def delimiter_of(text: str, file: Path | None = None) -> str:
    """The delimiter that cuts the first lines into the same number of cells, the most if several
    do."""
    lines = [line for line in text.splitlines()[:50] if line.strip()]
    if len(text) > Glimpse.HEAD_BYTES // 2:
        lines = lines[:-1]  # may be cut off
    best, most = ",", 1
    for delimiter in (",", ";", "\t", "|"):
        counts = {len(row) for row in csv.reader(lines, delimiter=delimiter)}
        # Decimal commas cut some rows into more cells than others; a true delimiter does not.
        if len(counts) == 1 and (count := counts.pop()) > most:
            best, most = delimiter, count
    return best


def csv_rows(text: str, delimiter: str, file: Path) -> Iterator[tuple[int, list[str]]]:
    """Rows with the number of the line they end on."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True)
    try:
        for row in reader:
            yield reader.line_num, row
    except csv.Error as error:
        raise InputError(f"{file}:{reader.line_num}: broken CSV: {error}.") from error


def is_header(cells: list[str]) -> bool:
    """Whether a first row has names of columns: neither a number nor the name of an image file."""
    filled = [cell.strip() for cell in cells if cell.strip()]
    return len(filled) > 1 and not any(_is_number(cell) or is_image_name(cell) for cell in filled)


def _is_number(text: str) -> bool:
    try:
        float(text.replace(",", "."))
    except ValueError:
        return False
    return True


def column_names(header: list[str]) -> list[str]:
    """Our names for the columns of a header line; the own name of those that we do not know."""
    plain = [re.sub(r"[\s._\-]", "", cell.lower()) for cell in header]
    names = [cell.strip() for cell in header]
    for name, synonyms in COLUMNS.items():
        synonym = next((synonym for synonym in synonyms if synonym in plain), None)
        if synonym is not None:
            names[plain.index(synonym)] = name
    return names


def _given(columns: str) -> list[str]:
    names = [name.strip() for name in columns.split(",")]
    twice = {name for name in names if name != "-" and names.count(name) > 1}
    if twice:
        raise InputError(f"--columns {columns}: {min(twice)} is there twice.")
    return names


def _form_of(names: list[str]) -> str | None:
    """The form whose columns are all there, if need be under another name."""
    return next(
        (form for form, columns in FORMS.items() if set(columns) <= set(_as_form(names, form))),
        None,
    )


def _as_form(names: list[str], form: str) -> list[str]:
    """`names` with the columns of a box called as in `FORMS`, where they go by other names."""
    if form == "xyxy":
        return names
    across, down, *_ = FORMS[form]
    other = {"x1": across, "y1": down, "x": across, "y": down}
    # An image's width and height, or a box's? The latter if the box has no other size.
    size = ("x2", "y2") if {"x2", "y2"} <= set(names) else ("width", "height")
    if not {"w", "h"} <= set(names):
        other |= {size[0]: "w", size[1]: "h"}
    return [other.get(name, name) if other.get(name) not in names else name for name in names]


def _units(items: list[Item]) -> str:
    """Fractions if no number is above 1 and there is one at all, else pixels."""
    numbers = [number for item in items for box in item.numbers for number in box]
    return "fractions" if numbers and max(numbers) <= 1 else "pixels"


FORMAT = Format(
    name="csv",
    title="CSV, one box a row",
    layout="a .csv or .tsv file, or a folder with one, or one in each of train/, valid/, "
    "test/; images beside it or in --images",
    carries=("boxes", "attributes", "splits"),
    loses="",
    recognise=recognise,
    plan=plan,
    conventions="Columns by their header, by --columns, or image,x1,y1,x2,y2,label. Boxes are "
    "corners from 0 "
    "in pixels, unless --box and --units say otherwise or the columns' names do; numbers that are "
    "all at "
    "most 1 are fractions of the image. Further columns become attributes. A row without a box is "
    "an image "
    "without objects.",
    options=(
        Option(
            "--columns",
            "names in order: image,x1,y1,x2,y2,label,…; - to leave out",
            metavar="NAMES",
        ),
        Option("--box", "form of boxes", default="auto", choices=("auto", *FORMS)),
        Option("--units", "units of boxes", default="auto", choices=("auto", *_DIVISORS)),
        Option("--delimiter", "between cells", default="auto", choices=("auto", *_DELIMITERS)),
        Option(
            "--decimal",
            "decimal sign (auto: both, unless the delimiter is ,)",
            default="auto",
            choices=("auto", ".", ","),
        ),
        Option("--encoding", "of the text (default: UTF-8, or by byte order mark)", metavar="NAME"),
    ),
)
