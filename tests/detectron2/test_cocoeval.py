"""COCOeval_opt against pycocotools on random scenes with crowds, ignored and small objects."""

import contextlib
import io

import numpy as np
import pytest
from detectron2.evaluation.fast_eval_api import COCOeval_opt
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

IMAGES, CATEGORIES = 12, 3


def _random_scene(seed):
    rng = np.random.default_rng(seed)
    truths, detections = [], []
    for image in range(1, IMAGES + 1):
        for _ in range(rng.integers(0, 9)):
            # Sides from small to large, in COCO's sense.
            x, y, w, h = *rng.uniform(0, 300, 2), *np.exp(rng.uniform(2, 5.3, 2))
            category = int(rng.integers(1, CATEGORIES))  # the last category has no ground truth
            truths.append(
                {
                    "id": len(truths) + 1,
                    "image_id": image,
                    "category_id": category,
                    "bbox": [x, y, w, h],
                    "area": w * h,
                    "iscrowd": int(rng.random() < 0.15),
                    "ignore": int(rng.random() < 0.15),
                    "keypoints": _keypoints(rng, x, y, w, h),
                    "num_keypoints": 17,
                }
            )
            for _ in range(rng.integers(0, 4)):
                jitter = rng.normal(0, 0.08, 4) * [w, h, w, h]
                detections.append(_detection(rng, image, category, np.array([x, y, w, h]) + jitter))
        for _ in range(rng.integers(0, 5)):
            bbox = np.array([*rng.uniform(0, 300, 2), *rng.uniform(5, 90, 2)])
            detections.append(_detection(rng, image, int(rng.integers(1, CATEGORIES + 1)), bbox))
    return truths, detections


def _keypoints(rng, x, y, w, h):
    along, noise = np.linspace(0.05, 0.95, 17), rng.normal(0, 0.02, (2, 17))
    points = [x + w * (along + noise[0]), y + h * (along[::-1] + noise[1]), np.full(17, 2)]
    return np.stack(points, axis=1).ravel().tolist()


def _detection(rng, image, category, bbox):
    bbox[2:] = np.maximum(bbox[2:], 1)
    # Few distinct scores, so that ties happen.
    score = float(rng.integers(1, 12)) / 12
    keypoints = _keypoints(rng, *bbox)
    return {
        "image_id": image,
        "category_id": category,
        "bbox": bbox.tolist(),
        "score": score,
        "keypoints": keypoints,
    }


def _evaluate(evaluator, seed, kind, use_cats=1, max_dets=None):
    truths, detections = _random_scene(seed)
    if kind == "keypoints":
        detections = [{k: v for k, v in d.items() if k != "bbox"} for d in detections]
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {
            "info": {},
            "images": [{"id": i, "width": 400, "height": 400} for i in range(1, IMAGES + 1)],
            "annotations": truths,
            "categories": [{"id": c, "name": str(c)} for c in range(1, CATEGORIES + 1)],
        }
        coco.createIndex()
        evaluation = evaluator(coco, coco.loadRes(detections), kind)
        evaluation.params.useCats = use_cats
        if max_dets:
            evaluation.params.maxDets = max_dets
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("kind", ["bbox", "keypoints"])
def test_equals_pycocotools(seed, kind):
    ours = _evaluate(COCOeval_opt, seed, kind)
    theirs = _evaluate(COCOeval, seed, kind)
    for key in ("precision", "recall", "scores"):
        np.testing.assert_allclose(ours.eval[key], theirs.eval[key], atol=1e-12, err_msg=key)
    # The scene is not trivial: there are hits, misses and categories without ground truth.
    assert 0.02 < ours.eval["precision"][ours.eval["precision"] >= 0].mean() < 0.98
    assert (ours.eval["precision"] == -1).any() or kind == "keypoints"


def test_equals_pycocotools_without_categories_and_with_other_limits():
    settings = {"use_cats": 0, "max_dets": [1, 3, 7]}
    ours = _evaluate(COCOeval_opt, 9, "bbox", **settings)
    theirs = _evaluate(COCOeval, 9, "bbox", **settings)
    for key in ("precision", "recall", "scores"):
        np.testing.assert_allclose(ours.eval[key], theirs.eval[key], atol=1e-12, err_msg=key)


def test_summary_prints_the_same_numbers():
    ours, theirs = (_evaluate(e, 1, "bbox") for e in (COCOeval_opt, COCOeval))
    with contextlib.redirect_stdout(io.StringIO()):
        ours.summarize()
        theirs.summarize()
    np.testing.assert_allclose(ours.stats, theirs.stats, atol=1e-12)
