"""Export a model and prove that what was written answers as the model does."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from torch import nn

from dataset_tools.errors import InputError
from dataset_tools.files import late_folder
from seriatim.export.description import FILES, Description
from seriatim.export.graph import graph_of
from seriatim.export.predictor import ExportedModel
from seriatim.export.runtimes import check_installed, write

# Differences that floating point may make between runtimes: in px for boxes.
TOLERANCE = {"scores": 1e-4, "boxes": 0.02, "levels": 0.0, "logits": 1e-3}
RELATIVE = 1e-4


def export(cfg: CfgNode, model: nn.Module, folder: str | Path, format: str = "onnx") -> Path:
    """Write `model`, in evaluation mode, to `folder`: its file and export.json. Gives the file.

    Args:
        cfg: of the model, resolved.
        format: "onnx", "openvino" or "torchscript".

    Raises:
        InputError: the model cannot be exported, a package is missing, or what was written does not
            answer as the model does.
    """
    if format not in FILES:
        raise InputError(f"There is no format {format!r}; there are {', '.join(FILES)}.")
    check_installed(format, to_write=True)
    if cfg.SERIATIM.EVAL.TILE > 0 or cfg.TEST.AUG.ENABLED:
        raise InputError(
            "An exported model sees whole images, once. Set SERIATIM.EVAL.TILE to 0 and"
            " TEST.AUG.ENABLED to False to export it."
        )
    model = copy.deepcopy(model).cpu().to(memory_format=torch.contiguous_format).eval()
    graph = graph_of(model).eval()
    description = Description.of(cfg, model, format)
    with late_folder(folder) as temporary:
        write(format, graph, torch.from_numpy(_pixels(description, 1)), temporary)
        description.write(temporary)
        _check(model, graph, ExportedModel.read(temporary))
    return Path(folder) / FILES[format]


def _check(model: nn.Module, graph: nn.Module, exported: ExportedModel) -> None:
    """By one image, and two of another size, which were not there when the model was traced."""

    def in_torch(images: np.ndarray) -> list[np.ndarray]:
        with torch.inference_mode():
            answers = graph(torch.from_numpy(images))
        return [x.numpy() for x in (answers if isinstance(answers, tuple) else (answers,))]

    description = exported.description
    same = ExportedModel(description, in_torch)
    for pixels in (_pixels(description, 1), _pixels(description, 2, turned=True)):
        inputs = [{"image": torch.from_numpy(image.astype(np.uint8))} for image in pixels]
        with torch.inference_mode():
            expected = model([dict(given) for given in inputs])
        apart = _choice_differs(expected, same(inputs)) or _answers_differ(
            graph.outputs, in_torch(pixels), exported.run(pixels)
        )
        if apart:
            raise InputError(
                f"The exported model does not answer as {type(model).__name__} does: {apart}."
                " Nothing was written. Does a class of its own change what inference does?"
            )


def _choice_differs(expected: list[dict[str, Any]], got: list[dict[str, Any]]) -> str | None:
    """How far the answers of the model itself are from those that are chosen here."""
    for theirs, ours in zip(expected, got, strict=True):
        if "logits" in theirs:
            pairs = [("logits", theirs["logits"], ours["logits"])]
        else:
            theirs, ours = theirs["instances"], ours["instances"]
            if len(theirs) != len(ours):
                return f"{len(ours)} detections instead of {len(theirs)}"
            pairs = [
                ("scores", theirs.scores, ours.scores),
                ("boxes", theirs.pred_boxes.tensor, ours.pred_boxes.tensor),
                ("classes", theirs.pred_classes, ours.pred_classes),
            ]
        for name, a, b in pairs:
            if not torch.allclose(a.float(), b.float(), rtol=1e-4, atol=1e-4):
                return f"the {name} that are chosen differ"
    return None


def _answers_differ(
    names: Sequence[str], expected: list[np.ndarray], got: list[np.ndarray]
) -> str | None:
    """Which output of the runtime is further from torch's than floating point explains."""
    for name, theirs, ours in zip(names, expected, got, strict=True):
        if theirs.shape != ours.shape:
            return f"{name} have the shape {ours.shape} instead of {theirs.shape}"
        if not np.allclose(theirs, ours, rtol=RELATIVE, atol=TOLERANCE[name]):
            return f"{name} differ by up to {np.abs(theirs - ours).max():.2g}"
    return None


def _pixels(description: Description, count: int, turned: bool = False) -> np.ndarray:
    """(count, C, H, W) float32 random pixels, whole numbers, of about the size that testing has."""
    divisor, channels = description.divisor, len(description.padding)
    sides = description.resize or (32, 32)
    if description.choice is not None:
        short = max(sides[0], 2 * divisor)
        sides = (short, min(max(sides[1], short), short * 4 // 3))
        sides = tuple(-(-side // divisor) * divisor for side in sides)
        sides = sides[::-1] if turned else sides
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 128, (count, channels, *(-(-s // 8) for s in sides)))
    shapes = coarse.repeat(8, 2).repeat(8, 3)[:, :, : sides[0], : sides[1]]
    # No two places look alike: of equal scores either may be chosen.
    return (shapes + rng.integers(0, 128, shapes.shape)).astype(np.float32)
