"""Draw ground truth | prediction, the worst images first, and count what went wrong.

Of a classifier: its figures, the confusion matrix and the worst errors.

An object is found when a detection of its class overlaps it by an IoU of at least --iou. Detections
left over that overlap an object of another class are of the wrong class, all others false alarms.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from seriatim.visualization.commands import common

EPILOG = """\
examples:
  visualize.py compare --config-file configs/demo.yaml
  visualize.py compare --config-file configs/demo.yaml --weights output/demo/model_best.pth
  visualize.py compare --json val.json --images photos --results coco_instances_results.json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    common.add_weights_option(parser)
    parser.add_argument(
        "--results",
        type=Path,
        metavar="FILE",
        help="detections in COCO's format, in place of a model",
    )
    parser.add_argument(
        "--threshold",
        type=common.share,
        metavar="SCORE",
        help="detections from this score on count (default: the one with the best F1)",
    )
    parser.add_argument(
        "--iou", type=common.share, default=0.5, help="least overlap of a hit (default: 0.5)"
    )
    common.add_dataset_options(parser, "the first in DATASETS.TEST")
    parser.add_argument(
        "--num",
        type=common.positive,
        default=24,
        metavar="N",
        help="draw the N worst (default: 24)",
    )
    common.add_output_options(parser, "output/visualize/compare")


@dataclass(slots=True)
class Compared:
    """One image with its objects and detections, as items."""

    record: dict[str, Any]
    truth: list
    found: list
    matches: Any = None


def run(args: argparse.Namespace) -> int:
    from detectron2.data import MetadataCatalog

    from dataset_tools.errors import InputError
    from dataset_tools.progress import track
    from seriatim.visualization.match import best_threshold, match_items

    if args.results is not None:
        name = common.open_dataset(args, "TEST")
        detect = _read_results(args.results, MetadataCatalog.get(name))
    elif args.config_file:
        from seriatim.data.catalog import is_classification

        cfg = common.resolved_config(args, args.weights)
        name = common.choose_dataset(cfg, args.dataset, "TEST")
        if is_classification(name):
            from seriatim.visualization.commands.labels import compare_labels

            return compare_labels(cfg, name, args.output)
        detect = _load_model(cfg)
    else:
        raise InputError(
            "What is to be compared? Give --config-file FILE [--weights FILE], or --results FILE"
            " with --json FILE."
        )
    metadata = MetadataCatalog.get(name)
    records = _records(name)
    images = []
    for record in track(records, len(records), "comparing"):
        images.append(Compared(record, _truth(record), detect(record)))
    threshold = args.threshold
    if threshold is None:
        threshold = best_threshold([(i.truth, i.found) for i in images], args.iou)
        print(f"threshold {threshold:.2f}: there F1 is best over these {len(images)} images")
    for image in images:
        image.found = [f for f in image.found if f.score >= threshold]
        size = image.record["height"], image.record["width"]
        image.matches = match_items(image.truth, image.found, args.iou, size)
    images.sort(key=lambda image: image.matches.badness, reverse=True)
    print(summary(images, metadata))
    gallery = common.Gallery(args.output, "sheet.jpg", args.show)
    for rank, image in enumerate(track(images[: args.num], args.num, "drawing"), start=1):
        stem = Path(image.record["file_name"]).stem
        gallery.add(_picture(image, metadata, threshold), f"{rank:04d}_{stem}")
    gallery.close()
    return 0


def _records(name: str) -> list[dict[str, Any]]:
    from detectron2.data import DatasetCatalog

    from dataset_tools.errors import InputError

    records = DatasetCatalog.get(name)
    if any("annotations" not in record for record in records):
        raise InputError(f"Dataset {name} has no boxes or masks of objects: nothing to compare.")
    return records


def _truth(record: dict[str, Any]) -> list:
    from seriatim.visualization.items import to_items

    return to_items(record["annotations"])


