import numpy as np
import pytest
from detectron2.data import transforms as T
from fvcore.transforms.transform import BlendTransform, TransformList

from seriatim.gates.geometry import coordinate_error, is_photometric

SIZE = (60, 80)
HEALTHY = {
    "flip": T.HFlipTransform(80),
    "turn": T.RotationTransform(60, 80, 30, expand=True),
    "resize": T.ResizeTransform(60, 80, 90, 100),
    "crop": T.CropTransform(10, 5, 50, 40),
    "pad": T.PadTransform(4, 6, 8, 10),
    "affine": T.ExtentTransform((10, 10, 70, 50), (50, 70)),
    "blend": BlendTransform(src_image=0, src_weight=0.3, dst_weight=0.7),
}


@pytest.mark.parametrize("name", HEALTHY)
def test_detectron2s_own_transforms_move_coordinates_with_pixels(name):
    error = coordinate_error(TransformList([HEALTHY[name]]), SIZE)
    assert error < 1.5


class FlipsPixelsOnly(T.HFlipTransform):
    def apply_coords(self, coords):
        return coords


class FlipsCoordinatesOnly(T.HFlipTransform):
    def apply_image(self, img):
        return img


class OffByTheWidth(T.ResizeTransform):
    def apply_coords(self, coords):
        return super().apply_coords(coords)[:, ::-1]


@pytest.mark.parametrize(
    "transform",
    [FlipsPixelsOnly(80), FlipsCoordinatesOnly(80), OffByTheWidth(60, 80, 90, 100)],
    ids=lambda transform: type(transform).__name__,
)
def test_what_moves_pixels_and_coordinates_apart_is_seen(transform):
    assert coordinate_error(TransformList([transform]), SIZE) > 10


def test_a_change_of_colour_is_no_movement_and_a_flip_is_one():
    assert is_photometric(HEALTHY["blend"], SIZE)
    assert not is_photometric(HEALTHY["flip"], SIZE)
    assert not is_photometric(FlipsPixelsOnly(80), SIZE)


def test_the_picture_of_coordinates_survives_a_chain():
    chain = TransformList([HEALTHY["flip"], HEALTHY["resize"], T.CropTransform(20, 20, 60, 60)])
    assert coordinate_error(chain, SIZE) < 1.0
    assert np.isnan(coordinate_error(TransformList([T.CropTransform(0, 0, 2, 2)]), SIZE))
