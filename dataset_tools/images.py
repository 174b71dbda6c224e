"""Image files: finding them, and their size from the header alone."""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING

from dataset_tools.errors import InputError
from dataset_tools.files import read_beginning
from dataset_tools.packed import KeyedStrings, PackedStrings

if TYPE_CHECKING:
    from PIL.Image import Image as PillowImage

SUFFIXES = frozenset(
    f".{suffix}"
    for suffix in "bmp gif jfif jpe jpeg jpg pgm png pnm ppm tif tiff webp".split()  # noqa: SIM905
)
MOST_PIXELS = 178_956_970  # that Pillow opens: twice those that it warns of
_MASK_FOLDERS = frozenset(
    ("masks", "class_masks", "bitmasks", "SegmentationClass", "SegmentationObject")
)
_EXIF_ORIENTATION = 274
_HEADER_BYTES = 4096  # hold all before the pixels of a JPEG file without EXIF
_SUFFIX_OF = {b"\xff\xd8\xff": ".jpg", b"\x89PNG": ".png", b"GIF8": ".gif", b"BM": ".bmp"}
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def check_pixels(width: int, height: int, place: str) -> None:
    """InputError if no image is of this size, which a label file says: empty, or larger than is
    opened."""
    if min(width, height) < 1 or width * height > MOST_PIXELS:
        raise InputError(f"{place}: no image has {width}×{height} px. Mend the size.")


def is_image_name(name: str) -> bool:
    """Whether a file of this name is an image, by its suffix."""
    _, dot, ending = name.rpartition(".")
    hidden = name.startswith(".", name.rfind("/") + 1)
    return not hidden and (dot + ending).lower() in SUFFIXES


def image_suffix(content: bytes) -> str:
    """The suffix of an image file, by its first bytes; "" if they are of no kind known here."""
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return ".webp"
    if content[:4] in (b"II*\0", b"MM\0*"):
        return ".tif"
    return next((suffix for magic, suffix in _SUFFIX_OF.items() if content.startswith(magic)), "")


def image_size(path: str | Path) -> tuple[int, int]:
    """Width and height in px as Detectron2 will see the image, without decoding its pixels.

    EXIF orientation is applied as Detectron2's `read_image` does. InputError if it is no image.
    """
    try:
        if plain := _plain_jpeg_size(read_beginning(os.fspath(path), _HEADER_BYTES)):
            return plain
    except (OSError, ValueError):
        pass  # which is told below
    if not os.path.isfile(path):  # a pipe would have us wait for ever
        raise InputError(f"{path}: this image file is missing.")
    try:
        with open(path, "rb") as file:
            return _size(file, str(path))
    except OSError as error:
        raise InputError(f"{path}: cannot be read as an image: {error}") from error


def is_mask_name(path: str) -> bool:
    """Whether an image file is a label and no image: one in a folder of masks."""
    return not _MASK_FOLDERS.isdisjoint(path.split("/")[:-1])


def content_size(content: bytes, place: str) -> tuple[int, int]:
    """As `image_size`, of an image file's `content`. `place` is for messages."""
    return _plain_jpeg_size(content[:_HEADER_BYTES]) or _size(io.BytesIO(content), place)


def _size(file: IO[bytes], place: str) -> tuple[int, int]:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(file) as image:
            width, height = image.size
            turned = _orientation(image, file) in (5, 6, 7, 8)
    except UnidentifiedImageError as error:
        raise InputError(f"{place}: not an image of a known kind, or damaged.") from error
    except Image.DecompressionBombError as error:
        raise InputError(f"{place}: too large to be opened: {error}") from error
    except (OSError, ValueError, SyntaxError) as error:
        raise InputError(f"{place}: cannot be read as an image: {error}") from error
    return (height, width) if turned else (width, height)


