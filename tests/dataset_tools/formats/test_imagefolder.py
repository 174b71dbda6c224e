import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataset_tools.coco import Annotation, Category, Dataset, Image, whole_image
from dataset_tools.errors import InputError
from dataset_tools.export import export_dataset
from tests.dataset_tools.datasets import PLAIN_NAMES, datasets, save
from tests.dataset_tools.makers import converted, picture, text


def folder(path, *names):
    for name in names:
        picture(path / name)
    return path


def labels(splits):
    """{split: {file name: [class, …]}}."""
    return {
        split: {name: [entry[0] for entry in image["objects"]] for name, image in images.items()}
        for split, images in splits.items()
    }


def test_the_folder_is_the_class_and_the_label_is_a_box_around_the_whole_image(tmp_path):
    source = folder(tmp_path / "in", "dog/1.JPG", "cat/1.jpg", "cat/ä b.png")
    conversion, splits = converted("imagefolder", source, tmp_path / "out")
    expected = {"cat/1.jpg": ["cat"], "cat/ä b.png": ["cat"], "dog/1.JPG": ["dog"]}
    assert labels(splits) == {"all": expected}
    (entry,) = splits["all"]["dog/1.JPG"]["objects"]
    assert entry[1] == [0, 0, 20, 10] and entry[2]["attributes"] == {"whole_image": True}
    assert list(conversion.files["all"].per_category) == ["cat", "dog"]
    assert not conversion.notes


def test_exif_orientation_turns_the_box_with_the_image(tmp_path):
    from PIL import Image as Pillow

    exif = Pillow.Exif()
    exif[274] = 6
    picture(tmp_path / "in/cat/1.jpg", exif=exif)
    _, splits = converted("imagefolder", tmp_path / "in", tmp_path / "out")
    assert splits["all"]["cat/1.jpg"]["objects"][0][1] == [0, 0, 10, 20]


def test_splits_above_the_classes_and_images_without_a_class(tmp_path):
    source = folder(
        tmp_path / "in", "Train/cat/1.jpg", "valid/cat/1.jpg", "test/1.jpg", "more/dog/1.jpg"
    )
    conversion, splits = converted("imagefolder", source, tmp_path / "out")
    assert labels(splits) == {
        "train": {"Train/cat/1.jpg": ["cat"]},
        "val": {"valid/cat/1.jpg": ["cat"]},
        "test": {"test/1.jpg": []},
        "more": {"more/dog/1.jpg": ["dog"]},
    }
    (note,) = conversion.notes.suspicious.values()
    assert (note.count, note.places) == (1, ["test/1.jpg"])
    assert "first folders are splits" in conversion.plan.remarks[0]


def test_a_class_called_train_is_no_split_unless_it_is_said_to_be(tmp_path):
    source = folder(tmp_path / "in", "train/1.jpg", "car/1.jpg")
    _, splits = converted("imagefolder", source, tmp_path / "out")
    assert labels(splits) == {"all": {"car/1.jpg": ["car"], "train/1.jpg": ["train"]}}
    deep = folder(tmp_path / "deep", "train/steam/1.jpg", "car/1.jpg")
    _, splits = converted("imagefolder", deep, tmp_path / "out2", splits="no")
    assert labels(splits) == {"all": {"car/1.jpg": ["car"], "train/steam/1.jpg": ["train/steam"]}}


def test_nested_folders_are_called_by_their_path_or_by_the_first(tmp_path):
    source = folder(tmp_path / "in", "animals/cat/1.jpg", "animals/dog/1.jpg", "cars/1.jpg")
    conversion, splits = converted("imagefolder", source, tmp_path / "out")
    assert labels(splits)["all"]["animals/dog/1.jpg"] == ["animals/dog"]
    content = json.loads(conversion.files["all"].path.read_text())
    assert [(c["name"], c["supercategory"]) for c in content["categories"]] == [
        ("animals/cat", "animals"),
        ("animals/dog", "animals"),
        ("cars", ""),
    ]
    assert "--classes first" in conversion.plan.remarks[0]
    _, splits = converted("imagefolder", source, tmp_path / "first", classes="first")
    assert labels(splits)["all"]["animals/dog/1.jpg"] == ["animals"]


