from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow

from dataset_tools.errors import InputError
from dataset_tools.rle import decode_mask
from tests.dataset_tools.makers import converted, picture, text


def bitmask(path: Path, *instances: tuple[slice, slice, int, int, int], size=(20, 10)) -> Path:
    """A PNG of (rows, columns, class, flags, instance)."""
    pixels = np.zeros((size[1], size[0], 4), np.uint8)
    for rows, columns, number, flags, instance in instances:
        pixels[rows, columns] = (number, flags, instance >> 8, instance & 255)
    path.parent.mkdir(parents=True, exist_ok=True)
    Pillow.fromarray(pixels).save(path)
    return path


CAR = (slice(2, 5), slice(3, 9), 3, 0b1100, 258)
CROWD = (slice(6, 9), slice(0, 4), 1, 0b0010, 255)
IGNORED = (slice(0, 1), slice(0, 2), 8, 0b0001, 0)  # number 0 is one, too


def bdd(folder: Path, *instances, name: str = "train/a") -> Path:
    picture(folder / f"images/10k/{name}.jpg")
    bitmask(folder / f"labels/ins_seg/bitmasks/{name}.png", *instances)
    return folder


def test_classes_flags_and_numbers(tmp_path):
    source = bdd(tmp_path / "in", CAR, CROWD, IGNORED)
    conversion, splits = converted("auto", source, tmp_path / "out")
    assert list(conversion.files["train"].per_category) == [
        *("pedestrian", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle")
    ]
    (image,) = splits["train"].values()
    found = {name: (box, entry) for name, box, entry in image["objects"]}
    box, car = found["car"]
    assert (box, car["area"], car["iscrowd"]) == ([3, 2, 6, 3], 18, 0)
    assert car["attributes"] == {"truncated": True, "occluded": True, "ignored": False}
    expected = np.zeros((10, 20))
    expected[2:5, 3:9] = 1
    assert (decode_mask(car["segmentation"]) == expected).all()
    assert found["pedestrian"][1]["iscrowd"] == 1
    assert found["bicycle"][1]["iscrowd"] == 1 and found["bicycle"][0] == [0, 0, 2, 1]
    assert found["bicycle"][1]["attributes"]["ignored"] is True


def test_videos_have_tracks(tmp_path):
    source = bdd(tmp_path / "in", CAR, name="val/v1/v1-0000001")
    bdd(source, CAR, name="val/v1/v1-0000002")
    _, splits = converted("bdd100k-masks", source, tmp_path / "out")
    images = splits["val"].values()
    assert [image["entry"]["attributes"] for image in images] == [{"video": "v1"}] * 2
    tracks = [entry["attributes"]["track_id"] for i in images for *_, entry in i["objects"]]
    assert tracks == [258, 258]


def test_a_mask_of_another_size_and_an_image_that_is_not_there(tmp_path):
    source = bdd(tmp_path / "in", CAR)
    masks = source / "labels/ins_seg/bitmasks"
    bitmask(masks / "train/b.png", CAR)
    conversion, _ = converted("bdd100k-masks", masks, tmp_path / "out", images=source / "images")
    assert [note.count for note in conversion.notes.dropped.values()] == [1]
    bitmask(masks / "train/a.png", CAR, size=(21, 10))
    with pytest.raises(InputError, match=r"a\.png: is 21×10, but its image 10k/train/a\.jpg 20×10"):
        converted("bdd100k-masks", masks, tmp_path / "again", images=source / "images")


def test_other_classes_by_name(tmp_path):
    source = bdd(tmp_path / "in", (slice(0, 2), slice(0, 2), 9, 0, 1))
    with pytest.raises(InputError, match=r"instance 1 is of class 9, but 8 are known"):
        converted("bdd100k-masks", source, tmp_path / "out")
    names = text(tmp_path / "names.txt", "".join(f"class {n}\n" for n in range(1, 10)))
    _, splits = converted("bdd100k-masks", source, tmp_path / "named", names=str(names))
    (image,) = splits["train"].values()
    assert image["objects"][0][0] == "class 9"


def test_pngs_of_other_kinds_are_none(tmp_path):
    picture(tmp_path / "in/bitmasks/train/a.png")
    with pytest.raises(InputError, match="no PNG of four channels"):
        converted("bdd100k-masks", tmp_path / "in", tmp_path / "out")
    with pytest.raises(InputError, match="is a file"):
        converted("bdd100k-masks", tmp_path / "in/bitmasks/train/a.png", tmp_path / "out")
