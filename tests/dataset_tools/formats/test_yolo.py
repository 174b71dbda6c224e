from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from dataset_tools.errors import InputError
from tests.dataset_tools.makers import converted, picture, text


def bare(folder: Path, labels="0 0.5 0.5 0.5 0.4\n", **save) -> Path:
    """images/a.jpg of 20 × 10 px with its labels."""
    picture(folder / "images/a.jpg", **save)
    text(folder / "labels/a.txt", labels)
    return folder


def test_centre_and_size_as_shares_become_pixels(tmp_path):
    _, splits = converted("yolo", bare(tmp_path / "in"), tmp_path / "out")
    (image,) = splits["all"].values()
    assert list(splits["all"]) == ["images/a.jpg"]
    assert image["objects"][0][:2] == ("0", [5, 3, 10, 4])


def test_images_without_labels_are_kept(tmp_path):
    source = bare(tmp_path / "in")
    picture(source / "images/none.jpg")
    picture(source / "images/empty.jpg")
    text(source / "labels/empty.txt", "\n")
    conversion, splits = converted("yolo", source, tmp_path / "out")
    assert [len(image["objects"]) for image in splits["all"].values()] == [1, 0, 0]
    assert conversion.files["all"].empty_images == 2
    (note,) = conversion.notes.suspicious.values()
    assert (note.count, note.places) == (1, ["images/none.jpg"])


def test_labels_without_an_image_are_counted_but_lists_of_names_are_no_labels(tmp_path):
    source = bare(tmp_path / "in")
    text(source / "labels/ghost.txt", "0 0.5 0.5 0.5 0.4")
    text(source / "labels/classes.txt", "cat\n")
    text(source / "README.txt", "These are cats.")
    conversion, splits = converted("yolo", source, tmp_path / "out")
    (note,) = conversion.notes.dropped.values()
    assert note.count == 1 and note.places[0].endswith("ghost.txt")
    assert splits["all"]["images/a.jpg"]["objects"][0][0] == "cat"


def test_exif_orientation_counts_before_the_shares(tmp_path):
    exif = Image.Exif()
    exif[274] = 6
    _, splits = converted("yolo", bare(tmp_path / "in", exif=exif), tmp_path / "out")
    image = splits["all"]["images/a.jpg"]
    assert image["size"] == (10, 20)
    assert image["objects"][0][1] == [2.5, 6, 5, 8]


def test_scores_and_polygons(tmp_path):
    lines = "0 0.5 0.5 0.5 0.4 0.75\r\n1.0  0 0  1 0  1 1\n"
    _, splits = converted("yolo", bare(tmp_path / "in", lines), tmp_path / "out")
    box, polygon = splits["all"]["images/a.jpg"]["objects"]
    assert box[2]["attributes"] == {"score": 0.75}
    assert polygon[:2] == ("1", [0, 0, 20, 10])
    assert polygon[2]["segmentation"] == [[0, 0, 20, 0, 20, 10]]
    assert polygon[2]["area"] == 100


def test_unnamed_classes_are_in_the_order_of_their_numbers(tmp_path):
    lines = "".join(f"{number} 0.5 0.5 0.1 0.1\n" for number in (10, 2, 0))
    conversion, _ = converted("yolo", bare(tmp_path / "in", lines), tmp_path / "out")
    assert list(conversion.files["all"].per_category) == ["0", "2", "10"]


NAMES = ["zebra", "cat", "dog"]


