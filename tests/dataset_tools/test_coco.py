import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO

from dataset_tools.coco import Annotation, Category, Image, load_coco, write_coco
from dataset_tools.errors import InputError
from dataset_tools.notes import Notes


def image(*annotations, file_name="a.jpg", **more):
    return Image(file_name, 20, 10, list(annotations), **more)


def test_the_file_is_what_pycocotools_expects(tmp_path):
    annotations = [
        Annotation("cat", (1, 2, 4, 6), attributes={"difficult": True}),
        Annotation("ape", segmentation=[[0, 0, 4, 0, 4, 4]], iscrowd=True),
    ]
    images = [image(*annotations), image(file_name="b.jpg")]
    summary = write_coco(tmp_path / "x/all.json", images, None, {"source": "here"})
    assert (summary.images, summary.empty_images, summary.annotations) == (2, 1, 2)
    assert summary.per_category == {"ape": 1, "cat": 1}
    coco = COCO(tmp_path / "x/all.json")
    assert [category["name"] for category in coco.loadCats([1, 2])] == ["ape", "cat"]
    assert coco.anns[1] == {
        "id": 1,
        "image_id": 1,
        "category_id": 2,
        "bbox": [1, 2, 3, 4],
        "area": 12,
        "iscrowd": 0,
        "attributes": {"difficult": True},
    }
    assert coco.anns[2]["area"] == 8 and coco.anns[2]["iscrowd"] == 1
    assert coco.imgs[2] == {"id": 2, "file_name": "b.jpg", "width": 20, "height": 10}
    assert coco.dataset["info"] == {"source": "here"}


def test_declared_categories_keep_their_order_and_those_unused(tmp_path):
    categories = [Category("zebra"), Category("cat"), Category("unused")]
    summary = write_coco(
        tmp_path / "a.json", [image(Annotation("cat", (0, 0, 1, 1)))], categories, {}
    )
    assert summary.per_category == {"zebra": 0, "cat": 1, "unused": 0}
    with pytest.raises(InputError, match="'dog', which are not among"):
        write_coco(tmp_path / "a.json", [image(Annotation("dog", (0, 0, 1, 1)))], categories, {})
    with pytest.raises(InputError, match="declared twice"):
        write_coco(tmp_path / "a.json", [], [Category("a"), Category("a")], {})


@pytest.mark.parametrize(
    ("faulty", "message"),
    [
        (Image("a.jpg", 0, 10), "size of a.jpg is 0×10"),
        (Image("", 1, 1, source="x.xml"), "x.xml: the image has no file name"),
        (image(Annotation("cat", (0, float("nan"), 1, 1), source="x:7")), "x:7: a number is NaN"),
        (image(Annotation("cat\udcff", (0, 0, 1, 1))), "bytes that are no text"),
        (image(file_name="a\udcff.jpg"), "bytes that are no text"),
    ],
)
def test_what_json_cannot_hold_leaves_the_old_file(tmp_path, faulty, message):
    path = tmp_path / "all.json"
    path.write_text("old")
    with pytest.raises(InputError, match=message):
        write_coco(path, [image(), faulty], None, {})
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_an_interruption_leaves_nothing(tmp_path):
    def images():
        yield image()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_coco(tmp_path / "all.json", images(), None, {})
    assert list(tmp_path.iterdir()) == []


def test_the_reader_names_the_entry(tmp_path):
    write_coco(tmp_path / "a.json", [image(Annotation("cat", (0, 0, 1, 1)))], None, {})
    content = json.loads((tmp_path / "a.json").read_text())
    content["annotations"].append({**content["annotations"][0], "image_id": 9, "id": 5})
    (tmp_path / "b.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"b\.json: annotations\[1\] \(id 5\) has an image_id"):
        load_coco(tmp_path / "b.json")
    notes = Notes()
    assert len(load_coco(tmp_path / "b.json", notes).images[0].annotations) == 1
    assert [note.count for note in notes.dropped.values()] == [1]


coordinate = st.floats(-100, 1e6).map(lambda value: round(value, 3))
text = st.text(st.characters(codec="utf-8"), min_size=1, max_size=6)
json_values = st.none() | st.booleans() | st.integers(-9, 9) | text | st.lists(text, max_size=2)
annotations = st.builds(
    Annotation,
    category=text,
    bbox=st.tuples(*[coordinate] * 4),
    segmentation=st.none() | st.lists(st.lists(coordinate, min_size=6, max_size=6), min_size=1),
    keypoints=st.none() | st.lists(st.integers(0, 2), min_size=3, max_size=3),
    iscrowd=st.booleans(),
    area=st.none() | coordinate,
    attributes=st.dictionaries(text, json_values, max_size=2),
)
images = st.builds(
    Image,
    file_name=text,
    width=st.integers(1, 9999),
    height=st.integers(1, 9999),
    annotations=st.lists(annotations, max_size=3),
    attributes=st.dictionaries(text, json_values, max_size=2),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(images, max_size=3))
def test_what_was_written_is_read(tmp_path_factory, records):
    path = tmp_path_factory.mktemp("coco") / "all.json"
    write_coco(path, records, None, {"a": 1})
    loaded = load_coco(path)
    assert loaded.info == {"a": 1}
    assert len(loaded.images) == len(records)
    names = {annotation.category for record in records for annotation in record.annotations}
    assert [category.name for category in loaded.categories] == sorted(names)
    for found, wanted in zip(loaded.images, records, strict=True):
        for name in ("file_name", "width", "height", "attributes"):
            assert getattr(found, name) == getattr(wanted, name)
        for one, other in zip(found.annotations, wanted.annotations, strict=True):
            for name in ("category", "segmentation", "keypoints", "iscrowd", "attributes"):
                assert getattr(one, name) == getattr(other, name)
            assert one.bbox == pytest.approx(other.bbox, abs=2e-6)
            assert other.area is None or one.area == other.area


def test_what_could_not_be_read_again_is_not_written(tmp_path):
    path = tmp_path / "a.json"
    with pytest.raises(InputError, match="number 2 has no name"):
        write_coco(path, [], [Category("cat"), Category("")], {})
    with pytest.raises(InputError):
        write_coco(path, [Image("a.png", 5, 5, [Annotation("a", (0, 0, 10**400, 5))])], None, {})
    assert list(tmp_path.iterdir()) == []
    huge = Annotation("a", (0, 0, 2**64, 1e200))
    write_coco(path, [Image("a.png", 5, 5, [huge])], None, {})
    assert load_coco(path).images[0].annotations[0].bbox == (0, 0, 2.0**64, 1e200)


def test_json_has_no_nan(tmp_path):
    from dataset_tools.files import write_json

    with pytest.raises(InputError, match=r"a\.json: a number in it cannot be written"):
        write_json(tmp_path / "a.json", {"x": [float("nan")]})
    assert not list(tmp_path.iterdir())
