import re
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataset_tools import parallel, xml_parts
from dataset_tools.coco import Annotation, Category, Image, load_coco, write_coco
from dataset_tools.convert import convert_dataset
from dataset_tools.errors import InputError
from dataset_tools.export import export_dataset
from dataset_tools.formats import get_format
from dataset_tools.notes import Notes
from dataset_tools.rle import decode_mask
from dataset_tools.xml_tree import stream_xml
from tests.dataset_tools.makers import converted, picture, plain, text
from tests.dataset_tools.round_trips import assert_close, records

SVG = (
    '&lt;line data-type="edge" data-node-from="2" data-node-to="1"&gt;&lt;/line&gt;'
    '&lt;circle data-element-id="5" data-node-id="1" data-label-name="head"&gt;&lt;/circle&gt;'
    '&lt;circle data-element-id="6" data-node-id="2" data-label-name="tail"&gt;&lt;/circle&gt;'
)
LABELS = f"""<labels>
<label><name>dog</name><attributes>
  <attribute><name>wet</name><input_type>checkbox</input_type></attribute>
  <attribute><name>age</name><input_type>number</input_type></attribute>
  <attribute><name>fur</name><input_type>select</input_type></attribute></attributes></label>
<label><name>cat</name></label>
<label><name>body</name><type>skeleton</type><svg>{SVG}</svg></label>
<label><name>head</name><type>points</type><parent>body</parent></label>
<label><name>tail</name><type>points</type><parent>body</parent></label>
</labels>"""


def image(*shapes, name="a.jpg", size='width="20" height="10"', more=""):
    return f'<image id="0" name="{name}" {size} {more}>\n{"".join(shapes)}</image>\n'


def xml(*images, meta=f"<task><name>t</name>{LABELS}</task>"):
    return (
        '<?xml version="1.0" encoding="utf-8"?>\n<annotations><version>1.1</version>'
        f"<meta>{meta}</meta>\n{''.join(images)}</annotations>"
    )


def box(corners=(2, 3, 8, 9), more="", inner="", label="dog"):
    named = zip(("xtl", "ytl", "xbr", "ybr"), corners, strict=True)
    sides = " ".join(f'{key}="{value}"' for key, value in named)
    return f'<box label="{label}" source="manual" occluded="0" {sides} {more}>{inner}</box>\n'


def shape(tag, label="dog", **attributes):
    said = " ".join(f'{key}="{value}"' for key, value in attributes.items())
    return f'<{tag} label="{label}" {said}></{tag}>\n'


def entries(tmp_path, *shapes, **options):
    text(tmp_path / "in/annotations.xml", xml(image(*shapes)))
    picture(tmp_path / "in/images/a.jpg")
    conversion, splits = converted("cvat", tmp_path / "in", tmp_path / "out", **options)
    (found,) = splits["all"].values()
    return conversion, [entry for *_, entry in found["objects"]]


def test_boxes_and_what_is_said_of_them(tmp_path):
    inner = "".join(
        f'<attribute name="{name}">{value}</attribute>'
        for name, value in (("wet", "true"), ("age", "3"), ("fur", "1"), ("else", "2"), ("no", ""))
    )
    conversion, (first, second) = entries(
        tmp_path, box(more='z_order="2" group_id="7"', inner=inner), box().replace('d="0"', 'd="1"')
    )
    assert first["bbox"] == [2, 3, 6, 6]
    assert first["attributes"] == {
        "z_order": 2,
        "group_id": 7,
        "wet": True,
        "age": 3,
        "fur": "1",
        "else": "2",
    }
    assert second["attributes"] == {"occluded": True}
    assert not conversion.notes
    names = [c.name for c in load_coco(tmp_path / "out/all.json").categories]
    assert names == ["dog", "cat", "body"]


def test_rotation_is_clockwise_around_the_centre(tmp_path):
    # 8 wide and 2 high around (10, 5); turned by 30° clockwise the right end goes down.
    _, (found, upright) = entries(
        tmp_path, box((6, 4, 14, 6), 'rotation="30"'), box((6, 4, 14, 6), 'rotation="360.00"')
    )
    assert found["attributes"]["rbox"] == [10, 5, 8, 2, -30]
    corners = np.reshape(found["segmentation"][0], (4, 2))
    right = corners[1:3].mean(axis=0)
    assert right == pytest.approx([10 + 4 * np.cos(np.pi / 6), 5 + 2])
    assert upright["bbox"] == [6, 4, 8, 2] and "segmentation" not in upright
    _, (left,) = entries(tmp_path, box((6, 4, 14, 6), 'rotation="270"'))
    assert left["attributes"]["rbox"] == [10, 5, 8, 2, 90]


