"""Say what changed between two versions of a COCO dataset.

Images are paired by file name; those left over by size and content, where both files are there, so
that a renamed image is told as such. In paired images annotations are paired: first those that are
equal, then by IoU within each category (best total, not first come), then by IoU across
categories. Ids do not matter.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dataset_tools.boxes import box_iou
from dataset_tools.coco import (
    Annotation,
    Category,
    Dataset,
    Image,
    annotation_box,
    load_coco,
)
from dataset_tools.errors import InputError
from dataset_tools.notes import Notes
from dataset_tools.provenance import images_if_any
from dataset_tools.rle import Box
from dataset_tools.table import text_table

if TYPE_CHECKING:
    import numpy as np

EPILOG = """\
examples:
  python -m dataset_tools diff old/all.json new/all.json
  python -m dataset_tools diff old.json new.json --images photos --json > changes.json
  python -m dataset_tools diff old.json new.json --sheet changes.png

The exit code is 0 whether something changed or not.
"""

MIN_IOU = 0.5
SAME_PLACE = 0.01  # px that every edge may be off for a box to be at the same place
_PLACES_TOLD = 3


@dataclass(frozen=True)
class Change:
    """One annotation that changed. Boxes are XYXY px; what is not there is None."""

    image: str  # file name in the new version, where it is in both
    old_category: str | None = None
    new_category: str | None = None
    old_box: Box | None = None
    new_box: Box | None = None
    iou: float | None = None
    what: tuple[str, ...] = ()  # segmentation, keypoints, iscrowd, names of attributes

    def __str__(self) -> str:
        name = self.old_category or self.new_category
        if self.old_category and self.new_category and self.old_category != self.new_category:
            name = f"{self.old_category} → {self.new_category}"
        box = self.new_box or self.old_box
        told = f"{self.image} {name}"
        if box is not None:
            x0, y0, x1, y1 = box
            told += f" [{x0:g}, {y0:g}, {x1 - x0:g}, {y1 - y0:g}]"
        if self.iou is not None and self.iou < 1:
            told += f" IoU {self.iou:.2f}"
        return told + (f" ({', '.join(self.what)})" if self.what else "")


@dataclass
class Difference:
    """All that differs between two versions."""

    images_added: list[str] = field(default_factory=list)
    images_removed: list[str] = field(default_factory=list)
    images_renamed: list[tuple[str, str]] = field(default_factory=list)
    images_resized: list[str] = field(default_factory=list)  # other width or height recorded
    images_unchanged: int = 0  # with all their annotations
    added: list[Change] = field(default_factory=list)
    removed: list[Change] = field(default_factory=list)
    moved: list[Change] = field(default_factory=list)  # same category, other box
    relabelled: list[Change] = field(default_factory=list)  # other category
    edited: list[Change] = field(default_factory=list)  # same category and box, all else
    unchanged: int = 0
    categories_added: list[str] = field(default_factory=list)
    categories_removed: list[str] = field(default_factory=list)
    categories_changed: list[str] = field(default_factory=list)  # "name: what"
    # Category → annotations in the old and in the new version.
    per_category: dict[str, tuple[int, int]] = field(default_factory=dict)

    @property
    def class_changes(self) -> Counter[tuple[str, str]]:
        """(old category, new one) → annotations, the most frequent first."""
        pairs = Counter((c.old_category, c.new_category) for c in self.relabelled)
        return Counter(dict(pairs.most_common()))

    def changes(self) -> Iterator[tuple[str, list[Change]]]:
        """The kinds of changes of annotations, by name."""
        for kind in ("added", "removed", "moved", "relabelled", "edited"):
            yield kind, getattr(self, kind)

    def as_dict(self) -> dict[str, Any]:
        """For JSON: all of it, and how many there are of each."""
        content = asdict(self)
        counts = {key: len(value) for key, value in content.items() if isinstance(value, list)}
        counts |= {key: value for key, value in content.items() if isinstance(value, int)}
        changes = [{"old": o, "new": n, "count": c} for (o, n), c in self.class_changes.items()]
        return {"counts": counts, "class_changes": changes} | content


def compare(
    old: Dataset,
    new: Dataset,
    *,
    old_root: Path | None = None,
    new_root: Path | None = None,
    min_iou: float = MIN_IOU,
) -> Difference:
    """What changed from one version of a dataset to the next.

    Args:
        old: the version before.
        new: the version after.
        old_root: where the images of the old version are; without it none is found renamed.
        new_root: where those of the new version are.
        min_iou: least IoU of two boxes that may be the same object.
    """
    result = Difference()
    _compare_categories(old.categories, new.categories, result)
    before, after = _by_name(old.images), _by_name(new.images)
    gone = [name for name in before if name not in after]
    come = [name for name in after if name not in before]
    pairs = [(name, name) for name in before if name in after]
    if old_root is not None and new_root is not None:
        result.images_renamed = _renamed(
            [before[name][0] for name in gone], [after[name][0] for name in come],
            old_root, new_root,
        )  # fmt: skip
    pairs += result.images_renamed
    moved_from = {name for name, _ in result.images_renamed}
    moved_to = {name for _, name in result.images_renamed}
    result.images_removed = [name for name in gone if name not in moved_from]
    result.images_added = [name for name in come if name not in moved_to]
    for first, second in pairs:
        _compare_images(before[first], after[second], result, min_iou)
    for name in result.images_removed:
        result.removed += [_removed(a, name) for a in _annotations(before[name])]
    for name in result.images_added:
        result.added += [_added(a, name) for a in _annotations(after[name])]
    result.per_category = _per_category(old, new)
    return result


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    add = parser.add_argument
    add("old", type=Path, metavar="OLD", help="COCO file, the version before")
    add("new", type=Path, metavar="NEW", help="COCO file, the version after")
    add("--images", nargs="+", type=Path, metavar="DIR",
        help="image root, or one for each, to find renamed images")  # fmt: skip
    add("--iou", type=float, default=MIN_IOU, metavar="IOU",
        help="least IoU of what may be the same object (default: %(default)s)")  # fmt: skip
    add("--places", type=int, default=_PLACES_TOLD, metavar="N",
        help="tell the first N places of each kind (default: %(default)s)")  # fmt: skip
    add("--sheet", type=Path, metavar="PNG", help="draw the images that changed most")
    add("--json", dest="as_json", action="store_true", help="print JSON with all places")


def run(args: argparse.Namespace) -> int:
    """Compare and print."""
    if not 0 < args.iou <= 1:
        raise InputError(f"--iou {args.iou:g}: it is above 0 and at most 1.")
    if args.images and len(args.images) > 2:
        raise InputError("Give one image root for both versions, or one for each.")
    notes = Notes()
    old, new = load_coco(args.old, notes), load_coco(args.new, notes)
    old_root, new_root = (
        images_if_any(path, dataset.info, args.images and args.images[index % len(args.images)])
        for index, (path, dataset) in enumerate([(args.old, old), (args.new, new)])
    )
    found = compare(old, new, old_root=old_root, new_root=new_root, min_iou=args.iou)
    if args.sheet is not None:
        from dataset_tools.diff_sheet import draw_sheet

        draw_sheet(found, {**_sizes(old), **_sizes(new)}, new_root or old_root, args.sheet)
    left_out = {note.kind: note.count for note in notes.dropped.values()}
    if args.as_json:
        print(json.dumps(found.as_dict() | {"left_out": left_out}, indent=1, ensure_ascii=False))
        return 0
    print(format_difference(found, args.places))
    if found.images_added and found.images_removed and (old_root is None or new_root is None):
        print("renamed images were not looked for: give the folders by --images")
    for kind, count in left_out.items():
        print(f"left out: {count:,} × {kind} (see check)")
    if args.sheet is not None:
        print(f"written: {args.sheet}")
    return 0


def format_difference(found: Difference, places: int = _PLACES_TOLD) -> str:
    """Counts, a row for each category that changed, and the first places of every kind."""
    kinds = list(found.changes())
    images = {
        "added": found.images_added,
        "removed": found.images_removed,
        "renamed": [f"{old} → {new}" for old, new in found.images_renamed],
        "of another size": found.images_resized,
    }
    rows = [(f"images {kind}", len(names)) for kind, names in images.items()]
    rows.append(("images unchanged", found.images_unchanged))
    rows += [(f"annotations {kind}", len(changes)) for kind, changes in kinds]
    rows.append(("annotations unchanged", found.unchanged))
    parts = [text_table(("", "count"), rows)]
    changed = _rows_of_categories(found)
    if changed:
        heads = ("category", "old", "new", *(kind for kind, _ in kinds))
        parts.append(text_table(heads, changed))
    for heading, names in (
        ("categories added", found.categories_added),
        ("categories removed", found.categories_removed),
        ("categories changed", found.categories_changed),
    ):
        if names:
            parts.append(f"{heading}: {', '.join(names)}")
    if found.relabelled:
        pairs = [(f"{o} → {n}", count) for (o, n), count in found.class_changes.items()]
        parts.append(text_table(("class changed", "annotations"), pairs))
    if found.moved:
        middle = statistics.median(change.iou for change in found.moved)
        parts.append(f"moved boxes: IoU of old and new {middle:.2f} in the middle")
    lists = {f"images {kind}": names for kind, names in images.items()}
    lists |= {f"annotations {kind}": changes for kind, changes in kinds}
    for kind, entries in lists.items():
        if entries and places > 0:
            told = [f"  {entry}" for entry in entries[:places]]
            more = [f"  … {len(entries) - places:,} more"] if len(entries) > places else []
            parts.append("\n".join([f"{kind}:", *told, *more]))
    return "\n\n".join(parts)


def _rows_of_categories(found: Difference) -> list[tuple[Any, ...]]:
    counts = {
        kind: Counter(name for c in changes for name in {c.old_category, c.new_category})
        for kind, changes in found.changes()
    }
    rows = [
        (name, *pair, *(count[name] for count in counts.values()))
        for name, pair in found.per_category.items()
    ]
    return [row for row in rows if any(row[3:])]


def _sizes(dataset: Dataset) -> dict[str, tuple[int, int]]:
    return {image.file_name: (image.width, image.height) for image in dataset.images}


def _by_name(images: Iterable[Image]) -> dict[str, list[Image]]:
    """Images by file name; a list, for one may be there twice."""
    found: dict[str, list[Image]] = defaultdict(list)
    for image in images:
        found[image.file_name].append(image)
    return found


def _annotations(images: Iterable[Image]) -> list[Annotation]:
    return [annotation for image in images for annotation in image.annotations]


def _compare_categories(
    old: Sequence[Category], new: Sequence[Category], result: Difference
) -> None:
    before, after = ({c.name: c for c in categories} for categories in (old, new))
    result.categories_removed = [name for name in before if name not in after]
    result.categories_added = [name for name in after if name not in before]
    for name in before:
        if name not in after:
            continue
        for key in ("id", "supercategory", "keypoints", "skeleton", "extra"):
            first, second = getattr(before[name], key), getattr(after[name], key)
            if first != second:
                told = f" {first} → {second}" if key == "id" else ""
                result.categories_changed.append(f"{name}: {key}{told}")


def _renamed(
    gone: Sequence[Image], come: Sequence[Image], old_root: Path, new_root: Path
) -> list[tuple[str, str]]:
    """Pairs of old and new names whose files are of one size and content, each used once."""
    sizes = {(image.width, image.height) for image in gone}
    candidates = [image for image in come if (image.width, image.height) in sizes]
    lengths = {_length(old_root / image.file_name) for image in gone} - {None}
    contents: dict[bytes, list[str]] = defaultdict(list)
    for image in candidates:
        path = new_root / image.file_name
        if _length(path) in lengths:
            contents[_digest(path)].append(image.file_name)
    pairs = []
    for image in gone if contents else ():
        path = old_root / image.file_name
        names = contents.get(_digest(path)) if path.is_file() else None
        if names:
            pairs.append((image.file_name, names.pop(0)))
    return pairs


def _length(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None


def _digest(path: Path) -> bytes:
    return blake2b(path.read_bytes(), digest_size=16).digest()


def _compare_images(
    old: Sequence[Image], new: Sequence[Image], result: Difference, min_iou: float
) -> None:
    name = new[0].file_name
    resized = (old[0].width, old[0].height) != (new[0].width, new[0].height)
    if resized:
        sizes = (f"{image.width}×{image.height}" for image in (old[0], new[0]))
        result.images_resized.append(f"{name}: {' → '.join(sizes)}")
    left, right, equal = _without_equal(_annotations(old), _annotations(new))
    result.unchanged += equal
    result.images_unchanged += not (left or right or resized)
    for same_category in (True, False):
        for i, j, iou in _matches(left, right, same_category, min_iou):
            _record(_changed(left[i], right[j], name, iou), result)
            left[i] = right[j] = None
        left, right = ([a for a in some if a is not None] for some in (left, right))
    result.removed += [_removed(annotation, name) for annotation in left]
    result.added += [_added(annotation, name) for annotation in right]


def _record(change: Change, result: Difference) -> None:
    if change.old_category != change.new_category:
        result.relabelled.append(change)
    elif change.iou < 1:
        result.moved.append(change)
    elif change.what:
        result.edited.append(change)
    else:
        result.unchanged += 1  # ids and the last digits of numbers apart


def _without_equal(
    old: list[Annotation], new: list[Annotation]
) -> tuple[list[Annotation], list[Annotation], int]:
    """What is left of both when each equal one is taken away with its partner; how many those
    were."""
    waiting: Counter[str] = Counter(map(_key, new))
    left, taken = [], Counter[str]()
    for annotation in old:
        key = _key(annotation)
        if taken[key] < waiting[key]:
            taken[key] += 1
        else:
            left.append(annotation)
    equal, right = taken.total(), []
    for annotation in new:
        key = _key(annotation)
        if taken[key]:
            taken[key] -= 1
        else:
            right.append(annotation)
    return left, right, equal


def _key(a: Annotation) -> str:
    """Equal for annotations that say the same."""
    return repr((a.category, a.bbox, a.segmentation, a.keypoints, a.iscrowd, a.attributes))


def _matches(
    old: Sequence[Annotation], new: Sequence[Annotation], same_category: bool, min_iou: float
) -> list[tuple[int, int, float]]:
    """Pairs of indices with the greatest sum of IoUs, and their IoUs."""
    if not old or not new:
        return []
    import numpy as np
    from scipy.optimize import linear_sum_assignment

    overlap = _ious(_boxes(old), _boxes(new))
    overlap[overlap < min_iou] = 0
    if same_category:
        first, second = (np.array([a.category for a in some]) for some in (old, new))
        overlap[first[:, None] != second[None]] = 0
    rows, columns = linear_sum_assignment(overlap, maximize=True)
    return [
        (int(i), int(j), float(overlap[i, j]))
        for i, j in zip(rows, columns, strict=True)
        if overlap[i, j]
    ]


def _boxes(annotations: Sequence[Annotation]) -> np.ndarray:
    """(N, 4) XYXY; NaN where there is no box."""
    import numpy as np

    nothing = (math.nan,) * 4
    return np.array([annotation_box(a) or nothing for a in annotations], dtype=float)


def _ious(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(N, M) IoUs. 1 for boxes at the same place, also if they have no area, and for no others."""
    import numpy as np

    iou = box_iou(first, second).clip(0, 0.999999)
    same = (np.abs(first[:, None] - second[None]) <= SAME_PLACE).all(axis=2)
    return np.where(same, 1.0, iou)


