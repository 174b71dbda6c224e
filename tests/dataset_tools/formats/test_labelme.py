import base64
import io
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as Pillow

from dataset_tools.coco import Annotation, Image, load_coco, write_coco
from dataset_tools.convert import convert_dataset
from dataset_tools.errors import InputError
from dataset_tools.export import export_dataset
from dataset_tools.formats import get_format, labelme_quick
from dataset_tools.notes import Notes
from dataset_tools.rle import decode_mask
from tests.dataset_tools.makers import converted, picture, plain, text
from tests.dataset_tools.round_trips import assert_close, records


def shape(points, kind="polygon", label="cat", **more):
    return {"label": label, "points": points, "shape_type": kind, "group_id": None, **more}


def label_file(*shapes, size=(20, 10), **more):
    sizes = {"imageWidth": size[0], "imageHeight": size[1]} if size else {}
    head = {"version": "5.4.1", "flags": {}, "shapes": list(shapes), "imagePath": "a.jpg"}
    return json.dumps({**head, "imageData": None, **sizes, **more}, ensure_ascii=False)


def base64_png(array):
    file = io.BytesIO()
    Pillow.fromarray(array).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def dataset(folder, *shapes, **more):
    text(folder / "a.json", label_file(*shapes, **more))
    picture(folder / "a.jpg")
    return folder


def only(splits):
    (images,) = splits.values()
    (image,) = images.values()
    return image


def entries(tmp_path, *shapes, **more):
    conversion, splits = converted(
        "labelme", dataset(tmp_path / "in", *shapes, **more), tmp_path / "out"
    )
    return conversion, [entry for *_, entry in only(splits)["objects"]]


TRIANGLE = [[1, 2], [5, 2], [5, 8.5]]


def test_polygons_and_rectangles(tmp_path):
    # A rectangle's corners may be any two opposite ones.
    conversion, found = entries(
        tmp_path, shape(TRIANGLE), shape([[9, 7], [3.5, 1]], "rectangle", label="dog")
    )
    assert found[0]["segmentation"] == [[1, 2, 5, 2, 5, 8.5]]
    assert found[0]["bbox"] == [1, 2, 4, 6.5] and found[0]["area"] == 13
    assert found[1]["bbox"] == [3.5, 1, 5.5, 6] and "segmentation" not in found[1]
    assert not conversion.notes


def test_a_circle_is_a_polygon_around_its_centre(tmp_path):
    _, (found,) = entries(tmp_path, shape([[10, 5], [13, 9]], "circle"))
    assert found["bbox"] == [5, 0, 10, 10]  # the radius is 5: 3, 4, 5
    polygon = np.reshape(found["segmentation"][0], (-1, 2))
    assert np.hypot(*(polygon - (10, 5)).T) == pytest.approx(5, abs=1e-5)
    assert found["area"] == pytest.approx(np.pi * 25, rel=0.03)


def test_lines_and_points_are_attributes(tmp_path):
    _, found = entries(
        tmp_path,
        shape([[1, 2], [4, 6]], "line"),
        shape([[1, 2], [4, 6], [3, 9]], "linestrip"),
        shape([[7, 3]], "point", group_id=4),
        shape([[9, 1]], "point", group_id=4),
    )
    assert [entry["attributes"] for entry in found] == [
        {"points": [1, 2, 4, 6], "shape": "line"},
        {"points": [1, 2, 4, 6, 3, 9], "shape": "line"},
        {"group_id": 4, "points": [7, 3, 9, 1], "shape": "point"},
    ]
    assert [entry["bbox"] for entry in found] == [[1, 2, 3, 4], [1, 2, 3, 7], [7, 1, 2, 2]]


def test_a_mask_lies_between_its_points_both_included(tmp_path):
    patch = np.array([[255, 0, 255], [255, 255, 255]], dtype=np.uint8)
    mask = shape([[4, 6], [6, 7]], "mask", mask=base64_png(patch))
    _, (found,) = entries(tmp_path, mask)
    expected = np.zeros((10, 20))
    expected[6, [4, 6]] = expected[7, 4:7] = 1
    assert (decode_mask(found["segmentation"]) == expected).all()
    assert found["bbox"] == [4, 6, 3, 2] and found["area"] == 5


def test_a_size_that_no_image_has_takes_no_memory(tmp_path):
    mask = shape([[4, 6], [4, 6]], "mask", mask=base64_png(np.ones((1, 1), np.uint8)))
    folder = dataset(tmp_path / "in", mask, imageHeight=10**7, imageWidth=10**7)
    for image in folder.glob("*.jpg"):
        image.unlink()
    with pytest.raises(InputError, match="no image has 10000000×10000000 px"):
        convert_dataset("labelme", folder, tmp_path / "out")


