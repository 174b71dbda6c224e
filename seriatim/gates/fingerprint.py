"""What a verdict depends on, as a hash: annotations, images, config keys, source, versions."""

from __future__ import annotations

import ast
import hashlib
import json
import os
import platform
import sys
import sysconfig
from collections.abc import Iterable
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog

from seriatim.data.catalog import dataset_stamp
from seriatim.gates.base import Gate

GATES = Path(__file__).parent
_LIBRARIES = ("torch", "torchvision", "numpy", "timm", "Pillow", "pycocotools")
FORM = 2  # of what is kept of a verdict
# Keys that say where results go and how fast they come, never what they are.
_INDIFFERENT = ("OUTPUT_DIR", "DATALOADER.NUM_WORKERS", "SERIATIM.HOOKS", "SERIATIM.CACHE_MIB")


def fingerprint(cfg: CfgNode, trainer_class: type) -> str:
    """A hash of what every verdict depends on: trainer, data and versions of libraries.

    What else a verdict depends on is known when the gate has run: see `values` and `sources`.
    """
    parts = {
        "form": FORM,
        "trainer": f"{trainer_class.__module__}.{trainer_class.__qualname__}",
        "made from": getattr(trainer_class, "made_from", ""),  # more than its config: a LazyConfig
        "data": _data(cfg),
        "versions": _versions(),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def values(cfg: CfgNode, keys: Iterable[str]) -> dict[str, str]:
    """Key → value, as text, of those of `keys` that can change a verdict."""
    return {key: _value(cfg, key) for key in sorted(keys) if not key.startswith(_INDIFFERENT)}


def _value(cfg: CfgNode, key: str) -> str:
    value: Any = cfg
    for part in key.split("."):
        value = value.get(part) if isinstance(value, CfgNode) else None
    return repr(value)


def sources(gate: Gate) -> dict[str, str]:
    """File → hash of what `gate` has used by now: its own module with the modules of gates that it
    is written with, the loaded ones of its packages, and the user's own."""
    files = set(_written_with(Path(sys.modules[type(gate).__module__].__file__ or "")))
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None) or ""
        if not file.endswith(".py") or name.startswith("seriatim.gates"):
            continue  # other gates are none of its business
        if name.partition(".")[0] in ("seriatim", "dataset_tools"):
            counts = any(name == p or name.startswith(p + ".") for p in gate.packages)
        else:
            counts = bool(gate.packages) and not is_library(file)
        if counts:
            files.add(file)
    return {file: _file_hash(file) for file in sorted(files)}


def _written_with(file: Path) -> set[str]:
    """A file, and the modules of `seriatim.gates` that it and these import."""
    found: set[str] = set()
    todo = [file]
    while todo:
        file = todo.pop()
        if str(file) in found:
            continue
        found.add(str(file))
        todo += [
            GATES / f"{name}.py" for name in _imports(file) if (GATES / f"{name}.py").is_file()
        ]
    return found


@cache
def _imports(file: Path) -> frozenset[str]:
    """What a file imports from `seriatim.gates`: names of modules, and of other things."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module == "seriatim.gates":
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            before, _, name = node.module.rpartition(".")
            names |= {name} if before == "seriatim.gates" else set()
    return frozenset(names)


def unchanged(recorded: dict[str, str]) -> bool:
    """Whether the files that `sources` gave, perhaps in another process, are still the same."""
    return all(_file_hash(file) == known for file, known in recorded.items())


def is_library(file: str) -> bool:
    """Whether a file is of an installed package or of Python."""
    return (
        "site-packages" in file or "dist-packages" in file or file.startswith(_standard_library())
    )


@cache
def _standard_library() -> str:
    return sysconfig.get_paths()["stdlib"]


def _file_hash(file: str) -> str:
    try:
        return hashlib.sha256(Path(file).read_bytes()).hexdigest()
    except OSError:
        return ""


def _data(cfg: CfgNode) -> dict[str, Any]:
    """Of each dataset the bytes of its JSON, names, sizes and times of its images, and of labels
    that were read as they are where these come from."""
    found: dict[str, Any] = {}
    for name in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST):
        json_file = MetadataCatalog.get(name).get("json_file") or ""
        images = hashlib.sha256()
        for record in DatasetCatalog.get(name):
            images.update(f"{record['file_name']}\0{_stamp(record['file_name'])}\0".encode())
        found[name] = (_file_hash(json_file), images.hexdigest(), repr(dataset_stamp(name)))
    return found


def _stamp(file: str) -> str:
    try:
        status = os.stat(file)
    except OSError:
        return ""
    return f"{status.st_size} {status.st_mtime_ns}"


@cache
def _versions() -> dict[str, str]:
    import detectron2

    versions = {name: metadata.version(name) for name in _LIBRARIES}
    return versions | {"detectron2": detectron2.__version__, "python": platform.python_version()}
