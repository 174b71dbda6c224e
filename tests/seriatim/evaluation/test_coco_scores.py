"""faster-coco-eval, as we read it, against pycocotools itself."""

import contextlib
import copy
import io
import math
import warnings

import numpy as np
import pytest

from seriatim.evaluation.coco_scores import can_score, ground_truth, score_detections
from seriatim.testing.scenes import random_scene

SIGMAS = (0.03, 0.05, 0.08)


def reference(dataset, found, task, limit=100):
    """pycocotools' twelve (ten for keypoints) numbers and its per-category AP, in percent."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    if task == "segm":
        found = [{k: v for k, v in d.items() if k != "bbox"} for d in found]
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pycocotools' own, about NumPy 2
        truth = COCO()
        truth.dataset = copy.deepcopy(dataset)
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(copy.deepcopy(found)), task)
        if task == "keypoints":
            evaluation.params.kpt_oks_sigmas = np.array(SIGMAS)
        else:
            evaluation.params.maxDets = [1, min(10, limit), limit]
        evaluation.evaluate()
        evaluation.accumulate()
        if limit == 100:
            evaluation.summarize()
    precision = evaluation.eval["precision"]
    each = [precision[:, :, k, 0, -1] for k in range(precision.shape[2])]
    each = [100 * p[p > -1].mean() if (p > -1).any() else math.nan for p in each]
    stats = [100 * s if s > -1 else math.nan for s in evaluation.stats]
    return stats, each, precision


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("task", ["bbox", "segm", "keypoints"])
def test_all_numbers_equal_those_of_pycocotools(seed, task):
    dataset, found = random_scene(seed)
    stats, each, _ = reference(dataset, found, task)
    scores = score_detections(ground_truth(dataset), found, task, keypoint_sigmas=SIGMAS)
    assert list(scores.overall.values()) == pytest.approx(stats, abs=1e-9, nan_ok=True)
    ours = [c.ap for c in scores.categories]
    assert ours == pytest.approx(each[: len(ours)], abs=1e-9, nan_ok=True)


@pytest.mark.parametrize("limit", [5, 300])
def test_the_limit_of_detections_is_the_one_asked_for(limit):
    dataset, found = random_scene(0, images=1, objects=180, categories=1)
    _, _, precision = reference(dataset, found, "bbox", limit)
    expected = 100 * precision[:, :, :, 0, -1][precision[:, :, :, 0, -1] > -1].mean()
    scores = score_detections(ground_truth(dataset), found, max_detections=limit)
    assert scores.overall["AP"] == pytest.approx(expected, abs=1e-9)
    at_100 = score_detections(ground_truth(dataset), found).overall["AP"]
    assert (scores.overall["AP"] > at_100 + 1) == (limit > 100)  # 100 would cut a dense scene off


def test_no_detections_score_zero_where_there_are_objects_and_nan_where_there_are_none():
    dataset, _ = random_scene(1)
    scores = score_detections(ground_truth(dataset), [])
    assert scores.overall["AP"] == 0 and scores.overall["AR"] == 0
    assert [c.ap for c in scores.categories] == pytest.approx([0, 0, 0, math.nan], nan_ok=True)
    assert scores.categories[3].objects == 0


def test_no_objects_at_all_give_nan():
    dataset, found = random_scene(2)
    scores = score_detections(ground_truth({**dataset, "annotations": []}), found)
    assert math.isnan(scores.overall["AP"])


def test_an_annotation_of_id_0_counts_like_any_other():
    dataset, found = random_scene(3)
    expected = score_detections(ground_truth(dataset), found).overall
    for annotation in dataset["annotations"]:
        annotation["id"] -= 1
    assert score_detections(ground_truth(dataset), found).overall == pytest.approx(expected)


def test_missing_area_and_iscrowd_are_filled_in():
    dataset, found = random_scene(4, crowds=0.0)
    for annotation in dataset["annotations"]:
        annotation["area"] = annotation["bbox"][2] * annotation["bbox"][3]
    expected = score_detections(ground_truth(dataset), found).overall
    for annotation in dataset["annotations"]:
        del annotation["area"], annotation["iscrowd"]
    assert score_detections(ground_truth(dataset), found).overall == pytest.approx(expected)


def test_what_annotations_can_measure():
    dataset, _ = random_scene(5)
    assert all(can_score(ground_truth(dataset), task) for task in ("bbox", "segm", "keypoints"))
    for annotation in dataset["annotations"]:
        del annotation["segmentation"]
    assert not can_score(ground_truth(dataset), "segm")


def test_rotated_boxes_that_stand_upright_score_like_upright_ones():
    dataset, found = random_scene(6)
    expected = score_detections(ground_truth(dataset), found).overall
    for item in (*dataset["annotations"], *found):
        x, y, w, h = item["bbox"]
        item["bbox"] = [x + w / 2, y + h / 2, w, h, 0.0]
    ours = score_detections(ground_truth(dataset), found).overall
    assert ours == pytest.approx(expected, abs=0.2)


def test_a_wrong_angle_costs_precision():
    box = [100.0, 100, 80, 10, 30]
    dataset = {
        "images": [{"id": 1, "width": 400, "height": 300}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": box}],
        "categories": [{"id": 1, "name": "ship"}],
    }
    for angle, expected in ((30, 100), (210, 100), (-60, 0)):
        found = [{"image_id": 1, "category_id": 1, "score": 0.9, "bbox": [*box[:4], angle]}]
        assert score_detections(ground_truth(dataset), found).overall["AP"] == pytest.approx(
            expected
        )
