import json

import pytest

from dataset_tools.errors import InputError
from tests.dataset_tools.makers import converted, picture, text

BOX = {
    "feature_id": "f1",
    "name": "cat",
    "annotation_kind": "ImageBoundingBox",
    "classifications": [],
    "bounding_box": {"top": 3.0, "left": 2.5, "height": 4.0, "width": 6.0},
}


def label(*objects, classifications=(), **more):
    said = {"objects": list(objects), "classifications": list(classifications)}
    return {"label_kind": "Default", "annotations": said | {"relationships": []}} | more


def row(*labels, projects=None, size=(20, 10), **data):
    names = {"id": "r1", "external_id": "a.jpg", "row_data": "https://host/x/a.jpg?sign=1"} | data
    media = {"width": size[0], "height": size[1], "mime_type": "image/jpeg"} if size else {}
    projects = projects or {"p1": {"name": "Cats", "labels": list(labels)}}
    return {"data_row": names, "media_attributes": media, "projects": projects}


def read(tmp_path, *rows, encoding="utf-8", options=None):
    picture(tmp_path / "in/a.jpg")
    lines = "\r\n".join(json.dumps(entry, ensure_ascii=False) for entry in rows) + "\n\n"
    path = text(tmp_path / "in/export.ndjson", lines, encoding)
    conversion, splits = converted("labelbox", path, tmp_path / "out", **(options or {}))
    return conversion, splits["all"]


def test_shapes_are_in_pixels(tmp_path):
    corners = [{"x": 2, "y": 1}, {"x": 10, "y": 1}, {"x": 10, "y": 9.5}, {"x": 2, "y": 1}]
    polygon = {"name": "dog", "annotation_kind": "ImagePolygon", "polygon": corners}
    line = {"name": "way", "annotation_kind": "ImagePolyline", "line": corners[:2]}
    point = {"name": "eye", "annotation_kind": "ImagePoint", "point": {"x": 3, "y": 4}}
    mask = {"name": "sky", "annotation_kind": "ImageSegmentationMask", "mask": {"url": "https://x"}}
    cuboid = {"name": "box", "annotation_kind": "Cuboid"}
    conversion, found = read(tmp_path, row(label(BOX, polygon, line, point, mask, cuboid)))
    cat, dog, way, eye = found["a.jpg"]["objects"]
    assert cat[:2] == ("cat", [2.5, 3, 6, 4])
    # The point that closes the polygon is the first one once more.
    assert dog[:2] == ("dog", [2, 1, 8, 8.5])
    assert dog[2]["segmentation"] == [[2, 1, 10, 1, 10, 9.5]]
    assert way[2]["attributes"] == {"points": [2, 1, 10, 1], "shape": "line"}
    assert eye[2]["attributes"] == {"points": [3, 4], "shape": "point"}
    assert list(conversion.notes.dropped) == ["mask by URL (not fetched)", "object Cuboid"]


def test_classifications_of_images_and_objects(tmp_path):
    inner = {"name": "shade", "radio_answer": {"name": "dark", "classifications": []}}
    colour = {"name": "colour", "radio_answer": {"name": "red", "classifications": [inner]}}
    damage = {"name": "damage", "checklist_answers": [{"name": "dented"}, {"name": "wet"}]}
    remark = {"name": "remark", "text_answer": {"content": "old"}}
    known = BOX | {"classifications": [colour, damage, remark]}
    conversion, found = read(tmp_path, row(label(known, classifications=[colour, damage, remark])))
    image = found["a.jpg"]
    assert image["entry"]["attributes"] == {"shade": "dark", "remark": "old"}
    assert [(n, b, e["attributes"]) for n, b, e in image["objects"]] == [
        (
            "cat",
            [2.5, 3, 6, 4],
            {"colour": "red", "shade": "dark", "damage": ["dented", "wet"], "remark": "old"},
        ),
        ("red", [0, 0, 20, 10], {"whole_image": True, "question": "colour"}),
        ("dented", [0, 0, 20, 10], {"whole_image": True, "question": "damage"}),
        ("wet", [0, 0, 20, 10], {"whole_image": True, "question": "damage"}),
    ]
    assert not conversion.notes


