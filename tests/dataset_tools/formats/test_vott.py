import json

import pytest

from dataset_tools.coco import load_coco
from dataset_tools.errors import InputError
from tests.dataset_tools.makers import converted, picture, text


def asset(name="a.jpg", number="1", size=(20, 10), state=2, **more):
    path = more.pop("path", f"file:/C:/pictures/{name}")
    extent = {"width": size[0], "height": size[1]} if size else None
    base = {"format": "jpg", "id": number, "name": name, "path": path, "state": state, "type": 1}
    return {**base, "size": extent, **more}


def region(box=(2, 3, 6, 4), tags=("cat",), kind="RECTANGLE", points=None):
    left, top, width, height = box
    corners = [(1, 2), (3, 4)]  # never those of the box, to tell which are read
    return {
        "id": "x",
        "type": kind,
        "tags": list(tags),
        "boundingBox": {"left": left, "top": top, "width": width, "height": height},
        "points": [{"x": x, "y": y} for x, y in points or corners],
    }


def entry(*regions, **of_asset):
    return {"asset": asset(**of_asset), "regions": list(regions), "version": "2.2.0"}


def export(*entries, tags=("dog", "cat")):
    return {
        "name": "pets",
        "securityToken": "t",
        "videoSettings": {"frameExtractionRate": 15},
        "tags": [{"name": tag, "color": "#fff"} for tag in tags],
        "version": "2.2.0",
        "assets": {e["asset"]["id"]: e for e in entries},
    }


def read(tmp_path, content, encoding="utf-8"):
    path = text(tmp_path / "in/pets-export.json", json.dumps(content), encoding)
    picture(tmp_path / "in/a.jpg")
    conversion, splits = converted("vott", path, tmp_path / "out")
    return conversion, splits["all"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_the_export(tmp_path, encoding):
    polygon = region(kind="POLYGON", points=[(1, 2), (5, 2), (5, 8.5)], tags=["Käfer"])
    conversion, images = read(tmp_path, export(entry(region(), polygon)), encoding)
    found = images["a.jpg"]["objects"]
    assert found[0][:2] == ("cat", [2, 3, 6, 4]) and "segmentation" not in found[0][2]
    assert found[1][0] == "Käfer" and found[1][2]["segmentation"] == [[1, 2, 5, 2, 5, 8.5]]
    assert images["a.jpg"]["size"] == (20, 10)
    names = [category.name for category in load_coco(tmp_path / "out/all.json").categories]
    assert names == ["dog", "cat", "Käfer"]
    assert not conversion.notes


def test_files_of_single_assets_with_the_project_beside_them(tmp_path):
    source = tmp_path / "in"
    for number in "12":
        content = entry(region(), name=f"{number}%20ä.jpg", number=number)
        text(source / f"{number}-asset.json", json.dumps(content))
        picture(source / f"{number} ä.jpg")
    project = export() | {"assets": {"1": asset()}, "sourceConnection": {}}
    text(source / "pets.vott", json.dumps(project))
    conversion, splits = converted("vott", source, tmp_path / "out")
    assert sorted(splits["all"]) == ["1 ä.jpg", "2 ä.jpg"]
    names = [category.name for category in load_coco(tmp_path / "out/all.json").categories]
    assert names == ["dog", "cat"]
    assert not conversion.notes


def test_an_asset_in_its_file_and_in_the_export_is_taken_once(tmp_path):
    text(tmp_path / "in/1-asset.json", json.dumps(entry(region())))
    text(tmp_path / "in/export.json", json.dumps(export(entry(region()))))
    conversion, splits = converted("vott", tmp_path / "in", tmp_path / "out")
    assert len(splits["all"]["a.jpg"]["objects"]) == 1
    assert any("twice" in kind for kind in conversion.notes.suspicious)


def test_several_tags_none_and_other_shapes(tmp_path):
    conversion, images = read(
        tmp_path,
        export(
            entry(
                region(tags=["cat", "dog"]),
                region(tags=[]),
                region(kind="STAR"),
                region(kind="POLYLINE", points=[(1, 2), (5, 8)]),
            )
        ),
    )
    found = images["a.jpg"]["objects"]
    assert [name for name, *_ in found] == ["cat", "dog", "cat"]
    assert found[2][2]["attributes"] == {"points": [1, 2, 5, 8], "shape": "line"}
    assert [note.count for note in conversion.notes.dropped.values()] == [1, 1]
    assert [note.count for note in conversion.notes.suspicious.values()] == [1]


def test_assets_not_looked_at_are_left_out_and_empty_ones_kept(tmp_path):
    conversion, images = read(
        tmp_path, export(entry(state=1), entry(name="b.jpg", number="2", state=0))
    )
    assert {name: image["objects"] for name, image in images.items()} == {"a.jpg": []}
    assert "never looked at" in next(iter(conversion.notes.dropped))


def test_frames_of_videos(tmp_path):
    parent = {"name": "my%20clip.mp4", "id": "9"}
    of_frame = {"parent": parent, "timestamp": 2.5, "type": 3}
    content = export(entry(region(), name="my%20clip.mp4#t=2.5", **of_frame))
    picture(tmp_path / "in/my clip.mp4#t=2.5.jpg")
    _, images = read(tmp_path, content)
    image = images["my clip.mp4#t=2.5.jpg"]
    assert image["entry"]["attributes"] == {"video": "my clip.mp4", "timestamp": 2.5}


def test_the_path_decides_between_images_of_one_name(tmp_path):
    entries = [
        entry(name="b.jpg", number=n, size=None, path=f"file:C:\\x\\{n}\\b.jpg") for n in "12"
    ]
    picture(tmp_path / "in/1/b.jpg", 30)
    picture(tmp_path / "in/2/b.jpg", 40)
    _, images = read(tmp_path, export(*entries))
    assert {name: image["size"] for name, image in images.items()} == {
        "1/b.jpg": (30, 10),
        "2/b.jpg": (40, 10),
    }


def test_missing_images_keep_their_recorded_size(tmp_path):
    conversion, images = read(
        tmp_path,
        export(entry(name="z.jpg"), entry(name="y.jpg", number="2", size=None)),
    )
    assert images["z.jpg"]["size"] == (20, 10) and len(images) == 1
    assert [note.count for note in conversion.notes.dropped.values()] == [1]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"a": 1}, "no asset of VoTT"),
        (export(), "no asset of VoTT"),
        (export(entry(region(box=(1, "x", 2, 3), points=[(1, 2)]))), "top is 'x', not a number"),
        (export(entry(region(points=[("a", 1)]))), r"regions\[0\] points\[0\]: x is 'a'"),
        (export(entry("x")), r"regions\[0\] is 'x', not an object"),
        (export(entry(region(tags=[3]))), "tag is 3, not a text"),
    ],
)
def test_broken_files_are_named_with_the_place(tmp_path, content, message):
    with pytest.raises(InputError, match=message):
        read(tmp_path, content)
