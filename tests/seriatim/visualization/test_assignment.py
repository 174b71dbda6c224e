"""The picture of an assignment shows every point in its object's colour."""

import numpy as np

from seriatim.visualization.assignment import draw_assignment
from seriatim.visualization.palette import color


def test_points_and_boxes_have_their_objects_colour():
    image = np.zeros((60, 80, 3), np.uint8)
    picture = draw_assignment(
        image,
        boxes=np.array([[5, 5, 25, 25], [40, 30, 70, 55.0]]),
        points=np.array([[15, 15], [55, 42.0]]),
        objects=np.array([0, 1]),
        quality=np.array([1.0, 0.2]),
    )
    assert tuple(picture[15, 15]) == color(0) and tuple(picture[42, 55]) == color(1)
    assert tuple(picture[5, 15]) == color(0) and tuple(picture[30, 55]) == color(1)
    dots = [(picture[15, 10:21] > 0).any(-1).sum(), (picture[42, 50:61] > 0).any(-1).sum()]
    assert dots[0] > dots[1]  # the better point is larger
    assert not image.any()  # the input is not drawn on


def test_an_image_without_objects_is_unchanged():
    image = np.full((8, 8, 3), 7, np.uint8)
    empty = np.zeros((0, 4))
    picture = draw_assignment(
        image, boxes=empty, points=empty[:, :2], objects=empty[:, 0], quality=empty[:, 0]
    )
    assert np.array_equal(picture, image)
