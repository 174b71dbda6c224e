"""The commands on images that have a label as a whole."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from seriatim.visualization.commands import common


def label_picture(record: Mapping[str, Any], metadata: Any):
    """The picture of a record with its class."""
    from seriatim.data.image import record_image

    return picture_of(
        record_image(record, "RGB"),
        common.relative_name(record, metadata),
        [_with_colour(record["label"], metadata)],
    )


def picture_of(image: Any, title: str, words: Sequence[tuple[str, Any]]):
    """The picture of an image (H, W, 3) uint8 RGB over its title and words."""
    from seriatim.visualization.image import resize
    from seriatim.visualization.sheet import Picture

    return Picture(*image.shape[:2], partial(resize, image), title, words)


def view_pictures(given: Mapping[str, Any], image_format: str, metadata: Any) -> list:
    """The pictures of one input of a classifier: the image, and its further views."""
    from detectron2.data.detection_utils import convert_image_to_rgb

    from seriatim.visualization.commands.inputs import describe_sources

    steps = [(step, None) for step in describe_sources(given["sources"])]
    pictures = []
    for number, tensor in enumerate([given["image"], *given.get("views", ())]):
        image = convert_image_to_rgb(tensor.permute(1, 2, 0), image_format).astype("uint8")
        size = f"{image.shape[1]}×{image.shape[0]}"
        words = [_with_colour(given["label"], metadata), *steps]
        if number:
            words = [(f"view {number}", None)]
        pictures.append(picture_of(image, size, words))
    return pictures


def predict_labels(
    records: Sequence[Mapping[str, Any]], predictor: Any, folder: Path, show: bool
) -> int:
    """Draw what a classifier says of each record, and write it to predictions.json.

    Records are of a dataset, with labels or not, or have nothing but a `file_name`.
    """
    from dataset_tools.files import write_text
    from dataset_tools.progress import track
    from seriatim.data.image import record_image
    from seriatim.visualization.classification import best_classes, label_name

    names = list(predictor.metadata.thing_classes)
    gallery = common.Gallery(folder, "sheet.jpg", show)
    said = []
    for record in track(records, len(records), "predicting"):
        scores = predictor.predict_record(record)["scores"]
        words = [(text, None) for text in best_classes({"scores": scores}, names)]
        if record.get("label", -1) >= 0:
            words.append((f"true: {label_name(record['label'], names)}", None))
        image, title = record_image(record, "RGB"), Path(record["file_name"]).name
        gallery.add(picture_of(image, title, words), Path(title).stem)
        said.append(_said(record, scores, names))
    file = folder / "predictions.json"
    write_text(file, json.dumps(said))
    print(f"{len(records)} images")
    gallery.close(file)
    return 0


def compare_labels(cfg: Any, name: str, folder: Path) -> int:
    """Evaluate on dataset `name`: figures, confusion matrix, and the worst errors as pictures."""
    from detectron2.evaluation import inference_on_dataset

    from seriatim.data.loader import build_test_loader
    from seriatim.engine.run import metrics_table
    from seriatim.evaluation import build_evaluator
    from seriatim.predictor import Predictor

    predictor = Predictor(cfg)
    print(f"weights: {predictor.weights}")
    loader, evaluator = build_test_loader(cfg, name), build_evaluator(cfg, name, folder)
    results = inference_on_dataset(predictor.model, loader, evaluator)
    print(metrics_table(results))
    print(f"\nWritten to {folder}:")
    for path in sorted(folder.iterdir()):
        print(f"  {path.name}")
    return 0


def _with_colour(label: int, metadata: Any) -> tuple[str, Any]:
    from seriatim.visualization import palette
    from seriatim.visualization.classification import label_name

    names = list(metadata.thing_classes)
    colour = palette.category_colors(metadata, len(names))[label] if label >= 0 else None
    return label_name(label, names), colour


def _said(record: Mapping[str, Any], scores: Any, names: Sequence[str]) -> dict[str, Any]:
    best = scores.argsort(descending=True)[:5].tolist()
    return {
        "file_name": record["file_name"],
        **({"image_id": record["image_id"]} if "image_id" in record else {}),
        "class": names[best[0]],
        "score": round(float(scores[best[0]]), 6),
        "top": [[names[k], round(float(scores[k]), 6)] for k in best],
    }
