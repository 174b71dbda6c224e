"""A drawn dataset of circles, squares and triangles whose every annotation is exact.

A shape's mask is the set of pixels whose centre lies inside its polygon; image, mask, box,
keypoints and panoptic PNG come from that one mask, so a test can ask for equality rather than for
closeness. Shapes of one image do not overlap.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dataset_tools.files import write_json

CATEGORIES = ("circle", "square", "triangle")
KEYPOINTS = ("centre", "top", "left_side", "right_side")
SKELETON = ((1, 2), (1, 3), (1, 4))  # 1-based, as COCO has it
STUFF = ("sky", "ground")
_COLOURS = {"circle": (220, 60, 60), "square": (60, 200, 80), "triangle": (70, 90, 230)}  # RGB
_EMPTY, _CROWDED = 5, 3  # of every eight images, this one holds nothing, that one many shapes


@dataclass(frozen=True)
class Shape:
    """One drawn shape.

    Attributes:
        category: one of CATEGORIES.
        polygon: (N, 2) float64, absolute px.
        keypoints: (4, 2) float64, absolute px, in the order of KEYPOINTS.
        mask: (H, W) bool.
        crowd: a group of shapes that counts as one crowd region.
    """

    category: str
    polygon: np.ndarray
    keypoints: np.ndarray
    mask: np.ndarray
    crowd: bool = False

    @property
    def box(self) -> tuple[int, int, int, int]:
        """(x0, y0, x1, y1) px around the mask."""
        rows, columns = np.flatnonzero(self.mask.any(1)), np.flatnonzero(self.mask.any(0))
        return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


@dataclass(frozen=True)
class PanopticShapes:
    """Where `make_panoptic_shapes` wrote what."""

    instances_json: Path
    panoptic_json: Path
    images: Path
    panoptic_root: Path  # RGB PNGs, segment id = R + 256 G + 65536 B
    sem_seg_root: Path  # grey PNGs: 0 things, 1 sky, 2 ground


def make_shapes(
    folder: str | Path,
    num_images: int = 8,
    seed: int = 0,
    size: tuple[int, int] = (96, 128),
    *,
    rle: bool = False,
) -> Path:
    """Draw `num_images` PNGs of `size` (height, width) into folder/images, and write
    folder/shapes.json.

    Of every eight images the fourth holds many small shapes and a crowd region (always RLE), the
    sixth none at all. `rle` gives RLE masks instead of polygons.

    Returns:
        The path of the COCO JSON.
    """
    folder = Path(folder)
    scenes = [draw_scene(seed, index, size) for index in range(num_images)]
    _write_images(folder / "images", [image for image, _ in scenes])
    path = folder / "shapes.json"
    write_json(path, _coco([shapes for _, shapes in scenes], size, rle))
    return path


def make_panoptic_shapes(
    folder: str | Path, num_images: int = 8, seed: int = 0, size: tuple[int, int] = (96, 128)
) -> PanopticShapes:
    """The images of `make_shapes` with panoptic and semantic labels: shapes, sky and ground."""
    folder = Path(folder)
    instances = make_shapes(folder, num_images, seed, size)
    stuff = [
        {"id": len(CATEGORIES) + i + 1, "name": name, "supercategory": "", "isthing": 0}
        for i, name in enumerate(STUFF)
    ]
    annotations = []
    for index in range(num_images):
        shapes = draw_scene(seed, index, size)[1]
        segments, semantic, infos = _panoptic(shapes, size)
        name = f"{index:04d}.png"
        colours = np.stack([segments % 256, segments // 256 % 256, segments // 65536], axis=2)
        _write_png(folder / "panoptic" / name, colours.astype(np.uint8))
        _write_png(folder / "semantic" / name, semantic)
        annotations.append({"image_id": index + 1, "file_name": name, "segments_info": infos})
    path = folder / "panoptic.json"
    things = [{**category, "isthing": 1} for category in _categories()]
    images = _images(num_images, size)
    write_json(path, {"images": images, "annotations": annotations, "categories": things + stuff})
    return PanopticShapes(
        instances, path, folder / "images", folder / "panoptic", folder / "semantic"
    )


def draw_scene(seed: int, index: int, size: tuple[int, int]) -> tuple[np.ndarray, list[Shape]]:
    """Image number `index` of the dataset with this `seed`: (H, W, 3) uint8 RGB, and its shapes."""
    rng = np.random.default_rng((seed, index))
    height, width = size
    image = _background(rng, size)
    free = np.ones(size, bool)
    crowded = index % 8 == _CROWDED
    wanted = 0 if index % 8 == _EMPTY else 12 if crowded else int(rng.integers(1, 5))
    largest = min(size) / (8 if crowded else 4)
    shapes: list[Shape] = []
    for _ in range(40 * wanted):
        if len(shapes) == wanted:
            break
        radius = rng.uniform(0.5, 1) * largest
        if 2 * radius >= min(size):
            continue
        centre = rng.uniform((radius, radius), (width - radius, height - radius))
        shape = _shape(CATEGORIES[rng.integers(len(CATEGORIES))], centre, radius, size)
        if shape.mask.any() and free[shape.mask].all():
            shapes.append(shape)
            free &= ~shape.mask
            noise = rng.normal(0, 8, (int(shape.mask.sum()), 3))
            colour = np.array(_COLOURS[shape.category]) + rng.normal(0, 12, 3)
            image[shape.mask] = (colour + noise).clip(0, 255)
    if crowded and len(shapes) > 3:
        shapes = [*shapes[:-3], _crowd(shapes[-3:])]
    return image, shapes


def encode_rle(mask: np.ndarray) -> dict[str, Any]:
    """COCO's compressed RLE of an (H, W) bool mask, fit for JSON."""
    from pycocotools import mask as coco_mask

    rle = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": [int(v) for v in rle["size"]], "counts": rle["counts"].decode("ascii")}


