"""The dynamic mask head: its arithmetic, where it looks, its loss, and masks from end to end."""

import functools
import math

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import BitMasks, Boxes, Instances, PolygonMasks
from torch.nn import functional as F

from dataset_tools.errors import InputError
from seriatim.modeling.heads.mask import DynamicMaskHead, mask_loss, take_turns

from .support import small_detector


def _head(**options) -> DynamicMaskHead:
    torch.manual_seed(0)
    defaults = {"width": 16, "tower_convs": 1, "channels": 4, "num_convs": 3, "resolution": 14}
    return DynamicMaskHead(
        ShapeSpec(channels=6, stride=8), embedding_channels=5, **(defaults | options)
    )


_detector = functools.partial(small_detector, levels=(2, 3, 4), masks=True, NUM_CLASSES=2)


def _discs(height: int, width: int, discs: list[tuple[float, float, float]]) -> torch.Tensor:
    """(n, H, W) bool: pixels whose centre lies in a disc (x, y, radius)."""
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    return torch.stack([(x - cx) ** 2 + (y - cy) ** 2 < r * r for cx, cy, r in discs])


def _drawn(discs: list[tuple[float, float, float]], height: int = 96, width: int = 128) -> dict:
    """An image of bright discs, the first of class 0, the others of class 1."""
    masks = _discs(height, width, discs)
    image = torch.full((3, height, width), 40, dtype=torch.uint8)
    for number, mask in enumerate(masks):
        image[0 if number == 0 else 1, mask] = 220
    instances = Instances((height, width))
    instances.gt_masks = BitMasks(masks)
    instances.gt_boxes = instances.gt_masks.get_bounding_boxes()
    instances.gt_classes = torch.tensor([min(i, 1) for i in range(len(discs))])
    return {"image": image, "instances": instances, "height": height, "width": width}


DISCS = [(30.0, 30.0, 18.0), (80.0, 60.0, 26.0), (108.0, 20.0, 11.0)]


# The head


@pytest.mark.parametrize("num_convs", [1, 2, 3])
def test_each_object_has_convolutions_of_its_own(num_convs):
    """Against a loop over objects with torch's convolution."""
    head = _head(num_convs=num_convs)
    torch.nn.init.normal_(head.controller.weight)
    features = torch.randn(2, 4, 9, 11)
    boxes = [torch.tensor([[3.0, 5.0, 60.0, 40.0], [10.0, 10.0, 26.0, 50.0]]), torch.rand(1, 4)]
    boxes[1][:, 2:] += 30
    embeddings = [torch.randn(2, 5), torch.randn(1, 5)]
    masks = head(features, embeddings, boxes)
    assert masks.shape == (3, 14, 14)
    number = 0
    for image in range(2):
        for box, embedding in zip(boxes[image], embeddings[image], strict=True):
            x = _look(features[image], box, 14)
            parameters = head.controller(embedding)
            for layer, (ins, outs) in enumerate(head.shapes):
                weight, parameters = parameters[: ins * outs], parameters[ins * outs :]
                bias, parameters = parameters[:outs], parameters[outs:]
                x = F.conv2d(x, weight.view(outs, ins, 1, 1), bias)
                x = F.relu(x) if layer < num_convs - 1 else x
            torch.testing.assert_close(masks[number], x[0, 0], rtol=1e-4, atol=1e-4)
            number += 1
            assert len(parameters) == 0


def _look(feature: torch.Tensor, box: torch.Tensor, size: int) -> torch.Tensor:
    """(1, C + 2, size, size) by grid_sample: features of stride 8 and the place, in a box."""
    height, width = feature.shape[1:]
    steps = (torch.arange(size) + 0.5) / size
    x, y = box[0] + steps * (box[2] - box[0]), box[1] + steps * (box[3] - box[1])
    grid = torch.stack(
        torch.meshgrid(x / (8 * width) * 2 - 1, y / (8 * height) * 2 - 1, indexing="xy"), -1
    )
    seen = F.grid_sample(feature[None], grid[None], align_corners=False, padding_mode="border")
    place = torch.stack(torch.meshgrid(2 * steps - 1, 2 * steps - 1, indexing="xy"))
    return torch.cat([seen, place[None]], dim=1)


