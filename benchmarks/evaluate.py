"""COCO's measures: ours, pycocotools' and Detectron2's, on the same generated detections.

    python benchmarks/evaluate.py
    python benchmarks/evaluate.py --images 500 --tasks bbox segm

The data have the size of COCO's val2017 and of a detector's answer to it: 5,000 images, 80 classes,
36,000 objects, 109,000 detections. Each takes the content of the JSON file and a list of detections
to the twelve numbers and the AP of each class, and is measured in processor seconds, taking turns.
The largest difference of any number to pycocotools' is printed too. At last the evaluator is fed
image by image, and the memory that it holds meanwhile is measured.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import io
import json
import statistics
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _machine import describe_machine

from dataset_tools import errors

CLASSES = 80
WANTED = 5.0  # times pycocotools' speed
Found = list[dict[str, Any]]
Numbers = np.ndarray  # the twelve, and AP by class, in percent


def main() -> int:
    args = parse()
    print(describe_machine(), flush=True)
    good = True
    for task in args.tasks:
        good &= compare(task, args.images, args.rounds)
    memory(args.images)
    return 0 if good else 1


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--tasks", nargs="+", choices=("bbox", "segm"), default=["bbox"])
    parser.add_argument("--rounds", type=int, default=3)
    return parser.parse_args()


def compare(task: str, images: int, rounds: int) -> bool:
    """Print the seconds of each and how far they differ; whether ours is fast enough."""
    dataset, found = generate(images, masks=task == "segm")
    print(
        f"{task}: {images} images, {len(dataset['annotations'])} objects, {len(found)} detections"
    )
    seconds: dict[str, list[float]] = {name: [] for name in WAYS}
    numbers: dict[str, Numbers] = {}
    for _ in range(rounds):
        for name, way in WAYS.items():
            given = copy.deepcopy(dataset), copy.deepcopy(found)
            with contextlib.redirect_stdout(io.StringIO()):
                start = time.process_time()
                numbers[name] = way(*given, task)
                seconds[name].append(time.process_time() - start)
    ratios = {}
    for name in WAYS:
        pairs = zip(seconds["pycocotools"], seconds[name], strict=True)
        ratios[name] = statistics.median(a / b for a, b in pairs)
        apart = np.nanmax(np.abs(numbers[name] - numbers["pycocotools"]))
        print(
            f"  {name:<12} {statistics.median(seconds[name]):6.2f} s, {ratios[name]:5.2f} times"
            f" pycocotools' speed, largest difference {apart:.1e}",
            flush=True,
        )
    return ratios["ours"] >= WANTED


def generate(images: int, masks: bool = False, seed: int = 0) -> tuple[dict[str, Any], Found]:
    """A COCO dataset and a detector's answer to it: near hits, doubles, false alarms."""
    rng = np.random.default_rng(seed)
    truth, found = [], []
    for image in range(1, images + 1):
        boxes = scatter(rng, rng.poisson(7.2))
        classes = skewed(rng, len(boxes))
        for box, category in zip(boxes, classes, strict=True):
            truth.append(
                {
                    "id": len(truth) + 1,
                    "image_id": image,
                    "category_id": int(category),
                    "iscrowd": int(rng.random() < 0.01),
                    "bbox": box.tolist(),
                    "area": float(box[2] * box[3]),
                    **({"segmentation": [corners(box)]} if masks else {}),
                }
            )
        hits = rng.poisson(1.8, len(boxes))
        near = boxes.repeat(hits, 0)
        near = near + rng.normal(0, 0.08, near.shape) * np.tile(near[:, 2:], 2)
        near[:, 2:] = near[:, 2:].clip(1)
        false = scatter(rng, rng.poisson(8.8))
        labels = np.concatenate([classes.repeat(hits), skewed(rng, len(false))])
        for box, category in zip(np.concatenate([near, false]), labels, strict=True):
            found.append(
                {
                    "image_id": image,
                    "category_id": int(category),
                    "score": round(float(rng.random()), 4),
                    "bbox": box.tolist(),
                    **({"segmentation": run_lengths(box)} if masks else {}),
                }
            )
    return {
        "images": [{"id": i, "width": 640, "height": 480} for i in range(1, images + 1)],
        "annotations": truth,
        "categories": [{"id": i, "name": f"class {i}"} for i in range(1, CLASSES + 1)],
    }, found


