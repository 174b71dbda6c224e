"""Reading images: any depth, any orientation, in the channel order of INPUT.FORMAT."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from detectron2.data.detection_utils import convert_PIL_to_numpy
from PIL import Image, ImageOps, UnidentifiedImageError

from dataset_tools.errors import InputError
from seriatim.visualization.image import to_rgb8


def read_image(path: str | Path, image_format: str) -> np.ndarray:
    """The image file as (H, W, C) uint8 in `image_format`: "BGR", "RGB", "L" or another of
    Detectron2's.

    EXIF orientation is applied. Images deeper than 8 bits are stretched from their 0.5th to their
    99.5th percentile, as the pictures that `visualize.py` draws, because cameras rarely use all 16
    bits.

    Raises:
        InputError: there is no such file, or it is not a whole image.
    """
    try:
        with Image.open(path) as image:
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
    """The most recently used images, decoded, up to a number of bytes. Each process has its own."""

    def __init__(self, mebibytes: float) -> None:
        self._room = int(mebibytes * 2**20)
        self._images: OrderedDict[tuple[str, str], np.ndarray] = OrderedDict()

    def read(self, path: str | Path, image_format: str) -> np.ndarray:
        """As `read_image`; what the cache keeps is read-only."""
        key = (str(path), image_format)
        if key in self._images:
            self._images.move_to_end(key)
            return self._images[key]
        image = read_image(path, image_format)
        image.flags.writeable = False
        self._images[key] = image
        self._room -= image.nbytes
        while self._room < 0:
            self._room += self._images.popitem(last=False)[1].nbytes
        return image
