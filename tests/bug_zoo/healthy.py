"""Pipelines that are right, the ordinary and the unusual: a gate that fails here cries wolf."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

from seriatim.testing.shapes import make_shapes
from tests.bug_zoo.bugs_classifier import labelled
from tests.bug_zoo.bugs_inputs import AUGMENTED, LITE0
from tests.bug_zoo.pipeline import draw_plain
from tests.bug_zoo.registry import Healthy


def drawn(change: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    """The plain shapes with another JSON in both splits."""

    def draw(folder: Path) -> None:
        draw_plain(folder)
        for split in ("train", "val"):
            path = folder / split / "shapes.json"
            content = json.loads(path.read_text())
            change(content)
            path.write_text(json.dumps(content))

    draw.__qualname__ = change.__qualname__
    return draw


def _one_class(content: dict[str, Any]) -> None:
    content["categories"] = content["categories"][:1]
    for annotation in content["annotations"]:
        annotation["category_id"] = 1


def _a_thousand_classes(content: dict[str, Any]) -> None:
    content["categories"] = [{"id": i + 1, "name": f"class {i}"} for i in range(1000)]
    for annotation in content["annotations"]:
        annotation["category_id"] = 300 * annotation["category_id"]
        annotation.pop("keypoints", None)
        annotation.pop("num_keypoints", None)


def _nearly_all_empty(content: dict[str, Any]) -> None:
    """One image of eight shows something: most batches of two have no object at all."""
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] % 8 == 1]


def _many_classes(content: dict[str, Any]) -> None:
    """300 classes, of which three are seen: ids with gaps, as in COCO."""
    content["categories"] = [{"id": 3 * i + 1, "name": f"class {i}"} for i in range(300)]
    for annotation in content["annotations"]:
        annotation["category_id"] = 3 * (90 * annotation["category_id"]) + 1
        annotation.pop("keypoints", None)
        annotation.pop("num_keypoints", None)


def _mostly_empty(content: dict[str, Any]) -> None:
    """Three of four images show nothing that is labelled, as with cameras in a wood."""
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] % 4 == 1]


def _many_crowds(content: dict[str, Any]) -> None:
    for annotation in content["annotations"][::4]:
        annotation["iscrowd"] = 1


def grey(folder: Path) -> None:
    """Files of one channel."""
    draw_plain(folder)
    for split in ("train", "val"):
        for path in (folder / split / "images").iterdir():
            Image.open(path).convert("L").save(path)


def photographs(folder: Path) -> None:
    """JPEG files: no two decoders agree to the last level."""
    draw_plain(folder)
    for split in ("train", "val"):
        for path in (folder / split / "images").glob("*.png"):
            Image.open(path).save(path.with_suffix(".jpg"), quality=80)
            path.unlink()
        file = folder / split / "shapes.json"
        file.write_text(file.read_text().replace(".png", ".jpg"))


def oblong(folder: Path) -> None:
    """Wide images, three times as wide as high."""
    make_shapes(folder / "train", 32, 1, size=(40, 120))
    make_shapes(folder / "val", 8, 2, size=(40, 120))


def drawn_with_its_kind(folder: Path) -> None:
    """Nothing: the pipeline of the kind draws data of its own."""


def few(folder: Path) -> None:
    """Six images to train on."""
    make_shapes(folder / "train", 6, 1, size=(64, 64))
    make_shapes(folder / "val", 4, 2, size=(64, 64))


CLASSIFIED: dict[str, Any] = {"kind": "classifier", "draw": labelled}
HEALTHY = [
    Healthy("RetinaNet", "the plain pipeline of most bugs"),
    Healthy("task-aligned detector", "our own detector", kind="task_aligned"),
    Healthy("FCOS", "no anchors", kind="fcos"),
    Healthy("Faster R-CNN", "two stages", kind="faster_rcnn"),
    Healthy("Mask R-CNN", "two stages, with masks", kind="mask_rcnn"),
    Healthy("Cascade R-CNN", "three heads after each other", kind="cascade_rcnn"),
    Healthy("Keypoint R-CNN", "two stages, with keypoints", kind="keypoint_rcnn"),
    Healthy("one class", "nothing to confuse", draw=drawn(_one_class)),
    Healthy("300 classes", "most of them never seen, ids with gaps", draw=drawn(_many_classes)),
    Healthy("grey images", "files of one channel, read as three", draw=grey),
    Healthy("JPEG files", "decoders differ by a level or two", draw=photographs),
    Healthy(
        "images without objects",
        "three of four, and they are trained on",
        draw=drawn(_mostly_empty),
        base={"DATALOADER__FILTER_EMPTY_ANNOTATIONS": False},
    ),
    Healthy("many crowd regions", "a quarter of the objects", draw=drawn(_many_crowds)),
    Healthy(
        "very large objects",
        "images enlarged until objects fill most levels",
        base={"INPUT__MIN_SIZE_TRAIN": [128], "INPUT__MIN_SIZE_TEST": 128},
    ),
    Healthy(
        "tiny objects",
        "images shrunk until objects are a few px",
        base={"INPUT__MIN_SIZE_TRAIN": [40], "INPUT__MIN_SIZE_TEST": 40},
    ),
    Healthy("oblong images", "three times as wide as high", draw=oblong),
    Healthy("six images", "a dataset of a first afternoon", draw=few),
    Healthy("heavy augmentation", "scales, flips and colours", base=AUGMENTED),
    Healthy(
        "mosaic",
        "four images in one",
        base={"SERIATIM__AUG": AUGMENTED["SERIATIM__AUG"] | {"MOSAIC": 0.7}},
    ),
    Healthy(
        "frozen pretrained backbone",
        "weights of ImageNet, stages up to stride 8 fixed",
        base=LITE0 | {"MODEL__TIMM": LITE0["MODEL__TIMM"] | {"FREEZE_AT": 3, "NORM": "FrozenBN"}},
    ),
    Healthy(
        "accumulated gradients", "four batches a step", base={"SERIATIM__SOLVER__ACCUMULATE": 4}
    ),
    Healthy("batches of one image", "no two images meet", base={"SOLVER__IMS_PER_BATCH": 1}),
    Healthy(
        "moving average", "the average is evaluated", base={"SERIATIM__SOLVER__EMA_DECAY": 0.99}
    ),
    Healthy(
        "SGD",
        "momentum, weight decay, steps of the learning rate",
        base={
            "SERIATIM__SOLVER": {"OPTIMIZER": "SGD"},
            "SOLVER__BASE_LR": 0.01,
            "SOLVER__STEPS": [4],
        },
    ),
    Healthy("C4 without a pyramid", "one level for all", kind="c4_rcnn"),
    Healthy(
        "rotated boxes",
        "every object turned by an angle of its own",
        kind="rotated_rcnn",
        draw=drawn_with_its_kind,
    ),
    Healthy(
        "semantic segmentation",
        "no objects, a label for every pixel",
        kind="semantic",
        draw=drawn_with_its_kind,
    ),
    Healthy(
        "panoptic segmentation",
        "objects, and labels for what is around them",
        kind="panoptic",
        draw=drawn_with_its_kind,
    ),
    Healthy("1000 classes", "three of them seen", draw=drawn(_a_thousand_classes)),
    Healthy(
        "batches without any object",
        "seven of eight images are empty",
        draw=drawn(_nearly_all_empty),
        base={"DATALOADER__FILTER_EMPTY_ANNOTATIONS": False, "SOLVER__IMS_PER_BATCH": 2},
    ),
    Healthy("two processes", "RetinaNet, through gloo", processes=2),
    Healthy(
        "two processes, normalised over both", "our own detector", kind="task_aligned", processes=2
    ),
    Healthy(
        "two processes, accumulated and augmented",
        "Faster R-CNN, two batches a step",
        kind="faster_rcnn",
        base=AUGMENTED | {"SERIATIM__SOLVER__ACCUMULATE": 2},
        processes=2,
    ),
    Healthy("classifier", "a wide ResNet on images of ten classes", **CLASSIFIED),
    Healthy(
        "classifier with mixup",
        "every image is trained as a mixture of two",
        base={"SERIATIM__MIX": {"NAME": "mixup"}},
        **CLASSIFIED,
    ),
    Healthy(
        "classifier with few labels",
        "four of a class, in BGR",
        base={
            "INPUT__FORMAT": "BGR",
            "SERIATIM__SEMI": {"LABELS_PER_CLASS": 4, "UNLABELED_RATIO": 0},
        },
        **CLASSIFIED,
    ),
]
