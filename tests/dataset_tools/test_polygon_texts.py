"""Polygons told from all else by their JSON text, against looking at what it says."""

from __future__ import annotations

import json

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from dataset_tools.polygon_texts import are_polygons, closed

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
    block, ends = closed([json.dumps(value, indent=indent).encode() for value in values])

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
    block, ends = closed([b"[[1,2,3,4,5,6]]", text, b"[[1,2,3,4,5,6]]"])
    assert not are_polygons(block, ends)[1]
    assert np.count_nonzero(are_polygons(*closed([b"[[1,2,3,4,5,6]]"] * 3))) == 3
