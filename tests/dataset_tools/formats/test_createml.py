import json

import pytest

from dataset_tools.errors import InputError
from tests.dataset_tools.makers import converted, picture, text


def entry(image="a.jpg", label="cat", **changes):
    box = {"x": 8, "y": 5, "width": 6, "height": 4} | changes
    return {"image": image, "annotations": [{"label": label, "coordinates": box}]}


def read(tmp_path, *entries, encoding="utf-8"):
    picture(tmp_path / "in/a.jpg")
    path = text(tmp_path / "in/labels.json", json.dumps(entries), encoding)
    conversion, splits = converted("createml", path, tmp_path / "out")
    return conversion, splits["all"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_centre_and_size_in_pixels(tmp_path, encoding):
    conversion, found = read(tmp_path, entry(label="Käfer"), encoding=encoding)
    assert found["a.jpg"]["size"] == (20, 10)
    assert found["a.jpg"]["objects"][0][:2] == ("Käfer", [5, 3, 6, 4])
    assert not conversion.notes


def test_other_keys_labels_of_images_and_images_without_objects(tmp_path):
    for name in "bc":
        picture(tmp_path / f"in/{name}.jpg")
    old = {"imagefilename": "C:\\x\\a.jpg", "annotation": entry(y=4)["annotations"]}
    old["annotation"][0]["sure"] = True
    label = {"image": "file:///x/b.jpg", "annotations": "cat"}
    _, found = read(tmp_path, old, label, {"image": "c.jpg", "annotations": []})
    assert found["a.jpg"]["objects"][0][1] == [5, 2, 6, 4]
    assert found["a.jpg"]["objects"][0][2]["attributes"] == {"sure": True}
    assert found["b.jpg"]["objects"][0][:2] == ("cat", [0, 0, 20, 10])
    assert found["b.jpg"]["objects"][0][2]["attributes"] == {"whole_image": True}
    assert found["c.jpg"]["objects"] == []


def test_images_that_are_not_there_are_counted(tmp_path):
    conversion, found = read(tmp_path, entry(), entry("z.jpg"))
    assert list(found) == ["a.jpg"]
    (note,) = conversion.notes.dropped.values()
    assert note.count == 1 and note.places[0].endswith("image[1]: z.jpg")


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([entry(x="left")], r"image\[0\] annotations\[0\]: x is 'left', not a number"),
        ([entry(label=None)], "label is missing, not a text"),
        ([{"annotations": []}], "image is missing"),
        ([{"image": "a.jpg", "annotations": [3]}], r"annotations\[0\] is 3, not an object"),
        ([[]], r"image\[0\] is \[\], not an object"),
    ],
)
def test_broken_files(tmp_path, entries, message):
    with pytest.raises(InputError, match=message):
        read(tmp_path, *entries)
