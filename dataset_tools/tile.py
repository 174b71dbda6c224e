"""Cut large images into overlapping tiles, annotations with them.

What is 20 px wide in an image of 10,000 px is gone when that is resized to 1,000 px for a network.
Tiles keep every pixel. An object no larger than the overlap is whole in at least one tile.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, NamedTuple

from dataset_tools.coco import (
    Annotation,
    Image,
    Segmentation,
    Summary,
    annotation_box,
    load_coco,
    write_coco,
)
from dataset_tools.errors import InputError
from dataset_tools.files import atomic_path, late_folder
from dataset_tools.images import read_picture
from dataset_tools.progress import track
from dataset_tools.provenance import derived_info, find_images
from dataset_tools.rle import (
    Box,
    decode_mask,
    encode_mask,
    polygons_area,
    polygons_box,
    rle_area,
    rle_box,
)
from dataset_tools.tiles import tile_origins

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image as PillowImage

EPILOG = """\
examples:
  python -m dataset_tools tile photos.json -o tiles --size 640
  python -m dataset_tools tile photos.json -o tiles --size 1024 --overlap 0.3 --keep-empty

An object that a tile's edge cuts is kept if the tile shows at least --min-area-share of it. The
default, 0.25, is the least that a tile shows of a box whose centre it shows: what is dropped has
its centre in another tile, and hardly anything to be recognised by here.
"""

MIN_AREA_SHARE = 0.25
_JPEG = {"quality": 95, "subsampling": 0}


class Tile(NamedTuple):
    """A rectangle of an image, in whole px; right and bottom edges exclusive."""

    left: int
    top: int
    right: int
    bottom: int


@dataclass
class Tiling:
    """What `tile_dataset` wrote, and what it left out."""

    summary: Summary
    empty_tiles: int  # without objects and so not written, unless they were to be kept
    cut_away: int  # annotations of which some tile shows too little: dropped there
    lost: list[str]  # annotations that are in no tile at all


def tiles_of(width: int, height: int, size: int, overlap: float) -> list[Tile]:
    """Tiles of `size` px, or less where the image is smaller, that cover an image; row by row.

    Neighbours share at least `overlap` (a share of `size`), so that every box of at most that many
    px is whole in at least one tile.
    """
    return [
        Tile(left, top, min(left + size, width), min(top + size, height))
        for top in tile_origins(height, size, overlap)
        for left in tile_origins(width, size, overlap)
    ]


def clip_annotation(
    annotation: Annotation, tile: Tile, min_area_share: float = MIN_AREA_SHARE
) -> Annotation | None:
    """The part of an annotation in a tile, in the tile's coordinates; None if there is too little.

    A mask is clipped and gives box and area; else the box is. Polygons stay polygons unless they
    cross themselves; an RLE stays one. Keypoints outside become "not labelled" (0, 0, 0). Of a
    crowd any part is kept: "do not judge here" holds for all of it.

    Args:
        annotation: in the image's coordinates.
        tile: where to cut.
        min_area_share: least share of its area (of the mask, if it has one) that the tile shows.
    """
    return _Clipper(annotation)(tile, min_area_share)


def tile_dataset(
    path: str | Path,
    output: str | Path,
    *,
    images: str | Path | None = None,
    size: int = 640,
    overlap: float = 0.2,
    min_area_share: float = MIN_AREA_SHARE,
    keep_empty: bool = False,
    progress: bool = False,
) -> Tiling:
    """Cut the images of a COCO file and write the tiles and their COCO file into a folder.

    Tiles are `images/NAME_X_Y.jpg` if the source is a JPEG, else `.png`; the COCO file has the
    name of the source's, and each of its images the attribute `tile`: {"source", "x", "y"}.

    Args:
        path: COCO file.
        output: folder to write into.
        images: image root; None: where the file says.
        size: side of a tile in px.
        overlap: least share of a tile that it has in common with its neighbour.
        min_area_share: see `clip_annotation`.
        keep_empty: write tiles without objects too.
        progress: show a progress bar if there is a terminal.

    Raises:
        InputError: an image is missing, damaged or not of the recorded size.
    """
    path, output = Path(path), Path(output)
    if size < 1 or not 0 <= overlap < 1 or not 0 <= min_area_share <= 1:
        raise InputError(
            f"Tiles of {size} px with an overlap of {overlap} and a least share of "
            f"{min_area_share}: the size is at least 1, the overlap in [0, 1), the share in [0, 1]."
        )
    dataset = load_coco(path)
    root = find_images(path, dataset.info, Path(images) if images else None)
    target = output / path.name
    if target.resolve() == path.resolve():
        raise InputError(f"{target} would be overwritten. Give -o another folder.")
    _check_names(dataset.images)
    step = {
        "command": "tile",
        "size": size,
        "overlap": overlap,
        "min_area_share": min_area_share,
        "keep_empty": keep_empty,
    }
    info = derived_info(dataset.info, step, output / "images", target)
    with late_folder(output / "images") as folder, ThreadPoolExecutor(os.cpu_count()) as pool:
        cutter = _Cutter(root, folder, size, overlap, min_area_share, keep_empty)
        sources = track(dataset.images, len(dataset.images), "images", progress)
        tiles = (tile for source in sources for tile in cutter.cut(source, pool.map))
        summary = write_coco(target, tiles, dataset.categories, info, dataset.licenses)
    return Tiling(summary, cutter.empty, cutter.cut_away, cutter.lost)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    add = parser.add_argument
    add("json", type=Path, metavar="JSON", help="COCO file")
    add(
        "-o",
        "--output",
        type=Path,
        required=True,
        metavar="DIR",
        help="folder for tiles and labels",
    )
    add("--images", type=Path, metavar="DIR", help="image root")
    add("--size", type=int, default=640, metavar="PX", help="side of a tile (default: %(default)s)")
    add("--overlap", type=float, default=0.2, metavar="SHARE",
        help="least share in common with a neighbour (default: %(default)s)")  # fmt: skip
    add("--min-area-share", type=float, default=MIN_AREA_SHARE, metavar="SHARE",
        help="least share of an object to keep (default: %(default)s)")  # fmt: skip
    add("--keep-empty", action="store_true", help="also write tiles without objects")


def run(args: argparse.Namespace) -> int:
    """Cut, and print what was written and dropped."""
    tiling = tile_dataset(
        args.json,
        args.output,
        images=args.images,
        size=args.size,
        overlap=args.overlap,
        min_area_share=args.min_area_share,
        keep_empty=args.keep_empty,
        progress=True,
    )
    summary = tiling.summary
    print(f"{summary.images:,} tiles with {summary.annotations:,} annotations")
    if tiling.empty_tiles:
        kept = "kept" if args.keep_empty else "not written (--keep-empty writes them)"
        print(f"{tiling.empty_tiles:,} tiles without objects: {kept}")
    if tiling.cut_away:
        print(
            f"{tiling.cut_away:,} times an object was left out of a tile that shows less than "
            f"{args.min_area_share:g} of it"
        )
    if tiling.lost:
        first = ", ".join(tiling.lost[:10])
        print(f"dropped: {len(tiling.lost):,} annotations that no tile shows enough of: {first}")
    print(f"written: {summary.path}\nimage root: {args.output / 'images'}")
    return 0


class _Cutter:
    """Cuts one image after the other; counts what it leaves out."""

    def __init__(
        self,
        root: Path,
        folder: Path,
        size: int,
        overlap: float,
        min_area_share: float,
        keep_empty: bool,
    ) -> None:
        self.root, self.folder = root, folder
        self.size, self.overlap = size, overlap
        self.min_area_share, self.keep_empty = min_area_share, keep_empty
        self.empty = self.cut_away = 0
        self.lost: list[str] = []

    def cut(self, source: Image, map_: Callable) -> Iterator[Image]:
        """Write the tiles of an image by `map_`, and yield their records."""
        tiles = tiles_of(source.width, source.height, self.size, self.overlap)
        objects = self._objects(source, tiles)
        self.empty += sum(not found for found in objects)
        chosen = [index for index, found in enumerate(objects) if found or self.keep_empty]
        if not chosen:
            return
        picture = read_picture(self.root / source.file_name, (source.width, source.height))
        names = [tile_name(source.file_name, *tiles[index][:2]) for index in chosen]

        def save(name: str, index: int) -> None:
            _save(picture.crop(tiles[index]), self.folder / name)

        # A list, since errors come out of a map as it is read.
        list(map_(save, names, chosen))
        for name, index in zip(names, chosen, strict=True):
            left, top, right, bottom = tiles[index]
            place = {"source": source.file_name, "x": left, "y": top}
            yield Image(
                file_name=name,
                width=right - left,
                height=bottom - top,
                annotations=objects[index],
                attributes=source.attributes | {"tile": place},
                source=source.source,
            )

    def _objects(self, source: Image, tiles: Sequence[Tile]) -> list[list[Annotation]]:
        """For each tile the annotations it shows."""
        objects: list[list[Annotation]] = [[] for _ in tiles]
        for annotation in source.annotations:
            clipper = _Clipper(annotation)
            shown = 0
            for index, tile in enumerate(tiles):
                if not clipper.touches(tile):
                    continue
                part = clipper(tile, self.min_area_share)
                if part is None:
                    self.cut_away += 1
                else:
                    shown += 1
                    objects[index].append(part)
            if not shown:
                self.lost.append(annotation.source or source.file_name)
        return objects


class _Clipper:
    """Clips one annotation to many tiles; decodes its mask at most once."""

    def __init__(self, annotation: Annotation) -> None:
        self.annotation = annotation
        self.box = annotation_box(annotation)
        self.mask: np.ndarray | None = None
        segmentation = annotation.segmentation
        if isinstance(segmentation, list):
            segmentation = [polygon for polygon in segmentation if len(polygon) >= 6]
            if not all(map(_is_simple, segmentation)):
                segmentation = _rasterised(segmentation)
        # A mask without area says nothing: then the box does.
        solid = bool(segmentation) and _mask_area(segmentation) > 0
        self.segmentation: Segmentation | None = segmentation if solid else None
        if isinstance(self.segmentation, dict):
            self.mask = decode_mask(self.segmentation)

    def touches(self, tile: Tile) -> bool:
        """Whether the box has some area in the tile."""
        return self.box is not None and _box_area(_clip_box(self.box, tile)) > 0

    def __call__(self, tile: Tile, min_area_share: float) -> Annotation | None:
        if not self.touches(tile):
            return None
        box, segmentation = _clip_box(self.box, tile), None
        area, whole = _box_area(box), _box_area(self.box)
        if self.segmentation is not None:
            segmentation = self._clip_mask(tile)
            area, whole = _mask_area(segmentation), _mask_area(self.segmentation)
        if area <= 0 or (area < min_area_share * whole and not self.annotation.iscrowd):
            return None
        if segmentation is not None and not _contains(tile, self.box):
            box = _mask_box(segmentation)
        return replace(
            self.annotation,
            bbox=box,
            segmentation=segmentation,
            keypoints=_clip_keypoints(self.annotation.keypoints, tile),
            area=self._area(area, whole),
            attributes=dict(self.annotation.attributes),
            id=None,
        )

    def _clip_mask(self, tile: Tile) -> Segmentation:
        import numpy as np

        left, top, right, bottom = tile
        if self.mask is not None:
            part = self.mask[top:bottom, left:right]
            missing = (bottom - top - part.shape[0], right - left - part.shape[1])
            return encode_mask(np.pad(part, [(0, count) for count in missing]))
        return [piece for polygon in self.segmentation for piece in _clip_polygon(polygon, tile)]

    def _area(self, shown: float, whole: float) -> float:
        """The recorded area where the object is whole, its share where it is not."""
        recorded = self.annotation.area
        return shown if recorded is None or whole <= 0 else recorded * min(1, shown / whole)


def tile_name(file_name: str, x: int, y: int) -> str:
    """File name of the tile of an image whose left top corner is at (x, y)."""
    path = PurePosixPath(file_name)
    suffix = path.suffix if path.suffix.lower() in (".jpg", ".jpeg") else ".png"
    return str(path.with_name(f"{path.stem}_{x}_{y}{suffix}"))


def _check_names(images: Iterable[Image]) -> None:
    """Two images must not give tiles of the same names, as a.tif and a.png would."""
    names: dict[str, str] = {}
    for image in images:
        other = names.setdefault(tile_name(image.file_name, 0, 0), image.file_name)
        if other != image.file_name or ".." in PurePosixPath(image.file_name).parts:
            raise InputError(
                f"The tiles of {image.file_name} would overwrite other files, such as those of "
                f"{other}. Rename it."
            )


def _save(picture: PillowImage.Image, path: Path) -> None:
    is_jpeg = path.suffix.lower() != ".png"
    if not is_jpeg and picture.mode in ("CMYK", "YCbCr", "LAB", "HSV"):
        picture = picture.convert("RGB")  # PNG has none of these
    try:
        with atomic_path(path) as temporary:
            picture.save(temporary, "JPEG" if is_jpeg else "PNG", **(_JPEG if is_jpeg else {}))
    except OSError as error:
        if error.errno is not None:
            raise
        raise InputError(
            f"{path}: a picture of {picture.mode} cannot be stored: {error}."
        ) from error


def _clip_polygon(polygon: Sequence[float], tile: Tile) -> list[list[float]]:
    """The pieces of a polygon that does not cross itself, in the tile's coordinates."""
    import shapely

    left, top = tile[:2]
    if _contains(tile, polygons_box([polygon])):
        return [[value - (left, top)[index % 2] for index, value in enumerate(polygon)]]
    points = list(zip(polygon[0::2], polygon[1::2], strict=True))
    inside = shapely.intersection(shapely.Polygon(points), shapely.box(*tile))
    pieces = []
    for part in shapely.get_parts(inside):
        if part.geom_type == "Polygon" and part.area > 0:
            corners = list(part.exterior.coords)[:-1]
            pieces.append([value for x, y in corners for value in (x - left, y - top)])
    return pieces


