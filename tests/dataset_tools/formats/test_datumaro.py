import json
import math

import numpy as np
import pytest

from dataset_tools.convert import convert_dataset
from dataset_tools.errors import InputError
from dataset_tools.export import export_dataset
from dataset_tools.rle import decode_mask, encode_mask
from tests.dataset_tools.makers import converted, picture, text
from tests.dataset_tools.round_trips import comparable

CATEGORIES = {
    "label": {"labels": [{"name": "dog", "parent": "animal"}, {"name": "cat", "parent": ""}]},
    "points": {"items": [{"label_id": 1, "labels": ["nose", "tail"], "joints": [[1, 2]]}]},
}
POLYGON = [2.0, 1.0, 10.0, 1.0, 10.0, 9.0]


def box(*xywh, **more):
    return {"id": 1, "type": "bbox", "label_id": 0, "bbox": list(xywh), "group": 0} | more


def item(*annotations, **changes):
    image = {"path": "a.jpg", "size": [10, 20]}
    return {"id": "a", "annotations": list(annotations), "image": image} | changes


def dataset(folder, *items, subset="default", encoding="utf-8", categories=CATEGORIES):
    picture(folder / f"images/{subset}/a.jpg")
    content = {"info": {}, "categories": categories, "items": list(items)}
    text(folder / f"annotations/{subset}.json", json.dumps(content), encoding)
    return folder


def read(tmp_path, *annotations, options=None, **changes):
    source = dataset(tmp_path / "in", item(*annotations, **changes))
    conversion, splits = converted("datumaro", source, tmp_path / "out", **(options or {}))
    return conversion, splits["all"]["images/default/a.jpg"]


def test_boxes_polygons_masks_and_lines(tmp_path):
    mask = np.zeros((10, 20), np.uint8)
    mask[2:4, 3:8] = 1
    conversion, image = read(
        tmp_path,
        box(1, 2, 3.5, 4),
        {"type": "polygon", "label_id": 1, "points": POLYGON, "z_order": 2},
        {"type": "mask", "label_id": 0, "rle": encode_mask(mask)},
        {"type": "polyline", "label_id": 0, "points": [1, 2, 3, 4]},
        {"type": "points", "label_id": 0, "points": [5, 6], "visibility": [2]},
    )
    assert image["size"] == (20, 10)  # the size in the file is height, width
    plain, polygon, pixels, line, point = image["objects"]
    assert plain[:2] == ("dog", [1, 2, 3.5, 4])
    assert polygon[:2] == ("cat", [2, 1, 8, 8])
    assert polygon[2]["segmentation"] == [POLYGON]
    assert polygon[2]["attributes"] == {"z_order": 2}
    assert pixels[1] == [3, 2, 5, 2]
    assert (decode_mask(pixels[2]["segmentation"]) == mask).all()
    assert line[2]["attributes"] == {"points": [1, 2, 3, 4], "shape": "line"}
    assert point[2]["attributes"] == {"points": [5, 6], "shape": "point"}
    assert not conversion.notes
    dog, cat = json.loads((tmp_path / "out/all.json").read_text())["categories"]
    assert (dog["name"], dog["supercategory"]) == ("dog", "animal")
    assert (cat["keypoints"], cat["skeleton"]) == (["nose", "tail"], [[1, 2]])


def test_cvat_turns_boxes_clockwise_about_their_centre(tmp_path):
    attributes = {"rotation": 90.0, "occluded": False}
    _, image = read(
        tmp_path,
        box(4, 3, 8, 4, attributes=attributes),
        box(1, 2, 3, 4, attributes={"rotation": 0.0}),
    )
    (_, turned, entry), (_, plain, other) = image["objects"]
    assert turned == pytest.approx([6, 1, 4, 8])
    assert entry["attributes"] == {"rbox": pytest.approx([8, 5, 8, 4, -90]), "occluded": False}
    assert (plain, other.get("attributes")) == ([1, 2, 3, 4], None)


def test_crowds_labels_captions_and_ellipses(tmp_path):
    conversion, image = read(
        tmp_path,
        box(1, 2, 3, 4, attributes={"is_crowd": True, "age": 3}),
        {"type": "label", "label_id": 1, "attributes": {"sure": True}},
        {"type": "caption", "caption": "A dog."},
        {"type": "ellipse", "label_id": 0, "points": [2, 1, 10, 5]},
        {"type": "cuboid_3d", "label_id": 0},
        box(1, 2, 3, 4, label_id=None),
        attr={"site": "north"},
    )
    crowd, label, ellipse = image["objects"]
    assert crowd[2]["iscrowd"] == 1 and crowd[2]["attributes"] == {"age": 3}
    assert label[:2] == ("cat", [0, 0, 20, 10])
    assert label[2]["attributes"] == {"sure": True, "whole_image": True}
    assert ellipse[1] == pytest.approx([2, 1, 8, 4])
    assert ellipse[2]["area"] == pytest.approx(math.pi * 4 * 2, rel=0.003)
    assert image["entry"]["attributes"] == {"site": "north", "captions": ["A dog."]}
    assert list(conversion.notes.dropped) == [
        "annotation of type cuboid_3d",
        "annotation without a label",
    ]


