"""Does one module do the work of two?"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

import torch
from torch import nn

from seriatim.gates.context import Batch, Context
from seriatim.gates.observe import tensors_in
from seriatim.gates.verdict import Cause, Finding


def sharing(context: Context, model: nn.Module, batch: Batch) -> Iterator[Finding]:
    """No module that has two names is called twice with the same input.

    One module may serve at many places and right so: on every level of a pyramid, in tied
    embeddings. But it has nothing to say of the same numbers that it has not said before: whoever
    asks it again under another name meant another module.
    """
    aliases = _aliases(model)
    for names in _asked_twice(context, model, batch, aliases):
        yield Finding(
            f"{' and '.join(names)} are one module, which is given the same input for each.",
            "a module of its own, with weights of its own, under each name.",
            [
                Cause(
                    "one module is shared by mistake where two were meant: assigned twice, or"
                    " repeated as [module] * n",
                    names[-1],
                ),
                Cause("the second branch is left from a former version, and can be removed"),
            ],
        )


def _aliases(model: nn.Module) -> dict[nn.Module, list[str]]:
    """Modules with weights that are registered under more than one name, without their parts."""
    names: dict[nn.Module, list[str]] = defaultdict(list)
    for name, module in model.named_modules(remove_duplicate=False):
        if next(module.parameters(), None) is not None:
            names[module].append(name)
    twice = {module: found for module, found in names.items() if len(found) > 1}
    parts = {part for module in twice for part in module.modules() if part is not module}
    return {module: found for module, found in twice.items() if module not in parts}


def _asked_twice(
    context: Context, model: nn.Module, batch: Batch, aliases: dict[nn.Module, list[str]]
) -> Iterator[list[str]]:
    """The names of those of `aliases` that get one input more than once in a forward pass."""
    inputs: dict[nn.Module, list[list[torch.Tensor]]] = defaultdict(list)

    def keep(module: nn.Module, given: tuple[object, ...]) -> None:
        inputs[module].append(list(tensors_in(given)))

    handles = [module.register_forward_pre_hook(keep) for module in aliases]
    try:
        with torch.no_grad():
            context.losses(model, batch)
    finally:
        for handle in handles:
            handle.remove()
    for module, names in aliases.items():
        given = inputs[module]
        if any(_same(a, b) for i, a in enumerate(given) for b in given[:i]):
            yield names


def _same(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return bool(a) and len(a) == len(b) and all(map(torch.equal, a, b))
