"""A plugin of pytest that keeps a copy of every small dataset that a test converts.

They end in the folder that the environment variable FUZZ_HARVEST names, by format.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.dataset_tools import makers

MOST_FILES, MOST_BYTES, MOST_OF_A_FORMAT = 60, 2_000_000, 40


@pytest.fixture(autouse=True)
def keep_what_is_converted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Copy before converting."""
    convert = makers.convert_dataset

    def kept(name: str, path: Any, *more: Any, **options: Any) -> Any:
        _keep(name, Path(path))
        return convert(name, path, *more, **options)

    monkeypatch.setattr(makers, "convert_dataset", kept)


def _keep(name: str, path: Path) -> None:
    folder = Path(os.environ["FUZZ_HARVEST"]) / name
    number = len(list(folder.glob("*")))
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    size = sum(file.stat().st_size for file in files)
    if number >= MOST_OF_A_FORMAT or len(files) > MOST_FILES or size > MOST_BYTES or not files:
        return
    target = folder / str(number)
    if path.is_dir():
        shutil.copytree(path, target, symlinks=True)
    else:
        target.mkdir(parents=True)
        shutil.copy(path, target)