def read_picture(path: Path, size: tuple[int, int]) -> PillowImage:
    """The whole picture, upright as Detectron2 reads it. InputError if it is not there or not so
    large."""
    from PIL import Image as Pillow
    from PIL import ImageOps

    if not path.is_file():  # a pipe would have us wait for ever
        raise InputError(f"There is no image {path}. Run check.")
    # Large images are our trade.
    limit, Pillow.MAX_IMAGE_PIXELS = Pillow.MAX_IMAGE_PIXELS, None
    try:
        with Pillow.open(path) as image:
            if image.size in (size, size[::-1]):  # else it may be more than the memory holds
                image.load()
                picture = ImageOps.exif_transpose(image)
            else:
                picture = image
    except (OSError, SyntaxError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {error}. Run check.") from error
    finally:
        Pillow.MAX_IMAGE_PIXELS = limit
    if picture.size != size:
        real, recorded = "×".join(map(str, picture.size)), "×".join(map(str, size))
        raise InputError(f"{path} is {real}, but {recorded} is recorded. Run check --fix first.")
    return picture


def inside(root: str | Path, file_name: str) -> Path:
    """Path of a file of the image root. InputError if its name leads out of the root, or no file
    can be called so."""
    parts = file_name.replace("\\", "/").split("/")
    if not file_name or not parts[0] or ".." in parts or "\0" in file_name:
        raise InputError(f"{file_name!r} leads out of the folder of images. Mend the file name.")
    try:
        os.fsencode(file_name)
    except UnicodeEncodeError as error:
        raise InputError(f"No file can be called {file_name!r}. Mend the file name.") from error
    return Path(root) / file_name


def _plain_jpeg_size(head: bytes) -> tuple[int, int] | None:
    """Width and height by the beginning of a baseline or progressive JPEG file that has no EXIF
    nor XMP; None of all that is anything else, which is Pillow's to judge."""
    global _last_frame
    before, after = _last_frame
    if not (before and head.startswith(before) and head.startswith(after, len(before) + 4)):
        place = _plain_frame(head)
        if place is None:
            return None
        before, after = _last_frame = head[: place[0]], head[place[0] + 4 : place[1]]
    height, width = struct.unpack_from(">HH", head, len(before))
    # Pillow warns of huge images, and refuses the hugest.
    return (width, height) if 0 < width * height < 2**26 else None


# What is before and behind the size in the header that was read last: images made by one program
# often differ in nothing else.
_last_frame = (b"", b"")


def _plain_frame(head: bytes) -> tuple[int, int] | None:
    """Where the size stands in the header of a plain JPEG file, and where the header ends."""
    if not head.startswith(b"\xff\xd8"):
        return None
    frame, position = None, 2
    while position + 4 <= len(head) and head[position] == 0xFF:
        marker = head[position + 1]
        length = int.from_bytes(head[position + 2 : position + 4], "big")
        if marker == 0xDA:  # pixels begin
            return frame and (frame, position + 4)
        if marker in (0xC0, 0xC2) and length >= 8 and position + 10 <= len(head):
            bits, components = head[position + 4], head[position + 9]
            if bits != 8 or components not in (1, 3):
                return None
            frame = position + 5
        elif marker not in (0xC4, 0xDB, 0xDD, 0xE0, 0xFE) or length < 2:
            return None
        position += 2 + length
    return None


def _orientation(image: PillowImage, file: IO[bytes]) -> int:
    """The EXIF orientation, 1 to 8, as `image.getexif()` gives it."""
    from PIL import Image

    try:
        if image.format == "PNG" and not _has_late_metadata(file):
            # PngImageFile.getexif decodes all pixels first, in case that EXIF stands behind them.
            exif = Image.Image.getexif(image)
        else:
            exif = image.getexif()
    except Exception:  # whatever broken EXIF raises; Detectron2 goes on without it, and so do we
        return 1
    return exif.get(_EXIF_ORIENTATION, 1)


def _has_late_metadata(file: IO[bytes]) -> bool:
    """Whether a PNG has chunks of metadata behind its pixels; reads the chunks' headers only."""
    position = file.tell()
    try:
        file.seek(len(_PNG_SIGNATURE))
        pixels_seen = False
        while len(header := file.read(8)) == 8:
            name = header[4:]
            pixels_seen |= name == b"IDAT"
            if pixels_seen and name in (b"eXIf", b"tEXt", b"zTXt", b"iTXt"):
                return True
            file.seek(int.from_bytes(header[:4], "big") + 4, os.SEEK_CUR)
        return False
    finally:
        file.seek(position)


def is_file(entry: os.DirEntry[str]) -> bool:
    """Whether an entry of a folder is a regular file or a link to one; links in a ring are none."""
    try:
        return entry.is_file()
    except OSError:
        return False


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether an entry of a folder is a folder or a link to one; links in a ring are none."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def walk_files(folder: str | Path) -> Iterator[str]:
    """POSIX paths, relative to `folder`, of all regular files in it, sorted; hidden ones left out.

    Symbolic links to folders are followed, each real folder once, so that loops end.
    """
    seen: set[str] = set()
    waiting = [""]
    while waiting:
        prefix = waiting.pop()
        place = os.path.join(folder, prefix)
        real = os.path.realpath(place)
        if real in seen:
            continue
        seen.add(real)
        folders, files = [], []
        try:
            entries = os.scandir(place)
        except FileNotFoundError:
            if not prefix:
                raise
            continue  # gone since its parent was listed
        with entries:
            for entry in entries:
                if not entry.name.startswith("."):
                    if is_file(entry):
                        files.append(entry.name)
                    elif is_folder(entry):
                        folders.append(entry.name)
        yield from (prefix + name for name in sorted(files))
        waiting += [f"{prefix}{name}/" for name in sorted(folders, reverse=True)]


class ImageIndex:
    """The images under a root folder, found again by the names that label files give them.

    Names in label files may be full paths of another machine, of Windows, without the suffix, or in
    another case. Only files below the root are ever found.
    """

    def __init__(self, root: str | Path, files: Iterable[str] | None = None) -> None:
        """`files`: all that are below the root, for those who have them already."""
        self.root = Path(root)
        names = walk_files(root) if files is None else files
        self.paths: Sequence[str] = PackedStrings(filter(is_image_name, names))
        self.stems = KeyedStrings(self.paths, _stem_key)  # casefolded
        # Labels mostly are in the order of their images: then the next one needs no index.
        self._next, self._expected = 0, ""
        self._expect(0)

    def __contains__(self, path: str) -> bool:
        """Whether there is an image of just this path, relative to the root."""
        if path and path == self._expected:
            return True
        positions = self.stems.positions(_stem_key(path))
        return any(self.paths[position] == path for position in positions)

    def find(self, name: str, near: str = "") -> str | None:
        """Path relative to the root of the image called `name`; None if there is none.

        `near` is the label file's path relative to the root: of several images of that name the one
        that shares most of its folders is taken, then the one in its own folder, then the one that
        shares most of the tail of `name`. InputError if two fit equally.
        """
        name = name.strip().replace("\\", "/")
        if name and name == self._expected:
            self._expect(self._next + 1)
            return name
        candidates = self._with_name(_name_key(name))
        if len(candidates) == 1 and candidates[0].endswith(name):
            return candidates[0]
        wanted = PurePosixPath(name)
        if str(wanted) in candidates:
            return str(wanted)
        # A name without a suffix of images may hold dots: "img.2020.01" has no suffix to remove.
        stem = wanted.stem if is_image_name(wanted.name) else wanted.name
        candidates = (
            candidates
            or self._with_name(wanted.name.casefold())
            or [self.paths[position] for position in self.stems.positions(stem.casefold())]
        )
        if not candidates:
            return None
        if len(candidates) == 1:
            return candidates[0]

        def fit(path: str) -> tuple[int, bool, int, bool]:
            folders = PurePosixPath(path).parts[:-1]
            own = PurePosixPath(near).parts[:-1]
            return (
                _common(own, folders),
                bool(near) and own == folders,
                _common(wanted.parts[-2::-1], folders[::-1]),
                PurePosixPath(path).name == wanted.name,
            )

        best, second = sorted(candidates, key=fit, reverse=True)[:2]
        if fit(best) == fit(second):
            raise InputError(
                f"{near or self.root}: {name!r} may be {best} or {second} in {self.root}. "
                "Give its folder in the label, or convert the folders one by one."
            )
        return best

    def _expect(self, position: int) -> None:
        self._next = position
        self._expected = self.paths[position] if position < len(self.paths) else ""

    def _with_name(self, key: str) -> list[str]:
        positions = self.stems.positions(_stem_key(key))
        if positions:
            self._expect(positions[0] + 1)
        found = map(self.paths.__getitem__, positions)
        return [path for path in found if _name_key(path) == key]


def _name_key(path: str) -> str:
    return path.rpartition("/")[2].casefold()


def _stem_key(path: str) -> str:
    return os.path.splitext(path.rpartition("/")[2])[0].casefold()


def _common(first: tuple[str, ...], second: tuple[str, ...]) -> int:
    """Length of the common beginning of two sequences."""
    length = 0
    for one, other in zip(first, second, strict=False):
        if one != other:
            break
        length += 1
    return length
