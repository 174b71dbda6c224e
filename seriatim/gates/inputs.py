"""Does the network see what we think it sees?"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from detectron2.data import transforms as T
from detectron2.structures import BoxMode, Instances
from fvcore.transforms.transform import TransformList
from torch import nn

from seriatim.data.loader import seeded
from seriatim.gates.base import Gate, Skip
from seriatim.gates.context import Batch, Context, Record, objects_of
from seriatim.gates.geometry import coordinate_error, is_photometric
from seriatim.gates.pictures import input_tile, save_sheet
from seriatim.gates.verdict import Cause, Finding

IMAGES = 8
# Two libraries decode a JPEG to within a level or two; a wrong crop, flip or channel order is off
# by tens.
PIXEL_TOLERANCE = 6.0
# Resizing moves points by a fraction of a pixel of the source; a missing flip or scale by tens.
COORDINATE_TOLERANCE = 3.0
BOX_TOLERANCE = 2.5  # px of the input
# Objects of which less than this share stays in the crop may rightly be dropped.
SURE_SHARE = 0.7
BAD_SHARE = 0.1  # of the objects, above which it is no rounding
MASK_IOU = 0.7
# After normalisation with statistics of its kind a set of photographs has a mean and deviation near
# 0 and 1.
MEAN_BOUND, DEVIATION_BOUNDS = 3.0, (0.15, 5.0)


class InputsGate(Gate):
    """Every tensor is taken back to the file it came from, and held against the labels there."""

    name = "inputs"
    question = "does the network see what we think it sees?"
    keys = ("DATASETS", "SERIATIM.DATASETS", "SERIATIM.AUG", "INPUT", "DATALOADER", "MODEL")
    packages = ("seriatim.data", "seriatim.modeling", "seriatim.gates.geometry", "dataset_tools")

    def examine(self, context: Context, folder: Path) -> str:
        records = context.covering(context.train_records, IMAGES) or context.train_records[:IMAGES]
        if not records:
            raise Skip("there are no training images")
        samples = [_mapped(context, record, i) for i, record in enumerate(records)]
        self._picture(context, samples, folder)
        self._pixels(context, samples)
        self._coordinates(samples)
        self._objects(context, samples)
        self._backbone(context, records)
        self._batches(context)
        if not self.findings:
            self._workers(context, records)
        return f"{len(samples)} augmented inputs agree with their files, boxes with their labels"

    def _picture(self, context: Context, samples: list[Sample], folder: Path) -> None:
        tiles = []
        for sample in samples:
            truth = sample.truth
            boxes = truth.gt_boxes.tensor[:, :4].numpy() if truth is not None else np.zeros((0, 4))
            classes = truth.gt_classes.tolist() if truth is not None else []
            bgr = context.cfg.INPUT.FORMAT == "BGR"
            tiles.append(input_tile(sample.item["image"], boxes, classes, bgr))
        save_sheet(tiles, folder / "inputs.png")
        self.evidence.append("inputs.png")

    # One sample after the other

    def _pixels(self, context: Context, samples: list[Sample]) -> None:
        """The mapper's tensor is what its transforms make of the file, read by another library."""
        errors = []
        worst: tuple[float, Sample, np.ndarray] | None = None
        for sample in samples:
            if sample.transforms is None or not sample.is_8_bit:
                continue
            wanted = sample.expected_image(context.cfg.INPUT.FORMAT)
            got = sample.pixels()
            if got.shape != wanted.shape:
                errors.append(float("inf"))
                worst = worst or (float("inf"), sample, wanted)
                continue
            error = float(np.abs(got.astype(float) - wanted).mean())
            errors.append(error)
            if worst is None or error > worst[0]:
                worst = (error, sample, wanted)
        if worst is None:
            self.numbers["pixels"] = (
                "not compared: the mapper has no `augmentations` to be recorded"
            )
            return
        self.numbers["mean difference of pixels to the file, 0–255"] = [round(e, 2) for e in errors]
        if np.median(errors) <= PIXEL_TOLERANCE:
            return
        self.findings.append(
            Finding(
                f"inputs differ from what their transforms make of {worst[1].item['file_name']}: by"
                f" {np.median(errors):.0f} of 255 levels in the median.",
                f"at most {PIXEL_TOLERANCE:g}, as two decoders differ.",
                explain_pixels(worst[1].pixels(), worst[2]),
                pictures=["inputs.png"],
            )
        )

    def _coordinates(self, samples: list[Sample]) -> None:
        """Transforms move coordinates as they move pixels."""
        found = {}
        for sample in samples:
            if sample.transforms is None:
                continue
            for transform in sample.transforms.transforms:
                error = coordinate_error(TransformList([transform]), sample.sizes[id(transform)])
                if error == error:
                    name = type(transform).__name__
                    found[name] = max(found.get(name, 0.0), error)
        self.numbers["px between apply_coords and apply_image"] = found
        for name, error in found.items():
            if error > COORDINATE_TOLERANCE:
                self.findings.append(
                    Finding(
                        f"{name} moves coordinates to other places than pixels: {error:.0f} px "
                        "apart"
                        " in the median.",
                        f"at most {COORDINATE_TOLERANCE:g} px.",
                        [
                            Cause(
                                f"apply_coords or apply_image of {name} is wrong, so boxes do not "
                                "follow",
                                name,
                            ),
                            Cause(
                                "an augmentation changes the image in place and forgets the boxes"
                            ),
                        ],
                        pictures=["inputs.png"],
                    )
                )

    def _objects(self, context: Context, samples: list[Sample]) -> None:
        """Boxes, classes, masks and keypoints are the file's, moved by the transforms."""
        tally = Tally()
        mirror = mirror_of(context)
        tight = bool(getattr(context.train_mapper(), "recompute_boxes", False))
        for sample in samples:
            if sample.transforms is not None and sample.truth is not None:
                compare_objects(sample, tally, mirror, tight)
        self.numbers["objects"] = tally.as_dict()
        for finding in tally.findings():
            finding.pictures = ["inputs.png"]
            self.findings.append(finding)

    # What arrives at the backbone

    def _backbone(self, context: Context, records: list[Record]) -> None:
        model = context.new_model()
        backbone = getattr(model, "backbone", None)
        if not isinstance(backbone, nn.Module):
            self.numbers["backbone"] = "not looked at: the model has no `backbone`"
            return
        inputs = context.inputs(records[:4])
        tensor = captured_input(model, backbone, inputs)
        if tensor is None:
            self.numbers["backbone"] = "its input could not be captured"
            return
        self._finite(tensor)
        self._channels(context, model, tensor, inputs)
        self._statistics(context, model, tensor, inputs)

    def _finite(self, tensor: torch.Tensor) -> None:
        if not tensor.is_floating_point() or not torch.isfinite(tensor).all():
            self.findings.append(
                Finding(
                    f"the backbone's input is {tensor.dtype} and holds NaN or infinity.",
                    "finite floating-point numbers.",
                    [
                        Cause("a standard deviation of 0", "MODEL.PIXEL_STD"),
                        Cause("the mapper's dtype"),
                    ],
                )
            )

    def _channels(
        self, context: Context, model: nn.Module, tensor: torch.Tensor, inputs: Batch
    ) -> None:
        """Which order of channels and orientation fits the file best, read by another library."""
        fits: dict[str, list[float]] = {}
        for image, item in zip(tensor, inputs, strict=False):
            height, width = item["image"].shape[-2:]
            pixels = image[:3, :height, :width].detach().float().cpu().numpy()
            if pixels.shape[0] < 3:
                return
            file = cv2.imread(str(item["file_name"]), cv2.IMREAD_COLOR)
            file = cv2.resize(file, (width, height), interpolation=cv2.INTER_LINEAR)
            file = file.transpose(2, 0, 1).astype(np.float32)
            if saturation(file) < 2:  # grey images have no order of channels
                continue
            for name, candidate in orders(file).items():
                fits.setdefault(name, []).append(likeness(pixels, candidate))
        if not fits:
            return
        means = {name: float(np.mean(values)) for name, values in fits.items()}
        self.numbers["correlation of the backbone's input with the file"] = means
        wanted = context.cfg.INPUT.FORMAT
        best = max(means, key=means.get)
        if wanted in means and best != wanted and means[best] > means[wanted] + 1e-3:
            self.findings.append(
                Finding(
                    f"the backbone's input looks most like the file as {best} (correlation"
                    f" {means[best]:.3f}, as {wanted} {means[wanted]:.3f}).",
                    f"as {wanted}, as INPUT.FORMAT says.",
                    [
                        Cause(
                            "the image is read or turned in another order of channels",
                            "INPUT.FORMAT, the mapper",
                        )
                        if best in ("RGB", "BGR")
                        else Cause(
                            "the image is mirrored or its axes are swapped before the backbone"
                        ),
                        Cause("the model swaps channels in preprocess_image"),
                    ],
                    pictures=["inputs.png"],
                )
            )
        elif max(means.values()) < 0.9:
            self.findings.append(
                Finding(
                    "the backbone's input hardly looks like the file: correlation "
                    f"{means[best]:.2f}.",
                    "above 0.9 for an image that was only resized and normalised.",
                    [
                        Cause(
                            "the wrong image or a wrong normalisation per channel",
                            "MODEL.PIXEL_STD",
                        ),
                        Cause("the mapper or preprocess_image changes the image", "build_mapper"),
                    ],
                    pictures=["inputs.png"],
                )
            )

    def _statistics(
        self, context: Context, model: nn.Module, tensor: torch.Tensor, inputs: Batch
    ) -> None:
        """The range after normalisation, against what the backbone's weights were trained with."""
        valid = torch.cat(
            [_valid(image, item).flatten(1) for image, item in zip(tensor, inputs, strict=False)],
            dim=1,
        )
        mean, deviation = valid.mean(dim=1).tolist(), valid.std(dim=1).tolist()
        self.numbers["after normalisation"] = {"mean": mean, "standard deviation": deviation}
        expected = expected_statistics(context, model)
        used = (list(context.cfg.MODEL.PIXEL_MEAN), list(context.cfg.MODEL.PIXEL_STD))
        if expected is not None and not _close(used, expected):
            self.findings.append(
                Finding(
                    f"images are normalised by mean {_rounded(used[0])}, deviation "
                    f"{_rounded(used[1])}.",
                    f"mean {_rounded(expected[0])}, deviation {_rounded(expected[1])}, with which "
                    "the"
                    " backbone's weights were trained (channels as INPUT.FORMAT orders them).",
                    [
                        Cause(
                            "statistics of another backbone or channel order",
                            "MODEL.PIXEL_MEAN, MODEL.PIXEL_STD",
                        ),
                        Cause("INPUT.FORMAT differs from that of the weights", "INPUT.FORMAT"),
                    ],
                )
            )
            return
        caffe = max(used[1]) <= 1.001 and max(used[0]) > 2  # weights of Caffe: deviations stay 1
        low, high = (10.0, 200.0) if caffe else DEVIATION_BOUNDS
        bound = 150.0 if caffe else MEAN_BOUND
        if max(map(abs, mean)) > bound or not low <= np.mean(deviation) <= high:
            self.findings.append(
                Finding(
                    f"the normalised input has mean {_rounded(mean)} and deviation "
                    f"{_rounded(deviation)}.",
                    f"a mean within ±{bound:g} and a deviation within {low:g} to {high:g}.",
                    [
                        Cause(
                            "pixels of 0–1 normalised by statistics of 0–255, or the reverse",
                            "MODEL.PIXEL_MEAN, MODEL.PIXEL_STD",
                        ),
                        Cause("the image is normalised twice, in the mapper and in the model"),
                    ],
                )
            )

    # The loader

    def _batches(self, context: Context) -> None:
        """Batches hold different images, objects where the data has them, and several classes."""
        records = context.train_records
        batches = context.batches(3)
        names = [item["file_name"] for batch in batches for item in batch]
        distinct = len(set(names))
        possible = min(len(names), len(records))
        self.numbers["different images in three batches"] = f"{distinct} of {len(names)}"
        if distinct <= max(1, possible // 3) and possible > 3:
            self.findings.append(
                Finding(
                    f"three batches of the loader hold {distinct} different images among "
                    f"{len(names)}.",
                    f"about {possible} of the {len(records)} there are.",
                    [
                        Cause(
                            "the sampler repeats itself or does not shuffle", "build_train_loader"
                        ),
                        Cause(
                            "weights of datasets or repeat factors leave out most",
                            "SERIATIM.DATASET_WEIGHTS",
                        ),
                    ],
                )
            )
        held = [
            len(item["instances"]) for batch in batches for item in batch if "instances" in item
        ]
        filled = np.mean([bool(objects_of(record)) for record in records])
        self.numbers["share of inputs with objects"] = share = (
            float(np.mean([n > 0 for n in held])) if held else 0.0
        )
        if held and filled > 0.5 and share < filled / 2:
            self.findings.append(
                Finding(
                    f"{share:.0%} of the augmented inputs still have objects.",
                    f"about {filled:.0%}, as many as the images.",
                    [
                        Cause(
                            "crops miss the objects or drop them",
                            "SERIATIM.AUG.SCALE, MIN_AREA_SHARE, INPUT.CROP",
                        ),
                        Cause("the mapper filters annotations", "build_mapper"),
                    ],
                    pictures=["inputs.png"],
                )
            )

    def _workers(self, context: Context, records: list[Record]) -> None:
        """Two workers must not draw the same random numbers (PyTorch's notorious NumPy seeds)."""
        name = context.dataset_of(records[:1], context.cfg.DATASETS.TRAIN[0], "workers")
        cfg = context.variant(
            "DATASETS.TRAIN", (name,), "DATALOADER.NUM_WORKERS", 2, "SOLVER.IMS_PER_BATCH", 2,
            "SERIATIM.DATASET_WEIGHTS", (),
        )  # fmt: skip
        try:
            loader = iter(context.trainer_class.build_train_loader(cfg))
            first, second = next(loader), next(loader)
        except Exception as error:  # a user's loader may not take another dataset: that is no fault
            self.numbers["workers"] = f"not compared: {error}"
            return
        inside = any(not _same(first[0], item) for item in first[1:])
        between = all(_same(one, other) for one, other in zip(first, second, strict=True))
        self.numbers["two workers draw different augmentations"] = not between
        if inside and between:
            self.findings.append(
                Finding(
                    "two workers of the loader gave the same augmentations of the same image.",
                    "different ones.",
                    [
                        Cause(
                            "every worker starts with the same NumPy seed",
                            "the loader's worker_init_fn",
                        ),
                        Cause("the mapper seeds the generators itself", "build_mapper"),
                    ],
                )
            )


@dataclass
class Sample:
    """An augmented input, the record it came from, and how it got there.

    Attributes:
        transforms: recorded; None if the mapper keeps them to itself.
        sizes: id of a transform → (height, width) of what it was applied to.
    """

    record: Record
    item: Record
    transforms: TransformList | None
    sizes: dict[int, tuple[int, int]]

    @property
    def truth(self) -> Instances | None:
        return self.item.get("instances")

    @property
    def is_8_bit(self) -> bool:
        """Deeper images are stretched when they are read: no other library does it alike."""
        return cv2.imread(str(self.record["file_name"]), cv2.IMREAD_UNCHANGED).dtype == np.uint8

    def moved(self, mask: np.ndarray) -> np.ndarray:
        """A (H, W) bool mask of the file where the transforms take it, as an image so that it is
        resampled as finely as pixels are."""
        inside = mask.astype(np.uint8) * 255
        picture = np.stack([inside, 255 - inside, inside], axis=-1)  # padding is neither
        for transform in self.transforms.transforms:
            if not is_photometric(transform, picture.shape[:2]):
                picture = np.asarray(transform.apply_image(picture))
        return picture[:, :, 0].astype(int) > picture[:, :, 1]

    def pixels(self) -> np.ndarray:
        """(H, W, C) as the mapper gives them."""
        return self.item["image"].permute(1, 2, 0).numpy()

    def expected_image(self, order: str) -> np.ndarray:
        """The file, read by OpenCV, after the recorded transforms."""
        image = cv2.imread(str(self.record["file_name"]), cv2.IMREAD_COLOR)
        if order == "RGB":
            image = image[:, :, ::-1]
        elif order == "L":
            image = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)[:, :, None]
        return np.asarray(self.transforms.apply_image(np.ascontiguousarray(image))).astype(float)


