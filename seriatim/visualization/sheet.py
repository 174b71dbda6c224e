"""Pictures with captions, and contact sheets of many pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from dataset_tools.files import atomic_path
from seriatim.visualization.palette import RGB
from seriatim.visualization.text import put_text, shorten, text_mask

_GROUND: RGB = (24, 26, 31)
_INK: RGB = (236, 236, 236)

# A legend is words, each with the colour of the swatch before it, or None for no swatch.
Legend = Sequence[tuple[str, RGB | None]]


@dataclass(slots=True)
class Picture:
    """One picture of a sheet, drawn only when it is needed and at the size that is needed."""

    height: int  # px at scale 1
    width: int
    draw: Callable[[float], np.ndarray]  # scale -> uint8 RGB, about (height·scale, width·scale, 3)
    title: str
    legend: Legend = field(default_factory=list)

    def captioned(self, scale: float) -> np.ndarray:
        """The picture at `scale` over its caption."""
        return captioned(self.draw(scale), self.title, self.legend)


def captioned(image: np.ndarray, title: str, legend: Legend = ()) -> np.ndarray:
    """`image` (H, W, 3) uint8 over a bar with its title and legend, in as many lines as needed."""
    size = int(np.clip(round(image.shape[1] / 60), 11, 30))
    return np.concatenate([image, caption_bar(image.shape[1], title, legend, size)])


def caption_bar(width: int, title: str, legend: Legend, size: int) -> np.ndarray:
    """(h, `width`, 3) uint8: the title, then the legend with its swatches; text of `size` px."""
    line, gap = text_mask("", size).shape[0] + 2, size // 2 + 2
    room = max(1, width - 2 * gap)
    placed: list[tuple[int, int, str, RGB | None, bool]] = []
    x = y = 0
    words = [(title, None, True)] if title else []
    for word, swatch, bold in (*words, *((word, swatch, False) for word, swatch in legend)):
        indent = 0 if swatch is None else size + 3
        word = shorten(word, size, room - indent, bold)
        length = indent + text_mask(word, size, bold).shape[1]
        if x and x + length > room:
            x, y = 0, y + line
        placed.append((x, y, word, swatch, bold))
        x += length + size
    bar = np.full((y + line + gap, width, 3), _GROUND, np.uint8)
    for x, y, word, swatch, bold in placed:
        left, top = gap + x, gap // 2 + y
        if swatch is not None:
            edge = round(0.72 * size)
            upper = top + (line - edge) // 2
            bar[upper : upper + edge, left : left + edge] = swatch
            left += size + 3
        put_text(bar, word, left, top, size, _INK, bold)
    return bar


class ContactSheet:
    """Rows of pictures that fill the page's width, on as many pages as needed.

    Pictures are added one by one; a row is drawn as soon as it is full, so that memory holds one
    page.
    """

    def __init__(
        self, path: str | Path, *, width: int = 1800, row_height: int = 340, page_height: int = 2600
    ):
        """
        Args:
            path: of the first page (.jpg or .png); further pages are named stem-2, stem-3 …
            width, page_height: of a page in px. row_height: about that of its pictures.
        """
        self._path = Path(path)
        self._width, self._row_height, self._page_height = width, row_height, page_height
        self._gap = 12
        self._row: list[Picture] = []
        self._rows: list[np.ndarray] = []
        self._largest = 1.6 * row_height  # px, of a row that is not full
        self.written: list[Path] = []

    def add(self, picture: Picture) -> None:
        self._row.append(picture)
        if self._height_of_row() <= self._row_height:
            self._draw_row()

    def close(self) -> list[Path]:
        """Write what is left; returns the paths of all pages."""
        if self._row:
            self._draw_row()
        if self._rows:
            self._write_page()
        return self.written

    def _height_of_row(self) -> float:
        """The height (px, captions apart) at which the row is as wide as the page."""
        room = self._width - (len(self._row) + 1) * self._gap
        return room / sum(picture.width / picture.height for picture in self._row)

    def _draw_row(self) -> None:
        # The last row may have few pictures, which need not fill the page.
        height = min(self._height_of_row(), self._largest)
        self._largest = height
        cells = [picture.captioned(height / picture.height) for picture in self._row]
        row = np.full(
            (max(c.shape[0] for c in cells) + self._gap, self._width, 3), _GROUND, np.uint8
        )
        x = self._gap
        for cell in cells:
            view = row[: cell.shape[0], x : x + cell.shape[1]]
            view[:] = cell[:, : view.shape[1]]
            x += cell.shape[1] + self._gap
        self._row = []
        if self._rows and sum(r.shape[0] for r in self._rows) + row.shape[0] > self._page_height:
            self._write_page()
        self._rows.append(row)

    def _write_page(self) -> None:
        number = len(self.written) + 1
        path = self._path if number == 1 else self._path.with_stem(f"{self._path.stem}-{number}")
        top = np.full((self._gap, self._width, 3), _GROUND, np.uint8)
        self.written.append(write_image(path, np.concatenate([top, *self._rows])))
        self._rows = []


def write_image(path: str | Path, image: np.ndarray) -> Path:
    """Write uint8 RGB (H, W, 3) to `path` (.jpg, .png, …), whole or not at all; its path."""
    from PIL import Image

    path = Path(path)
    options = {"quality": 92, "subsampling": 0} if path.suffix.lower() in (".jpg", ".jpeg") else {}
    with atomic_path(path) as temporary:
        Image.fromarray(image).save(temporary, **options)
    return path
