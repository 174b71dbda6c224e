"""Pipelines that are right, the ordinary and the unusual: a gate that fails here cries wolf."""

from __future__ import annotations

from tests.bug_zoo.registry import Healthy

HEALTHY = [
    Healthy("RetinaNet", "the plain pipeline of most bugs"),
    Healthy("Mask R-CNN", "two stages, with masks", kind="mask_rcnn"),
]