def test_annotations_of_a_group_are_one_object(tmp_path):
    polygon = {"type": "polygon", "label_id": 1, "group": 5}
    parts = [
        polygon | {"points": POLYGON},
        box(1, 1, 15, 8, label_id=1, group=5),
        polygon | {"points": [12, 1, 15, 1, 15, 4], "attributes": {"a": 1}},
        {"type": "points", "label_id": 1, "group": 5, "points": [3, 3, 9, 2], "visibility": [2, 0]},
    ]
    _, image = read(tmp_path, *parts)
    ((name, xywh, entry),) = image["objects"]
    assert (name, xywh) == ("cat", [1, 1, 15, 8])
    assert entry["segmentation"] == [POLYGON, [12, 1, 15, 1, 15, 4]]
    assert entry["keypoints"] == [3, 3, 2, 9, 2, 0]
    assert entry["attributes"] == {"a": 1}
    _, image = read(tmp_path, *parts, options={"groups": "apart"})
    assert [e["attributes"]["group"] for *_, e in image["objects"]] == [5, 5, 5, 5]


def test_a_group_of_objects_stays_one(tmp_path):
    boxes = [box(x, 1, 2, 2, group=3) for x in (1, 5)]
    other = box(9, 1, 2, 2, group=3, label_id=1)
    _, image = read(tmp_path, *boxes, other)
    assert [(n, b[0], e["attributes"]) for n, b, e in image["objects"]] == [
        ("dog", 1, {"group": 3}),
        ("dog", 5, {"group": 3}),
        ("cat", 9, {"group": 3}),
    ]


def test_subsets_are_splits_and_items_need_no_image_entry(tmp_path):
    for subset, encoding in (("train", "utf-8-sig"), ("validation", "utf-16")):
        dataset(tmp_path / "in", item(box(1, 2, 3, 4)), subset=subset, encoding=encoding)
    bare = {"id": "sub/b", "annotations": []}
    picture(tmp_path / "in/images/odd/sub/b.jpg")
    dataset(tmp_path / "in", bare, {"id": "c", "annotations": []}, subset="odd")
    conversion, splits = converted("datumaro", tmp_path / "in", tmp_path / "out")
    assert {split: list(found) for split, found in splits.items()} == {
        "train": ["images/train/a.jpg"],
        "val": ["images/validation/a.jpg"],
        "odd": ["images/odd/sub/b.jpg"],
    }
    (note,) = conversion.notes.dropped.values()
    assert note.kind == "image that has no recorded size and is not there"


@pytest.mark.parametrize(
    ("annotation", "message"),
    [
        (box(1, 2, 3), r"item 'a' annotations\[0\]: bbox is not four numbers"),
        (box(1, 2, 3, "x"), "bbox is 'x', not a number"),
        (box(1, 2, 3, 4, label_id=7), "the categories have no label 7"),
        (box(1, 2, 3, 4, label_id=-1), "the categories have no label -1"),
        ({"type": "polygon", "label_id": 0, "points": [1, 2, 3]}, "3 numbers are no points"),
        (
            {"type": "mask", "label_id": 0, "rle": {"size": [2, 2], "counts": "1"}},
            "broken RLE",
        ),
        ({"label_id": 1}, "type is missing, not a text"),
    ],
)
def test_broken_annotations(tmp_path, annotation, message):
    with pytest.raises(InputError, match=message):
        read(tmp_path, annotation)


def test_broken_files(tmp_path):
    path = text(tmp_path / "in/x.json", '{"items": 3}')
    with pytest.raises(InputError, match='no list "items"'):
        converted("datumaro", path, tmp_path / "out")
    with pytest.raises(InputError, match="no JSON of Datumaro"):
        converted("datumaro", tmp_path / "in", tmp_path / "out")
    twice = {"label": {"labels": [{"name": "a", "parent": ""}] * 2}}
    source = dataset(tmp_path / "twice", categories=twice)
    with pytest.raises(InputError, match="'a' is there twice"):
        converted("datumaro", source, tmp_path / "out")


def test_points_of_another_number_than_the_class_has_stay_points(tmp_path):
    # Datumaro does not hold the two against each other.
    points = {"type": "points", "label_id": 1, "points": [1, 2], "visibility": [2]}
    conversion, image = read(tmp_path, points)
    ((name, _, entry),) = image["objects"]
    assert (name, entry["attributes"]["points"]) == ("cat", [1, 2])
    assert "keypoints" not in entry
    (note,) = conversion.notes.suspicious
    assert note.startswith("points of another number")


def test_a_dataset_read_written_and_read_again_is_the_same(tmp_path):
    read(
        tmp_path,
        box(1, 2, 3.5, 4, group=1),
        box(4, 2, 3.5, 4, group=1),
        box(4, 3, 8, 4, attributes={"rotation": 30.0}),
        {"type": "polygon", "label_id": 1, "points": POLYGON, "z_order": 2},
        {"type": "points", "label_id": 1, "points": [3, 3, 9, 2], "visibility": [2, 1]},
        {"type": "points", "label_id": 0, "points": [3, 3]},
        {"type": "caption", "caption": "A dog."},
        {"type": "ellipse", "label_id": 0, "points": [2, 1, 10, 5]},
        attr={"site": "north"},
    )
    export = export_dataset("datumaro", {None: tmp_path / "out/all.json"}, tmp_path / "there")
    convert_dataset("datumaro", export.folder, tmp_path / "back", images=tmp_path / "in")
    once, again = (comparable(tmp_path / name / "all.json") for name in ("out", "back"))
    assert once == again
    assert not export.notes
    assert (tmp_path / "there/images/default/images/default/a.jpg").is_file()
