from pathlib import Path

import pytest

from dataset_tools.errors import InputError
from tests.dataset_tools.makers import converted, picture, text

ONE = "0--Parade/0_Parade 1.jpg\n2\n3 2 5 4 2 0 1 0 1 0 \n1 1 2 0 0 0 0 1 0 1 \n"
NONE = "1--Riot/none.jpg\n0\n0 0 0 0 0 0 0 0 0 0 \n"


def wider(folder: Path, content: str | bytes, split: str = "train") -> Path:
    for name in ("0--Parade/0_Parade 1.jpg", "1--Riot/none.jpg"):
        picture(folder / f"WIDER_{split}/images/{name}")
    text(folder / f"wider_face_split/wider_face_{split}_bbx_gt.txt", content)
    return folder


@pytest.mark.parametrize("below", ["", "wider_face_split"])
@pytest.mark.parametrize("order", [ONE + NONE, NONE + ONE, NONE.replace("0 " * 10, "") + ONE])
def test_faces_flags_and_images_without_faces(tmp_path, below, order):
    source = wider(tmp_path / "in", order.replace("\n\n", "\n").replace("\n", "\r\n")) / below
    conversion, splits = converted("widerface", source, tmp_path / "out")
    images = splits["train"]
    assert len(images) == 2
    assert images["WIDER_train/images/1--Riot/none.jpg"]["objects"] == []
    first, second = images["WIDER_train/images/0--Parade/0_Parade 1.jpg"]["objects"]
    assert first[:2] == ("face", [3, 2, 5, 4])
    assert first[2]["attributes"] == {
        "blur": 2,
        "expression": 0,
        "illumination": 1,
        "invalid": False,
        "occluded": 1,
        "pose": 0,
    }
    assert (first[2]["iscrowd"], second[2]["iscrowd"]) == (0, 1)
    assert second[2]["attributes"]["invalid"] is True
    (note,) = conversion.notes.suspicious.values()
    assert note.kind.startswith("box of no area")


def test_splits_with_images_of_the_same_name(tmp_path):
    source = wider(wider(tmp_path / "in", ONE), ONE + NONE, "val")
    _, splits = converted("widerface", source, tmp_path / "out")
    assert {split: len(images) for split, images in splits.items()} == {"train": 1, "val": 2}
    assert next(iter(splits["val"])).startswith("WIDER_val/")
    file = source / "wider_face_split/wider_face_val_bbx_gt.txt"
    _, splits = converted("widerface", file, tmp_path / "one", images=source)
    assert list(splits) == ["val"]


def test_an_image_that_is_not_there(tmp_path):
    source = wider(tmp_path / "in", ONE + ONE.replace("0--Parade/0_Parade 1", "2--X/gone"))
    conversion, _ = converted("widerface", source, tmp_path / "out")
    (note,) = conversion.notes.dropped.values()
    assert note.places[0].endswith("wider_face_train_bbx_gt.txt:5: 2--X/gone.jpg")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (ONE.replace("\n2\n", "\n3\n") + NONE, r"gt\.txt:1: 0--Parade/0_Parade 1\.jpg is said"),
        (ONE.replace("\n2\n", "\n1\n") + NONE, r"gt\.txt:4: '1 1 2 0 .*' is no image"),
        (ONE + "a.jpg\n", r"gt\.txt:5: the file ends before"),
        (ONE.replace("3 2 5 4 2", "3 2 5 4"), r"gt\.txt:3: 9 numbers instead of 10"),
        (ONE.replace("2 0 1 0", "2 0 1.5 0"), r"gt\.txt:3: '1.5' is not a whole number"),
    ],
)
def test_broken_files_are_named_with_the_line(tmp_path, content, message):
    source = wider(tmp_path / "in", content)
    file = source / "wider_face_split/wider_face_train_bbx_gt.txt"
    with pytest.raises(InputError, match=message):
        converted("widerface", file, tmp_path / "out", images=source)
