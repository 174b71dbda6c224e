"""COCO → format → COCO, over random datasets: what a format carries comes back as it was.

`TRIPS` says for each written format what is drawn, and how far numbers may be off: a hundred
thousandth of a pixel where nothing else is said. A format may take several trips, one for each kind
of content or way of writing; together they try all that the table of formats says it is written
with.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from dataset_tools.coco import Annotation, Category, Dataset, Image, load_coco
from dataset_tools.convert import convert_dataset
from dataset_tools.export import export_dataset
from dataset_tools.formats import get_format, written_formats
from dataset_tools.formats.base import Carried
from dataset_tools.rle import decode_mask
from tests.dataset_tools.datasets import (
    ATTRIBUTES,
    FILE_NAMES,
    FLAT_FILE_NAMES,
    PLAIN_NAMES,
    Kind,
    Splits,
    datasets,
    save,
)

EXAMPLES = 8
PHASES = set(Phase) - {Phase.explain}
TRAIN_VAL = ("train", "val")
_DARKNET = {None: "train", "val": "valid"}


@dataclass(frozen=True)
class Trip:
    """One way there and back: what is drawn, how it is written and read, what may differ then."""

    format: str
    kinds: tuple[Kind, ...]
    splits: tuple[str | None, ...] = (None,)
    drawn: Mapping[str, Any] = field(default_factory=dict)  # more for `datasets`
    only: Callable[[Splits], bool] = lambda drawn: True  # datasets that there are files for
    write: Mapping[str, Any] = field(default_factory=dict)  # options of export
    read: Mapping[str, Any] = field(default_factory=dict)  # options of convert; {out} is the folder
    tolerance: float = 1e-5  # of coordinates, px
    angle_tolerance: float = 1e-5  # of rotated boxes, degrees
    unsplit: str | None = None  # the split in which images of none come back
    file_name: Callable[[str, str | None], str] = lambda name, split: name  # as it comes back
    categories: str = "all"  # or "used": only those of objects, sorted, bare
    seen_points: bool = False  # of keypoints only those that are labelled come back, by their names
    any_order: bool = False  # of the objects of an image
    path: str = ""  # in the written folder, for convert
    added: frozenset[str] = frozenset()  # attributes that every object has, back from there
    lost: Callable[[str, Any], bool] = lambda key, value: False  # attributes that are
    told: bool = True  # nothing is noted as dropped, there and back
    label: str = ""

    def __str__(self) -> str:
        words = [self.label, *map(str, self.write.values())]
        if len(self.splits) > 1:
            words.append("splits")
        return "-".join([self.format, *filter(None, words)])

    @property
    def contents(self) -> st.SearchStrategy[Splits]:
        """The datasets that take the trip."""
        return datasets(self.kinds, splits=self.splits, **self.drawn).filter(self.only)

    @property
    def carries(self) -> set[Carried]:
        """What of the table of formats is tried."""
        found = {_CARRIED[kind] for kind in self.kinds}
        found |= {"attributes"} if self.drawn.keys() & {"attributes", "image_attributes"} else set()
        found |= {"tracks"} if self.drawn.get("tracks") else set()
        return found | ({"splits"} if self.splits != (None,) else set())


def both(format_: str, *more: Any, **options: Any) -> list[Trip]:
    """A trip without splits, and one with."""
    return [Trip(format_, *more, splits=splits, **options) for splits in ((None,), TRAIN_VAL)]


def in_split(name: str, split: str | None) -> str:
    return f"{split or 'all'}/{name}"


def beside(pattern: str, unsplit: str) -> Callable[[str, str | None], str]:
    """File names by split, and without one."""
    return lambda name, split: (pattern if split else unsplit).format(
        name=name, split=split, long={"val": "validation"}.get(split, split)
    )


def in_images(name: str, split: str | None) -> str:
    return f"images/{split or 'train'}/{name}"


def some(**values: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Attributes of these names, some or none of them."""
    return st.fixed_dictionaries({}, optional=values)


def has_objects(drawn: Splits) -> bool:
    """Whether any image has some."""
    return any(image.annotations for dataset in drawn.values() for image in dataset.images)


