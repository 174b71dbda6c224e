"""Draw objects on images so that they can be read: one box or thousands, 16 px or 16,000 px.

Every function takes an image of any depth in RGB order (H, W[, C]) and gives a new uint8 RGB (H,
W, 3). Line widths follow the image's and the box's size, labels are dropped where they would hide
more than they tell, and tiny images are enlarged by a whole factor.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from seriatim.visualization import palette
from seriatim.visualization.image import enlargement, resize, to_rgb8
from seriatim.visualization.items import Item, to_items
from seriatim.visualization.match import Matches, Outcome, match_items
from seriatim.visualization.palette import RGB
from seriatim.visualization.sheet import Legend, captioned
from seriatim.visualization.text import put_text, text_mask

_SHIFT = 4  # OpenCV's fixed-point bits: lines are placed to 1/16 px
_MASK_ALPHA = 0.38
_SHADOW = 0.55  # a line's edge keeps this share of the light under it
_KEYPOINT_THRESHOLD = 0.05


@dataclass(slots=True)
class Style:
    """How one item is drawn."""

    color: RGB
    label: str = ""
    weight: float = 1.0  # of its lines, relative to the others'
    dashed: bool = False


def draw_instances(
    image: np.ndarray,
    instances: Any,
    metadata: Any = None,
    *,
    threshold: float = 0.0,
    scale: float | None = None,
    labels: bool = True,
) -> np.ndarray:
    """`image` with boxes (rotated ones too), masks, keypoints and labels.

    Args:
        image: (H, W[, C]) in RGB order, of any number type.
        instances: ground truth as Detectron2 annotations, or `Instances` of training (gt_*) or of
            predictions (pred_*), or a list of `Item`; coordinates in pixels of `image`.
        metadata: anything with `thing_classes`, and if there are any `thing_colors`,
            `keypoint_names`, `keypoint_connection_rules`, as Detectron2's MetadataCatalog gives it.
        threshold: detections below this score are not drawn.
        scale: size of the output relative to `image`; None enlarges tiny images only.
        labels: False leaves all text out.

    Returns:
        uint8 RGB (round(H·scale), round(W·scale), 3).
    """
    items = to_items(instances, threshold)
    styles = category_styles(items, metadata, labels)
    return draw_items(image, items, styles, metadata, scale=scale)


def draw_ground_truth(
    image: np.ndarray, annotations: Any, metadata: Any = None, *, scale: float | None = None
) -> np.ndarray:
    """`draw_instances` for what a dataset says: annotations or training `Instances`."""
    return draw_instances(image, annotations, metadata, scale=scale)


def draw_predictions(
    image: np.ndarray,
    predictions: Any,
    metadata: Any = None,
    *,
    threshold: float = 0.3,
    scale: float | None = None,
) -> np.ndarray:
    """`draw_instances` for what a model says: a model's output dict or its `Instances`.

    A dict may hold `instances`, `panoptic_seg` and `sem_seg`, as Detectron2's models give them; the
    richest of what is there is drawn.
    """
    if not isinstance(predictions, Mapping):
        return draw_instances(image, predictions, metadata, threshold=threshold, scale=scale)
    if "panoptic_seg" in predictions:
        return draw_panoptic(image, *predictions["panoptic_seg"], metadata, scale=scale)
    if "sem_seg" in predictions:
        classes = predictions["sem_seg"].argmax(0)
        image = draw_semantic(image, classes, metadata, scale=scale)
        scale = 1.0 if "instances" not in predictions else image.shape[0] / classes.shape[0]
    return draw_instances(
        image, predictions.get("instances"), metadata, threshold=threshold, scale=scale
    )


def category_names(metadata: Any, count: int) -> list[str]:
    """`count` names or more: those of `metadata.thing_classes`, numbers where it has none."""
    names = list(getattr(metadata, "thing_classes", None) or ())
    return names + [str(i) for i in range(len(names), count)]


def legend(items: Sequence[Item], metadata: Any = None) -> Legend:
    """How often each category occurs among `items`, in category order; crowds are counted apart."""
    counts = Counter(item.category for item in items if not item.crowd)
    size = max(counts, default=-1) + 1
    names, colors = category_names(metadata, size), palette.category_colors(metadata, size)
    by_instance = _colored_by_instance(items, names)
    words = [
        (f"{names[i]} ×{counts[i]}", None if by_instance else colors[i]) for i in sorted(counts)
    ]
    crowds = sum(item.crowd for item in items)
    return [*words, *([(f"crowd ×{crowds}", None)] if crowds else [])]


def category_styles(items: Sequence[Item], metadata: Any, labels: bool = True) -> list[Style]:
    """Colour by category; by instance where masks of one category only would flow together."""
    count = max((item.category for item in items), default=-1) + 1
    names, colors = category_names(metadata, count), palette.category_colors(metadata, count)
    single = len(names) <= 1
    by_instance = _colored_by_instance(items, names)
    styles = []
    for number, item in enumerate(items):
        words = [] if single or not labels else [names[item.category]]
        if labels and item.score is not None:
            words.append(f"{100 * item.score:.0f}")
        if labels and item.crowd:
            words.append("crowd")
        color = palette.color(number) if by_instance else colors[item.category]
        styles.append(Style(color, " ".join(words), dashed=item.crowd))
    return styles


def _colored_by_instance(items: Sequence[Item], names: Sequence[str]) -> bool:
    return len(names) <= 1 and any(item.mask is not None or item.polygons for item in items)


def draw_items(
    image: np.ndarray,
    items: Sequence[Item],
    styles: Sequence[Style],
    metadata: Any = None,
    *,
    scale: float | None = None,
) -> np.ndarray:
    """`image` with each item in its own style; the other functions of this module end here."""
    canvas, scale = _canvas(image, scale)
    pairs = sorted(zip(items, styles, strict=True), key=lambda pair: -_area(pair[0]))
    unit = _line_width(canvas.shape, items, scale)
    outlines = []
    for item, style in pairs:
        outlines += _fill(canvas, item, style, scale)
    if not outlines:  # contours tell where things are: boxes would only get in their way
        outlines = [
            _box_outline(item, style, scale) for item, style in pairs if item.box is not None
        ]
    _stroke(canvas, outlines, unit)
    for item, style in pairs:
        _draw_keypoints(canvas, item, style, metadata, scale, unit)
    _draw_labels(canvas, pairs, scale, unit)
    return canvas


@dataclass(slots=True)
class _Outline:
    points: np.ndarray  # (P, 2) px of the canvas, closed
    color: RGB
    width: float  # relative to the picture's unit
    dashed: bool
    upright: bool = False  # an axis-aligned box, drawn crisp on whole pixels
    top: bool = False  # its first edge is marked: a rotated box has an up


def _canvas(image: np.ndarray, scale: float | None) -> tuple[np.ndarray, float]:
    image = to_rgb8(image)
    if scale is None:
        scale = enlargement(*image.shape[:2])
    return resize(image, scale), scale


def _area(item: Item) -> float:
    bounds = item.bounds()
    return 0.0 if bounds is None else float((bounds[2] - bounds[0]) * (bounds[3] - bounds[1]))


def _line_width(shape: tuple[int, ...], items: Sequence[Item], scale: float) -> float:
    """Width of a line in px: by the picture's size, less where most objects are small."""
    width = 0.075 * float(shape[0] * shape[1]) ** 0.25
    sides = [np.sqrt(_area(item)) * scale for item in items]
    return max(1.0, min(width, float(np.median(sides)) / 18) if sides else width)