def test_polygons_lines_points_ellipses_and_cuboids(tmp_path):
    cuboid = {
        f"{axis}{corner}{i}": 1 for axis in "xy" for corner in ("tl", "bl", "tr") for i in (1, 2)
    }
    _, found = entries(
        tmp_path,
        shape("polygon", points="1,2;5,2;5,8.50"),
        shape("polyline", points="1,2;5,2"),
        shape("points", points="1,2"),
        shape("ellipse", cx=10, cy=5, rx=6, ry=2, rotation=90),
        shape("cuboid", **cuboid, xbr1=4, ybr1=4, xbr2=6, ybr2=9),
    )
    assert found[0]["segmentation"] == [[1, 2, 5, 2, 5, 8.5]] and found[0]["area"] == 13
    assert found[1]["attributes"] == {"points": [1, 2, 5, 2], "shape": "line"}
    assert found[2]["attributes"] == {"points": [1, 2], "shape": "point"}
    assert found[3]["bbox"] == pytest.approx([8, -1, 4, 12])
    assert found[3]["area"] == pytest.approx(np.pi * 12, rel=0.01)
    assert found[4]["bbox"] == [1, 1, 5, 8] and len(found[4]["attributes"]["cuboid"]) == 16


def test_masks_are_runs_by_rows_that_begin_with_zeros(tmp_path):
    # .#. / ### at x 4, y 6
    mask = shape("mask", rle="1, 1, 1, 3", left=4, top=6, width=3, height=2)
    beyond = shape("mask", rle="0,6", left=18, top=9, width=3, height=2)
    conversion, found = entries(tmp_path, mask, beyond)
    expected = np.zeros((10, 20))
    expected[6, 5] = expected[7, 4:7] = 1
    assert (decode_mask(found[0]["segmentation"]) == expected).all()
    assert found[1]["bbox"] == [18, 9, 2, 1]
    assert "beyond the image" in next(iter(conversion.notes.suspicious))


def test_skeletons_are_keypoints(tmp_path):
    body = (
        '<skeleton label="body" z_order="0">'
        '<points label="tail" outside="0" occluded="1" points="3,4"/>'
        '<points label="head" outside="0" occluded="0" points="6,9"/></skeleton>'
        '<skeleton label="body"><points label="head" outside="1" points="6,9"/>'
        '<points label="tail" outside="0" points="1,2"/></skeleton>'
    )
    _, found = entries(tmp_path, body)
    assert [entry["keypoints"] for entry in found] == [[6, 9, 2, 3, 4, 1], [0, 0, 0, 1, 2, 2]]
    assert found[0]["bbox"] == [3, 4, 3, 5]
    category = load_coco(tmp_path / "out/all.json").categories[2]
    assert category.keypoints == ("head", "tail") and category.skeleton == ((2, 1),)


def test_tags_label_the_image_and_groups_join_masks_of_a_label(tmp_path):
    _, found = entries(
        tmp_path,
        shape("tag", label="cat"),
        shape("polygon", points="1,2;5,2;5,8", group_id=1),
        shape("polygon", points="8,2;9,2;9,8", group_id=1),
        shape("polygon", points="8,2;9,2;9,8", group_id=1, label="cat"),
        box(more='group_id="1"'),
    )
    assert found[0]["attributes"] == {"whole_image": True} and found[0]["bbox"] == [0, 0, 20, 10]
    assert [len(entry.get("segmentation", [])) for entry in found] == [0, 2, 1, 0]


def test_subsets_tasks_and_the_same_name_in_two_folders(tmp_path):
    meta = f"""<project><name>p</name><tasks><task><id>3</id><name>one</name></task>
        </tasks>{LABELS}</project>"""
    content = xml(
        image(name="a.jpg", more='subset="Train" task_id="3"', size=""),
        image(box(), name="a.jpg", more='subset="fold 2"', size=""),
        image(name="x\\ä b.jpg", more='subset="default"'),
        meta=meta,
    )
    text(tmp_path / "in/annotations.xml", content)
    picture(tmp_path / "in/images/Train/a.jpg", 11)
    picture(tmp_path / "in/images/fold 2/a.jpg", 12)
    picture(tmp_path / "in/images/x/ä b.jpg")
    _, splits = converted("cvat", tmp_path / "in", tmp_path / "out")
    found = {s: {name: i["size"] for name, i in images.items()} for s, images in splits.items()}
    assert found == {
        "train": {"images/Train/a.jpg": (11, 10)},
        "fold 2": {"images/fold 2/a.jpg": (12, 10)},
        "rest": {"images/x/ä b.jpg": (20, 10)},
    }
    assert splits["train"]["images/Train/a.jpg"]["entry"]["attributes"] == {"task": "one"}


