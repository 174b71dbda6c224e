import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataset_tools.errors import InputError
from dataset_tools.formats.brush import decode_brush, encode_brush
from dataset_tools.formats.label_studio import image_names
from dataset_tools.rle import decode_mask
from tests.dataset_tools.makers import converted, picture, text
from tests.dataset_tools.round_trips import comparable


def result(kind, labels, result_id="r1", size=(200, 100), **value):
    more = {key: value.pop(key) for key in ("parentID", "meta", "score") if key in value}
    return {
        "id": result_id,
        "type": kind,
        "from_name": "label",
        "to_name": "img",
        "original_width": size[0],
        "original_height": size[1],
        "image_rotation": 0,
        "value": {**value, kind: labels},
        **more,
    }


def rectangle(label="cat", result_id="r1", rotation=0, **more):
    box = {"x": 10, "y": 20, "width": 30.5, "height": 40, "rotation": rotation}
    return result("rectanglelabels", [label], result_id, **box | more)


def task(*results, image="/data/upload/1/abcd1234-a.jpg", **changes):
    return {
        "id": 7,
        "data": {"image": image},
        "annotations": [{"id": 1, "result": list(results), "was_cancelled": False}],
        "predictions": [],
    } | changes


def export(folder, *tasks, encoding="utf-8"):
    picture(folder / "a.jpg", 200, 100)
    return text(folder / "export.json", json.dumps(tasks), encoding)


def read(tmp_path, *tasks, **options):
    conversion, splits = converted(
        "label-studio", export(tmp_path / "in", *tasks), tmp_path / "out", **options
    )
    return conversion, splits["all"]


def objects(tmp_path, *results, **options):
    _, found = read(tmp_path, task(*results), **options)
    return found["a.jpg"]["objects"]


def test_per_cent_of_the_original_size_become_pixels(tmp_path):
    conversion, found = read(tmp_path, task(rectangle()))
    assert found["a.jpg"]["size"] == (200, 100)
    # 10 % of 200, 20 % of 100, 30.5 % of 200, 40 % of 100
    assert found["a.jpg"]["objects"][0][:2] == ("cat", [20, 20, 61, 40])
    assert not conversion.notes


def test_a_rotated_rectangle_turns_clockwise_about_its_top_left_corner_in_pixels(tmp_path):
    ((_, box, entry),) = objects(tmp_path, rectangle(rotation=90))
    # Corner (20, 20) stays; the 61 px of width run down, the 40 px of height run to the left.
    assert box == pytest.approx([-20, 20, 40, 61])
    assert entry["attributes"]["rbox"] == pytest.approx([0, 50.5, 61, 40, -90])
    ((_, box, entry),) = objects(tmp_path, rectangle(rotation=30))
    cosine, sine = math.cos(math.pi / 6), math.sin(math.pi / 6)
    right = (20 + 61 * cosine, 20 + 61 * sine)
    below = (right[0] - 40 * sine, right[1] + 40 * cosine)
    polygon = [20, 20, *right, *below, 20 - 40 * sine, 20 + 40 * cosine]
    assert entry["segmentation"] == [pytest.approx(polygon)]
    assert entry["area"] == pytest.approx(61 * 40)


def test_polygons_ellipses_and_points(tmp_path):
    polygon = result("polygonlabels", ["a"], "p", points=[[0, 0], [50, 0], [50, 50]], closed=True)
    ellipse = result("ellipselabels", ["b"], "e", x=50, y=50, radiusX=20, radiusY=10, rotation=90)
    dot = result("keypointlabels", ["c"], "k", x=25, y=75, width=0.3)
    found = {name: (box, entry) for name, box, entry in objects(tmp_path, polygon, ellipse, dot)}
    assert found["a"][1]["segmentation"] == [[0, 0, 100, 0, 100, 50]]
    # Radii of 40 and 10 px; by a quarter turn the longer one stands.
    assert found["b"][0] == pytest.approx([90, 10, 20, 80])
    assert found["b"][1]["area"] == pytest.approx(math.pi * 40 * 10, rel=0.003)

    assert found["c"][0] == [50, 75, 0, 0]
    assert found["c"][1]["attributes"] == {"points": [50, 75], "shape": "point"}


