from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataset_tools.errors import InputError
from dataset_tools.formats import get_format
from dataset_tools.notes import Notes
from tests.dataset_tools.makers import converted, picture, plain, text

HEADER = "<source><database>{database}</database></source>"


def voc_object(name="cat", box=(2, 3, 8, 9), more=""):
    corners = "".join(
        f"<{tag}>{value}</{tag}>"
        for tag, value in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
    )
    return f"<object>\n<name>{name}</name>{more}<bndbox>{corners}</bndbox></object>\n"


def voc_file(*objects, filename="a.jpg", size=(20, 10), database="Unknown", folder="JPEGImages"):
    sizes = f"<size><width>{size[0]}</width><height>{size[1]}</height></size>" if size else ""
    return (
        f"<annotation><folder>{folder}</folder><filename>{filename}</filename>\n"
        f"{HEADER.format(database=database)}{sizes}\n{''.join(objects)}</annotation>"
    )


def dataset(folder: Path, content, encoding="utf-8") -> Path:
    text(folder / "Annotations/a.xml", content, encoding)
    picture(folder / "JPEGImages/a.jpg")
    return folder


def only_image(splits):
    (images,) = splits.values()
    (image,) = images.values()
    return image


def test_files_of_other_tools_hold_corners(tmp_path):
    dataset(tmp_path / "in", voc_file(voc_object(box=(2, 3, 8, 9))))
    conversion, splits = converted("voc", tmp_path / "in", tmp_path / "out")
    assert list(splits["all"]) == ["JPEGImages/a.jpg"]
    assert only_image(splits)["objects"][0][:2] == ("cat", [2, 3, 6, 6])
    assert "--pixel-origin 0" in conversion.plan.remarks[-1]


@pytest.mark.parametrize("database", ["The VOC2007 Database", "PASCAL VOC 2012"])
def test_files_of_the_challenge_hold_pixel_numbers_from_one(tmp_path, database):
    # The whole image of 20 × 10 px, as the development kit writes it.
    dataset(tmp_path / "in", voc_file(voc_object(box=(1, 1, 20, 10)), database=database))
    conversion, splits = converted("voc", tmp_path / "in", tmp_path / "out")
    assert only_image(splits)["objects"][0][1] == [0, 0, 20, 10]
    assert "a.xml names it" in conversion.plan.remarks[-1]


def test_a_pixel_zero_gives_a_copied_header_away(tmp_path):
    content = voc_file(voc_object(box=(0, 1, 20, 10)), database="The VOC2007 Database")
    _, splits = converted("voc", dataset(tmp_path / "in", content), tmp_path / "out")
    assert only_image(splits)["objects"][0][1] == [0, 1, 20, 9]


@pytest.mark.parametrize(("origin", "box"), [("0", [2, 3, 6, 6]), ("1", [1, 2, 7, 7])])
def test_the_pixel_origin_can_be_given(tmp_path, origin, box):
    source = dataset(tmp_path / "in", voc_file(voc_object(box=(2, 3, 8, 9))))
    _, splits = converted("voc", source, tmp_path / "out", pixel_origin=origin)
    assert only_image(splits)["objects"][0][1] == box


def test_boxes_without_area_are_kept_and_told(tmp_path):
    content = voc_file(voc_object(box=(4, 4, 4, 4)), voc_object(box=(9, 5, 3, 7)))
    conversion, splits = converted("voc", dataset(tmp_path / "in", content), tmp_path / "out")
    boxes = [box for _, box, _ in only_image(splits)["objects"]]
    assert boxes == [[4, 4, 0, 0], [9, 5, -6, 2]]
    (note,) = conversion.notes.suspicious.values()
    assert note.count == 2 and note.places[0].endswith("a.xml:3")


def test_flags_and_all_else_become_attributes(tmp_path):
    more = (
        "<pose>Left</pose><truncated>1</truncated><difficult>0</difficult><occluded>1</occluded>"
        "<attributes><attribute><name>colour</name><value>red</value></attribute></attributes>"
        "<part><name>head</name><bndbox><xmin>1</xmin></bndbox></part><empty/>"
    )
    source = dataset(tmp_path / "in", voc_file(voc_object(more=more)))
    _, splits = converted("voc", source, tmp_path / "out")
    ((_, _, entry),) = only_image(splits)["objects"]
    assert entry["attributes"] == {
        "pose": "Left",
        "truncated": True,
        "difficult": False,
        "occluded": True,
        "colour": "red",
        "part": [{"name": "head", "bndbox": {"xmin": "1"}}],
    }
    assert entry["iscrowd"] == 0


