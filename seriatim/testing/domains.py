"""Small sets of several domains, in the files that those of domain adaptation are handed out in."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from seriatim.testing.labelled import make_labelled

Split = tuple[np.ndarray, np.ndarray]


def write_digitfive(folder: Path, train: int = 40, test: int = 20) -> dict[tuple[str, str], Split]:
    """The five domains of DigitFive as MATLAB files; images and labels by domain and split."""
    from scipy.io import savemat

    folder.mkdir(parents=True, exist_ok=True)
    known: dict[tuple[str, str], Split] = {}
    for number, (domain, size, channels) in enumerate(
        (("mnist", 32, 1), ("mnistm", 28, 3), ("svhn", 32, 3), ("syn", 32, 3), ("usps", 28, 1))
    ):
        for offset, (split, count) in enumerate((("train", train), ("test", test))):
            images, labels = make_labelled(
                count, size=size, channels=channels, seed=2 * number + offset
            )
            known[domain, split] = (images[..., 0] if channels == 1 else images), labels
    one_hot = {
        key: np.eye(10)[labels] for key, (_, labels) in known.items() if key[0].startswith("mnist")
    }
    mnist, mnistm = {}, {}
    for split in ("train", "test"):
        mnist[f"{split}_32"] = known["mnist", split][0].astype(np.float32)[..., None]
        mnist[f"{split}_28"] = known["mnist", split][0][:, 2:30, 2:30, None].astype(np.float32)
        mnist[f"label_{split}"] = one_hot["mnist", split]
        mnistm[split] = known["mnistm", split][0]
        mnistm[f"label_{split}"] = one_hot["mnistm", split]
        images, labels = known["svhn", split]
        y = np.where(labels == 0, 10, labels).astype(np.uint8)[:, None]
        savemat(folder / f"svhn_{split}_32x32.mat", {"X": images.transpose(1, 2, 3, 0), "y": y})
    savemat(folder / "mnist_data.mat", mnist)
    savemat(folder / "mnistm_with_label.mat", mnistm)
    syn, cell = {}, np.empty((2, 2), object)
    for row, split in enumerate(("train", "test")):
        images, labels = known["syn", split]
        syn[f"{split}_data"], syn[f"{split}_label"] = images, labels[:, None]
        images, labels = known["usps", split]
        cell[row, 0] = images[:, None].astype(np.float32) / 255
        cell[row, 1] = labels[:, None]
    savemat(folder / "syn_number.mat", syn)
    savemat(folder / "usps_28x28.mat", {"dataset": cell})
    return known


def write_domainnet(folder: Path, lists: str = "", size: int = 16, each: int = 2) -> Path:
    """Two domains of DomainNet with the lists of their splits in the folder `lists`; the folder.

    clipart has the classes ant, bee and wasp, sketch has no bee.
    """
    from PIL import Image

    names = ("ant", "bee", "wasp")
    (folder / lists).mkdir(parents=True, exist_ok=True)
    for domain, own in (("clipart", (0, 1, 2)), ("sketch", (0, 2))):
        images, labels = make_labelled(12, classes=len(names), size=size)
        lines: list[str] = []
        for number, label in enumerate(own * each):
            name = f"{domain}/{names[label]}/{number}.png"
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(images[labels == label][0]).save(folder / name)
            lines.append(f"{name} {label}\n")
        cut = max(1, 2 * len(lines) // 3) if len(own) == len(names) else len(lines) // 2
        for split, part in (("train", lines[:cut]), ("test", lines[cut:])):
            (folder / lists / f"{domain}_{split}.txt").write_text("".join(part))
    return folder


def write_office(folder: Path, domains: tuple[str, ...], inner: str = "", classes: int = 3) -> Path:
    """Domains as Office-31 (`inner` is "images") and Office-Caltech10 have them; the folder."""
    from PIL import Image

    for seed, domain in enumerate(domains):
        images, labels = make_labelled(10 * classes, classes, size=16, seed=seed)
        for number, (image, label) in enumerate(zip(images, labels, strict=True)):
            path = folder / domain / inner / f"class_{label}" / f"frame_{number:04}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(path)
    return folder


def write_amazon(
    folder: Path, reviews: int = 2020, words: int = 5100, scale: float = 1.0
) -> tuple[object, np.ndarray, np.ndarray]:
    """amazon.npz with four domains of `reviews`, words of weight `scale` × 1 to 3.

    Returns:
        the sparse matrix (words, reviews), labels (reviews, 1) of -1 and 1, and where each domain
        begins.
    """
    from scipy.sparse import random

    rng = np.random.default_rng(0)
    total = 4 * reviews
    matrix = random(words, total, density=4 / words, format="coo", rng=rng)
    matrix.data = np.ceil(matrix.data * 3) * scale
    labels = np.where(rng.random((total, 1)) < 0.5, -1, 1)
    offset = np.arange(5) * reviews
    folder.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(
        folder / "amazon.npz",
        xx_data=matrix.data[None],
        xx_row=matrix.row[None],
        xx_col=matrix.col[None],
        xx_shape=np.array([[words, total]]),
        yy=labels,
        offset=offset[:, None],
    )
    return matrix.tocsc(), labels, offset
