"""A detector that is right about each tile must, by tiles, be right about the whole image."""

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances, RotatedBoxes
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment
from torch import nn

from dataset_tools.errors import InputError
from seriatim.config import get_cfg
from seriatim.data.augmentations import build_augmentations
from seriatim.evaluation.tiled import TiledModel, merge_tiles, wrap_tiled


class Ideal(nn.Module):
    """Finds the true objects of an image exactly, cut by the image's edges, with an error of its
    own.

    The image tells where it lies: its pixels are their own coordinates.
    """

    def __init__(self, boxes, classes, scores, *, masks=None, keypoints=None, noise=0.0):
        super().__init__()
        self.boxes, self.classes = torch.as_tensor(boxes), torch.as_tensor(classes)
        self.scores, self.masks, self.keypoints = torch.as_tensor(scores), masks, keypoints
        self.noise = noise
        self.calls = []

    def forward(self, inputs):
        self.calls.append(len(inputs))
        return [{"instances": self.look(i["image"], i["height"], i["width"])} for i in inputs]

    def look(self, image, height, width):
        left, top = (int(v) for v in image[:2, 0, 0])
        h, w = image.shape[-2:]
        assert (h, w) == (height, width)
        boxes = self.boxes - torch.tensor([left, top, left, top])
        boxes = torch.stack([boxes[:, i].clip(0, (w, h)[i % 2]) for i in range(4)], dim=1)
        seen = (boxes[:, 2] - boxes[:, 0] > 0.5) & (boxes[:, 3] - boxes[:, 1] > 0.5)
        boxes = boxes + self.noise * torch.randn(boxes.shape, dtype=boxes.dtype)
        result = Instances((h, w), pred_boxes=Boxes(boxes[seen]), scores=self.scores[seen])
        result.pred_classes = self.classes[seen]
        if self.masks is not None:
            result.pred_masks = self.masks[seen][:, top : top + h, left : left + w]
        if self.keypoints is not None:
            points = self.keypoints[seen] - torch.tensor([left, top, 0.0])
            inside = (points[..., :2] >= 0).all(-1) & (points[..., 0] <= w) & (points[..., 1] <= h)
            points[..., 2] = torch.where(inside, 0.9, 0.1)
            points[..., 0].clip_(0, w)
            points[..., 1].clip_(0, h)
            result.pred_keypoints = points
        return result


def coordinates(height, width):
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([columns, rows, torch.zeros_like(rows)]).float()


def infer(model, image_height, image_width, **output):
    tiled = TiledModel(model, 100, 0.4, max_detections=1000).eval()
    (result,) = tiled([{"image": coordinates(image_height, image_width), **output}])
    return result["instances"]


def sorted_rows(instances):
    rows = torch.cat([instances.pred_boxes.tensor, instances.pred_classes[:, None]], 1).double()
    return sorted(rows.round(decimals=3).tolist())


def scatter(rng, count, height, width, low, high):
    sides = rng.uniform(low, high, (count, 2)).clip(max=(width - 1, height - 1))
    corner = rng.uniform(0, 1, (count, 2)) * ((width, height) - sides)
    return np.concatenate([corner, corner + sides], axis=1)


