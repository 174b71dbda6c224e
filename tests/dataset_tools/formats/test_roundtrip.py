"""COCO → format → COCO, over random datasets: what a format carries comes back as it was.

`TRIPS` says for each written format what it carries, and how far numbers may be off. A format may
take several trips, one for each kind of content or way of writing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from dataset_tools.coco import Annotation, Category, Dataset, Image, load_coco
from dataset_tools.convert import convert_dataset
from dataset_tools.export import export_dataset
from dataset_tools.formats import written_formats
from dataset_tools.rle import decode_mask
from tests.dataset_tools.datasets import (
    ATTRIBUTES,
    FILE_NAMES,
    FLAT_FILE_NAMES,
    PLAIN_NAMES,
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
    """One way there and back."""

    format: str
    contents: st.SearchStrategy[Splits]
    write: Mapping[str, Any] = field(default_factory=dict)  # options of export
    read: Mapping[str, Any] = field(default_factory=dict)  # options of convert; {out} is the folder
    tolerance: float = 1e-5  # of coordinates, px
    angle_tolerance: float = 1e-5  # of rotated boxes, degrees
    unsplit: str | None = None  # the split in which images of none come back
    file_name: Callable[[str, str | None], str] = lambda name, split: name  # as it comes back
    categories: str = "all"  # or "used": only those of objects, sorted, bare
    any_order: bool = False  # of the objects of an image
    path: str = ""  # in the written folder, for convert
    added: frozenset[str] = frozenset()  # attributes that every object has, back from there
    told: bool = True  # nothing is noted as dropped, there and back
    label: str = ""

    def __str__(self) -> str:
        return "-".join([self.format, *filter(None, [self.label, *map(str, self.write.values())])])


def in_split(name: str, split: str | None) -> str:
    return f"{split or 'all'}/{name}"


def beside(pattern: str, unsplit: str) -> Callable[[str, str | None], str]:
    """File names by split, and without one."""
    return lambda name, split: (pattern if split else unsplit).format(
        name=name, split=split, long={"val": "validation"}.get(split, split)
    )


def in_images(name: str, split: str | None) -> str:
    return f"images/{split or 'train'}/{name}"


ALL_KINDS = ("box", "polygon", "polygons", "rle", "keypoints", "rotated", "label")
_SCORES = st.fixed_dictionaries({"score": st.sampled_from([0, 0.25, 0.5, 1])})

TRIPS = [
    *(
        Trip(
            "coco",
            datasets(
                ALL_KINDS,
                splits=splits,
                attributes=ATTRIBUTES,
                image_attributes=ATTRIBUTES,
                crowds=True,
                captions=True,
                tracks=True,
            ),
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
        datasets(["rle"], splits=("train", "x"), overlaps=False, crowds=True),
        write={"kinds": "panoptic"},
        file_name=in_split,
    ),
    Trip(
        "coco",
        datasets(["box", "rle"], attributes=_SCORES),
        write={"kinds": "results", "photos": "none"},
        read={"results_of": "{out}/annotations/image_info_all.json", "images": "{out}"},
        path="annotations/results_all.json",
    ),
    *(
        Trip(
            "voc",
            datasets(
                kinds,
                splits=splits,
                overlaps=False,
                attributes=st.fixed_dictionaries(
                    {},
                    optional={
                        "difficult": st.booleans(),
                        "occluded": st.booleans(),
                        "ä b": PLAIN_NAMES,
                    },
                ),
            ),
            write=write,
            file_name=lambda name, _: f"JPEGImages/{name}",
            added=frozenset({"pose", "difficult", "truncated"}),
        )
        for kinds, splits, write in (
            (["box"], (None,), {}),
            (["box", "rle"], TRAIN_VAL, {"pixel_origin": "1"}),
        )
    ),
    *(
        Trip(
            "masks",
            datasets(
                ["rle"],
                splits=splits,
                overlaps=False,
                names=PLAIN_NAMES if classes == "folders" else st.just("object"),
                categories=(1, 3) if classes == "folders" else (1, 1),
            ).filter(lambda drawn: any(i.annotations for d in drawn.values() for i in d.images)),
            write={"style": style, "classes": classes},
            file_name=lambda name, split: f"{split}/images/{name}" if split else f"images/{name}",
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
            datasets(kinds, splits=splits),
            write={"task": task},
            unsplit="train",
            file_name=in_images,
        )
        for task, kinds, splits in (
            ("detect", ["box"], TRAIN_VAL),
            ("segment", ["polygon"], (None,)),
            ("pose", ["keypoints"], ("train", "val", "test")),
            ("obb", ["rotated"], ("train", "fold 2")),
        )
    ),
    *(
        Trip(
            "darknet",
            datasets(["box"], splits=splits),
            unsplit="train",
            file_name=lambda name, split: f"obj_{_DARKNET.get(split, split)}_data/{name}",
            label=str(splits[0]),
        )
        for splits in ((None,), ("train", "val", "test"))
    ),
    *(
        Trip(
            name,
            datasets(kinds, splits=splits, **contents),
            file_name=beside(pattern, unsplit),
            label="-".join(map(str, splits)),
            **more,
        )
        for name, kinds, pattern, unsplit, contents, more in (
            ("labelme", ["box", "polygon"], "{split}/{name}", "{name}", {}, {"categories": "used"}),
            (
                "cvat",
                ["box", "polygon", "rle"],
                "images/{split}/{name}",
                "images/{name}",
                {"file_names": FILE_NAMES.filter(lambda name: not name.startswith("images/"))},
                {},
            ),
            (
                "createml",
                ["box"],
                "{split}/{name}",
                "{name}",
                {},
                {"categories": "used"},
            ),
            (
                "label-studio",
                ["box", "polygon", "rle"],
                "{name}",
                "{name}",
                {},
                {"read": {"images": "{out}/../photos"}, "tolerance": 1e-3},
            ),
            (
                "supervisely",
                ["box", "polygon", "rle"],
                "{split}/img/{name}",
                "dataset/img/{name}",
                {"file_names": FLAT_FILE_NAMES},
                {},
            ),
            (
                "datumaro",
                ["box", "polygon", "rle"],
                "images/{split}/{name}",
                "images/default/{name}",
                {"attributes": ATTRIBUTES},
                {},
            ),
            (
                "imagefolder",
                ["label"],
                "{split}/cat/{name}",
                "cat/{name}",
                {
                    "file_names": FLAT_FILE_NAMES,
                    "names": st.just("cat"),
                    "categories": (1, 1),
                    "objects_per_image": (1, 1),
                },
                {"categories": "used"},
            ),
            (
                "lvis",
                ["box", "polygon", "rle"],
                "{split}/{name}",
                "all/{name}",
                {"attributes": ATTRIBUTES},
                {},
            ),
            (
                "hf-folder",
                ["box"],
                "{long}/{name}",
                "{name}",
                {},
                {"categories": "used", "told": False},
            ),
            ("hf-parquet", ["box"], "{split}/{name}", "{name}", {}, {}),
            (
                "dota",
                ["rotated"],
                "{split}/images/{name}",
                "images/{name}",
                {"names": PLAIN_NAMES.filter(lambda name: " " not in name)},
                {
                    "categories": "used",
                    "added": frozenset({"difficult"}),
                    "tolerance": 1e-3,
                    "angle_tolerance": 1e-2,
                },
            ),
        )
        for splits in ((None,), TRAIN_VAL)
    ),
]


def test_every_written_format_takes_a_trip():
    travelled = {trip.format for trip in TRIPS}
    assert travelled <= set(written_formats())
    if missing := sorted(set(written_formats()) - travelled):
        pytest.skip(f"no trip in TRIPS yet: {', '.join(missing)}")


@pytest.mark.parametrize("trip", TRIPS, ids=str)
def test_what_was_written_is_read(trip, tmp_path_factory):
    @settings(max_examples=EXAMPLES, deadline=None, phases=PHASES)
    @given(trip.contents)
    def there_and_back(before):
        compare(before, travel(trip, before, tmp_path_factory.mktemp("trip")), trip)

    there_and_back()


def travel(trip: Trip, before: Splits, folder: Path) -> Splits:
    """The datasets after the trip."""
    written = export_dataset(trip.format, save(before, folder), folder / "out", **trip.write)
    options = {k: str(v).format(out=folder / "out") for k, v in trip.read.items()}
    read = convert_dataset(trip.format, folder / "out" / trip.path, folder / "back", **options)
    if trip.told:
        assert not written.notes.dropped and not read.notes.dropped
    return {
        None if split in ("all", "rest") else split: load_coco(summary.path)
        for split, summary in read.files.items()
    }


def compare(before: Splits, after: Splits, trip: Trip) -> None:
    """AssertionError where they differ by more than the trip allows."""
    expected = {split or trip.unsplit: dataset for split, dataset in before.items()}
    expected = {split: dataset for split, dataset in expected.items() if dataset.images}
    assert after.keys() == expected.keys()
    seen = {a.category for d in expected.values() for i in d.images for a in i.annotations}
    for split, dataset in expected.items():
        compare_categories(dataset.categories, after[split].categories, trip, seen)
        found = {image.file_name: image for image in after[split].images}
        assert len(found) == len(after[split].images)
        assert found.keys() == {trip.file_name(i.file_name, split) for i in dataset.images}
        for image in dataset.images:
            compare_images(image, found[trip.file_name(image.file_name, split)], trip)


def compare_categories(
    before: list[Category], after: list[Category], trip: Trip, seen: set[str]
) -> None:
    if trip.categories == "used":
        assert {category.name for category in after} == seen
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
    def close(values: Any) -> Any:
        return None if values is None else pytest.approx(list(values), abs=trip.tolerance)

    assert after.category == before.category
    assert list(after.bbox) == close(before.bbox)
    assert after.iscrowd == before.iscrowd
    assert after.keypoints == close(before.keypoints)
    assert type(after.segmentation) is type(before.segmentation)
    if isinstance(before.segmentation, dict):
        assert np.array_equal(decode_mask(after.segmentation), decode_mask(before.segmentation))
    elif before.segmentation:
        assert len(after.segmentation) == len(before.segmentation)
        for one, other in zip(before.segmentation, after.segmentation, strict=True):
            assert other == close(one)
    old, new = dict(before.attributes), dict(after.attributes)
    rotated, came_back = old.pop("rbox", None), new.pop("rbox", None)
    assert {k: v for k, v in new.items() if k in old or k not in trip.added} == old
    assert (came_back is None) == (rotated is None)
    if rotated is not None:
        assert came_back[:4] == close(rotated[:4])
        turned = (came_back[4] - rotated[4] + 180) % 360 - 180
        assert abs(turned) <= trip.angle_tolerance


def _order(annotation: Annotation) -> Any:
    return annotation.category, [round(value, 3) for value in annotation.bbox]


def test_a_difference_is_seen():
    (trip,) = (trip for trip in TRIPS if str(trip) == "yolo-detect")
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
