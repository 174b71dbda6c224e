"""A picture of the images that changed most between two versions of a dataset."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from dataset_tools.diff import Change, Difference
from dataset_tools.errors import InputError
from dataset_tools.files import atomic_path

COLUMNS, MOST, SIDE, CAPTION = 4, 16, 420, 40
# The old state is thin, the new one is thick.
COLOURS = {
    "added": (90, 200, 255),
    "removed": (240, 40, 130),
    "moved": (255, 176, 0),
    "relabelled": (250, 245, 110),
    "edited": (150, 220, 50),
}


def draw_sheet(
    found: Difference, sizes: Mapping[str, tuple[int, int]], root: Path | None, path: Path
) -> None:
    """Draw the changed boxes of up to 16 images, most changes first, into a PNG at `path`.

    Args:
        found: the changes.
        sizes: width and height of each image.
        root: the images' folder; an image that is not there is a grey field.
        path: of the picture.
    """
    from PIL import Image, ImageDraw, ImageFont

    if path.suffix.lower() != ".png":
        raise InputError(f"{path}: the sheet is a .png file.")
    changed: dict[str, list[tuple[str, Change]]] = defaultdict(list)
    for kind, changes in found.changes():
        for change in changes:
            changed[change.image].append((kind, change))
    names = sorted(changed, key=lambda name: (-len(changed[name]), name))[:MOST]
    rows = max(1, -(-len(names) // COLUMNS))
    sheet = Image.new("RGB", (COLUMNS * SIDE, rows * (SIDE + CAPTION) + CAPTION), (24, 26, 31))
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(16)
    x = 10
    for kind, colour in COLOURS.items():
        draw.text((x, 10), kind, colour, font)
        x += round(draw.textlength(kind, font)) + 24
    if not names:
        draw.text((10, CAPTION), "no annotation changed", (236, 236, 236), font)
    for number, name in enumerate(names):
        left, top = number % COLUMNS * SIDE, CAPTION + number // COLUMNS * (SIDE + CAPTION)
        sheet.paste(_cell(changed[name], root and root / name, sizes[name]), (left, top))
        told = f"{name[-36:]}  {len(changed[name])} changes"
        draw.text((left + 6, top + SIDE + 6), told, (236, 236, 236), font)
    with atomic_path(path) as temporary:
        sheet.save(temporary)


def _cell(changes: list[tuple[str, Change]], path: Path | None, size: tuple[int, int]):
    """The image with its changed boxes, as large as fits into a square."""
    from PIL import Image, ImageDraw, ImageFont, ImageOps

    scale = (SIDE - 12) / max(size)
    shown = (max(1, round(size[0] * scale)), max(1, round(size[1] * scale)))
    picture = Image.new("RGB", shown, (90, 92, 98))
    if path is not None and path.is_file():
        try:
            with Image.open(path) as file:
                picture = ImageOps.exif_transpose(file).convert("RGB").resize(shown)
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise InputError(f"{path} cannot be read: {error}. Run check.") from error
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(13)
    for kind, change in changes:
        for box, width in ((change.old_box, 1), (change.new_box, 3)):
            if box is None or not (box[2] > box[0] and box[3] > box[1]):
                continue
            corners = [value * scale for value in box]
            draw.rectangle(corners, outline=COLOURS[kind], width=2 if kind == "removed" else width)
        box = change.new_box or change.old_box
        if kind == "relabelled" and box is not None:
            told = f"{change.old_category} > {change.new_category}"  # the font has no arrow
            draw.text((box[0] * scale + 4, box[1] * scale + 3), told, COLOURS[kind], font)
    cell = Image.new("RGB", (SIDE, SIDE), (24, 26, 31))
    cell.paste(picture, ((SIDE - shown[0]) // 2, (SIDE - shown[1]) // 2))
    return cell
