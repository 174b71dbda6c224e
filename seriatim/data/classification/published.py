"""Where the files of well-known datasets come from, for those who do not have them yet.

Addresses and checksums are those that torchvision carries.
"""

from __future__ import annotations

from pathlib import Path


def where_to_get(path: Path, format_name: str) -> str:
    """What to download, its checksum and where to put it, for a missing `path`; "" if not known."""
    words = f"{format_name} {path.name}".lower()
    for names, text in _DOMAINS:
        if any(name in "/".join((words, *path.parts[-4:])).lower() for name in names):
            return text
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


# Sets of several domains, which no package carries addresses of: by format and end of the path.
_DOMAINS = (
    (
        ("digitfive",),
        "DigitFive (mnist_data.mat, mnistm_with_label.mat, svhn_train_32x32.mat,"
        " svhn_test_32x32.mat, syn_number.mat or synth_*_32x32.mat, usps_28x28.mat) is handed on by"
        " github.com/FengHZ/KD3A and by the page of M3SDA, ai.bu.edu/M3SDA: put its files into that"
        " folder.",
    ),
    (
        ("domainnet", "image-list"),
        "DomainNet is at ai.bu.edu/M3SDA: unpack each domain's archive (the cleaned version) into"
        " one folder, and put the lists (clipart_train.txt, clipart_test.txt …) into its folder"
        " splits; MiniDomainNet's lists of 126 classes, of github.com/KaiyangZhou/Dassl.pytorch,"
        " into splits_mini.",
    ),
    (
        ("office31", "office-31"),
        "Office-31 (Saenko et al., ECCV 2010) is at faculty.cc.gatech.edu/~judy/domainadapt: unpack"
        " it, so that a domain is DOMAIN/images/CLASS/frame_0001.jpg.",
    ),
    (
        ("officecaltech", "office-caltech", "office_caltech"),
        "Office-Caltech10 (Gong et al., CVPR 2012) is at faculty.cc.gatech.edu/~judy/domainadapt:"
        " unpack it, so that a domain is DOMAIN/CLASS/frame_0001.jpg.",
    ),
    (
        ("amazon-reviews", "amazonreview", "amazon.npz"),
        "Amazon's reviews as amazon.npz are handed on by github.com/hanzhaoml/MDAN and"
        " github.com/FengHZ/KD3A: put the file there.",
    ),
)
_KNOWN = (
    (("cifar",), _cifar),
    (("svhn",), _svhn),
    (("usps",), _usps),
    (("idx", "mnist"), _idx),
)