def test_key_points_with_a_parent_belong_to_its_object(tmp_path):
    box = result("rectanglelabels", ["cat"], "box", x=0, y=0, width=50, height=50, rotation=0)
    tail = result("keypointlabels", ["tail"], "k1", x=10, y=20, width=1, parentID="box")
    nose = result(
        "keypointlabels", ["nose"], "k2", x=5, y=6, width=1, parentID="box", meta={"occluded": True}
    )
    ((name, _, entry),) = objects(tmp_path, box, tail, nose)
    assert (name, entry["keypoints"]) == ("cat", [10, 6, 1, 20, 20, 2])
    (category,) = json.loads((tmp_path / "out/all.json").read_text())["categories"]
    assert category["keypoints"] == ["nose", "tail"]


# Two pixels, the second one covered, by hand: 8 words; words of 8 bits; widths 3, 4, 8, 16; a
# chunk of 4 equal words (1, 00, 011) that are 0; a chunk of 4 words (0, 00, 011): 1, 2, 3, 255.
BITS = (
    f"{8:032b} 00111 0010 0011 0111 1111 1 00 011 00000000 0 00 011 "
    "00000001 00000010 00000011 11111111"
).replace(" ", "")
STREAM = bytes(int(BITS[i : i + 8].ljust(8, "0"), 2) for i in range(0, len(BITS), 8))


def test_the_brush_stream_by_hand():
    assert decode_brush(STREAM, 2, 1).tolist() == [[False, True]]
    assert decode_brush(STREAM, 1, 2).tolist() == [[False], [True]]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (STREAM[:-1], "ends too early"),
        (STREAM[:3], "ends too early"),
        (b"\0\0\0\x0c" + STREAM[4:], "of 12 bytes, not of 2×1"),
        (STREAM[:4] + bytes([0x79]) + STREAM[5:], "words are of 16 bits"),
    ],
)
def test_broken_brushes(data, message):
    with pytest.raises(ValueError, match=message):
        decode_brush(data, 2, 1)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 30), st.integers(1, 30), st.integers(0, 2**32 - 1), st.floats(0, 1))
def test_brushes_come_back(width, height, seed, share):
    mask = np.random.default_rng(seed).random((height, width)) < share
    assert (decode_brush(encode_brush(mask), width, height) == mask).all()


def test_long_runs_of_a_brush_are_cut():
    mask = np.zeros((300, 200), bool)
    mask[250:] = True
    assert (decode_brush(encode_brush(mask), 200, 300) == mask).all()


def test_a_brush_is_a_mask(tmp_path):
    rle = list(STREAM)
    brush = result("brushlabels", ["a"], "b", size=(2, 1), format="rle", rle=rle)
    ((_, box, entry),) = objects(tmp_path, brush)
    assert (box, entry["area"]) == ([1, 0, 1, 1], 1)
    assert decode_mask(entry["segmentation"]).tolist() == [[0, 1]]
    with pytest.raises(InputError, match=r"task 7 result\[0\]: the brush's rle cannot be read"):
        objects(tmp_path, result("brushlabels", ["a"], rle=rle, format="rle"))
    with pytest.raises(InputError, match="cannot be read"):
        objects(tmp_path, result("brushlabels", ["a"], rle="abc", format="rle"))


@pytest.mark.parametrize(
    ("value", "names"),
    [
        ("/data/upload/1/abcd1234-my_a.jpg", ["abcd1234-my_a.jpg", "my_a.jpg"]),
        ("/data/upload/abcd1234-a.jpg", ["abcd1234-a.jpg", "a.jpg"]),
        ("/data/upload/1/photo-of-a.jpg", ["photo-of-a.jpg", "photo-of-a.jpg"]),
        ("/data/local-files/?d=set/one%20two/a%2Bb%23.jpg", ["set/one two/a+b#.jpg"]),
        ("https://host/x/a%20b.jpg?sign=1", ["x/a b.jpg"]),
        ("s3://bucket/x/a#1.jpg", ["x/a#1.jpg"]),
        ("http://localhost:8080/data/upload/2/0123abcd-a.jpg", ["0123abcd-a.jpg", "a.jpg"]),
        ("C:\\photos\\a.jpg", ["C:\\photos\\a.jpg"]),
    ],
)
def test_names_of_images(value, names):
    assert image_names(value) == names


