"""Does the network see what we think it sees?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from detectron2.data import transforms as T
from fvcore.transforms.transform import TransformList
from torch import nn

from seriatim.data.build import fixed_augmentations
from seriatim.gates import draws, mixed, tested
from seriatim.gates.arrivals import Tally, compare_labels, compare_objects, mirror_of
from seriatim.gates.base import Gate, Skip
from seriatim.gates.context import Batch, Context, Record, objects_of
from seriatim.gates.geometry import box_error, coordinate_error, wraps_around
from seriatim.gates.labelled import ALL_LABELLED, has_labels
from seriatim.gates.pictures import input_tile, save_sheet
from seriatim.gates.pixels import (
    PIXEL_TOLERANCE,
    captured_input,
    expected_statistics,
    explain_pixels,
    likeness,
    orders,
    saturation,
)
from seriatim.gates.samples import Sample, map_recorded, source_image
from seriatim.gates.verdict import Cause, Finding

IMAGES = 8
# Resizing moves points by a fraction of a pixel of the source; a missing flip or scale by tens.
COORDINATE_TOLERANCE = 3.0
# After normalisation with statistics of its kind a set of photographs has a mean and deviation near
# 0 and 1.
MEAN_BOUND, DEVIATION_BOUNDS = 3.0, (0.15, 5.0)
# Batches of two images that workers are compared by. Where a flip is all the randomness there is,
# so many agree by chance once in 2^16.
MOST_PAIRS = 8


def _as_in_testing(context: Context, record: Record) -> np.ndarray:
    """(H, W, 3) uint8 BGR: the source of an input; with a label as a whole, cropped as inputs are
    without random augmentation."""
    image = source_image(record)
    if not has_labels([record]):
        return image
    given = T.AugInput(image)
    T.AugmentationList(fixed_augmentations(context.cfg))(given)
    return given.image


class InputsGate(Gate):
    """Every tensor is taken back to the file it came from, and held against the labels there."""

    name = "inputs"
    question = "does the network see what we think it sees?"
    packages = ("seriatim.data", "seriatim.modeling", "dataset_tools")

    def examine(self, context: Context, folder: Path) -> str:
        records = context.covering(context.train_records, IMAGES) or context.train_records[:IMAGES]
        if not records:
            raise Skip("there are no training images")
        samples = [map_recorded(context, record, i) for i, record in enumerate(records)]
        self._picture(context, samples, folder)
        self._registered(samples)
        self._pixels(context, samples)
        self._coordinates(samples)
        self._boxes(samples)
        self._brightness(samples)
        self._objects(context, samples)
        self._labels(samples)
        self._backbone(context, samples)
        self._batches(context)
        if not has_labels(records):
            self.findings += mixed.findings(context, records)
            self.findings += tested.inputs(context)
            self.findings += tested.scales(context, samples)
        if not self.findings:
            self.findings += draws.findings(context, records[0])
        if not self.findings:
            self._workers(context, records)
        return f"{len(samples)} augmented inputs agree with their files, and so do their labels"

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

    def _registered(self, samples: list[Sample]) -> None:
        """Inputs of a mapper that augments in a way of its own are found again in their files."""
        own = [sample for sample in samples if sample.fitted]
        if not own:
            return
        found = sum(sample.transforms is not None for sample in own)
        self.numbers["inputs found again in their files by their pixels"] = f"{found} of {len(own)}"
        if found <= len(own) / 2:
            self.findings.append(
                Finding(
                    f"{len(own) - found} of {len(own)} inputs were not found again in their files:"
                    " where their objects should lie is not known.",
                    "crops, flips, scalings and rotations of the file, which pixels tell; or a"
                    " mapper with `augmentations`, which can be recorded.",
                    [
                        Cause(
                            "the mapper warps or mixes images by itself: look at the picture",
                            "build_mapper",
                        ),
                        Cause("the mapper gives the image of another record", "build_mapper"),
                    ],
                    pictures=["inputs.png"],
                    fails=False,
                )
            )

    def _pixels(self, context: Context, samples: list[Sample]) -> None:
        """The mapper's tensor is what its transforms make of the file, read by another library."""
        errors = []
        worst: tuple[float, Sample, np.ndarray] | None = None
        for sample in samples:
            if sample.fitted or not sample.is_8_bit:
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
            self.numbers["pixels"] = "not compared one by one: no augmentations were recorded"
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
            for transform in sample.recorded:
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

    def _boxes(self, samples: list[Sample]) -> None:
        """`apply_box` of a transform is the box around what `apply_coords` makes of its corners."""
        found: dict[str, float] = {}
        for sample in samples:
            for transform in sample.recorded:
                error = box_error(TransformList([transform]), sample.sizes[id(transform)])
                if error == error:
                    name = type(transform).__name__
                    found[name] = max(found.get(name, 0.0), error)
        for name, error in found.items():
            if error > COORDINATE_TOLERANCE:
                self.findings.append(
                    Finding(
                        f"{name} gives boxes that are {error:.0f} px off the corners as it moves"
                        " them.",
                        f"at most {COORDINATE_TOLERANCE:g} px.",
                        [
                            Cause(f"apply_box of {name} is wrong: all four corners count", name),
                            Cause("boxes are clipped or rounded in the transform"),
                        ],
                        pictures=["inputs.png"],
                    )
                )

    def _brightness(self, samples: list[Sample]) -> None:
        """A pixel that becomes brighter does not become dark."""
        names = {
            type(transform).__name__
            for sample in samples
            for transform in sample.recorded
            if wraps_around(transform)
        }
        for name in sorted(names):
            self.findings.append(
                Finding(
                    f"{name} makes bright pixels dark.",
                    "pixels that end at 255.",
                    [
                        Cause(f"{name} wraps around: 8-bit arithmetic overflows", name),
                        Cause("the result is not clipped before it becomes uint8"),
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
            labelled = "sem_seg_file_name" in sample.record and "sem_seg" in sample.item
            if sample.transforms is not None and labelled:
                compare_labels(sample, tally)
        self.numbers["objects"] = tally.as_dict()
        for finding in tally.findings():
            finding.pictures = ["inputs.png"]
            self.findings.append(finding)

    def _labels(self, samples: list[Sample]) -> None:
        """The label of an image as a whole is the record's."""
        changed = [s for s in samples if s.record.get("label") != s.item.get("label")]
        if changed:
            item = changed[0].item
            self.findings.append(
                Finding(
                    f"{len(changed)} of {len(samples)} inputs have another label than their"
                    f" records, {item['file_name']} {item.get('label')} instead of"
                    f" {changed[0].record.get('label')}.",
                    "the same label.",
                    [Cause("the mapper changes labels, or takes another image's", "build_mapper")],
                    pictures=["inputs.png"],
                )
            )

    # What arrives at the backbone

    def _backbone(self, context: Context, samples: list[Sample]) -> None:
        model = context.new_model()
        backbone = getattr(model, "backbone", None)
        if not isinstance(backbone, nn.Module):
            self.numbers["backbone"] = "not looked at: the model has no `backbone`"
            return
        first = samples[:4]
        if any(sample.fitted for sample in samples):  # they cannot be had without augmentation
            first = [s for s in samples if s.transforms is not None][:4] or first
            inputs, files = [s.item for s in first], [s.likeness_of_file() for s in first]
        else:
            records = [sample.record for sample in first]
            inputs, files = context.inputs(records), [_as_in_testing(context, r) for r in records]
        tensor = captured_input(model, backbone, inputs)
        if tensor is None:
            self.numbers["backbone"] = "its input could not be captured"
            return
        self._finite(tensor)
        self._channels(context, tensor, inputs, files)
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
        self,
        context: Context,
        tensor: torch.Tensor,
        inputs: Batch,
        files: Sequence[np.ndarray | None],
    ) -> None:
        """Which order of channels and orientation fits the file best, read by another library."""
        fits: dict[str, list[float]] = {}
        for image, item, file in zip(tensor, inputs, files, strict=False):
            height, width = item["image"].shape[-2:]
            pixels = image[:3, :height, :width].detach().float().cpu().numpy()
            if pixels.shape[0] < 3:
                return
            if file is None:
                continue
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
                            "the image is mirrored or its axes are swapped before the backbone",
                            "build_mapper",
                        ),
                        Cause("the model swaps channels in preprocess_image"),
                    ],
                    pictures=["inputs.png"],
                )
            )
        elif max(means.values()) < 0.9 and context.cfg.SERIATIM.DATA.NORMALISE != "zca":
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
            "SERIATIM.DATASET_WEIGHTS", (), *ALL_LABELLED,
        )  # fmt: skip
        try:
            loader = iter(context.trainer_class.build_train_loader(cfg))
            first, second = [], []
            for _ in range(MOST_PAIRS):
                first += next(loader)
                second += next(loader)
                between = all(_same(one, other) for one, other in zip(first, second, strict=True))
                if not between:
                    break
        except Exception as error:  # a user's loader may not take another dataset: that is no fault
            self.numbers["workers"] = f"not compared: {error}"
            return
        inside = any(not _same(first[0], item) for item in first[1:])
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
