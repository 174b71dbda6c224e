"""TaskAlignedDetector: its losses, its decoding, and that images do not leak into one another."""

import functools
import math

import pytest
import torch
from detectron2.structures import Boxes, Instances
from torch.nn import functional as F
from torchvision.ops import box_iou

from dataset_tools.errors import InputError
from seriatim.modeling.meta_arch.task_aligned import TaskAlignedDetector, quality_focal_loss

from .support import small_detector

_detector = functools.partial(small_detector, NUM_CLASSES=3)


def _input(seed: int, count: int, height: int = 64, width: int = 96) -> dict:
    g = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=g) * 30
    instances = Instances((height, width))
    instances.gt_boxes = Boxes(
        torch.cat([corner, corner + 8 + torch.rand(count, 2, generator=g) * 24], 1)
    )
    instances.gt_classes = torch.randint(3, (count,), generator=g)
    image = torch.randint(0, 256, (3, height, width), generator=g, dtype=torch.uint8)
    return {"image": image, "instances": instances, "height": height, "width": width}


def _perfect_predictions(model: TaskAlignedDetector, inputs: list[dict]):
    """Head outputs whose boxes are the ground truth's and whose scores are 0 or nearly 1."""
    logits, distances = [], []
    for stride in model.strides:
        level_logits, level_distances = [], []
        for item in inputs:
            height, width = item["image"].shape[1] // stride, item["image"].shape[2] // stride
            scores = torch.full((3, height, width), -20.0)
            edges = torch.ones(4, height, width)
            for box, label in zip(
                item["instances"].gt_boxes.tensor, item["instances"].gt_classes, strict=True
            ):
                for row in range(height):
                    for column in range(width):
                        x, y = (column + 0.5) * stride, (row + 0.5) * stride
                        if box[0] < x < box[2] and box[1] < y < box[3]:
                            scores[:, row, column] = -20.0
                            scores[label, row, column] = 20.0
                            edges[:, row, column] = (
                                torch.stack([x - box[0], y - box[1], box[2] - x, box[3] - y])
                                / stride
                            )
            level_logits.append(scores)
            level_distances.append(edges)
        logits.append(torch.stack(level_logits))
        distances.append(torch.stack(level_distances))
    return logits, distances


