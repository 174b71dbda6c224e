"""Bugs in the dataset's files and in what the catalog makes of them."""

from __future__ import annotations

import copy
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode
from PIL import Image

from tests.bug_zoo.registry import Bug

Content = dict[str, Any]


def edited(change: Callable[[Content], None], *splits: str) -> Callable[[Path], None]:
    """An edit of the COCO JSON of `splits`, by default of the training set alone."""

    def edit(folder: Path) -> None:
        for split in splits or ("train",):
            path = folder / split / "shapes.json"
            content = json.loads(path.read_text())
            change(content)
            path.write_text(json.dumps(content))

    return edit


def with_boxes(change: Callable[..., list[float]]) -> Callable[[Content], None]:
    """Other boxes, by `change(x, y, width, height)`; without masks, as boxes usually come."""

    def apply(content: Content) -> None:
        for annotation in content["annotations"]:
            annotation.pop("segmentation", None)
            annotation["bbox"] = change(*annotation["bbox"])

    return apply


def repainted(change: Callable[[Image.Image], Image.Image]) -> Callable[[Path], None]:
    """Another picture in the file of every training image."""

    def edit(folder: Path) -> None:
        for path in (folder / "train" / "images").iterdir():
            change(Image.open(path).copy()).save(path)

    return edit


def _move_labels(content: Content, order: Callable[[list[int]], list[int]]) -> None:
    ids = [image["id"] for image in content["images"]]
    moved = dict(zip(ids, order(ids), strict=True))
    for annotation in content["annotations"]:
        annotation["image_id"] = moved[annotation["image_id"]]


def _next_image(content: Content) -> None:
    _move_labels(content, lambda ids: [*ids[1:], ids[0]])


def _sorted_otherwise(content: Content) -> None:
    _move_labels(content, lambda ids: random.Random(5).sample(ids, len(ids)))


def _categories_reversed(content: Content) -> None:
    names = [category["name"] for category in content["categories"]]
    for category, name in zip(content["categories"], reversed(names), strict=True):
        category["name"] = name
    new = {i + 1: len(names) - i for i in range(len(names))}
    for annotation in content["annotations"]:
        annotation["category_id"] = new[annotation["category_id"]]


def _without_circles(content: Content) -> None:
    content["annotations"] = [a for a in content["annotations"] if a["category_id"] != 1]


def _half_lost(content: Content) -> None:
    content["annotations"] = content["annotations"][::2]


def _twice(content: Content) -> None:
    again = copy.deepcopy(content["annotations"])
    for annotation in again:
        annotation["id"] += len(again)
    content["annotations"] += again


def _flat(content: Content) -> None:
    for annotation in content["annotations"][::5]:
        annotation["bbox"][2] = 0


def _axes_of_masks_swapped(content: Content) -> None:
    for annotation in content["annotations"]:
        polygons = annotation["segmentation"]
        if isinstance(polygons, list):
            annotation["segmentation"] = [
                [value for x, y in zip(p[::2], p[1::2], strict=True) for value in (y, x)]
                for p in polygons
            ]


def _names_shuffled(content: Content) -> None:
    generator = random.Random(3)
    for annotation in content["annotations"]:
        annotation["category_id"] = generator.randint(1, 3)


def test_images_among_the_training_images(folder: Path) -> None:
    """Every second test image takes the place of a training image."""
    for path in sorted((folder / "val" / "images").iterdir())[::2]:
        shutil.copy(path, folder / "train" / "images" / path.name)


def _train_records(change: Callable[[dict[str, Any]], None]) -> Callable[[Any], None]:
    """A dataset function of the user's own, which makes the same mistake in every annotation."""

    def plant(cfg: Any) -> None:
        name = cfg.DATASETS.TRAIN[0]
        records = copy.deepcopy(list(DatasetCatalog.get(name)))
        for record in records:
            for annotation in record["annotations"]:
                change(annotation)
        DatasetCatalog.remove(name)
        DatasetCatalog.register(name, lambda: records)

    return plant


def _says_xywh(annotation: dict[str, Any]) -> None:
    corners = BoxMode.convert(list(annotation["bbox"]), annotation["bbox_mode"], BoxMode.XYXY_ABS)
    annotation |= {"bbox": corners, "bbox_mode": BoxMode.XYWH_ABS}


def _next_class(annotation: dict[str, Any]) -> None:
    annotation["category_id"] = (annotation["category_id"] + 1) % 3


def _test_metadata_shifted(cfg: Any) -> None:
    name = cfg.DATASETS.TEST[0]
    values = MetadataCatalog.get(name).as_dict()
    own = values["thing_dataset_id_to_contiguous_id"]
    values["thing_dataset_id_to_contiguous_id"] = {k: (v + 1) % 3 for k, v in own.items()}
    MetadataCatalog.remove(name)
    MetadataCatalog.get(name).set(**{k: v for k, v in values.items() if k != "name"})