@pytest.mark.parametrize(
    ("difficult", "crowds"), [("keep", [0, 0]), ("crowd", [1, 0]), ("drop", [0])]
)
def test_difficult_objects(tmp_path, difficult, crowds):
    content = voc_file(voc_object(more="<difficult>1</difficult>"), voc_object(box=(1, 1, 5, 5)))
    source = dataset(tmp_path / "in", content)
    conversion, splits = converted("voc", source, tmp_path / "out", difficult=difficult)
    assert [entry["iscrowd"] for *_, entry in only_image(splits)["objects"]] == crowds
    assert len(conversion.notes.dropped) == (difficult == "drop")


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbf" + voc_file(voc_object("Käfer")).encode(),
        ('<?xml version="1.0" encoding="utf-16"?>' + voc_file(voc_object("Käfer"))).encode(
            "utf-16"
        ),
        ('<?xml version="1.0" encoding="latin-1"?>' + voc_file(voc_object("Käfer"))).encode(
            "latin-1"
        ),
        voc_file(voc_object("Käfer")).replace("\n", "\r\n").encode(),
        voc_file(voc_object(" Käfer\n")).encode(),
        voc_file(voc_object("Käfer"))
        .replace("<annotation>", '<annotation xmlns="http://x.org/1">')
        .encode(),
        voc_file(voc_object("Käfer"))
        .replace("<annotation>", '<v:annotation xmlns:v="http://x.org/1">')
        .replace("</annotation>", "</v:annotation>")
        .encode(),
        voc_file(voc_object("Käfer", more="<!-- <name>no</name> -->")).encode(),
        voc_file(voc_object("Käfer", box=("2,0", "3.0", "8", "9"))).encode(),
    ],
    ids=["BOM", "UTF-16", "Latin-1", "CRLF", "space", "namespace", "prefix", "comment", "comma"],
)
def test_ways_to_write_the_same(tmp_path, content):
    _, splits = converted("voc", dataset(tmp_path / "in", content), tmp_path / "out")
    assert only_image(splits)["objects"][0][:2] == ("Käfer", [2, 3, 6, 6])


@pytest.mark.parametrize(
    "filename", ["a", "a.jpg", "A.JPG", "C:\\photos\\a.jpg", "/x/a.jpg", "", "b.png"]
)
def test_the_image_is_found_by_name_or_stem(tmp_path, filename):
    source = dataset(tmp_path / "in", voc_file(filename=filename))
    _, splits = converted("voc", source, tmp_path / "out")
    assert list(splits["all"]) == ["JPEGImages/a.jpg"]


def test_an_xml_file_called_otherwise_than_its_image(tmp_path):
    text(tmp_path / "in/Annotations/001.xml", voc_file(filename="photo one.jpg"))
    picture(tmp_path / "in/JPEGImages/photo one.jpg")
    _, splits = converted("voc", tmp_path / "in", tmp_path / "out")
    assert list(splits["all"]) == ["JPEGImages/photo one.jpg"]


def test_the_own_name_wins_over_a_stale_filename(tmp_path):
    source = dataset(tmp_path / "in", voc_file(filename="b.jpg"))
    picture(source / "JPEGImages/b.jpg")
    conversion, splits = converted("voc", source, tmp_path / "out")
    assert list(splits["all"]) == ["JPEGImages/a.jpg"]
    assert "not called like its image" in next(iter(conversion.notes.suspicious))


def test_the_same_name_in_two_folders(tmp_path):
    for folder, width in (("one", 20), ("two", 30)):
        text(tmp_path / f"in/{folder}/a.xml", voc_file(size=(width, 10), folder=""))
        picture(tmp_path / f"in/{folder}/a.jpg", width)
    _, splits = converted("voc", tmp_path / "in", tmp_path / "out")
    assert {name: i["size"] for name, i in splits["all"].items()} == {
        "one/a.jpg": (20, 10),
        "two/a.jpg": (30, 10),
    }


