"""Small sets of labelled images, in the files that CIFAR, SVHN, MNIST … are handed out in.

Images of a class share a pattern, so that a classifier can learn them from a few.
"""

from __future__ import annotations

import gzip
import io
import pickle
from collections.abc import Sequence
from pathlib import Path

import numpy as np

CIFAR10_CLASSES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)


def make_labelled(
    count: int, classes: int = 10, size: int = 32, channels: int = 3, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Images (N, size, size, channels) uint8 and labels (N,) int64, each class about as often.

    The pattern of a class is always the same; `seed` is of the noise and of the order.
    """
    patterns = np.random.default_rng(12345).uniform(40, 215, (classes, 4, 4, channels))
    patterns = patterns.repeat(-(-size // 4), 1).repeat(-(-size // 4), 2)[:, :size, :size]
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(count) % classes)
    noise = rng.normal(0, 25, (count, size, size, channels))
    return (patterns[labels] + noise).clip(0, 255).astype(np.uint8), labels


def write_cifar(
    folder: Path, train: int = 100, test: int = 40, classes: int = 10, seed: int = 0
) -> Path:
    """CIFAR-10 (five batches) or, with 100 `classes`, CIFAR-100, as their Python version; the
    folder."""
    folder.mkdir(parents=True, exist_ok=True)
    sets = {"train": make_labelled(train, classes, seed=seed)}
    sets["test"] = make_labelled(test, classes, seed=seed + 1)
    if classes == 100:
        names = [f"fine_{i:02}".encode() for i in range(100)]
        coarse = [f"coarse_{i:02}".encode() for i in range(20)]
        _pickle(folder / "meta", {b"fine_label_names": names, b"coarse_label_names": coarse})
        for split, (images, labels) in sets.items():
            content = _cifar_rows(images, labels, "fine_labels")
            content[b"coarse_labels"] = [int(label) // 5 for label in labels]
            _pickle(folder / split, content)
        return folder
    _pickle(folder / "batches.meta", {b"label_names": [n.encode() for n in CIFAR10_CLASSES]})
    images, labels = sets["train"]
    for number, part in enumerate(np.array_split(np.arange(train), 5), start=1):
        content = _cifar_rows(images[part], labels[part], "labels")
        _pickle(folder / f"data_batch_{number}", content)
    _pickle(folder / "test_batch", _cifar_rows(*sets["test"], "labels"))
    return folder


def _cifar_rows(images: np.ndarray, labels: np.ndarray, key: str) -> dict[bytes, object]:
    return {
        b"batch_label": b"batch",
        key.encode(): labels.tolist(),
        b"data": images.transpose(0, 3, 1, 2).reshape(len(images), -1),
        b"filenames": [f"{i:05}.png".encode() for i in range(len(images))],
    }


class _Python2Pickler(pickle._Pickler):
    """Writes bytes as Python 2 wrote its texts: read by Python 3 they are what `encoding` says."""

    dispatch = dict(pickle._Pickler.dispatch)

    def save_bytes(self, value: bytes) -> None:
        if len(value) < 256:
            self.write(pickle.SHORT_BINSTRING + bytes([len(value)]) + value)
        else:
            self.write(pickle.BINSTRING + len(value).to_bytes(4, "little") + value)
        self.memoize(value)

    dispatch[bytes] = save_bytes


def _pickle(path: Path, content: dict[bytes, object]) -> None:
    file = io.BytesIO()
    _Python2Pickler(file, protocol=2).dump(content)
    # NumPy's modules were called otherwise then.
    path.write_bytes(file.getvalue().replace(b"cnumpy._core.", b"cnumpy.core."))


def write_idx(
    folder: Path, train: int = 100, test: int = 40, size: int = 28, packed: bool = True
) -> Path:
    """The four files of MNIST, packed by gzip or not; the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, count, seed in (("train", train, 0), ("t10k", test, 1)):
        images, labels = make_labelled(count, size=size, channels=1, seed=seed)
        for kind, values in (("images-idx3", images[..., 0]), ("labels-idx1", labels)):
            head = bytes([0, 0, 8, values.ndim])
            sizes = b"".join(n.to_bytes(4, "big") for n in values.shape)
            content = head + sizes + values.astype(np.uint8).tobytes()
            name = f"{split}-{kind}-ubyte"
            if packed:
                (folder / f"{name}.gz").write_bytes(gzip.compress(content, 1))
            else:
                (folder / name).write_bytes(content)
    return folder


def write_svhn(folder: Path, train: int = 100, test: int = 40) -> Path:
    """train_32x32.mat and test_32x32.mat, in which 0 has the label 10; the folder."""
    from scipy.io import savemat

    folder.mkdir(parents=True, exist_ok=True)
    for split, count, seed in (("train", train, 0), ("test", test, 1)):
        images, labels = make_labelled(count, seed=seed)
        y = np.where(labels == 0, 10, labels).astype(np.uint8)[:, None]
        savemat(folder / f"{split}_32x32.mat", {"X": images.transpose(1, 2, 3, 0), "y": y})
    return folder


def write_npz(path: Path, count: int = 100, **kwargs: int) -> Path:
    """One file with `images` and `labels`; its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    images, labels = make_labelled(count, **kwargs)
    np.savez(path, images=images.squeeze(-1) if images.shape[3] == 1 else images, labels=labels)
    return path


def write_image_folder(
    folder: Path,
    train: int = 30,
    test: int = 12,
    names: Sequence[str] = ("ant", "bee", "wasp"),
    sizes: Sequence[int] = (32,),
) -> Path:
    """PNG files in train/CLASS and test/CLASS, of `sizes` px by turns; the folder."""
    from PIL import Image

    for split, count, seed in (("train", train, 0), ("test", test, 1)):
        for size in sizes:
            images, labels = make_labelled(count // len(sizes), len(names), size, seed=seed)
            for i, (image, label) in enumerate(zip(images, labels, strict=True)):
                path = folder / split / names[label] / f"{size}_{i:03}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(image).save(path)
    return folder
