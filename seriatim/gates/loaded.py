"""Are the weights that a config names really in the model?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from seriatim.engine.trainer import Trainer
from seriatim.gates.context import Context
from seriatim.gates.verdict import Cause, Finding

# Of a backbone's tensors, those that a file of weights must fill to count as loaded.
LOADED = 0.5


def pretrained(context: Context, trainer: Trainer, numbers: dict[str, Any]) -> Iterator[Finding]:
    """Weights that were loaded do not depend on the seed; random ones do."""
    cfg = context.cfg
    backbone = getattr(trainer.bare_model, "backbone", None)
    source = cfg.MODEL.WEIGHTS or cfg.MODEL.TIMM.WEIGHTS
    if backbone is None or not source:
        return
    key = "MODEL.WEIGHTS" if cfg.MODEL.WEIGHTS else "MODEL.TIMM.WEIGHTS"
    if key == "MODEL.TIMM.WEIGHTS" and "timm" not in cfg.MODEL.BACKBONE.NAME.lower():
        return
    torch.manual_seed(context.SEED + 1)
    other = context.trainer_class.build_model(cfg).backbone
    if key == "MODEL.TIMM.WEIGHTS":  # of the timm model alone, not of the neck on it
        inner = getattr(backbone, "bottom_up", backbone)
        other = getattr(other, "bottom_up", other)
        same = _shared(inner, other)
    else:
        same = 1 - _shared(backbone, other)
    numbers["share of the backbone that was loaded"] = same
    if same >= LOADED:
        return
    report = getattr(trainer.checkpointer, "report", None)
    yield Finding(
        f"{same:.0%} of the backbone's weights are those of {source}, the others are random.",
        f"at least {LOADED:.0%} of them: {key} is set.",
        [
            Cause(
                "names or shapes in the file are others, and it was loaded without strictness",
                key,
            )
            if report is None or not report.complete
            else Cause("the weights are overwritten by an initialisation after loading"),
            Cause("the code that builds the model does not load them, or overwrites them"),
        ],
    )


def _shared(one: nn.Module, other: nn.Module) -> float:
    """Share of the weights of two builds of a model that are equal."""
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    same = [(p.numel(), bool(torch.equal(p, q.to(p)))) for p, q in pairs if p.ndim > 1]
    return sum(n for n, equal in same if equal) / max(1, sum(n for n, _ in same))
