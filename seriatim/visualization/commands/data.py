"""Draw the ground truth of a dataset: boxes, masks, keypoints, labels of pixels and of images."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import Any

from seriatim.visualization.commands import common

EPILOG = """\
examples:
  visualize.py data --json datasets/cells/train.json --images photos
  visualize.py data --config-file configs/demo.yaml --dataset trees_val --num 100
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    common.add_dataset_options(parser, "the first in DATASETS.TRAIN")
    common.add_selection_options(parser, 24)
    common.add_output_options(parser, "output/visualize/data")


def run(args: argparse.Namespace) -> int:
    from detectron2.data import DatasetCatalog, MetadataCatalog

    from dataset_tools.progress import track

    name = common.open_dataset(args, "TRAIN")
    metadata, records = MetadataCatalog.get(name), DatasetCatalog.get(name)
    chosen = common.select(records, args.num, args.match)
    gallery = common.Gallery(args.output, "sheet.jpg", args.show)
    for record in track(chosen, len(chosen), "drawing"):
        gallery.add(*ground_truth_picture(record, metadata))
    print(f"{len(chosen)} of the {len(records)} images of {name}")
    gallery.close()
    return 0


def ground_truth_picture(record: dict[str, Any], metadata: Any):
    """The picture of a record and a name for its file."""
    if "label" in record:
        from seriatim.visualization.commands.labels import label_picture

        return label_picture(record, metadata), Path(record["file_name"]).stem
    from seriatim.data.image import read_image
    from seriatim.visualization.draw import legend
    from seriatim.visualization.items import to_items
    from seriatim.visualization.sheet import Picture

    image = read_image(record["file_name"], "RGB")
    items = to_items(record.get("annotations", ()))
    words = list(legend(items, metadata))
    if "annotations" in record and not items:
        words.append(("no objects", None))
    title = common.relative_name(record, metadata)
    draw = partial(_draw, image, record, items, metadata)
    return Picture(*image.shape[:2], draw, title, words), Path(title).stem


def _draw(image: Any, record: dict[str, Any], items: list, metadata: Any, scale: float):
    from seriatim.data.image import read_labels
    from seriatim.visualization.draw import draw_instances, draw_panoptic, draw_semantic

    if "pan_seg_file_name" in record:
        colours = read_labels(record["pan_seg_file_name"])
        segments = colours.astype("int64") @ (1, 256, 65536)
        return draw_panoptic(image, segments, record["segments_info"], metadata, scale=scale)
    if "sem_seg_file_name" in record:
        labels = read_labels(record["sem_seg_file_name"])
        image = draw_semantic(image, labels, metadata, scale=scale)
        from seriatim.visualization.items import scaled

        return draw_instances(image, [scaled(i, scale) for i in items], metadata, scale=1)
    return draw_instances(image, items, metadata, scale=scale)
