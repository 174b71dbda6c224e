import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from pycocotools import mask

from dataset_tools.boxes import box_iou

BOXES = arrays.arrays(float, st.tuples(st.integers(1, 5), st.just(4)), elements=st.integers(0, 40))


def as_xyxy(corners: np.ndarray) -> np.ndarray:
    """Boxes of at least one px between two corners."""
    low, high = (
        np.minimum(corners[:, :2], corners[:, 2:]),
        np.maximum(corners[:, :2], corners[:, 2:]),
    )
    return np.concatenate([low, high + 1], axis=1)


def as_xywh(boxes: np.ndarray) -> np.ndarray:
    return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)


@given(BOXES, BOXES, st.integers(0, 31))
def test_equal_to_pycocotools(first, second, crowds):
    first, second = as_xyxy(first), as_xyxy(second)
    crowd = np.array([bool(crowds >> i & 1) for i in range(len(second))])
    wanted = mask.iou(as_xywh(first), as_xywh(second), crowd.astype(np.uint8))
    np.testing.assert_allclose(box_iou(first, second, crowd), wanted, atol=1e-12)
    plain = mask.iou(as_xywh(first), as_xywh(second), np.zeros(len(second), np.uint8))
    np.testing.assert_allclose(box_iou(first, second), plain, atol=1e-12)


def test_boxes_without_area_or_place_overlap_nothing():
    boxes = np.array([[2.0, 2.0, 2.0, 8.0], [np.nan] * 4, [5.0, 5.0, 1.0, 1.0], [0, 0, 4, 4]])
    found = box_iou(boxes, boxes)
    assert found[3, 3] == 1
    assert np.count_nonzero(found) == 1


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0, 0)])
def test_no_boxes(shape):
    assert box_iou(np.zeros((shape[0], 4)), np.zeros((shape[1], 4))).shape == shape
