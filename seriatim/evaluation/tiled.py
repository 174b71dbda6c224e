"""Inference on large images by overlapping tiles, and the merging of what the tiles see.

The merging rests on what tiles share, not on the overlap of whole boxes: in the area that two tiles
have in common, both see the same of an object, so their detections, restricted to it, must agree.
That holds for an object that is whole in both, cut in one, or larger than either.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import transforms as T
from detectron2.data.detection_utils import build_augmentation
from detectron2.structures import Boxes, Instances, RotatedBoxes
from torch import nn

from dataset_tools.boxes import box_iou
from dataset_tools.errors import InputError
from dataset_tools.tiles import tile_origins

# A box that comes so close to a tile's inner edge is taken to be cut by it: px, share of the tile.
_EDGE_PX, _EDGE_SHARE = 2.0, 0.01


def wrap_tiled(cfg: CfgNode, model: nn.Module) -> nn.Module:
    """`model` itself, or, where SERIATIM.EVAL.TILE asks for it, a `TiledModel` around it."""
    evaluation = cfg.SERIATIM.EVAL
    if evaluation.TILE <= 0:
        return model
    return TiledModel(
        model,
        evaluation.TILE,
        evaluation.TILE_OVERLAP,
        evaluation.TILE_NMS_THRESH,
        # The test mapper leaves this to us: a tile is resized as an image of its size would be.
        resize=T.AugmentationList(build_augmentation(cfg, is_train=False)),
        max_detections=evaluation.MAX_DETECTIONS,
    )


class TiledModel(nn.Module):
    """A detector that looks at large images through overlapping tiles; inference only.

    A tile is treated as an image of its own; an image no larger than a tile is one. Input and
    output are those of Detectron2's meta-architectures: a list of dicts with "image" (C, H, W) and
    optionally "height" and "width" of the output, and a list of {"instances"}.
    """

    def __init__(
        self,
        model: nn.Module,
        tile: int,
        overlap: float = 0.25,
        agreement: float = 0.6,
        *,
        resize: T.AugmentationList | None = None,
        batch_size: int = 4,
        max_detections: int = 100,
    ):
        """
        Args:
            model: any meta-architecture that gives instances.
            tile: side of a tile in px of the image given.
            overlap: least share of a tile that neighbours have in common. Objects no larger than
                that are whole in at least one tile; larger ones are put together from their parts.
            agreement: detections of two tiles whose IoU in the tiles' common area is at least this
                are one object.
            resize: done to each tile before the model gets it; its detections are in px of the
            tile. batch_size: tiles that go through the model at once.
            max_detections: so many of the best are kept per image.
        """
        super().__init__()
        self.model = model
        self.tile, self.overlap, self.agreement = tile, overlap, agreement
        self.resize = resize
        self.batch_size, self.max_detections = batch_size, max_detections
        self.training = model.training  # wrapping changes nothing about the model

    def forward(self, inputs: Sequence[Mapping[str, Any]]) -> list[dict[str, Instances]]:
        if self.model.training:
            raise RuntimeError("TiledModel is for inference: call eval() first")
        return [self._infer(given) for given in inputs]

    def _infer(self, given: Mapping[str, Any]) -> dict[str, Instances]:
        image = given["image"]
        height, width = image.shape[-2:]
        if max(height, width) <= self.tile:
            whole = {**given, "image": self._resized(image)}
            return self.model([{"height": height, "width": width, **whole}])[0]
        tiles = [
            (x, y, min(x + self.tile, width), min(y + self.tile, height))
            for y in tile_origins(height, self.tile, self.overlap)
            for x in tile_origins(width, self.tile, self.overlap)
        ]
        found = []
        for start in range(0, len(tiles), self.batch_size):
            batch = tiles[start : start + self.batch_size]
            outputs = self.model([self._crop(image, tile) for tile in batch])
            found += [_instances(output) for output in outputs]
        merged = merge_tiles(
            found, tiles, (height, width), self.agreement, max_detections=self.max_detections
        )
        return {
            "instances": _resized(merged, given.get("height", height), given.get("width", width))
        }

    def _crop(self, image: torch.Tensor, tile: tuple[int, int, int, int]) -> dict[str, Any]:
        left, top, right, bottom = tile
        pixels = self._resized(image[..., top:bottom, left:right])
        return {"image": pixels, "height": bottom - top, "width": right - left}

    def _resized(self, image: torch.Tensor) -> torch.Tensor:
        if self.resize is None:
            return image
        given = T.AugInput(image.permute(1, 2, 0).contiguous().numpy())
        self.resize(given)
        return torch.from_numpy(np.array(given.image.transpose(2, 0, 1), order="C"))


def _instances(output: Mapping[str, Any]) -> Instances:
    if "instances" not in output:
        raise InputError(
            f"Inference by tiles merges instances, but the model gives {', '.join(output)}."
            " Set SERIATIM.EVAL.TILE to 0."
        )
    return output["instances"].to("cpu")


@dataclass(slots=True)
class _Found:
    """All detections of all tiles, in px of the whole image."""

    boxes: np.ndarray  # (N, 4) XYXY; of rotated boxes the bounds
    classes: np.ndarray  # (N,)
    scores: np.ndarray  # (N,)
    tile: np.ndarray  # (N,) index into tiles
    tiles: np.ndarray  # (T, 4) XYXY
    cut: (
        np.ndarray
    )  # (N, 4) bool: touches the left, top, right, bottom edge of its tile, and not the image's


def merge_tiles(
    found: Sequence[Instances],
    tiles: Sequence[tuple[int, int, int, int]],
    image_size: tuple[int, int],
    agreement: float = 0.6,
    *,
    max_detections: int | None = None,
) -> Instances:
    """One `Instances` in px of the whole image from those of its tiles, best score first.

    1. Detections of two tiles that agree in the tiles' common area (IoU of the restricted boxes,
    one to
       one, the best first) are the same object. Two detections of one tile never are.
    2. An object is what the tiles that see it whole say (the best score of them); if none does, the
       union of its parts.
    3. A part alone, in an area that another tile sees more of, is dropped: that tile knows better.
    4. What still overlaps by more than `agreement`, and no tile has seen side by side, is
    suppressed as
       in non-maximum suppression.

    Args:
        found: of each tile, on the CPU, in px of that tile; with pred_boxes (rotated ones are
            judged by their bounds), scores, pred_classes, and maybe pred_masks (n, h, w) and
            pred_keypoints.
        tiles: (left, top, right, bottom) of each in px of the image. image_size: (height, width).
    """
    everything = _gather(found, tiles, image_size)
    groups = _link(everything, agreement)
    groups = [g for g in groups if not _better_seen_elsewhere(everything, g)]
    best = [_representative(everything, group) for group in groups]
    keep = _suppress(everything, groups, best, agreement)[:max_detections]
    return _assemble(
        found, tiles, image_size, everything, [groups[k] for k in keep], [best[k] for k in keep]
    )


def _gather(
    found: Sequence[Instances], tiles: Sequence[tuple[int, int, int, int]], size: tuple[int, int]
) -> _Found:
    offsets = np.array([(left, top, left, top) for left, top, _, _ in tiles], dtype=float)
    counts = [len(instances) for instances in found]
    tile = np.repeat(np.arange(len(tiles)), counts)
    boxes = [_bounds(instances.pred_boxes) for instances in found]
    boxes = np.concatenate(boxes).reshape(-1, 4) + offsets[tile]
    tiles_array = np.array(tiles, dtype=float)
    height, width = size
    side = (tiles_array[:, 2:] - tiles_array[:, :2]).max(1, initial=0)
    margin = np.maximum(_EDGE_PX, _EDGE_SHARE * side)[tile, None]
    touches = np.abs(boxes - tiles_array[tile]) <= margin
    beyond = np.concatenate(
        [boxes[:, :2] < tiles_array[tile, :2], boxes[:, 2:] > tiles_array[tile, 2:]], axis=1
    )
    inner = tiles_array[tile] != np.array([0, 0, width, height])
    return _Found(
        boxes=boxes,
        classes=np.concatenate([i.pred_classes.numpy() for i in found]),
        scores=np.concatenate([i.scores.detach().double().numpy() for i in found]),
        tile=tile,
        tiles=tiles_array,
        cut=(touches | beyond) & inner,
    )


def _bounds(boxes: Boxes | RotatedBoxes) -> np.ndarray:
    values = boxes.tensor.detach().double().numpy()
    if values.shape[1] == 4:
        return values
    x, y, width, height, degrees = values.T
    c, s = np.abs(np.cos(np.deg2rad(degrees))), np.abs(np.sin(np.deg2rad(degrees)))
    half_x, half_y = (c * width + s * height) / 2, (s * width + c * height) / 2
    return np.stack([x - half_x, y - half_y, x + half_x, y + half_y], axis=1)


def _link(found: _Found, agreement: float) -> list[np.ndarray]:
    """Groups of detections of one object, each an array of indices with no two of one tile."""
    links = []
    for a in range(len(found.tiles)):
        for b in range(a + 1, len(found.tiles)):
            links += _agreeing(found, a, b, agreement)
    links.sort(key=lambda link: -link[0])
    group = list(range(len(found.boxes)))  # of each detection the group's first member
    members = {i: [i] for i in group}
    for _, i, j in links:
        i, j = group[i], group[j]
        if i == j or {found.tile[m] for m in members[i]} & {found.tile[m] for m in members[j]}:
            continue
        for member in members[j]:
            group[member] = i
        members[i] += members.pop(j)
    return [np.array(m) for m in members.values()]


def _agreeing(found: _Found, a: int, b: int, agreement: float) -> list[tuple[float, int, int]]:
    """(IoU in the common area of tiles a and b, index, index) of detections that agree there."""
    low = np.maximum(found.tiles[a, :2], found.tiles[b, :2])
    high = np.minimum(found.tiles[a, 2:], found.tiles[b, 2:])
    if (high <= low).any():
        return []
    common = np.concatenate([low, high])
    in_a, in_b = (np.flatnonzero(found.tile == t) for t in (a, b))
    iou = box_iou(_restrict(found.boxes[in_a], common), _restrict(found.boxes[in_b], common))
    iou[found.classes[in_a][:, None] != found.classes[in_b][None]] = 0
    rows, columns = np.nonzero(iou >= max(agreement, 1e-9))
    order = np.argsort(-iou[rows, columns], kind="stable")
    links, used_a, used_b = [], set(), set()
    for i, j in zip(rows[order].tolist(), columns[order].tolist(), strict=True):
        if i not in used_a and j not in used_b:
            used_a.add(i)
            used_b.add(j)
            links.append((float(iou[i, j]), int(in_a[i]), int(in_b[j])))
    return links


def _restrict(boxes: np.ndarray, area: np.ndarray) -> np.ndarray:
    """The part of each box in `area`; empty boxes where there is none."""
    low, high = np.maximum(boxes[:, :2], area[:2]), np.minimum(boxes[:, 2:], area[2:])
    return np.concatenate([low, np.maximum(low, high)], axis=1)


def _better_seen_elsewhere(found: _Found, group: np.ndarray) -> bool:
    """Whether every member is cut and lies in a tile that reaches beyond the edge that cuts it."""
    seen_by = set(found.tile[group])
    for member in group:
        cut, box = found.cut[member], found.boxes[member]
        if not cut.any():
            return False
        own = found.tiles[found.tile[member]]
        # What sticks out of its own tile by the detector's inaccuracy is not held against the
        # other.
        inside = _restrict(box[None], own)[0]
        contains = (found.tiles[:, :2] <= inside[:2]).all(1) & (
            found.tiles[:, 2:] >= inside[2:]
        ).all(1)
        reaches = np.concatenate(
            [found.tiles[:, :2] < own[:2], found.tiles[:, 2:] > own[2:]], axis=1
        )
        better = np.flatnonzero(contains & (reaches & cut).any(1))
        if not set(better) - seen_by:
            return False
    return True


def _representative(found: _Found, group: np.ndarray) -> int:
    """The member to take: whole ones first, then the largest of the cut ones, then by score."""
    cut = found.cut[group].any(1)
    if cut.all():
        area = (found.boxes[group, 2:] - found.boxes[group, :2]).prod(1)
        return int(group[area.argmax()])
    whole = group[~cut]
    return int(whole[found.scores[whole].argmax()])


def _suppress(
    found: _Found, groups: Sequence[np.ndarray], best: Sequence[int], agreement: float
) -> list[int]:
    """Indices of the groups to keep, best score first."""
    scores = [found.scores[group].max() for group in groups]
    order = np.argsort(-np.array(scores), kind="stable")
    seen_by = [frozenset(found.tile[group]) for group in groups]
    boxes, classes = found.boxes[list(best)], found.classes[list(best)]
    keep: list[int] = []
    for k in order.tolist():
        rivals = np.array(keep, dtype=int)
        rivals = rivals[classes[rivals] == classes[k]]
        close = (
            rivals[box_iou(boxes[k][None], boxes[rivals])[0] > agreement] if len(rivals) else rivals
        )
        if all(seen_by[k] & seen_by[rival] for rival in close):
            keep.append(k)
    return keep


def _assemble(
    found: Sequence[Instances],
    tiles: Sequence[tuple[int, int, int, int]],
    image_size: tuple[int, int],
    everything: _Found,
    groups: Sequence[np.ndarray],
    best: Sequence[int],
) -> Instances:
    start = np.cumsum([0, *(len(instances) for instances in found)])

    def of(member: int) -> tuple[Instances, int, int, int]:
        """The tile's instances, the member's place in it, and the tile's left and top."""
        t = int(everything.tile[member])
        return found[t], int(member - start[t]), tiles[t][0], tiles[t][1]

    merged = Instances(image_size)
    first = found[0]
    kind, width = type(first.pred_boxes), first.pred_boxes.tensor.shape[1]
    boxes = torch.zeros(len(best), width)
    masks = (
        torch.zeros(len(best), *image_size, dtype=torch.bool) if first.has("pred_masks") else None
    )
    keypoints = None
    if first.has("pred_keypoints"):
        keypoints = torch.zeros(len(best), *first.pred_keypoints.shape[1:])
    for row, (group, member) in enumerate(zip(groups, best, strict=True)):
        parts = group if everything.cut[member].any() else np.array([member])
        boxes[row] = _merged_box(everything, parts, of(member), width)
        for part in parts:
            instances, index, left, top = of(part)
            if masks is not None:
                mask = instances.pred_masks[index].bool()
                view = masks[row, top : top + mask.shape[0], left : left + mask.shape[1]]
                view |= mask[: view.shape[0], : view.shape[1]]
            if keypoints is not None:
                shift = instances.pred_keypoints.new_tensor([left, top, 0])
                points = instances.pred_keypoints[index] + shift
                better = points[:, 2] > keypoints[row, :, 2]
                keypoints[row, better] = points[better]
    merged.pred_boxes = kind(boxes)
    merged.scores = torch.tensor([float(everything.scores[g].max()) for g in groups])
    merged.pred_classes = torch.as_tensor(everything.classes[list(best)], dtype=torch.int64)
    if masks is not None:
        merged.pred_masks = masks
    if keypoints is not None:
        merged.pred_keypoints = keypoints
    return merged


