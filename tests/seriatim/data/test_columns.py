"""COCO files as columns: those decoded in pieces against those read entry by entry."""

from __future__ import annotations

import json

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataset_tools.errors import InputError
from seriatim.data import columns
from seriatim.data.polygon_texts import are_polygons
from tests.dataset_tools.test_coco_quick import CONTENT


def written(folder, **changes):
    path = folder / "a.json"
    path.write_text(json.dumps({**CONTENT, **changes}))
    return path


def described(found):
    objects = found.objects
    return {
        "categories": found.categories,
        "images": [
            found.image_ids.tolist(),
            found.heights.tolist(),
            found.widths.tolist(),
            list(found.names),
        ],
        "objects": {
            own: (box, category, crowd, json.loads(mask or b"0"), json.loads(points or b"0"), *more)
            for own, box, category, crowd, mask, points, *more in zip(
                objects.ids.tolist(),
                objects.boxes.tolist(),
                objects.categories.tolist(),
                objects.crowds.tolist(),
                objects.segmentations,
                objects.keypoints,
                objects.visible.tolist(),
                found.image_of.tolist(),
                found.kinds.tolist(),
                strict=True,
            )
        },
    }


OBJECTS = [
    {"bbox": [1, 2.5, 3, 1]},
    {"bbox": [0, 0, 9, 9], "segmentation": [[0, 0, 4.25, 0, 4, 4], [1, 1, 2, 2, 3, 1, 0, 0]]},
    {"bbox": [0, 0, 9, 9], "segmentation": [[0, 0, 4, 0], [1, 1, 2, 2, 3, 1]]},
    {"bbox": [0, 0, 9, 9], "segmentation": [[0, 0, 4, 0]]},
    {"bbox": [0, 0, 9, 9], "segmentation": [1, 2, 3, 4, 5, 1e1]},
    {"bbox": [0, 0, 9, 9], "segmentation": []},
    {"bbox": [0, 0, 0, 9], "segmentation": None, "iscrowd": 0},
    {"bbox": [0, 0, 2, 9], "keypoints": [1, 2, 2, 0, 0, 0], "area": 3},
    {"bbox": [0, 0, 2, 9], "keypoints": []},
    {"bbox": [0, 0, 2, 9], "segmentation": {"size": [5, 4], "counts": [3, 5, 12]}, "iscrowd": 1},
]


def annotations():
    entries = [{"id": 50 - i, "image_id": (5, 2)[i % 2], **item} for i, item in enumerate(OBJECTS)]
    return [{**entry, "category_id": 3} for entry in entries]


def test_in_pieces_as_entry_by_entry(tmp_path):
    path = written(tmp_path, annotations=annotations())
    quick = described(columns._read_quickly(path))
    assert quick == described(columns._read_carefully(path))
    assert len(quick["objects"]) == len(OBJECTS)
    assert quick["images"][0] == [2, 5, 9]


@pytest.mark.parametrize(
    "changes",
    [
        {"id": 49},
        {"id": 2**70},
        {"image_id": 77},
        {"category_id": 77},
        {"bbox": None},
        {"bbox": [1, 2, 3]},
        {"iscrowd": 2},
        {"segmentation": [[0, 0, 4, 0, 4, 4, 5]]},
        {"segmentation": [["0", 0, 4, 0, 4, 4]]},
        {"segmentation": [[0, 0, 4, 0, 4, 4], 3]},
        {"segmentation": {"size": [5, 4], "counts": [3]}},
        {"keypoints": [1, 2, 2]},
        {"keypoints": [1, 2]},
    ],
)
def test_what_is_wrong_is_said_by_the_careful_way(tmp_path, changes):
    entries = annotations()
    entries[0] |= changes
    if changes == {"bbox": None}:
        entries[0].pop("segmentation", None)
    path = written(tmp_path, annotations=entries)
    with pytest.raises((ValueError, msgspec.MsgspecError, OverflowError)):
        columns._read_quickly(path)
    with pytest.raises(InputError, match=r"a\.json"):
        columns.read_columns(path)


@pytest.mark.parametrize("mask", [[[0, 0, 4, 0, 4, float("nan")]], [[0, 0, 4, 0, 4, 1e999]]])
def test_masks_that_are_not_finite(tmp_path, mask):
    entries = annotations()
    entries[1]["segmentation"] = mask
    with pytest.raises(InputError, match="not finite"):
        columns.read_columns(written(tmp_path, annotations=entries))


numbers = st.integers(-999, 999) | st.floats(-999, 999).map(lambda x: round(x, 3))
polygons = st.lists(st.lists(numbers, max_size=9), max_size=3)
segmentations = (
    polygons
    | st.lists(numbers | polygons | st.lists(numbers, min_size=6, max_size=8), max_size=3)
    | st.recursive(st.none() | numbers | st.text("[],1Ea{", max_size=5), st.lists, max_leaves=6)
    | st.just({"counts": "[[1,2,3,4,5,6]]", "size": [1, 2]})
)


@settings(max_examples=300, deadline=None)
@given(st.lists(segmentations, min_size=1, max_size=5), st.sampled_from([None, 3]))
def test_polygons_are_told_from_all_else(values, indent):
    block, ends = columns._joined([json.dumps(value, indent=indent).encode() for value in values])

    def fits(polygon):
        return (
            isinstance(polygon, list)
            and len(polygon) >= 6
            and len(polygon) % 2 == 0
            and all(isinstance(number, int | float) for number in polygon)
        )

    exponents = ["e-" in json.dumps(value) for value in values]
    expected = [
        isinstance(value, list) and bool(value) and all(map(fits, value)) and not exponent
        for value, exponent in zip(values, exponents, strict=True)
    ]
    assert are_polygons(block, ends).tolist() == expected


def test_a_number_of_hundreds_of_digits_is_left_to_others():
    text = b"[[1,2,3,4,5,%s.5]]" % (b"9" * 400)
    block, ends = columns._joined([b"[[1,2,3,4,5,6]]", text, b"[[1,2,3,4,5,6]]"])
    assert not are_polygons(block, ends)[1]
    assert np.count_nonzero(are_polygons(*columns._joined([b"[[1,2,3,4,5,6]]"] * 3))) == 3
