"""What is drawn, in one form: from dataset dicts, from Instances of training or predictions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

# Values of detectron2.structures.BoxMode, an IntEnum; named here so that drawing needs no torch.
_XYXY, _XYWH, _XYWHA = 0, 1, 4


@dataclass(slots=True)
class Item:
    """One object, in continuous pixels of its image (a pixel's centre is at +0.5)."""

    box: np.ndarray | None = (
        None  # (4,) XYXY, or (5,): centre x, y, width, height, degrees counter-clockwise
    )
    category: int = 0
    score: float | None = None
    polygons: list[np.ndarray] = field(default_factory=list)  # each (P, 2)
    mask: np.ndarray | Mapping[str, Any] | None = None  # (H, W) bool, or its run lengths
    keypoints: np.ndarray | None = None  # (K, 3): x, y, and visibility 0/1/2 or score
    crowd: bool = False

    @property
    def rotated(self) -> bool:
        return self.box is not None and len(self.box) == 5

    def corners(self) -> np.ndarray:
        """(4, 2) corners of the box, clockwise from its top left."""
        if self.box is None:
            raise ValueError("an item without a box has no corners")
        if not self.rotated:
            left, top, right, bottom = self.box
            return np.array([(left, top), (right, top), (right, bottom), (left, bottom)])
        x, y, width, height, degrees = self.box
        angle = np.deg2rad(degrees)
        turn = np.array([(np.cos(angle), np.sin(angle)), (-np.sin(angle), np.cos(angle))])
        half = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]) * (width / 2, height / 2)
        return half @ turn.T + (x, y)

    def bitmap(self) -> np.ndarray:
        """The mask as (H, W) bool."""
        if isinstance(self.mask, Mapping):
            from faster_coco_eval.core import mask as rle

            return rle.decode(dict(self.mask)).astype(bool)
        if self.mask is None:
            raise ValueError("an item without a mask has no bitmap")
        return self.mask

    def bounds(self) -> np.ndarray | None:
        """(4,) XYXY around whatever the item has; None when it has nothing."""
        if self.box is not None:
            points = self.corners()
        elif self.polygons:
            points = np.concatenate(self.polygons)
        elif self.mask is not None and (bitmap := self.bitmap()).any():
            rows, columns = bitmap.any(1).nonzero()[0], bitmap.any(0).nonzero()[0]
            points = np.array([(columns[0], rows[0]), (columns[-1] + 1, rows[-1] + 1)])
        elif self.keypoints is not None and (self.keypoints[:, 2] > 0).any():
            points = self.keypoints[self.keypoints[:, 2] > 0, :2]
        else:
            return None
        return np.concatenate([points.min(0), points.max(0)])


def to_items(instances: Any, threshold: float = 0.0) -> list[Item]:
    """Items of a list of dataset dicts' annotations, of an `Instances`, or of Items.

    Args:
        instances: Detectron2 annotations (`bbox`, `bbox_mode`, `category_id`, `segmentation`,
            `keypoints`, `iscrowd`), or `Instances` with gt_* or pred_* fields on any device.
        threshold: detections below this score are left out.
    """
    if instances is None:
        return []
    if hasattr(instances, "get_fields"):
        items = _from_instances(instances)
    else:
        items = [i if isinstance(i, Item) else item_from_annotation(i) for i in instances]
    return [item for item in items if item.score is None or item.score >= threshold]


def item_from_annotation(annotation: Mapping[str, Any]) -> Item:
    """The item of an annotation of Detectron2, or of COCO (XYWH where no mode is given)."""
    polygons, mask = _segmentation(annotation.get("segmentation"))
    keypoints = annotation.get("keypoints")
    if keypoints is not None:
        keypoints = np.asarray(keypoints, dtype=float).reshape(-1, 3)
    score = annotation.get("score")
    return Item(
        box=_box(annotation.get("bbox"), annotation.get("bbox_mode")),
        category=int(annotation.get("category_id", 0)),
        score=None if score is None else float(score),
        polygons=polygons,
        mask=mask,
        keypoints=keypoints,
        crowd=bool(annotation.get("iscrowd", 0)),
    )


