"""Mistakes that are often made with boxes and classes, to be planted into perfect predictions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from detectron2.structures import Instances

Change = Callable[[Instances, tuple[float, float], int], Instances | None]


@dataclass(frozen=True)
class Fault:
    """A mistake that is often made: `name` and how it changes perfect predictions of an image.

    `change(instances, scale, classes)` gives the changed ones, or None where the mistake changes
    nothing; `scale` is (x, y) from the image on disk to the network's input, `classes` how many
    there are. `undo` is the opposite. `numbers` is how many numbers a box has for the mistake to be
    possible: 4, 5 (rotated), or 0 for any.
    """

    name: str
    where: str
    change: Change
    undo: Change
    numbers: int = 4

    @property
    def undone(self) -> Fault:
        """The fault that `undo` is."""
        return replace(self, change=self.undo, undo=self.change)


def without(instances: Instances, *fields: str) -> Instances:
    kept = {k: v for k, v in instances.get_fields().items() if k not in fields}
    return Instances(instances.image_size, **kept)


def _with_boxes(instances: Instances, boxes: torch.Tensor) -> Instances:
    changed = Instances(instances.image_size, **instances.get_fields())
    changed.pred_boxes = type(instances.pred_boxes)(boxes)
    return changed


def _as_xywh(instances: Instances, scale: tuple[float, float], classes: int) -> Instances:
    boxes = instances.pred_boxes.tensor.clone()
    boxes[:, 2:] -= boxes[:, :2]
    return _with_boxes(instances, boxes)


def _as_xyxy(instances: Instances, scale: tuple[float, float], classes: int) -> Instances:
    boxes = instances.pred_boxes.tensor.clone()
    boxes[:, 2:] += boxes[:, :2]
    return _with_boxes(instances, boxes)


def _not_scaled(instances: Instances, scale: tuple[float, float], classes: int) -> Instances | None:
    if abs(scale[0] - 1) < 0.05 and abs(scale[1] - 1) < 0.05:
        return None
    factor = instances.pred_boxes.tensor.new_tensor([*scale, *scale])
    return _with_boxes(instances, instances.pred_boxes.tensor * factor)


def _scaled_twice(
    instances: Instances, scale: tuple[float, float], classes: int
) -> Instances | None:
    return _not_scaled(instances, (1 / scale[0], 1 / scale[1]), classes)


def _axes_swapped(instances: Instances, scale: tuple[float, float], classes: int) -> Instances:
    return _with_boxes(instances, instances.pred_boxes.tensor[:, [1, 0, 3, 2]])


def _sizes_swapped(
    instances: Instances, scale: tuple[float, float], classes: int
) -> Instances | None:
    height, width = instances.image_size
    return _not_scaled(instances, (height / width, width / height), classes)


def _sizes_swapped_back(
    instances: Instances, scale: tuple[float, float], classes: int
) -> Instances | None:
    height, width = instances.image_size
    return _not_scaled(instances, (width / height, height / width), classes)


def _mirrored(instances: Instances, scale: tuple[float, float], classes: int) -> Instances | None:
    boxes = instances.pred_boxes.tensor.clone()
    boxes[:, [0, 2]] = instances.image_size[1] - boxes[:, [2, 0]]
    moved = (boxes - instances.pred_boxes.tensor)[:, 0].abs()
    if (moved < (boxes[:, 2] - boxes[:, 0]) / 2).all():  # all in the middle: nothing changes
        return None
    return _with_boxes(instances, boxes)


def _turned_back(instances: Instances, scale: tuple[float, float], classes: int) -> Instances:
    return _with_boxes(
        instances, instances.pred_boxes.tensor * instances.scores.new_tensor([1, 1, 1, 1, -1])
    )


def _sides_swapped(instances: Instances, scale: tuple[float, float], classes: int) -> Instances:
    return _with_boxes(instances, instances.pred_boxes.tensor[:, [0, 1, 3, 2, 4]])


def _next_class(instances: Instances, scale: tuple[float, float], classes: int) -> Instances | None:
    return _shifted_class(instances, 1, classes)


def _previous_class(instances: Instances, scale: tuple[float, float], classes: int):
    return _shifted_class(instances, -1, classes)


def _shifted_class(instances: Instances, by: int, classes: int) -> Instances | None:
    if classes < 2:
        return None
    changed = Instances(instances.image_size, **instances.get_fields())
    changed.pred_classes = (instances.pred_classes + by) % classes
    return changed


FAULTS = (
    Fault("corners read as width and height (XYXY as XYWH)", "bbox_mode", _as_xywh, _as_xyxy),
    Fault("width and height read as corners (XYWH as XYXY)", "bbox_mode", _as_xyxy, _as_xywh),
    Fault(
        "class numbers one too high",
        "thing_dataset_id_to_contiguous_id or the label list",
        _next_class,
        _previous_class,
        numbers=0,
    ),
    Fault(
        "class numbers one too low",
        "thing_dataset_id_to_contiguous_id or the label list",
        _previous_class,
        _next_class,
        numbers=0,
    ),
    Fault(
        "boxes left at the scale of the network's input",
        "postprocessing",
        _not_scaled,
        _scaled_twice,
    ),
    Fault("boxes scaled back twice", "postprocessing", _scaled_twice, _not_scaled),
    Fault("x and y swapped", "the order of height and width", _axes_swapped, _axes_swapped),
    Fault(
        "height and width of the image swapped where boxes are scaled back",
        "postprocessing, the records' height and width",
        _sizes_swapped,
        _sizes_swapped_back,
    ),
    Fault("boxes mirrored left to right, the image not", "build_mapper", _mirrored, _mirrored),
    Fault(
        "angles of the other sense (clockwise)",
        "bbox_mode XYWHA_ABS",
        _turned_back,
        _turned_back,
        numbers=5,
    ),
    Fault(
        "width and height swapped",
        "bbox_mode XYWHA_ABS",
        _sides_swapped,
        _sides_swapped,
        numbers=5,
    ),
)
