"""Masks in COCO's forms: run-length encoding (RLE) and polygons.

An RLE is `{"size": [height, width], "counts": str}`: the lengths of the runs of 0s and 1s in turn,
read column by column, beginning with 0s, packed into ASCII text as pycocotools does it.
numpy, OpenCV and pycocotools are imported when first needed: they take longer than our whole
start-up.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from operator import mul, sub
from typing import TYPE_CHECKING

from dataset_tools.images import check_pixels

if TYPE_CHECKING:
    import numpy as np

Box = tuple[float, float, float, float]


def encode_mask(mask: np.ndarray) -> dict:
    """RLE of a boolean or integer HW array; every value but 0 belongs to the mask."""
    import numpy as np
    from pycocotools import mask as coco_mask

    rle = coco_mask.encode(np.asfortranarray(mask != 0, dtype=np.uint8))
    return {"size": [int(side) for side in rle["size"]], "counts": rle["counts"].decode("ascii")}


def encode_values(values: np.ndarray) -> Iterator[tuple[int, dict]]:
    """Each value of an HW array of whole numbers with the RLE of where it is, in their order: in
    one pass over the array, however many values there are."""
    import numpy as np
    from pycocotools import mask as coco_mask

    height, width = values.shape
    flat = values.T.ravel()
    starts = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1])
    ends = np.append(starts[1:], flat.size)
    of_runs = flat[starts]
    order = np.argsort(of_runs, kind="stable")
    ordered = of_runs[order]
    for runs in np.split(order, np.flatnonzero(ordered[1:] != ordered[:-1]) + 1):
        edges = np.stack([starts[runs], ends[runs]], axis=1).ravel()
        counts = np.diff(edges, prepend=0).tolist()
        if edges[-1] < flat.size:
            counts.append(flat.size - int(edges[-1]))
        plain = {"size": [height, width], "counts": counts}
        rle = coco_mask.frPyObjects(plain, height, width)
        code = {"size": [height, width], "counts": rle["counts"].decode("ascii")}
        yield int(of_runs[runs[0]]), code


def encode_patch(
    patch: np.ndarray, left: int, top: int, width: int, height: int, place: str
) -> tuple[dict, bool]:
    """RLE of an image of `width` × `height` in which a boolean HW patch is at (left, top), and
    whether pixels of it are beyond the image and cut off. InputError if no image is so large."""
    import numpy as np

    check_pixels(width, height, place)
    columns = np.zeros((max(0, min(left + patch.shape[1], width) - max(left, 0)), height), bool)
    inside = patch[max(0, -top) : max(0, height - top), max(0, -left) : max(0, width - left)]
    columns[:, max(top, 0) : max(top, 0) + inside.shape[0]] = inside.T
    ends = np.flatnonzero(np.diff(columns.ravel(), prepend=False, append=False))
    runs = np.diff(ends + max(left, 0) * height, prepend=0).tolist()
    if (rest := width * height - sum(runs)) or not runs:
        runs.append(rest)
    return compress_runs(runs, height, width), int(inside.sum()) < int(patch.sum())


def decode_mask(rle: dict) -> np.ndarray:
    """The uint8 HW array (0 and 1) of an RLE."""
    from pycocotools import mask as coco_mask

    return coco_mask.decode({"size": rle["size"], "counts": rle["counts"].encode("ascii")})


def polygons_mask(polygons: Sequence[Sequence[float]], width: int, height: int) -> np.ndarray:
    """The uint8 HW array (0 and 1) of the pixels of polygons, drawn as COCO draws them."""
    import numpy as np
    from pycocotools import mask as coco_mask

    check_pixels(width, height, "polygons")
    drawn = [list(polygon) for polygon in polygons if len(polygon) >= 6]
    if not drawn:
        return np.zeros((height, width), np.uint8)
    return coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(drawn, height, width)))


def compress_runs(runs: Sequence[int], height: int, width: int) -> dict:
    """RLE of plain run lengths (COCO's uncompressed form). ValueError if they do not fill the
    image."""
    from pycocotools import mask as coco_mask

    if any(not isinstance(run, int) or run < 0 for run in runs) or sum(runs) != height * width:
        raise ValueError(f"the runs do not add up to the {width}×{height} pixels of the mask")
    rle = coco_mask.frPyObjects({"size": [height, width], "counts": list(runs)}, height, width)
    return {"size": [height, width], "counts": rle["counts"].decode("ascii")}


def run_lengths(counts: str) -> list[int]:
    """The run lengths packed in an RLE's text. ValueError if the text is not such.

    Five bits a character, the lowest first, bit 5 says that more follow, bit 4 of the last is the
    sign; from the third run on the difference to the run two before is stored.
    """
    runs: list[int] = []
    value = shift = 0
    for character in counts:
        bits = ord(character) - 48
        if not 0 <= bits < 64:
            raise ValueError(f"{character!r} is no character of an RLE")
        value |= (bits & 0x1F) << shift
        shift += 5
        if bits & 0x20:
            continue
        if bits & 0x10:
            value -= 1 << shift
        if len(runs) > 2:
            value += runs[-2]
        if value < 0:
            raise ValueError("a run has a negative length")
        runs.append(value)
        value = shift = 0
    if shift:
        raise ValueError("the text ends in the middle of a run")
    return runs


def check_rle(rle: dict) -> None:
    """ValueError if the size and the runs of an RLE do not fit together."""
    height, width = rle["size"]
    if sum(run_lengths(rle["counts"])) != height * width:
        raise ValueError(f"the runs do not add up to the {width}×{height} pixels of the mask")


def rle_area(rle: dict) -> int:
    """Number of pixels in the mask."""
    return sum(run_lengths(rle["counts"])[1::2])


def rle_box(rle: dict) -> Box | None:
    """Tight XYXY box around the mask's pixels (right and bottom edges exclusive); None if empty."""
    height = rle["size"][0]
    start = 0
    left = top = right = bottom = None
    for index, run in enumerate(run_lengths(rle["counts"])):
        if index % 2 and run:
            end = start + run - 1
            first, last = start // height, end // height
            # A run that goes on into the next column touches both the bottom and the top row.
            highest, lowest = (0, height) if first != last else (start % height, end % height + 1)
            left = first if left is None else left
            right = last + 1
            top = highest if top is None else min(top, highest)
            bottom = lowest if bottom is None else max(bottom, lowest)
        start += run
    if left is None:
        return None
    return (float(left), float(top), float(right), float(bottom))


def polygons_area(polygons: Sequence[Sequence[float]]) -> float:
    """Sum of the polygons' areas (shoelace formula), as in COCO's own annotation files."""
    return sum(map(abs, map(_signed_area, polygons)))


def polygons_box(polygons: Sequence[Sequence[float]]) -> Box | None:
    """Tight XYXY box around the corners; None if there are none."""
    if len(polygons) == 1:
        xs, ys = polygons[0][0::2], polygons[0][1::2]
    else:
        xs = [x for polygon in polygons for x in polygon[0::2]]
        ys = [y for polygon in polygons for y in polygon[1::2]]
    if not xs or not ys:
        return None
    return (float(min(xs)), float(min(ys)), float(max(xs)), float(max(ys)))


def _signed_area(polygon: Sequence[float]) -> float:
    xs, ys = polygon[0::2], polygon[1::2]
    # An odd number of coordinates is for `check` to find, not for us to fall over: map stops with
    # the shorter one.
    following, before = [*ys[1:], *ys[:1]], [*ys[-1:], *ys[:-1]]
    return sum(map(mul, xs, map(sub, following, before))) / 2


def mask_to_polygons(mask: np.ndarray) -> list[list[float]] | None:
    """Polygons along the pixels' edges that cover exactly the mask's pixels; None if it has a hole.

    One polygon for each group of pixels that share edges (not just corners).
    """
    rings = mask_rings(mask)
    return rings if all(_signed_area(ring) > 0 for ring in rings) else None


def mask_rings(mask: np.ndarray) -> list[list[float]]:
    """As `mask_to_polygons`, with the edges of holes too; those run the other way round."""
    import numpy as np

    padded = np.pad(mask != 0, 1)
    # Edges run clockwise around pixels: the mask is always to the right of the way.
    following: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for before, after, offsets in (
        (padded[:-1, :], padded[1:, :], ((0, 0), (1, 0))),  # top edges: to the right
        (padded[1:, :], padded[:-1, :], ((1, 0), (0, 0))),  # bottom edges: to the left
        (padded[:, 1:], padded[:, :-1], ((0, 0), (0, 1))),  # right edges: down
        (padded[:, :-1], padded[:, 1:], ((0, 1), (0, 0))),  # left edges: up
    ):
        rows, columns = np.nonzero(~before & after)
        horizontal = before.shape[1] == padded.shape[1]
        x0, y0 = (columns - 1, rows) if horizontal else (columns, rows - 1)
        for x, y in zip(x0.tolist(), y0.tolist(), strict=True):
            start, end = ((x + dx, y + dy) for dx, dy in offsets)
            following.setdefault(start, []).append(end)
    rings = []
    while following:
        rings.append(_trace(following))
    return rings


def join_rings(rings: Sequence[Sequence[float]]) -> list[float]:
    """One polygon of several, and of their holes: joined by lines without width, which are gone
    along forth and back, from each ring to the nearest corner of those before it."""
    import numpy as np

    joined = np.array(rings[0], float).reshape(-1, 2)
    for ring in rings[1:]:
        corners = np.array(ring, float).reshape(-1, 2)
        distances = ((joined[:, None] - corners[None]) ** 2).sum(axis=2)
        here, there = np.unravel_index(distances.argmin(), distances.shape)
        around = np.roll(corners, -there, axis=0)
        joined = np.concatenate(
            [joined[: here + 1], around, around[:1], joined[here : here + 1], joined[here + 1 :]]
        )
    return joined.ravel().tolist()


def _trace(following: dict[tuple[int, int], list[tuple[int, int]]]) -> list[float]:
    """Take one closed way out of the edges `following`; corners only, in its order."""
    start = here = next(iter(following))
    direction = (0, 0)
    polygon: list[float] = []
    while True:
        ends = following[here]
        # Where two ways cross, turning right stays with the pixel that the way goes around.
        right = (here[0] - direction[1], here[1] + direction[0])
        there = right if right in ends else ends[0]
        ends.remove(there)
        if not ends:
            del following[here]
        turned = (there[0] - here[0], there[1] - here[1])
        if turned != direction:
            polygon += here
            direction = turned
        here = there
        if here == start:
            return polygon
