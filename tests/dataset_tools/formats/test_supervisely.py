import base64
import io
import json
import zlib

import numpy as np
import pytest
from PIL import Image as Pillow

from dataset_tools.convert import convert_dataset
from dataset_tools.errors import InputError
from dataset_tools.export import export_dataset
from dataset_tools.rle import decode_mask
from tests.dataset_tools.makers import converted, picture, text
from tests.dataset_tools.round_trips import comparable

META = {
    "classes": [
        {"title": "dog", "shape": "rectangle", "color": "#F00", "geometry_config": {}},
        {
            "title": "cat",
            "shape": "graph",
            "geometry_config": {
                "nodes": {"n1": {"label": "nose", "loc": [0, 0]}, "n2": {"label": "tail"}},
                "edges": [{"src": "n1", "dst": "n2"}],
            },
        },
    ],
    "tags": [{"name": "sunny", "value_type": "none"}],
}


def drawn(kind, exterior, interior=(), title="dog", **more):
    shape = {"exterior": exterior, "interior": list(interior)}
    return {"geometryType": kind, "classTitle": title, "points": shape, "tags": []} | more


def bitmap(image, origin, title="dog"):
    png = io.BytesIO()
    image.save(png, "PNG")
    data = base64.b64encode(zlib.compress(png.getvalue())).decode()
    return {
        "geometryType": "bitmap",
        "classTitle": title,
        "bitmap": {"data": data, "origin": origin},
    }


def project(folder, *labels, meta=META, encoding="utf-8", **changes):
    picture(folder / "ds/img/a.jpg")
    content = {"description": "", "tags": [], "size": {"height": 10, "width": 20}}
    content |= {"objects": list(labels)} | changes
    text(folder / "ds/ann/a.jpg.json", json.dumps(content), encoding)
    if meta:
        text(folder / "meta.json", json.dumps(meta))
    return folder


def read(tmp_path, *labels, options=None, **changes):
    source = project(tmp_path / "in", *labels, **changes)
    conversion, splits = converted("supervisely", source, tmp_path / "out", **(options or {}))
    (images_,) = splits.values()
    return conversion, images_["ds/img/a.jpg"]


def test_whole_numbers_are_pixels_and_fractions_are_corners(tmp_path):
    # The SDK's rectangle of the whole image of 20 × 10 px.
    whole = drawn("rectangle", [[0, 0], [19, 9]])
    fine = drawn("rectangle", [[8.5, 7], [2, 3]])  # from the bottom right
    conversion, image = read(tmp_path, whole, fine)
    assert [box for _, box, _ in image["objects"]] == [[0, 0, 20, 10], [2, 3, 6.5, 4]]
    assert list(conversion.files["all"].per_category) == ["dog", "cat"]
    assert not conversion.notes
    _, image = read(tmp_path, whole, fine, options={"edges": "corners"})
    assert [box for _, box, _ in image["objects"]] == [[0, 0, 19, 9], [2, 3, 6.5, 4]]
    _, image = read(tmp_path, whole, fine, options={"edges": "pixels"})
    assert [box for _, box, _ in image["objects"]] == [[0, 0, 20, 10], [2, 3, 7.5, 5]]


def test_polygons_with_and_without_holes(tmp_path):
    square = [[2, 1], [10, 1], [10, 9], [2, 9]]
    hole = [[4, 3], [6, 3], [6, 5], [4, 5]]
    _, image = read(tmp_path, drawn("polygon", square), drawn("polygon", square, [hole]))
    (_, box, plain), (_, same, holed) = image["objects"]
    assert plain["segmentation"] == [[2, 1, 10, 1, 10, 9, 2, 9]]
    assert box == same == [2, 1, 8, 8]
    expected = np.zeros((10, 20), int)
    expected[1:9, 2:10] = 1
    expected[3:5, 4:6] = 0
    assert (decode_mask(holed["segmentation"]) == expected).all()
    assert holed["area"] == 60


MASK = np.array([[1, 0, 1], [0, 1, 1]], bool)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGBA", "LA"])
def test_bitmaps_of_every_kind_of_png(tmp_path, mode):
    if mode == "P":
        image = Pillow.fromarray(MASK.astype(np.uint8)).convert("P")
        image.putpalette([0, 0, 0, 255, 0, 0])
    elif mode in ("RGBA", "LA"):
        image = Pillow.new(mode, (3, 2))
        image.putalpha(Pillow.fromarray(MASK.astype(np.uint8) * 200))
    else:
        image = Pillow.fromarray(MASK.astype(np.uint8) * 255).convert(mode)
    _, found = read(tmp_path, bitmap(image, [5, 4]))
    ((_, box, entry),) = found["objects"]
    expected = np.zeros((10, 20), bool)
    expected[4:6, 5:8] = MASK
    assert (decode_mask(entry["segmentation"]) == expected).all()
    assert (box, entry["area"]) == ([5, 4, 3, 2], 4)


