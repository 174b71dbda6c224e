"""The annotated objects of one image, as arrays that a transform moves all at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from detectron2.data import transforms as T
from detectron2.structures import (
    BitMasks,
    Boxes,
    BoxMode,
    Instances,
    Keypoints,
    PolygonMasks,
    RotatedBoxes,
    polygons_to_bitmask,
)
from pycocotools import mask as coco_mask
from shapely.geometry import Polygon, box

# What an object's mask can be: polygons, each (N, 2) float64 px; or (H, W) bool; or none.
Mask = list[np.ndarray] | np.ndarray | None


@dataclass
class Objects:
    """N objects of one image.

    Attributes:
        boxes: (N, 4) float64 absolute XYXY; or (N, 5) rotated: centre x, centre y, width, height,
            degrees counter-clockwise.
        classes: (N,) int64.
        masks: N masks.
        keypoints: (N, K, 3) float64 x, y, visibility; None where the data has none.
        annotation: (N,) int64, the position in the record's list of annotations.
        source: (N,) int64, which of the images that were put together the object comes from.
    """

    boxes: np.ndarray
    classes: np.ndarray
    masks: list[Mask]
    keypoints: np.ndarray | None
    annotation: np.ndarray
    source: np.ndarray

    def __len__(self) -> int:
        return len(self.classes)

    @property
    def rotated(self) -> bool:
        return self.boxes.shape[1] == 5

    def select(self, keep: np.ndarray) -> Objects:
        """The objects that an index or boolean array names."""
        index = np.arange(len(self))[keep]
        return Objects(
            self.boxes[index],
            self.classes[index],
            [self.masks[i] for i in index],
            None if self.keypoints is None else self.keypoints[index],
            self.annotation[index],
            self.source[index],
        )

    def shifted(self, x: int, y: int, size: tuple[int, int]) -> Objects:
        """Moved by (x, y) px into an image of `size` (height, width)."""
        boxes = self.boxes.copy()
        boxes[:, :2] += (x, y)
        if not self.rotated:
            boxes[:, 2:4] += (x, y)
        keypoints = self.keypoints
        if keypoints is not None:
            labelled = keypoints[:, :, 2:] > 0
            keypoints = np.concatenate(
                [keypoints[:, :, :2] + labelled * np.array([x, y]), keypoints[:, :, 2:]], axis=2
            )
        masks = [_shift_mask(mask, x, y, size) for mask in self.masks]
        return replace(self, boxes=boxes, keypoints=keypoints, masks=masks)


def _shift_mask(mask: Mask, x: int, y: int, size: tuple[int, int]) -> Mask:
    if isinstance(mask, list):
        return [np.add(polygon, (x, y)) for polygon in mask]
    if mask is None:
        return None
    moved = np.zeros(size, bool)
    moved[y : y + mask.shape[0], x : x + mask.shape[1]] = mask
    return moved


def concatenate(parts: Sequence[Objects]) -> Objects:
    """All objects of several images as those of one."""
    # An image without objects does not know how its boxes would have looked.
    full = [part for part in parts if len(part)] or list(parts[:1])
    keypoints = [part.keypoints for part in full]
    return Objects(
        np.concatenate([part.boxes for part in full]),
        np.concatenate([part.classes for part in full]),
        [mask for part in full for mask in part.masks],
        None if any(k is None for k in keypoints) else np.concatenate(keypoints),
        np.concatenate([part.annotation for part in full]),
        np.concatenate([part.source for part in full]),
    )


def read_objects(
    annotations: Sequence[dict[str, Any]],
    *,
    masks: bool,
    keypoints: int = 0,
    rotated: bool = False,
) -> Objects:
    """The objects in a record's annotations, crowd regions left out.

    Args:
        masks: read the masks (RLEs stay encoded until they are transformed).
        keypoints: how many an object has; 0 reads none. An object without gets unlabelled ones.
        rotated: the form of the boxes where there is none.
    """
    positions = [i for i, a in enumerate(annotations) if not a.get("iscrowd", 0)]
    items = [annotations[i] for i in positions]
    rotated = items[0]["bbox_mode"] == BoxMode.XYWHA_ABS if items else rotated
    boxes = [item["bbox"] for item in items] if rotated else _corners(items)
    points = None
    if keypoints:
        points = np.zeros((len(items), keypoints, 3))
        for i, item in enumerate(items):
            if item.get("keypoints"):
                points[i] = np.reshape(item["keypoints"], (-1, 3))
    return Objects(
        np.array(boxes, dtype=np.float64).reshape(-1, 5 if rotated else 4),
        np.array([item["category_id"] for item in items], dtype=np.int64),
        [_read_mask(item.get("segmentation")) if masks else None for item in items],
        points,
        np.array(positions, dtype=np.int64),
        np.zeros(len(items), np.int64),
    )


def _corners(items: Sequence[Mapping[str, Any]]) -> np.ndarray | list[list[float]]:
    """XYXY px of the boxes, rounded to float32 on the way as BoxMode.convert does, which takes them
    one by one."""
    if any(item["bbox_mode"] != BoxMode.XYWH_ABS for item in items):
        return [BoxMode.convert(i["bbox"], i["bbox_mode"], BoxMode.XYXY_ABS) for i in items]
    boxes = np.array([item["bbox"] for item in items], np.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return boxes


def _read_mask(segmentation: Any) -> Any:
    if isinstance(segmentation, list):
        return [np.array(polygon, dtype=np.float64).reshape(-1, 2) for polygon in segmentation]
    return segmentation or None


def transform_objects(
    objects: Objects,
    transforms: T.TransformList,
    size: tuple[int, int],
    *,
    min_area_share: float = 0.0,
    mirror: np.ndarray | None = None,
) -> Objects:
    """`objects` after `transforms`, clipped to the output of `size` (height, width).

    Args:
        min_area_share: objects of whose box a smaller share is left are dropped, and so are empty
            ones.
        mirror: (K,) which keypoint takes the place of which when the image is mirrored.
    """
    if objects.rotated:
        boxes = transform_rotated_boxes(objects.boxes, transforms)
        share = _rotated_share(boxes, size)
    else:
        whole = transforms.apply_box(objects.boxes.copy()).reshape(-1, 4)
        limit = np.array([size[1], size[0], size[1], size[0]])
        boxes = np.clip(whole, 0, limit)
        share = _areas(boxes) / np.maximum(_areas(whole), 1e-12)
    # Masks cost most: only those of the objects that stay are moved.
    keep = (share > 0) & (share >= min_area_share - 1e-9)
    objects = replace(objects, boxes=boxes).select(keep)
    masks = [_transform_mask(mask, transforms) for mask in objects.masks]
    keypoints = objects.keypoints
    if keypoints is not None and len(keypoints):
        keypoints = _transform_keypoints(keypoints, transforms, size, mirror)
    return replace(objects, masks=masks, keypoints=keypoints)


def _areas(boxes: np.ndarray) -> np.ndarray:
    return np.prod(boxes[:, 2:4] - boxes[:, :2], axis=1)


def _transform_mask(mask: Any, transforms: T.TransformList) -> Mask:
    if isinstance(mask, list):
        return transforms.apply_polygons([polygon.copy() for polygon in mask])
    if isinstance(mask, dict):
        # Padding gets the label that semantic segmentation ignores, hence the comparison with 1.
        return np.asarray(transforms.apply_segmentation(coco_mask.decode(mask))) == 1
    return None


def _transform_keypoints(
    keypoints: np.ndarray,
    transforms: T.TransformList,
    size: tuple[int, int],
    mirror: np.ndarray | None,
) -> np.ndarray:
    """Points that leave the image become unlabelled: (0, 0, 0), as COCO has it."""
    points = transforms.apply_coords(keypoints[:, :, :2].reshape(-1, 2).copy())
    points = np.asarray(points).reshape(*keypoints.shape[:2], 2)
    inside = ((points >= 0) & (points <= (size[1], size[0]))).all(axis=2)
    labelled = inside & (keypoints[:, :, 2] > 0)
    result = np.concatenate([points, keypoints[:, :, 2:]], axis=2) * labelled[:, :, None]
    if mirror is not None and is_mirrored(transforms):
        result = result[:, mirror]
    return result


def is_mirrored(transforms: T.TransformList) -> bool:
    """Whether the transforms turn a left hand into a right hand, as one flip does."""
    origin, x, y = np.asarray(transforms.apply_coords(np.array([[0.0, 0], [1, 0], [0, 1]])))
    (a, b), (c, d) = x - origin, y - origin
    return bool(a * d - b * c < 0)


def transform_rotated_boxes(boxes: np.ndarray, transforms: T.TransformList) -> np.ndarray:
    """(N, 5) rotated boxes after any transform, exact unless it shears or scales unevenly.

    In that case they are those of `RotatedBoxes.scale`: the middles of two neighbouring sides are
    moved; their distances from the centre give width and height, the upper one the angle.
    """
    if not len(boxes):
        return boxes.copy()
    centre, (width, height), angle = boxes[:, :2], boxes[:, 2:4].T, np.deg2rad(boxes[:, 4])
    # The image's y axis points down: counter-clockwise turns (1, 0) towards (0, -1).
    across = np.stack([np.cos(angle), -np.sin(angle)], axis=1) * (width / 2)[:, None]
    along = np.stack([np.sin(angle), np.cos(angle)], axis=1) * (height / 2)[:, None]
    points = np.concatenate([centre, centre + across, centre + along])
    centre, across, along = np.split(np.asarray(transforms.apply_coords(points)), 3)
    across, along = across - centre, along - centre
    angle = np.rad2deg(np.arctan2(along[:, 0], along[:, 1]))
    width, height = 2 * np.linalg.norm(across, axis=1), 2 * np.linalg.norm(along, axis=1)
    return np.column_stack([centre, width, height, angle])


def rotated_corners(boxes: np.ndarray) -> np.ndarray:
    """(N, 5) rotated boxes to their corners, (N, 4, 2)."""
    angle = np.deg2rad(boxes[:, 4])
    across = np.stack([np.cos(angle), -np.sin(angle)], axis=1) * (boxes[:, 2:3] / 2)
    along = np.stack([np.sin(angle), np.cos(angle)], axis=1) * (boxes[:, 3:4] / 2)
    sides = [-across - along, across - along, across + along, along - across]
    return boxes[:, None, :2] + np.stack(sides, axis=1)


def _rotated_share(boxes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The share of each rotated box's area that lies in the image."""
    frame = box(0, 0, size[1], size[0])
    corners = rotated_corners(boxes)
    inside = ((corners >= 0) & (corners <= (size[1], size[0]))).all(axis=(1, 2))
    share = inside.astype(np.float64)
    for i in np.flatnonzero(~inside):
        polygon = Polygon(corners[i])
        share[i] = polygon.intersection(frame).area / max(polygon.area, 1e-12)
    return share


