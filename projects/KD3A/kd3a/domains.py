"""Small domains of digits that need no download: scikit-learn's optdigits, seen in four ways.

UCI ML repository, E. Alpaydin and C. Kaynak, CC BY 4.0: 1,797 images, 8×8.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from dataset_tools.errors import InputError
from dataset_tools.files import atomic_path

Digits = tuple[np.ndarray, np.ndarray]
PUBLISHED = ("mnist", "usps", "mnist_m")
SIDE = 32


def optdigits() -> Digits:
    """(1797, 8, 8) uint8, white on black, scaled from 0–16 to 0–255; (1797,) labels."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    return np.round(digits.images * (255 / 16)).astype(np.uint8), digits.target


def drawn_domains(seed: int = 0) -> dict[str, Digits]:
    """Four domains of about 450 images (N, 32, 32) uint8; no two have a digit in common.

    Optdigits as they are, black on white, on a noisy ground, and turned by 20° to 40°.
    """
    images, labels = optdigits()
    large = np.stack([cv2.resize(image, (SIDE, SIDE)) for image in images])
    rng = np.random.default_rng(seed)
    parts = np.array_split(rng.permutation(len(large)), len(_VIEWS))
    return {
        name: (np.stack([view(image, rng) for image in large[part]]), labels[part])
        for (name, view), part in zip(_VIEWS.items(), parts, strict=True)
    }


def folder_domains(folder: Path, most: int, seed: int = 0) -> dict[str, Digits]:
    """MNIST, USPS and MNIST-M from `folder` and optdigits, at most `most` images of each.

    Raises:
        InputError: a file is missing.
    """
    rng = np.random.default_rng(seed)
    domains = {}
    for name in PUBLISHED:
        path = folder / f"{name}.npz"
        if not path.is_file():
            raise InputError(f"There is no file {path}: an npz with `images` and `labels`.")
        with np.load(path) as data:
            domains[name] = data["images"], data["labels"]
    domains["optdigits"] = optdigits()
    for name, (images, labels) in domains.items():
        chosen = rng.permutation(len(images))[:most]
        domains[name] = images[chosen], labels[chosen]
    return domains


def save_digits(path: Path, digits: Digits) -> None:
    """As an npz with `images` and `labels`."""
    images, labels = digits
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, images=images, labels=labels.astype(np.int64))


def _plain(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return image


def _inverted(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return 255 - image


def _noisy(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    ground = rng.uniform(0, 120, image.shape)
    return np.maximum(image, ground).astype(np.uint8)


def _turned(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    turn = cv2.getRotationMatrix2D((SIDE / 2 - 0.5, SIDE / 2 - 0.5), rng.uniform(20, 40), 1)
    return cv2.warpAffine(image, turn, (SIDE, SIDE))


_VIEWS: dict[str, Callable[[np.ndarray, np.random.Generator], np.ndarray]] = {
    "plain": _plain,
    "inverted": _inverted,
    "noisy": _noisy,
    "turned": _turned,
}