def _merged_box(
    everything: _Found, parts: np.ndarray, source: tuple[Instances, int, int, int], width: int
) -> torch.Tensor:
    if width == 4:
        boxes = everything.boxes[parts]
        return torch.as_tensor(np.concatenate([boxes[:, :2].min(0), boxes[:, 2:].max(0)])).float()
    # Parts of a rotated box have no union that is one; the largest stands for it.
    instances, index, left, top = source
    box = instances.pred_boxes.tensor[index]
    return box + box.new_tensor([left, top, 0, 0, 0])


def _resized(instances: Instances, height: int, width: int) -> Instances:
    """`instances` in an image of another size."""
    if instances.image_size == (height, width):
        return instances
    scale_y, scale_x = height / instances.image_size[0], width / instances.image_size[1]
    result = Instances((height, width), **instances.get_fields())
    result.pred_boxes.scale(scale_x, scale_y)
    if result.has("pred_keypoints"):
        result.pred_keypoints[:, :, 0] *= scale_x
        result.pred_keypoints[:, :, 1] *= scale_y
    if result.has("pred_masks"):
        masks = torch.zeros(len(result), height, width, dtype=torch.bool)
        for row, mask in enumerate(instances.pred_masks):  # one at a time: as float they are large
            resized = nn.functional.interpolate(
                mask[None, None].float(), (height, width), mode="bilinear", align_corners=False
            )
            masks[row] = resized[0, 0] >= 0.5
        result.pred_masks = masks
    return result