def test_masks_of_one_bit_beyond_the_edges_or_at_fractions(tmp_path):
    patch = np.ones((2, 3), dtype=bool)
    conversion, found = entries(
        tmp_path,
        shape([[18, 9], [20, 10]], "mask", mask=base64_png(patch)),
        shape([[3.6, 1.2], [6.2, 2.6]], "mask", mask=base64_png(patch)),
        shape([[30, 30], [32, 31]], "mask", mask=base64_png(patch)),
    )
    assert [entry["bbox"] for entry in found] == [[18, 9, 2, 1], [4, 1, 3, 2]]
    assert [note.count for note in conversion.notes.dropped.values()] == [1]
    assert [note.count for note in conversion.notes.suspicious.values()] == [2]


def test_shapes_of_the_same_label_and_group_are_one(tmp_path):
    _, found = entries(
        tmp_path,
        shape(TRIANGLE, group_id=1, flags={"wet": True}),
        shape(TRIANGLE, group_id=1, label="dog"),
        shape([[10, 1], [12, 1], [12, 3]], group_id=1),
        shape([[14, 1], [16, 3]], "rectangle", group_id=1),
        shape(TRIANGLE),
    )
    assert [len(entry["segmentation"]) for entry in found] == [3, 1, 1]
    assert found[0]["segmentation"][2] == [14, 1, 16, 1, 16, 3, 14, 3]
    assert found[0]["bbox"] == [1, 1, 15, 7.5] and found[0]["area"] == 13 + 2 + 4
    assert found[0]["attributes"] == {"group_id": 1, "flags": {"wet": True}}
    assert "attributes" not in found[2]


def test_a_mask_and_a_polygon_of_a_group_are_their_union(tmp_path):
    patch = np.ones((2, 2), dtype=bool)
    _, (found,) = entries(
        tmp_path,
        shape([[0, 0], [1, 1]], "mask", mask=base64_png(patch), group_id=0),
        shape([[1, 0], [4, 0], [4, 2], [1, 2]], group_id=0),
    )
    expected = np.zeros((10, 20))
    expected[0:2, 0:4] = 1
    assert (decode_mask(found["segmentation"]) == expected).all()


def test_rotated_rectangles(tmp_path):
    # 10 px long to the lower right, 5 px wide: 3-4-5 triangles.
    corners = [[2, 1], [10, 7], [7, 11], [-1, 5]]
    _, (found,) = entries(tmp_path, shape(corners, "oriented_rectangle"))
    x, y, width, height, angle = found["attributes"]["rbox"]
    assert (x, y, width, height) == pytest.approx((4.5, 6, 10, 5))
    assert angle == pytest.approx(-np.degrees(np.arctan2(3, 4)))
    assert found["segmentation"][0] == pytest.approx(np.ravel(corners))


def test_what_else_is_said_is_kept(tmp_path):
    more = {"description": "left one", "flags": {"a": False}, "score": 0.5, "attributes": {"b": 1}}
    content = {"flags": {"blurred": True}, "text": "x", "lineColor": [0, 255, 0, 128]}
    source = dataset(tmp_path / "in", shape(TRIANGLE, **more, line_color=None), **content)
    _, splits = converted("labelme", source, tmp_path / "out")
    ((*_, entry),) = only(splits)["objects"]
    assert entry["attributes"] == more
    assert only(splits)["entry"]["attributes"] == {"flags": {"blurred": True}, "text": "x"}


def test_files_of_old_versions_have_no_kind_and_no_size(tmp_path):
    old = {"label": "cat", "points": TRIANGLE, "line_color": None, "fill_color": None}
    _, (found,) = entries(tmp_path, old, size=None)
    assert found["area"] == 13 and "attributes" not in found


@pytest.mark.parametrize("mark", [b"\xef\xbb\xbf", "utf-16", "\r\n"])
def test_ways_to_write_the_same(tmp_path, mark):
    content = label_file(shape(TRIANGLE, label="grüne Käfer"))
    raw = mark + content.encode() if isinstance(mark, bytes) else content.encode("utf-16")
    if mark == "\r\n":
        raw = json.dumps(json.loads(content), indent=2).replace("\n", mark).encode()
    text(tmp_path / "in/a.json", raw)
    picture(tmp_path / "in/a.jpg")
    _, splits = converted("labelme", tmp_path / "in", tmp_path / "out")
    assert only(splits)["objects"][0][0] == "grüne Käfer"


@pytest.mark.parametrize(
    "named",
    ["../my images/ä b.jpg", "..\\my images\\ä b.jpg", "C:\\x\\ä b.jpg", "/home/me/ä b.jpg"],
)
def test_the_image_is_found_from_where_the_label_is(tmp_path, named):
    text(tmp_path / "in/labels/x.json", label_file(imagePath=named))
    picture(tmp_path / "in/my images/ä b.jpg")
    _, splits = converted("labelme", tmp_path / "in", tmp_path / "out")
    assert list(splits["all"]) == ["my images/ä b.jpg"]