class Recorder(T.Augmentation):
    """Augmentations that remember what they did, and to images of which size."""

    def __init__(self, inner: T.Augmentation) -> None:
        super().__init__()
        self.inner = inner
        self.transforms: TransformList | None = None
        self.sizes: dict[int, tuple[int, int]] = {}

    def __call__(self, aug_input: T.AugInput) -> TransformList:
        found = self.inner(aug_input)
        self.transforms = found if isinstance(found, TransformList) else TransformList([found])
        return self.transforms


def _mapped(context: Context, record: Record, position: int) -> Sample:
    mapper = context.train_mapper()
    recorder = None
    if isinstance(getattr(mapper, "augmentations", None), T.Augmentation):
        recorder = mapper.augmentations = Recorder(mapper.augmentations)
    with seeded(context.SEED, position):
        item = mapper(copy.deepcopy(record))
    transforms = recorder.transforms if recorder else None
    sizes: dict[int, tuple[int, int]] = {}
    if transforms is not None:
        image = np.zeros((record["height"], record["width"], 3), np.uint8)
        for transform in transforms.transforms:
            sizes[id(transform)] = image.shape[:2]
            image = np.asarray(transform.apply_image(image))
    return Sample(record, item, transforms, sizes)


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
        self.place = ""

    def as_dict(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "place"}

    def findings(self) -> list[Finding]:
        found = []
        many = max(1, BAD_SHARE * self.objects)
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
        if self.bad_masks >= max(1, BAD_SHARE * self.masks):
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
        if self.bad_points >= max(1, BAD_SHARE * self.points):
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
    transforms, truth = sample.transforms, sample.truth
    height, width = sample.item["image"].shape[-2:]
    annotations = [a for a in objects_of(sample.record) if len(a["bbox"]) == 4]
    if truth.gt_boxes.tensor.shape[1] != 4:
        return
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
        number = _nearest(box, got, free, tight)
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


