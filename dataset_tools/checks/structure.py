"""Rules over the JSON itself: its form, its ids, its references, its names."""

from __future__ import annotations

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence

from dataset_tools.checks.report import Severity, rule, rule_across
from dataset_tools.checks.subject import Subject


@rule(Severity.ERROR)
def not_json(subject: Subject) -> Iterator[str]:
    """A file that is not JSON cannot be read; often it is cut off."""
    yield from subject.faults["not-json"]


@rule(Severity.ERROR)
def not_coco(subject: Subject) -> Iterator[str]:
    """A COCO file is an object with the lists "images", "annotations" and "categories"."""
    yield from subject.faults["not-coco"]


@rule(Severity.ERROR)
def wrong_type(subject: Subject) -> Iterator[str]:
    """A field that is missing, or not of the type that COCO gives it, stops a reader or misleads
    it."""
    yield from subject.faults["wrong-type"]


@rule(
    Severity.ERROR,
    mend="recomputed from the mask, left out where the format lets it, or nulled; "
    "an object with neither a box nor a mask left is dropped",
)
def not_a_number(subject: Subject) -> Iterator[str]:
    """One NaN or infinity in a box makes the loss NaN, and with it every weight."""
    yield from subject.faults["not-a-number"]


@rule(Severity.ERROR, mend="entries that are equal are joined; others are left")
def duplicate_image_id(subject: Subject) -> Iterator[str]:
    """With two images of one id nobody knows whose the annotations are."""
    yield from _repeated((row.id, row.place) for row in subject.images)


@rule(Severity.ERROR, mend="entries of one file and size are joined; others are left")
def duplicate_file_name(subject: Subject) -> Iterator[str]:
    """One file as two images: each misses the other's annotations, which then count as
    background."""
    yield from _repeated((row.file_name, row.place) for row in subject.images)


@rule(Severity.ERROR, mend="the later ones get new ids")
def duplicate_annotation_id(subject: Subject) -> Iterator[str]:
    """COCO's evaluation keeps one annotation of each id, and drops the others without a word."""
    if subject.panoptic:
        # Segment ids are unique within their image only.
        keys = (
            ((row.id, id(row.image)), row.place)
            for row in subject.annotations
            if row.id is not None
        )
    else:
        keys = ((row.id, row.place) for row in subject.annotations)
    yield from _repeated(keys)


@rule(Severity.ERROR)
def duplicate_category_id(subject: Subject) -> Iterator[str]:
    """With two categories of one id nobody knows which of them an object is."""
    yield from _repeated((row.id, row.place) for row in subject.categories)


@rule(Severity.ERROR, mend="joined under the first one's id")
def duplicate_category_name(subject: Subject) -> Iterator[str]:
    """The network would have to tell two classes apart that are one."""
    yield from _repeated((row.name, row.place) for row in subject.categories)


@rule(Severity.ERROR, mend="dropped: there is no image to train on")
def dangling_image_id(subject: Subject) -> Iterator[str]:
    """Annotations of an image that is not listed are never seen; perhaps the image was lost."""
    yield from subject.faults["dangling-image-id"]


@rule(Severity.ERROR)
def dangling_category_id(subject: Subject) -> Iterator[str]:
    """An object of an unknown class stops the training, or is taught as background."""
    yield from subject.faults["dangling-category-id"]


@rule(Severity.NOTE)
def unused_category(subject: Subject) -> Iterator[str]:
    """A class without an object can be neither learned nor measured; its AP is NaN."""
    used = {row.category.id for row in subject.annotations if row.category is not None}
    yield from (row.place for row in subject.categories if row.id not in used)


@rule_across(Severity.WARNING)
def similar_category_names(subjects: Sequence[Subject]) -> Iterator[str]:
    """Names that differ by case or space only are mostly one class, typed twice. `merge --rename`
    joins them."""
    names = dict.fromkeys(
        row.name for subject in subjects for row in subject.categories if row.name is not None
    )
    groups: dict[str, list[str]] = defaultdict(list)
    for name in names:
        groups["".join(unicodedata.normalize("NFKC", name).casefold().split())].append(name)
    for group in groups.values():
        if len(group) > 1:
            yield " ~ ".join(map(repr, group))


@rule_across(Severity.ERROR)
def categories_differ(subjects: Sequence[Subject]) -> Iterator[str]:
    """If two splits number their classes differently, training on one and measuring on the other
    confuses the classes."""
    readable = [subject for subject in subjects if subject.categories]
    for subject in readable[1:]:
        ours, theirs = _numbering(readable[0]), _numbering(subject)
        if ours == theirs:
            continue
        seen = ", ".join(
            f"{key}: {ours.get(key)!r} or {theirs.get(key)!r}"
            for key in sorted(ours.keys() | theirs.keys())
            if ours.get(key) != theirs.get(key)
        )
        yield f"{readable[0].path.name} and {subject.path.name}: {seen[:200]}"


def _numbering(subject: Subject) -> dict[int, str | None]:
    return {row.id: row.name for row in subject.categories if row.id is not None}


def _repeated(keyed: Iterable[tuple[object, str]]) -> Iterator[str]:
    """Places of all but the first with a key; None is no key."""
    seen: Counter[object] = Counter()
    for key, place in keyed:
        seen[key] += 1
        if key is not None and seen[key] > 1:
            yield place