def test_images_that_are_missing_keep_a_name_inside_the_root(tmp_path):
    names = [
        "/data/local-files/?d=../../etc/x.jpg",
        "/data/local-files/?d=sub/y.jpg",
        "D:\\z\\z.jpg",
    ]
    tasks = [task(rectangle(), image=name, id=number) for number, name in enumerate(names)]
    conversion, found = read(tmp_path, *tasks, task(id=9, image="https://host/w.jpg"))
    assert list(found) == ["x.jpg", "sub/y.jpg", "z.jpg"]
    (note,) = conversion.notes.dropped.values()
    assert (note.kind, note.count) == ("image that has no recorded size and is not there", 1)


def test_unlabelled_cancelled_and_empty(tmp_path):
    for name in "bc":
        picture(tmp_path / f"in/{name}.jpg", 20, 10)
    conversion, found = read(
        tmp_path,
        task(image="a.jpg"),
        task(image="b.jpg", annotations=[]),
        task(image="c.jpg", annotations=[{"result": [rectangle()], "was_cancelled": True}]),
    )
    assert {name: image["objects"] for name, image in found.items()} == {"a.jpg": []}
    assert {note.kind: note.count for note in conversion.notes.dropped.values()} == {
        "annotation that was cancelled": 1,
        "task that is not labelled": 2,
    }


@pytest.mark.parametrize(
    ("annotations", "labels"), [("first", ["one"]), ("last", ["two"]), ("all", ["one", "two"])]
)
def test_several_annotations_of_a_task(tmp_path, annotations, labels):
    both = [{"result": [rectangle(name)]} for name in ("one", "two")]
    conversion, found = read(tmp_path, task(annotations=both), annotations=annotations)
    assert [name for name, *_ in found["a.jpg"]["objects"]] == labels
    assert len(conversion.notes.dropped) == (annotations != "all")
    both[0]["ground_truth"] = True
    _, found = read(tmp_path, task(annotations=both), annotations=annotations)
    assert found["a.jpg"]["objects"][0][0] == "one"


@pytest.mark.parametrize(
    ("predictions", "labels"), [("no", []), ("fill", ["guess"]), ("add", ["guess"])]
)
def test_predictions(tmp_path, predictions, labels):
    guess = [{"result": [rectangle("guess")], "score": 0.75}]
    empty = task(rectangle(), image="a.jpg", predictions=guess)
    bare = task(image="b.jpg", predictions=guess, annotations=[])
    picture(tmp_path / "in/b.jpg", 200, 100)
    _, found = read(tmp_path, empty, bare, predictions=predictions)
    names = {image: [name for name, *_ in f["objects"]] for image, f in found.items()}
    assert names.get("b.jpg", []) == labels
    assert names["a.jpg"] == ["cat"] + ["guess"] * (predictions == "add")
    if labels:
        assert found["b.jpg"]["objects"][0][2]["attributes"] == {"score": 0.75}


def test_what_is_said_of_images_and_regions(tmp_path):
    results = [
        {"id": "c", "type": "choices", "from_name": "kind", "value": {"choices": ["sunny", "dry"]}},
        {"id": "t", "type": "textarea", "from_name": "caption", "value": {"text": ["A cat."]}},
        {"id": "n", "type": "number", "from_name": "height", "value": {"number": 3.5}},
        rectangle(meta={"text": ["note"]}, score=0.5),
        {**rectangle(), "type": "choices", "from_name": "coat"},
        {"type": "relation", "from_id": "r1", "to_id": "r1"},
    ]
    results[4]["value"] = {"x": 10, "y": 20, "choices": ["black"]}
    conversion, found = read(tmp_path, task(*results, data={"image": "a.jpg", "site": "north"}))
    image = found["a.jpg"]
    assert image["entry"]["attributes"] == {"site": "north", "captions": ["A cat."], "height": 3.5}
    assert [(name, box) for name, box, _ in image["objects"]] == [
        ("sunny", [0, 0, 200, 100]),
        ("dry", [0, 0, 200, 100]),
        ("cat", [20, 20, 61, 40]),
    ]
    assert image["objects"][0][2]["attributes"] == {"whole_image": True}
    assert image["objects"][2][2]["attributes"] == {
        "text": ["note"],
        "score": 0.5,
        "coat": "black",
    }
    assert list(conversion.notes.dropped) == ["result of type relation"]


