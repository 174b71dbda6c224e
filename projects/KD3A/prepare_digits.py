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
from kd3a.domains import PUBLISHED, SIDE, optdigits, save_digits
from PIL import Image

from dataset_tools.errors import InputError, run


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--from", dest="source", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("-o", "--output", type=Path, default=Path("datasets/digits"))
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    for name in PUBLISHED:
        source = args.source / f"{name}.npz"
        if not source.is_file():
            raise InputError(f"There is no file {source}: an npz with `images` and `labels`.")
        with np.load(source) as data:
            save(args.output / f"{name}.npz", data["images"], data["labels"])
    save(args.output / "optdigits.npz", *optdigits())
    return 0


def save(path: Path, images: np.ndarray, labels: np.ndarray) -> None:
    images = np.stack([scaled(image) for image in images])
    save_digits(path, (images, labels))
    print(f"{path}: {len(images)} images {'×'.join(map(str, images.shape[1:]))}")


def scaled(image: np.ndarray) -> np.ndarray:
    """(H, W[, 3]) uint8 → (32, 32[, 3]), bilinear: once here rather than in every epoch."""
    return np.asarray(Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.BILINEAR))


if __name__ == "__main__":
    sys.exit(run(main))
