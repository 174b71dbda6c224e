import json
from pathlib import Path

import numpy as np
import pytest

from dataset_tools.convert import convert_dataset
from dataset_tools.errors import InputError
from dataset_tools.formats import openimages
from dataset_tools.rle import decode_mask
from tests.dataset_tools.makers import converted, mask_picture, picture, text

HEADER = (
    "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,"
    "IsOccluded,IsTruncated,IsGroupOf,IsDepiction,IsInside\n"
)
MASK_HEADER = (
    "MaskPath,ImageID,LabelName,BoxID,BoxXMin,BoxXMax,BoxYMin,BoxYMax,PredictedIoU,Clicks\n"
)
HIERARCHY = {
    "LabelName": "/m/0bl9f",
    "Subcategory": [
        {
            "LabelName": "/m/0jbk",
            "Subcategory": [{"LabelName": "/m/01yrx"}, {"LabelName": "/m/0bt9lr"}],
            "Part": [{"LabelName": "/m/tail"}],
        },
        {"LabelName": "/m/pet", "Subcategory": [{"LabelName": "/m/01yrx"}]},
    ],
}
NAMES = "/m/0jbk,Animal\n/m/0bt9lr,Dog\n/m/01yrx,Cat\n/m/pet,Pet\n"


def row(image="a1", label="/m/01yrx", box="0.1,0.6,0.2,0.7", flags="0,1,0,-1,0") -> str:
    return f"{image},xclick,{label},1,{box},{flags}\n"


def openimages_folder(folder: Path, rows: str, split: str = "train") -> Path:
    picture(folder / f"{split}/a1.jpg")
    text(folder / f"oidv6-{split}-annotations-bbox.csv", HEADER + rows)
    text(folder / "class-descriptions-boxable.csv", NAMES)
    text(folder / "bbox_labels_600_hierarchy.json", json.dumps(HIERARCHY))
    return folder


def test_shares_flags_names_and_kinds(tmp_path):
    rows = row() + row(label="/m/0bt9lr", box="0,1,0.5,1", flags="-1,0,1,0,0") + row("gone")
    source = openimages_folder(tmp_path / "in", rows)
    conversion, splits = converted("openimages", source, tmp_path / "out")
    cat, dogs = splits["train"]["train/a1.jpg"]["objects"]
    # XMin, XMax, YMin, YMax of an image of 20 × 10 px.
    assert cat[:2] == ("Cat", [2, 2, 10, 5])
    assert cat[2]["attributes"] == {
        "occluded": False,
        "truncated": True,
        "group_of": False,
        "inside": False,
        "source": "xclick",
    }
    assert dogs[:2] == ("Dog", [0, 5, 20, 5])
    assert (cat[2]["iscrowd"], dogs[2]["iscrowd"]) == (0, 1)
    content = json.loads(conversion.files["train"].path.read_text())
    assert content["categories"] == [
        {"id": 1, "name": "Dog", "supercategory": "Animal", "mid": "/m/0bt9lr"},
        {
            "id": 2,
            "name": "Cat",
            "supercategory": "Animal",
            "mid": "/m/01yrx",
            "supercategories": ["Animal", "Pet"],
        },
    ]
    (note,) = conversion.notes.dropped.values()
    assert (note.kind, note.count) == ("labels whose image is not there", 1)
    assert "gone" in note.places[0]


def test_masks_belong_to_the_boxes_of_their_coordinates(tmp_path):
    rows = row() + row(box="0,0.5,0,0.5")
    source = openimages_folder(tmp_path / "in", rows, "validation")
    masks = "p.png,a1,/m/01yrx,b1,0,0.5,0.000001,0.5,0.8,\nq.png,a1,/m/01yrx,b2,.9,1,.9,1,0.8,\n"
    text(source / "validation-annotations-object-segmentation.csv", MASK_HEADER + masks)
    half = np.zeros((5, 10), bool)  # half the size of the image
    half[1:3, 2:4] = True
    mask_picture(source / "masks/p.png", half)
    conversion, splits = converted("openimages", source, tmp_path / "out")
    first, second = splits["val"]["validation/a1.jpg"]["objects"]
    assert "segmentation" not in first[2]
    expected = np.zeros((10, 20), np.uint8)
    expected[2:6, 4:8] = 1
    np.testing.assert_array_equal(decode_mask(second[2]["segmentation"]), expected)
    assert second[1] == [0, 0, 10, 5]  # the box that was drawn, not the mask's
    (note,) = conversion.notes.dropped.values()
    assert (note.kind, note.count) == ("mask of no box", 1)


@pytest.mark.parametrize("size", [1, 50, 211, 1000, 10**6])
@pytest.mark.parametrize("end", ["\n", ""])
def test_parts_of_any_size_give_the_same(tmp_path, monkeypatch, size, end):
    counts = [3, 1, 1, 7, 2]
    rows = "".join(row(f"img{i}") * count for i, count in enumerate(counts)).rstrip("\n") + end
    source = openimages_folder(tmp_path / "in", rows)
    for i in range(len(counts)):
        picture(source / f"train/img{i}.jpg")
    monkeypatch.setattr(openimages, "PART_BYTES", size)
    conversion = convert_dataset("openimages", source, tmp_path / "out")
    content = json.loads(conversion.files["train"].path.read_text())
    assert [image["file_name"] for image in content["images"]] == [
        f"train/img{i}.jpg" for i in range(len(counts))
    ]
    found = [annotation["image_id"] for annotation in content["annotations"]]
    assert [found.count(i + 1) for i in range(len(counts))] == counts
    assert not conversion.notes


