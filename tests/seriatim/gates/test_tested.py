"""What testing sees beside what training saw, what is random, and images put together."""

import numpy as np
import pytest
from detectron2.data import transforms as T
from fvcore.transforms.transform import TransformList

from seriatim.data.mapper import SeriatimMapper
from seriatim.engine.trainer import Trainer
from seriatim.gates import draws, mixed, tested
from seriatim.gates.geometry import box_error, wraps_around

from .pipelines import pipeline

AUGMENTED = {"ENABLED": True, "SIZE": [64, 64], "SCALE": [0.8, 1.4]}


def trainer_with(mapper):
    class Planted(Trainer):
        @classmethod
        def build_mapper(cls, cfg, is_train, **overrides):
            return mapper(cfg, is_train=is_train, **overrides)

    return Planted


def causes(findings):
    return [str(cause) for finding in findings for cause in finding.causes[:2]]


class OtherInTesting(SeriatimMapper):
    change = staticmethod(lambda image: image)

    def __call__(self, record):
        item = super().__call__(record)
        if not self.is_train:
            item["image"] = self.change(item["image"])
        return item


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda image: image.flip(0), "channels are in another order in testing"),
        (lambda image: image.float() / 255, "divided by 255 in testing"),
        (lambda image: image[:, ::2, ::2], "the size differs"),
        (lambda image: image, ""),
    ],
)
def test_pixels_in_testing_are_those_of_training(tmp_path, change, words):
    mapper = type("Changed", (OtherInTesting,), {"change": staticmethod(change)})
    context = pipeline(tmp_path, "retinanet", trainer_with(mapper))
    with context.untouched():
        found = causes(tested.inputs(context))
    assert any(words in cause for cause in found) if words else not found


class Half(Trainer):
    @classmethod
    def build_test_loader(cls, cfg, dataset_name):
        return list(super().build_test_loader(cfg, dataset_name))[::2]


def test_a_loader_that_leaves_images_out(tmp_path):
    context = pipeline(tmp_path, "retinanet", Half)
    with context.untouched():
        assert any("leaves images out" in cause for cause in causes(tested.images(context)))


class SeedsItself(SeriatimMapper):
    def __call__(self, record):
        np.random.seed(1)
        return super().__call__(record)


@pytest.mark.parametrize(("mapper", "wrong"), [(SeriatimMapper, False), (SeedsItself, True)])
def test_a_mapper_that_sets_the_seed(tmp_path, mapper, wrong):
    context = pipeline(tmp_path, "retinanet", trainer_with(mapper), SERIATIM__AUG=AUGMENTED)
    with context.untouched():
        found = causes(draws.findings(context, context.train_records[0]))
    assert any("sets the seed itself" in cause for cause in found) == wrong


class PartsStay(SeriatimMapper):
    def _mosaic(self, record):
        sample = super()._mosaic(record)
        corners = np.array([source.window[:2] for source in sample.sources])
        sample.objects.boxes -= np.tile(corners[sample.objects.source], 2)
        return sample


@pytest.mark.parametrize(("mapper", "wrong"), [(SeriatimMapper, False), (PartsStay, True)])
def test_boxes_of_mosaics(tmp_path, mapper, wrong):
    context = pipeline(
        tmp_path, "retinanet", trainer_with(mapper), SERIATIM__AUG=AUGMENTED | {"MOSAIC": 1.0}
    )
    with context.untouched():
        found = causes(mixed.findings(context, context.train_records))
    assert any("mosaic" in cause for cause in found) == wrong


class TwoCorners(T.RotationTransform):
    def apply_box(self, box):
        corners = self.apply_coords(np.asarray(box).reshape(-1, 2)).reshape(-1, 2, 2)
        return np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)


def test_a_box_around_two_of_its_corners():
    assert box_error(TransformList([T.RotationTransform(60, 80, 40)]), (60, 80)) < 0.01
    assert box_error(TransformList([TwoCorners(60, 80, 40)]), (60, 80)) > 5


class Twice(T.Transform):
    def __init__(self, clip):
        self.clip = clip

    def apply_image(self, img):
        bright = img.astype(int) * 2
        return (bright.clip(0, 255) if self.clip else bright).astype(np.uint8)

    def apply_coords(self, coords):
        return coords


def test_brightness_that_wraps_around():
    assert wraps_around(Twice(clip=False))
    assert not wraps_around(Twice(clip=True))
    assert not wraps_around(T.HFlipTransform(256))
