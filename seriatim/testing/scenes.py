"""Random datasets in COCO's form with noisy detections on them, to test measures with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

WIDTH, HEIGHT = 400, 300  # px of every image


def random_scene(
    seed: int, *, images: int = 8, objects: int = 14, categories: int = 3, crowds: float = 0.15
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A COCO dataset with boxes, masks, three keypoints, crowds and one category that is never
    used, and detections in COCO's results format: near hits, doubles, wrong classes and false
    alarms.

    `objects` is an upper limit per image, `crowds` the share of annotations that are crowds.
    """
    rng = np.random.default_rng(seed)
    truth, found = [], []
    for image in range(1, images + 1):
        for _ in range(rng.integers(0, objects)):
            box = _scatter(rng)
            category = int(rng.integers(1, categories + 1))
            truth.append(
                {
                    "id": len(truth) + 1,
                    "image_id": image,
                    "category_id": category,
                    "iscrowd": int(rng.random() < crowds),
                    "area": box[2] * box[3] * rng.uniform(0.5, 1),
                    **_shape(box, rng.choice([0, 1, 2], 3)),
                }
            )
            for _ in range(rng.integers(0, 4)):
                near = box + rng.normal(0, 0.08, 4) * np.tile(box[2:], 2)
                near[2:] = near[2:].clip(1)
                right = rng.random() < 0.8
                found.append(_detection(rng, image, near, category if right else 1))
        found += [_detection(rng, image, _scatter(rng), 2) for _ in range(rng.integers(0, 3))]
    names = [{"id": i, "name": f"c{i}"} for i in range(1, categories + 2)]
    sizes = [{"id": i, "width": WIDTH, "height": HEIGHT} for i in range(1, images + 1)]
    return {"images": sizes, "annotations": truth, "categories": names}, found


def _scatter(rng: np.random.Generator) -> np.ndarray:
    width, height = rng.uniform(4, 150, 2)
    return np.array([rng.uniform(0, WIDTH - width), rng.uniform(0, HEIGHT - height), width, height])


def _shape(box: np.ndarray, visible: Sequence[int]) -> dict[str, Any]:
    x, y, w, h = (float(v) for v in box)
    points = [
        v
        for t, seen in zip((0.2, 0.5, 0.9), visible, strict=True)
        for v in (x + t * w, y + t * h, int(seen))
    ]
    return {
        "bbox": [x, y, w, h],
        "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]],
        "keypoints": points,
        "num_keypoints": int(np.count_nonzero(visible)),
    }


def _detection(
    rng: np.random.Generator, image: int, box: np.ndarray, category: int
) -> dict[str, Any]:
    # Scores on a coarse grid, so that ties occur.
    score = round(float(rng.random()), 1)
    values = _shape(box, [2, 2, 2])
    values["segmentation"] = _run_lengths(values["segmentation"])
    return {"image_id": image, "category_id": category, "score": score, **values}


def _run_lengths(polygons: list[list[float]]) -> dict[str, Any]:
    from faster_coco_eval.core import mask

    runs = mask.merge(mask.frPyObjects(polygons, HEIGHT, WIDTH))
    return {**runs, "counts": runs["counts"].decode("ascii")}
