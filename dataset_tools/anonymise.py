"""Make all objects of some categories unrecognisable, in copies of the images.

A region is averaged to a few colours and these are drawn as blocks (pixelate) or as a smooth
gradient (blur). A mere Gaussian blur, which can in part be undone, is never used: what is averaged
away is gone. Metadata of the images (place, time, camera, a thumbnail!) is left out, orientation
applied; links to the originals are left out of the JSON.
"""

from __future__ import annotations

import argparse
import math
from collections import Counter, defaultdict
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from dataset_tools.coco import Annotation, Image, annotation_box, load_coco, write_coco
from dataset_tools.errors import InputError
from dataset_tools.files import new_folder
from dataset_tools.images import inside, read_picture
from dataset_tools.progress import track
from dataset_tools.provenance import derived_info, find_images
from dataset_tools.rle import decode_mask

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image as PillowImage

EPILOG = """\
examples:
  python -m dataset_tools anonymise all.json -o public --categories face 'licence plate'
  python -m dataset_tools anonymise all.json -o public --categories person --shape mask --grow 0.05

The new folder holds images/ and the COCO file. Only what is labelled is hidden: `visualize.py data`
shows what is not. PNG, BMP, TIFF and WebP lose nothing outside of the regions; JPEG is compressed
once more, with the tables it had.
"""

BLOCKS = 6  # along the longer side of a region; a face of 6×8 blocks is none that anyone knows
LINKS = ("flickr_url", "coco_url", "date_captured")


@dataclass
class Anonymised:
    """What was written and hidden."""

    folder: Path
    images: int
    images_changed: int
    hidden: dict[str, int]  # category → annotations
    links: int  # to originals, left out


