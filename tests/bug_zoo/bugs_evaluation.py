"""Bugs of the evaluation: what is trained is right, what is measured is not."""

from __future__ import annotations

from seriatim.data.mapper import SeriatimMapper
from tests.bug_zoo.bugs_inputs import trainer_with
from tests.bug_zoo.registry import Bug


class LosesSmallOnes(SeriatimMapper):
    def __call__(self, record):
        item = super().__call__(record)
        if "instances" in item:
            item["instances"] = item["instances"][item["instances"].gt_boxes.area() > 200]
        return item


BUGS = [
    Bug(
        "small objects are filtered in training only",
        "evaluation",
        "The mapper drops small objects, which the evaluation counts.",
        ("oracle",),
        ("lost", "filters objects"),
        trainer=trainer_with(LosesSmallOnes),
    ),
]
