"""Assignments against twins in plain loops, and the properties that they must have."""

import math
import statistics

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from seriatim.modeling.assigner import (
    ATSSAssigner,
    SimOTAAssigner,
    TaskAlignedAssigner,
    _distance_penalty,
)

GRID = (
    torch.stack(torch.meshgrid(torch.arange(8.0), torch.arange(8.0), indexing="xy"), -1).reshape(
        -1, 2
    )
    * 8
    + 4
)


def _scene(seed: int, counts: list[int], classes: int = 3):
    """Random predictions and objects: scores, boxes, gt boxes, gt classes, gt valid."""
    g = torch.Generator().manual_seed(seed)
    batch, points, most = len(counts), len(GRID), max(counts)
    size = torch.rand(batch, points, 4, generator=g) * 14 + 2
    boxes = torch.cat([GRID - size[..., :2], GRID + size[..., 2:]], -1)
    corner = torch.rand(batch, most, 2, generator=g) * 44
    gt_boxes = torch.cat([corner, corner + 3 + torch.rand(batch, most, 2, generator=g) * 17], -1)
    gt_classes = torch.randint(classes, (batch, most), generator=g)
    valid = torch.arange(most)[None] < torch.tensor(counts)[:, None]
    scores = torch.rand(batch, points, classes, generator=g) * 0.9 + 0.05
    return scores, boxes, gt_boxes, gt_classes, valid


def _iou(a: list[float], b: list[float]) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - width * height
    return width * height / union


def _twin(assigner, scores, boxes, gt_boxes, gt_classes, count):
    """One image in plain loops: {point: (object, target)}."""
    wanted = {}
    for m in range(count):
        x1, y1, x2, y2 = gt_boxes[m].tolist()
        inside = [p for p, (x, y) in enumerate(GRID.tolist()) if x1 < x < x2 and y1 < y < y2]
        if not inside:
            cx, cy = (x1 + x2) / 2, (y1 + y2) / 2
            inside = [
                min(range(len(GRID)), key=lambda p: (GRID[p, 0] - cx) ** 2 + (GRID[p, 1] - cy) ** 2)
            ]
        iou = {p: _iou(gt_boxes[m].tolist(), boxes[p].tolist()) for p in inside}
        align = {
            p: scores[p, gt_classes[m]].item() ** assigner.alpha * iou[p] ** assigner.beta
            for p in inside
        }
        for p in sorted(inside, key=lambda p: -align[p])[: assigner.topk]:
            wanted.setdefault(p, []).append((iou[p], m, align[p]))
    owner = {p: max(options) for p, options in wanted.items()}
    targets = {}
    for p, (_, m, align) in owner.items():
        mine = [(i, a) for i, n, a in owner.values() if n == m]
        peak, best = max(a for _, a in mine), max(i for i, _ in mine)
        targets[p] = (m, align / max(peak, 1e-12) * best)
    return targets


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    counts=st.lists(st.integers(0, 5), min_size=1, max_size=3),
    topk=st.integers(1, 9),
)
def test_equals_plain_loops(seed, counts, topk):
    assigner = TaskAlignedAssigner(topk=topk, alpha=1.0, beta=2.0)
    scores, boxes, gt_boxes, gt_classes, valid = _scene(seed, counts)
    targets = assigner(scores, boxes, GRID, gt_boxes, gt_classes, valid)
    for image, count in enumerate(counts):
        expected = _twin(
            assigner, scores[image], boxes[image], gt_boxes[image], gt_classes[image], count
        )
        matched = {p: m for p, m in enumerate(targets.matched[image].tolist()) if m >= 0}
        assert matched == {p: m for p, (m, _) in expected.items()}
        for p, (m, target) in expected.items():
            row = torch.zeros(3)
            row[gt_classes[image, m]] = target
            torch.testing.assert_close(targets.scores[image, p], row, rtol=1e-4, atol=1e-6)
            assert torch.equal(targets.boxes[image, p], gt_boxes[image, m])


def test_no_point_answers_for_padding():
    scores, boxes, gt_boxes, gt_classes, valid = _scene(1, [5, 0, 2])
    targets = TaskAlignedAssigner()(scores, boxes, GRID, gt_boxes, gt_classes, valid)
    assert not targets.foreground[1].any() and targets.scores[1].sum() == 0
    assert set(targets.matched[2].tolist()) <= {-1, 0, 1}


def test_a_fresh_model_without_any_overlap_still_gets_points():
    """Predictions of no area have IoU 0 with everything; the most central points are taken."""
    scores, _, gt_boxes, gt_classes, valid = _scene(2, [1])
    gt_boxes[0, 0] = torch.tensor([10.0, 10.0, 50.0, 50.0])
    nothing = GRID.repeat(1, 2)[None]
    targets = TaskAlignedAssigner(topk=4)(scores, nothing, GRID, gt_boxes, gt_classes, valid)
    chosen = GRID[targets.foreground[0]]
    assert sorted(map(tuple, chosen.tolist())) == [(28, 28), (28, 36), (36, 28), (36, 36)]