def _changed(old: Annotation, new: Annotation, image: str, iou: float) -> Change:
    keys = ("segmentation", "keypoints", "iscrowd", "attributes")
    # What has moved takes its mask and keypoints with it.
    keys = keys if iou == 1 else keys[2:]
    what = tuple(key for key in keys[:-1] if getattr(old, key) != getattr(new, key))
    what += _changed_attributes(old.attributes, new.attributes)
    boxes = annotation_box(old), annotation_box(new)
    return Change(image, old.category, new.category, *boxes, iou, what)


def _changed_attributes(old: dict[str, Any], new: dict[str, Any]) -> tuple[str, ...]:
    """Names of those that differ. A flag that is not there is false."""
    names = dict.fromkeys([*old, *new])
    return tuple(name for name in names if old.get(name, False) != new.get(name, False))


def _added(annotation: Annotation, image: str) -> Change:
    return Change(image, new_category=annotation.category, new_box=annotation_box(annotation))


def _removed(annotation: Annotation, image: str) -> Change:
    return Change(image, old_category=annotation.category, old_box=annotation_box(annotation))


def _per_category(old: Dataset, new: Dataset) -> dict[str, tuple[int, int]]:
    counts = [Counter(a.category for a in _annotations(d.images)) for d in (old, new)]
    names = dict.fromkeys(c.name for dataset in (old, new) for c in dataset.categories)
    return {name: (counts[0][name], counts[1][name]) for name in names}
