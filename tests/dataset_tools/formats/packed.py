"""Small datasets that hold their pixels, as their formats' descriptions have them."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
from PIL import Image as Pillow

from tests.dataset_tools.makers import converted


def random_pixels(*shape: int, seed: int = 0) -> np.ndarray:
    """uint8 noise."""
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def read(name: str, source: Path, output: Path, **options):
    """The conversion, and {split: {file name: (pixels as the PNG has them, classes)}}."""
    conversion, splits = converted(name, source, output, **options)
    found = {}
    for split, images in splits.items():
        found[split] = {}
        for file_name, image in images.items():
            pixels = np.asarray(Pillow.open(output / "images" / file_name))
            assert image["size"] == (pixels.shape[1], pixels.shape[0])
            assert all(e[1] == [0, 0, *image["size"]] for e in image["objects"])
            found[split][file_name] = (pixels, [entry[0] for entry in image["objects"]])
    return conversion, found


def idx(values: np.ndarray, code: int) -> bytes:
    """An IDX file by its description: `code` is the type of numbers, which are big-endian."""
    head = bytes([0, 0, code, values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape)
    return head + values.astype(values.dtype.newbyteorder(">")).tobytes()


def write_idx(folder: Path, pixels: np.ndarray, labels, prefix: str = "train", packed=False):
    """A file of images and one of labels, called as MNIST's are."""
    folder.mkdir(parents=True, exist_ok=True)
    for kind, values in (("images-idx3", pixels), ("labels-idx1", np.array(labels, np.uint8))):
        content = idx(values, 8)
        name = f"{prefix}-{kind}-ubyte" + (".gz" if packed else "")
        (folder / name).write_bytes(gzip.compress(content) if packed else content)
    return folder