def _nearest(box: np.ndarray, got: np.ndarray, free: set[int], tight: bool) -> int | None:
    """The box of `got` that is `box`; if they are `tight` around masks, one that overlaps well."""
    candidates = sorted(free)
    if not candidates:
        return None
    if tight:
        overlap = _iou(box, got[candidates])
        best = int(overlap.argmax())
        return candidates[best] if overlap[best] > 0.3 else None
    distance = np.abs(got[candidates] - box).max(axis=1)
    best = int(distance.argmin())
    return candidates[best] if distance[best] <= BOX_TOLERANCE else None


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
    got = sample.truth.gt_keypoints.tensor[number].double().numpy()
    for place in range(len(points)):
        origin = exchanged[place]
        if not inside[origin]:
            continue
        tally.points += 1
        if np.abs(got[place, :2] - moved[origin]).max() > BOX_TOLERANCE:
            tally.bad_points += 1
            tally.swapped_points += bool(
                flipped and np.abs(got[place, :2] - moved[place]).max() <= BOX_TOLERANCE
            )


def _area(boxes: np.ndarray) -> np.ndarray:
    return np.prod(np.maximum(boxes[:, 2:] - boxes[:, :2], 0), axis=1)


def _iou(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    low, high = np.maximum(box[:2], others[:, :2]), np.minimum(box[2:], others[:, 2:])
    common = np.prod(np.maximum(high - low, 0), axis=1)
    return common / np.maximum(_area(box[None]) + _area(others) - common, 1e-9)


def explain_pixels(got: np.ndarray, wanted: np.ndarray) -> list[Cause]:
    """What would make the two images alike, the likeliest first."""
    known = {
        "the channels are in the other order than INPUT.FORMAT says": lambda x: x[:, :, ::-1],
        "the image is mirrored behind the augmentations' back": lambda x: x[:, ::-1],
        "the image is turned upside down behind the augmentations' back": lambda x: x[::-1],
        "the image is divided by 255 in the mapper": lambda x: x * 255.0,
    }
    got = got.astype(float)
    last = Cause("the mapper changes the image outside of its augmentations", "build_mapper")
    if got.shape != wanted.shape:
        if got.shape == wanted.transpose(1, 0, 2).shape:
            return [Cause("height and width are swapped", "build_mapper"), last]
        return [last]
    fits = {name: float(np.abs(change(got) - wanted).mean()) for name, change in known.items()}
    good = [name for name in sorted(fits, key=fits.get) if fits[name] <= PIXEL_TOLERANCE]
    return [*(Cause(name, "build_mapper, INPUT.FORMAT") for name in good), last]


class _Captured(Exception):
    """Ends a forward pass as soon as the backbone is reached."""


def captured_input(model: nn.Module, backbone: nn.Module, inputs: Batch) -> torch.Tensor | None:
    """What `backbone` is given when `model` sees `inputs`, (B, C, H, W)."""
    caught: list[torch.Tensor] = []

    def catch(module: nn.Module, args: Sequence[Any], kwargs: dict[str, Any]) -> None:
        tensors = [value for value in (*args, *kwargs.values()) if isinstance(value, torch.Tensor)]
        if tensors and tensors[0].ndim == 4:
            caught.append(tensors[0].detach().clone())
            raise _Captured

    handle = backbone.register_forward_pre_hook(catch, with_kwargs=True)
    try:
        with torch.no_grad():
            model(copy.deepcopy(inputs))
    except _Captured:
        pass
    finally:
        handle.remove()
    return caught[0] if caught else None


def orders(bgr: np.ndarray) -> dict[str, np.ndarray]:
    """(3, H, W) BGR as other orders of channels and orientations would have it."""
    rgb = bgr[::-1]
    return {
        "BGR": bgr,
        "RGB": rgb,
        "mirrored": np.stack([bgr, rgb])[:, :, :, ::-1],
        "upside down": np.stack([bgr, rgb])[:, :, ::-1],
    }


def likeness(pixels: np.ndarray, candidate: np.ndarray) -> float:
    """Mean correlation of the channels after their differences are freed from scale and offset.

    Channels of a photograph are much alike; so what one channel has over the mean of all is
    compared too.
    """
    if candidate.ndim == 4:
        return max(likeness(pixels, one) for one in candidate) - 1e-3  # the plain orders come first
    whole = _correlation(pixels, candidate)
    pixels, candidate = (
        x - x.mean(axis=0, keepdims=True) for x in (_standard(pixels), _standard(candidate))
    )
    return 0.5 * whole + 0.5 * _correlation(pixels, candidate)


def _standard(x: np.ndarray) -> np.ndarray:
    flat = x.reshape(x.shape[0], -1)
    return (x - flat.mean(1)[:, None, None]) / (flat.std(1)[:, None, None] + 1e-6)


def _correlation(first: np.ndarray, second: np.ndarray) -> float:
    first, second = (x.reshape(x.shape[0], -1).astype(np.float64) for x in (first, second))
    first, second = (x - x.mean(1, keepdims=True) for x in (first, second))
    products = (first * second).sum(1)
    norms = np.sqrt((first**2).sum(1) * (second**2).sum(1)) + 1e-9
    return float((products / norms).mean())


def saturation(bgr: np.ndarray) -> float:
    """Mean difference between the brightest and the darkest channel, 0–255."""
    return float((bgr.max(axis=0) - bgr.min(axis=0)).mean())


def expected_statistics(
    context: Context, model: nn.Module
) -> tuple[list[float], list[float]] | None:
    """Mean and deviation that the backbone's weights were trained with, in INPUT.FORMAT's order."""
    if "timm" not in context.cfg.MODEL.BACKBONE.NAME.lower():
        return None
    if not context.cfg.MODEL.TIMM.WEIGHTS:
        return None
    from seriatim.modeling.backbone.timm_backbone import pixel_statistics

    timm = context.cfg.MODEL.TIMM
    return pixel_statistics(timm.NAME, timm.WEIGHTS, context.cfg.INPUT.FORMAT)


def _close(one: tuple[list[float], list[float]], other: tuple[list[float], list[float]]) -> bool:
    return all(np.allclose(a, b, rtol=0.02, atol=1.0) for a, b in zip(one, other, strict=True))


def _valid(image: torch.Tensor, item: Record) -> torch.Tensor:
    """A padded (C, H, W) input without its padding."""
    height, width = item["image"].shape[-2:]
    return image[:, :height, :width]


def _rounded(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.3g}" for value in values)


def _same(one: Record, other: Record) -> bool:
    return one["image"].shape == other["image"].shape and torch.equal(one["image"], other["image"])