@pytest.mark.parametrize("size", [None, (0, 0), ("", "")])
def test_the_size_is_that_of_the_image_if_none_is_recorded(tmp_path, size):
    source = dataset(tmp_path / "in", voc_file(size=size))
    _, splits = converted("voc", source, tmp_path / "out")
    assert only_image(splits)["size"] == (20, 10)


def test_missing_images_are_kept_with_their_recorded_size_else_dropped(tmp_path):
    text(tmp_path / "in/Annotations/a.xml", voc_file(filename="../../a.jpg"))
    text(tmp_path / "in/Annotations/b.xml", voc_file(filename="b.jpg", size=None))
    conversion, splits = converted("voc", tmp_path / "in", tmp_path / "out")
    assert list(splits["all"]) == ["a.jpg"]
    assert [note.count for note in conversion.notes.dropped.values()] == [1]


def test_split_lists(tmp_path):
    for name in "abcde":
        text(tmp_path / f"in/Annotations/{name}.xml", voc_file(filename=f"{name}.jpg"))
        picture(tmp_path / f"in/JPEGImages/{name}.jpg")
    lists = {
        "train": "a\nb\n",
        "val": "\ufeffc\r\n",
        "trainval": "a\nb\nc\n",
        "test": "d.jpg\nghost\n",
        "cat_train": "a  1\nb -1\n",
    }
    for name, lines in lists.items():
        text(tmp_path / f"in/ImageSets/Main/{name}.txt", lines)
    conversion, splits = converted("voc", tmp_path / "in", tmp_path / "out")
    assert {split: [Path(name).stem for name in images] for split, images in splits.items()} == {
        "train": ["a", "b"],
        "val": ["c"],
        "test": ["d"],
        "rest": ["e"],
    }
    assert "trainval is train + val" in conversion.plan.remarks[0]
    assert "'ghost' in test.txt" in next(iter(conversion.notes.dropped.values())).places[0]
    assert any("in no split" in kind for kind in conversion.notes.suspicious)


def test_an_image_in_two_splits_is_in_both_and_told(tmp_path):
    source = dataset(tmp_path / "in", voc_file(voc_object()))
    for name in ("train", "test"):
        text(source / f"ImageSets/Main/{name}.txt", "a\n")
    conversion, splits = converted("voc", source, tmp_path / "out")
    assert [len(images) for images in splits.values()] == [1, 1]
    assert any("several splits" in kind for kind in conversion.notes.suspicious)


@pytest.mark.parametrize("given", ["Annotations", "Annotations/a.xml"])
def test_the_folder_of_annotations_or_one_file(tmp_path, given):
    dataset(tmp_path / "in", voc_file(voc_object()))
    _, splits = converted("voc", tmp_path / "in" / given, tmp_path / "out")
    assert list(splits["all"]) == ["JPEGImages/a.jpg"]


def test_objects_without_name_or_box_are_counted(tmp_path):
    content = voc_file("<object><name>x</name></object>", voc_object(name=""), voc_object())
    conversion, splits = converted("voc", dataset(tmp_path / "in", content), tmp_path / "out")
    assert len(only_image(splits)["objects"]) == 1
    assert {note.kind for note in conversion.notes.dropped.values()} == {
        "object without a bndbox",
        "object without a name",
    }


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("<annotation>\n<object>\n</annotation>", r"a\.xml: broken XML at line 3, column 3"),
        ("", r"a\.xml: broken XML at line 1"),
        (voc_file(voc_object(box=("x", 1, 2, 3))), r"a\.xml:4: <xmin> is 'x', not a number"),
        (voc_file(voc_object(box=("nan", 1, 2, 3))), r"a\.xml:4: <xmin> is 'nan'"),
        (voc_file(voc_object(box=("9" * 400, 1, 2, 3))), "not a number"),
        (
            '<!DOCTYPE a [<!ENTITY b "c"><!ENTITY d "&b;&b;">]><annotation>&d;</annotation>',
            "entities",
        ),
        ('<!DOCTYPE a SYSTEM "file:///etc/passwd"><annotation>&x;</annotation>', r"a\.xml"),
        ("<annotation>" + "<a>" * 10_000, "nested too deeply"),
        ('<?xml version="1.0" encoding="nonsense"?><annotation/>', r"a\.xml"),
    ],
)
def test_broken_files_are_named_with_the_place(tmp_path, content, message):
    source = dataset(tmp_path / "in", content)
    with pytest.raises(InputError, match=message):
        converted("voc", source, tmp_path / "out")
    assert list((tmp_path / "out").glob("*")) == []