def test_unlabelled_skipped_empty_and_videos(tmp_path):
    for name in "bcd":
        picture(tmp_path / f"in/{name}.jpg")
    video = row(label(BOX))
    video["media_attributes"]["mime_type"] = "video/mp4"
    skipped = label(BOX, performance_details={"skipped": True})
    conversion, found = read(
        tmp_path,
        row(label()),
        row(external_id="b.jpg"),
        row(skipped, external_id="c.jpg"),
        video,
    )
    assert {name: image["objects"] for name, image in found.items()} == {"a.jpg": []}
    assert {note.kind: note.count for note in conversion.notes.dropped.values()} == {
        "data row that is not labelled": 2,
        "label that was skipped": 1,
        "data row that is no image": 1,
    }


def test_several_labels_and_projects(tmp_path):
    other = BOX | {"name": "dog"}
    rows = [row(label(BOX), label(other))]
    conversion, found = read(tmp_path, *rows)
    assert [name for name, *_ in found["a.jpg"]["objects"]] == ["cat"]
    assert list(conversion.notes.dropped) == ["further label of a data row (see --labels)"]
    _, found = read(tmp_path, *rows, options={"labels": "all"})
    assert [name for name, *_ in found["a.jpg"]["objects"]] == ["cat", "dog"]
    projects = {
        "p1": {"name": "Cats", "labels": [label(BOX)]},
        "p2": {"name": "Dogs", "labels": [label(other)]},
    }
    for project, names in ((None, ["cat", "dog"]), ("Cats", ["cat"]), ("p2", ["dog"])):
        _, found = read(tmp_path, row(projects=projects), options={"project": project})
        assert [name for name, *_ in found["a.jpg"]["objects"]] == names
    with pytest.raises(InputError, match="a project 'Birds'"):
        read(tmp_path, *rows, options={"project": "Birds"})


@pytest.mark.parametrize(
    "names",
    [
        {"external_id": "photos/a.jpg"},
        {"external_id": "other", "global_key": "a.jpg"},
        {"external_id": None, "row_data": "https://host/x/a.jpg?X-Sign=a/b.jpg"},
        {"external_id": "s3://bucket/deep/a.jpg", "row_data": "s3://bucket/deep/zz.jpg"},
    ],
)
def test_names_of_images(tmp_path, names):
    _, found = read(tmp_path, row(label(BOX), **names))
    assert list(found) == ["a.jpg"]


def test_missing_images_keep_their_recorded_size_else_are_dropped(tmp_path):
    there = row(label(BOX), external_id="../x/z.jpg", row_data="https://h/w.jpg", size=(7, 5))
    gone = row(label(BOX), external_id="y.jpg", row_data="https://h/y.jpg", size=None)
    conversion, found = read(tmp_path, there, gone)
    assert {name: image["size"] for name, image in found.items()} == {"z.jpg": (7, 5)}
    assert list(conversion.notes.dropped) == ["image that has no recorded size and is not there"]


def test_encodings_lists_of_rows_and_splits(tmp_path):
    for encoding in ("utf-8-sig", "utf-16"):
        conversion, _ = read(tmp_path, row(label(BOX | {"name": "Käfer"})), encoding=encoding)
        assert list(conversion.files["all"].per_category) == ["Käfer"]
    for split in ("train", "valid"):
        picture(tmp_path / f"more/{split}.jpg")
        rows = [row(label(BOX), external_id=f"{split}.jpg")]
        text(tmp_path / f"more/{split}.json", json.dumps(rows))
    _, splits = converted("labelbox", tmp_path / "more", tmp_path / "out")
    assert {split: list(found) for split, found in splits.items()} == {
        "train": ["train.jpg"],
        "val": ["valid.jpg"],
    }


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (json.dumps(row(label(BOX))) + "\n{", r"export\.ndjson:2: not valid JSON"),
        ("{}\n3", r"export\.ndjson:2: is not an object"),
        (json.dumps(row(label(BOX | {"bounding_box": {"top": 1}}))), "left is missing"),
        (json.dumps(row(label(BOX | {"name": 3}))), r":1 objects\[0\]: name is 3, not a text"),
        (
            json.dumps(row(label({"name": "a", "polygon": [{"x": 1, "y": 2}]}))),
            "a polygon has three corners, not 1",
        ),
        (
            json.dumps(row(label(BOX), external_id=None, row_data=None)),
            "none of external_id, global_key, row_data",
        ),
    ],
)
def test_broken_exports(tmp_path, lines, message):
    path = text(tmp_path / "in/export.ndjson", lines)
    with pytest.raises(InputError, match=message):
        converted("labelbox", path, tmp_path / "out")
