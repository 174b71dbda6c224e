"""Files with a JSON object on each line (NDJSON, JSON Lines), and those of a folder by split."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from dataset_tools.coco import read_json
from dataset_tools.errors import InputError
from dataset_tools.formats.base import SPLIT_NAMES, Glimpse, read_text, split_of_folders

SUFFIXES = (".ndjson", ".jsonl", ".json", ".manifest", ".lst")


def json_objects(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The object on each line that is not blank, after its place (`file:line`); or those of a file
    that is one JSON list. InputError for a line that is none."""
    text = read_text(path)
    if text.lstrip().startswith("["):
        for index, entry in enumerate(read_json(path)):
            place = f"{path}[{index}]"
            yield place, _checked(entry, place)
        return
    # Only line feeds end a line: others may stand within texts.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        place = f"{path}:{number}"
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError) as error:
            said = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
            raise InputError(
                f"{place}: not valid JSON: {said}. Each line is to be one object; mend or remove "
                "this one."
            ) from error
        yield place, _checked(entry, place)


def files_by_split(
    path: Path, looks_right: Callable[[str], bool], what: str
) -> dict[Path, str | None]:
    """The file at `path`, or those in the folder whose head looks right, each with the split that
    its folder or name stands for. InputError, saying `what` is wanted, if there is none."""
    if path.is_file():
        return {path: None}
    glimpse = Glimpse(path)
    names = [name for name in glimpse.with_suffix(*SUFFIXES) if looks_right(glimpse.head(name))]
    if not names:
        raise InputError(f"{path}: there is no {what} in it.")
    return {
        path / name: split_of_folders(name) or SPLIT_NAMES.get(PurePosixPath(name).stem.lower())
        for name in names
    }


def _checked(entry: Any, place: str) -> dict[str, Any]:
    if not isinstance(entry, dict):
        raise InputError(f"{place}: is not an object in braces. Mend or remove it.")
    return entry