def test_broken_files_can_be_skipped_and_are_counted(tmp_path):
    source = dataset(tmp_path / "in", voc_file(voc_object()))
    text(source / "Annotations/b.xml", "<annotation>")
    conversion, splits = converted("voc", source, tmp_path / "out", skip_errors=True)
    assert list(splits["all"]) == ["JPEGImages/a.jpg"]
    (note,) = conversion.notes.dropped.values()
    assert note.count == 1 and "b.xml: broken XML at line 1" in note.places[0]


names = st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")), min_size=1, max_size=8)
boxes = st.tuples(*[st.integers(0, 999)] * 4)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(st.tuples(names, boxes), max_size=4), min_size=1, max_size=3))
def test_what_was_written_is_read(tmp_path_factory, images):
    from xml.sax.saxutils import escape

    folder = tmp_path_factory.mktemp("voc")
    for number, objects in enumerate(images):
        written = [voc_object(escape(name), box) for name, box in objects]
        content = voc_file(*written, filename=f"{number}.jpg", size=(1000, 1000))
        text(folder / f"in/{number}.xml", content)
        text(folder / f"in/{number}.jpg", b"")
    _, splits = converted("voc", folder / "in", folder / "out", pixel_origin="0")
    for number, objects in enumerate(images):
        found = splits["all"][f"{number}.jpg"]["objects"]
        assert [(name, [x, y, x + w, y + h]) for name, (x, y, w, h), _ in found] == [
            (name, list(box)) for name, box in objects
        ]


@pytest.mark.parametrize("origin", ["0", "1"])
def test_files_read_by_shape_say_what_the_parser_says(tmp_path, origin):
    """A comment keeps a file from being read by its shape."""
    objects = [
        (" cat ", "Left", "1", "0", "1", "2.5", "10", "20"),
        ("b c", "", "0", "true", "-3", "1e1", "3", "2"),
        ("cat", "x", "maybe", "1", "5", "5", "5", "5"),
        ("", "x", "0", "0", "5", "5", "7", "7"),  # no name: dropped
        ("cat", "x", "0", "0", "5,5", "5", "7", "7"),  # a decimal comma
    ]
    for folder, comment in (("plain", ""), ("parsed", "<!-- c -->")):
        (tmp_path / folder).mkdir()
        for number in range(len(objects)):
            inner = "".join(
                f"<object>\n<name>{name}</name><pose>{pose}</pose>\n<truncated>{cut}</truncated>"
                f"<difficult>{hard}</difficult><bndbox><xmin>{a}</xmin><ymin>{b}</ymin>\n"
                f"<xmax>{c}</xmax><ymax>{d}</ymax></bndbox></object>\n"
                for name, pose, cut, hard, a, b, c, d in objects[: number + 1]
            )
            (tmp_path / folder / f"{number}.xml").write_text(
                f"<annotation>\n<filename>C:\\x\\{number}.jpg</filename>\n<size><width>30</width>"
                f"<height>20</height><depth>3</depth></size>{comment}{inner}</annotation>\n"
            )
    results = []
    for folder in ("plain", "parsed"):
        notes = Notes()
        (tmp_path / folder).rename(tmp_path / "in")
        plan = get_format("voc").plan(tmp_path / "in", notes, pixel_origin=origin)
        images = [plain(image) for item in plan.items for image in plan.read(item, notes)]
        results.append((images, notes.lines()))
        (tmp_path / "in").rename(tmp_path / folder)
    assert results[0] == results[1]
    told = " ".join(results[0][1])
    assert "object without a name" in told and "box of no area" in told
