"""State of a run that lies outside of `state_dict`: random generators and plain Python numbers."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn


def seed_everything(seed: int) -> None:
    """Seed Python's, NumPy's and torch's generators (those of every CUDA device too)."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def rng_state() -> dict[str, Any]:
    """The state of Python's, NumPy's and torch's generators, in types that weights_only loads."""
    kind, keys, position, has_gauss, cached_gaussian = np.random.get_state()
    state = {
        "python": random.getstate(),
        "numpy": (
            kind,
            torch.from_numpy(keys.astype(np.int64)),
            position,
            has_gauss,
            cached_gaussian,
        ),
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def set_rng_state(state: Mapping[str, Any]) -> None:
    """Put back what `rng_state` gave."""
    version, keys, gaussian = state["python"]
    random.setstate((version, tuple(keys), gaussian))
    kind, keys, position, has_gauss, cached_gaussian = state["numpy"]
    np.random.set_state(
        (kind, keys.numpy().astype(np.uint32), position, has_gauss, cached_gaussian)
    )
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


@contextmanager
def preserve_rng() -> Iterator[None]:
    """Leave the global generators as they were, whatever the body draws from them."""
    state = rng_state()
    try:
        yield
    finally:
        set_rng_state(state)


class PlainState:
    """The plain numbers that modules keep as attributes and change while they train.

    RetinaNet and FCOS hold the running mean of their loss normaliser in `self.loss_normalizer`, a
    float that `state_dict` does not know. Every int or float attribute of a module that was not
    there, or had another value, when this object was made counts as such state. (A module with
    other kinds of state has torch's own `get_extra_state`.)
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._initial = dict(plain_numbers(model))

    def state_dict(self) -> dict[str, int | float]:
        """{dotted attribute name: value} of what has changed since the object was made."""
        return {k: v for k, v in plain_numbers(self._model) if self._initial.get(k) != v}

    def load_state_dict(self, state: Mapping[str, int | float]) -> None:
        set_plain_numbers(self._model, state)


class PlainNumbers:
    """Reads the plain numbers of a model's modules often and fast.

    It looks for new ones only when a module has got or lost an attribute.
    """

    def __init__(self, model: nn.Module) -> None:
        self._modules = [(name, vars(module)) for name, module in model.named_modules()]
        self._size = -1
        self._places: list[tuple[str, dict[str, Any], str]] = []

    def read(self) -> list[Any]:
        """The values now, for `named`."""
        size = sum(len(attributes) for _, attributes in self._modules)
        if size != self._size:
            self._size, self._places = size, list(self._find())
        return [attributes[name] for _, attributes, name in self._places]

    def _find(self) -> Iterator[tuple[str, dict[str, Any], str]]:
        for module_name, attributes in self._modules:
            for name, value in attributes.items():
                if type(value) in (int, float):
                    yield (f"{module_name}.{name}" if module_name else name), attributes, name

    def named(self, values: list[Any]) -> dict[str, int | float]:
        """{dotted attribute name: value} of what `read` gave."""
        names = (name for name, _, _ in self._places)
        return {k: v for k, v in zip(names, values, strict=True) if type(v) in (int, float)}


@contextmanager
def preserve_plain_state(model: nn.Module) -> Iterator[None]:
    """Leave the plain numbers of the modules as they were, new ones removed."""
    before = dict(plain_numbers(model))
    try:
        yield
    finally:
        for name, value in list(plain_numbers(model)):
            owner, _, attribute = name.rpartition(".")
            if name not in before:
                delattr(model.get_submodule(owner), attribute)
            elif before[name] != value:
                setattr(model.get_submodule(owner), attribute, before[name])


def set_plain_numbers(model: nn.Module, values: Mapping[str, int | float]) -> None:
    """Set the attributes of modules that `values` names with dots."""
    for name, value in values.items():
        owner, _, attribute = name.rpartition(".")
        setattr(model.get_submodule(owner), attribute, value)


def plain_numbers(model: nn.Module) -> Iterator[tuple[str, int | float]]:
    """Dotted name and value of every int or float that a module has as an attribute."""
    for module_name, module in model.named_modules():
        for attribute, value in vars(module).items():
            if type(value) in (int, float):
                yield (f"{module_name}.{attribute}" if module_name else attribute), value