def _load_model(cfg: Any):
    """record → its detections, by the model of `cfg`."""
    from seriatim.predictor import Predictor
    from seriatim.visualization.items import compact, to_items

    predictor = Predictor(cfg)
    print(f"weights: {predictor.weights}")

    def detect(record: dict[str, Any]) -> list:
        found = to_items(predictor.predict_file(record["file_name"]).get("instances"))
        return [compact(item) for item in found]

    return detect


def _read_results(path: Path, metadata: Any):
    """record → its detections, from a file in COCO's results format."""
    from dataset_tools.errors import InputError
    from seriatim.visualization.items import item_from_annotation

    to_contiguous = metadata.thing_dataset_id_to_contiguous_id
    by_image: dict[Any, list] = defaultdict(list)
    for number, result in enumerate(_read_list(path)):
        try:
            category, score = to_contiguous[result["category_id"]], float(result["score"])
            item = item_from_annotation({**result, "category_id": category, "score": score})
            by_image[result["image_id"]].append(item)
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"{path}: entry {number} is not a detection on this dataset in COCO's results"
                f" format (image_id, category_id, bbox, score): {error!r}."
            ) from None
        if item.keypoints is not None:
            item.keypoints[:, :2] += 0.5  # COCO counts pixels, we measure from their edge
    return lambda record: by_image.get(record["image_id"], [])


def _read_list(path: Path) -> list[Any]:
    from dataset_tools.coco import read_json
    from dataset_tools.errors import InputError

    results = read_json(path)
    if not isinstance(results, list):
        raise InputError(
            f"{path} is not a list of detections. COCO's results format is a list, as evaluation"
            " writes it to coco_instances_results.json."
        )
    return results


def _picture(image: Compared, metadata: Any, threshold: float):
    from seriatim.data.image import read_image
    from seriatim.visualization.draw import comparison_legend
    from seriatim.visualization.sheet import Picture

    pixels = read_image(image.record["file_name"], "RGB")
    height, width = pixels.shape[:2]
    title = common.relative_name(image.record, metadata)
    words = [
        ("ground truth | prediction", None),
        (f"score ≥ {threshold:.2f}", None),
        *comparison_legend(image.matches),
    ]
    draw = partial(_draw, pixels, image, metadata)
    return Picture(height, 2 * width + max(4, width // 100), draw, title, words)


def _draw(pixels: Any, image: Compared, metadata: Any, scale: float):
    from seriatim.visualization.draw import draw_matches

    return draw_matches(pixels, image.truth, image.found, image.matches, metadata, scale=scale)


def summary(images: list[Compared], metadata: Any) -> str:
    """A table of outcomes per category and over all."""
    from dataset_tools.table import text_table
    from seriatim.visualization.draw import category_names
    from seriatim.visualization.match import Outcome

    found: dict[int, int] = defaultdict(int)
    missed: dict[int, int] = defaultdict(int)
    alarms: dict[int, int] = defaultdict(int)
    wrong: dict[int, int] = defaultdict(int)
    for image in images:
        for item, outcome in zip(image.truth, image.matches.truth, strict=True):
            counter = {Outcome.HIT: found, Outcome.MISS: missed, Outcome.WRONG_CLASS: wrong}
            if outcome in counter:
                counter[outcome][item.category] += 1
        for item, outcome in zip(image.found, image.matches.found, strict=True):
            if outcome is Outcome.FALSE_ALARM:
                alarms[item.category] += 1
    seen = sorted({*found, *missed, *alarms, *wrong})
    names = category_names(metadata, max(seen, default=-1) + 1)
    rows = [(names[c], found[c], missed[c], wrong[c], alarms[c]) for c in seen]
    if len(rows) != 1:
        totals = (sum(counter.values()) for counter in (found, missed, wrong, alarms))
        rows.append(("all", *totals))
    header = ("category", "found", "missed", "taken for another", "false alarms")
    return text_table(header, rows)
