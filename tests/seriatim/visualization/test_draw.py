"""Lines lie where the boxes are, and nothing else changes."""

import time
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from seriatim.visualization import palette
from seriatim.visualization.draw import (
    draw_instances,
    draw_panoptic,
    draw_predictions,
    draw_semantic,
    legend,
)
from seriatim.visualization.image import to_rgb8
from seriatim.visualization.items import Item, compact, scaled, to_items

GREY = np.full((500, 600, 3), 90, np.uint8)
TWO = SimpleNamespace(thing_classes=["cat", "dog"])


def changed(before, after):
    return (before.astype(int) != after).any(axis=2)


def test_a_box_is_drawn_inside_its_own_edges_and_nothing_outside_its_shadow():
    box = {"bbox": [100, 120, 200, 180], "bbox_mode": 1, "category_id": 1}
    picture = draw_instances(GREY, [box], TWO, labels=False)
    rows, columns = changed(GREY, picture).nonzero()
    line = (picture == palette.color(1)).all(axis=2)
    ys, xs = line.nonzero()
    assert (xs.min(), xs.max()) == (100, 299)  # XYWH: the last pixel inside is 100 + 200 - 1
    assert (ys.min(), ys.max()) == (120, 299)
    assert rows.min() >= 118 and rows.max() <= 301 and columns.min() >= 98 and columns.max() <= 301
    assert not line[140:280, 120:280].any()


def test_the_image_given_is_left_alone():
    image = GREY.copy()
    draw_instances(image, [{"bbox": [10, 10, 99, 99], "category_id": 0}], TWO)
    assert (image == GREY).all()


def test_a_mask_is_blended_inside_itself_only():
    mask = np.zeros((500, 600), bool)
    mask[50:100, 60:160] = True
    picture = draw_instances(GREY, [{"segmentation": mask, "category_id": 0}], TWO, labels=False)
    difference = changed(GREY, picture)
    assert difference[50:100, 60:160].all()
    assert not difference[:46].any() and not difference[:, 165:].any()


def test_polygons_and_run_lengths_draw_the_same_region():
    from pycocotools import mask as rle

    square = [20.0, 30.0, 80.0, 30.0, 80.0, 70.0, 20.0, 70.0]
    runs = rle.merge(rle.frPyObjects([square], 500, 600))
    by_polygon = draw_instances(GREY, [{"segmentation": [square]}], labels=False)
    by_runs = draw_instances(GREY, [{"segmentation": runs}], labels=False)
    inner = np.s_[34:66, 24:76]
    assert (by_polygon[inner] == by_runs[inner]).all()
    assert changed(GREY, by_polygon)[inner].all()
    assert abs(changed(GREY, by_polygon).sum() - changed(GREY, by_runs).sum()) < 300


def test_a_rotated_box_turns_counter_clockwise():
    # Detectron2: 90 degrees counter-clockwise swaps the sides of a box about its centre.
    upright = Item(box=np.array([50.0, 40, 20, 10, 0])).corners()
    turned = Item(box=np.array([50.0, 40, 20, 10, 90])).corners()
    assert upright[0] == pytest.approx((40, 35))
    # Its top edge, seen in the image (y down), turns to the left.
    assert turned[0] == pytest.approx((45, 50)) and turned[1] == pytest.approx((45, 30))
    slanted = Item(box=np.array([50.0, 40, 20, 10, 45])).corners()
    assert slanted[1][1] < slanted[0][1]  # the right end of the top edge goes up


def test_thousands_of_boxes_take_seconds_not_minutes_and_lose_their_labels():
    rng = np.random.default_rng(0)
    boxes = [
        {"bbox": [x, y, 12, 12], "category_id": int(c)}
        for x, y, c in rng.integers(0, (1900, 1900, 80), (5000, 3))
    ]
    image = np.zeros((2000, 2000, 3), np.uint8)
    start = time.perf_counter()
    with_labels = draw_instances(image, boxes)
    assert time.perf_counter() - start < 10
    assert (with_labels == draw_instances(image, boxes, labels=False)).all()


def test_tiny_images_are_enlarged_by_a_whole_factor():
    tiny = np.arange(16 * 20, dtype=np.uint8).reshape(16, 20)
    picture = draw_instances(tiny, [])
    factor = picture.shape[0] // 16
    assert picture.shape == (16 * factor, 20 * factor, 3) and picture.shape[1] >= 400
    assert (picture[::factor, ::factor, 0] == tiny).all()


@pytest.mark.parametrize(
    "image",
    [
        np.arange(60000, dtype=np.uint16).reshape(200, 300),
        np.linspace(-3, 9, 60000, dtype=np.float32).reshape(200, 300),
        np.linspace(0, 1, 60000).reshape(200, 300, 1),
        np.arange(60000).reshape(200, 300) % 2 == 0,
        np.zeros((200, 300), np.uint16),
        np.full((200, 300, 4), np.nan, np.float32),
        np.zeros((200, 300, 2), np.uint8),
    ],
)
def test_every_kind_of_image_becomes_8_bit_rgb(image):
    picture = to_rgb8(image)
    assert picture.shape == (200, 300, 3) and picture.dtype == np.uint8
    if image.dtype != np.uint8 and np.isfinite(image).all() and image.any():
        assert picture.min() <= 2 and picture.max() >= 253