def test_the_same_name_in_two_folders_and_splits(tmp_path):
    for folder, width in (("train", 20), ("val", 30)):
        text(tmp_path / f"in/{folder}/a.json", label_file(size=(width, 10)))
        picture(tmp_path / f"in/{folder}/a.jpg", width)
    _, splits = converted("labelme", tmp_path / "in", tmp_path / "out")
    assert {split: {n: i["size"] for n, i in s.items()} for split, s in splits.items()} == {
        "train": {"train/a.jpg": (20, 10)},
        "val": {"val/a.jpg": (30, 10)},
    }


def test_the_images_size_wins_over_the_recorded_one_after_turning(tmp_path):
    text(tmp_path / "in/a.json", label_file(size=(20, 11)))
    exif = Pillow.Exif()
    exif[274] = 6
    picture(tmp_path / "in/a.jpg", 10, 20, exif=exif)
    conversion, splits = converted("labelme", tmp_path / "in", tmp_path / "out")
    assert only(splits)["size"] == (20, 10)
    assert "recorded size" in next(iter(conversion.notes.suspicious))


def test_missing_images_are_kept_with_their_recorded_size_else_dropped(tmp_path):
    text(tmp_path / "in/a.json", label_file(imagePath="../../a.jpg"))
    text(tmp_path / "in/b.json", label_file(size=None))
    text(tmp_path / "in/c.json", '{"name": "not LabelMe"}')
    conversion, splits = converted("labelme", tmp_path / "in", tmp_path / "out")
    assert list(splits["all"]) == ["a.jpg"]
    assert [note.count for note in conversion.notes.dropped.values()] == [1, 1]


def test_images_in_the_labels_are_written(tmp_path):
    held = picture(tmp_path / "held.png", 20, 10).read_bytes()
    data = base64.b64encode(held).decode()
    text(tmp_path / "in/b/x.json", label_file(imagePath="y.png", imageData=data, size=(9, 9)))
    dataset(tmp_path / "in", shape(TRIANGLE))
    conversion, splits = converted("labelme", tmp_path / "in", tmp_path / "out")
    assert sorted(splits["all"]) == ["a.jpg", "b/y.png"]
    assert splits["all"]["b/y.png"]["size"] == (20, 10)
    assert (tmp_path / "out/images/b/y.png").read_bytes() == held
    kept = (tmp_path / "out/images/a.jpg").read_bytes()
    assert kept == (tmp_path / "in/a.jpg").read_bytes()
    assert "b/x.json" in conversion.plan.remarks[0]


def test_images_that_are_there_are_not_taken_out_of_the_labels(tmp_path):
    source = dataset(tmp_path / "in", shape(TRIANGLE), imageData="AAAA")
    conversion, _ = converted("labelme", source, tmp_path / "out")
    assert not conversion.plan.embedded and not (tmp_path / "out/images").exists()


def test_shapes_that_cannot_be_read_are_counted(tmp_path):
    conversion, found = entries(
        tmp_path,
        shape([[1, 1], [2, 2]]),
        shape([[1, 1]], "rectangle"),
        shape(TRIANGLE, "spline"),
        shape(TRIANGLE, label=None),
        shape(TRIANGLE, label=0),
    )
    assert len(found) == 1
    assert [note.kind for note in conversion.notes.dropped.values()] == [
        "polygon of too few points",
        "rectangle of too few points",
        "shape of a kind that is not known (spline)",
        "shape without a label",
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"shapes": [', r"a\.json: not valid JSON at line 1, column 13"),
        (
            label_file(shape([[1, "x"]])),
            r"a\.json: shapes\[0\] points\[0\]: y is 'x', not a number",
        ),
        (label_file(shape([[1, float("nan")]])), "is nan, not a number"),
        (label_file(shape([1, 2])), r"points\[0\] is 1, not a point"),
        (label_file("x"), r"shapes\[0\] is not an object"),
        (label_file(shape([[1, 1], [2, 2]], "mask", mask="%%%")), r"shapes\[0\]: mask"),
        (label_file(shape([[1, 1], [2, 2]], "mask")), r"shapes\[0\]: mask is not base64"),
        (
            label_file(shape([[1, 1], [9, 9]], "mask", mask=base64_png(np.ones((2, 2), bool)))),
            r"mask has 2×2 px, but its points, both included, are 9×9",
        ),
        (label_file(imagePath="b.jpg", imageData="AAAA"), "imageData"),
    ],
)
def test_broken_files_are_named_with_the_place(tmp_path, content, message):
    text(tmp_path / "in/a.json", content)
    if "AAAA" not in content:
        picture(tmp_path / "in/a.jpg")
    else:
        (tmp_path / "in/a.json").rename(tmp_path / "in/c.json")
    with pytest.raises(InputError, match=message):
        converted("labelme", tmp_path / "in", tmp_path / "out")


