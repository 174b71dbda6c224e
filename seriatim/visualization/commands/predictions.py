"""Draw what a model finds in images, a video or a camera, and write the detections as JSON.

The detections go to detections.json in COCO's results format, with the file's name added. Images
that belong to a dataset of the config keep its image ids; others are numbered from 1. What a
classifier says goes to predictions.json; it also takes the name of a dataset as INPUT.
"""

from __future__ import annotations

import argparse
import glob
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from seriatim.visualization.commands import common

EPILOG = """\
examples:
  visualize.py predictions photos/ --config-file configs/demo.yaml
  visualize.py predictions 'scans/*.tif' --config-file output/demo/config.yaml --threshold 0.5
  visualize.py predictions film.mp4 --config-file configs/demo.yaml --weights model.pth
  visualize.py predictions 0 --config-file configs/demo.yaml --show        (camera 0)
"""
IMAGES = {".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".gif"}
VIDEOS = {".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "input", metavar="INPUT", help="folder, file, quoted glob, video, or number of a camera"
    )
    parser.add_argument(
        "--weights",
        type=Path,
        metavar="FILE",
        help="default: MODEL.WEIGHTS, or what training left in OUTPUT_DIR",
    )
    parser.add_argument(
        "--threshold",
        type=common.share,
        default=0.3,
        metavar="SCORE",
        help="draw detections from this score on (default: 0.3); the JSON has all",
    )
    parser.add_argument(
        "--num", type=common.positive, metavar="N", help="at most N images or frames"
    )
    common.add_config_options(parser, required=True)
    common.add_output_options(parser, "output/visualize/predictions")


def run(args: argparse.Namespace) -> int:
    from seriatim.data.build import classifies

    cfg = common.resolved_config(args, args.weights)
    labels = classifies(cfg)
    source = _records(cfg, args) if labels else open_input(args.input)
    from seriatim.predictor import Predictor

    predictor = Predictor(cfg)
    print(f"weights: {predictor.weights}")
    if labels:
        from seriatim.visualization.commands.labels import predict_labels

        return predict_labels(source, predictor, args.output, args.show)
    if isinstance(source, list):
        return predict_images(source[: args.num], predictor, args)
    from seriatim.visualization.commands.video import predict_video

    return predict_video(source, predictor, args)


def _records(cfg: Any, args: argparse.Namespace) -> list[dict[str, Any]]:
    """What a classifier is asked of: images of a dataset, or files."""
    from detectron2.data import DatasetCatalog

    from dataset_tools.errors import InputError

    if args.input in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST):
        return common.select(DatasetCatalog.get(args.input), args.num or 24)
    source = open_input(args.input)
    if not isinstance(source, list):
        raise InputError("A classifier is shown images or a dataset of the config, not a film.")
    return [{"file_name": str(path)} for path in source[: args.num]]


def open_input(text: str) -> list[Path] | str | int:
    """Image files, or the path of a video, or the number of a camera.

    Raises:
        InputError: there is nothing of that kind.
    """
    from dataset_tools.errors import InputError

    path = Path(text).expanduser()
    if text.isdigit() and not path.exists():
        return int(text)
    if path.is_file():
        return str(path) if path.suffix.lower() in VIDEOS else [path]
    if path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.is_file())
    else:
        files = sorted(map(Path, glob.glob(str(path), recursive=True)))
        if not files:
            raise InputError(f"There is no file, folder or match for {text}.")
    images = [p for p in files if p.suffix.lower() in IMAGES]
    if not images:
        raise InputError(
            f"None of the {len(files)} files of {text} is an image ({', '.join(sorted(IMAGES))})."
        )
    if len(images) < len(files):
        print(f"{len(files) - len(images)} of the {len(files)} files are no images: left out")
    return images


def predict_images(paths: Sequence[Path], predictor: Any, args: argparse.Namespace) -> int:
    from dataset_tools.files import write_text
    from dataset_tools.progress import track

    gallery = common.Gallery(args.output, "sheet.jpg", args.show)
    image_ids, category_ids = _dataset_ids(predictor)
    detections = []
    for number, path in enumerate(track(paths, len(paths), "predicting"), start=1):
        output = predictor.predict_file(path)
        image_id = image_ids.get(path.resolve(), number)
        detections += to_records(output, image_id, str(path), predictor.metadata, category_ids)
        gallery.add(_picture(path, output, predictor.metadata, args.threshold), path.stem)
    file = args.output / "detections.json"
    write_text(file, json.dumps(detections))
    print(f"{len(paths)} images, {len(detections)} detections")
    gallery.close(file)
    return 0


def _picture(path: Path, output: dict[str, Any], metadata: Any, threshold: float):
    from seriatim.data.image import read_image
    from seriatim.visualization.draw import draw_predictions, legend
    from seriatim.visualization.items import to_items
    from seriatim.visualization.sheet import Picture

    image = read_image(path, "RGB")
    items = to_items(output.get("instances"), threshold)
    words = list(legend(items, metadata))
    if "instances" in output:
        words.append((f"score ≥ {threshold:.2f}" if items else f"nothing ≥ {threshold:.2f}", None))
    draw = partial(_draw, draw_predictions, image, output, metadata, threshold)
    return Picture(*image.shape[:2], draw, path.name, words)


def _draw(draw: Any, image: Any, output: Any, metadata: Any, threshold: float, scale: float):
    return draw(image, output, metadata, threshold=threshold, scale=scale)


def to_records(
    output: dict[str, Any],
    image_id: int,
    file_name: str,
    metadata: Any,
    category_ids: dict[int, int] | None,
) -> list[dict[str, Any]]:
    """An output's instances in COCO's results format, with the names of file and category."""
    if "instances" not in output:
        return []
    from seriatim.evaluation.coco import to_coco_results
    from seriatim.visualization.draw import category_names

    instances = output["instances"]
    records = to_coco_results(instances, image_id, category_ids)
    names = category_names(metadata, 0)
    by_id = {category_ids[i] if category_ids else i: name for i, name in enumerate(names)}
    for record in records:
        record["file_name"] = file_name
        record["category"] = by_id.get(record["category_id"], str(record["category_id"]))
    return records


def _dataset_ids(predictor: Any) -> tuple[dict[Path, int], dict[int, int] | None]:
    """Ids of the images in the config's datasets by path, and its category ids by class number."""
    from detectron2.data import DatasetCatalog

    cfg = predictor.cfg
    image_ids: dict[Path, int] = {}
    for name in reversed([*cfg.DATASETS.TEST, *cfg.DATASETS.TRAIN]):
        for record in DatasetCatalog.get(name):
            image_ids[Path(record["file_name"]).resolve()] = record["image_id"]
    ids = getattr(predictor.metadata, "thing_dataset_id_to_contiguous_id", None)
    return image_ids, {contiguous: own for own, contiguous in ids.items()} if ids else None