def test_scores_and_boxes_at_initialisation():
    model = _detector(PRIOR_PROB=0.01)
    logits, distances = model.head([torch.randn(2, 16, 64 // s, 64 // s) for s in model.strides])
    assert torch.cat([x.flatten() for x in logits]).sigmoid().mean().item() == pytest.approx(
        0.01, rel=0.3
    )
    assert torch.cat([x.flatten() for x in distances]).mean().item() == pytest.approx(2.0, rel=0.2)


def test_perfect_predictions_are_decoded_to_the_ground_truth():
    model = _detector().eval()
    inputs = [_input(4, 1), _input(5, 1)]
    images = model.preprocess_image(inputs)
    results = model.forward_inference(images, [], _perfect_predictions(model, inputs))
    for item, found in zip(inputs, results, strict=True):
        assert len(found) == 1 and found.scores[0] > 0.99
        assert found.pred_classes.tolist() == item["instances"].gt_classes.tolist()
        torch.testing.assert_close(
            found.pred_boxes.tensor, item["instances"].gt_boxes.tensor, rtol=1e-4, atol=1e-3
        )


def test_perfect_predictions_have_no_loss():
    model = _detector(TOPK=1000).train()
    inputs = [_input(4, 1), _input(5, 1)]
    losses = model.forward_training(
        model.preprocess_image(inputs),
        [],
        _perfect_predictions(model, inputs),
        [i["instances"] for i in inputs],
    )
    assert losses["loss_box"].item() == pytest.approx(0, abs=1e-4)
    assert losses["loss_cls"].item() == pytest.approx(0, abs=1e-4)


def test_quality_focal_loss_is_its_formula_and_least_at_the_target():
    targets = torch.tensor([0.0, 0.3, 1.0])
    logits = torch.tensor([-1.0, 0.5, 2.0], dtype=torch.float64)
    for target, logit, loss in zip(
        targets, logits, quality_focal_loss(logits, targets.double()), strict=True
    ):
        p = 1 / (1 + math.exp(-logit))
        expected = -(abs(target - p) ** 2) * ((1 - target) * math.log(1 - p) + target * math.log(p))
        assert loss.item() == pytest.approx(float(expected), rel=1e-5)
    grid = torch.linspace(-4, 4, 801, dtype=torch.float64)
    best = grid[quality_focal_loss(grid, torch.full_like(grid, 0.3)).argmin()].sigmoid()
    assert best.item() == pytest.approx(0.3, abs=0.01)


def test_gradients_equal_finite_differences():
    model = _detector()
    logits = torch.randn(1, 6, 3, dtype=torch.float64, requires_grad=True)
    corner = torch.rand(1, 6, 2, dtype=torch.float64) * 20
    boxes = torch.cat(
        [corner, corner + 10 + torch.rand(1, 6, 2, dtype=torch.float64) * 10], -1
    ).requires_grad_()
    points = (boxes[0, :, :2] + boxes[0, :, 2:]).detach() / 2
    gt = torch.tensor([[[2.0, 2.0, 30.0, 30.0]]], dtype=torch.float64)
    targets = model.assigner(
        logits.detach().sigmoid(),
        boxes.detach(),
        points,
        gt,
        torch.tensor([[1]]),
        torch.tensor([[True]]),
    )
    assert targets.foreground.any()
    assert torch.autograd.gradcheck(
        lambda a, b: sum(model.losses(a, b, targets).values()), (logits, boxes)
    )


def test_one_images_loss_does_not_depend_on_another():
    model = _detector().train()
    inputs = [_input(1, 3), _input(2, 2)]
    features = [torch.randn(2, 16, 64 // s, 96 // s, requires_grad=True) for s in model.strides]
    logits, boxes, points = model._flatten(model.head(features))
    (logits[0].sum() + boxes[0].sum()).backward()
    assert all(f.grad[0].abs().sum() > 0 and f.grad[1].abs().sum() == 0 for f in features)
    assert len(points) == logits.shape[1] and len(inputs) == 2


def test_an_image_without_objects_trains():
    model = _detector().train()
    losses = model([_input(1, 0), _input(2, 0)])
    assert losses["loss_box"] == 0 and losses["loss_cls"] > 0
    sum(losses.values()).backward()
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in model.parameters())


def test_detections_keep_detectron2s_form():
    model = _detector(SCORE_THRESH_TEST=0.0).eval()
    item = _input(3, 2) | {"height": 128, "width": 192}
    with torch.no_grad():
        found = model([item])[0]["instances"]
    assert found.image_size == (128, 192)
    assert 0 < len(found) <= 100
    assert (found.scores.diff() <= 0).all()
    boxes = found.pred_boxes.tensor
    assert (boxes >= 0).all() and (boxes[:, 2] <= 192).all() and (boxes[:, 3] <= 128).all()
    assert not found.scores.requires_grad


def test_two_images_are_learnt_by_heart():
    model = _detector().train()
    inputs = [_input(7, 2), _input(8, 2)]
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    history = []
    for _ in range(60):
        losses = model(inputs)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
        history.append(losses["loss_box"].item())
    assert history[-1] < 0.25 * history[0]
    model.eval()
    with torch.no_grad():
        results = model(inputs)
    for item, result in zip(inputs, results, strict=True):
        found = result["instances"]
        truth = item["instances"]
        for box, label in zip(truth.gt_boxes, truth.gt_classes, strict=True):
            same = found.pred_boxes.tensor[found.pred_classes == label]
            assert _best_iou(same, box) > 0.7


def _best_iou(boxes: torch.Tensor, box: torch.Tensor) -> float:
    return box_iou(boxes, box[None]).max().item() if len(boxes) else 0.0


def test_the_loss_is_a_bce_where_the_focus_is_off():
    logits, targets = torch.randn(50), torch.rand(50)
    torch.testing.assert_close(
        quality_focal_loss(logits, targets, beta=0.0),
        F.binary_cross_entropy_with_logits(logits, targets, reduction="none"),
    )


@pytest.mark.parametrize(
    "options",
    [
        {"ASSIGNER": "atss"},
        {"ASSIGNER": "simota"},
        {"BOX_LOSS": "diou"},
        {"BOX_LOSS": "ciou"},
        {"CLS_FOCUS": 0.0},
    ],
)
def test_alternatives_start_as_they_say_and_learn(options):
    model = _detector(**options).train()
    inputs = [_input(7, 2), _input(8, 2)]
    expected = model.expected_initial_losses(inputs)
    losses = model(inputs)
    for name, value in losses.items():
        assert expected[name][0] < value.item() < expected[name][1], name
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    first = losses["loss_box"].item()
    for _ in range(15):
        losses = model(inputs)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
    assert losses["loss_box"].item() < 0.9 * first


@pytest.mark.parametrize("key", ["ASSIGNER", "BOX_LOSS"])
def test_a_name_that_is_none_is_refused(key):
    with pytest.raises(InputError, match=key):
        _detector(**{key: "best"})