def test_bitmaps_that_hang_over_are_cut_and_empty_ones_counted(tmp_path):
    image = Pillow.new("L", (30, 30), 255)
    conversion, found = read(tmp_path, bitmap(image, [-25, -26]), bitmap(image, [18, 9]))
    assert conversion.notes.suspicious["mask that goes beyond the image (cut off)"].count == 2
    assert [box for _, box, _ in found["objects"]] == [[0, 0, 5, 4], [18, 9, 2, 1]]
    outside = bitmap(image, [20, 0])
    conversion, found = read(tmp_path, outside, bitmap(Pillow.new("L", (2, 2)), [0, 0]))
    assert found["objects"] == []
    assert conversion.notes.dropped["mask without a pixel"].count == 2


def test_a_polygon_with_holes_that_hangs_over_is_told(tmp_path):
    corners = [[-2, 1], [8, 1], [8, 9], [-2, 9]]
    polygon = drawn("polygon", corners)
    polygon["points"]["interior"] = [[[2, 3], [5, 3], [5, 6], [2, 6]]]
    conversion, found = read(tmp_path, polygon)
    assert [box for _, box, _ in found["objects"]] == [[0, 1, 8, 8]]
    note = conversion.notes.suspicious["polygon with holes that goes beyond the image (cut off)"]
    assert note.count == 1


def test_lines_points_graphs_and_other_shapes(tmp_path):
    graph = {"geometryType": "graph", "classTitle": "cat"}
    graph["nodes"] = {"n2": {"loc": [7, 8], "disabled": True}, "n1": {"loc": [5, 2]}}
    line = drawn("line", [[1, 2], [3, 4], [5, 2]])
    cuboid = drawn("cuboid", [[1, 2]])
    conversion, image = read(tmp_path, line, drawn("point", [[3, 4]]), graph, cuboid)
    (_, _, way), (_, _, dot), (name, box, pose) = image["objects"]
    assert way["attributes"] == {"points": [1, 2, 3, 4, 5, 2], "shape": "line"}
    assert dot["attributes"] == {"points": [3, 4], "shape": "point"}
    assert (name, box, pose["keypoints"]) == ("cat", [5, 2, 2, 6], [5, 2, 2, 7, 8, 1])
    categories = json.loads((tmp_path / "out/all.json").read_text())["categories"]
    assert categories[1]["keypoints"] == ["nose", "tail"] and categories[1]["skeleton"] == [[1, 2]]
    assert list(conversion.notes.dropped) == ["object of the shape cuboid"]


def test_labels_of_the_same_instance_are_one_object(tmp_path):
    one, two = ([[x, 1], [x + 2, 1], [x + 2, 4]] for x in (1, 10))
    bound = [drawn("polygon", part, instance="i") for part in (one, two)]
    other = drawn("polygon", one, instance="j")
    _, image = read(tmp_path, *bound, other)
    assert [box for _, box, _ in image["objects"]] == [[1, 1, 11, 3], [1, 1, 2, 3]]


def test_tags_and_descriptions(tmp_path):
    tags = [{"name": "sunny", "value": None}, {"name": "site", "value": "north"}, {"name": "val"}]
    label = drawn("rectangle", [[2, 3], [7, 6]], description="big")
    label["tags"] = [{"name": "wet"}, {"name": "age", "value": 3}, {"name": "iscrowd"}]
    conversion, image = read(tmp_path, label, tags=tags, description="A dog.")
    assert list(conversion.files) == ["val"]
    assert image["entry"]["attributes"] == {"site": "north", "captions": ["A dog."]}
    (sunny, whole, _), (_, box, entry) = image["objects"]
    assert (sunny, whole, box) == ("sunny", [0, 0, 20, 10], [2, 3, 6, 4])
    assert entry["attributes"] == {"wet": True, "age": 3, "description": "big"}
    assert entry["iscrowd"] == 1


