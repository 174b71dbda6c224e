import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings

from dataset_tools.coco import load_coco
from dataset_tools.convert import convert_dataset
from dataset_tools.errors import InputError
from dataset_tools.export import export_dataset
from tests.dataset_tools.datasets import FILE_NAMES, PLAIN_NAMES, Splits, datasets, save
from tests.dataset_tools.makers import converted, picture, text

HEADER = "imagesource:GoogleEarth\r\ngsd:0.146343\r\n"
# Seen from its own top left, this plane of 10 × 4 px points down: its top left is at the right.
TURNED = "14.0 3.0 14.0 13.0 10.0 13.0 10.0 3.0"


def dota(folder: Path, lines: str, name: str = "P0000") -> Path:
    picture(folder / f"images/{name}.png", 40, 30)
    text(folder / f"labelTxt/{name}.txt", lines)
    return folder


def only(splits: dict, split: str = "all") -> dict:
    (image,) = splits[split].values()
    return image


def test_header_corners_and_flag(tmp_path):
    source = dota(tmp_path / "in", HEADER + f"{TURNED} small-vehicle 1\r\n\r\n")
    conversion, splits = converted("dota", source, tmp_path / "out")
    image = only(splits)
    assert image["size"] == (40, 30)
    assert image["entry"]["attributes"] == {"imagesource": "GoogleEarth", "gsd": 0.146343}
    ((name, box, entry),) = image["objects"]
    assert (name, box, entry["area"]) == ("small-vehicle", [10, 3, 4, 10], 40)
    assert entry["segmentation"] == [[14, 3, 14, 13, 10, 13, 10, 3]]
    # The first side, 10 px long, is the width; it runs down the image, a quarter turn clockwise.
    assert entry["attributes"] == {"difficult": True, "rbox": [12, 8, 10, 4, -90]}
    assert not conversion.notes


def test_the_angle_is_counter_clockwise(tmp_path):
    # From (10, 20) to (16, 12): up and to the right. atan2(8, 6) = 53.13°.
    source = dota(tmp_path / "in", "10 20 16 12 20 15 14 23 ship 0")
    _, splits = converted("dota", source, tmp_path / "out")
    ((_, box, entry),) = only(splits)["objects"]
    assert box == [10, 12, 10, 11]
    expected = [15, 17.5, 10, 5, math.degrees(math.atan2(8, 6))]
    assert entry["attributes"]["rbox"] == pytest.approx(expected)


def test_corners_that_are_no_rectangle_are_kept_and_told(tmp_path):
    source = dota(tmp_path / "in", "0 0 20 0 30 10 0 10 bridge 0\n5 5 5 5 9 5 9 5 ship 0")
    conversion, splits = converted("dota", source, tmp_path / "out")
    first, second = only(splits)["objects"]
    assert first[2]["segmentation"] == [[0, 0, 20, 0, 30, 10, 0, 10]]
    assert first[2]["area"] == 250
    assert second[1] == [5, 5, 4, 0]
    kinds = [note.kind for note in conversion.notes.suspicious.values()]
    assert [kind.split(" (")[0] for kind in kinds] == [
        "quadrangle that is no rectangle",
        "box of no area",
    ]


def test_further_ways_to_write_a_line(tmp_path):
    lines = "1,1,9,1,9,5,1,5,plane,2\n1 1 9 1 9 5 1 5 storage tank 0\n1 1 9 1 9 5 1 5 ship\n"
    source = dota(tmp_path / "in", b"\xef\xbb\xbfgsd:null\nimagesource: \n" + lines.encode())
    _, splits = converted("dota", source, tmp_path / "out")
    image = only(splits)
    assert image["entry"]["attributes"] == {"gsd": None, "imagesource": None}
    assert [name for name, *_ in image["objects"]] == ["plane", "storage tank", "ship"]
    flags = [entry["attributes"] for *_, entry in image["objects"]]
    assert [f["difficult"] for f in flags] == [True, False, False]
    assert flags[0]["difficult_level"] == 2


def test_difficult_objects_as_crowds_or_dropped(tmp_path):
    source = dota(tmp_path / "in", "1 1 9 1 9 5 1 5 a 1\n1 1 9 1 9 5 1 5 a 0")
    _, splits = converted("dota", source, tmp_path / "crowd", difficult="crowd")
    assert [entry["iscrowd"] for *_, entry in only(splits)["objects"]] == [1, 0]
    conversion, splits = converted("dota", source, tmp_path / "drop", difficult="drop")
    assert len(only(splits)["objects"]) == 1
    assert [note.count for note in conversion.notes.dropped.values()] == [1]


