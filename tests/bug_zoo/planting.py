"""Bugs in code: short ways to write a changed model or trainer into a list of bugs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from torch import nn

from seriatim.engine.trainer import Trainer
from tests.bug_zoo.registry import Bug
from tests.seriatim.gates.pipelines import trainer_that

Change = Callable[[nn.Module], None]
Class = TypeVar("Class", bound=type[Trainer])


def model_bug(bugs: list[Bug], name: str, **about: Any) -> Callable[[Change], Change]:
    """Decorates a function that plants the bug into a model. `about`: attributes of `Bug`."""

    def add(change: Change) -> Change:
        bugs.append(Bug(name, trainer=trainer_that(change), **about))
        return change

    return add


def trainer_bug(bugs: list[Bug], name: str, **about: Any) -> Callable[[Class], Class]:
    """Decorates a trainer with the bug. `about`: attributes of `Bug`."""

    def add(trainer: Class) -> Class:
        bugs.append(Bug(name, trainer=trainer, **about))
        return trainer

    return add
