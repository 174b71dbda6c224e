import json
from pathlib import Path

import numpy as np
import pytest

from dataset_tools.errors import InputError
from dataset_tools.rle import encode_mask, polygons_area
from tests.dataset_tools.makers import converted, picture, text

BOX = {
    "id": "17",
    "category": "car",
    "attributes": {"occluded": True, "truncated": False, "trafficLightColor": "NA", "crowd": True},
    "box2d": {"x1": 2.5, "y1": 1, "x2": 7.5, "y2": 4},
}
LANE = {"category": "lane/road curb", "poly2d": [{"vertices": [[0, 0], [5, 5]], "types": "LL"}]}


def frame(*labels, **more) -> dict:
    return {
        "name": "a.jpg",
        "attributes": {"weather": "rainy", "timeofday": "night"},
        "timestamp": 10000,
        "labels": list(labels),
        **more,
    }


def bdd(folder: Path, content, name: str = "labels/det_train.json") -> Path:
    picture(folder / "images/100k/train/a.jpg")
    text(folder / name, json.dumps(content))
    return folder


def only(splits: dict) -> dict:
    ((_, image),) = splits["train"].items()
    return image


def test_last_pixels_attributes_and_what_is_no_object(tmp_path):
    source = bdd(tmp_path / "in", [frame(BOX, LANE, {"category": "car", "box2d": None})])
    conversion, splits = converted("bdd100k", source, tmp_path / "out")
    image = only(splits)
    assert image["entry"]["attributes"] == {
        "weather": "rainy",
        "timeofday": "night",
        "timestamp": 10000,
    }
    ((name, box, entry),) = image["objects"]
    assert (name, box, entry["iscrowd"]) == ("car", [2.5, 1, 6, 4], 1)
    assert entry["attributes"] == {
        "occluded": True,
        "truncated": False,
        "trafficLightColor": "NA",
        "track_id": "17",
    }
    assert {note.kind: note.count for note in conversion.notes.dropped.values()} == {
        "lane, which is no object": 1,
        "label without box2d, poly2d and rle": 1,
    }
    _, splits = converted("bdd100k", source, tmp_path / "corners", edges="corners")
    assert only(splits)["objects"][0][1] == [2.5, 1, 5, 3]


def test_curves_are_curved(tmp_path):
    # A half disc of radius 4 around (10, 5), its arc as two Bézier curves, drawn from a control
    # point on, for files may begin anywhere.
    k = 4 * 0.5522847498
    vertices = [[6, 5 - k], [10 - k, 1], [10, 1], [10 + k, 1], [14, 5 - k], [14, 5], [6, 5]]
    polygon = {"vertices": vertices, "types": "CCLCCLL", "closed": True}
    line = {"vertices": [[0, 0], [1, 1], [2, 0]], "types": "LLL", "closed": False}
    label = {"category": "rider", "poly2d": [polygon, line]}
    conversion, splits = converted("bdd100k", bdd(tmp_path / "in", [frame(label)]), tmp_path / "o")
    ((_, box, entry),) = only(splits)["objects"]
    assert box == [6, 1, 8, 4]
    assert polygons_area(entry["segmentation"]) == pytest.approx(8 * np.pi, rel=0.01)
    (note,) = conversion.notes.dropped.values()
    assert note.kind.startswith("open line")


def test_scalabel_with_sizes_videos_and_masks(tmp_path):
    mask = np.zeros((10, 20), bool)
    mask[2:5, 3:9] = True
    label = {"id": "1", "category": "car", "rle": encode_mask(mask), "score": 0.5}
    content = {
        "frames": [frame(label, videoName="v1", frameIndex=4), frame(name="../../gone.jpg")],
        "config": {"imageSize": {"width": 20, "height": 10}},
    }
    source = bdd(tmp_path / "in", content)
    conversion, splits = converted("bdd100k", source, tmp_path / "out")
    image = splits["train"]["images/100k/train/a.jpg"]
    ((_, box, entry),) = image["objects"]
    assert (box, entry["area"]) == ([3, 2, 6, 3], 18)
    assert entry["attributes"] == {"track_id": "1", "score": 0.5}
    assert image["entry"]["attributes"]["video"] == "v1"
    assert image["entry"]["attributes"]["frame"] == 4
    assert splits["train"]["gone.jpg"]["size"] == (20, 10)  # not ../../gone.jpg
    (note,) = conversion.notes.suspicious.values()
    assert note.kind == "image file that is missing (kept)"


def test_the_first_release_has_a_file_for_each_image(tmp_path):
    triangle = {"category": "car", "poly2d": [[1, 1, "L"], [9, 1, "L"], [9, 7, "L"]]}
    area = {"category": "area/drivable", "poly2d": [[1, 1, "L"], [9, 1, "L"], [9, 7, "L"]]}
    content = {"name": "a", "frames": [{"timestamp": 1, "objects": [triangle, area, BOX]}]}
    source = bdd(tmp_path / "in", content, "labels/100k/train/a.json")
    conversion, splits = converted("bdd100k", source, tmp_path / "out")
    first, second = only(splits)["objects"]
    assert first[1] == [1, 1, 8, 6] and first[2]["area"] == 24
    assert second[1] == [2.5, 1, 6, 4]
    assert "area, which is no object" in conversion.notes.dropped


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([{"labels": []}], r"det_train\.json: frames\[0\] has no name"),
        ({"frames": 3}, "neither a list of frames"),
        ([frame(BOX, size=[1, 2])], r"frames\[0\]\.size is \[1, 2\], not an object"),
        ([frame(BOX, size={"width": 2})], "width and height are not whole numbers"),
        ([frame(BOX | {"attributes": 3})], r"labels\[0\]\.attributes is 3"),
        ([frame(BOX | {"category": "car", "box2d": 4})], r"labels\[0\]: "),
        ([frame({"box2d": {}})], r"frames\[0\]\.labels\[0\]: the label has no category"),
        ([frame(BOX | {"box2d": {"x1": 1}})], r"labels\[0\]: 'y1'"),
        ([frame({"category": "a", "poly2d": [{"vertices": [[1, 2]], "types": "LL"}]})], "types"),
        (
            [frame({"category": "a", "poly2d": [{"vertices": [[1, 2]] * 3, "types": "LCL"}]})],
            "two control points",
        ),
    ],
)
def test_broken_files_are_named_with_the_entry(tmp_path, content, message):
    source = bdd(tmp_path / "in", content)
    file = source / "labels/det_train.json"
    with pytest.raises(InputError, match=message):
        converted("bdd100k", file, tmp_path / "out", images=source)
