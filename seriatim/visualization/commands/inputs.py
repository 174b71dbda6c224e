"""Draw the very tensors that the network gets in training, and say what each augmentation did.

Each image is shown as it is on disk, then as several draws of the augmentations made it.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import Any

from seriatim.visualization.commands import common

EPILOG = """\
examples:
  visualize.py inputs --config-file configs/demo.yaml
  visualize.py inputs --config-file configs/demo.yaml --draws 6 SERIATIM.AUG.MOSAIC 1.0

KEY VALUE pairs may change any key of the config, for this look only.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    common.add_config_options(parser, required=True)
    parser.add_argument(
        "--draws",
        type=common.positive,
        default=3,
        metavar="N",
        help="draws of the augmentations for each image (default: 3)",
    )
    common.add_selection_options(parser, 6)
    common.add_output_options(parser, "output/visualize/inputs")


def run(args: argparse.Namespace) -> int:
    from detectron2.data import MetadataCatalog

    from dataset_tools.progress import track
    from seriatim.data.build import build_mapper, classifies
    from seriatim.data.loader import seeded, training_records, unlabelled_records
    from seriatim.visualization.commands.data import ground_truth_picture

    cfg = common.resolved_config(args)
    _, records = training_records(cfg)
    metadata = MetadataCatalog.get(cfg.DATASETS.TRAIN[0])
    mapper = build_mapper(cfg, is_train=True, keep_transforms=True)
    if not classifies(cfg):
        mapper.use_pool(records)
    elif (others := unlabelled_records(cfg)) is not None:
        records = records.followed_by(others)
    gallery = common.Gallery(args.output, "sheet.jpg", args.show)
    statistics = ChannelStatistics(cfg)
    chosen = common.select(records, args.num, args.match)
    for number, record in enumerate(track(chosen, len(chosen), "drawing")):
        original, name = ground_truth_picture(record, metadata)
        original.title = f"on disk: {original.title}"
        gallery.add(original, f"{name}_0")
        for draw in range(1, args.draws + 1):
            with seeded(cfg.SEED, number, draw):
                given = mapper(record)
            statistics.add(given["image"])
            for picture in input_pictures(given, cfg.INPUT.FORMAT, metadata):
                gallery.add(picture, f"{name}_{draw}")
    print(statistics.report())
    gallery.close()
    return 0


def input_pictures(given: dict[str, Any], image_format: str, metadata: Any) -> list:
    """The pictures of one input: one for detectors, for classifiers as many as it has views."""
    if "label" in given:
        from seriatim.visualization.commands.labels import view_pictures

        return view_pictures(given, image_format, metadata)
    return [input_picture(given, image_format, metadata)]


def input_picture(given: dict[str, Any], image_format: str, metadata: Any):
    """The picture of one input of a model, as a mapper that keeps its transforms gives it."""
    from detectron2.data.detection_utils import convert_image_to_rgb

    from seriatim.visualization.draw import legend
    from seriatim.visualization.items import to_items
    from seriatim.visualization.sheet import Picture

    image = convert_image_to_rgb(given["image"].permute(1, 2, 0), image_format).astype("uint8")
    items = to_items(given.get("instances"))
    steps = describe_sources(given["sources"])
    words = [*legend(items, metadata), *((step, None) for step in steps)]
    height, width = image.shape[:2]
    draw = partial(_draw, image, items, given.get("sem_seg"), metadata)
    return Picture(height, width, draw, f"{width}×{height}", words)


def _draw(image: Any, items: list, sem_seg: Any, metadata: Any, scale: float):
    from seriatim.visualization.draw import draw_instances, draw_semantic
    from seriatim.visualization.items import scaled

    if sem_seg is None:
        return draw_instances(image, items, metadata, scale=scale)
    image = draw_semantic(image, sem_seg, metadata, scale=scale)
    return draw_instances(image, [scaled(i, scale) for i in items], metadata, scale=1)


