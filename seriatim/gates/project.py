"""Somebody's own project: what it registers, and its trainer by name, as the gates take it."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from detectron2.config import CfgNode
from detectron2.engine import DefaultTrainer

from dataset_tools.errors import InputError
from seriatim.engine.trainer import Trainer


def trainer_named(name: str) -> type[Trainer]:
    """The trainer that MODULE:CLASS or FILE.py:CLASS names. Its module is executed.

    A subclass of Detectron2's DefaultTrainer serves as it is: see `adapted`.

    Raises:
        InputError: there is no such module or class, or it is no trainer.
    """
    module_name, _, class_name = name.rpartition(":")
    if not module_name:
        raise InputError(f"--trainer is MODULE:CLASS or FILE.py:CLASS, not {name!r}.")
    trainer = getattr(_module(module_name, "--trainer"), class_name, None)
    if not isinstance(trainer, type) or not issubclass(trainer, DefaultTrainer):
        what = "has no such class" if trainer is None else "is no trainer of Detectron2's kind"
        raise InputError(
            f"--trainer {name}: {module_name} {what}. Name a subclass of"
            " seriatim.engine.trainer.Trainer or of detectron2.engine.DefaultTrainer."
        )
    return trainer if issubclass(trainer, Trainer) else adapted(trainer)


def import_project(name: str) -> None:
    """Import the module that `name` or FILE.py names, so that the config keys, architectures and
    datasets of a project are known.

    Raises:
        InputError: there is no such module.
    """
    _module(name, "--project")


def _module(name: str, option: str) -> ModuleType:
    try:
        if not name.endswith(".py"):
            return importlib.import_module(name)
        path = Path(name).resolve()
        if not path.is_file():
            raise InputError(f"{option}: there is no file {name}.")
        return _from_file(path, name, option)
    except ImportError as error:
        raise InputError(f"{option}: {name} cannot be imported: {error}.") from error


def _from_file(path: Path, name: str, option: str) -> ModuleType:
    """The module of a file, whose neighbours can be imported then, as when it is run itself. What
    is refused leaves nothing on the path: its json.py would be taken for Python's by new processes.
    """
    before = list(sys.path)
    sys.path.insert(0, str(path.parent))
    try:
        module = importlib.import_module(path.stem)
        if module.__file__ != str(path):
            raise InputError(f"{option}: {name} has the name of {module.__file__}; rename it.")
    except BaseException:
        sys.path[:] = before
        raise
    return module


def adapted(project: type[DefaultTrainer]) -> type[Trainer]:
    """`project` with Seriatim's step and hooks underneath; every method that it has is its own.

    Detectron2's trainers have no `build_mapper`: the mapper is taken out of their loaders.
    """

    class Adapted(project, Trainer):
        @classmethod
        def build_train_loader(cls, cfg: CfgNode, start_iteration: int = 0) -> Any:
            build = super().build_train_loader
            if "start_iteration" in inspect.signature(build).parameters:
                return build(cfg, start_iteration=start_iteration)
            return build(cfg)

        @classmethod
        def build_mapper(cls, cfg: CfgNode, is_train: bool, **overrides: Any) -> Any:
            name = "build_train_loader" if is_train else "build_test_loader"
            if overrides or getattr(project, name) == getattr(DefaultTrainer, name):
                return super().build_mapper(cfg, is_train, **overrides)
            datasets = cfg.DATASETS.TEST or cfg.DATASETS.TRAIN
            loader = (
                project.build_train_loader(cfg)
                if is_train
                else project.build_test_loader(cfg, datasets[0])
            )
            return mapper_of(loader) or super().build_mapper(cfg, is_train)

    Adapted.__name__, Adapted.__qualname__ = project.__name__, project.__qualname__
    Adapted.__module__ = project.__module__
    return Adapted


def mapper_of(loader: Any) -> Any:
    """What maps the records in a loader as Detectron2's functions build it; None if not found."""
    todo = [loader]
    while todo:
        part = todo.pop()
        if hasattr(part, "_map_func"):
            return getattr(part._map_func, "_obj", part._map_func)
        todo += [getattr(part, name) for name in ("dataset", "_dataset") if hasattr(part, name)]
    return None
