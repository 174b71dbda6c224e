import json

import numpy as np
import pytest

from dataset_tools.errors import InputError
from tests.dataset_tools.makers import converted, picture, text

RECT = {"name": "rect", "x": 2, "y": 3, "width": 6, "height": 4}


def region(shape=RECT, **attributes):
    return {"shape_attributes": shape, "region_attributes": attributes or {"class": "cat"}}


def entry(*regions, name="a.jpg", **files):
    return {"filename": name, "size": 123, "regions": list(regions), "file_attributes": files}


def annotations(*entries):
    return {f"{e['filename']}{e['size']}": e for e in entries}


def read(tmp_path, content, name="in/via.json", encoding="utf-8", **options):
    if not isinstance(content, str):
        content = json.dumps(content, ensure_ascii=False)
    path = text(tmp_path / name, content, encoding)
    picture(tmp_path / "in/a.jpg")
    conversion, splits = converted("via", path, tmp_path / "out", **options)
    (images,) = splits.values()
    return conversion, images


def objects(tmp_path, *regions, **options):
    conversion, images = read(tmp_path, annotations(entry(*regions)), **options)
    return conversion, images["a.jpg"]["objects"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_annotations_and_projects_of_version_2(tmp_path, encoding):
    found = annotations(entry(region(**{"class": "Käfer", "sure": "no"}), caption="x", empty=""))
    project = {"_via_settings": {}, "_via_img_metadata": found, "_via_attributes": {}}
    for number, content in enumerate((found, project)):
        conversion, images = read(tmp_path / str(number), content, encoding=encoding)
        ((name, box, said),) = images["a.jpg"]["objects"]
        assert (name, box, said["attributes"]) == ("Käfer", [2, 3, 6, 4], {"sure": "no"})
        assert images["a.jpg"]["size"] == (20, 10)
        assert images["a.jpg"]["entry"]["attributes"] == {"caption": "x"}
        assert "'class' (others: 'sure')" in conversion.plan.remarks[0]
        assert not conversion.notes


def test_shapes(tmp_path):
    _, found = objects(
        tmp_path,
        region({"name": "polygon", "all_points_x": [1, 5, 5], "all_points_y": [2, 2, 8.5]}),
        region({"name": "polyline", "all_points_x": [1, 5], "all_points_y": [2, 8]}),
        region({"name": "point", "cx": 1, "cy": 2}),
        region({"name": "circle", "cx": 10, "cy": 5, "r": 4}),
        region({"name": "ellipse", "cx": 10, "cy": 5, "rx": 6, "ry": 2, "theta": np.pi / 2}),
        region({"name": "ellipse", "cx": 10, "cy": 5, "rx": 6, "ry": 0, "theta": np.pi / 6}),
    )
    entries = [said for *_, said in found]
    assert entries[0]["segmentation"] == [[1, 2, 5, 2, 5, 8.5]] and entries[0]["area"] == 13
    assert entries[1]["attributes"] == {"points": [1, 2, 5, 8], "shape": "line"}
    assert entries[2]["attributes"] == {"points": [1, 2], "shape": "point"}
    assert entries[3]["bbox"] == [6, 1, 8, 8]
    assert entries[3]["area"] == pytest.approx(np.pi * 16, rel=0.01)
    assert entries[4]["bbox"] == pytest.approx([8, -1, 4, 12])
    # By 30° clockwise: the right end of a flat one is further down the image.
    right = max(zip(*[iter(entries[5]["segmentation"][0])] * 2, strict=True))
    assert right == pytest.approx((10 + 6 * np.cos(np.pi / 6), 5 + 3))


def test_version_1_has_regions_by_number_and_closed_polygons(tmp_path):
    shape = {"name": "polygon", "all_points_x": [1, 5, 5, 1], "all_points_y": [2, 2, 8, 2]}
    old = {
        "fileref": "",
        "size": 1,
        "filename": "a.jpg",
        "base64_img_data": "",
        "file_attributes": {},
        "regions": {"0": region(shape, name="cat"), "1": region(name="dog")},
    }
    _, images = read(tmp_path, {"a.jpg1": old})
    assert [name for name, *_ in images["a.jpg"]["objects"]] == ["cat", "dog"]
    assert images["a.jpg"]["objects"][0][2]["segmentation"] == [[1, 2, 5, 2, 5, 8]]


def version_3(metadata, files=None):
    return {
        "project": {"pname": "x", "data_format_version": "3.1.1", "vid_list": ["1"]},
        "config": {},
        "attribute": {
            "1": {"aname": "kind", "type": 4, "options": {"0": "cat", "1": "dog"}},
            "2": {"aname": "seen", "type": 2, "options": {"0": "a", "1": "b"}},
            "3": {"aname": "text", "type": 1, "options": {}},
        },
        "file": files or {"1": {"fid": "1", "fname": "a.jpg", "type": 2, "loc": 1, "src": ""}},
        "view": {"1": {"fid_list": ["1"]}},
        "metadata": {
            str(i): {"vid": "1", "flg": 0, "z": [], "xy": xy, "av": av}
            for i, (xy, av) in enumerate(metadata)
        },
    }


def test_projects_of_version_3(tmp_path):
    content = version_3(
        [
            ([2, 2, 3, 6, 4], {"1": "1", "2": "0,1", "3": "0"}),
            ([7, 1, 2, 5, 2, 5, 8], {"1": "0"}),
            ([3, 10, 5, 4], {"1": "0"}),
            ([4, 10, 5, 4, 2], {"1": "0"}),
            ([1, 4, 2], {"1": "0"}),
            ([5, 4, 2, 5, 6], {"1": "0"}),
            ([8, 2, 5, 4, 1, 9, 4, 5, 8], {"1": "0"}),
            ([9, 6, 5, 10, 9, 14, 5], {"1": "0"}),
            ([], {"3": "of the image"}),
        ]
    )
    conversion, images = read(tmp_path, content)
    found = images["a.jpg"]["objects"]
    assert found[0][:2] == ("dog", [2, 3, 6, 4])
    assert found[0][2]["attributes"] == {"seen": ["a", "b"], "text": "0"}
    boxes = [box for _, box, _ in found[1:]]
    assert boxes == [
        [1, 2, 4, 6],
        [6, 1, 8, 8],
        [6, 3, 8, 4],
        [4, 2, 0, 0],
        [4, 2, 1, 4],
        [2, 1, 7, 7],
        [6, 1, 8, 8],
    ]
    assert images["a.jpg"]["entry"]["attributes"] == {"text": "of the image"}
    assert not conversion.notes.dropped


def test_what_of_version_3_is_no_region_of_an_image_is_counted(tmp_path):
    content = version_3([([2, 2, 3, 6, 4], {"1": "1"}), ([], {})])
    content["metadata"]["1"]["z"] = [1.5, 2.5]
    content["metadata"]["2"] = {"vid": "9", "xy": [1, 2, 3], "av": {}}
    content["file"]["2"] = {"fname": "a.mp4", "type": 4}
    content["view"] |= {"2": {"fid_list": ["2"]}, "3": {"fid_list": ["1", "2"]}}
    conversion, _ = read(tmp_path, content)
    assert [note.count for note in conversion.notes.dropped.values()] == [1, 1, 1, 1]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("first", ["filename", "#filename"])
def test_csv(tmp_path, end, first):
    head = (
        f"{first},file_size,file_attributes,region_count,region_id,region_shape_attributes,"
        "region_attributes"
    )
    row = '{},1,"{{}}",2,{},"{{""name"":""rect"",""x"":2,""y"":3,""width"":6,""height"":4}}",{}'
    lines = [
        head,
        row.format("a.jpg", 0, '"{""class"":""cat""}"'),
        row.format("a.jpg", 1, '"{""class"":{""dog"":true,""cat"":false}}"'),
        '"ä, b.jpg",1,"{""day"":""1""}",0,0,"{}","{}"',
    ]
    picture(tmp_path / "in/ä, b.jpg")
    content = "\ufeff" + end.join(lines) + end
    _, images = read(tmp_path, content, "in/via.csv")
    assert [found[:2] for found in images["a.jpg"]["objects"]] == [
        ("cat", [2, 3, 6, 4]),
        ("dog", [2, 3, 6, 4]),
    ]
    assert images["ä, b.jpg"]["objects"] == []
    assert images["ä, b.jpg"]["entry"]["attributes"] == {"day": "1"}


def test_the_class_attribute(tmp_path):
    regions = [region(colour="red", Type="a"), region(colour="blue"), region(colour="red")]
    conversion, found = objects(tmp_path / "a", *regions)
    assert [name for name, *_ in found] == ["a"]
    assert [note.count for note in conversion.notes.dropped.values()] == [2]
    _, found = objects(tmp_path / "b", *regions, class_attribute="colour")
    assert [name for name, *_ in found] == ["red", "blue", "red"]
    assert found[0][2]["attributes"] == {"Type": "a"}
    _, found = objects(tmp_path / "c", region(colour="red"), region(colour="red", x="1"))
    assert [name for name, *_ in found] == ["red", "red"]
    bare = {"shape_attributes": RECT, "region_attributes": {}}
    _, found = objects(tmp_path / "d", bare)
    assert [name for name, *_ in found] == ["object"]
    with pytest.raises(InputError, match="there are 'colour', 'Type'"):
        objects(tmp_path / "e", *regions, class_attribute="label")


def test_several_classes_are_several_objects(tmp_path):
    conversion, found = objects(tmp_path, region(**{"class": {"cat": True, "dog": True}}))
    assert [name for name, *_ in found] == ["cat", "dog"]
    assert "several classes" in next(iter(conversion.notes.suspicious))


def test_splits_urls_and_the_same_name_in_two_folders(tmp_path):
    for folder, width in (("train", 20), ("val", 30)):
        content = annotations(entry(region(), name="https://x.org/y/a%20b.jpg"))
        text(tmp_path / f"in/{folder}/via_region_data.json", json.dumps(content))
        picture(tmp_path / f"in/{folder}/a b.jpg", width)
    text(tmp_path / "in/other.json", "[]")
    conversion, splits = converted("via", tmp_path / "in", tmp_path / "out")
    assert {split: {n: i["size"] for n, i in s.items()} for split, s in splits.items()} == {
        "train": {"train/a b.jpg": (20, 10)},
        "val": {"val/a b.jpg": (30, 10)},
    }
    assert [note.count for note in conversion.notes.dropped.values()] == [1]


def test_what_cannot_be_read_is_counted(tmp_path):
    polygon = {"name": "polygon", "all_points_x": [1, 5], "all_points_y": [2, 2]}
    content = annotations(
        entry(region(polygon), region({"name": "star"}), region()), entry(name="z.jpg")
    )
    conversion, images = read(tmp_path, content)
    assert len(images["a.jpg"]["objects"]) == 1
    assert [note.count for note in conversion.notes.dropped.values()] == [1, 1, 1]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"a": ', "not valid JSON at line 1"),
        ({"a": 1}, "no JSON or CSV file of VIA"),
        (annotations(entry(region(RECT | {"x": "left"}))), r"regions\[0\]: x is 'left', not a num"),
        (annotations(entry(region({"name": "circle", "cx": 1}))), "cy is missing"),
        (
            annotations(entry(region({"name": "polygon", "all_points_x": [1]}))),
            "1 all_points_x but 0 all_points_y",
        ),
        (annotations(entry("x")), r"regions\[0\] is 'x'"),
        (version_3([([2, 1], {})]), "rect has 1 numbers"),
    ],
)
def test_broken_files_are_named_with_the_place(tmp_path, content, message):
    with pytest.raises(InputError, match=message):
        read(tmp_path, content)


def test_broken_csv_is_named_with_its_line(tmp_path):
    content = "filename,region_shape_attributes\na.jpg,{}\na.jpg,{x\n"
    with pytest.raises(InputError, match=r"via\.csv:3: region_shape_attributes is no JSON"):
        read(tmp_path, content, "in/via.csv")
