import json
from pathlib import Path

import pytest

from dataset_tools.errors import InputError
from tests.dataset_tools.makers import converted, picture, text

PERSON = {
    "tag": "person",
    "fbox": [-2, 1, 6, 9],
    "vbox": [0, 1, 4, 5],
    "hbox": [1, 1, 2, 2],
    "extra": {"box_id": 3, "occ": 1},
    "head_attr": {"ignore": 1, "occ": 0, "unsure": 0},
}
MASK = {"tag": "mask", "fbox": [10, 0, 5, 5], "vbox": [10, 0, 5, 5], "extra": {"ignore": 1}}
NAME = "273271,c9db000d5146c15"


def crowdhuman(folder: Path, *boxes, split: str = "train", more: str = "") -> Path:
    picture(folder / f"Images/{NAME}.jpg")
    line = json.dumps({"ID": NAME, "gtboxes": list(boxes)})
    text(folder / f"annotation_{split}.odgt", f"{line}\r\n\r\n{more}")
    return folder


def objects(splits: dict, split: str = "train") -> list:
    return splits[split][f"Images/{NAME}.jpg"]["objects"]


def test_whole_bodies_and_what_is_ignored(tmp_path):
    source = crowdhuman(tmp_path / "in", PERSON, MASK)
    conversion, splits = converted("crowdhuman", source, tmp_path / "out")
    person, mask = objects(splits)
    assert person[:2] == ("person", [-2, 1, 6, 9])  # beyond the image, as it is meant
    assert person[2]["attributes"] == {
        "vbox": [0, 1, 4, 5],
        "hbox": [1, 1, 2, 2],
        "box_id": 3,
        "occluded": True,
    }
    assert mask[:2] == ("person", [10, 0, 5, 5])
    assert mask[2]["attributes"]["tag"] == "mask"
    assert [person[2]["iscrowd"], mask[2]["iscrowd"]] == [0, 1]
    assert not conversion.notes


@pytest.mark.parametrize(
    ("box", "name", "expected", "crowd"),
    [("visible", "person", [0, 1, 4, 5], 0), ("head", "head", [1, 1, 2, 2], 1)],
)
def test_the_other_boxes(tmp_path, box, name, expected, crowd):
    source = crowdhuman(tmp_path / "in", PERSON, MASK, split="val")
    conversion, splits = converted("crowdhuman", source, tmp_path / "out", box=box)
    found = objects(splits, "val")
    assert (*found[0][:2], found[0][2]["iscrowd"]) == (name, expected, crowd)
    assert found[0][2]["attributes"]["fbox"] == [-2, 1, 6, 9]
    if box == "head":  # the mask has none
        (note,) = conversion.notes.dropped.values()
        assert note.places == [f"{source}/annotation_val.odgt:1 gtboxes[1]"]


@pytest.mark.parametrize(
    ("boxes", "more", "message"),
    [
        ([PERSON], '{"ID": "x"', r"train\.odgt:3: not valid JSON"),
        ([PERSON], '{"id": "x"}', r"train\.odgt:3: there is no ID"),
        ([PERSON, PERSON | {"fbox": [1, 2]}], "", r"odgt:1 gtboxes\[1\]: fbox has a bbox"),
        ([PERSON | {"extra": 3}], "", r"gtboxes\[0\]: extra is 3, not an object"),
        ([[1]], "", r"gtboxes\[0\] is not an object"),
    ],
)
def test_broken_lines_are_named(tmp_path, boxes, more, message):
    source = crowdhuman(tmp_path / "in", *boxes, more=more)
    with pytest.raises(InputError, match=message):
        converted("crowdhuman", source, tmp_path / "out")


def test_an_image_that_is_not_there_is_counted(tmp_path):
    source = crowdhuman(tmp_path / "in", PERSON, more='{"ID": "gone", "gtboxes": []}')
    conversion, splits = converted("crowdhuman", source, tmp_path / "out")
    assert len(splits["train"]) == 1
    (note,) = conversion.notes.dropped.values()
    assert note.places == [f"{source}/annotation_train.odgt:3: gone.jpg"]