def expect(instances, boxes, classes):
    """The same boxes and classes, in any order."""
    expected = np.concatenate([boxes, classes[:, None]], axis=1)
    got = np.array(sorted_rows(instances)).reshape(-1, 5)
    assert got.shape == expected.shape
    difference = np.abs(got[:, None] - expected[None]).max(axis=2)
    rows, columns = linear_sum_assignment(difference)
    assert difference[rows, columns].max(initial=0) < 2e-3


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10**9), st.integers(101, 330), st.integers(60, 330))
def test_objects_up_to_the_overlap_come_back_exactly_even_when_they_overlap(seed, height, width):
    rng = np.random.default_rng(seed)
    boxes = scatter(rng, 40, height, width, 3, 39)
    classes = rng.integers(0, 2, 40)
    # Near doubles of the same class, which plain suppression would take for one object.
    boxes = np.concatenate([boxes, np.clip(boxes[:8] + rng.uniform(1, 3, (8, 4)), 0, None)])
    boxes[:, 0::2], boxes[:, 1::2] = boxes[:, 0::2].clip(0, width), boxes[:, 1::2].clip(0, height)
    classes = np.concatenate([classes, classes[:8]])
    wide = (boxes[:, 2:] - boxes[:, :2] > 2).all(1) & (boxes[:, 2:] - boxes[:, :2] <= 39.5).all(1)
    boxes, classes = boxes[wide], classes[wide]
    found = infer(Ideal(boxes, classes, rng.random(len(boxes))), height, width)
    expect(found, boxes, classes)


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 10**9))
def test_objects_larger_than_a_tile_are_put_together(seed):
    rng = np.random.default_rng(seed)
    height, width = rng.integers(150, 400, 2)
    boxes = []
    for box in scatter(rng, 30, height, width, 5, 300):
        apart = all((box[:2] >= o[2:] + 4).any() or (box[2:] + 4 <= o[:2]).any() for o in boxes)
        if apart:
            boxes.append(box)
    boxes, classes = np.array(boxes), np.zeros(len(boxes), int)
    found = infer(Ideal(boxes, classes, rng.random(len(boxes))), int(height), int(width))
    expect(found, boxes, classes)


def test_an_inaccurate_detector_gives_no_doubles_and_loses_nothing():
    torch.manual_seed(0)
    rng = np.random.default_rng(1)
    steps = np.arange(10, 380, 30.0)
    corners = np.stack(np.meshgrid(steps, steps), -1).reshape(-1, 2)
    boxes = np.concatenate([corners, corners + rng.uniform(14, 24, corners.shape)], axis=1)
    model = Ideal(boxes, np.zeros(len(boxes), int), rng.random(len(boxes)), noise=0.7)
    assert len(infer(model, 400, 400)) == len(boxes)


def test_masks_and_keypoints_come_back_whole():
    # The first is wider than two tiles.
    boxes = np.array([[20.0, 30, 260, 90], [150, 150, 180, 190]])
    masks = torch.zeros(2, 220, 300, dtype=torch.bool)
    masks[0, 30:90, 20:260] = True
    masks[0, 40:50, 100:200] = False
    masks[1, 150:190, 150:180] = True
    points = torch.tensor([[[25.0, 60, 1], [250, 60, 1]], [[155, 170, 1], [175, 180, 1]]])
    model = Ideal(boxes, np.array([0, 1]), np.array([0.9, 0.8]), masks=masks, keypoints=points)
    found = infer(model, 220, 300)
    assert found.pred_classes.tolist() == [0, 1]
    assert (found.pred_masks == masks).all()
    assert torch.allclose(found.pred_keypoints[..., :2], points[..., :2])


def test_the_result_has_the_size_asked_for():
    boxes = np.array([[20.0, 30, 60, 50]])
    masks = torch.zeros(1, 220, 300, dtype=torch.bool)
    masks[0, 30:50, 20:60] = True
    points = torch.tensor([[[30.0, 40, 1]]])
    model = Ideal(boxes, np.array([0]), np.array([0.9]), masks=masks, keypoints=points)
    found = infer(model, 220, 300, height=440, width=900)
    assert found.image_size == (440, 900)
    assert found.pred_boxes.tensor[0].tolist() == [60, 60, 180, 100]
    assert found.pred_keypoints[0, 0, :2].tolist() == [90, 80]
    assert abs(int(found.pred_masks.sum()) - 120 * 40) < 200


def test_a_small_image_goes_through_unchanged_and_large_ones_in_batches():
    model = Ideal(np.array([[1.0, 1, 9, 9]]), np.array([0]), np.array([0.9]))
    tiled = TiledModel(model, 100, 0.4, batch_size=3).eval()
    tiled([{"image": coordinates(90, 100), "height": 90, "width": 100}])
    assert model.calls == [1]
    tiled([{"image": coordinates(100, 300)}])
    assert model.calls[1:] == [3, 2]


