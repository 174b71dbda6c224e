"""Reading images: any depth, any orientation, in the channel order of INPUT.FORMAT."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import cv2
import numpy as np
from detectron2.config import CfgNode
from detectron2.data.detection_utils import convert_PIL_to_numpy
from PIL import Image, ImageOps, UnidentifiedImageError

from dataset_tools.errors import InputError
from dataset_tools.files import atomic_path
from seriatim.visualization.image import to_rgb8

REDUCTIONS = (8, 4, 2)  # that JPEG allows at little cost


class ReducedImage(np.ndarray):
    """Pixels of an image that was decoded smaller than it is.

    Attributes:
        full_size: (height, width) px of the whole image.
    """

    full_size: tuple[int, int]


class Reduction(Protocol):
    """How much smaller an image may be decoded."""

    def reduction(self, height: int, width: int) -> int:
        """1 or one of `REDUCTIONS`, for an image of so many px."""


def full_size(image: np.ndarray) -> tuple[int, int]:
    """(height, width) px of the image in its file."""
    return getattr(image, "full_size", None) or image.shape[:2]


def read_image(
    path: str | Path, image_format: str, reduction: Reduction | None = None
) -> np.ndarray:
    """The image file as (H, W, C) uint8 in `image_format`: "BGR", "RGB", "L" or another of
    Detectron2's.

    EXIF orientation is applied. Images deeper than 8 bits are stretched from their 0.5th to their
    99.5th percentile, as the pictures that `visualize.py` draws, because cameras rarely use all 16
    bits.

    Args:
        reduction: JPEG files become a `ReducedImage` where it says so; default never.

    Raises:
        InputError: there is no such file, or it is not a whole image.
    """
    try:
        with Image.open(path) as image:
            if _is_plain_jpeg(image, image_format):
                pixels = _decode_jpeg(image, path, image_format, reduction)
                if pixels is not None:
                    return pixels
            deep = _deep_pixels(image, path)
            image = ImageOps.exif_transpose(image if deep is None else Image.fromarray(deep))
            if image_format == "BGR":
                return cv2.cvtColor(np.asarray(image.convert("RGB")), cv2.COLOR_RGB2BGR)
            return np.ascontiguousarray(convert_PIL_to_numpy(image, image_format))
    except FileNotFoundError:
        raise InputError(
            f"The image {path} does not exist. Check IMAGES of its dataset and file_name in the"
            " JSON."
        ) from None
    except (OSError, ValueError, SyntaxError, UnidentifiedImageError) as error:
        raise InputError(
            f"The image {path} cannot be read: {error}. Replace it or remove it from the dataset;"
            " `python -m dataset_tools check` names every such file."
        ) from None


def _is_plain_jpeg(image: Image.Image, image_format: str) -> bool:
    return image.format == "JPEG" and image.mode in ("RGB", "L") and image_format in ("RGB", "BGR")


def _decode_jpeg(
    image: Image.Image, path: str | Path, image_format: str, reduction: Reduction | None
) -> np.ndarray | None:
    """The same pixels as Pillow's in less than half the time; None for a file with a broken end,
    which OpenCV would fill up in silence."""
    content = Path(path).read_bytes()
    if not content.rstrip(b"\0").endswith(_END_OF_JPEG):
        return None
    orientation = image.getexif().get(_ORIENTATION, 1)
    width, height = image.size if orientation < 5 else image.size[::-1]
    smaller = 1 if reduction is None else reduction.reduction(height, width)
    flags = _READ_REDUCED[smaller] | cv2.IMREAD_IGNORE_ORIENTATION
    pixels = cv2.imdecode(np.frombuffer(content, np.uint8), flags)
    if pixels is None:
        return None
    if image_format == "RGB":
        cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB, dst=pixels)
    pixels = np.ascontiguousarray(_turned(pixels, orientation))
    if smaller > 1:
        pixels = pixels.view(ReducedImage)
        pixels.full_size = (height, width)
    return pixels


def _turned(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Pixels as they are stored → upright ones, by the number that EXIF gives the orientation."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return pixels[:, ::-1] if orientation in (2, 3, 6, 7) else pixels


_ORIENTATION = 0x0112
_END_OF_JPEG = b"\xff\xd9"
_READ_REDUCED = {
    1: cv2.IMREAD_COLOR,
    2: cv2.IMREAD_REDUCED_COLOR_2,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    8: cv2.IMREAD_REDUCED_COLOR_8,
}


def record_image(record: Mapping[str, Any], image_format: str) -> np.ndarray:
    """A record's image as it is stored, (H, W, C) uint8 in `image_format`: its `pixels`, which
    packed datasets have, or the file that it names."""
    if "pixels" in record:
        return np.ascontiguousarray(in_format(record["pixels"], image_format))
    return read_image(record["file_name"], image_format)


def in_format(pixels: np.ndarray, image_format: str) -> np.ndarray:
    """(H, W, 1) grey or (H, W, 3) RGB uint8 with the channels of "RGB", "BGR" or "L"."""
    grey = pixels.shape[2] == 1
    if image_format == "L":
        return pixels if grey else cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)[:, :, None]
    if grey:
        return cv2.cvtColor(pixels, cv2.COLOR_GRAY2RGB)
    return pixels[:, :, ::-1] if image_format == "BGR" else pixels


def read_labels(path: str | Path) -> np.ndarray:
    """A PNG of labels as it is stored: (H, W) or (H, W, 3) RGB, uint8.

    Raises:
        InputError: there is no such file, it is not a whole image, or it has more than 8 bits.
    """
    try:
        with Image.open(path) as image:
            labels = np.array(image)  # the indices of a palette image, not its colours
    except (OSError, ValueError, SyntaxError) as error:
        raise InputError(f"The label image {path} cannot be read: {error}.") from None
    if labels.dtype != np.uint8:
        raise InputError(
            f"The label image {path} is {labels.dtype}; labels are 8-bit (255 is ignored)."
        )
    return labels


def _deep_pixels(image: Image.Image, path: str | Path) -> np.ndarray | None:
    """The pixels of an image with more than 8 bits a channel, stretched to RGB; None for others."""
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return to_rgb8(np.asarray(image))
    # Pillow keeps only the high byte of 16-bit colour, which is all black for a 12-bit camera.
    if any(";16" in str(tile) for tile in getattr(image, "tile", ())):
        pixels = cv2.imread(str(path), cv2.IMREAD_ANYDEPTH | cv2.IMREAD_COLOR)
        if pixels is not None and pixels.dtype != np.uint8:
            return to_rgb8(pixels[:, :, ::-1])
    return None


class ImageCache:
    """Decoded images in files, which all processes share, in this run and in later ones.

    What is read often stays in the memory that is free. A file is named by its image's path, time
    of change and size, so that a changed image is decoded anew; it is there whole or not at all.
    What has no room is decoded each time.

    Args:
        mebibytes: that the files of the folder take together.
    """

    def __init__(self, folder: str | Path, mebibytes: float) -> None:
        self._folder = Path(folder).expanduser()
        self._limit = int(mebibytes * 2**20)
        self._used = self._since = 0

    def read(
        self, path: str | Path, image_format: str, reduction: Reduction | None = None
    ) -> np.ndarray:
        """As `read_image`. InputError also where the folder cannot be written."""
        try:
            file = self._folder / _cache_name(path, image_format, reduction)
        except OSError:
            return read_image(path, image_format, reduction)  # which says what is wrong
        try:
            with file.open("rb") as stored:
                return _load(stored)
        except (FileNotFoundError, NotADirectoryError):
            image = read_image(path, image_format, reduction)
        try:
            if self._has_room(image.nbytes):
                with atomic_path(file) as temporary, temporary.open("wb") as stored:
                    np.save(stored, np.array(full_size(image)))
                    np.save(stored, np.asarray(image))
        except OSError as error:
            raise InputError(
                f"Decoded images cannot be kept in {self._folder}: {error.strerror}. Set"
                " SERIATIM.DATA.CACHE_DIR to another folder, or SERIATIM.CACHE_MIB to less."
            ) from None
        return image

    def _has_room(self, nbytes: int) -> bool:
        """Whether so many bytes still fit; counts them. Other processes' are counted at times."""
        if self._since == 0:
            self._folder.mkdir(parents=True, exist_ok=True)
            sizes = (entry.stat().st_size for entry in os.scandir(self._folder))
            self._used = sum(sizes)
        self._since = (self._since + 1) % _WRITES_BETWEEN_COUNTS
        self._used += nbytes
        return self._used <= self._limit


_WRITES_BETWEEN_COUNTS = 16


def image_cache(cfg: CfgNode) -> ImageCache | None:
    """The cache that SERIATIM.CACHE_MIB asks for."""
    if cfg.SERIATIM.CACHE_MIB <= 0:
        return None
    return ImageCache(Path(cfg.SERIATIM.DATA.CACHE_DIR) / "decoded", cfg.SERIATIM.CACHE_MIB)


def _cache_name(path: str | Path, image_format: str, reduction: Reduction | None) -> str:
    state = os.stat(path)
    key = (os.path.abspath(path), state.st_mtime_ns, state.st_size, image_format, repr(reduction))
    return hashlib.sha256(repr(key).encode("utf-8", "surrogateescape")).hexdigest()[:32] + ".npy"


def _load(stored: BinaryIO) -> np.ndarray:
    whole = tuple(np.load(stored).tolist())
    pixels = np.load(stored)
    if pixels.shape[:2] != whole:
        pixels = pixels.view(ReducedImage)
        pixels.full_size = whole
    return pixels