def test_a_threshold_hides_weak_detections_only():
    found = [{"bbox": [9, 9, 50, 50], "score": s, "category_id": 0} for s in (0.2, 0.6)]
    assert len(to_items(found, 0.5)) == 1
    truth = [{"bbox": [9, 9, 50, 50], "category_id": 0}]
    assert len(to_items(truth, 0.5)) == 1


def test_instances_of_training_and_of_prediction():
    torch = pytest.importorskip("torch")
    from detectron2.structures import BitMasks, Boxes, Instances, Keypoints, PolygonMasks

    truth = Instances((500, 600), gt_boxes=Boxes(torch.tensor([[10.0, 20, 110, 220]])))
    truth.gt_classes = torch.tensor([1])
    truth.gt_masks = PolygonMasks([[np.array([10.0, 20, 110, 20, 110, 220])]])
    truth.gt_keypoints = Keypoints(torch.tensor([[[50.0, 60, 2], [70, 90, 0]]]))
    (item,) = to_items(truth)
    assert item.category == 1 and list(item.box) == [10, 20, 110, 220]
    assert item.polygons[0].shape == (3, 2) and item.keypoints.shape == (2, 3)

    bits = torch.zeros(1, 500, 600, dtype=torch.bool)
    bits[0, 20:220, 10:110] = True
    found = Instances((500, 600), pred_boxes=truth.gt_boxes, scores=torch.tensor([0.9]))
    found.pred_classes = truth.gt_classes
    found.pred_masks = bits
    picture = draw_predictions(GREY, {"instances": found}, TWO)
    assert changed(GREY, picture)[100, 50] and not changed(GREY, picture)[400, 400]
    truth.gt_masks = BitMasks(bits)
    (item,) = to_items(truth)
    assert item.bitmap().sum() == 200 * 100
    packed = compact(item)
    assert not isinstance(packed.mask, np.ndarray) and (packed.bitmap() == item.mask).all()
    assert list(replace(packed, box=None).bounds()) == [10, 20, 110, 220]
    assert scaled(packed, 0.5).mask.sum() == 100 * 50


def test_keypoints_and_their_skeleton():
    person = SimpleNamespace(
        thing_classes=["person", "dog"],
        keypoint_names=["head", "foot", "hand"],
        keypoint_connection_rules=[("head", "foot", (1, 2, 3)), ("head", "hand", (4, 5, 6))],
    )
    points = [100, 100, 2, 100, 300, 1, 0, 0, 0]
    annotation = {"bbox": [50, 50, 200, 300], "keypoints": points, "category_id": 0}
    picture = draw_instances(GREY, [annotation], person, labels=False)
    assert (picture[200, 97:104] == (1, 2, 3)).all(axis=1).any()  # the bone between the two
    assert not (picture == (4, 5, 6)).all(axis=2).any()  # the hand is not labelled


def test_semantic_and_panoptic_maps_are_named_and_ignored_pixels_kept():
    metadata = SimpleNamespace(
        stuff_classes=["sky", "road"], ignore_label=255, thing_classes=["car"]
    )
    classes = np.full((500, 600), 255)
    classes[:200] = 0
    picture = draw_semantic(GREY, classes, metadata)
    assert changed(GREY, picture)[:198].all() and not changed(GREY, picture)[210:].any()
    info = [{"id": 7, "isthing": True, "category_id": 0, "score": 0.8}]
    picture = draw_panoptic(GREY, (classes == 0) * 7, info, metadata)
    assert changed(GREY, picture)[:198].all() and not changed(GREY, picture)[210:].any()


def test_crowds_are_counted_apart():
    items = [Item(category=1), Item(category=1, crowd=True), Item(category=0)]
    assert [word for word, _ in legend(items, TWO)] == ["cat ×1", "dog ×1", "crowd ×1"]


def test_colours_are_stable_and_apart():
    colors = [palette.color(i) for i in range(80)]
    assert len(set(colors)) == 80
    palette.color.cache_clear()
    assert colors == [palette.color(i) for i in range(80)]
    first = np.array(colors[:10], float)
    distances = np.linalg.norm(first[:, None] - first[None], axis=2) + 999 * np.eye(10)
    assert distances.min() > 60


def test_boxes_outside_the_image_and_empty_ones_do_no_harm():
    odd = [
        {"bbox": [-50, -50, 60, 60], "category_id": 0},
        {"bbox": [590, 490, 100, 100], "category_id": 1, "score": 0.5},
        {"bbox": [300, 300, 0, 0], "category_id": 1},
        {"category_id": 0},
        {"bbox": [5000, 5000, 10, 10], "segmentation": [[5000, 5000, 5010, 5000, 5010, 5010]]},
    ]
    assert draw_instances(GREY, odd, TWO).shape == GREY.shape
