"""Do the levels of a pyramid lie where the model thinks that they lie?

A grid of cells with its stride must cover the image, no more and no less; so must the features
that RoIAlign reads at its scale. And of the anchors some must be about as large as the objects.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from detectron2.modeling.poolers import ROIPooler
from detectron2.structures import Boxes, pairwise_iou
from torch import nn

from seriatim.gates.context import Batch, is_upright
from seriatim.gates.observe import Observation
from seriatim.gates.verdict import Cause, Finding

# Best IoU of an anchor with an object, as the median over objects. Detectors are built for 0.5;
# tiny objects under the smallest anchor reach 0.1, and can be learnt.
GOOD_FIT, WORST_FIT = 0.1, 0.02


@dataclass(frozen=True)
class Grid:
    """Columns of cells, `stride` px apart, of a level."""

    owner: str
    level: str
    stride: float
    columns: int
    cause: Cause


def findings(model: nn.Module, batch: Batch, seen: Observation) -> Iterator[Finding]:
    """Grids that do not cover the images, anchors that fit no object."""
    width = max(image["image"].shape[-1] for image in batch)
    divisor = max(1, getattr(getattr(model, "backbone", None), "size_divisibility", 1))
    for grid in (*_anchor_grids(seen), *_point_grids(model, seen), *_pooled_grids(model, seen)):
        covered = grid.stride * grid.columns
        if width - grid.stride <= covered <= width + max(divisor, grid.stride):
            continue
        yield Finding(
            f"{grid.columns} columns of {grid.owner} at {grid.level}, {grid.stride:g} px apart,"
            f" cover {covered:g} px of images of {width} px.",
            "that the grid covers the image, and nothing beyond its padding.",
            [
                grid.cause,
                Cause("the levels come in another order than their strides", "…IN_FEATURES"),
            ],
        )
        return  # the other levels say the same
    yield from _fit_of_anchors(batch, seen)


def _anchors(seen: Observation) -> Iterator[tuple[str, list[Boxes]]]:
    for name, output in seen.outputs.items():
        if name.rpartition(".")[2] == "anchor_generator" and isinstance(output, list):
            yield name, output


def _anchor_grids(seen: Observation) -> Iterator[Grid]:
    cause = Cause("anchors or points are spread by another stride than their level has")
    for name, levels in _anchors(seen):
        for number, boxes in enumerate(levels):
            columns = boxes.get_centers()[:, 0].unique()
            if len(columns) > 1:
                stride = float(columns.diff().median())
                count = round(float(columns[-1] - columns[0]) / stride) + 1
                yield Grid(name, f"level {number}", stride, count, cause)


def _point_grids(model: nn.Module, seen: Observation) -> Iterator[Grid]:
    """Of dense heads that hold their strides as `strides`."""
    strides, output = getattr(model, "strides", None), seen.outputs.get("head")
    if not isinstance(strides, list | tuple) or not isinstance(output, tuple | list):
        return
    levels = output[0]
    if not isinstance(levels, list | tuple) or len(levels) != len(strides):
        return
    cause = Cause("boxes are decoded with another stride than their level has")
    for number, (level, stride) in enumerate(zip(levels, strides, strict=True)):
        yield Grid("the head", f"level {number}", float(stride), level.shape[-1], cause)


def _pooled_grids(model: nn.Module, seen: Observation) -> Iterator[Grid]:
    cause = Cause("the scale of RoIAlign is not one over the stride of its level", "box_pooler")
    for name, widths in seen.pooled.items():
        pooler: ROIPooler = model.get_submodule(name)
        for number, (width, one) in enumerate(zip(widths, pooler.level_poolers, strict=False)):
            yield Grid(name, f"level {number}", 1 / one.spatial_scale, width, cause)


def _fit_of_anchors(batch: Batch, seen: Observation) -> Iterator[Finding]:
    truth = [image["instances"].gt_boxes for image in batch if "instances" in image]
    if not truth or not all(is_upright(boxes) for boxes in truth):
        return
    objects = Boxes.cat(truth)
    for name, levels in _anchors(seen):
        anchors = Boxes.cat(levels)
        # Points have no size, and need none.
        if not len(objects) or not bool((anchors.area() > 0).all()) or _are_points(levels):
            continue
        best = pairwise_iou(objects, anchors.to("cpu")).amax(1)
        fit = float(best.median())
        if fit < GOOD_FIT:
            sides = [round(float(x.area().sqrt().median())) for x in levels]
            size = round(float(objects.area().sqrt().median()))
            yield Finding(
                f"the best anchor of {name} overlaps an object with an IoU of {fit:.2g} (median);"
                f" anchors have sides of about {sides} px, objects of {size} px.",
                "anchors as large as objects, for an IoU of about 0.5.",
                [
                    Cause("anchors are for larger or smaller objects", "ANCHOR_GENERATOR.SIZES"),
                    Cause("images are resized to another size than the anchors are for"),
                ],
                fails=fit < WORST_FIT,
            )


def _are_points(levels: list[Boxes]) -> bool:
    """FCOS takes one square of the stride's size at each place for a point."""
    for boxes in levels:
        columns = boxes.get_centers()[:, 0].unique()
        if len(columns) > 1:
            size = boxes.tensor[:, 2] - boxes.tensor[:, 0]
            return bool(torch.allclose(size, columns.diff().median().expand_as(size)))
    return False
