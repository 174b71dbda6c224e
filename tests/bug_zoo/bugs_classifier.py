"""Bugs of classifiers that the gates' own tests plant too."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from seriatim.engine.trainer import Trainer
from seriatim.evaluation.classification import ClassificationEvaluator
from seriatim.testing.labelled import write_cifar
from tests.bug_zoo.planting import model_bug, trainer_bug
from tests.bug_zoo.registry import Bug

BUGS: list[Bug] = []


def labelled(folder: Path) -> None:
    """Images of ten classes in CIFAR-10's files."""
    write_cifar(folder / "cifar", 120, 40)


ABOUT: dict[str, Any] = {"kind": "classifier", "draw": labelled}
_Loss = Callable[[nn.Module, Tensor, Tensor], Tensor]


def loss_bug(bugs: list[Bug], name: str, **about: Any) -> Callable[[_Loss], _Loss]:
    """Decorates a loss (model, logits, targets) that a classifier takes instead of its own."""

    def add(loss: _Loss) -> _Loss:
        def plant(model: nn.Module) -> None:
            model.supervised_loss = functools.partial(loss, model)

        model_bug(bugs, name, area="loss", **ABOUT, **about)(plant)
        return loss

    return add


@trainer_bug(
    BUGS,
    "classifier: labels counted from 1",
    area="mapping",
    what="The mapper counts classes from 1, and the last one becomes the first.",
    gates=("oracle", "inputs"),
    causes=("mapper changes labels", "number the classes differently"),
    **ABOUT,
)
class CountedFrom1(Trainer):
    @classmethod
    def build_mapper(cls, cfg, is_train, **overrides):
        mapper = super().build_mapper(cfg, is_train, **overrides)
        return lambda record: {**mapper(record), "label": (record["label"] + 1) % 10}


@trainer_bug(
    BUGS,
    "classifier: channels of arrays reversed",
    area="mapping",
    what="Pixels from arrays are RGB and are taken for BGR.",
    gates=("inputs",),
    causes=("channels are in the other order",),
    **ABOUT,
)
class ChannelsReversed(Trainer):
    @classmethod
    def build_mapper(cls, cfg, is_train, **overrides):
        mapper = super().build_mapper(cfg, is_train, **overrides)
        read = mapper.read
        mapper.read = lambda record: read(record)[:, :, ::-1]
        return mapper


class Backwards(ClassificationEvaluator):
    def process(self, inputs, outputs):
        flipped = [
            {**o, "scores": o["scores"].flip(0), "logits": o["logits"].flip(0)} for o in outputs
        ]
        super().process(inputs, flipped)


@trainer_bug(
    BUGS,
    "classifier: evaluator reads classes backwards",
    area="evaluation",
    what="The evaluator's list of classes is in the reverse order.",
    gates=("oracle",),
    causes=("reverse order",),
    **ABOUT,
)
class ReadsBackwards(Trainer):
    @classmethod
    def build_evaluator(cls, cfg, name):
        return Backwards(name)


class Content(ClassificationEvaluator):
    def evaluate(self):
        return {"classification": {"top1": 100.0}}


@trainer_bug(
    BUGS,
    "classifier: evaluator is always content",
    area="evaluation",
    what="The evaluator compares labels with themselves.",
    gates=("oracle",),
    causes=("does not look",),
    **ABOUT,
)
class AlwaysContent(Trainer):
    @classmethod
    def build_evaluator(cls, cfg, name):
        return Content(name)


def _same_split(folder: Path) -> None:
    """The test batch holds training images."""
    first = next((folder / "cifar").rglob("data_batch_1"))
    (first.parent / "test_batch").write_bytes(first.read_bytes())


BUGS.append(
    Bug(
        "classifier: tested on training images",
        area="data",
        what="The test batch is a copy of the first training batch.",
        gates=("data",),
        causes=("split was made after", "tested on its own images", "named for both"),
        files=_same_split,
        **ABOUT,
    )
)


@loss_bug(
    BUGS,
    "classifier: loss of the wrong sign",
    what="The log likelihood is minimised.",
    gates=("init",),
    causes=("sign", "negative"),
)
def _(model: nn.Module, logits: Tensor, targets: Tensor) -> Tensor:
    return -model.loss(logits, targets)


@loss_bug(
    BUGS,
    "classifier: loss summed over the batch",
    what="The loss is a sum over the batch, not a mean.",
    gates=("init",),
    causes=("sum", "batch"),
)
def _(model: nn.Module, logits: Tensor, targets: Tensor) -> Tensor:
    return model.loss(logits, targets, reduction="none").sum()


@loss_bug(
    BUGS,
    "classifier: targets of the next class",
    what="One-hot targets are one class off.",
    gates=("init",),
    causes=("shifted by a class",),
)
def _(model: nn.Module, logits: Tensor, targets: Tensor) -> Tensor:
    return model.loss(logits, targets.roll(1, dims=1))


@loss_bug(
    BUGS,
    "classifier: softmax over the batch",
    what="log_softmax over dimension 0 in place of 1.",
    gates=("init", "independence"),
    causes=("dimension 0", "batch", "softmax"),
)
def _(model: nn.Module, logits: Tensor, targets: Tensor) -> Tensor:
    return -(targets * logits.log_softmax(0)).sum(1).mean()


@model_bug(
    BUGS,
    "classifier: last layer too wide",
    area="model",
    what="The last layer starts with a standard deviation of 2.",
    gates=("init",),
    causes=("last layer", "classification layer", "weights", "initialis"),
    **ABOUT,
)
def _(model: nn.Module) -> None:
    nn.init.normal_(model.classifier.weight, std=2.0)


class Normal(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (x - x.mean(0)) / (x.std(0, correction=0) + 1)


@model_bug(
    BUGS,
    "classifier: statistics of the batch in evaluation",
    area="model",
    what="Features are normalised over the batch, in evaluation too.",
    gates=("independence",),
    causes=("statistics", "mixes the images"),
    **ABOUT,
)
def _(model: nn.Module) -> None:
    model.dropout = Normal()


@model_bug(
    BUGS,
    "classifier: inference numbers classes in another way",
    area="model",
    what="Inference rolls the logits by one class.",
    gates=("init", "overfit1", "overfit10"),
    causes=("numbers classes in another way",),
    **ABOUT,
)
def _(model: nn.Module) -> None:
    plain = model.inference
    model.inference = lambda logits: plain(logits.roll(1, dims=1))