def test_empty_class_folders_other_files_and_hidden_ones(tmp_path):
    source = folder(tmp_path / "in", "cat/1.jpg", ".cache/1.jpg", "cat/.2.jpg")
    (source / "dog").mkdir()
    text(source / "cat/notes.txt", "x")
    conversion, _ = converted("imagefolder", source, tmp_path / "out")
    assert conversion.files["all"].per_category == {"cat": 1, "dog": 0}
    assert [n.places for n in conversion.notes.dropped.values()] == [["cat/notes.txt"]]
    assert [n.places for n in conversion.notes.suspicious.values()] == [["dog"]]


def test_numbered_classes_are_in_the_order_of_their_numbers(tmp_path):
    source = folder(tmp_path / "in", "10/1.jpg", "9/1.jpg", "0/1.jpg")
    conversion, _ = converted("imagefolder", source, tmp_path / "out")
    assert list(conversion.files["all"].per_category) == ["0", "9", "10"]


@pytest.mark.parametrize("names", [[], ["1.jpg", "2.jpg"]])
def test_nothing_to_read(tmp_path, names):
    (tmp_path / "in").mkdir()
    with pytest.raises(InputError, match="no image lies in a class folder"):
        converted("imagefolder", folder(tmp_path / "in", *names), tmp_path / "out")


def test_a_broken_image_is_named(tmp_path):
    text(folder(tmp_path / "in", "cat/1.jpg") / "cat/2.jpg", "no image")
    with pytest.raises(InputError, match=r"cat/2\.jpg: not an image"):
        converted("imagefolder", tmp_path / "in", tmp_path / "out")


def dataset(*images, categories=("cat", "dog")):
    return Dataset(list(images), [Category(name, id=i) for i, name in enumerate(categories, 1)])


def image(name, *annotations):
    picture_ = Image(name, 20, 10, list(annotations), id=abs(hash(name)))
    for number, annotation in enumerate(annotations):
        annotation.id = picture_.id + number
    return picture_


def test_what_a_folder_cannot_hold_is_counted(tmp_path):
    cat, dog = (whole_image(name, 20, 10) for name in ("cat", "dog"))
    content = dataset(
        image("a.jpg", cat, dog, Annotation("dog", (1, 1, 5, 5))),
        image("b.jpg"),
        categories=("cat", "dog"),
    )
    paths = save({None: content}, tmp_path)
    export = export_dataset("imagefolder", paths, tmp_path / "out")
    found = sorted(p.relative_to(tmp_path / "out").as_posix() for p in tmp_path.glob("out/**/*.*"))
    assert found == ["b.jpg", "cat/a.jpg"]
    assert [(n.kind[:12], n.count) for n in export.notes.dropped.values()] == [
        ("object in an", 1),
        ("further clas", 1),
        ("class withou", 1),
    ]
    assert [n.places for n in export.notes.suspicious.values()] == [["b.jpg"]]


def test_same_names_in_a_class_do_not_overwrite_each_other(tmp_path):
    content = dataset(
        *(image(name, whole_image("cat", 20, 10)) for name in ("x/a.jpg", "y/a.jpg", "z/A.jpg"))
    )
    paths = save({None: content}, tmp_path)
    export_dataset("imagefolder", paths, tmp_path / "out")
    assert sorted(p.name for p in tmp_path.glob("out/cat/*")) == ["A_3.jpg", "a.jpg", "a_2.jpg"]


@pytest.mark.parametrize("name", ["..", "a/../b", "/a", "a//b", ".x", "a\\b", "x" * 256])
def test_names_that_no_folder_can_have_are_refused(tmp_path, name):
    content = dataset(image("a.jpg", whole_image(name, 20, 10)), categories=(name,))
    paths = save({None: content}, tmp_path)
    with pytest.raises(InputError, match="No folder can be called"):
        export_dataset("imagefolder", paths, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from([(None,), ("train", "val")]).flatmap(
        lambda splits: datasets(
            ("label",), splits=splits, names=PLAIN_NAMES, images=(2, 4), objects_per_image=(0, 1)
        )
    )
)
def test_what_is_written_is_read_again(tmp_path_factory, drawn):
    place = tmp_path_factory.mktemp("imagefolder")
    written = sorted(
        (split or "all", *(entry.category for entry in image.annotations))
        for split, content in drawn.items()
        for image in content.images
    )
    export_dataset("imagefolder", save(drawn, place), place / "out")
    if any(len(entry) > 1 for entry in written):  # there is a class folder
        _, splits = converted("imagefolder", place / "out", place / "back")
        found = labels(splits)
        assert written == sorted(
            (split, *names) for split, images in found.items() for names in images.values()
        )
