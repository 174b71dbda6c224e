"""Columns are written as the records that they stand for; a split's double is left out."""

import json

from hypothesis import given, settings
from hypothesis import strategies as st

from dataset_tools.coco import Annotation, Image
from dataset_tools.coco_lines import encode_images, lines_of
from dataset_tools.columns import BoxColumns, OutlineColumns

WHOLE = st.integers(-50, 12_000)  # beyond 10,000 px columns are written record by record
FRACTIONS = st.integers(-5000, 60_000).map(lambda hundredths: hundredths / 100)
SAID = ({}, {"occluded": True}, {"note": 'a ".0,] \n{', "n": 1.0})


def box_columns(numbers):
    return st.lists(
        st.tuples(st.sampled_from("abc"), *[numbers] * 4, st.sampled_from(SAID)), min_size=1
    ).map(
        lambda rows: BoxColumns(
            *map(list, list(zip(*rows, strict=True))[:5]),
            "a.txt",
            range(len(rows)),
            [row[5] for row in rows] if any(row[5] for row in rows) else (),
        )
    )


def outline(is_polygon):
    corners = {"min_size": 3, "max_size": 6} if is_polygon else {"min_size": 2, "max_size": 2}
    points = st.lists(st.tuples(FRACTIONS, FRACTIONS), **corners)
    return st.tuples(st.sampled_from("abc"), points, st.just(is_polygon))


OUTLINES = st.lists(st.booleans().flatmap(outline), min_size=1).map(
    lambda rows: OutlineColumns(*map(list, zip(*rows, strict=True)), "a.json: shapes")
)
ANNOTATIONS = st.one_of(
    st.just([]),
    box_columns(WHOLE),
    box_columns(FRACTIONS),
    box_columns(st.one_of(WHOLE, FRACTIONS)),
    OUTLINES,
    st.just([Annotation("b", (1, 2, 3, 4), source="here")]),
)


def values(lines):
    return [json.loads(b"{" + line) for line in lines.annotations.splitlines()]


@settings(max_examples=150, deadline=None)
@given(st.lists(ANNOTATIONS, min_size=1, max_size=5))
def test_columns_are_written_as_their_records(columns):
    images = [Image(f"{i}.jpg", 9, 9, some) for i, some in enumerate(columns)]
    records = [Image(f"{i}.jpg", 9, 9, list(some)) for i, some in enumerate(columns)]
    quick, careful = lines_of(images), lines_of(records)
    assert values(quick) == values(careful)
    assert (quick.categories, quick.numbers) == (careful.categories, careful.numbers)
    assert quick.counts.tolist() == [len(some) for some in columns]


def test_what_is_left_out_is_left_out_whole():
    boxes = [Annotation(name, (0, 0, 1, 1)) for name in "abc"]
    images = [
        Image("a.jpg", 5, 5, boxes[:2], split="x", source="a"),
        Image("b.jpg", 5, 5, [], split="y", source="b"),
        Image("c.jpg", 5, 5, boxes[2:], split="x", source="c"),
    ]
    encoded = encode_images(images)
    assert list(encoded.splits) == ["x", "y"]
    kept = encoded.splits["x"].without({0})
    assert (kept.names, kept.places, kept.counts.tolist()) == (["c.jpg"], ["c"], [1])
    assert [json.loads(b"{" + line) for line in kept.images.splitlines()] == [
        {"file_name": "c.jpg", "width": 5, "height": 5}
    ]
    assert [kept.categories[number] for number in kept.numbers] == ["c"]
    assert len(kept.annotations.splitlines()) == 1
