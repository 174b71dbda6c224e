"""Segmentation PNGs of Pascal VOC, and its writer."""

import numpy as np
import pytest
from PIL import Image as Pillow

from dataset_tools.coco import Annotation, Category, Image, write_coco
from dataset_tools.errors import InputError
from dataset_tools.export import export_dataset
from dataset_tools.palette import colour, save_numbers
from dataset_tools.rle import decode_mask
from tests.dataset_tools.makers import converted, picture, text

OBJECT = (
    "<object><name>{}</name><bndbox><xmin>{}</xmin><ymin>{}</ymin>"
    "<xmax>{}</xmax><ymax>{}</ymax></bndbox></object>"
)


def segmented(folder, objects, owners, classes=None):
    """a.jpg of 20 × 10 px with XML objects (name, corners) and PNGs."""
    picture(folder / "JPEGImages/a.jpg")
    size = "<size><width>20</width><height>10</height></size>"
    body = "".join(OBJECT.format(name, *box) for name, *box in objects)
    if objects is not None:
        text(folder / "Annotations/a.xml", f"<annotation>{size}{body}</annotation>")
    save_numbers(folder / "SegmentationObject/a.png", owners)
    if classes is not None:
        save_numbers(folder / "SegmentationClass/a.png", classes)
    return folder


def two_objects():
    """Object 1, a cat (class 8), at x 2–6, y 1–5; object 2, a dog (12), at x 10–18; void around."""
    owners = np.zeros((10, 20), np.uint8)
    owners[0:6, 1:7] = 255
    owners[1:5, 2:6] = 1
    owners[3:9, 10:18] = 2
    classes = np.select([owners == 1, owners == 2, owners == 255], [8, 12, 255], 0)
    return owners, classes


def test_the_palette_is_the_challenges():
    # From the development kit's VOCcolormap: aeroplane, bicycle, person (15), void.
    assert [colour(n) for n in (0, 1, 2, 15, 255)] == [
        (0, 0, 0),
        (128, 0, 0),
        (0, 128, 0),
        (192, 128, 128),
        (224, 224, 192),
    ]


@pytest.mark.parametrize("swapped", [False, True])
def test_masks_go_to_their_objects(tmp_path, swapped):
    owners, classes = two_objects()
    objects = [("cat", 2, 1, 6, 5), ("dog", 10, 3, 18, 9)]
    if swapped:  # the numbers do not agree with the order in the XML file, the boxes do
        objects.reverse()
    conversion, splits = converted(
        "voc", segmented(tmp_path / "in", objects, owners, classes), tmp_path / "out"
    )
    found = {name: entry for name, _, entry in splits["all"]["JPEGImages/a.jpg"]["objects"]}
    assert np.array_equal(decode_mask(found["cat"]["segmentation"]), owners == 1)
    assert np.array_equal(decode_mask(found["dog"]["segmentation"]), owners == 2)
    assert found["dog"]["bbox"] == [10, 3, 8, 6]
    assert not conversion.notes.suspicious and not conversion.notes.dropped


def test_masks_of_no_object_become_objects(tmp_path):
    owners, classes = two_objects()
    source = segmented(tmp_path / "in", [("cat", 2, 1, 6, 5)], owners, classes)
    conversion, splits = converted("voc", source, tmp_path / "out")
    objects = splits["all"]["JPEGImages/a.jpg"]["objects"]
    assert [(name, box) for name, box, _ in objects] == [
        ("cat", [2, 1, 4, 4]),
        ("dog", [10, 3, 8, 6]),
    ]
    assert [note.count for note in conversion.notes.suspicious.values()] == [1]


def test_masks_without_xml_and_with_a_labelmap(tmp_path):
    owners, classes = two_objects()
    source = segmented(tmp_path / "in", [], owners, classes)
    (source / "Annotations/a.xml").unlink()
    names = ["background", *(f"class {n}" for n in range(1, 12)), "Hund: groß"]
    lines = [f"{name}:{n},0,0::" for n, name in enumerate(names)]
    text(source / "labelmap.txt", "# label:color_rgb:parts:actions\n" + "\n".join(lines))
    text(source / "ImageSets/Segmentation/val.txt", "a\n")
    conversion, splits = converted("voc", source, tmp_path / "out")
    objects = splits["val"]["JPEGImages/a.jpg"]["objects"]
    assert [name for name, _, _ in objects] == ["class 8", "Hund: groß"]
    assert list(conversion.files["val"].per_category) == names[1:]


