import pytest

from dataset_tools.coco import Annotation, Category, Image, write_coco
from dataset_tools.errors import InputError
from dataset_tools.export import export_dataset
from tests.dataset_tools.makers import converted, picture, text


def dataset(folder, prefix="data/", **files):
    """Two images of 20 × 10 px, one to train with and one to validate."""
    for name in "ab":
        picture(folder / f"obj_train_data/{name}.jpg")
        text(folder / f"obj_train_data/{name}.txt", "1 0.5 0.5 0.5 0.4\n")
    contents = {
        "obj.data": f"classes = 2\ntrain  = {prefix}train.txt\nvalid={prefix}val.txt # few\n"
        f"names = {prefix}obj.names\nbackup = backup/\n",
        "obj.names": "cat\ndog\n",
        "train.txt": f"{prefix}obj_train_data/a.jpg\n\n",
        "val.txt": f"{prefix}obj_train_data/b.jpg\r\n",
    }
    for name, content in (contents | files).items():
        text(folder / name, content)
    return folder


@pytest.mark.parametrize(
    "prefix", ["data/", "", "build/darknet/x64/data/", "D:\\x\\data\\", "/h/me/"]
)
def test_lists_and_paths_of_another_folder(tmp_path, prefix):
    source = dataset(tmp_path / "in", prefix)
    for path in (source, source / "obj.data"):
        conversion, splits = converted("darknet", path, tmp_path / "out")
        assert splits["train"]["obj_train_data/a.jpg"]["objects"][0][:2] == ("dog", [5, 3, 10, 4])
        assert list(splits["val"]) == ["obj_train_data/b.jpg"]
        assert list(conversion.files["train"].per_category) == ["cat", "dog"]
        assert not conversion.notes


def test_a_listed_image_that_is_missing_is_counted(tmp_path):
    source = dataset(tmp_path / "in", **{"val.txt": "data/gone.jpg\n../../etc/passwd\n"})
    conversion, splits = converted("darknet", source, tmp_path / "out")
    assert list(splits) == ["train"]
    assert [note.count for note in conversion.notes.dropped.values()] == [2]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"obj.data": "train = gone.txt\nnames = obj.names"}, r"train = gone\.txt: there is no"),
        ({"obj.data": "train = train.txt\nnames ="}, "names = : there is no such file"),
        ({"obj.data": "classes = 2"}, r"there is no obj\.data"),
        ({"other.data": "train = a\nnames = b"}, r"several: obj\.data, other\.data"),
        ({"train.txt": "gone.jpg", "val.txt": ""}, "none of the images"),
        ({"obj.names": "cat\ncat"}, "'cat' is there twice"),
        ({"obj.names": "cat"}, "no name for class 1"),
    ],
)
def test_broken_lists_are_named(tmp_path, files, message):
    with pytest.raises(InputError, match=message):
        converted("darknet", dataset(tmp_path / "in", **files), tmp_path / "out")


def test_what_is_written(tmp_path):
    picture(tmp_path / "photos/a b.jpg")
    image = Image("a b.jpg", 20, 10, [Annotation("dog", (5, 3, 15, 7))])
    categories = [Category("cat"), Category("dog")]
    write_coco(tmp_path / "val.json", [image], categories, {"image_root": "photos"})
    export_dataset("darknet", {"val": tmp_path / "val.json"}, tmp_path / "out")

    def written(name):
        return (tmp_path / "out" / name).read_text()

    assert written("obj.data") == (
        "classes = 2\nvalid = data/valid.txt\nnames = data/obj.names\nbackup = backup/\n"
    )
    assert written("valid.txt") == "data/obj_valid_data/a b.jpg\n"
    assert written("obj.names") == "cat\ndog\n"
    assert written("obj_valid_data/a b.txt") == "1 0.5 0.5 0.5 0.4\n"


def test_splits_that_darknet_does_not_know_are_refused(tmp_path):
    write_coco(tmp_path / "x.json", [Image("a.jpg", 2, 2)], [Category("cat")], {})
    with pytest.raises(InputError, match="no split 'x'"):
        export_dataset("darknet", {"x": tmp_path / "x.json"}, tmp_path / "out", images=tmp_path)
