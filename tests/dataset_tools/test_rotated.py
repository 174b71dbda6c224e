import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataset_tools.rotated import corners, from_corners

BOXES = st.tuples(
    st.floats(-100, 100),
    st.floats(-100, 100),
    st.floats(1, 50),
    st.floats(1, 50),
    st.floats(-180, 180),
)


def test_a_quarter_turn_against_the_clock_puts_the_top_left_corner_at_the_bottom_left() -> None:
    assert corners((10, 10, 4, 2, 0)) == pytest.approx([8, 9, 12, 9, 12, 11, 8, 11])
    assert corners((10, 10, 4, 2, 90)) == pytest.approx([9, 12, 9, 8, 11, 8, 11, 12])


@given(BOXES)
def test_corners_are_those_of_detectron2(box: tuple[float, ...]) -> None:
    from seriatim.data.objects import rotated_corners

    assert corners(box) == pytest.approx(rotated_corners(np.array([box]))[0].ravel().tolist())


@given(BOXES)
def test_a_rectangle_comes_back(box: tuple[float, ...]) -> None:
    back, error = from_corners(corners(box))
    assert error < 1e-9 * 200
    assert back[:4] == pytest.approx(box[:4], abs=1e-9)
    assert math.remainder(back[4] - box[4], 360) == pytest.approx(0, abs=1e-6)


@given(BOXES)
def test_corners_in_the_other_sense_give_the_same_rectangle(box: tuple[float, ...]) -> None:
    quad = np.array(corners(box)).reshape(4, 2)
    back, error = from_corners(quad[::-1].ravel().tolist())
    assert error < 1e-6
    same = np.array(corners(back)).reshape(4, 2)
    assert np.abs(same[:, None] - quad[None]).sum(-1).min(0).max() < 1e-6


def test_the_distance_of_a_quadrangle_that_is_no_rectangle_is_told() -> None:
    _, error = from_corners([0, 0, 10, 0, 14, 5, 0, 5])
    assert 1 < error < 4