def mask_to_bitmap(mask: Mask, size: tuple[int, int]) -> np.ndarray:
    """The mask as (H, W) bool."""
    if isinstance(mask, list):
        if not mask:
            return np.zeros(size, bool)
        return polygons_to_bitmask([polygon.reshape(-1) for polygon in mask], *size)
    return np.zeros(size, bool) if mask is None else mask


def to_instances(
    objects: Objects,
    size: tuple[int, int],
    *,
    mask_format: str | None,
    tight_boxes: bool = False,
    origins: bool = False,
) -> Instances:
    """What Detectron2's models take: gt_boxes, gt_classes, and gt_masks, gt_keypoints if wanted.

    Args:
        mask_format: "polygon", "bitmask", or None for no masks.
        tight_boxes: replace the boxes by those around the masks, which cropping may have made
            smaller.
        origins: add gt_source and gt_annotation, (N,) int64, as in `Objects`.
    """
    instances = Instances(size)
    boxes = torch.as_tensor(objects.boxes, dtype=torch.float32)
    instances.gt_boxes = RotatedBoxes(boxes) if objects.rotated else Boxes(boxes)
    instances.gt_classes = torch.as_tensor(objects.classes)
    if mask_format == "polygon":
        polygons = [[p.reshape(-1) for p in mask or ()] for mask in objects.masks]
        instances.gt_masks = PolygonMasks(polygons)
    elif mask_format == "bitmask":
        bitmaps = np.zeros((len(objects), *size), bool)
        for i, mask in enumerate(objects.masks):
            bitmaps[i] = mask_to_bitmap(mask, size)
        instances.gt_masks = BitMasks(torch.from_numpy(bitmaps))
    if objects.keypoints is not None:
        instances.gt_keypoints = Keypoints(objects.keypoints)
    keep = instances.gt_boxes.nonempty(threshold=1e-5)
    if mask_format is not None:
        keep &= instances.gt_masks.nonempty()
    if origins:
        instances.gt_source = torch.as_tensor(objects.source)
        instances.gt_annotation = torch.as_tensor(objects.annotation)
    instances = instances[keep]
    if tight_boxes and mask_format is not None and len(instances):
        instances.gt_boxes = instances.gt_masks.get_bounding_boxes()
    return instances