def test_a_ramp_is_seen_where_it_is():
    """A feature that holds the x of its middle gives the x of each cell's middle."""
    head = _head(num_convs=1, channels=1)
    x = (torch.arange(12) + 0.5) * 8
    features = x.expand(1, 1, 10, 12)
    with torch.no_grad():
        head.controller.weight.zero_()
        head.controller.bias.copy_(torch.tensor([1.0, 0.0, 0.0, 0.0]))
        seen = head(features, [torch.zeros(1, 5)], [torch.tensor([[12.5, 9.0, 73.0, 41.0]])])
    expected = 12.5 + (torch.arange(14) + 0.5) / 14 * (73.0 - 12.5)
    torch.testing.assert_close(seen[0], expected.expand(14, 14), rtol=0, atol=1e-3)


def test_the_start_is_undecided_and_alike_for_all():
    head = _head()
    masks = head(
        torch.randn(1, 4, 9, 11), [torch.zeros(2, 5)], [torch.tensor([[0, 0, 60.0, 60]] * 2)]
    )
    assert masks.abs().max() < 0.2
    torch.testing.assert_close(masks[0], masks[1])
    loss = mask_loss(torch.zeros(1, 14, 14), torch.ones(1, 14, 14))
    dice = 1 - (196 + 1) / (49 + 196 + 1)
    assert loss.item() == pytest.approx(math.log(2) + dice, rel=1e-5)


def test_loss_is_its_formula_and_its_gradient_is_right():
    logits = torch.randn(2, 3, 3)
    targets = (torch.rand(2, 3, 3) > 0.5).float()
    for logit, target, loss in zip(logits, targets, mask_loss(logits, targets), strict=True):
        entropy = overlap = squares = 0.0
        for z, t in zip(logit.flatten().tolist(), target.flatten().tolist(), strict=True):
            p = 1 / (1 + math.exp(-z))
            entropy -= (t * math.log(p) + (1 - t) * math.log(1 - p)) / 9
            overlap += 2 * p * t
            squares += p * p + t * t
        assert loss.item() == pytest.approx(entropy + 1 - (overlap + 1) / (squares + 1), rel=1e-4)
    certain = mask_loss((2 * targets - 1) * 30, targets)
    torch.testing.assert_close(certain, torch.zeros(2), rtol=0, atol=1e-5)
    assert mask_loss(logits.bfloat16(), targets).dtype == torch.float32


def test_points_take_turns():
    objects = torch.tensor([0, 0, 0, 1, 1, 2])
    quality = torch.tensor([0.3, 0.9, 0.5, 0.1, 0.2, 0.8])
    assert take_turns(objects, quality, 10).tolist() == [1, 5, 4, 2, 3, 0]
    assert take_turns(objects, quality, 3).tolist() == [1, 5, 4]
    assert take_turns(objects[:0], quality[:0], 3).tolist() == []


# The detector


