"""Do boxes, classes, masks and keypoints arrive where their image's transforms take them?"""

from __future__ import annotations

from typing import Any

import numpy as np
from detectron2.structures import BoxMode

from dataset_tools.boxes import box_iou
from seriatim.data.image import read_labels
from seriatim.gates.context import Context, Record, is_upright, objects_of
from seriatim.gates.samples import Sample
from seriatim.gates.verdict import Cause, Finding

BOX_TOLERANCE = 2.5  # px of the input
# Objects of which less than this share stays in the crop may rightly be dropped.
SURE_SHARE = 0.7
BAD_SHARE = 0.1  # of the objects, above which it is no rounding
# Where pixels were registered, one image of eight may have been taken for its mirror image.
FITTED_TOLERANCE, FITTED_SHARE = 5.0, 0.2
MASK_IOU = 0.7
LABELS_ALIKE = 0.9  # share of the pixels; at the edges two ways of resampling differ


def mirror_of(context: Context) -> np.ndarray | None:
    """The keypoints' numbers after a mirroring, if the data has keypoints."""
    if not context.cfg.MODEL.KEYPOINT_ON:
        return None
    from detectron2.data import detection_utils

    return np.asarray(
        detection_utils.create_keypoint_hflip_indices(list(context.cfg.DATASETS.TRAIN))
    )


class Tally:
    """How many objects arrived where they should."""

    def __init__(self) -> None:
        self.objects = self.missing = self.strange = self.classes = 0
        self.masks = self.bad_masks = self.points = self.bad_points = self.swapped_points = 0
        self.label_images = self.bad_label_images = 0
        self.place = ""
        self.bad_share = BAD_SHARE

    def as_dict(self) -> dict[str, Any]:
        left = ("place", "bad_share")
        return {name: value for name, value in vars(self).items() if name not in left}

    def findings(self) -> list[Finding]:
        found = []
        many = max(1, self.bad_share * self.objects)
        if self.classes >= many:
            found.append(
                Finding(
                    f"{self.classes} of {self.objects} boxes have another class than in the file "
                    f"({self.place}).",
                    "the same.",
                    [
                        Cause("the mapper or catalog maps class numbers wrongly", "build_mapper"),
                        Cause("labels are shuffled or taken from another image"),
                    ],
                )
            )
        if self.strange >= many or self.missing >= many:
            found.append(
                Finding(
                    f"of {self.objects} objects {self.missing} are missing after augmentation, "
                    f"{self.strange} boxes"
                    f" are where none should be ({self.place}).",
                    "every box where its transforms take it.",
                    [
                        Cause(
                            "the boxes are not moved with the image: flip, crop or scale is "
                            "applied to one only",
                            "build_mapper",
                        )
                        if self.strange
                        else Cause(
                            "the mapper drops objects", "SERIATIM.AUG.MIN_AREA_SHARE, build_mapper"
                        ),
                        Cause("boxes are read in another mode (XYXY, XYWH)", "bbox_mode")
                        if self.strange
                        else Cause("objects are filtered by size or class", "build_mapper"),
                    ],
                )
            )
        if self.bad_masks >= max(1, self.bad_share * self.masks):
            found.append(
                Finding(
                    f"{self.bad_masks} of {self.masks} masks are not where the transforms take "
                    "them.",
                    f"an IoU of at least {MASK_IOU}.",
                    [
                        Cause("masks are not moved with the image", "build_mapper"),
                        Cause("polygons hold x and y swapped"),
                    ],
                )
            )
        if self.bad_label_images >= max(1, self.bad_share * self.label_images):
            found.append(
                Finding(
                    f"{self.bad_label_images} of {self.label_images} label images are not what the"
                    " transforms make of their files.",
                    f"at least {LABELS_ALIKE:.0%} of the pixels alike.",
                    [
                        Cause("labels are not moved with the image", "build_mapper"),
                        Cause("the mapper maps label numbers wrongly", "build_mapper"),
                    ],
                )
            )
        if self.bad_points >= max(1, self.bad_share * self.points):
            flip = Cause(
                "left and right keypoints are not exchanged on a flip", "keypoint_flip_map"
            )
            move = Cause("keypoints are not moved with the image", "build_mapper")
            found.append(
                Finding(
                    f"{self.bad_points} of {self.points} keypoints are not where the transforms "
                    "take them.",
                    f"within {BOX_TOLERANCE:g} px.",
                    [flip, move] if self.swapped_points > self.bad_points / 2 else [move, flip],
                )
            )
        return found