def test_an_object_between_the_points_is_not_lost():
    scores, boxes, gt_boxes, gt_classes, valid = _scene(3, [1])
    gt_boxes[0, 0] = torch.tensor([5.0, 5.0, 7.0, 7.0])
    targets = TaskAlignedAssigner()(scores, boxes, GRID, gt_boxes, gt_classes, valid)
    assert GRID[targets.foreground[0]].tolist() == [[4.0, 4.0]]


def test_a_tie_is_decided_within_its_own_image():
    distance, candidate = torch.tensor([[[3.0, 4.0]]]), torch.ones(1, 1, 2, dtype=torch.bool)
    alone = _distance_penalty(distance, candidate)
    pair = torch.cat([distance, 1e5 * distance])
    together = _distance_penalty(pair, candidate.expand(2, 1, 2))
    assert torch.equal(alone[0], together[0])


# The alternatives


def _levels(strides):
    """Points of a 64 × 64 image, and the stride of each."""
    points, own = [], []
    for stride in strides:
        for row in range(64 // stride):
            for column in range(64 // stride):
                points.append(((column + 0.5) * stride, (row + 0.5) * stride))
                own.append(stride)
    return points, own


def _atss_twin(points, own, gt_boxes, topk):
    """{point: object} of one image, by the paper's algorithm 1."""
    taken = {}
    for number, box in enumerate(gt_boxes):
        x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
        considered = []
        for stride in sorted(set(own)):
            level = [p for p in range(len(points)) if own[p] == stride]
            level.sort(key=lambda p: math.dist(points[p], (x, y)))
            considered += level[:topk]
        overlap = {
            p: _iou(
                box,
                [c + s * 4 * own[p] for s in (-1, 1) for c in points[p]],
            )
            for p in considered
        }
        least = statistics.mean(overlap.values()) + statistics.stdev(overlap.values())
        inside = [
            p
            for p in range(len(points))
            if box[0] < points[p][0] < box[2] and box[1] < points[p][1] < box[3]
        ]
        for p in considered:
            if overlap[p] >= least and p in inside and overlap[p] > taken.get(p, (0, -1))[0]:
                taken[p] = (overlap[p], number)
    return {p: number for p, (_, number) in taken.items()}


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), count=st.integers(1, 4), topk=st.integers(2, 9))
def test_atss_equals_plain_loops(seed, count, topk):
    g = torch.Generator().manual_seed(seed)
    points, own = _levels((8, 16, 32))
    corner = torch.rand(1, count, 2, generator=g) * 30
    gt_boxes = torch.cat([corner, corner + 12 + torch.rand(1, count, 2, generator=g) * 20], -1)
    boxes = torch.cat([torch.tensor(points) - 8, torch.tensor(points) + 8], -1)[None]
    targets = ATSSAssigner((8, 16, 32), topk)(
        torch.rand(1, len(points), 2, generator=g),
        boxes,
        torch.tensor(points),
        gt_boxes,
        torch.zeros(1, count, dtype=torch.int64),
        torch.ones(1, count, dtype=torch.bool),
    )
    expected = _atss_twin(points, own, gt_boxes[0].tolist(), topk)
    found = {p: int(m) for p, m in enumerate(targets.matched[0]) if m >= 0}
    assert found == expected
    for p, number in found.items():
        iou = _iou(gt_boxes[0, number].tolist(), boxes[0, p].tolist())
        assert targets.scores[0, p].tolist() == pytest.approx([iou, 0.0], abs=1e-5)


def _simota_twin(assigner, scores, boxes, gt_boxes, gt_classes, count):
    """{point: (object, target)} of one image."""
    wanted = {}
    for m in range(count):
        x1, y1, x2, y2 = gt_boxes[m].tolist()
        inside = [p for p, (x, y) in enumerate(GRID.tolist()) if x1 < x < x2 and y1 < y < y2]
        cx, cy = (x1 + x2) / 2, (y1 + y2) / 2
        if not inside:
            inside = [min(range(len(GRID)), key=lambda p: math.dist(GRID[p].tolist(), (cx, cy)))]
        iou = {p: _iou(gt_boxes[m].tolist(), boxes[p].tolist()) for p in inside}
        cost = {
            p: -math.log(scores[p, gt_classes[m]].item())
            - assigner.iou_weight * math.log(max(iou[p], 1e-9))
            for p in inside
        }
        share = sum(sorted(iou.values(), reverse=True)[: assigner.topk])
        for p in sorted(inside, key=lambda p: cost[p])[: max(1, int(share))]:
            wanted.setdefault(p, []).append((cost[p], m, iou[p]))
    return {p: min(options)[1:] for p, options in wanted.items()}


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), counts=st.lists(st.integers(0, 5), min_size=1, max_size=3))
def test_simota_equals_plain_loops(seed, counts):
    assigner = SimOTAAssigner(topk=6)
    scores, boxes, gt_boxes, gt_classes, valid = _scene(seed, counts)
    targets = assigner(scores, boxes, GRID, gt_boxes, gt_classes, valid)
    for image, count in enumerate(counts):
        expected = _simota_twin(
            assigner, scores[image], boxes[image], gt_boxes[image], gt_classes[image], count
        )
        found = {p: int(m) for p, m in enumerate(targets.matched[image]) if m >= 0}
        assert found == {p: m for p, (m, _) in expected.items()}
        for p, (_, iou) in expected.items():
            assert targets.weights[image, p].item() == pytest.approx(iou, abs=1e-5)