def _box(box: Sequence[float] | None, mode: int | None) -> np.ndarray | None:
    if box is None or len(box) == 0:
        return None
    box = np.asarray(box, dtype=float)
    if mode is None:
        mode = _XYWHA if len(box) == 5 else _XYWH
    if mode == _XYWH:
        box = np.concatenate([box[:2], box[:2] + box[2:]])
    elif mode not in (_XYXY, _XYWHA):
        raise ValueError(
            f"boxes of mode {mode!r} cannot be drawn; use XYXY_ABS, XYWH_ABS or XYWHA_ABS"
        )
    return box


def _segmentation(segmentation: Any) -> tuple[list[np.ndarray], Any]:
    if segmentation is None or len(segmentation) == 0:
        return [], None
    if isinstance(segmentation, np.ndarray) and segmentation.ndim == 2:
        return [], segmentation.astype(bool)
    if isinstance(segmentation, Mapping):
        from faster_coco_eval.core import mask as rle

        if isinstance(segmentation["counts"], list):
            segmentation = rle.frPyObjects(segmentation, *segmentation["size"])
        return [], segmentation
    return [np.asarray(polygon, dtype=float).reshape(-1, 2) for polygon in segmentation], None


def _from_instances(instances: Any) -> list[Item]:
    fields = instances.get_fields()

    def first(*names: str) -> Any:
        return next((fields[name] for name in names if name in fields), None)

    boxes = _numpy(first("pred_boxes", "gt_boxes", "proposal_boxes"))
    classes = _numpy(first("pred_classes", "gt_classes"))
    scores = _numpy(first("scores"))
    keypoints = _numpy(first("pred_keypoints", "gt_keypoints"))
    masks = list(_masks(first("pred_masks", "gt_masks"), len(instances)))
    items = []
    for i in range(len(instances)):
        polygons, mask = masks[i]
        items.append(
            Item(
                box=None if boxes is None else boxes[i].astype(float),
                category=0 if classes is None else int(classes[i]),
                score=None if scores is None else float(scores[i]),
                polygons=polygons,
                mask=mask,
                keypoints=None if keypoints is None else keypoints[i].astype(float),
            )
        )
    return items


def _numpy(values: Any) -> np.ndarray | None:
    """A tensor, Boxes or Keypoints (which hold one in `tensor`) as an array on the CPU."""
    if values is None:
        return None
    values = getattr(values, "tensor", values)
    return values.detach().cpu().numpy() if hasattr(values, "detach") else np.asarray(values)


def _masks(masks: Any, count: int) -> Iterable[tuple[list[np.ndarray], np.ndarray | None]]:
    if masks is None:
        return [([], None)] * count
    if hasattr(masks, "polygons"):
        return [
            ([np.asarray(p, dtype=float).reshape(-1, 2) for p in polygons], None)
            for polygons in masks.polygons
        ]
    return [([], mask.astype(bool, copy=False)) for mask in _numpy(masks)]


def compact(item: Item) -> Item:
    """`item` with its mask as run lengths: what one keeps when there are many images."""
    if not isinstance(item.mask, np.ndarray):
        return item
    from faster_coco_eval.core import mask as rle

    return replace(item, mask=rle.encode(np.asfortranarray(item.mask, dtype=np.uint8)))


def scaled(item: Item, scale: float) -> Item:
    """`item` in an image of `scale` times the size; a mask is resampled to the nearest pixel."""
    if scale == 1:
        return item
    mask = None
    if item.mask is not None:
        mask = item.bitmap()
        rows, columns = (
            (np.arange(max(1, round(n * scale))) / scale).astype(int).clip(0, n - 1)
            for n in mask.shape
        )
        mask = mask[np.ix_(rows, columns)]
    box, keypoints = item.box, item.keypoints
    if box is not None:
        box = box * ([scale] * 4 + [1] * (len(box) - 4))
    if keypoints is not None:
        keypoints = keypoints * (scale, scale, 1)
    polygons = [polygon * scale for polygon in item.polygons]
    return replace(item, box=box, polygons=polygons, mask=mask, keypoints=keypoints)
