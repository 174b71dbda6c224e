"""Matching against COCO's own evaluation; the pass across classes by what it promises."""

import contextlib
import copy
import io
import warnings

import numpy as np
import pytest

from seriatim.testing.scenes import random_scene
from seriatim.visualization.items import Item, item_from_annotation
from seriatim.visualization.match import (
    Outcome,
    best_threshold,
    match,
    match_items,
    pairwise_iou,
)


def items_per_image(dataset, found, fields=("bbox",)):
    keep = {"image_id", "category_id", "score", "iscrowd", *fields}
    for image in dataset["images"]:
        yield (
            image["id"],
            *(
                [
                    item_from_annotation({k: v for k, v in a.items() if k in keep})
                    for a in side
                    if a["image_id"] == image["id"]
                ]
                for side in (dataset["annotations"], found)
            ),
        )


def coco_matches(dataset, found, image_id):
    """pycocotools' matches at IoU 0.5: {detection id: annotation id, or 0}, ignored ids."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        truth = COCO()
        truth.dataset = copy.deepcopy(dataset)
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(copy.deepcopy(found)), "bbox")
        evaluation.params.iouThrs = np.array([0.5])
        evaluation.params.maxDets = [1000]
        evaluation.params.areaRng = [[0, 1e10]]
        evaluation.params.areaRngLbl = ["all"]
        evaluation.evaluate()
    partner, ignored = {}, set()
    for result in evaluation.evalImgs:
        if result and result["image_id"] == image_id:
            pairs = zip(result["dtIds"], result["dtMatches"][0], strict=True)
            partner.update({int(d): int(g) for d, g in pairs})
            flags = zip(result["dtIds"], result["dtIgnore"][0], strict=True)
            ignored |= {int(d) for d, flag in flags if flag}
    return partner, ignored


@pytest.mark.parametrize("seed", range(5))
def test_hits_and_ignored_ones_are_those_of_pycocotools(seed):
    dataset, found = random_scene(seed, crowds=0.3)
    for number, detection in enumerate(found):
        detection["score"] += number * 1e-6  # no ties: COCO's order among them is its own
    for image_id, truth, detections in items_per_image(dataset, found):
        truth_ids = [a["id"] for a in dataset["annotations"] if a["image_id"] == image_id]
        found_ids = [i + 1 for i, d in enumerate(found) if d["image_id"] == image_id]
        partner, ignored = coco_matches(dataset, found, image_id)
        matches = match_items(truth, detections)
        for k, identity in enumerate(found_ids):
            outcome = matches.found[k]
            assert (outcome is Outcome.IGNORED) == (identity in ignored)
            hit = truth_ids[matches.found_partner[k]] if outcome is Outcome.HIT else 0
            assert hit == (0 if identity in ignored else partner[identity])


@pytest.mark.parametrize("seed", range(5))
def test_what_is_left_is_matched_across_classes(seed):
    dataset, found = random_scene(seed)
    seen = set()
    for _, truth, detections in items_per_image(dataset, found):
        matches = match_items(truth, detections)
        iou = pairwise_iou(truth, detections)
        for k, outcome in enumerate(matches.found):
            seen.add(outcome)
            partner = matches.found_partner[k]
            if outcome is Outcome.WRONG_CLASS:
                assert matches.truth[partner] is Outcome.WRONG_CLASS
                assert matches.truth_partner[partner] == k
                assert truth[partner].category != detections[k].category
            if outcome is Outcome.FALSE_ALARM:
                left = [m is Outcome.MISS for m in matches.truth]
                assert not (iou[k][left] >= 0.5).any()
        hits = matches.count(Outcome.HIT)
        objects = sum(not t.crowd for t in truth)
        assert hits + matches.count(Outcome.MISS) + matches.count(Outcome.WRONG_CLASS) == objects
    assert seen == set(Outcome) - {Outcome.MISS}


def test_a_double_detection_is_a_false_alarm_and_the_better_score_hits():
    iou = np.array([[0.9], [0.95]])
    matches = match(iou, [0], [0, 0], [0.8, 0.7], [False])
    assert matches.found == [Outcome.HIT, Outcome.FALSE_ALARM]


def test_a_hit_is_preferred_to_a_better_box_of_the_wrong_class():
    iou = np.array([[0.99, 0.6]])
    matches = match(iou, [1, 0], [0], [0.9], [False, False])
    assert matches.found_partner[0] == 1 and matches.truth == [Outcome.MISS, Outcome.HIT]


def test_nothing_on_either_side():
    matches = match(np.zeros((0, 2)), [0, 1], [], [], [False, True])
    assert matches.truth == [Outcome.MISS, Outcome.IGNORED] and matches.badness == (1, 1)
    assert match(np.zeros((1, 0)), [], [0], [0.5], []).badness == (1, 1)
    assert match(np.zeros((0, 0)), [], [], [], []).badness == (0, 0)


def test_overlap_of_masks_boxes_and_polygons():
    square = np.zeros((20, 20), bool)
    square[5:15, 5:15] = True
    triangle = np.array([(5.0, 5), (15, 5), (5, 15)])
    by_mask = pairwise_iou([Item(mask=square)], [Item(polygons=[triangle])], (20, 20))
    assert by_mask[0, 0] == pytest.approx(0.5, abs=0.06)
    by_box = pairwise_iou([Item(mask=square)], [Item(polygons=[triangle])])
    assert by_box[0, 0] == 1


def test_the_best_threshold_is_the_best_of_all():
    dataset, found = random_scene(3)
    images = [(t, d) for _, t, d in items_per_image(dataset, found)]
    objects = sum(not i.crowd for truth, _ in images for i in truth)

    def f1(threshold):
        hits = shown = 0
        for truth, detections in images:
            kept = [d for d in detections if d.score >= threshold]
            matches = match_items(truth, kept)
            hits += matches.count(Outcome.HIT)
            shown += len(kept) - matches.count(Outcome.IGNORED)
        return 2 * hits / (shown + objects)

    scores = {d.score for _, detections in images for d in detections}
    assert f1(best_threshold(images)) == pytest.approx(max(map(f1, scores)))
    assert best_threshold([]) == 0.5