def test_format_to_coco_and_back_and_again(tmp_path):
    patch = np.array([[1, 0, 1], [1, 1, 1]], dtype=bool)
    shapes = [
        shape(TRIANGLE, group_id=1, description="x", flags={"a": True}, score=0.25),
        shape([[10, 1], [12, 1], [12, 3]], group_id=1, description="x"),
        shape(TRIANGLE, group_id=1, label="dog"),
        shape([[3, 1], [9, 7]], "rectangle"),
        shape([[10, 5], [13, 9]], "circle"),
        shape([[1, 2], [4, 6], [3, 9]], "linestrip", group_id=1),
        shape([[7, 3]], "point", group_id=4),
        shape([[9, 1]], "point", group_id=4),
        shape([[4, 6], [6, 7]], "mask", mask=base64_png(patch)),
        shape([[2, 1], [10, 7], [7, 11], [-1, 5]], "oriented_rectangle"),
    ]
    source = dataset(tmp_path / "in/train", *shapes, flags={"b": True}, more=[1])
    first = convert_dataset("labelme", tmp_path / "in", tmp_path / "first")
    path = first.files["train"].path
    export_dataset("labelme", {"train": path}, tmp_path / "there")
    assert (tmp_path / "there/train/a.jpg").read_bytes() == (source / "a.jpg").read_bytes()
    second = convert_dataset("labelme", tmp_path / "there", tmp_path / "second")
    assert not second.notes.dropped
    before, after = (records(load_coco(c.files["train"].path)) for c in (first, second))
    assert_close(before, after, 1e-9)
    assert len(before["train/a.jpg"][2]) == 8


def test_what_cannot_be_written_is_told_and_names_do_not_clash(tmp_path):
    images = [
        Image("a.jpg", 20, 10, [Annotation("cat", (0, 0, 9, 9), [[1, 2, 5, 2, 5, 8]])]),
        Image("a.png", 20, 10, [Annotation("cat", keypoints=[1, 2, 2, 3, 4, 2])]),
    ]
    source = tmp_path / "all.json"
    write_coco(source, images, None, {})
    export = export_dataset("labelme", {None: source}, tmp_path / "there", images=tmp_path)
    assert list(export.notes.dropped) == [
        "box of its own besides a mask (the mask written)",
        "keypoints of an object",
    ]
    assert sorted(file.name for file in (tmp_path / "there").iterdir()) == [
        "a.json",
        "a.png.json",
    ]
    with pytest.raises(InputError, match="leads out"):
        write_coco(source, [Image("../a.jpg", 20, 10)], None, {})
        export_dataset("labelme", {None: source}, tmp_path / "else")


POINTS = st.lists(
    st.lists(st.sampled_from([1, 2.5, -3, 7, 1e300]), min_size=2, max_size=2)
    | st.sampled_from([[1, 2], [1], [1, 2, 3], ["1", 2], [None, 1], [True, 2]]),
    max_size=4,
)
SHAPE_KEYS = st.dictionaries(
    st.sampled_from(["group_id", "flags", "description", "iscrowd", "line_color", "more", "mask"]),
    st.sampled_from([None, 0, 1, 1.5, "", "x", {}, {"a": True}, [], False, True]),
    max_size=3,
)
LABELS = st.sampled_from(["cat", "dog", " cat ", "", " ", 7, None])
KINDS = st.sampled_from(["polygon", "polygon", "rectangle", "circle", "line", "", None, "x", 3])
DRAWN = st.builds(
    lambda p, kind, label, more: shape(p, kind, label, **more), POINTS, KINDS, LABELS, SHAPE_KEYS
)
FILE_KEYS = st.fixed_dictionaries(
    {},
    optional={
        "flags": st.sampled_from([None, {}, {"a": 1}, []]),
        "imageHeight": st.sampled_from([None, 0, 10, 10.0, 11, "10"]),
        "more": st.just(1),
    },
)


@settings(max_examples=200, deadline=None)
@given(st.lists(DRAWN, max_size=3), FILE_KEYS)
def test_files_read_by_types_say_what_the_careful_reader_says(tmp_path_factory, shapes, more):
    folder = dataset(tmp_path_factory.mktemp("labelme"), *shapes, **more)
    told = []
    for quick in (labelme_quick.read_quickly, lambda content: None):
        notes = Notes()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(labelme_quick, "read_quickly", quick)
            try:
                plan = get_format("labelme").plan(folder, notes)
                found = [plain(i) for item in plan.items for i in plan.read(item, notes)]
                told.append((found, notes.lines()))
            except InputError as error:
                told.append(str(error))
    assert told[0] == told[1]