def _is_simple(polygon: Sequence[float]) -> bool:
    import shapely

    return shapely.Polygon(list(zip(polygon[0::2], polygon[1::2], strict=True))).is_valid


def _rasterised(polygons: Sequence[Sequence[float]]) -> dict:
    """An RLE of polygons, just large enough to hold them."""
    from pycocotools import mask as coco_mask

    box = polygons_box(polygons)
    height, width = int(box[3]) + 1, int(box[2]) + 1
    rle = coco_mask.merge(coco_mask.frPyObjects([list(p) for p in polygons], height, width))
    return {"size": [height, width], "counts": rle["counts"].decode("ascii")}


def _clip_keypoints(keypoints: Sequence[float] | None, tile: Tile) -> list[float] | None:
    if keypoints is None:
        return None
    left, top, right, bottom = tile
    clipped: list[float] = []
    for x, y, seen in zip(keypoints[0::3], keypoints[1::3], keypoints[2::3], strict=True):
        inside = left <= x < right and top <= y < bottom
        clipped += [x - left, y - top, seen] if seen and inside else [0, 0, 0]
    return clipped


def _clip_box(box: Box, tile: Tile) -> Box:
    """The part of a box in a tile, in the tile's coordinates; empty, not inverted, if there is
    none."""
    (x0, y0, x1, y1), (left, top, right, bottom) = box, tile
    x0, y0 = min(max(x0, left), right), min(max(y0, top), bottom)
    x1, y1 = max(x0, min(x1, right)), max(y0, min(y1, bottom))
    return (x0 - left, y0 - top, x1 - left, y1 - top)


def _contains(tile: Tile, box: Box) -> bool:
    left, top, right, bottom = tile
    return left <= box[0] and top <= box[1] and box[2] <= right and box[3] <= bottom


def _box_area(box: Box) -> float:
    return max(0, box[2] - box[0]) * max(0, box[3] - box[1])


def _mask_area(segmentation: Segmentation) -> float:
    return rle_area(segmentation) if isinstance(segmentation, dict) else polygons_area(segmentation)


def _mask_box(segmentation: Segmentation) -> Box:
    return rle_box(segmentation) if isinstance(segmentation, dict) else polygons_box(segmentation)