def test_missing_images_and_other_xml_are_told(tmp_path):
    text(tmp_path / "in/annotations.xml", xml(image(name="../../b.jpg"), image(size="")))
    text(tmp_path / "in/other.xml", "<html/>")
    conversion, splits = converted("cvat", tmp_path / "in", tmp_path / "out")
    assert list(splits["all"]) == ["b.jpg"]
    assert [note.count for note in conversion.notes.dropped.values()] == [1, 1]


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbf" + xml(image(box(label="Käfer"))).encode(),
        xml(image(box(label="Käfer"))).replace("utf-8", "utf-16").encode("utf-16"),
        xml(image(box(label="Käfer"))).replace("\n", "\r\n").encode(),
        xml(image(box(label=" Käfer "))).encode(),
    ],
    ids=["BOM", "UTF-16", "CRLF", "space"],
)
def test_ways_to_write_the_same(tmp_path, content):
    text(tmp_path / "a.xml", content)
    _, splits = converted("cvat", tmp_path / "a.xml", tmp_path / "out")
    assert splits["all"]["a.jpg"]["objects"][0][:2] == ("Käfer", [2, 3, 6, 6])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (xml(image(box((1, "x", 3, 4)))), r"a\.xml:\d+: ytl of <box> is 'x', not a number"),
        (xml(image(box((1, "inf", 3, 4)))), "not a number"),
        (xml(image(shape("polygon", points="1,2;3"))), "hold '3', which is no x,y"),
        (xml(image(shape("mask", rle="1,2", left=0, top=0, width=2, height=2))), "do not add up"),
        (xml(image(name="")), "has no name"),
        (xml(image(box()))[:-30], r"broken XML at line \d+"),
        ("<annotation/>", "no XML file of CVAT"),
        ('<!DOCTYPE a [<!ENTITY b "c">]><annotations>&b;</annotations>', "entities"),
    ],
)
def test_broken_files_are_named_with_the_place(tmp_path, content, message):
    text(tmp_path / "a.xml", content)
    with pytest.raises(InputError, match=message):
        converted("cvat", tmp_path / "a.xml", tmp_path / "out")
    assert list((tmp_path / "out").glob("*")) == []


def test_shapes_that_cannot_be_read_are_counted(tmp_path):
    conversion, found = entries(
        tmp_path, shape("polygon", points="1,2;3,4"), shape("spline"), shape("box", label=""), box()
    )
    assert len(found) == 1
    assert [note.count for note in conversion.notes.dropped.values()] == [1, 1, 1]


def test_the_memory_does_not_grow_with_the_file(tmp_path):
    def peak(count):
        images = (image(*[box()] * 20, name=f"{number}.jpg") for number in range(count))
        path = text(tmp_path / f"{count}.xml", xml(*images))
        tracemalloc.start()
        nodes = sum(len(node.children) for node in stream_xml(path) if node.tag == "image")
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert nodes == 20 * count
        return most

    assert peak(1000) < 1.5 * peak(100)


def test_format_to_coco_and_back_and_again(tmp_path):
    content = xml(
        image(
            box(inner='<attribute name="wet">false</attribute>'),
            box((6, 4, 14, 6), 'rotation="33.25" z_order="-1"'),
            shape("polygon", points="1,2;5,2;5,8.50", group_id=2),
            shape("polygon", points="8,2;9,2;9,8", group_id=2),
            shape("ellipse", cx=10, cy=5, rx=6, ry=2, rotation=20),
            shape("mask", rle="1, 1, 1, 3", left=4, top=6, width=3, height=2),
            shape("polyline", points="1,2;5,2"),
            shape("tag", label="cat"),
            '<skeleton label="body"><points label="head" occluded="1" points="3,4"/></skeleton>',
            more='subset="train"',
        )
    )
    text(tmp_path / "in/annotations.xml", content)
    picture(tmp_path / "in/images/train/a.jpg")
    first = convert_dataset("cvat", tmp_path / "in", tmp_path / "first").files["train"].path
    export = export_dataset("cvat", {"train": first}, tmp_path / "there")
    assert not export.notes
    second = convert_dataset("cvat", tmp_path / "there", tmp_path / "second").files["train"].path
    before, after = load_coco(first), load_coco(second)
    assert_close(records(after), records(before), 1e-9)
    assert len(before.images[0].annotations) == 8
    for one, other in zip(before.categories, after.categories, strict=True):
        assert (one.name, one.keypoints, one.skeleton) == (
            other.name,
            other.keypoints,
            other.skeleton,
        )


