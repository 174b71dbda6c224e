from pathlib import Path

import pytest

from dataset_tools.errors import InputError
from tests.dataset_tools.makers import converted, picture, text

CAR = "Car 0.25 1 -1.57 2.00 3.50 12.25 9.00 1.5 1.6 3.9 -2.1 1.7 25.0 -1.65"
DONT_CARE = "DontCare -1 -1 -10 0.0 0.0 5.0 4.0 -1 -1 -1 -1000 -1000 -1000 -10"


def kitti(folder: Path, lines: str, name: str = "000007") -> Path:
    for camera in (2, 3):  # the same names for both cameras
        picture(folder / f"training/image_{camera}/{name}.png", 20 * camera, 10)
    text(folder / f"training/label_2/{name}.txt", lines)
    return folder


def objects(splits: dict) -> list:
    ((name, image),) = splits["train"].items()
    assert (name, image["size"]) == ("training/image_2/000007.png", (40, 10))
    return image["objects"]


def test_edges_and_what_else_a_line_says(tmp_path):
    source = kitti(tmp_path / "in", f"{CAR}\r\n{CAR.replace('Car', 'Tram')} 0.9\r\n")
    conversion, splits = converted("kitti", source, tmp_path / "out")
    car, tram = objects(splits)
    assert car[:2] == ("Car", [2, 3.5, 10.25, 5.5])
    known = {
        "truncated": 0.25,
        "occluded": 1,
        "alpha": -1.57,
        "dimensions": [1.5, 1.6, 3.9],
        "location": [-2.1, 1.7, 25],
        "rotation_y": -1.65,
    }
    assert car[2]["attributes"] == known
    assert tram[2]["attributes"] == known | {"score": 0.9}
    assert list(conversion.files["train"].per_category)[:2] == ["Car", "Van"]


def test_regions_that_nobody_labelled(tmp_path):
    source = kitti(tmp_path / "in", f"{CAR}\n{DONT_CARE}\n")
    conversion, splits = converted("kitti", source, tmp_path / "crowd")
    region = objects(splits)[1]
    assert region[:2] == ("DontCare", [0, 0, 5, 4])
    assert region[2]["iscrowd"] == 1 and "attributes" not in region[2]
    assert "DontCare" in conversion.plan.remarks[0]

    _, splits = converted("kitti", source, tmp_path / "every", ignored="every")
    crowds = [name for name, _, entry in objects(splits) if entry["iscrowd"]]
    assert len(crowds) == len(set(crowds)) == 8 and crowds[:2] == ["Car", "Van"]

    conversion, splits = converted("kitti", source, tmp_path / "drop", ignored="drop")
    assert len(objects(splits)) == 1
    note = conversion.notes.dropped["DontCare region (--ignored drop)"]
    assert note.places == [f"{source}/training/label_2/000007.txt:2"]


def test_the_folder_of_labels_alone_and_images_of_the_test_set(tmp_path):
    source = kitti(tmp_path / "in", CAR)
    picture(source / "testing/image_2/000008.png")
    labels = source / "training/label_2"
    conversion, splits = converted("kitti", labels, tmp_path / "out")
    assert len(objects(splits)) == 1
    (note,) = conversion.notes.dropped.values()
    assert note.places == ["testing/image_2/000008.png"]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (CAR + "\n\nCar 0 0 0 1 2 3 4", r"000007\.txt:3: 8 columns, but an object has 15"),
        (CAR.replace("12.25", "12,25"), r"000007\.txt:1: '12,25' is not a number"),
        (CAR.replace(" 1 ", " 1.5 ", 1), "'1.5' is not a whole number"),
    ],
)
def test_broken_lines_are_named(tmp_path, lines, message):
    with pytest.raises(InputError, match=message):
        converted("kitti", kitti(tmp_path / "in", lines), tmp_path / "out")