def _box_outline(item: Item, style: Style, scale: float) -> _Outline:
    corners = item.corners() * scale
    sides = np.linalg.norm(corners[1] - corners[0]), np.linalg.norm(corners[2] - corners[1])
    # A thick line would fill a small box.
    width = style.weight * min(1.0, max(0.2, min(sides) / 15))
    return _Outline(corners, style.color, width, style.dashed, not item.rotated, item.rotated)


def _fill(canvas: np.ndarray, item: Item, style: Style, scale: float) -> list[_Outline]:
    """Blend the item's mask into `canvas`; returns its contours."""
    if item.polygons:
        contours = [polygon * scale for polygon in item.polygons if len(polygon) >= 2]
        if not contours:
            return []
        points = np.concatenate(contours)
        left, top = np.floor(points.min(0)).astype(int) - 1
        right, bottom = np.ceil(points.max(0)).astype(int) + 2
        mask = np.zeros((max(1, bottom - top), max(1, right - left)), np.uint8)
        fixed = [_fixed(contour - (left, top)) for contour in contours]
        cv2.fillPoly(mask, fixed, 1, lineType=cv2.LINE_8, shift=_SHIFT)
        if item.crowd:
            mask *= _hatch(mask.shape, left, top)
        _blend(canvas, mask.astype(bool), left, top, style.color)
    elif item.mask is not None:
        contours = _fill_bitmask(canvas, item, style, scale)
    else:
        return []
    return [_Outline(c, style.color, 0.6 * style.weight, style.dashed) for c in contours]


