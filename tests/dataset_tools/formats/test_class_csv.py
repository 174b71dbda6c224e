import pytest

from dataset_tools.errors import InputError
from dataset_tools.formats import recognise
from tests.dataset_tools.makers import converted, picture, text


def read(folder, content, name="labels.csv", **options):
    text(folder / "in" / name, content)
    for image in ("a.jpg", "b.jpg", "c d.png"):
        picture(folder / "in/photos" / image)
    return converted("class-csv", folder / "in", folder / "out", **options)


def classes(splits, split="all"):
    return {
        name.removeprefix("photos/"): [entry[0] for entry in image["objects"]]
        for name, image in splits[split].items()
    }


@pytest.mark.parametrize(
    ("content", "options"),
    [
        ("image,label\na.jpg,cat\nb.jpg,dog\n", {}),
        ("Class;File Name\r\ncat;a.jpg\r\ndog;b.jpg\r\n", {}),
        ("\ufefffilename\tcategory\n/x/a.jpg\tcat\nC:\\x\\b.jpg\tdog\n", {}),
        ("a.jpg,cat\nb.jpg,dog\n", {}),
        ("filename,cat,dog\na.jpg,1,0\nb.jpg,0,1\n", {}),
        ("filename, cat, dog\na.jpg, 1.0, 0.0\nb.jpg, , 1\n", {}),
        ("image,label\n\na.jpg,0\nb.jpg,1\n", {"names": "cat\ndog\n"}),
    ],
)
def test_columns_are_found_and_it_is_told_from_boxes(tmp_path, content, options):
    if options:
        options = {"names": str(text(tmp_path / "names.txt", options["names"]))}
    conversion, splits = read(tmp_path, content, **options)
    assert classes(splits) == {"a.jpg": ["cat"], "b.jpg": ["dog"]}
    entry = splits["all"]["photos/a.jpg"]["objects"][0]
    assert entry[1] == [0, 0, 20, 10] and entry[2]["attributes"] == {"whole_image": True}
    assert list(conversion.files["all"].per_category) == ["cat", "dog"]
    assert [f.name for f, _ in recognise(tmp_path / "in")] == ["class-csv"]


def test_images_without_suffix_attributes_and_several_labels(tmp_path):
    content = 'id,labels,site,split\na,"cat|dog",north,Valid\nc d,,,train\n'
    with pytest.raises(InputError, match="found neither a column called label"):
        read(tmp_path, content)
    content = content.replace("labels", "label")
    conversion, splits = read(tmp_path, content, label_separator="|")
    assert classes(splits, "val") == {"a.jpg": ["cat", "dog"]}
    assert classes(splits, "train") == {"c d.png": []}
    assert splits["val"]["photos/a.jpg"]["entry"]["attributes"] == {"site": "north"}
    (note,) = conversion.notes.suspicious.values()
    assert note.kind == "image without a class (kept)"


def test_one_column_for_each_class_in_their_order_in_a_file_for_each_split(tmp_path):
    for split, row in (("train", "a.jpg,0,1,1"), ("valid", "a.jpg,0,0,0")):
        picture(tmp_path / f"in/{split}/a.jpg")
        text(tmp_path / f"in/{split}/_classes.csv", f"filename,zebra,left,cat\n{row}\n")
    conversion, splits = converted("class-csv", tmp_path / "in", tmp_path / "out")
    assert classes(splits, "train") == {"train/a.jpg": ["left", "cat"]}
    assert classes(splits, "val") == {"valid/a.jpg": []}
    assert list(conversion.files["train"].per_category) == ["zebra", "left", "cat"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "there is no row"),
        ("image,x1,y1,x2,y2,label\na.jpg,1,2,3,4,cat\n", "which the format csv reads"),
        ("day,rain\nMonday,1\n", "none called image"),
        ("image,weight\na.jpg,0.5\n", "found neither a column called label"),
        ("image,label\na.jpg,cat,dog\n", r"labels\.csv:2: 3 cells, but 2 columns"),
        ("image,label\nghost.jpg,cat\n", r"labels\.csv:2: the image ghost\.jpg is not in"),
        ("a.jpg,1,2\n", "no header line"),
    ],
)
def test_broken_files(tmp_path, content, message):
    with pytest.raises(InputError, match=message):
        read(tmp_path, content)