def test_labels_apart_from_their_shape_and_several_of_them(tmp_path):
    shape = rectangle("x", "one")
    shape["type"] = "rectangle"
    del shape["value"]["rectanglelabels"]
    label = {**shape, "type": "labels", "value": {**shape["value"], "labels": ["dog", "wet"]}}
    alone = json.loads(json.dumps(shape).replace('"one"', '"two"'))
    conversion, found = read(tmp_path, task(shape, label, alone))
    ((name, box, entry),) = found["a.jpg"]["objects"]
    assert (name, box) == ("dog", [20, 20, 61, 40])
    assert entry["attributes"] == {"labels": ["dog", "wet"]}
    assert list(conversion.notes.dropped) == ["region without a label"]
    assert list(conversion.notes.suspicious) == ["region with several labels (the first taken)"]


def test_several_images_of_a_task(tmp_path):
    picture(tmp_path / "in/b.jpg", 100, 100)
    second = rectangle("dog", "r2", size=(100, 100)) | {"item_index": 1}
    _, found = read(tmp_path, task(rectangle(), second, data={"images": ["a.jpg", "b.jpg"]}))
    boxes = {name: [(n, b) for n, b, _ in image["objects"]] for name, image in found.items()}
    assert boxes == {"a.jpg": [("cat", [20, 20, 61, 40])], "b.jpg": [("dog", [10, 20, 30.5, 40])]}


def test_json_min(tmp_path):
    region = {**rectangle()["value"], "original_width": 200, "original_height": 100}
    entry = {"image": "/data/upload/1/abcd1234-a.jpg", "id": 3, "label": [region], "annotator": 1}
    entry |= {"annotation_id": 5, "choice": "sunny", "kind": {"choices": ["dry", "warm"]}}
    entry |= {
        "coat": [{k: v for k, v in region.items() if "labels" not in k} | {"choices": ["red"]}]
    }
    empty = {"image": "b.jpg", "id": 4, "annotation_id": 6, "lead_time": 2.5}
    unlabelled = {"image": "a.jpg", "id": 5}
    picture(tmp_path / "in/b.jpg", 20, 10)
    conversion, found = read(tmp_path, entry, empty, unlabelled)
    assert [(name, box) for name, box, _ in found["a.jpg"]["objects"]] == [
        ("sunny", [0, 0, 200, 100]),
        ("dry", [0, 0, 200, 100]),
        ("warm", [0, 0, 200, 100]),
        ("cat", [20, 20, 61, 40]),
    ]
    assert found["a.jpg"]["objects"][3][2]["attributes"] == {"coat": "red"}
    assert found["b.jpg"]["objects"] == []
    assert list(conversion.notes.dropped) == ["task that is not labelled"]


def test_two_annotations_of_a_task_in_json_min(tmp_path):
    region = {**rectangle()["value"], "original_width": 200, "original_height": 100}
    entries = [
        {"image": "a.jpg", "id": 3, "label": [region], "annotation_id": number} for number in (1, 2)
    ]
    conversion, found = read(tmp_path, *entries)
    assert len(found["a.jpg"]["objects"]) == 1
    assert list(conversion.notes.dropped) == ["further annotation of a task (see --annotations)"]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_encodings(tmp_path, encoding):
    path = export(tmp_path / "in", task(rectangle("Käfer")), encoding=encoding)
    conversion, _ = converted("label-studio", path, tmp_path / "out")
    assert list(conversion.files["all"].per_category) == ["Käfer"]


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        ([task(rectangle(x="wide"))], r"task 7 result\[0\]: x is 'wide', not a number"),
        ([task(rectangle(height=None))], "height is missing, not a number"),
        (
            [task(result("polygonlabels", ["a"], points=[[1]]))],
            r"points\[0\] is \[1\], not a point",
        ),
        ([task(result("polygonlabels", ["a"], points="x"))], "points is 'x', not a list"),
        ([task(annotations=3)], "annotations is 3, not a list"),
        ([task(annotations=[{"result": [1]}])], r"result\[0\] is 1, not an object"),
        ([3], r"task\[0\] is 3, not an object"),
    ],
)
def test_broken_exports(tmp_path, tasks, message):
    with pytest.raises(InputError, match=message):
        converted("label-studio", export(tmp_path / "in", *tasks), tmp_path / "out")