_CARRIED: dict[Kind, Carried] = {
    "box": "boxes",
    "polygon": "masks",
    "polygons": "masks",
    "rle": "masks",
    "keypoints": "keypoints",
    "skeleton": "keypoints",
    "rotated": "rotation",
    "label": "labels",
    "point": "attributes",
    "points": "attributes",
    "line": "attributes",
}
_FREE = {"attributes": ATTRIBUTES, "crowds": True}
_SCORES = st.fixed_dictionaries({"score": st.sampled_from([0, 0.25, 0.5, 1])})
_OF_VOC = some(difficult=st.booleans(), occluded=st.booleans(), **{"ä b": PLAIN_NAMES})
_OF_LABELME = some(
    group_id=st.integers(0, 3),
    description=st.text("xyz", min_size=1),
    flags=st.just({"a": True}),
    score=st.floats(0, 1),
    colour=st.sampled_from(["red", 0, False]),
)
_OF_CVAT = some(
    z_order=st.integers(1, 9),
    occluded=st.just(True),
    colour=PLAIN_NAMES,
    wet=st.booleans(),
    age=st.integers(-9, 9) | st.floats(-1, 1),
)
_NOT_IN_IMAGES = FILE_NAMES.filter(lambda name: not name.startswith("images/"))
# A number that another object of the class has is given up: it would join the two.
_group = {"lost": lambda key, value: key == "group_id"}

TRIPS = [
    *(
        Trip(
            "coco",
            ("box", "polygon", "polygons", "rle", "keypoints", "rotated", "label"),
            splits=splits,
            drawn={**_FREE, "image_attributes": ATTRIBUTES, "captions": True, "tracks": True},
            write=write,
            file_name=in_split,
        )
        for splits, write in (
            ((None,), {}),
            (("train", "val", "fold 2"), {"kinds": "instances,keypoints,captions"}),
        )
    ),
    Trip(
        "coco",
        ("rle",),
        splits=("train", "x"),
        drawn={"overlaps": False, "crowds": True},
        write={"kinds": "panoptic"},
        file_name=in_split,
    ),
    Trip(
        "coco",
        ("box", "rle"),
        drawn={"attributes": _SCORES},
        write={"kinds": "results", "photos": "none"},
        read={"results_of": "{out}/annotations/image_info_all.json", "images": "{out}"},
        path="annotations/results_all.json",
    ),
    *both(
        "lvis",
        ("box", "polygon", "polygons", "rle"),
        drawn=_FREE,
        file_name=beside("{split}/{name}", "all/{name}"),
    ),
    *(
        Trip(
            "voc",
            kinds,
            splits=splits,
            drawn={"overlaps": False, "attributes": _OF_VOC},
            write=write,
            file_name=lambda name, _: f"JPEGImages/{name}",
            added=frozenset({"pose", "difficult", "truncated"}),
        )
        for kinds, splits, write in (
            (("box",), (None,), {}),
            (("box", "rle"), TRAIN_VAL, {"pixel_origin": "1"}),
        )
    ),
    *(
        Trip(
            "masks",
            ("rle",),
            splits=splits,
            drawn={
                "overlaps": False,
                "names": PLAIN_NAMES if classes == "folders" else st.just("object"),
                "categories": (1, 3) if classes == "folders" else (1, 1),
            },
            only=has_objects,
            write={"style": style, "classes": classes},
            file_name=beside("{split}/images/{name}", "images/{name}"),
            categories="used" if classes == "folders" else "all",
            any_order=True,
        )
        for style, classes, splits in (
            ("files", "folders", TRAIN_VAL),
            ("indexed", "none", (None,)),
            ("id16", "folders", (None,)),
            ("rgb", "none", TRAIN_VAL),
        )
    ),
    *(
        Trip(
            "yolo",
            kinds,
            splits=splits,
            write={"task": task},
            unsplit="train",
            file_name=in_images,
        )
        for task, kinds, splits in (
            ("detect", ("box",), TRAIN_VAL),
            ("segment", ("polygon",), (None,)),
            ("pose", ("keypoints",), ("train", "val", "test")),
            ("obb", ("rotated",), ("train", "fold 2")),
        )
    ),
    *(
        Trip(
            "darknet",
            ("box",),
            splits=splits,
            unsplit="train",
            file_name=lambda name, split: f"obj_{_DARKNET.get(split, split)}_data/{name}",
        )
        for splits in ((None,), ("train", "val", "test"))
    ),
    *both(
        "labelme",
        ("box", "polygon", "polygons", "rle", "rotated", "point", "points", "line", "label"),
        drawn={"attributes": _OF_LABELME, "image_attributes": ATTRIBUTES, "crowds": True},
        file_name=beside("{split}/{name}", "{name}"),
        categories="used",
        **_group,
    ),
    *both(
        "cvat",
        ("box", "polygon", "polygons", "rle", "rotated", "points", "line", "label"),
        drawn={"attributes": _OF_CVAT, "crowds": True, "file_names": _NOT_IN_IMAGES},
        file_name=beside("images/{split}/{name}", "images/{name}"),
        **_group,
    ),
    Trip(
        "cvat",
        ("skeleton",),
        drawn={"attributes": _OF_CVAT, "file_names": _NOT_IN_IMAGES},
        file_name=lambda name, _: f"images/{name}",
        label="skeletons",
    ),
    *both(
        "createml",
        ("box", "label"),
        drawn={"attributes": ATTRIBUTES},
        file_name=beside("{split}/{name}", "{name}"),
        categories="used",
    ),
    *both(
        "label-studio",
        ("box", "polygon", "polygons", "rle", "keypoints", "rotated", "point"),
        drawn=_FREE,
        read={"images": "{out}/../photos"},
        seen_points=True,
        tolerance=1e-4,
    ),
    Trip(
        "label-studio",
        ("box", "label"),
        drawn={"captions": True},
        read={"images": "{out}/../photos"},
        any_order=True,
        label="labels",
    ),
    *both(
        "supervisely",
        ("box", "polygon", "polygons", "rle", "keypoints", "point", "points", "line"),
        drawn=_FREE | {"file_names": FLAT_FILE_NAMES},
        file_name=beside("{split}/img/{name}", "dataset/img/{name}"),
        seen_points=True,
        lost=lambda key, value: value is False,
        told=False,
    ),
    Trip(
        "supervisely",
        ("box", "label"),
        drawn={"file_names": FLAT_FILE_NAMES},
        file_name=lambda name, _: f"dataset/img/{name}",
        any_order=True,
        label="labels",
    ),
    Trip("datumaro", ("points", "line"), file_name=lambda name, _: f"images/default/{name}"),
    *both(
        "datumaro",
        ("box", "polygon", "polygons", "rle", "keypoints", "rotated", "label"),
        drawn=_FREE | {"image_attributes": ATTRIBUTES, "captions": True},
        file_name=beside("images/{split}/{name}", "images/default/{name}"),
    ),
    *both(
        "imagefolder",
        ("label",),
        drawn={
            "names": st.just("cat"),
            "file_names": FLAT_FILE_NAMES,
            "categories": (1, 1),
            "objects_per_image": (1, 1),
        },
        file_name=beside("{split}/cat/{name}", "cat/{name}"),
        categories="used",
    ),
    *both(
        "hf-folder",
        ("box", "label"),
        drawn={"captions": True},
        file_name=beside("{long}/{name}", "{name}"),
        categories="used",
        told=False,
    ),
    *both(
        "hf-parquet",
        ("box", "label"),
        drawn={"captions": True},
        file_name=beside("{split}/{name}", "{name}"),
    ),
    *both(
        "dota",
        ("rotated",),
        drawn={
            "names": PLAIN_NAMES.filter(lambda name: " " not in name),
            "attributes": some(difficult=st.booleans()),
            "inside": False,
            "upright": True,
        },
        file_name=beside("{split}/images/{name}", "images/{name}"),
        categories="used",
        added=frozenset({"difficult"}),
        tolerance=1e-3,
        angle_tolerance=1e-2,
    ),
]