def anonymise_dataset(
    path: str | Path,
    output: str | Path,
    categories: Collection[str],
    *,
    images: str | Path | None = None,
    method: str = "pixelate",
    shape: str = "box",
    grow: float = 0.1,
    progress: bool = False,
) -> Anonymised:
    """Write copies of all images of a COCO file, with some categories hidden, into a new folder.

    Args:
        path: COCO file.
        output: new folder; appears whole or not at all.
        categories: names of those to hide.
        images: image root; None: where the file says.
        method: "pixelate" or "blur".
        shape: "box" hides all of it; "mask" only the mask's pixels, of objects that have one.
        grow: regions are enlarged on each side by this share of the box's width and height.
        progress: show a progress bar if there is a terminal.

    Raises:
        InputError: a category is not there, the folder is, an image cannot be read, or an object
            to hide has no place.
    """
    path, output = Path(path), Path(output)
    if not 0 <= grow <= 10:
        raise InputError(f"--grow {grow:g}: it is a share of the box, from 0 to 10.")
    dataset = load_coco(path)
    names = [category.name for category in dataset.categories]
    unknown = sorted(set(categories) - set(names))
    if unknown:
        raise InputError(
            f"There is no category {', '.join(map(repr, unknown))}. There are: {', '.join(names)}."
        )
    root = find_images(path, dataset.info, Path(images) if images else None)
    # An image may be in the file twice: what either entry says is hidden.
    hidden: dict[str, list[Annotation]] = defaultdict(list)
    for image in dataset.images:
        hidden[image.file_name] += [a for a in image.annotations if a.category in categories]
    sizes = {image.file_name: (image.width, image.height) for image in dataset.images}
    step = {"command": "anonymise", "categories": sorted(categories), "method": method}
    step |= {"shape": shape, "grow": grow}
    info = derived_info(dataset.info, step, output / "images", output / path.name)
    links = sum(key in image.attributes for image in dataset.images for key in LINKS)
    with new_folder(output) as folder:
        for name in track(list(sizes), len(sizes), "images", progress):
            source, target = inside(root, name), folder / "images" / name
            picture = _plain(read_picture(source, sizes[name]))
            for annotation in hidden[name]:
                hide(picture, region_of(annotation, picture.size, shape, grow), method)
            _save(picture, source, target)
        write_coco(
            folder / path.name,
            map(_without_links, dataset.images),
            dataset.categories,
            info,
            dataset.licenses,
            keep_ids=True,
        )
    counts = Counter(a.category for found in hidden.values() for a in found)
    return Anonymised(
        output,
        images=len(sizes),
        images_changed=sum(map(bool, hidden.values())),
        hidden={name: counts[name] for name in names if name in categories},
        links=links,
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    add = parser.add_argument
    add("json", type=Path, metavar="JSON", help="COCO file")
    add("-o", "--output", type=Path, required=True, metavar="DIR", help="new folder")
    add("--categories", nargs="+", required=True, metavar="NAME", help="what to hide")
    add("--images", type=Path, metavar="DIR", help="image root")
    add("--method", choices=("pixelate", "blur"), default="pixelate",
        help="how to draw what is left (default: %(default)s)")  # fmt: skip
    add("--shape", choices=("box", "mask"), default="box",
        help="hide whole boxes, or masks where there are any (default: %(default)s)")  # fmt: skip
    add("--grow", type=float, default=0.1, metavar="SHARE",
        help="enlarge each side by this share of the box (default: %(default)s)")  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Hide, and print what was hidden."""
    done = anonymise_dataset(
        args.json,
        args.output,
        args.categories,
        images=args.images,
        method=args.method,
        shape=args.shape,
        grow=args.grow,
        progress=True,
    )
    for name, count in done.hidden.items():
        print(f"hidden: {count:,} × {name}")
    print(f"in {done.images_changed:,} of {done.images:,} images; metadata left out of all")
    if done.links:
        print(f"left out: {done.links:,} links to originals and dates of taking")
    print(f"written: {done.folder / args.json.name}\nimage root: {done.folder / 'images'}")
    return 0


@dataclass
class Region:
    """Part of an image: whole px, right and bottom exclusive; `mask` says which of its pixels."""

    box: tuple[int, int, int, int]
    mask: np.ndarray | None = None  # bool (H, W) of the box; None: all


def region_of(
    annotation: Annotation, size: tuple[int, int], shape: str = "box", grow: float = 0.0
) -> Region | None:
    """What is to be hidden of an object in an image of `size`; None if it is outside.

    InputError if the object has no box with an area.
    """
    x0, y0, x1, y1 = annotation_box(annotation) or (math.nan,) * 4
    if not (x1 > x0 and y1 > y0 and math.isfinite(x1 - x0) and math.isfinite(y1 - y0)):
        raise InputError(
            f"{annotation.source}: this {annotation.category} has no box with an area, so it cannot"
            " be hidden. Run check, and mend or remove it."
        )
    dx, dy = grow * (x1 - x0), grow * (y1 - y0)
    left, top = max(0, math.floor(x0 - dx)), max(0, math.floor(y0 - dy))
    right, bottom = min(size[0], math.ceil(x1 + dx)), min(size[1], math.ceil(y1 + dy))
    if left >= right or top >= bottom:
        return None
    box = (left, top, right, bottom)
    mask = _mask(annotation, size) if shape == "mask" else None
    if mask is None:
        return Region(box)
    return Region(box, _grown(mask, dx, dy)[top:bottom, left:right])


def hide(picture: PillowImage.Image, region: Region | None, method: str) -> None:
    """Average a region of a picture away, in place."""
    import numpy as np
    from PIL import Image as Pillow

    if region is None:
        return
    before = np.asarray(picture.crop(region.box))
    after = _averaged(before, smooth=method == "blur")
    if region.mask is not None:
        mask = region.mask.reshape(*region.mask.shape, *[1] * (before.ndim - 2))
        after = np.where(mask, after, before)
    size = (before.shape[1], before.shape[0])
    picture.paste(Pillow.frombytes(picture.mode, size, after.tobytes()), region.box)


def _averaged(pixels: np.ndarray, smooth: bool) -> np.ndarray:
    """Means of some blocks, as blocks or with a gradient from centre to centre; the same shape and
    type."""
    import numpy as np

    longer = max(pixels.shape[:2])
    blocks = min(BLOCKS, max(1, longer // 4))
    result = pixels.astype(np.float64)
    for axis in (0, 1):
        length = pixels.shape[axis]
        count = max(1, round(blocks * length / longer))
        edges = np.linspace(0, length, count + 1).round().astype(int)
        sizes = np.diff(edges)
        sums = np.add.reduceat(np.moveaxis(result, axis, 0), edges[:-1])
        means = sums / sizes.reshape(-1, *[1] * (pixels.ndim - 1))
        if smooth and count > 1:
            # Where a pixel's centre lies among the centres of the blocks.
            places = np.interp(np.arange(length) + 0.5, (edges[:-1] + edges[1:]) / 2, range(count))
            first = np.minimum(places.astype(int), count - 2)
            share = (places - first).reshape(-1, *[1] * (pixels.ndim - 1))
            spread = means[first] * (1 - share) + means[first + 1] * share
        else:
            spread = np.repeat(means, sizes, axis=0)
        result = np.moveaxis(spread, 0, axis)
    if np.issubdtype(pixels.dtype, np.integer):
        result = result.round()
    return np.ascontiguousarray(result.astype(pixels.dtype))


def _mask(annotation: Annotation, size: tuple[int, int]) -> np.ndarray | None:
    """The object's mask, bool (H, W); None if it has none that is good for something."""
    from pycocotools import mask as coco_mask

    width, height = size
    segmentation = annotation.segmentation
    if isinstance(segmentation, list):
        polygons = [list(polygon) for polygon in segmentation if len(polygon) >= 6]
        if not polygons:
            return None
        rle = coco_mask.merge(coco_mask.frPyObjects(polygons, height, width))
        mask = coco_mask.decode(rle)
    elif segmentation is not None and tuple(segmentation["size"]) == (height, width):
        mask = decode_mask(segmentation)
    else:
        return None
    return mask.astype(bool) if mask.any() else None


def _grown(mask: np.ndarray, dx: float, dy: float) -> np.ndarray:
    """The mask with an ellipse of these half axes around each of its pixels."""
    import cv2
    import numpy as np

    kernel = cv2.getStructuringElement(
        cv2.MORPH_ELLIPSE, (2 * math.ceil(dx) + 1, 2 * math.ceil(dy) + 1)
    )
    return cv2.dilate(mask.astype(np.uint8), kernel).astype(bool)


def _plain(picture: PillowImage.Image) -> PillowImage.Image:
    """Without a palette and without all that a file says besides its pixels and colour space."""
    if picture.mode in ("P", "PA"):
        transparent = picture.mode == "PA" or "transparency" in picture.info
        picture = picture.convert("RGBA" if transparent else "RGB")
    elif picture.mode == "1":
        picture = picture.convert("L")
    profile = picture.info.get("icc_profile")
    picture.info = {"icc_profile": profile} if profile else {}
    return picture


def _save(picture: PillowImage.Image, source: Path, target: Path) -> None:
    """In the format of the source's file, as alike as can be."""
    from PIL import Image as Pillow
    from PIL.JpegImagePlugin import get_sampling

    with Pillow.open(source) as file:
        kind, options = file.format, dict(picture.info)
        if kind in ("JPEG", "MPO"):
            kind = "JPEG"
            options["qtables"] = file.quantization
            if (sampling := get_sampling(file)) >= 0:
                options["subsampling"] = sampling
        elif kind == "WEBP":
            options["lossless"] = True
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        picture.save(target, kind, **options)
    except (OSError, KeyError, ValueError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise InputError(
            f"{source}: a picture of {picture.mode} cannot be stored as {kind}: {error}. "
            "Convert it to PNG first."
        ) from error


def _without_links(image: Image) -> Image:
    kept = {key: value for key, value in image.attributes.items() if key not in LINKS}
    return replace(image, attributes=kept)