def _fill_bitmask(canvas: np.ndarray, item: Item, style: Style, scale: float) -> list[np.ndarray]:
    bitmap = item.bitmap()
    rows, columns = bitmap.any(1).nonzero()[0], bitmap.any(0).nonzero()[0]
    if len(rows) == 0:
        return []
    top, left = rows[0], columns[0]
    part = bitmap[top : rows[-1] + 1, left : columns[-1] + 1].astype(np.uint8)
    x0, y0 = round(left * scale), round(top * scale)
    size = (
        max(1, round((left + part.shape[1]) * scale) - x0),
        max(1, round((top + part.shape[0]) * scale) - y0),
    )
    part = cv2.resize(part, size, interpolation=cv2.INTER_NEAREST)
    # A border of nothing, so that the contour follows the mask to its very edge.
    contours, _ = cv2.findContours(
        cv2.copyMakeBorder(part, 1, 1, 1, 1, cv2.BORDER_CONSTANT),
        cv2.RETR_CCOMP,
        cv2.CHAIN_APPROX_NONE,
    )
    if item.crowd:
        part = part * _hatch(part.shape, x0, y0)
    _blend(canvas, part.astype(bool), x0, y0, style.color)
    return [contour[:, 0].astype(float) - 1 + (x0 + 0.5, y0 + 0.5) for contour in contours]


