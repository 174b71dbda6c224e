"""A picture of how the sources vote on images of the target."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from kd3a.student import Teachers
from kd3a.vote import UNSURE_WEIGHT
from seriatim.visualization.classification import label_grid


def draw_votes(
    teachers: Teachers,
    images: torch.Tensor,
    records: Sequence[Mapping[str, Any]],
    sources: Sequence[str],
    classes: Sequence[str],
) -> np.ndarray:
    """(H, W, 3) uint8 RGB: each image of `records` over its `vote_lines`."""
    return label_grid(records, vote_lines(teachers, images, sources, classes))


def vote_lines(
    teachers: Teachers, images: torch.Tensor, sources: Sequence[str], classes: Sequence[str]
) -> list[list[str]]:
    """Of each image what the sources agree on, and what each says to it, in brackets where it is
    not sure enough to vote.

    Args:
        images: (N, C, H, W) normalised, one batch.
        sources: names, in the order of the teachers.
    """
    probabilities, consensus = teachers.look(images)
    agreed = consensus.targets.argmax(1).tolist()
    covered = (consensus.weights > UNSURE_WEIGHT).tolist()
    confidence, chosen = (values.tolist() for values in probabilities.max(-1))
    texts = []
    for image in range(len(images)):
        lines = [f"→ {classes[agreed[image]]}" if covered[image] else "no consensus"]
        for source, sure, label in zip(sources, confidence[image], chosen[image], strict=True):
            said = f"{source} {classes[label]} {100 * sure:.0f}%"
            lines.append(said if sure > teachers.gate else f"({said})")
        texts.append(lines)
    return texts
