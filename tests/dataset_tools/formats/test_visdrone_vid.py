from pathlib import Path

import pytest

from dataset_tools.errors import InputError
from tests.dataset_tools.makers import converted, picture, text

SPLIT = "VisDrone2019-VID-val"
VIDEO = "uav0000086_00000_v"
# Frame 2 has no box; a file may end lines by a comma.
LINES = (
    "1,4,3,2,5,4,1,4,1,2\r\n3,4,4,2,5,4,1,4,1,2\r\n3,0,0,0,6,3,0,0,0,0,\r\n1,5,1,1,2,2,0,11,0,0\r\n"
)


def visdrone(folder: Path, lines: str = LINES, split: str = SPLIT) -> Path:
    for frame in range(1, 4):
        picture(folder / split / f"sequences/{VIDEO}/{frame:07}.jpg")
    text(folder / split / f"annotations/{VIDEO}.txt", lines)
    return folder


@pytest.mark.parametrize("below", ["", SPLIT, f"{SPLIT}/annotations"])
def test_frames_targets_and_what_is_not_evaluated(tmp_path, below):
    source = visdrone(tmp_path / "in") / below
    _, splits = converted("visdrone-vid", source, tmp_path / "out")
    first, second, third = splits["val"].values()
    assert first["entry"]["attributes"] == {"video": VIDEO, "frame": 0}
    assert not second["objects"]
    found = [(name, box, entry["iscrowd"]) for name, box, entry in first["objects"]]
    assert found == [("car", [3, 2, 5, 4], 0), ("others", [1, 1, 2, 2], 1)]
    assert first["objects"][0][2]["attributes"] == {"truncated": 1, "occluded": 2, "track_id": 4}
    car, region = third["objects"]
    assert car[2]["attributes"]["track_id"] == 4
    assert region[:2] == ("ignored regions", [0, 0, 6, 3]) and region[2]["iscrowd"] == 1
    assert "track_id" not in region[2]["attributes"]


def test_the_same_video_in_two_splits_and_a_frame_too_many(tmp_path):
    source = visdrone(
        visdrone(tmp_path / "in"), LINES + "4,4,3,2,5,4,1,4,1,2", SPLIT[:-3] + "train"
    )
    conversion, splits = converted("visdrone-vid", source, tmp_path / "out")
    assert {split: len(images) for split, images in splits.items()} == {"train": 3, "val": 3}
    (note,) = conversion.notes.dropped.values()
    assert (note.kind, note.count) == ("object in a frame whose image is not there", 1)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (LINES + "3,2,5,4,1,4,1,2\n", r"_v\.txt:5: 6 columns instead of 8"),
        ("1,4,3,2,5,4,1,12,1,2", r"_v\.txt:1: there is no category 12"),
        ("1.5,4,3,2,5,4,1,4,1,2", "'1.5' is not a whole number"),
    ],
)
def test_broken_lines_are_named(tmp_path, lines, message):
    with pytest.raises(InputError, match=message):
        converted("visdrone-vid", visdrone(tmp_path / "in", lines), tmp_path / "out")
