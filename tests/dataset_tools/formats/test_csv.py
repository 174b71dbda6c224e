import csv

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataset_tools.errors import InputError
from tests.dataset_tools.makers import converted, picture, text

BOX = ("cat", [2, 3, 6, 4])


def read(folder, content, written="utf-8", name="labels.csv", **options):
    """Convert a CSV file beside images a.jpg and b.jpg of 20 × 10 px."""
    text(folder / "in" / name, content, written)
    for image in "ab":
        picture(folder / f"in/{image}.jpg")
    return converted("csv", folder / "in" / name, folder / "out", **options)


def found(splits):
    """{image: [(category, XYWH), …]} of the only split."""
    (images,) = splits.values()
    return {name: [entry[:2] for entry in image["objects"]] for name, image in images.items()}


@pytest.mark.parametrize(
    "content",
    [
        "image_path,xmin,ymin,xmax,ymax,label\na.jpg,2,3,8,7,cat\n",
        "filename,width,height,class,xmin,ymin,xmax,ymax\na.jpg,20,10,cat,2,3,8,7\n",
        "label;Image Name;x;y;w;h\r\ncat;a.jpg;2;3;6;4\r\n",
        "X Min\tY Min\tX Max\tY Max\tClass\tPath\n2\t3\t8\t7\tcat\tC:\\photos\\a.jpg",
        "file,cx,cy,width,height,category\na.jpg,5,5,6,4,cat\n",
        "image_id,bbox,class\na,\"[2, 3, 6, 4]\",cat\n",
        "path,left,top,right,bottom,name\n/x/y/a.jpg,2.0,3,8,7,cat\n",
        "image,x,y,width,height,label\na.jpg,2,3,6,4,cat\n",
        "image,xmin,ymin,width,height,label\na.jpg,2,3,6,4,cat\n",
        "a.jpg,2,3,8,7,cat\n",
        "a.jpg|2|3|8|7|cat\n",
        "\n\nimage , x1 , y1 , x2 , y2 , label\n a.jpg , 2 , 3 , 8 , 7 , cat \n\n",
        "filename;x1;y1;x2;y2;label\na.jpg;2,0;3;8,00;7;cat\n",
        'filename;x1;y1;x2;y2;label\n"a.jpg";2,0;3,0;8,0;7,0;"cat"\n',
        "image,x1,y1,x2,y2,label\na.jpg,0.1,0.3,0.4,0.7,cat\n",
    ],
)  # fmt: skip
def test_columns_are_found(tmp_path, content):
    _, splits = read(tmp_path, content)
    assert found(splits) == {"a.jpg": [BOX]}


@pytest.mark.parametrize(
    ("content", "options"),
    [
        ("cat,1,a.jpg,2,3,8,7", {"columns": "label,-,image,x1,y1,x2,y2"}),
        ("what,pic,p,q,r,s\ncat,a.jpg,2,3,8,7", {"columns": "label,image,x1,y1,x2,y2"}),
        ("a.jpg,2,3,6,4,cat", {"box": "xywh"}),
        ("a.jpg,5,5,6,4,cat", {"box": "cxcywh"}),
        ("a.jpg,10,30,40,70,cat", {"units": "percent"}),
        ("a.jpg,.25,.5,.3,.4,cat", {"box": "cxcywh", "units": "fractions"}),
        ("a.jpg,2,3,8,7,cat", {"delimiter": "comma", "decimal": "."}),
        ("a.jpg 2 3 8 7 cat", {"delimiter": "space"}),
        ('a.jpg,"2,0",3,"8,0",7,cat', {"decimal": ","}),
        ("image,bbox,label\na.jpg,2 3 8 7,cat", {"box": "xyxy"}),
        ("image,bbox,label\na.jpg,5;5;6;4,cat", {"box": "cxcywh"}),
    ],
)
def test_columns_are_given(tmp_path, content, options):
    _, splits = read(tmp_path, content, **options)
    assert found(splits) == {"a.jpg": [BOX]}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_encodings_with_a_mark(tmp_path, encoding):
    _, splits = read(tmp_path, "a.jpg,2,3,8,7,Käfer\n", encoding)
    assert found(splits)["a.jpg"][0][0] == "Käfer"


def test_an_encoding_without_a_mark_must_be_given(tmp_path):
    with pytest.raises(InputError, match="say which encoding"):
        read(tmp_path, "a.jpg,2,3,8,7,Käfer\n", "latin-1")
    _, splits = read(tmp_path, "a.jpg,2,3,8,7,Käfer\n", "latin-1", encoding="latin-1")
    assert found(splits)["a.jpg"][0][0] == "Käfer"
    with pytest.raises(InputError, match="no text encoding 'nonsense'"):
        read(tmp_path, "a.jpg,2,3,8,7,cat\n", encoding="nonsense")


def test_pixels_below_one_are_pixels_if_any_is_above(tmp_path):
    _, splits = read(tmp_path, "a.jpg,0,0,1,1,cat\nb.jpg,0,0,5,5,cat\n")
    assert found(splits) == {"a.jpg": [("cat", [0, 0, 1, 1])], "b.jpg": [("cat", [0, 0, 5, 5])]}