def rasterize(polygon: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(H, W) bool: the pixels whose centre lies inside the (N, 2) polygon, by the even-odd rule."""
    y, x = np.mgrid[: size[0], : size[1]] + 0.5
    inside = np.zeros(size, bool)
    for (x0, y0), (x1, y1) in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
        if y0 == y1:
            continue
        inside ^= ((y0 > y) != (y1 > y)) & (x < (x1 - x0) * (y - y0) / (y1 - y0) + x0)
    return inside


def _background(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """Sky over ground, each with a slow gradient and noise."""
    height, width = size
    image = np.empty((height, width, 3))
    image[:] = np.linspace(150, 190, width)[None, :, None]
    image[height // 2 :] -= 60
    return (image + rng.normal(0, 6, image.shape)).clip(0, 255).astype(np.uint8)


def _shape(category: str, centre: np.ndarray, radius: float, size: tuple[int, int]) -> Shape:
    if category == "circle":
        angles = np.arange(48) * (2 * np.pi / 48)
        unit = np.stack([np.cos(angles), np.sin(angles)], axis=1)
        sides = [(0, 0), (0, -1), (-1, 0), (1, 0)]
    elif category == "square":
        unit = np.array([(-0.8, -0.8), (0.8, -0.8), (0.8, 0.8), (-0.8, 0.8)])
        sides = [(0, 0), (0, -0.8), (-0.8, 0), (0.8, 0)]
    else:
        unit = np.array([(0, -1), (0.9, 0.8), (-0.9, 0.8)])
        sides = [(0, 0), (0, -1), (-0.9, 0.8), (0.9, 0.8)]
    polygon = (centre + radius * unit).round(2)
    keypoints = centre + radius * np.array(sides, dtype=float)
    return Shape(category, polygon, keypoints, rasterize(polygon, size))


def _crowd(shapes: list[Shape]) -> Shape:
    mask = np.any([shape.mask for shape in shapes], axis=0)
    first = shapes[0]
    return Shape(first.category, first.polygon, first.keypoints, mask, crowd=True)


def _categories() -> list[dict[str, Any]]:
    return [
        {
            "id": i + 1,
            "name": name,
            "supercategory": "shape",
            "keypoints": list(KEYPOINTS),
            "skeleton": [list(pair) for pair in SKELETON],
        }
        for i, name in enumerate(CATEGORIES)
    ]


def _images(count: int, size: tuple[int, int]) -> list[dict[str, Any]]:
    return [
        {"id": i + 1, "file_name": f"{i:04d}.png", "height": size[0], "width": size[1]}
        for i in range(count)
    ]


def _coco(scenes: list[list[Shape]], size: tuple[int, int], rle: bool) -> dict[str, Any]:
    annotations: list[dict[str, Any]] = []
    for index, shapes in enumerate(scenes):
        for shape in shapes:
            annotation = _annotation(shape, rle)
            annotations.append({"id": len(annotations) + 1, "image_id": index + 1, **annotation})
    return {
        "info": {"description": "drawn shapes"},
        "licenses": [],
        "images": _images(len(scenes), size),
        "annotations": annotations,
        "categories": _categories(),
    }


def _annotation(shape: Shape, rle: bool) -> dict[str, Any]:
    x0, y0, x1, y1 = shape.box
    annotation: dict[str, Any] = {
        "category_id": CATEGORIES.index(shape.category) + 1,
        "bbox": [x0, y0, x1 - x0, y1 - y0],
        "area": int(shape.mask.sum()),
        "iscrowd": int(shape.crowd),
    }
    if rle or shape.crowd:
        annotation["segmentation"] = encode_rle(shape.mask)
    else:
        annotation["segmentation"] = [shape.polygon.reshape(-1).tolist()]
    if not shape.crowd:
        # COCO's keypoints are indices of pixels: half a pixel less than coordinates.
        points = np.c_[(shape.keypoints - 0.5).round(2), np.full(len(KEYPOINTS), 2)]
        annotation["keypoints"] = points.reshape(-1).tolist()
        annotation["num_keypoints"] = len(KEYPOINTS)
    return annotation


def _panoptic(
    shapes: list[Shape], size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray, list[dict[str, Any]]]:
    """Segment ids (H, W) int32, semantic classes (H, W) uint8, and the segments' records."""
    segments = np.zeros(size, np.int32)
    semantic = np.ones(size, np.uint8)
    semantic[size[0] // 2 :] = 2
    infos = []

    def add(mask: np.ndarray, category_id: int, crowd: bool = False) -> None:
        if not mask.any():
            return
        # Ids above 255 need the green channel too: a reader that forgets it is found out.
        segment = 200 + 100 * len(infos)
        segments[mask] = segment
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        x, y = int(columns[0]), int(rows[0])
        box = [x, y, int(columns[-1]) + 1 - x, int(rows[-1]) + 1 - y]
        info = {"id": segment, "category_id": category_id, "iscrowd": int(crowd)}
        infos.append({**info, "bbox": box, "area": int(mask.sum())})

    for shape in shapes:
        add(shape.mask, CATEGORIES.index(shape.category) + 1, shape.crowd)
        semantic[shape.mask] = 0
    for i in range(len(STUFF)):
        add(semantic == i + 1, len(CATEGORIES) + i + 1)
    return segments, semantic, infos


def _write_images(folder: Path, images: list[np.ndarray]) -> None:
    for index, image in enumerate(images):
        _write_png(folder / f"{index:04d}.png", image)


def _write_png(path: Path, image: np.ndarray) -> None:
    """`image` is (H, W) grey or (H, W, 3) RGB, uint8."""
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)
