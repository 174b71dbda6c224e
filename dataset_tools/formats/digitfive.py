"""DigitFive: MNIST, MNIST-M, SVHN, synthetic digits and USPS as MATLAB files of one folder.

In this form the five domains come with M³SDA (Peng et al., ICCV 2019, arXiv 1812.01754), and with
many methods of multi-source domain adaptation that are compared on them:

    mnist_data.mat            train_32, test_32 (N×32×32[×1], 0 to 255), label_train, label_test
                              (N×10, a 1 in each row); train_28 and test_28 are the same images
    mnistm_with_label.mat     train, test (N×28×28×3), label_train, label_test
    svhn_{train,test}_32x32.mat   X (32×32×3×N), y (the digit 0 has the label 10)
    syn_number.mat            train_data, test_data (N×32×32×3), train_label, test_label
    synth_{train,test}_32x32.mat  the same digits as SVHN has them
    usps_28x28.mat            dataset, a cell of 2×2: images (N×1×28×28, 0 to 1) and labels of
                              training, and of testing
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dataset_tools.arrays import Arrays, Source, as_pictures, plan_arrays
from dataset_tools.errors import InputError
from dataset_tools.formats.base import Evidence, Format, Glimpse, Option, Plan
from dataset_tools.formats.svhn import load_cropped
from dataset_tools.notes import Notes
from dataset_tools.unpack import check_size

if TYPE_CHECKING:
    import numpy as np

SPLITS = ("train", "test")
# Domain → its possible files; of two, the split is in the name.
FILES = {
    "mnist": (("mnist_data.mat",),),
    "mnistm": (("mnistm_with_label.mat",),),
    "svhn": (("svhn_train_32x32.mat", "svhn_test_32x32.mat"),),
    "syn": (("syn_number.mat",), ("synth_train_32x32.mat", "synth_test_32x32.mat")),
    "usps": (("usps_28x28.mat",),),
}
_OWN = frozenset(f for choices in FILES.values() for files in choices for f in files)


@dataclass(frozen=True)
class Part:
    """A split of a domain, and the file that it is in."""

    file: Path
    domain: str
    split: str


def plan(path: Path, notes: Notes, images: Path | None = None, domain: str | None = None) -> Plan:
    """Plan to read one domain: of a folder the one called `domain`, or that of a file."""
    folder = path if path.is_dir() else path.parent
    if path.is_dir():
        there = [name for name, choices in FILES.items() if _files(folder, choices)]
        if domain is None and len(there) == 1:
            domain = there[0]
        if domain not in there:
            raise InputError(
                f"{path}: say by --domain which to read: {', '.join(there) or 'there is none'}."
            )
        parts = _parts(folder, domain)
    else:
        domain = next((n for n, c in FILES.items() if any(path.name in files for files in c)), None)
        if domain is None:
            raise InputError(f"{path} is none of {', '.join(sorted(_OWN))}.")
        parts = [part for part in _parts(folder, domain) if part.file.name == path.name]
    return plan_arrays(path, [Source(part, part.split) for part in parts], load)


def recognise(glimpse: Glimpse) -> Evidence | None:
    """MATLAB files called as those of DigitFive."""
    for name in glimpse.with_suffix(".mat"):
        if name in _OWN and glimpse.head_bytes(name).startswith(b"MATLAB "):
            return Evidence(f"{name} is a MATLAB file called as those of DigitFive")
    return None


def load(part: Part) -> Arrays:
    """The images of a split. InputError if its arrays are not as they should be."""
    if part.file.name.endswith("_32x32.mat"):
        return load_cropped(part.file)
    where = f"{part.file} ({part.split})"
    try:
        pixels, labels = _READERS[part.domain](part)
    except (InputError, MemoryError):
        raise
    except Exception as error:  # a damaged or hostile file may raise nearly anything
        raise InputError(f"{part.file}: not a file of DigitFive: {error}.") from error
    pictures, remarks = as_pictures(pixels, where)
    return Arrays(pictures, [_digit(n, where) for n in labels.tolist()], where, remarks=remarks)


def _mnist(part: Part) -> tuple[np.ndarray, np.ndarray]:
    found = _variables(part.file, f"{part.split}_32", f"label_{part.split}")
    return found[0].reshape(-1, 32, 32), found[1].argmax(1)


def _mnistm(part: Part) -> tuple[np.ndarray, np.ndarray]:
    pixels, labels = _variables(part.file, part.split, f"label_{part.split}")
    return pixels, labels.argmax(1)


def _syn(part: Part) -> tuple[np.ndarray, np.ndarray]:
    pixels, labels = _variables(part.file, f"{part.split}_data", f"{part.split}_label")
    return pixels, labels.ravel()


def _usps(part: Part) -> tuple[np.ndarray, np.ndarray]:
    (cell,) = _variables(part.file, "dataset")
    pixels, labels = cell[SPLITS.index(part.split)]
    return pixels, labels.ravel()


_READERS: dict[str, Callable[[Part], tuple[np.ndarray, np.ndarray]]] = {
    "mnist": _mnist,
    "mnistm": _mnistm,
    "syn": _syn,
    "usps": _usps,
}


def _variables(file: Path, *names: str) -> list[np.ndarray]:
    from scipy.io import loadmat, whosmat

    sizes = {name: shape for name, shape, _ in whosmat(file)}
    if missing := set(names) - sizes.keys():
        raise ValueError(f"it has no {', '.join(sorted(missing))}")
    for name in names:
        size = 8
        for count in sizes[name]:
            size *= count
        check_size(file, size)
    content = loadmat(file, variable_names=names)
    return [content[name] for name in names]


def _digit(label: float, where: str) -> tuple[str]:
    if label not in range(11):
        raise InputError(f"{where}: a label is {label}, not 0 to 9, or 10 for the digit 0.")
    return (str(int(label) % 10),)


def _files(folder: Path, choices: tuple[tuple[str, ...], ...]) -> tuple[str, ...]:
    """The first choice that is there as a whole."""
    return next((f for f in choices if all((folder / name).is_file() for name in f)), ())


def _parts(folder: Path, domain: str) -> list[Part]:
    files = _files(folder, FILES[domain])
    if not files:
        wanted = " or ".join(" and ".join(choice) for choice in FILES[domain])
        raise InputError(f"{folder}: {domain} is {wanted}, which is not there.")
    by_split = files if len(files) == 2 else files * 2
    return [
        Part(folder / file, domain, split) for file, split in zip(by_split, SPLITS, strict=True)
    ]


FORMAT = Format(
    name="digitfive",
    title="DigitFive, five domains of digits as MATLAB files",
    layout="folder of mnist_data.mat, mnistm_with_label.mat, svhn_train_32x32.mat, "
    "svhn_test_32x32.mat, syn_number.mat (or synth_*_32x32.mat) and usps_28x28.mat; or one of them",
    carries=("labels", "splits"),
    loses="the 28×28 px copies of MNIST",
    recognise=recognise,
    plan=plan,
    conventions="Images become PNG files. A label 10 is the digit 0. USPS's 0 to 1 becomes 0 to "
    "255. All images are taken; many papers draw 25,000 for training and 9,000 for testing.",
    options=(Option("--domain", "which domain of a folder to read", choices=tuple(FILES)),),
)