def test_broken_pngs_are_named(tmp_path):
    owners, classes = two_objects()
    source = segmented(tmp_path / "in", [], owners, np.where(classes == 12, 21, classes))
    with pytest.raises(InputError, match="object 2: is of class 21, but 20 classes"):
        converted("voc", source, tmp_path / "out")
    save_numbers(source / "SegmentationObject/a.png", owners[:5])
    with pytest.raises(InputError, match="is 20×5, but its image 20×10"):
        converted("voc", source, tmp_path / "out")
    Pillow.new("RGB", (20, 10)).save(source / "SegmentationObject/a.png")
    with pytest.raises(InputError, match="is of mode RGB"):
        converted("voc", source, tmp_path / "out")


def exported(folder, annotations, **options):
    picture(folder / "photos/x/a b.jpg")
    image = Image("x/a b.jpg", 20, 10, annotations)
    categories = [Category("cat"), Category("<dog>")]
    write_coco(folder / "val.json", [image], categories, {"image_root": "photos"})
    export = export_dataset("voc", {"val": folder / "val.json"}, folder / "out", **options)
    return export, (folder / "out/Annotations/x/a b.xml").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("options", "corners"),
    [
        ({}, ("2.25", "3", "8.5", "7")),
        ({"pixel_origin": "1"}, ("3.25", "4", "8.5", "7")),
        ({"pixel_origin": "1", "numbers": "whole"}, ("3", "4", "8", "7")),
    ],
)
def test_corners_as_written(tmp_path, options, corners):
    objects = [Annotation("<dog>", (2.25, 3, 8.5, 7), attributes={"truncated": True, "age": 3})]
    _, xml = exported(tmp_path, objects, **options)
    for tag, corner in zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True):
        assert f"<{tag}>{corner}</{tag}>" in xml
    assert "<name>&lt;dog&gt;</name>" in xml and "<truncated>1</truncated>" in xml
    assert "<name>age</name>" in xml and "<difficult>0</difficult>" in xml
    assert "<folder>JPEGImages/x</folder>" in xml and "<filename>a b.jpg</filename>" in xml
    assert (tmp_path / "out/ImageSets/Main/val.txt").read_text() == "x/a b\n"
    assert not (tmp_path / "out/SegmentationObject").exists()


def test_pngs_as_written(tmp_path):
    square = [2, 1, 6, 1, 6, 5, 2, 5]
    objects = [
        Annotation("cat", (0, 0, 3, 3), iscrowd=True),
        Annotation("<dog>", (2, 1, 6, 5), [square], keypoints=[1, 1, 2]),
    ]
    export, xml = exported(tmp_path, objects)
    owners = np.asarray(Pillow.open(tmp_path / "out/SegmentationObject/x/a b.png"))
    classes = np.asarray(Pillow.open(tmp_path / "out/SegmentationClass/x/a b.png"))
    wanted = np.zeros((10, 20))
    wanted[1:5, 2:6] = 2  # the second object in the XML file, and the second class
    assert np.array_equal(owners, wanted) and np.array_equal(classes, wanted)
    assert set(export.notes.dropped) == {"keypoints"}
    assert set(export.notes.suspicious) == {
        "crowd (written as difficult)",
        "object without a mask (in the XML file only)",
    }
    assert "<difficult>1</difficult>" in xml
    assert (tmp_path / "out/labelmap.txt").read_text().splitlines()[1:] == [
        "background:0,0,0::",
        "cat:128,0,0::",
        "<dog>:0,128,0::",
    ]


def test_names_that_xml_cannot_hold_are_refused(tmp_path):
    with pytest.raises(InputError, match="a character that XML cannot"):
        exported(tmp_path, [Annotation("cat", (1, 1, 2, 2), attributes={"a": "\x00"})])