@pytest.mark.parametrize(
    ("where", "content"),
    [
        ("classes.txt", "zebra\ncat\ndog\n\n"),
        ("labels/classes.txt", "\ufeffzebra\r\ncat\r\ndog"),
        ("obj.names", "zebra\ncat\ndog"),
        ("data.yaml", "train: images\nnames: [zebra, cat, dog]\n"),
        ("data.yaml", "train: images\nnc: 3\nnames:\n  2: dog\n  0: zebra\n  1: cat\n"),
        ("elsewhere/names.yml", "names: {0: zebra, 1: cat, 2: dog}"),
        ("elsewhere/names.txt", "zebra\ncat\ndog"),
    ],
)
def test_class_names_keep_their_order(tmp_path, where, content):
    source = bare(tmp_path / "in", "1 0.5 0.5 0.5 0.4")
    file = text(source / where, content)
    options = {"names": str(file)} if "elsewhere" in where else {}
    conversion, splits = converted("yolo", source, tmp_path / "out", **options)
    (images,) = splits.values()
    assert images["images/a.jpg"]["objects"][0][0] == "cat"
    (summary,) = conversion.files.values()
    assert list(summary.per_category) == NAMES


def yaml_dataset(folder: Path) -> Path:
    for split in ("one", "two"):
        for name in "ab":
            picture(folder / f"images/{split}/{split}_{name}.jpg")
            text(folder / f"labels/{split}/{split}_{name}.txt", "0 0.5 0.5 0.5 0.4")
    text(folder / "lists/two.txt", "./../images/two/two_a.jpg\n\nimages/two/two_b.jpg\n")
    return folder


@pytest.mark.parametrize(
    "content",
    [
        "train: images/one\nval: images/two",
        "train: [images/one]\nval: lists/two.txt",
        "train: images/one/*.jpg\nval: images/two/*_[ab].jpg",
        "path: .\ntrain: ../images/one\nval: ../images/two",
        "path: C:\\data\\nowhere\ntrain: images\\one\nval: images/two",
    ],
    ids=["folders", "list", "glob", "Roboflow", "Windows"],
)
def test_ways_of_a_data_yaml(tmp_path, content):
    source = yaml_dataset(tmp_path / "in")
    file = text(source / "data.yaml", content + "\nnames: [cat]")
    for path in (file, source):
        conversion, splits = converted("yolo", path, tmp_path / "out")
        assert {split: [Path(n).stem for n in images] for split, images in splits.items()} == {
            "train": ["one_a", "one_b"],
            "val": ["two_a", "two_b"],
        }
        assert all(i["objects"] for images in splits.values() for i in images.values())
        assert not conversion.notes


def test_the_path_of_a_data_yaml_may_lead_elsewhere(tmp_path):
    yaml_dataset(tmp_path / "in")
    file = text(tmp_path / "settings/data.yaml", "path: ../in\ntrain: images/one\nnames: [cat]")
    _, splits = converted("yolo", file, tmp_path / "out")
    assert list(splits["train"]) == ["images/one/one_a.jpg", "images/one/one_b.jpg"]


@pytest.mark.parametrize("layout", ["{kind}/{split}", "{split}/{kind}"])
def test_folders_that_stand_for_splits(tmp_path, layout):
    for split in ("train", "valid"):
        picture(tmp_path / "in" / layout.format(kind="images", split=split) / "a.jpg")
        folder = tmp_path / "in" / layout.format(kind="labels", split=split)
        text(folder / "a.txt", "0 0.5 0.5 0.5 0.4")
    _, splits = converted("yolo", tmp_path / "in", tmp_path / "out")
    assert {split: len(images) for split, images in splits.items()} == {"train": 1, "val": 1}
    assert all(i["objects"] for images in splits.values() for i in images.values())