def test_a_tile_is_resized_as_an_image_of_its_own():
    class Sizes(nn.Module):
        seen = []

        def forward(self, inputs):
            self.seen += [(tuple(i["image"].shape), i["height"], i["width"]) for i in inputs]
            empty = Instances((1, 1), pred_boxes=Boxes(torch.zeros(0, 4)), scores=torch.zeros(0))
            empty.pred_classes = torch.zeros(0, dtype=torch.long)
            return [{"instances": empty} for _ in inputs]

    cfg = get_cfg()
    cfg.SERIATIM.EVAL.TILE, cfg.INPUT.MIN_SIZE_TEST = 100, 150
    tiled = wrap_tiled(cfg, Sizes().eval())
    image = torch.zeros(3, 100, 220, dtype=torch.uint8)
    (result,) = tiled([{"image": image}])
    assert len(Sizes.seen) == 3 and set(Sizes.seen) == {((3, 150, 150), 100, 100)}
    assert result["instances"].image_size == (100, 220)
    tiled([{"image": image[:, :50, :100]}])
    assert Sizes.seen[-1] == ((3, 150, 300), 50, 100)
    assert build_augmentations(cfg, is_train=False) == []


def test_only_the_best_are_kept():
    boxes = scatter(np.random.default_rng(0), 30, 300, 300, 5, 9)
    model = Ideal(boxes, np.arange(30), np.linspace(0, 1, 30))
    found = TiledModel(model, 100, 0.4, max_detections=7).eval()([{"image": coordinates(300, 300)}])
    assert found[0]["instances"].scores.tolist() == pytest.approx(np.linspace(0, 1, 30)[:-8:-1])


def test_a_part_of_what_a_neighbour_sees_whole_and_does_not_confirm_is_dropped():
    tiles = [(0, 0, 100, 100), (60, 0, 160, 100)]

    def one(box, score=0.9):
        i = Instances((100, 100), pred_boxes=Boxes(torch.tensor([box]).reshape(-1, 4)))
        i.scores = torch.full((len(i.pred_boxes),), score)
        i.pred_classes = torch.zeros(len(i.pred_boxes), dtype=torch.long)
        return i

    cut, nothing = one([80.0, 10, 100, 30]), one([])
    assert len(merge_tiles([cut, nothing], tiles, (100, 160))) == 0
    whole = one([70.0, 10, 90, 30])
    assert len(merge_tiles([whole, nothing], tiles, (100, 160))) == 1
    at_the_images_edge = one([0.0, 10, 20, 30])
    assert len(merge_tiles([at_the_images_edge, nothing], tiles, (100, 160))) == 1
    larger_than_the_overlap = one([30.0, 10, 100, 30])
    assert len(merge_tiles([larger_than_the_overlap, nothing], tiles, (100, 160))) == 1


def test_rotated_boxes():
    tiles = [(0, 0, 100, 100), (60, 0, 160, 100)]
    found = []
    for left, box in ((0, [80.0, 40, 20, 8, 30]), (60, [20.0, 40, 20, 8, 30])):
        i = Instances((100, 100), pred_boxes=RotatedBoxes(torch.tensor([box])))
        i.scores, i.pred_classes = torch.tensor([0.5 + left / 1000]), torch.tensor([0])
        found.append(i)
    merged = merge_tiles(found, tiles, (100, 160))
    assert merged.pred_boxes.tensor.tolist() == [[80, 40, 20, 8, 30]]
    assert isinstance(merged.pred_boxes, RotatedBoxes)


def test_a_model_without_instances_is_named():
    class Semantic(nn.Module):
        def forward(self, inputs):
            return [{"sem_seg": torch.zeros(2, 9, 9)} for _ in inputs]

    with pytest.raises(InputError, match="sem_seg"):
        TiledModel(Semantic(), 100).eval()([{"image": torch.zeros(3, 200, 200)}])


def test_the_config_decides():
    cfg, model = get_cfg(), nn.Identity()
    assert wrap_tiled(cfg, model) is model
    cfg.SERIATIM.EVAL.TILE = 320
    assert wrap_tiled(cfg, model).tile == 320