def compare_objects(sample: Sample, tally: Tally, mirror: np.ndarray | None, tight: bool) -> None:
    """Match the boxes of an input with those that its transforms make of the file's."""
    tally.bad_share = FITTED_SHARE if sample.fitted else BAD_SHARE
    transforms, truth = sample.transforms, sample.truth
    if not is_upright(truth.gt_boxes):
        _compare_rotated(sample, tally)
        return
    height, width = sample.item["image"].shape[-2:]
    annotations = [a for a in objects_of(sample.record) if len(a["bbox"]) == 4]
    boxes = np.array(
        [BoxMode.convert(list(a["bbox"]), a["bbox_mode"], BoxMode.XYXY_ABS) for a in annotations]
    ).reshape(-1, 4)
    moved = np.asarray(transforms.apply_box(boxes)).reshape(-1, 4) if len(boxes) else boxes
    clipped = moved.clip(0, (width, height, width, height))
    share = _area(clipped) / np.maximum(_area(moved), 1e-6)
    got = truth.gt_boxes.tensor.double().numpy()
    classes = truth.gt_classes.numpy()
    tally.objects += len(annotations)
    free = set(range(len(got)))
    for annotation, box, kept in zip(annotations, clipped, share, strict=True):
        tolerance = FITTED_TOLERANCE if sample.fitted else BOX_TOLERANCE
        number = _nearest(box, got, free, tight, tolerance)
        if number is None:
            if kept > SURE_SHARE and _area(box[None])[0] > 16:
                tally.missing += 1
                tally.place = tally.place or str(sample.record["file_name"])
            continue
        free.discard(number)
        if classes[number] != annotation["category_id"]:
            tally.classes += 1
            tally.place = tally.place or str(sample.record["file_name"])
        _compare_mask(sample, annotation, number, tally)
        _compare_points(sample, annotation, number, tally, mirror)
    tally.strange += len(free)
    if free:
        tally.place = tally.place or str(sample.record["file_name"])


def _compare_rotated(sample: Sample, tally: Tally) -> None:
    """Corners of rotated boxes against where the transforms take the corners of the file's."""
    height, width = sample.item["image"].shape[-2:]
    truth = sample.truth
    got = [corners(box) for box in truth.gt_boxes.tensor.double().numpy()]
    free = set(range(len(got)))
    for annotation in objects_of(sample.record):
        tally.objects += 1
        wanted = np.asarray(sample.transforms.apply_coords(corners(np.array(annotation["bbox"]))))
        gaps = {i: np.linalg.norm(wanted[:, None] - got[i][None], axis=2) for i in free}
        # Each corner has one near it: in which order they come says nothing.
        near = [i for i, gap in gaps.items() if gap.min(1).max() <= BOX_TOLERANCE]
        if near:
            free.discard(near[0])
            tally.classes += int(truth.gt_classes[near[0]] != annotation["category_id"])
        elif (wanted > 0).all() and (wanted < (width, height)).all():
            tally.missing += 1
            tally.place = tally.place or str(sample.record["file_name"])
    tally.strange += len(free)


def corners(box: np.ndarray) -> np.ndarray:
    """(4, 2) XY of a box (centre x, centre y, width, height, degrees counter-clockwise)."""
    x, y, width, height, angle = box
    along, across = np.array([-1, 1, 1, -1]) * width / 2, np.array([-1, -1, 1, 1]) * height / 2
    cos, sin = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    return np.stack([x + cos * along + sin * across, y - sin * along + cos * across], axis=1)


