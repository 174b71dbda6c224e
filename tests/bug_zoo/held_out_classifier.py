"""Held out, new: bugs of classifiers that no gate had seen before."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
from detectron2.data import MetadataCatalog
from torch import Tensor, nn

from seriatim.engine.trainer import Trainer
from seriatim.evaluation.classification import ClassificationEvaluator
from tests.bug_zoo.bugs_classifier import ABOUT, loss_bug
from tests.bug_zoo.planting import model_bug, trainer_bug
from tests.bug_zoo.registry import Bug

BUGS: list[Bug] = []


def _shuffled(folder: Path) -> None:
    """The labels of every training batch in an order of chance."""
    rng = np.random.default_rng(3)
    for path in (folder / "cifar").rglob("data_batch_*"):
        content = pickle.loads(path.read_bytes(), encoding="bytes")
        content[b"labels"] = [int(label) for label in rng.permutation(content[b"labels"])]
        path.write_bytes(pickle.dumps(content, protocol=2))


BUGS.append(
    Bug(
        "classifier: labels shuffled",
        area="data",
        what="Labels were sorted apart from their images.",
        gates=("data", "blind"),
        causes=("labels",),
        files=_shuffled,
        **ABOUT,
    )
)


def _renamed(cfg) -> None:
    names = MetadataCatalog.get(cfg.DATASETS.TEST[0])
    kept = {**names.as_dict(), "thing_classes": list(names.thing_classes)[::-1]}
    MetadataCatalog.remove(cfg.DATASETS.TEST[0])
    MetadataCatalog.get(cfg.DATASETS.TEST[0]).set(**{k: v for k, v in kept.items() if k != "name"})


BUGS.append(
    Bug(
        "classifier: classes of the test set in another order",
        area="data",
        what="The test set names its classes in the reverse order of the training set.",
        gates=("data",),
        causes=("order",),
        catalog=_renamed,
        **ABOUT,
    )
)
BUGS.append(
    Bug(
        "classifier: statistics of pixels from 0 to 1",
        area="normalisation",
        what="Mean and deviation of images divided by 255, for images that are not.",
        gates=("inputs",),
        causes=("0–1",),
        changes={"MODEL__PIXEL_MEAN": [0.5] * 3, "MODEL__PIXEL_STD": [0.2] * 3},
        **ABOUT,
    )
)
BUGS.append(
    Bug(
        "classifier: learning rate a million times too small",
        area="schedule",
        what="5e-8, as if the exponent had been typed twice.",
        gates=("gradients",),
        causes=("learning rate", "BASE_LR"),
        changes={"SOLVER__BASE_LR": 5e-8},
        **ABOUT,
    )
)


@trainer_bug(
    BUGS,
    "classifier: augmented in testing",
    area="augmentation",
    what="The loader for testing gets the mapper for training.",
    gates=("inputs", "repeat"),
    causes=("testing", "evaluation"),
    **ABOUT,
)
class AugmentedInTesting(Trainer):
    @classmethod
    def build_mapper(cls, cfg, is_train, **overrides):
        return super().build_mapper(cfg, True, **overrides)


@trainer_bug(
    BUGS,
    "classifier: last layer left out of the optimizer",
    area="optimizer",
    what="The optimizer gets the parameters of the backbone alone.",
    gates=("gradients",),
    causes=("optimizer",),
    **ABOUT,
)
class LastLayerLeftOut(Trainer):
    @classmethod
    def build_optimizer(cls, cfg, model):
        optimizer = super().build_optimizer(cfg, model)
        left_out = {id(parameter) for parameter in model.classifier.parameters()}
        for group in optimizer.param_groups:
            group["params"] = [p for p in group["params"] if id(p) not in left_out]
        return optimizer


class FiveGuesses(ClassificationEvaluator):
    def evaluate(self):
        found = super().evaluate()
        scores = found["classification"]
        scores["top1"] = scores.get("top5", scores["top1"])
        return found


@trainer_bug(
    BUGS,
    "classifier: top-5 reported as top-1",
    area="evaluation",
    what="A hit among five guesses counts as a hit.",
    gates=("oracle",),
    causes=("does not look", "evaluator"),
    **ABOUT,
)
class FiveAsOne(Trainer):
    @classmethod
    def build_evaluator(cls, cfg, name):
        return FiveGuesses(name)


@loss_bug(
    BUGS,
    "classifier: softmax before cross-entropy",
    what="Probabilities go into a loss that takes logits.",
    gates=("init", "gradients"),
    causes=("softmax",),
)
def _(model: nn.Module, logits: Tensor, targets: Tensor) -> Tensor:
    return model.loss(logits.softmax(1), targets)


@model_bug(
    BUGS,
    "classifier: features detached",
    area="model",
    what="A detach() was left from a linear probe: the backbone does not learn.",
    gates=("gradients",),
    causes=("detach", "gradient"),
    **ABOUT,
)
def _(model: nn.Module) -> None:
    class Detached(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.detach()

    model.dropout = Detached()


@model_bug(
    BUGS,
    "classifier: mean of the batch subtracted from features",
    area="model",
    what="Features are centred over the batch in training.",
    gates=("independence",),
    causes=("mixes the images", "batch"),
    **ABOUT,
)
def _(model: nn.Module) -> None:
    class Centred(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x - x.mean(0, keepdim=True) if self.training else x

    model.dropout = Centred()
