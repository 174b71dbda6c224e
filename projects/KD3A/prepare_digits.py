#!/usr/bin/env python
"""Put the four domains of digits into a folder, 32×32: prepare_digits.py --from FOLDER [-o FOLDER].

The first FOLDER holds mnist.npz, usps.npz and mnist_m.npz, each with `images` (N, H, W[, 3]) uint8
and `labels` (N,). optdigits (8×8, 1,797 images) comes with scikit-learn: UCI ML repository,
E. Alpaydin and C. Kaynak, CC BY 4.0.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from dataset_tools.errors import InputError, run
from dataset_tools.files import atomic_path

SIZE = 32  # px
DOMAINS = ("mnist", "usps", "mnist_m")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--from", dest="source", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("-o", "--output", type=Path, default=Path("datasets/digits"))
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    for name in DOMAINS:
        source = args.source / f"{name}.npz"
        if not source.is_file():
            raise InputError(f"There is no file {source}: an npz with `images` and `labels`.")
        with np.load(source) as data:
            save(args.output / f"{name}.npz", data["images"], data["labels"])
    save(args.output / "optdigits.npz", *optdigits())
    return 0


def optdigits() -> tuple[np.ndarray, np.ndarray]:
    """(1797, 8, 8) uint8, white on black, scaled from 0–16 to 0–255; (1797,) labels."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    return np.round(digits.images * (255 / 16)).astype(np.uint8), digits.target


def save(path: Path, images: np.ndarray, labels: np.ndarray) -> None:
    images = np.stack([scaled(image) for image in images])
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, images=images, labels=labels.astype(np.int64))
    print(f"{path}: {len(images)} images {'×'.join(map(str, images.shape[1:]))}")


def scaled(image: np.ndarray) -> np.ndarray:
    """(H, W[, 3]) uint8 → (32, 32[, 3]), bilinear: once here rather than in every epoch."""
    return np.asarray(Image.fromarray(image).resize((SIZE, SIZE), Image.Resampling.BILINEAR))


if __name__ == "__main__":
    sys.exit(run(main))