def _hatch(shape: tuple[int, ...], left: int, top: int) -> np.ndarray:
    """Diagonal stripes, which mark a crowd."""
    rows, columns = np.ogrid[top : top + shape[0], left : left + shape[1]]
    return ((rows + columns) // 4 % 2).astype(np.uint8)


def _blend(
    canvas: np.ndarray,
    mask: np.ndarray,
    left: int,
    top: int,
    color: RGB,
    alpha: float = _MASK_ALPHA,
) -> None:
    """Mix `color` into `canvas` where `mask`, which starts at (left, top), maybe outside."""
    height, width = canvas.shape[:2]
    y0, x0 = max(0, top), max(0, left)
    y1, x1 = min(height, top + mask.shape[0]), min(width, left + mask.shape[1])
    if y0 >= y1 or x0 >= x1:
        return
    view = canvas[y0:y1, x0:x1]
    inside = mask[y0 - top : y1 - top, x0 - left : x1 - left]
    view[inside] = np.rint((1 - alpha) * view[inside] + alpha * np.asarray(color))


def _fixed(points: np.ndarray) -> np.ndarray:
    """Continuous coordinates as OpenCV's fixed-point ones, in which a pixel's centre is whole."""
    return np.rint((points - 0.5) * (1 << _SHIFT)).clip(-(2**30), 2**30).astype(np.int32)


def _stroke(canvas: np.ndarray, outlines: Sequence[_Outline], unit: float) -> None:
    """Draw lines over a soft shadow of their own, which keeps them visible on any ground."""
    shadow = np.zeros(canvas.shape[:2], np.uint8)
    widths = [max(1, round(outline.width * unit)) for outline in outlines]
    for outline, width in zip(outlines, widths, strict=True):
        if width > 1:
            _lines(shadow, outline, 255, width, grow=1)
    dark = shadow > 0
    canvas[dark] = (canvas[dark] * _SHADOW).astype(np.uint8)
    for outline, width in zip(outlines, widths, strict=True):
        _lines(canvas, outline, outline.color, width)


def _lines(canvas: np.ndarray, outline: _Outline, color: Any, width: int, grow: int = 0) -> None:
    """The outline in `color`, `width` px wide, and `grow` px more on either side."""
    if outline.upright and not outline.dashed:
        _frame(canvas, outline.points, color, width, grow)
        return
    width += 2 * grow
    points = outline.points
    if outline.dashed:
        dashes = [_fixed(dash) for dash in _dashes(points, 3.0 * width + 4)]
        cv2.polylines(canvas, dashes, False, color, width, cv2.LINE_AA, _SHIFT)
        return
    cv2.polylines(canvas, [_fixed(points)], True, color, width, cv2.LINE_AA, _SHIFT)
    if outline.top:
        top = [_fixed(points[:2])]
        cv2.polylines(canvas, top, False, color, width + max(1, width // 2), cv2.LINE_AA, _SHIFT)


def _frame(canvas: np.ndarray, corners: np.ndarray, color: Any, width: int, grow: int) -> None:
    """A box on whole pixels with its line inside: sharp, and boxes that touch stay apart."""
    height, length = canvas.shape[:2]
    left, top = np.rint(corners[0]).astype(int) - grow
    right, bottom = np.rint(corners[2]).astype(int) + grow
    right, bottom = max(right, left + 1), max(bottom, top + 1)
    width += 2 * grow
    for y0, y1, x0, x1 in (
        (top, min(top + width, bottom), left, right),
        (max(bottom - width, top), bottom, left, right),
        (top, bottom, left, min(left + width, right)),
        (top, bottom, max(right - width, left), right),
    ):
        y0, y1 = np.clip((y0, y1), 0, height)
        x0, x1 = np.clip((x0, x1), 0, length)
        canvas[y0:y1, x0:x1] = color


def _dashes(points: np.ndarray, length: float) -> list[np.ndarray]:
    """Every other piece of the closed line through `points`, each at most `length` px long."""
    dashes = []
    for start, end in zip(points, np.roll(points, -1, axis=0), strict=True):
        pieces = max(1, round(float(np.linalg.norm(end - start)) / length))
        cuts = np.linspace(start, end, pieces + 1)
        dashes += [cuts[i : i + 2] for i in range(0, pieces, 2)]
    return dashes


def _draw_keypoints(
    canvas: np.ndarray, item: Item, style: Style, metadata: Any, scale: float, unit: float
) -> None:
    if item.keypoints is None:
        return
    xy, seen = item.keypoints[:, :2] * scale, item.keypoints[:, 2] > _KEYPOINT_THRESHOLD
    bounds = item.bounds()
    size = 1.0 if bounds is None else float(max(bounds[2:] - bounds[:2])) * scale
    radius = float(np.clip(size / 45, 1.5, 2.2 * unit + 1))
    width = max(1, round(radius * 0.7))
    names = list(getattr(metadata, "keypoint_names", None) or ())
    for first, second, color in getattr(metadata, "keypoint_connection_rules", None) or ():
        a, b = names.index(first), names.index(second)
        if seen[a] and seen[b]:
            line = [_fixed(xy[[a, b]])]
            cv2.polylines(canvas, line, False, (0, 0, 0), width + 2, cv2.LINE_AA, _SHIFT)
            cv2.polylines(canvas, line, False, tuple(color), width, cv2.LINE_AA, _SHIFT)
    for point, visibility in zip(xy[seen], item.keypoints[seen, 2], strict=True):
        hidden = item.score is None and visibility == 1
        center = tuple(int(v) for v in _fixed(point))
        fixed = 1 << _SHIFT
        cv2.circle(canvas, center, round((radius + 1) * fixed), (0, 0, 0), -1, cv2.LINE_AA, _SHIFT)
        cv2.circle(canvas, center, round(radius * fixed), (255, 255, 255), -1, cv2.LINE_AA, _SHIFT)
        if not hidden:  # labelled but not visible: an empty circle
            inner = round(max(1.0, radius * 0.72) * fixed)
            cv2.circle(canvas, center, inner, style.color, -1, cv2.LINE_AA, _SHIFT)


def _draw_labels(
    canvas: np.ndarray, pairs: Sequence[tuple[Item, Style]], scale: float, unit: float
) -> None:
    """Labels, large objects first; what finds no free place, or dwarfs its object, is left out."""
    height, width = canvas.shape[:2]
    largest = int(np.clip(round(0.55 * float(height * width) ** 0.25), 10, 40))
    taken = np.zeros((height, width), bool)
    for item, style in pairs:
        bounds = item.bounds()
        if not style.label or bounds is None:
            continue
        left, top, right, bottom = (int(v) for v in np.rint(bounds * scale))
        size = int(np.clip((bottom - top) // 4, 10, largest))
        text = text_mask(style.label, size)
        h, w = text.shape[0], text.shape[1] + size // 2
        if w > 1.6 * (right - left) or h > 0.45 * (bottom - top):
            continue
        places = [(left, y) for y in (top - h, bottom, top, bottom - h)]
        if item.box is None and item.mask is not None:
            x, y = _deepest(item.bitmap()) * scale
            places = [(int(x) - w // 2, int(y) - h // 2)]
        for x, y in places:
            x = int(np.clip(x, 0, max(0, width - w)))
            if y >= 0 and y + h <= height and not taken[y : y + h, x : x + w].any():
                taken[y : y + h, x : x + w] = True
                _put_label(canvas, style, x, y, w, h, size)
                break


def _deepest(mask: np.ndarray) -> np.ndarray:
    """(x, y) of the point inside `mask` that is farthest from its edge."""
    step = max(1, max(mask.shape) // 256)
    inside = np.pad(mask[::step, ::step].astype(np.uint8), 1)
    depth = cv2.distanceTransform(inside, cv2.DIST_L2, 3)[1:-1, 1:-1]
    y, x = np.unravel_index(depth.argmax(), depth.shape)
    return np.array([x, y]) * step + 0.5


def _put_label(canvas: np.ndarray, style: Style, x: int, y: int, w: int, h: int, size: int) -> None:
    plate = np.ones((h, w), bool)
    _blend(canvas, plate, x, y, style.color, alpha=0.88)
    put_text(canvas, style.label, x + size // 4, y, size, palette.readable_on(style.color))


_OUTCOMES = {
    Outcome.HIT: palette.HIT,
    Outcome.MISS: palette.MISS,
    Outcome.FALSE_ALARM: palette.FALSE_ALARM,
    Outcome.WRONG_CLASS: palette.WRONG_CLASS,
    Outcome.IGNORED: palette.IGNORED,
}


def draw_comparison(
    image: np.ndarray,
    truth: Any,
    predictions: Any,
    metadata: Any = None,
    *,
    threshold: float = 0.5,
    iou: float = 0.5,
    scale: float | None = None,
    caption: bool = True,
) -> np.ndarray:
    """Ground truth on the left, predictions on the right, coloured by what became of each.

    Args:
        truth, predictions: as `draw_instances` takes them.
        threshold: predictions below this score are left out, before matching.
        iou: an object is found when its IoU with a prediction is at least this.
        caption: False leaves out the bar below that says what the colours mean.

    Returns:
        uint8 RGB (H', W', 3).
    """
    truth, found = to_items(truth), to_items(predictions, threshold)
    matches = match_items(truth, found, iou, np.asarray(image).shape[:2])
    picture = draw_matches(image, truth, found, matches, metadata, scale=scale)
    if not caption:
        return picture
    title = f"ground truth | prediction ≥ {threshold:.2f}"
    return captioned(picture, title, comparison_legend(matches))


def draw_matches(
    image: np.ndarray,
    truth: Sequence[Item],
    found: Sequence[Item],
    matches: Matches,
    metadata: Any = None,
    *,
    scale: float | None = None,
) -> np.ndarray:
    """The two pictures of `draw_comparison`, for items that are matched already."""
    styles = comparison_styles(truth, found, matches, metadata)
    left, right = (
        draw_items(image, items, s, metadata, scale=scale)
        for items, s in zip((truth, found), styles, strict=True)
    )
    gap = np.full((left.shape[0], max(4, left.shape[1] // 100), 3), 255, np.uint8)
    return np.concatenate([left, gap, right], axis=1)


def comparison_legend(matches: Matches) -> Legend:
    """What the colours of a comparison mean, and how often each occurs."""
    words = {
        Outcome.HIT: "found",
        Outcome.MISS: "missed",
        Outcome.FALSE_ALARM: "false alarm",
        Outcome.WRONG_CLASS: "wrong class",
        Outcome.IGNORED: "ignored",
    }
    counts = {outcome: matches.count(outcome) for outcome in words}
    return [(f"{word} {counts[o]}", _OUTCOMES[o]) for o, word in words.items() if counts[o]]


def comparison_styles(
    truth: Sequence[Item], found: Sequence[Item], matches: Matches, metadata: Any
) -> tuple[list[Style], list[Style]]:
    """Hits are thin and quiet, errors are not; a wrong class names both classes."""
    count = max((item.category for item in (*truth, *found)), default=-1) + 1
    names = category_names(metadata, count)
    single = len(names) <= 1

    def style(item: Item, outcome: Outcome, partner: Item | None) -> Style:
        words = [] if single else [names[item.category]]
        if item.score is not None:
            words.append(f"{100 * item.score:.0f}")
        if outcome is Outcome.WRONG_CLASS and item.score is not None:
            words.append(f"(is {names[partner.category]})")
        quiet = outcome in (Outcome.HIT, Outcome.IGNORED)
        label = "" if quiet and single else " ".join(words)
        return Style(_OUTCOMES[outcome], label, 0.6 if quiet else 1.25, outcome is Outcome.IGNORED)

    left = [style(t, o, None) for t, o in zip(truth, matches.truth, strict=True)]
    right = [
        style(f, o, truth[p] if p >= 0 else None)
        for f, o, p in zip(found, matches.found, matches.found_partner, strict=True)
    ]
    return left, right


def draw_semantic(
    image: np.ndarray, classes: Any, metadata: Any = None, *, scale: float | None = None
) -> np.ndarray:
    """`image` under a map (H, W) of class numbers, each region outlined and named.

    Numbers equal to `metadata.ignore_label`, and the class "things", stay as they are; names and
    colours come from `metadata.stuff_classes` and `stuff_colors`.
    """
    classes = _array(classes)
    names = list(getattr(metadata, "stuff_classes", None) or ())
    # Where things are told apart as instances, the map has them all in one class of this name.
    things = names.index("things") if "things" in names else None
    skipped = {getattr(metadata, "ignore_label", None), things}
    items, styles = [], []
    for c in map(int, np.unique(classes)):
        if c in skipped or c < 0:
            continue
        items.append(Item(mask=classes == c, category=c))
        styles.append(Style(_stuff_color(metadata, c), names[c] if c < len(names) else str(c)))
    return draw_items(image, items, styles, metadata, scale=scale)


def draw_panoptic(
    image: np.ndarray,
    segments: Any,
    segments_info: Sequence[Mapping[str, Any]] | None,
    metadata: Any = None,
    *,
    scale: float | None = None,
) -> np.ndarray:
    """`image` under panoptic segments: a map (H, W) of segment ids and what each id is.

    `segments_info` is as Detectron2's Panoptic FPN gives it: id, isthing, category_id (contiguous
    among things or among stuff), and for things a score.
    """
    segments = _array(segments)
    items, styles = [], []
    for number, info in enumerate(segments_info or ()):
        kind = "thing" if info.get("isthing", True) else "stuff"
        names = list(getattr(metadata, f"{kind}_classes", None) or ())
        c = int(info["category_id"])
        label = names[c] if c < len(names) else str(c)
        if info.get("score") is not None:
            label += f" {100 * float(info['score']):.0f}"
        items.append(Item(mask=segments == info["id"], category=c))
        # Stuff keeps the colour of its class; each thing has one of its own.
        color = _stuff_color(metadata, c) if kind == "stuff" else palette.color(100 + number)
        styles.append(Style(color, label))
    return draw_items(image, items, styles, metadata, scale=scale)


def _stuff_color(metadata: Any, category: int) -> RGB:
    own = getattr(metadata, "stuff_colors", None) or ()
    return tuple(own[category]) if category < len(own) else palette.color(category)


def _array(values: Any) -> np.ndarray:
    return values.detach().cpu().numpy() if hasattr(values, "detach") else np.asarray(values)
