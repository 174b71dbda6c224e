from pathlib import Path

import pytest

from dataset_tools.errors import InputError
from tests.dataset_tools.makers import converted, picture, text

LINES = "3,2,5,4,1,4,1,2\r\n0,0,6,3,0,0,0,0,\r\n1,1,2,2,0,11,0,0\r\n8,8,0,2,1,1,0,1\r\n"
SPLIT = "VisDrone2019-DET-val"


def visdrone(folder: Path, lines: str, split: str = SPLIT) -> Path:
    picture(folder / split / "images/0000001_02999_d_0000005.jpg")
    text(folder / split / "annotations/0000001_02999_d_0000005.txt", lines)
    return folder


@pytest.mark.parametrize("below", ["", SPLIT, f"{SPLIT}/annotations"])
def test_boxes_and_what_is_not_evaluated(tmp_path, below):
    source = visdrone(tmp_path / "in", LINES) / below
    conversion, splits = converted("visdrone", source, tmp_path / "out")
    ((_, image),) = splits["val"].items()
    found = [(name, box, entry["iscrowd"]) for name, box, entry in image["objects"]]
    assert found == [
        ("car", [3, 2, 5, 4], 0),
        ("ignored regions", [0, 0, 6, 3], 1),
        ("others", [1, 1, 2, 2], 1),
        ("pedestrian", [8, 8, 0, 2], 0),
    ]
    assert image["objects"][0][2]["attributes"] == {"truncated": 1, "occluded": 2}
    categories = list(conversion.files["val"].per_category)
    assert categories[0] == "pedestrian" and categories[-2:] == ["others", "ignored regions"]
    (note,) = conversion.notes.suspicious.values()
    assert note.places[0].endswith("d_0000005.txt:4")


def test_ignored_regions_of_every_class_or_none(tmp_path):
    source = visdrone(tmp_path / "in", LINES)
    _, splits = converted("visdrone", source, tmp_path / "every", ignored="every")
    ((_, image),) = splits["val"].items()
    regions = [name for name, box, _ in image["objects"] if box == [0, 0, 6, 3]]
    assert len(regions) == len(set(regions)) == 10 and "others" not in regions
    conversion, splits = converted("visdrone", source, tmp_path / "drop", ignored="drop")
    assert [note.count for note in conversion.notes.dropped.values()] == [1]


def test_empty_labels_missing_partners_and_the_same_name_in_two_splits(tmp_path):
    source = visdrone(visdrone(tmp_path / "in", LINES), "", "VisDrone2019-DET-train")
    picture(source / "VisDrone2019-DET-test-challenge/images/9.jpg")
    text(source / SPLIT / "annotations/8.txt", LINES)
    text(source / "README.txt", "Drones.")
    conversion, splits = converted("visdrone", source, tmp_path / "out")
    assert {split: list(images) for split, images in splits.items()} == {
        "train": ["VisDrone2019-DET-train/images/0000001_02999_d_0000005.jpg"],
        "val": ["VisDrone2019-DET-val/images/0000001_02999_d_0000005.jpg"],
    }
    assert {n.kind: n.count for n in conversion.notes.dropped.values()} == {
        "image without a label file": 1,
        "labels whose image is not there": 1,
    }


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("3,2,5,4,1,4,1,2\n3,2,5,4,1,4,1\n", r"\.txt:2: 7 columns instead of 8"),
        ("3,2,5,4,1,12,1,2", r"\.txt:1: there is no category 12"),
        ("3,2,5,4,1,car,1,2", "'car' is not a number"),
    ],
)
def test_broken_lines_are_named(tmp_path, lines, message):
    with pytest.raises(InputError, match=message):
        converted("visdrone", visdrone(tmp_path / "in", lines), tmp_path / "out")
