"""What a classifier that was trained on a few images calls them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from detectron2.utils.events import EventStorage

from seriatim.gates.context import Context, Record
from seriatim.gates.modes import evaluating
from seriatim.gates.practice import Practice
from seriatim.gates.verdict import Cause

LEARNT = 0.25  # of the loss at the start: the images are learnt as far as training can see


def named(context: Context, practice: Practice, records: Sequence[Record]) -> list[int]:
    """The class that the model gives each of its training images."""
    with evaluating(practice.model), EventStorage():
        outputs = practice.model(context.inputs(records))
    return [int(output["scores"].argmax()) for output in outputs]


def causes_of_names(names: Sequence[int], practice: Practice) -> Iterator[Cause]:
    """Why images are misnamed, the likeliest first, by the loss and by the names."""
    losses = torch.tensor(practice.total())
    fell = bool(losses[-5:].mean() < LEARNT * losses[:5].mean())
    if fell:
        yield Cause(
            "what is learnt in training is lost in evaluation mode: BatchNorm statistics that never"
            " settle, or an inference that numbers classes in another way",
            "the meta-architecture",
        )
    elif len(set(names)) == 1 and len(names) > 1:
        yield Cause(
            "all images are named alike: their features do not reach the last layer, or it is cut"
            " off from the loss",
            "the meta-architecture; gate blind",
        )
    if not fell:
        yield Cause("the loss cannot be lowered: labels contradict each other", "gate data")


def draw_named(records: Sequence[Record], names: Sequence[int], path: Path) -> None:
    """Each image over its class and the one that it is given."""
    from seriatim.visualization.classification import label_grid
    from seriatim.visualization.sheet import write_image

    texts = [(f"is {r['label']}", f"named {n}") for r, n in zip(records, names, strict=True)]
    write_image(path, label_grid(records, texts))