BUGS = [
    Bug(
        "labels of the next image",
        "data",
        "Images and annotations were listed apart and paired one place off.",
        ("data",),
        ("other images",),
        files=edited(_next_image),
    ),
    Bug(
        "labels in another order of files",
        "data",
        "Two listings of a folder were paired, of which one was sorted and one was not.",
        ("data",),
        ("other images",),
        files=edited(_sorted_otherwise),
    ),
    Bug(
        "corners where COCO has width and height",
        "data",
        "The converter wrote x1, y1, x2, y2 as bbox.",
        ("data",),
        ("XYWH", "corner", "unit, order", "outside"),
        files=edited(with_boxes(lambda x, y, w, h: [x, y, x + w, y + h])),
        seen=("facebookresearch/detectron2#2957", "facebookresearch/detectron2#2524"),
    ),
    Bug(
        "centres where COCO has corners",
        "data",
        "YOLO's centre x, centre y were written as the upper left corner.",
        ("data",),
        ("unit, order", "centre"),
        files=edited(with_boxes(lambda x, y, w, h: [x + w / 2, y + h / 2, w, h])),
    ),
    Bug(
        "x and y of boxes swapped",
        "data",
        "Rows and columns were taken for x and y.",
        ("data",),
        ("unit, order", "swapped"),
        files=edited(with_boxes(lambda x, y, w, h: [y, x, h, w])),
    ),
    Bug(
        "boxes at half the size of the images",
        "data",
        "Labels were drawn on thumbnails and never scaled up.",
        ("data",),
        ("unit, order", "scale", "size"),
        files=edited(with_boxes(lambda x, y, w, h: [x / 2, y / 2, w / 2, h / 2])),
        seen=("VisionLearningGroup/visda-2018-public#10",),
    ),
    Bug(
        "images resized after labelling",
        "data",
        "The files were replaced by smaller ones, the annotations kept.",
        ("data",),
        ("size",),
        files=repainted(lambda image: image.resize((48, 48))),
    ),
    Bug(
        "images mirrored after labelling",
        "data",
        "All training images were flipped on disk (as by a tool that heeds or drops EXIF).",
        ("data",),
        ("flipped", "mirrored"),
        files=repainted(lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)),
        seen=("tensorflow/tensorflow#49834",),
    ),
    Bug(
        "images turned after labelling",
        "data",
        "All training images were turned by 90 degrees on disk, as when EXIF is applied"
        " to the pixels but not to the labels.",
        ("data",),
        ("flipped", "turned"),
        files=repainted(lambda image: image.transpose(Image.Transpose.ROTATE_90)),
        seen=("AlexeyAB/Yolo_mark#107", "ultralytics/yolov5#405"),
    ),
    Bug(
        "test set numbers its classes the other way",
        "data",
        "Two exports list the categories in different orders.",
        ("data",),
        ("number", "order"),
        files=edited(_categories_reversed, "val"),
        seen=("open-mmlab/mmdetection#7720",),
    ),
    Bug(
        "a class that is tested but never trained",
        "data",
        "The split left all circles to the test set.",
        ("data",),
        ("split left", "category"),
        files=edited(_without_circles),
    ),
    Bug(
        "test images among the training images",
        "data",
        "Half of the test images lie in the training folder in the place of other images.",
        ("data",),
        ("split", "training and validation"),
        files=test_images_among_the_training_images,
        seen=("tqwei05/PlantSeg#11",),
    ),
    Bug(
        "every object labelled twice",
        "data",
        "Two annotation files that overlap were merged.",
        ("data",),
        ("duplicate", "twice"),
        files=edited(_twice),
    ),
    Bug(
        "boxes without width",
        "data",
        "A fifth of the boxes was rounded to nothing.",
        ("data",),
        ("without area",),
        files=edited(_flat),
    ),
    Bug(
        "x and y of masks swapped",
        "data",
        "Polygons hold row, column.",
        ("data",),
        ("mask", "polygon"),
        kind="mask_rcnn",
        files=edited(_axes_of_masks_swapped),
    ),
    Bug(
        "half of the annotations lost",
        "data",
        "Every second object has no label, so that training punishes finding it.",
        ("data", "overfit10"),
        ("missing", "unlabelled", "labels"),
        files=edited(_half_lost),
    ),
    Bug(
        "names of the objects shuffled",
        "data",
        "The column of class names was sorted apart from the boxes.",
        ("blind", "overfit10"),
        ("class",),
        files=edited(_names_shuffled),
    ),
    Bug(
        "records say XYWH and hold corners",
        "data",
        "A dataset function of one's own gives corners under the mode of width and height.",
        ("data",),
        ("unit, order", "mode", "XYWH"),
        catalog=_train_records(_says_xywh),
        seen=("facebookresearch/detectron2#2957",),
    ),
    Bug(
        "training records one class too high",
        "data",
        "A dataset function of one's own counts classes from 1, the test set from 0.",
        ("data",),
        ("class", "categor", "number"),
        catalog=_train_records(_next_class),
        seen=("open-mmlab/mmdetection#2361",),
    ),
    Bug(
        "class map of the test set shifted",
        "evaluation",
        "The metadata's map from the dataset's ids to class numbers is off by one.",
        ("oracle",),
        ("class numbers",),
        catalog=_test_metadata_shifted,
        seen=("open-mmlab/mmdetection#2361",),
    ),
]