def compare_labels(sample: Sample, tally: Tally) -> None:
    """The label image of an input against what its transforms make of the file's."""
    file = read_labels(sample.record["sem_seg_file_name"])
    file = file if file.ndim == 2 else file[:, :, 0]
    wanted = np.asarray(sample.transforms.apply_segmentation(file.copy()))
    got = sample.item["sem_seg"].numpy()
    tally.label_images += 1
    alike = got.shape == wanted.shape and (got == wanted).mean() >= LABELS_ALIKE
    tally.bad_label_images += not alike


def _nearest(
    box: np.ndarray, got: np.ndarray, free: set[int], tight: bool, tolerance: float
) -> int | None:
    """The box of `got` that is `box`; if they are `tight` around masks, one that overlaps well."""
    candidates = sorted(free)
    if not candidates:
        return None
    if tight:
        overlap = box_iou(box[None], got[candidates])[0]
        best = int(overlap.argmax())
        return candidates[best] if overlap[best] > 0.3 else None
    distance = np.abs(got[candidates] - box).max(axis=1)
    best = int(distance.argmin())
    return candidates[best] if distance[best] <= tolerance else None


def _compare_mask(sample: Sample, annotation: Record, number: int, tally: Tally) -> None:
    if not sample.truth.has("gt_masks") or "segmentation" not in annotation:
        return
    from seriatim.data.objects import mask_to_bitmap

    height, width = sample.item["image"].shape[-2:]
    masks = sample.truth.gt_masks
    bitmap = masks.tensor[number].numpy() if hasattr(masks, "tensor") else None
    if bitmap is None:
        bitmap = mask_to_bitmap([np.asarray(p) for p in masks.polygons[number]], (height, width))
    source = _bitmap(annotation["segmentation"], (sample.record["height"], sample.record["width"]))
    wanted = sample.moved(source)
    if wanted.sum() < 64 or wanted.shape != bitmap.shape:
        return
    tally.masks += 1
    bitmap = bitmap.astype(bool)
    union = (wanted | bitmap).sum()
    tally.bad_masks += bool((wanted & bitmap).sum() < MASK_IOU * union)


def _bitmap(segmentation: Any, size: tuple[int, int]) -> np.ndarray:
    from pycocotools import mask as rle

    if isinstance(segmentation, list):
        segmentation = rle.merge(rle.frPyObjects(segmentation, *size))
    elif isinstance(segmentation["counts"], list):
        segmentation = rle.frPyObjects(segmentation, *size)
    return rle.decode(segmentation).astype(bool)


def _compare_points(
    sample: Sample, annotation: Record, number: int, tally: Tally, mirror: np.ndarray | None
) -> None:
    if mirror is None or "keypoints" not in annotation or not sample.truth.has("gt_keypoints"):
        return
    from seriatim.data.objects import is_mirrored

    points = np.asarray(annotation["keypoints"], dtype=float).reshape(-1, 3)
    moved = np.asarray(sample.transforms.apply_coords(points[:, :2].copy()))
    height, width = sample.item["image"].shape[-2:]
    inside = (points[:, 2] > 0) & (moved > 1).all(1) & (moved < (width - 1, height - 1)).all(1)
    flipped = is_mirrored(sample.transforms)
    exchanged = mirror if flipped else np.arange(len(points))
    tolerance = FITTED_TOLERANCE if sample.fitted else BOX_TOLERANCE
    got = sample.truth.gt_keypoints.tensor[number].double().numpy()
    for place in range(len(points)):
        origin = exchanged[place]
        if not inside[origin]:
            continue
        tally.points += 1
        if np.abs(got[place, :2] - moved[origin]).max() > tolerance:
            tally.bad_points += 1
            tally.swapped_points += bool(
                flipped and np.abs(got[place, :2] - moved[place]).max() <= tolerance
            )


def _area(boxes: np.ndarray) -> np.ndarray:
    return np.prod(np.maximum(boxes[:, 2:] - boxes[:, :2], 0), axis=1)
