"""Bugs between the file and the network: mapping, augmentation, channels, normalisation."""

from __future__ import annotations

from seriatim.data.mapper import SeriatimMapper
from seriatim.engine.trainer import Trainer
from tests.bug_zoo.registry import Bug


def trainer_with(mapper: type[SeriatimMapper]) -> type[Trainer]:
    """A trainer whose mapper is of another class."""

    class Planted(Trainer):
        @classmethod
        def build_mapper(cls, cfg, is_train, **overrides):
            return mapper(cfg, is_train=is_train, **overrides)

    return Planted


class OtherChannels(SeriatimMapper):
    def __call__(self, record):
        item = super().__call__(record)
        item["image"] = item["image"].flip(0)
        return item


class MirrorsPixels(SeriatimMapper):
    def __call__(self, record):
        item = super().__call__(record)
        item["image"] = item["image"].flip(2)
        return item


BUGS = [
    Bug(
        "channels reversed in the mapper",
        "mapping",
        "The mapper gives RGB where INPUT.FORMAT says BGR.",
        ("inputs",),
        ("channels",),
        trainer=trainer_with(OtherChannels),
    ),
    Bug(
        "image mirrored, boxes not",
        "augmentation",
        "A flip of the tensor after the augmentations, of which the boxes know nothing.",
        ("inputs",),
        ("mirrored",),
        trainer=trainer_with(MirrorsPixels),
    ),
    Bug(
        "statistics of 0–1",
        "normalisation",
        "Means and deviations meant for pixels of 0–1, while pixels are 0–255.",
        ("inputs",),
        ("0–1",),
        changes={"MODEL__PIXEL_MEAN": [0.485] * 3, "MODEL__PIXEL_STD": [0.225] * 3},
    ),
]