def test_rows_without_a_box_are_images_without_objects(tmp_path):
    _, splits = read(tmp_path, "b.jpg,,,,,\na.jpg,2,3,8,7,cat\n")
    assert found(splits) == {"b.jpg": [], "a.jpg": [BOX]}


def test_several_rows_of_an_image_need_not_be_neighbours(tmp_path):
    _, splits = read(tmp_path, "a.jpg,2,3,8,7,cat\nb.jpg,2,3,8,7,cat\na.jpg,1,1,2,2,dog\n")
    assert found(splits) == {"a.jpg": [BOX, ("dog", [1, 1, 1, 1])], "b.jpg": [BOX]}


def test_further_columns_become_attributes_and_the_split_counts(tmp_path):
    content = "image,x1,y1,x2,y2,label,Fold,set,note\n" + (
        "a.jpg,2,3,8,7,cat,1,train,old\nb.jpg,2,3,8,7,cat,,validation,\n"
    )
    _, splits = read(tmp_path, content)
    assert list(splits) == ["train", "val"]
    ((_, _, entry),) = splits["train"]["a.jpg"]["objects"]
    assert entry["attributes"] == {"Fold": "1", "note": "old"}
    ((_, _, entry),) = splits["val"]["b.jpg"]["objects"]
    assert "attributes" not in entry


def test_an_image_that_is_missing_needs_a_size(tmp_path):
    content = "filename,width,height,x1,y1,x2,y2,label\ngone.jpg,{},{},2,3,8,7,cat\n"
    conversion, splits = read(tmp_path, content.format(64, 48))
    assert splits["all"]["gone.jpg"]["size"] == (64, 48)
    assert [note.count for note in conversion.notes.suspicious.values()] == [1]
    with pytest.raises(InputError, match=r"labels\.csv:2: the image gone\.jpg is not in"):
        read(tmp_path, content.format("", ""))


def test_boxes_without_a_label_are_counted(tmp_path):
    conversion, splits = read(tmp_path, "a.jpg,2,3,8,7,\na.jpg,2,3,8,7,cat\n")
    assert found(splits) == {"a.jpg": [BOX]}
    (note,) = conversion.notes.dropped.values()
    assert note.places[0].endswith("labels.csv:1")


def test_without_a_column_of_labels_there_is_one_category(tmp_path):
    _, splits = read(tmp_path, "image,x1,y1,x2,y2\na.jpg,2,3,8,7\n")
    assert found(splits) == {"a.jpg": [("object", BOX[1])]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "there is no row"),
        ("a.jpg,2,3,8,7,cat\na.jpg,2,3,x,7,cat", r"labels\.csv:2: 'x' is not a number"),
        ("a.jpg,2,3,nan,7,cat", "'nan' is not a number"),
        ("a.jpg,2,3,1e999,7,cat", "'1e999' is not a number"),
        ("image,x1,y1,x2,y2,label\na.jpg,2,3,8,7,cat,dog", r"labels\.csv:2: 7 cells, but 6"),
        ("a.jpg,2,3,8,,cat", "'' is not a number"),
        ("what,x1,y1,x2,y2\na,1,2,3,4", "no column is called image"),
        ("image,p,q,label\na.jpg,1,2,cat", "found no columns of a box"),
        ('image,bbox,label\na.jpg,"[1, 2, 3]",cat', "a box has four numbers, not 3"),
        ('image,x1,y1,x2,y2,label\na.jpg,2,3,8,7,"' + "x" * 200_000 + '"', "broken CSV"),
    ],
)
def test_broken_files_are_named_with_the_line(tmp_path, content, message):
    with pytest.raises(InputError, match=message):
        read(tmp_path, content)


def test_a_folder_must_hold_just_one(tmp_path):
    text(tmp_path / "in/a.csv", "a.jpg,2,3,8,7,cat")
    picture(tmp_path / "in/a.jpg")
    _, splits = converted("csv", tmp_path / "in", tmp_path / "out")
    assert found(splits) == {"a.jpg": [BOX]}
    text(tmp_path / "in/b.csv", "a.jpg,2,3,8,7,cat")
    with pytest.raises(InputError, match=r"there are 2: a\.csv, b\.csv"):
        converted("csv", tmp_path / "in", tmp_path / "out")


labels = st.text(
    st.characters(codec="utf-8", exclude_categories=("C", "Z")), min_size=1, max_size=6
)
rows = st.tuples(st.sampled_from(["a.jpg", "b.jpg"]), labels, *[st.integers(2, 500)] * 4)


@settings(max_examples=40, deadline=None)
@given(st.lists(rows, min_size=1, max_size=6), st.sampled_from(",;\t|"))
def test_what_was_written_is_read(tmp_path_factory, objects, delimiter):
    folder = tmp_path_factory.mktemp("csv")
    with open(folder / "labels.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter=delimiter)
        writer.writerow(("filename", "label", "x1", "y1", "x2", "y2", "width", "height"))
        writer.writerows((*row, 640, 480) for row in objects)
    _, splits = converted("csv", folder / "labels.csv", folder / "out")
    wanted = {}
    for image, label, x1, y1, x2, y2 in objects:
        wanted.setdefault(image, []).append((label, [x1, y1, x2 - x1, y2 - y1]))
    assert found(splits) == wanted
