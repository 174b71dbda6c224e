"""Draw where a model looked: Grad-CAM or integrated gradients of its best answers.

Of a classifier the best class of each image is explained (or --class), of a detector its best
detections, each with its own map. Grad-CAM says which regions spoke for it, as coarse as the layer
is; integrated gradients say which pixels did.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import Any

from seriatim.visualization.commands import common

EPILOG = """\
examples:
  visualize.py explain --config-file configs/demo.yaml --method integrated-gradients
  visualize.py explain --input cat.jpg --config-file output/pets/config.yaml --class dog
"""
METHODS = ("gradcam", "integrated-gradients")  # as in seriatim.explain, which is heavy to import


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--input",
        metavar="PATH",
        help="folder, file or quoted glob (default: the dataset)",
    )
    parser.add_argument("--method", choices=METHODS, default="gradcam", help="default: gradcam")
    parser.add_argument("--class", dest="category", metavar="NAME", help="explain this class only")
    parser.add_argument(
        "--layer", default="", metavar="NAME", help="module for Grad-CAM (default: the last map)"
    )
    common.add_weights_option(parser)
    parser.add_argument(
        "--threshold",
        type=common.share,
        default=0.3,
        metavar="SCORE",
        help="explain detections from this score on (default: 0.3)",
    )
    parser.add_argument(
        "--top",
        type=common.positive,
        default=1,
        metavar="N",
        help="so many answers per image (default: 1)",
    )
    parser.add_argument(
        "--dataset",
        metavar="NAME",
        help="of the config (default: first in DATASETS.TEST)",
    )
    common.add_selection_options(parser, 12)
    common.add_config_options(parser, required=True)
    common.add_output_options(parser, "output/visualize/explain")


def run(args: argparse.Namespace) -> int:
    from detectron2.data import MetadataCatalog

    from dataset_tools.progress import track
    from seriatim.engine.checkpointer import load_evaluated_weights
    from seriatim.engine.run import weights_to_evaluate
    from seriatim.engine.trainer import Trainer
    from seriatim.explain import Explainer

    args.opts += ["SERIATIM.EVAL.TILE", "0"]  # an image is explained as a whole
    cfg = common.resolved_config(args, args.weights)
    name = common.choose_dataset(cfg, args.dataset, "TEST")
    metadata = MetadataCatalog.get(name)
    records = _records(args, name)
    category = _class_number(args.category, metadata)
    model, weights = Trainer.build_model(cfg), weights_to_evaluate(cfg, resume=False)
    load_evaluated_weights(model, weights)
    print(f"weights: {weights}")
    explainer = Explainer(model, args.layer)
    mapper = Trainer.build_mapper(cfg, is_train=False)
    gallery = common.Gallery(args.output, "sheet.jpg", args.show)
    silent = 0
    for record in track(records, len(records), "explaining"):
        given = mapper(record)
        targets = explainer.targets(given, args.threshold, category, args.top)
        silent += not targets
        for target in targets:
            heat = explainer.explain(given, target, args.method)
            picture = _picture(given, target, heat, cfg.INPUT.FORMAT, metadata)
            gallery.add(picture, Path(str(record["file_name"]).replace("#", "_")).stem)
    if silent:
        print(f"{silent} of {len(records)} images have no detection ≥ {args.threshold:.2f}")
    gallery.close()
    return 0


def _records(args: argparse.Namespace, name: str) -> list[dict[str, Any]]:
    """The records of --input's images, or of the dataset; --num and --match choose among them."""
    from detectron2.data import DatasetCatalog

    from dataset_tools.errors import InputError
    from seriatim.visualization.commands.predictions import open_input

    if args.input is None:
        return common.select(DatasetCatalog.get(name), args.num, args.match)
    files = open_input(args.input)
    if not isinstance(files, list):
        raise InputError(f"{args.input} is no image: a film or a camera cannot be explained.")
    records = [
        {"file_name": str(path), "image_id": number} for number, path in enumerate(files, start=1)
    ]
    return [_with_size(record) for record in common.select(records, args.num, args.match)]


def _with_size(record: dict[str, Any]) -> dict[str, Any]:
    from seriatim.data.image import read_image

    height, width = read_image(record["file_name"], "RGB").shape[:2]
    return {**record, "height": height, "width": width}


def _class_number(name: str | None, metadata: Any) -> int | None:
    from dataset_tools.errors import InputError

    if name is None:
        return None
    names = list(getattr(metadata, "thing_classes", None) or ())
    if name not in names:
        raise InputError(f"There is no class {name!r}; there are {', '.join(names)}.")
    return names.index(name)


def _picture(given: dict[str, Any], target: Any, heat: Any, image_format: str, metadata: Any):
    """The input as the network gets it, under its map, with the box that is explained."""
    import numpy as np
    from detectron2.data.detection_utils import convert_image_to_rgb

    from seriatim.visualization.draw import category_names
    from seriatim.visualization.sheet import Picture

    image = convert_image_to_rgb(given["image"].permute(1, 2, 0), image_format).astype("uint8")
    height, width = image.shape[:2]
    box = None
    if target.box is not None:
        sides = width / given["width"], height / given["height"]
        box = np.array(target.box) * (*sides, *sides)
    title = f"{category_names(metadata, target.category + 1)[target.category]} {target.score:.2f}"
    words = [(Path(str(given["file_name"])).name, None)]
    if given.get("label", -1) >= 0:
        truth = int(given["label"])
        words.append((f"is {category_names(metadata, truth + 1)[truth]}", None))
    return Picture(height, width, partial(_draw, image, heat, box), title, words)


def _draw(image: Any, heat: Any, box: Any, scale: float):
    from seriatim.visualization.draw import draw_instances
    from seriatim.visualization.heat import draw_heat
    from seriatim.visualization.items import Item

    picture = draw_heat(image, heat, scale=scale)
    items = [] if box is None else [Item(box=box * scale)]
    return draw_instances(picture, items, scale=1, labels=False)
