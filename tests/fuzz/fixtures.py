"""Small datasets of every format, to be damaged."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dataset_tools.errors import InputError
from dataset_tools.export import export_dataset
from dataset_tools.formats import NAMES, get_format
from seriatim.testing.domains import write_amazon
from seriatim.testing.shapes import make_shapes
from tests.dataset_tools.formats import test_cifar, test_npz, test_recognise
from tests.dataset_tools.formats.packed import random_pixels, write_idx

PIXELS = random_pixels(3, 6, 5)
# Formats whose files are not written as text: functions that make one in a folder to be.
PACKED: list[tuple[str, Callable[[Path], object]]] = [
    ("idx", lambda folder: write_idx(folder, PIXELS, [1, 0, 2])),
    ("idx", lambda folder: write_idx(folder, PIXELS, [1, 0, 2], packed=True)),
    ("cifar", test_cifar.python_10),
    ("cifar", test_cifar.python_100),
    ("npz", lambda folder: test_npz.npz(folder, images=PIXELS, labels=np.array([1, 0, 2]))),
    ("amazon-reviews", lambda folder: write_amazon(folder, reviews=3)),
]
# Of formats that cannot be read without any.
OPTIONS: dict[str, dict[str, str]] = {"amazon-reviews": {"domain": "dvd"}}


@dataclass(frozen=True)
class Fixture:
    """A dataset in a folder, of a format; or, with `run`, for a tool (called `format`) that it
    runs: on a folder, into another one. InputError if it is refused."""

    format: str
    folder: Path
    run: Callable[[Path, Path], None] | None = None


def make_fixtures(
    folder: Path, formats: Sequence[str] = tuple(NAMES), harvest: bool = False
) -> list[Fixture]:
    """Those by which formats are recognised, and what our own writers write.

    With `harvest` all that the readers' own tests read, too; without it that of those formats
    which have none of the others. KeyError if a format has none at all.
    """
    for number, (_, make) in enumerate(PACKED):
        (folder / "packed").mkdir(parents=True, exist_ok=True)
        make(folder / "packed" / str(number))
    found = [
        *(Fixture(name, folder / "packed" / str(i)) for i, (name, _) in enumerate(PACKED)),
        *_recognised(folder / "recognised", formats),
        *_written(folder / "written", formats),
    ]
    found = [fixture for fixture in found if fixture.format in formats]
    have = {fixture.format for fixture in found}
    found += _harvested(folder / "harvest", [n for n in formats if harvest or n not in have])
    missing = set(formats) - {fixture.format for fixture in found}
    if missing:
        raise KeyError(f"no fixture for {', '.join(sorted(missing))}: add one to {__file__}")
    return found


def _harvested(folder: Path, formats: Sequence[str]) -> list[Fixture]:
    """What tests of the formats read: they are run once, which takes a minute or two for all."""
    tests = Path(test_recognise.__file__).parent
    modules = {NAMES[name].strip("_").rpartition(".")[2] for name in formats}
    files = sorted(str(file) for m in modules for file in tests.glob(f"test_{m}*.py"))
    if files:
        subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "tests.fuzz.harvest", *files],
            env={**os.environ, "FUZZ_HARVEST": str(folder)},
            stdout=subprocess.DEVNULL,
            check=False,  # whether they pass is not the question here
        )
    places = sorted(folder.glob("*/*"))
    return [Fixture(p.parent.name, p) for p in places if p.parent.name in formats]


def _recognised(folder: Path, formats: Sequence[str]) -> Iterator[Fixture]:
    test = test_recognise.test_each_format_is_recognised_from_content_alone
    marks = [mark for mark in test.pytestmark if mark.name == "parametrize"]
    cases = [getattr(case, "values", case) for mark in marks for case in mark.args[1]]
    for number, (name, contents) in enumerate(cases):
        if name in formats:
            place = folder / str(number)
            place.mkdir(parents=True)
            test_recognise.files(place, contents)
            yield Fixture(name, place)


def _written(folder: Path, formats: Sequence[str]) -> Iterator[Fixture]:
    shapes = make_shapes(folder / "shapes", num_images=3, size=(24, 32))
    for name in formats:
        if get_format(name).write is None:
            continue
        try:
            export_dataset(name, {"train": shapes}, folder / name, images=shapes.parent / "images")
        except InputError:
            continue  # a format that cannot hold shapes, such as one of captions
        yield Fixture(name, folder / name)
