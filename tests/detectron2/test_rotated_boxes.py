"""Rotated IoU against shapely, rotated NMS against the definition."""

import math

import numpy as np
import pytest
import torch
from detectron2.layers import batched_nms_rotated, nms_rotated
from detectron2.structures import RotatedBoxes, pairwise_iou_rotated
from shapely import affinity
from shapely.geometry import box as upright_box


def _shape(box):
    x, y, width, height, angle = (float(v) for v in box)
    shape = upright_box(x - width / 2, y - height / 2, x + width / 2, y + height / 2)
    # y points down: counter-clockwise on the screen is clockwise for shapely.
    return affinity.rotate(shape, -angle, origin=(x, y))


def _shapely_ious(boxes1, boxes2):
    shapes1, shapes2 = [_shape(b) for b in boxes1], [_shape(b) for b in boxes2]
    return np.array([[a.intersection(b).area / a.union(b).area for b in shapes2] for a in shapes1])


def _random_boxes(count, seed, spread=60.0):
    generator = torch.Generator().manual_seed(seed)
    boxes = torch.rand(count, 5, generator=generator)
    return boxes * torch.tensor([spread, spread, 40.0, 40.0, 720.0]) + torch.tensor(
        [-10.0, -10.0, 0.5, 0.5, -360.0]
    )


@pytest.mark.parametrize("seed", range(3))
def test_iou_of_random_boxes_equals_shapely(seed):
    boxes1, boxes2 = _random_boxes(40, seed), _random_boxes(50, seed + 100)
    ious = pairwise_iou_rotated(RotatedBoxes(boxes1), RotatedBoxes(boxes2))
    assert ious.dtype == torch.float32
    np.testing.assert_allclose(ious.numpy(), _shapely_ious(boxes1, boxes2), atol=2e-5)
    assert (ious > 0.2).sum() > 50


@pytest.mark.parametrize("angle", [0.0, 30.0, 45.0, 90.0, -135.0])
def test_iou_where_edges_lie_upon_each_other(angle):
    cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    first = torch.tensor([[100.0, 50.0, 20.0, 10.0, angle]])
    moved = torch.tensor([[100.0 + 5 * cos, 50.0 - 5 * sin, 20.0, 10.0, angle]])
    half = torch.tensor([[100.0, 50.0, 10.0, 10.0, angle]])
    turned = torch.tensor([[100.0, 50.0, 10.0, 20.0, angle + 90]])
    others = torch.cat([first, moved, half, turned])
    ious = pairwise_iou_rotated(RotatedBoxes(first), RotatedBoxes(others))
    np.testing.assert_allclose(ious[0].numpy(), [1, 15 / 25, 0.5, 1], atol=1e-4)


def test_iou_of_degenerate_far_and_no_boxes():
    boxes = torch.tensor([[5.0, 5, 4, 4, 20], [5, 5, 0, 4, 0], [1e5, 1e5, 4, 4, 20]])
    ious = pairwise_iou_rotated(RotatedBoxes(boxes), RotatedBoxes(boxes))
    np.testing.assert_allclose(ious.numpy(), np.diag([1, 0, 1]), atol=1e-4)
    none = RotatedBoxes(boxes[:0])
    assert pairwise_iou_rotated(none, RotatedBoxes(boxes)).shape == (0, 3)
    assert pairwise_iou_rotated(RotatedBoxes(boxes), none).shape == (3, 0)


def test_iou_of_many_boxes_equals_that_of_few():
    """More pairs than are compared or clipped at once."""
    many, few = _random_boxes(3000, 1, spread=400.0), _random_boxes(2000, 2, spread=400.0)
    ious = torch.ops.detectron2.box_iou_rotated(many, few)
    part = torch.ops.detectron2.box_iou_rotated(many[2990:], few[:7])
    torch.testing.assert_close(ious[2990:, :7], part)


def _reference_nms(boxes, scores, threshold):
    kept = []
    ious = _shapely_ious(boxes, boxes)
    for i in scores.argsort(descending=True).tolist():
        if all(ious[i, k] < threshold for k in kept):
            kept.append(i)
    return kept


@pytest.mark.parametrize("threshold", [0.1, 0.5, 0.8])
def test_nms_is_greedy_suppression_by_shapely_iou(threshold):
    boxes = _random_boxes(90, 7, spread=50.0)
    scores = torch.rand(90, generator=torch.Generator().manual_seed(3))
    kept = nms_rotated(boxes, scores, threshold)
    assert kept.dtype == torch.int64
    assert kept.tolist() == _reference_nms(boxes, scores, threshold)


def test_nms_of_more_boxes_than_one_block():
    boxes = _random_boxes(700, 11, spread=150.0)
    scores = torch.rand(700, generator=torch.Generator().manual_seed(5))
    kept = nms_rotated(boxes, scores, 0.4)
    ious = torch.ops.detectron2.box_iou_rotated(boxes, boxes)
    expected = []
    for i in scores.argsort(descending=True).tolist():
        if not expected or ious[i, expected].max() < 0.4:
            expected.append(i)
    assert kept.tolist() == expected
    assert 0 < len(kept) < 700


def test_batched_nms_keeps_boxes_of_other_classes_and_takes_none():
    boxes = torch.tensor([[5.0, 5, 4, 4, 0], [5, 5, 4, 4, 10], [5, 5, 4, 4, 90]])
    scores, classes = torch.tensor([0.5, 0.9, 0.7]), torch.tensor([0, 0, 1])
    assert batched_nms_rotated(boxes, scores, classes, 0.5).tolist() == [1, 2]
    assert nms_rotated(boxes[:0], scores[:0], 0.5).tolist() == []