def describe_sources(sources: list[Any]) -> list[str]:
    """What was done to each of the images that an input is made of, in words."""
    if len(sources) == 1:
        return describe_transforms(sources[0].transforms) or ["unchanged"]
    words = []
    for source in sources:
        first, *others = describe_transforms(source.transforms) or ["unchanged"]
        words += [f"{Path(source.file_name).name}: {first}", *others]
    return words


def describe_transforms(transforms: Any) -> list[str]:
    """Each step of a TransformList in a few words; steps that change nothing are left out."""
    words = []
    for step in transforms.transforms:
        name = type(step).__name__
        describe = _WORDS.get(name, lambda _, name=name: name.removesuffix("Transform").lower())
        words.append(describe(step))
    return [word for word in words if word]


def _resize(t: Any) -> str:
    x, y = t.new_w / t.w, t.new_h / t.h
    return f"scale ×{x:.2f}" if abs(x - y) < 0.02 * x else f"scale ×{x:.2f}, ×{y:.2f}"


def _colour(t: Any) -> str:
    """`matrix` is (C, C + 1): a grey pixel v becomes about gain·v + offset."""
    gain, offset = t.matrix[:, :-1].sum(1).mean(), t.matrix[:, -1].mean()
    return f"colour ×{gain:.2f} {offset:+.0f}"


def _pad(t: Any) -> str:
    sides = {"left": t.x0, "top": t.y0, "right": t.x1, "bottom": t.y1}
    return "pad " + " ".join(f"{side} {px}" for side, px in sides.items() if px)


_WORDS = {
    "NoOpTransform": lambda t: "",
    "HFlipTransform": lambda t: "flip ↔",
    "VFlipTransform": lambda t: "flip ↕",
    "Rot90Transform": lambda t: f"turn {90 * t.quarters}°" if t.quarters else "",
    "CropTransform": lambda t: f"crop {t.w}×{t.h} at {t.x0}, {t.y0}",
    "ResizeTransform": _resize,
    "PadTransform": _pad,
    "AffineColourTransform": _colour,
    "BlendTransform": lambda t: f"blend ×{t.dst_weight:.2f}",
    "RotationTransform": lambda t: f"rotate {t.angle:.0f}°",
    "ShiftTransform": lambda t: f"shift {t.x:+d}, {t.y:+d}" if t.x or t.y else "",
    "RandAugmentTransform": lambda t: "RandAugment",
    "EraseTransform": lambda t: f"cutout at {t.x0}, {t.y0}",
}


class ChannelStatistics:
    """Mean and spread of each channel after the model's normalisation: about 0 and 1 if it fits."""

    def __init__(self, cfg: Any):
        import numpy as np

        self._mean = np.array(cfg.MODEL.PIXEL_MEAN).reshape(-1, 1)
        self._std = np.array(cfg.MODEL.PIXEL_STD).reshape(-1, 1)
        self._format = cfg.INPUT.FORMAT
        self._sums, self._squares, self._count = 0.0, 0.0, 0

    def add(self, image: Any) -> None:
        """Count in the pixels of a (C, H, W) uint8 tensor."""
        pixels = image.numpy().reshape(image.shape[0], -1)
        normal = (pixels - self._mean) / self._std
        self._sums = self._sums + normal.sum(1)
        self._squares = self._squares + (normal**2).sum(1)
        self._count += pixels.shape[1]

    def report(self) -> str:
        """One line for a person."""
        mean = self._sums / self._count
        spread = (self._squares / self._count - mean**2).clip(0) ** 0.5
        letters = self._format if len(self._format) == len(mean) else range(len(mean))
        each = ", ".join(
            f"{letter} {m:+.2f} ± {s:.2f}"
            for letter, m, s in zip(letters, mean, spread, strict=True)
        )
        return f"Channels as the network gets them (about 0 ± 1 if PIXEL_MEAN and _STD fit): {each}"