def test_a_known_mask_is_found_and_pasted_where_it_is(monkeypatch):
    """Mask features that hold how deep each point lies in a disc give the drawn disc, at the size
    of the network's input and at twice that, as for an image that was halved."""
    model = _detector(MASK_CONVS=1, MASK_RESOLUTION=56).eval()
    x, y, radius = 61.0, 43.5, 25.0
    item = _drawn([(x, y, radius)])
    stride = model.strides[0]
    rows, columns = torch.meshgrid(torch.arange(24), torch.arange(32), indexing="ij")
    middle = (torch.stack([columns, rows]) + 0.5) * stride
    depth = radius - ((middle[0] - x) ** 2 + (middle[1] - y) ** 2).sqrt()
    features = torch.cat([depth[None], torch.zeros(7, 24, 32)])[None]
    monkeypatch.setattr(model.mask_head, "features", lambda level: features)
    with torch.no_grad():
        model.mask_head.controller.weight.zero_()
        model.mask_head.controller.bias.zero_()
        model.mask_head.controller.bias[0] = 1.0
    box = torch.tensor([x - radius - 1.3, y - radius - 0.6, x + radius + 1.7, y + radius + 0.9])
    logits, distances, embeddings = (
        [torch.full((1, c, 96 // s, 128 // s), fill) for s in model.strides]
        for c, fill in ((2, -20.0), (4, 1.0), (16, 0.0))
    )
    logits[0][0, 1, 10, 15] = 20.0  # of the point (62, 42)
    edges = torch.stack([62 - box[0], 42 - box[1], box[2] - 62, box[3] - 42])
    distances[0][0, :, 10, 15] = edges / stride
    for scale in (1, 2):
        images = model.preprocess_image([item])
        found = model.forward_inference(images, [torch.zeros(0)], (logits, distances, embeddings))
        mask = detector_postprocess(found[0], 96 * scale, 128 * scale).pred_masks
        assert mask.shape == (1, 96 * scale, 128 * scale)
        drawn = _discs(96 * scale, 128 * scale, [(x * scale, y * scale, radius * scale)])[0]
        assert _iou(mask[0], drawn) > 0.98
        # Of a shift by half a feature, or half a pixel, the middle would tell.
        for axis in (0, 1):
            assert _middle(mask[0], axis) == pytest.approx(_middle(drawn, axis), abs=0.05)


def _iou(a: torch.Tensor, b: torch.Tensor) -> float:
    return ((a & b).sum() / (a | b).sum()).item()


def _middle(mask: torch.Tensor, axis: int) -> float:
    return (mask.nonzero()[:, axis].float() + 0.5).mean().item()


def test_bitmasks_and_polygons_teach_the_same():
    square = torch.zeros(1, 64, 96, dtype=torch.bool)
    square[0, 16:48, 24:72] = True
    item = _drawn(DISCS[:1], 64, 96)
    losses = []
    for masks in (
        BitMasks(square),
        PolygonMasks([[torch.tensor([24.0, 16, 72, 16, 72, 48, 24, 48]).numpy()]]),
    ):
        instances = Instances((64, 96), gt_boxes=Boxes(torch.tensor([[24.0, 16, 72, 48]])))
        instances.gt_classes, instances.gt_masks = torch.tensor([0]), masks
        model = _detector().train()
        losses.append(model([item | {"instances": instances}])["loss_mask"].item())
    assert losses[0] == pytest.approx(losses[1], rel=0.01) and losses[0] > 0


def test_mask_gradients_reach_every_part_and_not_other_images():
    model = _detector().train()
    with torch.no_grad():
        model.mask_head.controller.weight.normal_(std=0.1)
    inputs = [_drawn(DISCS[:2]), _drawn(DISCS[2:])]
    model(inputs)["loss_mask"].backward()
    for name in ("mask_head", "head.box_tower", "backbone"):
        gradients = [p.grad for p in model.get_submodule(name).parameters() if p.requires_grad]
        assert any(g is not None and g.abs().sum() > 0 for g in gradients), name
    assert all(p.grad is not None for p in model.mask_head.parameters())


def test_memory_is_bounded_by_the_points():
    model = _detector(MASK_POINTS=5).train()
    counts = []
    model.mask_head.register_forward_hook(lambda m, i, o: counts.append([len(b) for b in i[2]]))
    model([_drawn(DISCS), _drawn(DISCS[:1])])
    assert counts[0][0] == 5 and 0 < counts[0][1] <= 5


def test_images_without_objects_or_detections():
    model = _detector().train()
    item = _drawn(DISCS)
    empty = item | {"instances": item["instances"][:0]}
    losses = model([empty, empty])
    assert losses["loss_mask"] == 0
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in model.mask_head.parameters())
    model.eval().test_score_thresh = 1.0
    with torch.no_grad():
        found = model([item])[0]["instances"]
    assert found.pred_masks.shape == (0, 96, 128)


def test_expected_initial_losses_hold():
    model = _detector().train()
    inputs = [_drawn(DISCS), _drawn(DISCS[:2])]
    expected = model.expected_initial_losses(inputs)
    assert set(expected) == {"loss_cls", "loss_box", "loss_mask"}
    for name, value in model(inputs).items():
        low, high = expected[name]
        assert low < value.item() < high, name


def test_a_drawn_image_is_learnt_by_heart():
    model = _detector(MASK_CHANNELS=6).train()
    inputs = [_drawn(DISCS)]
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(80):
        losses = model(inputs)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        found = model(inputs)[0]["instances"]
    assert found.pred_masks.shape == (len(found), 96, 128) and found.pred_masks.dtype == torch.bool
    truth = inputs[0]["instances"]
    for mask, label in zip(truth.gt_masks.tensor, truth.gt_classes, strict=True):
        ious = [_iou(m, mask) for m in found.pred_masks[found.pred_classes == label]]
        assert max(ious, default=0) > 0.85


@pytest.mark.parametrize("key", ["MASK_CHANNELS", "MASK_CONVS", "MASK_RESOLUTION", "MASK_POINTS"])
def test_a_size_of_nothing_is_refused(key):
    with pytest.raises(InputError, match=key):
        _detector(**{key: 0})
