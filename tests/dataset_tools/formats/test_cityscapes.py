import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dataset_tools.errors import InputError
from dataset_tools.rle import decode_mask
from tests.dataset_tools.makers import converted, picture, text

NAME = "aachen_000000_000019"


def square(label: str, left: int, top: int, right: int, bottom: int, **more) -> dict:
    """Pillow draws the last row and column, too."""
    corners = [[left, top], [right - 1, top], [right - 1, bottom - 1], [left, bottom - 1]]
    return {"label": label, "polygon": corners, **more}


OBJECTS = [
    square("road", 0, 0, 20, 10),
    square("car", 2, 2, 8, 8),
    square("persongroup", 10, 0, 14, 6),
    square("bicycle", 5, 5, 12, 8),
    square("license plate", 2, 2, 4, 4),
    square("rider", 0, 0, 4, 4, deleted=1),
    square("truck", 15, 8, 18, 10),
    square("out of roi", 14, 7, 20, 10),
    square("polegroup", 2, 7, 4, 8),
]


def cityscapes(folder: Path, objects=OBJECTS, kind="gtFine", split="train", **more) -> Path:
    content = {"imgWidth": 20, "imgHeight": 10, "objects": objects, **more}
    text(folder / f"{kind}/{split}/aachen/{NAME}_{kind}_polygons.json", json.dumps(content))
    picture(folder / f"leftImg8bit/{split}/aachen/{NAME}_leftImg8bit.png")
    return folder


def only(splits: dict, split: str = "train") -> list:
    ((name, image),) = splits[split].items()
    assert name == f"leftImg8bit/{split}/aachen/{NAME}_leftImg8bit.png"
    return image["objects"]


def test_masks_are_what_stays_visible(tmp_path):
    conversion, splits = converted("cityscapes", cityscapes(tmp_path / "in"), tmp_path / "out")
    car, people, bicycle = only(splits)
    expected = np.zeros((10, 20), np.uint8)
    expected[2:8, 2:8] = 1
    expected[5:8, 5:12] = 0  # the bicycle before it
    expected[7:8, 2:4] = 0  # and a group of poles
    assert car[0] == "car"
    np.testing.assert_array_equal(decode_mask(car[2]["segmentation"]), expected)
    assert car[2]["area"] == 36 - 9 - 2 and car[1] == [2, 2, 6, 6]
    assert people[0] == "person" and people[2]["iscrowd"] == 1
    assert people[1] == [10, 0, 4, 6] and people[2]["area"] == 24 - 2
    assert bicycle[:2] == ("bicycle", [5, 5, 7, 3]) and bicycle[2]["iscrowd"] == 0
    assert list(conversion.files["train"].per_category)[:3] == ["person", "rider", "car"]
    assert {note.kind: note.count for note in conversion.notes.dropped.values()} == {
        "object marked as deleted": 1,
        "class without instances (covers what was drawn before it)": 2,
        "void label (covers what was drawn before it)": 2,
        "object that nothing is visible of": 1,
    }
    assert not conversion.notes.suspicious


def test_whole_polygons_and_all_classes(tmp_path):
    source = cityscapes(tmp_path / "in")
    _, splits = converted("cityscapes", source, tmp_path / "out", masks="polygons", classes="all")
    found = {name: (box, entry) for name, box, entry in only(splits)}
    assert set(found) == {"road", "car", "person", "bicycle", "truck", "polegroup"}
    assert found["car"][1]["segmentation"] == [[2, 2, 7, 2, 7, 7, 2, 7]]
    assert found["truck"][0] == [15, 8, 2, 1]


def test_pngs_of_ids_where_there_is_no_json(tmp_path):
    ids = np.full((10, 20), 7, np.int32)  # road
    ids[2:5, 3:9] = 26001
    ids[6:8, 0:2] = 26000
    ids[0:1, 0:4] = 24  # a group of persons
    file = tmp_path / f"in/gtFine/val/aachen/{NAME}_gtFine_instanceIds.png"
    file.parent.mkdir(parents=True)
    Image.fromarray(ids.astype(np.uint16)).save(file)
    picture(tmp_path / f"in/leftImg8bit/val/aachen/{NAME}_leftImg8bit.png")
    _, splits = converted("cityscapes", tmp_path / "in", tmp_path / "out")
    found = [(name, box, e["area"], e["iscrowd"]) for name, box, e in only(splits, "val")]
    assert found == [
        ("person", [0, 0, 4, 1], 4, 1),
        ("car", [0, 6, 2, 2], 4, 0),
        ("car", [3, 2, 6, 3], 18, 0),
    ]


def test_fine_labels_go_before_coarse_ones_and_the_test_set_is_told(tmp_path):
    source = cityscapes(tmp_path / "in")
    cityscapes(source, [square("car", 0, 0, 2, 2)], "gtCoarse")
    cityscapes(source, [square("car", 0, 0, 2, 2)], "gtCoarse", "train_extra")
    cityscapes(source, [square("ego vehicle", 0, 8, 20, 10)], split="test")
    conversion, splits = converted("cityscapes", source, tmp_path / "out")
    counts = {split: len(only(splits, split)) for split in splits}
    assert counts == {"train": 3, "train_extra": 1, "test": 0}
    coarse = conversion.notes.dropped["labels of an image that has finer ones"]
    assert coarse.places == [f"gtCoarse/train/aachen/{NAME}_gtCoarse_polygons.json"]
    (note,) = conversion.notes.suspicious.values()
    assert note.kind.startswith("image with void labels alone")


def test_an_image_that_is_not_there_is_kept(tmp_path):
    source = cityscapes(tmp_path / "in")
    (source / f"leftImg8bit/train/aachen/{NAME}_leftImg8bit.png").unlink()
    conversion, splits = converted("cityscapes", source, tmp_path / "out")
    assert list(splits["train"]) == [f"leftImg8bit/train/aachen/{NAME}_leftImg8bit.png"]
    assert "image file that is missing (kept)" in conversion.notes.suspicious


@pytest.mark.parametrize(
    ("objects", "more", "message"),
    [
        ([{"polygon": []}], {}, r"polygons\.json: objects\[0\] has no label"),
        ([{"label": "car", "polygon": [[1, 2, 3]]}], {}, r"objects\[0\]: its polygon is not"),
        ([{"label": "car", "polygon": [[1, 2], [3, 4]]}], {}, "less than three corners"),
        ([], {"imgWidth": "wide"}, "not of Cityscapes"),
    ],
)
def test_broken_files_are_named_with_the_entry(tmp_path, objects, more, message):
    source = cityscapes(tmp_path / "in", objects, **more)
    with pytest.raises(InputError, match=message):
        converted("cityscapes", source, tmp_path / "out")