def scatter(rng: np.random.Generator, count: int) -> np.ndarray:
    """(count, 4) XYWH boxes, from small to large."""
    sides = np.exp(rng.uniform(np.log(8), np.log(400), (count, 2)))
    return np.concatenate([rng.uniform(0, 1, (count, 2)) * ([640, 480] - sides / 2), sides], axis=1)


def skewed(rng: np.random.Generator, count: int) -> np.ndarray:
    """(count,) classes from 1, some of them much more frequent than others."""
    weights = 1 / np.arange(1, CLASSES + 1)
    return rng.choice(CLASSES, count, p=weights / weights.sum()) + 1


def corners(box: Sequence[float]) -> list[float]:
    x, y, w, h = (float(v) for v in box)
    return [x, y, x + w, y, x + w, y + h, x, y + h]


def run_lengths(box: Sequence[float]) -> dict[str, Any]:
    from pycocotools import mask

    runs = mask.merge(mask.frPyObjects([corners(box)], 480, 640))
    return {**runs, "counts": runs["counts"].decode("ascii")}


# The ways


def ours(dataset: dict[str, Any], found: Found, task: str) -> Numbers:
    from seriatim.evaluation.coco_scores import ground_truth, score_detections

    scores = score_detections(ground_truth(dataset), found, task)
    return np.array([*scores.overall.values(), *(c.ap for c in scores.categories)])


def pycocotools(dataset: dict[str, Any], found: Found, task: str) -> Numbers:
    from pycocotools.cocoeval import COCOeval

    evaluation = COCOeval(*_indexed(dataset, found, task), task)
    return _numbers(evaluation)


def detectron2(dataset: dict[str, Any], found: Found, task: str) -> Numbers:
    """By its COCOeval_opt, which an environment has compiled or replaced."""
    from detectron2.evaluation.fast_eval_api import COCOeval_opt

    evaluation = COCOeval_opt(*_indexed(dataset, found, task), task)
    return _numbers(evaluation)


def _indexed(dataset: dict[str, Any], found: Found, task: str) -> tuple[Any, Any]:
    from pycocotools.coco import COCO

    if task == "segm":
        found = [{k: v for k, v in d.items() if k != "bbox"} for d in found]
    truth = COCO()
    truth.dataset = dataset
    truth.createIndex()
    return truth, truth.loadRes(found)


def _numbers(evaluation: Any) -> Numbers:
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    precision = evaluation.eval["precision"]
    each = [precision[:, :, k, 0, -1] for k in range(precision.shape[2])]
    each = [100 * p[p > -1].mean() if (p > -1).any() else np.nan for p in each]
    return np.array([*(100 * evaluation.stats), *each])


WAYS: dict[str, Callable[[dict[str, Any], Found, str], Numbers]] = {
    "pycocotools": pycocotools,
    "detectron2": detectron2,
    "ours": ours,
}


def memory(images: int) -> None:
    """Print what the evaluators hold after a tenth of the images and after all of them."""
    from detectron2.data import MetadataCatalog
    from detectron2.evaluation import COCOEvaluator
    from detectron2.structures import Boxes, Instances

    from seriatim.evaluation.coco import CocoEvaluator

    dataset, _ = generate(images)
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "truth.json"
        path.write_text(json.dumps(dataset))
        MetadataCatalog.get("benchmark").set(
            json_file=str(path),
            thing_classes=[c["name"] for c in dataset["categories"]],
            thing_dataset_id_to_contiguous_id={i + 1: i for i in range(CLASSES)},
        )
        with contextlib.redirect_stdout(io.StringIO()):
            evaluators = {
                "ours": CocoEvaluator("benchmark", Path(folder) / "ours"),
                "detectron2": COCOEvaluator("benchmark", ("bbox",), False, folder),
            }
        for name, evaluator in evaluators.items():
            evaluator.reset()
            tracemalloc.start()
            held = []
            for image in range(1, images + 1):
                boxes = torch.from_numpy(scatter(rng, 22))
                instances = Instances(
                    (480, 640),
                    pred_boxes=Boxes(boxes),
                    scores=torch.rand(22),
                    pred_classes=torch.randint(CLASSES, (22,)),
                )
                evaluator.process([{"image_id": image}], [{"instances": instances}])
                if image in (images // 10, images):
                    held.append(tracemalloc.get_traced_memory()[0] / 2**20)
            tracemalloc.stop()
            print(
                f"memory of {name}: {held[0]:.1f} MiB after {images // 10} images,"
                f" {held[1]:.1f} MiB after {images}"
            )


if __name__ == "__main__":
    sys.exit(errors.run(main))