def test_numbers_too_large_and_another_file(tmp_path):
    path = text(tmp_path / "in/export.json", '{"images": []}')
    with pytest.raises(InputError, match="it is no list of tasks"):
        converted("label-studio", path, tmp_path / "out")
    with pytest.raises(InputError, match="no JSON export of Label Studio"):
        converted("label-studio", tmp_path / "in", tmp_path / "out")


def test_an_export_read_written_and_read_again_is_the_same(tmp_path):
    results = [
        rectangle("box", "1", rotation=20),
        result("polygonlabels", ["p"], "2", points=[[0, 0], [50, 0], [50, 50]]),
        result("ellipselabels", ["e"], "3", x=50, y=50, radiusX=20, radiusY=10, rotation=0),
        result("keypointlabels", ["k"], "4", x=25, y=75, width=0.3),
        result("keypointlabels", ["nose"], "5", x=12, y=25, width=0.3, parentID="1"),
        {"id": "6", "type": "choices", "from_name": "c", "value": {"choices": ["sunny"]}},
    ]
    read(tmp_path, task(*results, data={"image": "a.jpg", "site": "north"}))
    from dataset_tools.convert import convert_dataset
    from dataset_tools.export import export_dataset

    there = export_dataset("label-studio", {None: tmp_path / "out/all.json"}, tmp_path / "there")
    convert_dataset("label-studio", there.folder, tmp_path / "back", images=tmp_path / "in")
    assert comparable(tmp_path / "back/all.json") == comparable(tmp_path / "out/all.json")


def test_the_interface_keeps_the_order_of_categories_and_splits_their_names(tmp_path):
    from dataset_tools.coco import Annotation, Category, Image, write_coco
    from dataset_tools.export import export_dataset

    for split in ("train", "val"):
        image = Image(f"{split}.jpg", 20, 10, [Annotation("b", (1, 1, 3, 4))])
        write_coco(tmp_path / f"{split}.json", [image], [Category("z"), Category("b")], {})
    files = {split: tmp_path / f"{split}.json" for split in ("train", "val")}
    export_dataset("label-studio", files, tmp_path / "there")
    conversion, splits = converted("label-studio", tmp_path / "there", tmp_path / "out")
    assert {s: list(found) for s, found in splits.items()} == {
        "train": ["train.jpg"],
        "val": ["val.jpg"],
    }
    assert list(conversion.files["train"].per_category) == ["z", "b"]


def test_what_label_studio_cannot_hold_is_counted(tmp_path):
    from dataset_tools.coco import Annotation, Category, Image, whole_image, write_coco
    from dataset_tools.export import export_dataset
    from dataset_tools.shapes import points_annotation

    label = whole_image("a", 20, 10)
    label.attributes["sure"] = True
    annotations = [
        points_annotation("a", [1, 2, 3, 4], "line"),
        Annotation("a", None, keypoints=[1, 2, 2]),
        Annotation("a", (1, 1, 3, 3), keypoints=[1, 2, 2]),
        label,
    ]
    write_coco(tmp_path / "all.json", [Image("a b.jpg", 20, 10, annotations)], [Category("a")], {})
    export = export_dataset(
        "label-studio", {None: tmp_path / "all.json"}, tmp_path / "there", prefix="photos/"
    )
    assert {note.kind: note.count for note in export.notes.dropped.values()} == {
        "line": 1,
        "key point without a name": 2,
        "attributes of a whole image's label": 1,
    }
    (entry,) = json.loads((tmp_path / "there/all.json").read_text())
    assert entry["data"] == {"image": "/data/local-files/?d=photos/a%20b.jpg"}
