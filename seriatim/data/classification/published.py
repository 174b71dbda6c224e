"""Where the files of well-known datasets come from, for those who do not have them yet.

Addresses and checksums are those that torchvision carries.
"""

from __future__ import annotations

from pathlib import Path


def where_to_get(path: Path, format_name: str) -> str:
    """What to download, its checksum and where to put it, for a missing `path`; "" if not known."""
    words = f"{format_name} {path.name}".lower()
    if path.suffix == ".npz":
        return ""  # someone's own
    for names, describe in _KNOWN:
        if any(name in words for name in names):
            return describe(path)
    return ""


def _cifar(path: Path) -> str:
    from torchvision.datasets import CIFAR10, CIFAR100

    dataset = CIFAR100 if "100" in path.name else CIFAR10
    return (
        f"{dataset.__name__} is {dataset.url} (MD5 {dataset.tgz_md5}); unpack it, so that its"
        f" folder {dataset.base_folder} is {path}."
    )


def _svhn(path: Path) -> str:
    from torchvision.datasets import SVHN

    files = [f"{url} (MD5 {checksum})" for url, _, checksum in SVHN.split_list.values()]
    folder = path.parent if path.suffix == ".mat" else path
    return f"SVHN is {', '.join(files)}, of which the last may be left out; put them into {folder}."


def _idx(path: Path) -> str:
    from torchvision import datasets

    words = str(path).lower()
    name = next((n for n in ("FashionMNIST", "KMNIST") if n[:5].lower() in words), "MNIST")
    dataset = getattr(datasets, name)
    mirror = dataset.mirrors[0]
    files = [f"{file} (MD5 {checksum})" for file, checksum in dataset.resources]
    debian = "; Debian has it as the package dataset-fashion-mnist" if name[0] == "F" else ""
    return (
        f"{name} is {', '.join(files)}, from {mirror}{debian}. Put the files into {path}, as they"
        " are or unpacked."
    )


def _usps(path: Path) -> str:
    from torchvision.datasets import USPS

    files = [f"{url} (MD5 {checksum})" for url, _, checksum in USPS.split_list.values()]
    return f"USPS is {' and '.join(files)}; put them into {path.parent if path.suffix else path}."


_KNOWN = (
    (("cifar",), _cifar),
    (("svhn",), _svhn),
    (("usps",), _usps),
    (("idx", "mnist"), _idx),
)