NUMBERS = st.sampled_from(["1", "2.50", "-3", " 4 ", "1e1", "nan", "5,5", "", "x", "1_0"])
BOXES = st.builds(
    lambda corners, label, more, inner: box(corners, more, inner, label),
    st.tuples(*[st.sampled_from(["1", "2.50", "7", "9.25"])] * 4)
    | st.tuples(NUMBERS, NUMBERS, NUMBERS, NUMBERS),
    st.sampled_from(["dog", "cat", " cat ", "", "dog &amp; cat", "d\tg", "Ünï"]),
    st.sampled_from(
        [
            "",
            'z_order="0"',
            'z_order="-2"',
            'rotation="30"',
            'group_id="3"',
            "z_order='1'",
            'source="auto"',
            'occluded="1"',
            "broken",
            'xtl="4"',
            'z_order="1>0"',
        ]
    ),
    st.sampled_from(["", "", "", "\n", "text", '<attribute name="age">3</attribute>', "<x/>", "<"]),
)
OTHERS = st.sampled_from(
    [
        shape("polygon", points="1,2;5,2;5,8"),
        shape("tag"),
        "<!-- c -->",
        "<box/>",
        "\n",
        "\r\n",
        "&#32;",
        "</image><image id='1' name='b.jpg' width='20' height='10'>",
        "<image name='c.jpg'>",
        "]]>",
    ]
)
IMAGES = st.builds(
    lambda shapes, name, size, more: image(*shapes, name=name, size=size, more=more),
    st.lists(BOXES | BOXES | OTHERS, max_size=3),
    st.sampled_from(["a.jpg", "a.jpg", "b.jpg", "", "../a.jpg", "x&lt;.jpg", "images/a.jpg"]),
    st.sampled_from(['width="20" height="10"', 'width="20"', 'width="x" height="10"', ""]),
    st.sampled_from(["", "", 'subset="train"', 'task_id="1"', 'name="d.jpg"', "/"]),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(IMAGES, min_size=1, max_size=5), st.sampled_from(["", "<x a='", "<!-- ", "text"]))
def test_images_read_by_shape_say_what_the_parser_says(tmp_path_factory, images, between):
    """A comment at the end of the file's beginning leaves all to the parser."""
    folder = tmp_path_factory.mktemp("cvat")
    picture(folder / "images/a.jpg")
    told = []
    for comment in ("", "<!-- c -->"):
        text(folder / "a.xml", xml(f"{comment}{images[0]}", between, *images[1:]))
        notes, found = Notes(), []
        try:
            plan = get_format("cvat").plan(folder / "a.xml", notes)
            found += (plain(record) for record in plan.read(plan.items[0], notes))
            told.append((found, notes.lines()))
        except InputError as error:
            # Blank lines stand for what was read: the column of a fault may be another one.
            told.append(re.sub(r"column \d+.*", "", str(error)))
    assert told[0] == told[1]


@settings(max_examples=100, deadline=None)
@given(st.lists(IMAGES, min_size=1, max_size=6), st.integers(20, 400))
def test_parts_of_a_file_say_what_the_whole_says(tmp_path_factory, images, size):
    folder = tmp_path_factory.mktemp("cvat")
    picture(folder / "images/a.jpg")
    text(folder / "a.xml", xml(*images, '<track id="1" label="cat"></track>'))
    told = []
    for part_bytes in (1 << 20, size):
        notes, found = Notes(), []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(xml_parts, "PART_BYTES", part_bytes)
            try:
                plan = get_format("cvat").plan(folder, notes)
                found += (plain(image) for item in plan.items for image in plan.read(item, notes))
                told.append((found, notes.lines()))
            except InputError as error:
                told.append(re.sub(r"column .*", "", str(error)))
    assert told[0] == told[1]


def test_processes_share_a_file(tmp_path, monkeypatch):
    boxes = '<box label="cat" xtl="1" ytl="2" xbr="3.5" ybr="4"></box>\n'
    images = (
        image(boxes * (number % 3), name=f"{number}.jpg", size='width="20" height="10"')
        for number in range(200)
    )
    file = text(tmp_path / "a.xml", xml(*images))
    written = {}
    for workers, part_bytes in ((1, 1 << 20), (1, 2000), (2, 2000)):
        monkeypatch.setattr(xml_parts, "PART_BYTES", part_bytes)
        monkeypatch.setattr(parallel, "FEWEST_ITEMS", 10)
        output = tmp_path / f"out{workers}{part_bytes}"
        convert_dataset("cvat", file, output, workers=workers)
        written[workers, part_bytes] = (output / "all.json").read_bytes()
    assert len(set(written.values())) == 1


def test_what_cannot_be_written_is_told(tmp_path):
    annotations = [
        Annotation("cat", (0, 0, 9, 9), [[1, 2, 5, 2, 5, 8]]),
        Annotation("cat", (0, 0, 9, 9), keypoints=[1, 2, 2]),
        Annotation("cat", (0, 0, 9, 9), attributes={"list": [1]}),
    ]
    found = Image("a.jpg", 20, 10, annotations, attributes={"flags": {}})
    write_coco(tmp_path / "all.json", [found], [Category("cat", keypoints=("x",))], {})
    export = export_dataset("cvat", {None: tmp_path / "all.json"}, tmp_path / "there")
    assert len(export.notes.dropped) == 3 and len(export.notes.suspicious) == 2
