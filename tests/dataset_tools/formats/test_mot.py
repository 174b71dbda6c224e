from pathlib import Path

import pytest

from dataset_tools.errors import InputError
from tests.dataset_tools.makers import converted, picture, text

INFO = (
    "[Sequence]\nname=MOT17-02-{0}\nimDir=img1\nframeRate=30\nseqLength=3\n"
    "imWidth=20\nimHeight=10\nimExt=.jpg\n"
)
TRUTH = "1,7,1,1,4,3,1,1,0.75\r\n3,7,5,2,4.5,3,1,1,1\r\n3,9,2,2,3,3,0,8,0.5\r\n"


def mot(folder: Path, truth: str | None = TRUTH, detector: str = "FRCNN") -> Path:
    base = folder / f"MOT17/train/MOT17-02-{detector}"
    for frame in (1, 2, 3):
        picture(base / f"img1/{frame:06}.jpg")
    text(base / "seqinfo.ini", INFO.format(detector))
    text(base / "det/det.txt", "2,-1,3,3,2,2,0.875,-1,-1,-1\n")
    if truth is not None:
        text(base / "gt/gt.txt", truth)
    return folder


def test_pixels_and_frames_from_1_flags_and_tracks(tmp_path):
    conversion, splits = converted("mot", mot(tmp_path / "in"), tmp_path / "out")
    images = list(splits["train"].items())
    assert [name for name, _ in images] == [
        f"MOT17/train/MOT17-02-FRCNN/img1/{frame:06}.jpg" for frame in (1, 2, 3)
    ]
    assert [image["entry"]["attributes"] for _, image in images] == [
        {"video": "MOT17-02-FRCNN", "frame": frame} for frame in (0, 1, 2)
    ]
    assert [len(image["objects"]) for _, image in images] == [1, 0, 2]
    ((name, box, entry),) = images[0][1]["objects"]
    assert (name, box) == ("pedestrian", [0, 0, 4, 3])  # 1, 1 is the image's corner
    assert entry["attributes"] == {"track_id": 7, "visibility": 0.75}
    second, third = images[2][1]["objects"]
    assert second[1] == [4, 1, 4.5, 3]
    assert (third[0], third[2]["iscrowd"]) == ("distractor", 1)
    assert not conversion.notes


def test_a_sequence_is_read_once_though_three_detectors_saw_it(tmp_path):
    source = mot(mot(tmp_path / "in"), detector="SDP")
    conversion, splits = converted("mot", source, tmp_path / "out")
    assert len(splits["train"]) == 3
    assert "MOT17-02-SDP has the frames and the truth of" in conversion.plan.remarks[0]


def test_what_a_detector_found(tmp_path):
    source = mot(mot(tmp_path / "in", None), None, detector="SDP")
    _, splits = converted("mot", source, tmp_path / "out", boxes="det")
    assert len(splits["train"]) == 6
    objects = splits["train"]["MOT17/train/MOT17-02-SDP/img1/000002.jpg"]["objects"]
    assert objects[0][1] == [2, 2, 2, 2]
    assert objects[0][2]["attributes"] == {"score": 0.875}
    with pytest.raises(InputError, match=r"no sequence in it has a gt/gt\.txt"):
        converted("mot", source, tmp_path / "out")


def test_mot15_has_no_classes_and_one_sequence_may_be_given(tmp_path):
    source = mot(tmp_path / "in", "1,1,1,1,4,3,1,-1,-1,-1\n") / "MOT17/train/MOT17-02-FRCNN"
    (source / "img1/000003.jpg").unlink()
    conversion, splits = converted("mot", source, tmp_path / "out")
    ((_, box, entry),) = splits["all"]["img1/000001.jpg"]["objects"]
    assert (box, entry["attributes"]) == ([0, 0, 4, 3], {"track_id": 1})
    (note,) = conversion.notes.suspicious.values()
    assert (note.kind, note.count) == ("image file that is missing (kept)", 1)


@pytest.mark.parametrize(
    ("truth", "message"),
    [
        (TRUTH + "4,7,1,1,4,3,1,1,1", r"gt\.txt:4: frame 4 of a sequence of 3"),
        ("1,7,1,1,4,3,1,14,1", r"gt\.txt:1: there is no class 14"),
        ("1,7,1,1,4", "5 columns"),
        ("1,7,1,1,4,x,1,1,1", "'x' is not a number"),
        ("1.5,7,1,1,4,3,1,1,1", "'1.5' is not a whole number"),
    ],
)
def test_broken_lines_are_named(tmp_path, truth, message):
    with pytest.raises(InputError, match=message):
        converted("mot", mot(tmp_path / "in", truth), tmp_path / "out")


@pytest.mark.parametrize(
    "content",
    [
        "[Sequence]\nname=x\nimWidth=2\n",
        "name=x\n",
        INFO.replace("img1", "../../../elsewhere"),
        INFO.replace("img1", "/etc"),
        INFO.replace("seqLength=3", "seqLength=4294967297"),
        INFO.replace("seqLength=3", "seqLength=-1"),
    ],
)
def test_a_broken_description(tmp_path, content):
    source = mot(tmp_path / "in")
    text(source / "MOT17/train/MOT17-02-FRCNN/seqinfo.ini", content)
    with pytest.raises(InputError, match=r"seqinfo\.ini: not a sequence's description"):
        converted("mot", source, tmp_path / "out")