def test_line_numbers_in_later_parts(tmp_path, monkeypatch):
    source = openimages_folder(tmp_path / "in", row() * 9 + row("a2", box="0,x,0,1"))
    picture(source / "train/a2.jpg")
    monkeypatch.setattr(openimages, "PART_BYTES", 100)
    with pytest.raises(InputError, match=r"bbox\.csv:11: 'x'"):
        converted("openimages", source, tmp_path / "out")


def test_files_of_later_versions(tmp_path):
    source = openimages_folder(tmp_path / "in", row().replace("\n", "\r\n"), "test")
    names = b'\xef\xbb\xbfLabelName,DisplayName\r\n/m/01yrx,"Cat, big"\r\n/m/x,Cat\r\n/m/y,Cat\r\n'
    text(source / "class-descriptions-boxable.csv", names)
    text(source / "oidv6-test-annotations-vrd.csv", "ImageID,LabelName1,LabelName2,XMin1\n")
    conversion, splits = converted("openimages", source, tmp_path / "out")
    assert splits["test"]["test/a1.jpg"]["objects"][0][0] == "Cat, big"
    assert any("annotations-vrd" in remark for remark in conversion.plan.remarks)
    assert openimages._names(source, ["class-descriptions-boxable.csv"])["/m/y"] == "Cat (/m/y)"


def test_one_file_without_names(tmp_path):
    source = openimages_folder(tmp_path / "in", row())
    (source / "class-descriptions-boxable.csv").unlink()
    file = source / "oidv6-train-annotations-bbox.csv"
    conversion, splits = converted("openimages", file, tmp_path / "out")
    assert splits["train"]["train/a1.jpg"]["objects"][0][0] == "/m/01yrx"
    assert "called by their MIDs" in next(iter(conversion.notes.suspicious))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (row() + row(box="0.1,0.6,0.2"), r"bbox\.csv:3: the row has 12 cells, but there are 13"),
        (row(box="0.1,x,0.2,0.3"), r"bbox\.csv:2: 'x' is not a number"),
    ],
)
def test_broken_rows_are_named(tmp_path, rows, message):
    source = openimages_folder(tmp_path / "in", rows)
    with pytest.raises(InputError, match=message):
        converted("openimages", source, tmp_path / "out")


def test_a_folder_without_boxes_and_a_broken_hierarchy(tmp_path):
    text(tmp_path / "in/labels.csv", "a,b\n1,2\n")
    with pytest.raises(InputError, match="no CSV of boxes with the columns ImageID"):
        converted("openimages", tmp_path / "in", tmp_path / "out")
    source = openimages_folder(tmp_path / "in2", row())
    text(source / "bbox_labels_600_hierarchy.json", '{"LabelName": "/m/x", "Subcategory": [{}]}')
    with pytest.raises(InputError, match="has no LabelName"):
        converted("openimages", source, tmp_path / "out")
    text(source / "bbox_labels_600_hierarchy.json", '{"LabelName": "/m/x", "Part": 3}')
    with pytest.raises(InputError, match="is not a list"):
        converted("openimages", source, tmp_path / "out")


LABELS = (
    "ImageID,Source,LabelName,Confidence\r\n"
    "a1,verification,/m/01yrx,1\r\na1,verification,/m/0bt9lr,0\r\na1,machine,/m/pet,0.7\r\n"
    "b2,verification,/m/0bt9lr,1\r\n"
)


def test_labels_of_images_beside_boxes(tmp_path):
    source = openimages_folder(tmp_path / "in", row())
    text(source / "train-annotations-human-imagelabels-boxable.csv", LABELS)
    text(source / "train-annotations-machine-imagelabels.csv", LABELS.replace("0.7", "0.6"))
    _, splits = converted("openimages", source, tmp_path / "out")
    image = splits["train"]["train/a1.jpg"]
    assert [name for name, *_ in image["objects"]] == ["Cat"]
    assert image["entry"]["attributes"] == {
        "image_labels": {"Cat": 1, "Pet": 0.7},
        "neg_categories": ["Dog"],
    }
    _, splits = converted("openimages", source, tmp_path / "both", image_labels="objects")
    boxes = [box for _, box, _ in splits["train"]["train/a1.jpg"]["objects"]]
    assert boxes == [[2, 2, 10, 5], *[[0, 0, 20, 10]] * 2]


def test_labels_of_images_alone(tmp_path):
    for name in ("a1", "b2"):
        picture(tmp_path / f"in/validation/{name}.jpg")
    text(tmp_path / "in/validation-annotations-human-imagelabels.csv", LABELS)
    text(tmp_path / "in/class-descriptions.csv", NAMES)
    _, splits = converted("auto", tmp_path / "in", tmp_path / "out")
    images = splits["val"]
    cat, pet = images["validation/a1.jpg"]["objects"]
    assert cat[:2] == ("Cat", [0, 0, 20, 10])
    assert cat[2]["attributes"] == {"whole_image": True}
    assert (pet[0], pet[2]["attributes"]) == ("Pet", {"whole_image": True, "score": 0.7})
    assert images["validation/a1.jpg"]["entry"]["attributes"] == {"neg_categories": ["Dog"]}
    assert [name for name, *_ in images["validation/b2.jpg"]["objects"]] == ["Dog"]


def test_a_confidence_that_is_no_number(tmp_path):
    picture(tmp_path / "in/a1.jpg")
    path = text(tmp_path / "in/train-imagelabels.csv", LABELS.replace(",1\r", ",yes\r", 1))
    with pytest.raises(InputError, match=r"imagelabels\.csv:2: 'yes' is not a number"):
        converted("openimages", path, tmp_path / "out")