def test_labels_beside_images_or_elsewhere(tmp_path):
    picture(tmp_path / "in/a.jpg")
    text(tmp_path / "in/a.txt", "0 0.5 0.5 0.5 0.4")
    picture(tmp_path / "photos/a.jpg")
    for path, options in (
        (tmp_path / "in", {}),
        (tmp_path / "photos", {"labels": str(tmp_path / "in")}),
        (tmp_path / "in", {"images": tmp_path / "photos"}),
    ):
        _, splits = converted("yolo", path, tmp_path / "out", **options)
        assert len(splits["all"]["a.jpg"]["objects"]) == 1


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ("0 0.5 0.5 0.5\n", r"a\.txt:1: 4 numbers are neither"),
        ("0 .5 .5 .5 .5\n\nx .5 .5 .5 .5", r"a\.txt:3: 'x' is not a number"),
        ("0 nan .5 .5 .5", "'nan' is not a number"),
        ("1.5 .5 .5 .5 .5", "the class 1.5 is not a whole number"),
        ("-1 .5 .5 .5 .5", "the class -1 is not"),
        ("1 .5 .5 .5 .5", "no name for class 1: 1 names are known"),
        (b"0 \xff\xfe", "is not utf-8"),
        ("0 1 2 3 4 5 6 7", "8 numbers are neither"),
    ],
)
def test_broken_labels_are_named_with_the_line(tmp_path, labels, message):
    source = bare(tmp_path / "in", labels)
    text(source / "classes.txt", "cat")
    with pytest.raises(InputError, match=message):
        converted("yolo", source, tmp_path / "out")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("names: [a", r"data\.yaml: broken YAML at line"),
        ("train: images\nnames: [a, a]", "'a' is there twice"),
        ("train: images\nnames: [a]\nnc: 2", "nc is 2, but there are 1 names"),
        ("train: images\nnames: 3", "neither a list nor a map"),
        ("train: nowhere\nnames: [a]", "train: nowhere gives no images"),
        ("train: images\nnames: !!python/object/apply:os.system ['true']", "broken YAML"),
        ("train: images\nnames: [[a, b]]", "neither text nor a number"),
    ],
)
def test_broken_yaml(tmp_path, content, message):
    source = bare(tmp_path / "in")
    text(source / "data.yaml", content)
    with pytest.raises(InputError, match=message):
        converted("yolo", source / "data.yaml", tmp_path / "out")


def test_a_listed_image_that_is_missing_is_counted(tmp_path):
    source = bare(tmp_path / "in")
    text(source / "train.txt", "./images/a.jpg\n./images/gone.jpg\n")
    text(source / "data.yaml", "train: train.txt\nnames: [cat]")
    conversion, splits = converted("yolo", source, tmp_path / "out")
    assert len(splits["train"]) == 1
    assert [note.count for note in conversion.notes.dropped.values()] == [1]


share = st.floats(0, 1).map(lambda value: round(value, 6))
lines = st.tuples(st.integers(0, 99), share, share, share, share)


@settings(max_examples=40, deadline=None)
@given(st.lists(lines, max_size=5), st.integers(1, 3000), st.integers(1, 3000))
def test_what_was_written_is_read(tmp_path_factory, objects, width, height):
    folder = tmp_path_factory.mktemp("yolo")
    written = "\n".join(" ".join(map(str, line)) for line in objects)
    (folder / "in/images").mkdir(parents=True)
    Image.new("1", (width, height)).save(folder / "in/images/a.png")
    text(folder / "in/labels/a.txt", written)
    _, splits = converted("yolo", folder / "in", folder / "out")
    found = splits["all"]["images/a.png"]["objects"]
    assert [name for name, *_ in found] == [str(line[0]) for line in objects]
    for (_, box, _), (_, cx, cy, w, h) in zip(found, objects, strict=True):
        back = ((box[0] + box[2] / 2) / width, (box[1] + box[3] / 2) / height)
        assert (*back, box[2] / width, box[3] / height) == pytest.approx((cx, cy, w, h), abs=2e-6)


def test_images_that_have_no_label_file_at_all_are_of_another_format(tmp_path):
    picture(tmp_path / "in/JPEGImages/a.jpg")
    text(tmp_path / "in/Annotations/a.xml", "<annotation/>")
    with pytest.raises(InputError, match=r"none of the 1 images .* has a label file"):
        converted("yolo", tmp_path / "in", tmp_path / "out")