@pytest.mark.parametrize("name", written_formats())
def test_all_that_a_format_is_written_with_is_tried(name):
    tried = {kind for trip in TRIPS if trip.format == name for kind in trip.carries}
    assert tried >= set(get_format(name).written)


@pytest.mark.parametrize("trip", TRIPS, ids=str)
def test_what_was_written_is_read(trip, tmp_path_factory):
    @settings(max_examples=EXAMPLES, deadline=None, phases=PHASES)
    @given(trip.contents)
    def there_and_back(drawn):
        compare(*travel(trip, drawn, tmp_path_factory.mktemp("trip")), trip)

    there_and_back()


def travel(trip: Trip, drawn: Splits, folder: Path) -> tuple[Splits, Splits]:
    """The datasets as COCO files say them, before and after the trip."""
    paths = save(drawn, folder)
    written = export_dataset(trip.format, paths, folder / "out", **trip.write)
    options = {k: str(v).format(out=folder / "out") for k, v in trip.read.items()}
    read = convert_dataset(trip.format, folder / "out" / trip.path, folder / "back", **options)
    if trip.told:
        assert not written.notes.dropped and not read.notes.dropped
    before = {split: load_coco(path) for split, path in paths.items()}
    return before, {
        None if split in ("all", "rest") else split: load_coco(summary.path)
        for split, summary in read.files.items()
    }


def compare(before: Splits, after: Splits, trip: Trip) -> None:
    """AssertionError where they differ by more than the trip allows."""
    expected = {split or trip.unsplit: dataset for split, dataset in before.items()}
    expected = {split: dataset for split, dataset in expected.items() if dataset.images}
    assert after.keys() == expected.keys()
    used = {a.category for d in expected.values() for i in d.images for a in i.annotations}
    for split, dataset in expected.items():
        first, second = dataset, after[split]
        if trip.seen_points:
            first, second = with_seen_points(first), with_seen_points(second)
        compare_categories(first.categories, second.categories, trip, used)
        found = {image.file_name: image for image in second.images}
        assert len(found) == len(second.images)
        assert found.keys() == {trip.file_name(image.file_name, split) for image in first.images}
        for image in first.images:
            compare_images(image, found[trip.file_name(image.file_name, split)], trip)


