from pathlib import Path

import pytest

from dataset_tools.errors import InputError
from tests.dataset_tools.makers import converted, picture, text

CAR = "Car 0 1 -1.57 2.00 3.50 12.25 9.00 1.5 1.6 3.9 -2.1 1.7 25.0 -1.65"
DONT_CARE = "DontCare -1 -1 -10 0.0 0.0 5.0 4.0 -1000 -1000 -1000 -10 -1 -1 -1"
# Frame 1 has no object, and lines need not be in order.
LINES = f"2 7 {CAR}\r\n0 7 {CAR}\r\n0 -1 {DONT_CARE}\r\n"


def kitti(folder: Path, lines: str = LINES, sequence: str = "0012") -> Path:
    for camera in (2, 3):  # the same names for both cameras
        for frame in range(3):
            picture(folder / f"training/image_0{camera}/{sequence}/{frame:06}.png", 20, 10)
    text(folder / f"training/label_02/{sequence}.txt", lines)
    return folder


def test_frames_tracks_and_regions(tmp_path):
    conversion, splits = converted("kitti-tracking", kitti(tmp_path / "in"), tmp_path / "out")
    images = splits["train"]
    assert [len(image["objects"]) for image in images.values()] == [2, 0, 1]
    first = images["training/image_02/0012/000000.png"]
    assert first["entry"]["attributes"] == {"video": "0012", "frame": 0}
    (car, region) = first["objects"]
    assert car[:2] == ("Car", [2, 3.5, 10.25, 5.5])
    assert car[2]["attributes"] == {
        "truncated": 0,
        "occluded": 1,
        "alpha": -1.57,
        "dimensions": [1.5, 1.6, 3.9],
        "location": [-2.1, 1.7, 25],
        "rotation_y": -1.65,
        "track_id": 7,
    }
    assert region[:2] == ("DontCare", [0, 0, 5, 4])
    assert region[2]["iscrowd"] == 1 and "attributes" not in region[2]
    last = images["training/image_02/0012/000002.png"]
    assert last["objects"][0][2]["attributes"]["track_id"] == 7
    assert not conversion.notes


def test_the_same_sequence_in_both_folders_and_missing_images(tmp_path):
    source = kitti(tmp_path / "in", LINES + f"9 7 {CAR}\n")
    for frame in range(2):
        picture(source / f"testing/image_02/0012/{frame:06}.png")
    text(source / "training/label_02/0013.txt", LINES)
    conversion, splits = converted("kitti-tracking", source, tmp_path / "out")
    assert all(name.startswith("training/image_02/0012/") for name in splits["train"])
    assert {note.kind: note.places for note in conversion.notes.dropped.values()} == {
        "object in a frame whose image is not there": [f"{source}/training/label_02/0012.txt:4"],
        "sequence whose images are not there": [f"{source}/training/label_02/0013.txt"],
    }


@pytest.mark.parametrize("path", ["training", "training/label_02", "training/label_02/0012.txt"])
def test_parts_of_a_dataset(tmp_path, path):
    source = kitti(tmp_path / "in")
    images = source if path.endswith(".txt") else None
    _, splits = converted("kitti-tracking", source / path, tmp_path / "out", images=images)
    (content,) = splits.values()
    assert [len(image["objects"]) for image in content.values()] == [2, 0, 1]


def test_regions_left_out_and_of_every_class(tmp_path):
    source = kitti(tmp_path / "in")
    _, splits = converted("kitti-tracking", source, tmp_path / "every", ignored="every")
    (first, *_) = splits["train"].values()
    assert sum(entry["iscrowd"] for *_, entry in first["objects"]) == 8
    conversion, _ = converted("kitti-tracking", source, tmp_path / "drop", ignored="drop")
    assert [note.count for note in conversion.notes.dropped.values()] == [1]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (f"0 7 {CAR}\n1 7 Car 0 0 0 1 2 3", r"0012\.txt:2: 7 columns, but an object has 15"),
        (f"x 7 {CAR}", r"0012\.txt:1: 'x' is not a number"),
        (f"0.5 7 {CAR}", "'0.5' is not a whole number"),
    ],
)
def test_broken_lines_are_named(tmp_path, lines, message):
    with pytest.raises(InputError, match=message):
        converted("kitti-tracking", kitti(tmp_path / "in", lines), tmp_path / "out")
