"""Exported models in the place of those that they were made from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.layers import batched_nms
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import Boxes, Instances

from seriatim.export.description import Choice, Description
from seriatim.export.runtimes import Run, load
from seriatim.predictor import ImagePredictor


class ExportedModel:
    """Takes and gives what the model took and gave in evaluation: Detectron2's lists of dicts.

    Args:
        description: of the model.
        run: (N, C, H, W) float32 pixels → the outputs of its graph, see `graph_of`.
    """

    training = False

    def __init__(self, description: Description, run: Run) -> None:
        self.description = description
        self.run = run

    @classmethod
    def read(cls, folder: str | Path, threads: int = 0) -> ExportedModel:
        """What `python -m seriatim.export` has written to `folder`.

        Args:
            threads: that the runtime computes with; 0: as many as torch.

        Raises:
            InputError: there is no exported model, or its runtime is not installed.
        """
        description = Description.read(Path(folder))
        return cls(description, load(description.format, Path(folder), threads))

    def __call__(self, inputs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        images = [np.asarray(given["image"]) for given in inputs]
        answers = self.run(batch_of(images, self.description))
        if self.description.choice is None:
            return [_classified(row, self.description.top_k) for row in torch.tensor(answers[0])]
        scores, boxes, levels = map(torch.from_numpy, answers)
        found = []
        for i, (given, image) in enumerate(zip(inputs, images, strict=True)):
            size = image.shape[1:]
            instances = choose(scores[i], boxes[i], levels, size, self.description.choice)
            wanted = given.get("height", size[0]), given.get("width", size[1])
            found.append({"instances": detector_postprocess(instances, *wanted)})
        return found

    def eval(self) -> ExportedModel:
        """As of a module: evaluation asks for it."""
        return self

    def train(self, mode: bool = True) -> ExportedModel:
        """As of a module; an exported model does not learn."""
        return self


class ExportedPredictor(ImagePredictor):
    """`seriatim.predictor.Predictor` of an exported model; it needs neither config nor data.

    Example:
        predictor = ExportedPredictor("exported")
        found = predictor.predict_file("cells.jpg")["instances"]
    """

    def __init__(self, folder: str | Path, threads: int = 0) -> None:
        model = ExportedModel.read(folder, threads)
        self.classes = model.description.classes
        super().__init__(model, model.description.colours, model.description.augmentations())


def batch_of(images: Sequence[np.ndarray], description: Description) -> np.ndarray:
    """(N, C, H, W) float32 of (C, h, w) images, filled up at the right and bottom."""
    height, width = np.max([image.shape[1:] for image in images], axis=0)
    divisor = description.divisor
    shape = (-(-height // divisor) * divisor, -(-width // divisor) * divisor)
    batch = np.empty((len(images), images[0].shape[0], *shape), np.float32)
    batch[:] = np.reshape(description.padding, (1, -1, 1, 1))
    for place, image in zip(batch, images, strict=True):
        place[:, : image.shape[1], : image.shape[2]] = image
    return batch


def choose(
    scores: torch.Tensor,
    boxes: torch.Tensor,
    levels: torch.Tensor,
    size: tuple[int, int],
    choice: Choice,
) -> Instances:
    """The detections among (P, K) scores and (P, 4) boxes of an image of `size`, best first."""
    place, label = torch.nonzero(scores > choice.score, as_tuple=True)
    kept = scores[place, label]
    best = []
    for level in levels.unique():
        of_level = torch.nonzero(levels[place] == level)[:, 0]
        count = min(choice.candidates, len(of_level))
        best.append(of_level[kept[of_level].topk(count).indices])
    best = torch.cat(best)
    place, label, kept = place[best], label[best], kept[best]
    found = Boxes(boxes[place])
    if choice.clip:
        found.clip(size)
    keep = batched_nms(found.tensor, kept, label, choice.nms)[: choice.detections]
    return Instances(size, pred_boxes=found[keep], scores=kept[keep], pred_classes=label[keep])


def _classified(logits: torch.Tensor, top_k: int) -> dict[str, torch.Tensor]:
    scores = logits.softmax(dim=-1)
    return {"scores": scores, "logits": logits, "classes": scores.topk(top_k).indices}