def test_datasets_are_splits_and_share_names(tmp_path):
    for split, width in (("train", 20), ("val", 30)):
        picture(tmp_path / f"in/{split}/img/a.jpg", width)
        content = {"size": {}, "objects": [], "tags": []}
        text(tmp_path / f"in/{split}/ann/a.jpg.json", json.dumps(content))
    picture(tmp_path / "in/val/img/b.jpg")
    text(tmp_path / "in/meta.json", json.dumps(META))
    conversion, splits = converted("supervisely", tmp_path / "in", tmp_path / "out")
    assert splits["train"]["train/img/a.jpg"]["size"] == (20, 10)
    assert splits["val"]["val/img/a.jpg"]["size"] == (30, 10)
    assert conversion.notes.dropped["image without an annotation file"].places == ["val/img/b.jpg"]
    conversion, splits = converted("supervisely", tmp_path / "in/train", tmp_path / "out2")
    assert list(splits["all"]) == ["img/a.jpg"]
    assert list(conversion.files["all"].per_category) == ["dog", "cat"]


def test_old_names_without_the_suffix_and_other_encodings(tmp_path):
    source = project(tmp_path / "in", encoding="utf-16")
    (source / "ds/ann/a.jpg.json").rename(source / "ds/ann/a.json")
    _, splits = converted("supervisely", source, tmp_path / "out")
    assert list(splits["all"]) == ["ds/img/a.jpg"]


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (drawn("rectangle", [[1, 2]]), r"objects\[0\]: a rectangle has two corners, not 1"),
        (drawn("polygon", []), "there are no points"),
        (drawn("polygon", [[1, "x"], [2, 3]]), "y is 'x', not a number"),
        (drawn("rectangle", [[1, 2], [3, 4]], title=""), "classTitle is '', not a text"),
        (bitmap(Pillow.new("L", (1, 1)), [1]), "origin of a bitmap is two numbers"),
        (
            {
                "geometryType": "bitmap",
                "classTitle": "a",
                "bitmap": {"data": "x", "origin": [0, 0]},
            },
            "the bitmap's data cannot be read",
        ),
        (
            {"geometryType": "graph", "classTitle": "cat", "nodes": {"z": {"loc": [1, 2]}}},
            "no node of that name",
        ),
        (3, r"objects\[0\] is 3, not an object"),
    ],
)
def test_broken_labels(tmp_path, label, message):
    with pytest.raises(InputError, match=message):
        read(tmp_path, label)


def test_broken_projects(tmp_path):
    twice = {"classes": [{"title": "a"}, {"title": "a"}]}
    with pytest.raises(InputError, match="'a' is there twice"):
        read(tmp_path, meta=twice)
    text(tmp_path / "in/meta.json", "[]")
    with pytest.raises(InputError, match="it is no JSON object"):
        converted("supervisely", tmp_path / "in", tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no ann/ with JSON files"):
        converted("supervisely", tmp_path / "empty", tmp_path / "out")


def test_a_project_read_written_and_read_again_is_the_same(tmp_path):
    graph = {"geometryType": "graph", "classTitle": "cat", "nodes": {"n2": {"loc": [7, 8]}}}
    labels = [
        drawn("rectangle", [[1, 2], [5, 6]]),
        drawn("polygon", [[2, 1], [10, 1], [10, 9]], [[[6, 3], [8, 3], [8, 4]]]),
        bitmap(Pillow.fromarray(MASK.astype(np.uint8) * 255), [5, 4]),
        graph,
    ]
    read(tmp_path, *labels, tags=[{"name": "sunny"}, {"name": "site", "value": 3}])
    export = export_dataset("supervisely", {None: tmp_path / "out/all.json"}, tmp_path / "there")
    convert_dataset("supervisely", export.folder, tmp_path / "back")
    once, again = (comparable(tmp_path / name / "all.json") for name in ("out", "back"))
    assert [i["annotations"] for i in once] == [i["annotations"] for i in again]
    assert once[0]["attributes"] == again[0]["attributes"] == {"site": 3}
    assert not export.notes


def test_names_that_meet_without_their_folders_are_refused(tmp_path):
    from dataset_tools.coco import Image, write_coco

    for name in ("a/b.jpg", "a_b.jpg"):
        picture(tmp_path / "photos" / name)
    records = [Image("a/b.jpg", 20, 10), Image("a_b.jpg", 20, 10)]
    write_coco(tmp_path / "all.json", records, [], {})
    with pytest.raises(InputError, match=r"two images a_b\.jpg"):
        export_dataset(
            "supervisely",
            {None: tmp_path / "all.json"},
            tmp_path / "out",
            images=tmp_path / "photos",
        )