def test_splits_of_folders_and_what_has_no_partner(tmp_path):
    source = tmp_path / "in"
    line = "1 1 9 1 9 5 1 5 plane 0\n"
    for split in ("train", "val"):
        picture(source / split / "images/P1.png")  # the same name in both
        text(source / split / f"labelTxt-v1.5/DOTA-v1.5_{split}/P1.txt", line)
        text(source / split / f"labelTxt-v1.5/DOTA-v1.5_{split}_hbb/P1.txt", line)
    picture(source / "test/images/P9.png")
    text(source / "val/labelTxt-v1.5/DOTA-v1.5_val/P8.txt", line)
    text(source / "val/labelTxt-v1.5/DOTA-v1.5_val/P7.txt", "")
    picture(source / "val/images/P7.png")
    conversion, splits = converted("dota", source, tmp_path / "out")
    assert {split: list(images) for split, images in splits.items()} == {
        "train": ["train/images/P1.png"],
        "val": ["val/images/P1.png", "val/images/P7.png"],
    }
    assert {n.kind: (n.count, n.places[-1]) for n in conversion.notes.dropped.values()} == {
        "upright boxes beside the rotated ones (HBB)": (
            2,
            "val/labelTxt-v1.5/DOTA-v1.5_val_hbb/P1.txt",
        ),
        "image without a label file": (1, "test/images/P9.png"),
        "labels whose image is not there": (
            1,
            f"{source}/val/labelTxt-v1.5/DOTA-v1.5_val/P8.txt: val/labelTxt-v1.5/DOTA-v1.5_val/P8",
        ),
    }


def test_two_versions_of_the_same_labels_are_not_mixed(tmp_path):
    source = dota(tmp_path / "in", "1 1 9 1 9 5 1 5 plane 0")
    text(source / "labelTxt-v1.5/P0000.txt", "1 1 9 1 9 5 1 5 plane 0")
    with pytest.raises(InputError, match="of two versions"):
        converted("dota", source, tmp_path / "out")
    alone = source / "labelTxt-v1.5"
    _, splits = converted("dota", alone, tmp_path / "out", images=source / "images")
    assert len(only(splits)["objects"]) == 1


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("gsd:0.1\n1 2 3 4 5 6 7 8\n", r"P0000\.txt:2: '1 2 3 4 5 6 7 8' is not x1 y1"),
        ("1 2 3 4 5 6 7 x plane 0", r"P0000\.txt:1: 'x' is not a number"),
        ("1 2 3 4 5 6 7 nan plane 0", "'nan' is not a number"),
        ("1 2 3 4 5 6 7 8 plane -1", "the difficult flag is -1"),
        ("1 2 3 4 5 6 7 8 plane 0.5", "'0.5' is not a whole number"),
        ("gsd:half a metre", r"P0000\.txt:1: 'half a metre' is not a number"),
        (b"\xff\xfe\x00", "is not utf-16"),
    ],
)
def test_broken_lines_are_named(tmp_path, lines, message):
    with pytest.raises(InputError, match=message):
        converted("dota", dota(tmp_path / "in", lines), tmp_path / "out")


def test_export_of_what_dota_cannot_hold(tmp_path):
    source = dota(tmp_path / "in", "1 1 9 1 9 5 1 5 a b 0")
    first, _ = converted("dota", source, tmp_path / "out")
    dataset = load_coco(first.files["all"].path)
    objects = dataset.images[0].annotations
    objects[0].segmentation = [[1, 1, 9, 1, 9, 5, 4, 6, 1, 5]]
    objects[0].attributes = {}
    objects[0].iscrowd = True
    save({"train": dataset}, tmp_path / "coco")
    export = export_dataset(
        "dota", {"train": tmp_path / "coco/train.json"}, tmp_path / "dota", images=source
    )
    written = (tmp_path / "dota/train/labelTxt/images/P0000.txt").read_text()
    assert written == "1.0 1.0 9.0 1.0 9.0 5.0 1.0 5.0 a-b 1\n"
    assert (tmp_path / "dota/train/images/images/P0000.png").is_file()
    assert [note.kind.split(" (")[0] for note in export.notes.suspicious.values()] == [
        "category with spaces or commas",
        "mask",
        "crowd",
    ]


@settings(max_examples=25, deadline=None)
@given(
    datasets(
        ("rotated", "box"),
        splits=("train", "val"),
        names=PLAIN_NAMES.map(lambda name: name.replace(" ", "-")),
        file_names=FILE_NAMES,
        inside=False,
    )
)
def test_what_was_exported_is_read(tmp_path_factory, splits: Splits):
    folder = tmp_path_factory.mktemp("dota")
    files = save(splits, folder / "coco")
    export_dataset("dota", files, folder / "dota")
    convert_dataset("dota", folder / "dota", folder / "back")
    for split, dataset in splits.items():
        if not dataset.images:
            continue
        back = {i.file_name: i for i in load_coco(folder / f"back/{split}.json").images}
        assert len(back) == len(dataset.images)
        for image in dataset.images:
            found = back[f"{split}/images/{image.file_name}"]
            assert (found.width, found.height) == (image.width, image.height)
            assert len(found.annotations) == len(image.annotations)
            for one, other in zip(image.annotations, found.annotations, strict=True):
                assert one.category == other.category
                np.testing.assert_allclose(one.bbox, other.bbox, atol=1e-5)
                if "rbox" in one.attributes:
                    np.testing.assert_allclose(
                        _signs(one.attributes["rbox"]), _signs(other.attributes["rbox"]), atol=1e-3
                    )


def _signs(box: list[float]) -> list[float]:
    """A rotated box with its angle as a direction, which has no jump at 180°."""
    angle = math.radians(box[4])
    return [*box[:4], math.cos(angle), math.sin(angle)]