def compare_categories(
    before: list[Category], after: list[Category], trip: Trip, used: set[str]
) -> None:
    if trip.categories == "used":
        assert {category.name for category in after} == used
        return
    assert [c.name for c in after] == [c.name for c in before]
    assert [c.keypoints for c in after] == [c.keypoints for c in before]
    assert [c.skeleton for c in after] == [c.skeleton for c in before]


def compare_images(before: Image, after: Image, trip: Trip) -> None:
    assert (after.width, after.height) == (before.width, before.height)
    assert after.attributes == before.attributes
    assert len(after.annotations) == len(before.annotations)
    first, second = before.annotations, after.annotations
    if trip.any_order:
        first, second = sorted(first, key=_order), sorted(second, key=_order)
    for one, other in zip(first, second, strict=True):
        compare_annotations(one, other, trip)


def compare_annotations(before: Annotation, after: Annotation, trip: Trip) -> None:
    def close(values: Any, tolerance: float = trip.tolerance) -> Any:
        return None if values is None else pytest.approx(values, abs=tolerance)

    assert after.category == before.category
    assert list(after.bbox) == close(list(before.bbox))
    assert after.area == close(before.area, 100 * trip.tolerance)  # sides are of up to 60 px
    assert after.iscrowd == before.iscrowd
    assert after.keypoints == close(before.keypoints)
    assert type(after.segmentation) is type(before.segmentation)
    if isinstance(before.segmentation, dict):
        assert np.array_equal(decode_mask(after.segmentation), decode_mask(before.segmentation))
    elif before.segmentation:
        assert after.segmentation == [close(polygon) for polygon in before.segmentation]
    compare_attributes(before.attributes, after.attributes, trip)


def compare_attributes(before: dict[str, Any], after: dict[str, Any], trip: Trip) -> None:
    old = {key: value for key, value in before.items() if not trip.lost(key, value)}
    new = {key: value for key, value in after.items() if not trip.lost(key, value)}
    assert new.keys() - old.keys() <= trip.added
    assert old.keys() <= new.keys()
    if "rbox" in old:
        first, second = old.pop("rbox"), new.pop("rbox")
        assert second[:4] == pytest.approx(first[:4], abs=trip.tolerance)
        turned = (second[4] - first[4] + 180) % 360 - 180
        assert abs(turned) <= trip.angle_tolerance
    if "points" in old:
        assert new.pop("points") == pytest.approx(old.pop("points"), abs=trip.tolerance)
    assert {key: new[key] for key in old} == old


def with_seen_points(dataset: Dataset) -> Dataset:
    """With the labelled keypoints alone, by the order of their names, which become an attribute."""
    names = {category.name: category.keypoints for category in dataset.categories}

    def seen(annotation: Annotation) -> Annotation:
        flat = annotation.keypoints or []
        found = {
            name: flat[3 * i : 3 * i + 3]
            for i, name in enumerate(names[annotation.category])
            if flat and flat[3 * i + 2]
        }
        points = [value for name in sorted(found) for value in found[name]]
        attributes = annotation.attributes | {"seen": sorted(found)}
        return replace(annotation, keypoints=points, attributes=attributes)

    images = [replace(i, annotations=[seen(a) for a in i.annotations]) for i in dataset.images]
    bare = [replace(category, keypoints=(), skeleton=()) for category in dataset.categories]
    return replace(dataset, images=images, categories=bare)


def _order(annotation: Annotation) -> Any:
    return annotation.category, [round(value, 3) for value in annotation.bbox]


def test_a_difference_is_seen():
    (trip,) = (trip for trip in TRIPS if str(trip) == "yolo-detect-splits")
    objects = [Annotation("cat", (1, 2, 3, 4), id=1)]
    before = {"train": Dataset([Image("a.jpg", 9, 9, objects)], [Category("cat")])}

    def after(**changes: Any) -> Splits:
        annotation = Annotation(**{"category": "cat", "bbox": (1, 2, 3, 4)} | changes)
        image = Image("images/train/a.jpg", 9, 9, [annotation])
        return {"train": Dataset([image], [Category("cat")])}

    compare(before, after(), trip)
    for change in (
        {"bbox": (1, 2, 3, 4.1)},
        {"category": "dog"},
        {"iscrowd": True},
        {"keypoints": [1, 2, 2]},
        {"segmentation": [[1, 2, 3, 2, 3, 4]]},
        {"attributes": {"rbox": [2, 3, 2, 2, 0]}},
        {"attributes": {"score": 1}},
    ):
        with pytest.raises(AssertionError):
            compare(before, after(**change), trip)
