"""Poses, oriented boxes and the writer of YOLO."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from dataset_tools.coco import Annotation, Category, Image, load_coco, write_coco
from dataset_tools.convert import convert_dataset
from dataset_tools.errors import InputError
from dataset_tools.export import export_dataset
from dataset_tools.rle import encode_mask
from tests.dataset_tools.makers import converted, picture, text


def bare(folder: Path, labels: str, settings: str = "") -> Path:
    """images/a.jpg of 20 × 10 px with its labels, and a data.yaml if `settings` are given."""
    picture(folder / "images/a.jpg")
    text(folder / "labels/a.txt", labels)
    if settings:
        text(folder / "data.yaml", f"train: images\nnames: [cat, dog]\n{settings}")
    return folder


def only_object(name, source, output, **options):
    conversion, splits = converted(name, source, output, **options)
    ((_, image),) = next(iter(splits.values())).items()
    return conversion, image["objects"][0]


BOX = "1 0.5 0.5 0.5 0.4"


def test_poses_of_three_numbers(tmp_path):
    source = bare(
        tmp_path / "in",
        f"{BOX} 0.25 0.5 2 0.7 0.9 0 0.3 0.1 1.000\n",
        "kpt_shape: [3, 3]\nflip_idx: [0, 2, 1]\n",
    )
    conversion, (name, box, entry) = only_object("yolo", source, tmp_path / "out")
    assert (name, box) == ("dog", [5, 3, 10, 4])
    assert entry["keypoints"] == [5, 5, 2, 0, 0, 0, 6, 1, 1]
    assert entry["num_keypoints"] == 2
    category = load_coco(conversion.files["train"].path).categories[1]
    assert category.keypoints == ("0", "1", "2")
    assert category.extra == {"flip_idx": [0, 2, 1]}
    assert any("--task pose" in remark for remark in conversion.plan.remarks)


def test_poses_of_two_numbers_say_absence_by_negatives_or_zeros(tmp_path):
    settings = "kpt_shape: [3, 2]\nkpt_names: {1: [nose, tail, paw]}\nskeleton: [[1, 2]]\n"
    source = bare(tmp_path / "in", f"{BOX} 0.25 0.5 0 0 -0.1 0.5 0.75\n", settings)
    conversion, (_, _, entry) = only_object("yolo", source, tmp_path / "out")
    assert entry["keypoints"] == [5, 5, 2, 0, 0, 0, 0, 0, 0]
    assert entry["attributes"] == {"score": 0.75}
    cat, dog = load_coco(conversion.files["train"].path).categories
    assert (cat.keypoints, dog.keypoints) == ((), ("nose", "tail", "paw"))
    assert dog.skeleton == ((1, 2),)


def test_a_kpt_shape_may_come_from_the_command_line(tmp_path):
    source = bare(tmp_path / "in", f"{BOX} 0.25 0.5 2\n")
    with pytest.raises(InputError, match="--kpt-shape 17,3"):
        only_object("yolo", source, tmp_path / "out", task="pose")
    options = {"task": "pose", "kpt_shape": "1,3"}
    _, (_, _, entry) = only_object("yolo", source, tmp_path / "out", **options)
    assert entry["keypoints"] == [5, 5, 2]


@pytest.mark.parametrize(
    ("labels", "settings", "message"),
    [
        (
            f"{BOX} 0.2 0.5",
            "kpt_shape: [1, 3]",
            r"a\.txt:1: 7 numbers, but kpt_shape \[1, 3\] asks",
        ),
        (f"{BOX} 0.2 0.5 3", "kpt_shape: [1, 3]", "visibility is 3, not 0, 1 or 2"),
        (BOX, "kpt_shape: [17]", r"kpt_shape \[17\] is not like"),
        (BOX, "kpt_shape: [0, 3]", "is not like"),
        (BOX, "kpt_shape: [2, 3]\nflip_idx: [0, 0]", "does not hold each of 0 … 1 once"),
        (BOX, "kpt_shape: [2, 3]\nflip_idx: 3", "does not hold each"),
        (BOX, "kpt_shape: [2, 3]\nkpt_names: {0: [nose]}", "list of 2 names"),
        (BOX, "kpt_shape: [2, 3]\nskeleton: [1]", "not a list of pairs"),
        (BOX, "task: obb", r"a\.txt:1: 5 numbers are no rotated box"),
        ("0 0 0 1 0 1 1", "task: detect", "neither a box"),
        (BOX, "task: segment", "neither a polygon"),
    ],
)
def test_lines_that_do_not_fit_the_task_are_named(tmp_path, labels, settings, message):
    with pytest.raises(InputError, match=message):
        converted("yolo", bare(tmp_path / "in", labels, settings), tmp_path / "out")


# In 20 × 10 px: (10, 2) (13, 5) (10, 8) (7, 5), a square of side 3√2 standing on a corner.
SQUARE = "0 0.5 0.2 0.65 0.5 0.5 0.8 0.35 0.5\n"


def test_four_right_angled_corners_are_a_rotated_box(tmp_path):
    conversion, (_, box, entry) = only_object("yolo", bare(tmp_path / "in", SQUARE), tmp_path / "o")
    assert any("--task obb" in remark for remark in conversion.plan.remarks)
    assert box == [7, 2, 6, 6]
    assert entry["segmentation"] == [pytest.approx([10, 2, 13, 5, 10, 8, 7, 5])]
    # The first side leads down to the right: clockwise as one looks, so the angle is negative.
    assert entry["attributes"]["rbox"] == pytest.approx([10, 5, 18**0.5, 18**0.5, -45])


@pytest.mark.parametrize(
    ("labels", "options", "settings", "turned"),
    [
        (SQUARE, {"task": "segment"}, "", False),
        (SQUARE, {}, "task: segment", False),
        (SQUARE + "0 0 0 1 0 1 1\n", {}, "", False),  # a triangle: these are polygons
        ("0 0.5 0.2 0.9 0.5 0.5 0.9 0.35 0.5\n", {}, "", False),  # no right angles
        ("0 0.1 0.1 0.5 0.1 0.5 0.5 0.1 0.5\n", {}, "", False),  # upright: no sign of either
        ("0 0.1 0.1 0.5 0.1 0.5 0.5 0.1 0.5\n", {"task": "obb"}, "", True),
        ("0 0.1 0.1 0.5 0.1 0.5 0.5 0.1 0.5\n", {}, "task: obb", True),
    ],
)
def test_corners_are_told_from_polygons(tmp_path, labels, options, settings, turned):
    source = bare(tmp_path / "in", labels, settings)
    _, (_, _, entry) = only_object("yolo", source, tmp_path / "out", **options)
    assert ("rbox" in entry.get("attributes", {})) == turned


def test_corners_of_no_rectangle_are_noted(tmp_path):
    source = bare(tmp_path / "in", "0 0.5 0.2 0.9 0.5 0.5 0.9 0.35 0.5 0.8", "task: obb")
    conversion, (_, _, entry) = only_object("yolo", source, tmp_path / "out")
    assert [note.count for note in conversion.notes.suspicious.values()] == [1]
    assert entry["attributes"]["score"] == 0.8


def exported(folder: Path, annotations, categories=("cat",), **options):
    """Export of a.jpg, 20 × 10 px: what was noted, the label lines and the data.yaml."""
    picture(folder / "photos/a.jpg")
    categories = [c if isinstance(c, Category) else Category(c) for c in categories]
    image = Image("a.jpg", 20, 10, annotations)
    write_coco(folder / "all.json", [image], categories, {"image_root": "photos"})
    export = export_dataset("yolo", {None: folder / "all.json"}, folder / "out", **options)
    lines = (folder / "out/labels/train/a.txt").read_text().splitlines()
    return export, lines, yaml.safe_load((folder / "out/data.yaml").read_text(encoding="utf-8"))


def test_what_is_written(tmp_path):
    objects = [Annotation("dog", (5, 3, 15, 7)), Annotation("cat", (-2, 0, 4, 12))]
    export, lines, settings = exported(tmp_path, objects, ["cat", "dog"])
    assert lines == ["1 0.5 0.5 0.5 0.4", "0 0.1 0.5 0.2 1"]
    assert settings == {
        "path": ".",
        "train": "images/train",
        "task": "detect",
        "names": {0: "cat", 1: "dog"},
    }
    assert [note.kind for note in export.notes.suspicious.values()] == [
        "box that left the image (cut at its edge)"
    ]
    assert any("--task detect" in remark for remark in export.notes.remarks)
    assert (tmp_path / "out/images/train/a.jpg").is_file()


def test_poses_written(tmp_path):
    person = Category("person", keypoints=("nose", "left_eye", "right_eye"), skeleton=((1, 2),))
    points = [5, 5, 2, 10, 1, 1, 0, 0, 0]
    objects = [
        Annotation("person", (5, 3, 15, 7), keypoints=points),
        Annotation("cat", (0, 0, 2, 1)),
    ]
    _, lines, settings = exported(tmp_path, objects, ["cat", person])
    assert lines == [
        "1 0.5 0.5 0.5 0.4 0.25 0.5 2 0.5 0.1 1 0 0 0",
        "0 0.05 0.05 0.1 0.1 0 0 0 0 0 0 0 0 0",
    ]
    assert settings["kpt_shape"] == [3, 3]
    assert settings["flip_idx"] == [0, 2, 1]
    assert settings["kpt_names"] == {1: ["nose", "left_eye", "right_eye"]}
    conversion = convert_dataset("yolo", tmp_path / "out", tmp_path / "back")
    dataset = load_coco(conversion.files["train"].path)
    assert [a.keypoints for a in dataset.images[0].annotations] == [points, None]


def test_categories_of_different_keypoints_are_refused(tmp_path):
    categories = [Category("a", keypoints=("x",)), Category("b", keypoints=("x", "y"))]
    with pytest.raises(InputError, match="a: 1, b: 2"):
        exported(tmp_path, [Annotation("a", (1, 1, 2, 2), keypoints=[1, 1, 2])], categories)


def test_holes_and_parts_survive_as_one_polygon(tmp_path):
    mask = np.zeros((10, 20), bool)
    mask[1:8, 2:9] = True
    mask[3:5, 4:6] = False  # a hole
    mask[2:6, 12:15] = True  # another part
    export, lines, _ = exported(tmp_path, [Annotation("cat", segmentation=encode_mask(mask))])
    assert len(lines) == 1
    assert [note.count for note in export.notes.suspicious.values()] == [1]
    conversion = convert_dataset("yolo", tmp_path / "out", tmp_path / "back")
    (annotation,) = load_coco(conversion.files["train"].path).images[0].annotations
    assert annotation.area == mask.sum()
    from pycocotools import mask as coco_mask

    rle = coco_mask.frPyObjects(annotation.segmentation, 10, 20)
    assert np.array_equal(coco_mask.decode(rle)[:, :, 0], mask)


def test_rotated_boxes_of_what_has_none(tmp_path):
    quad = [10, 2, 13, 5, 10, 8, 7, 5]
    objects = [
        Annotation("cat", (1, 2, 5, 8)),
        Annotation("cat", segmentation=[quad]),
        Annotation("cat", segmentation=[[*quad, 8, 4]]),
    ]
    export, lines, _ = exported(tmp_path, objects, task="obb")
    assert lines[0] == "0 0.05 0.2 0.25 0.2 0.25 0.8 0.05 0.8"
    assert lines[1] == "0 0.5 0.2 0.65 0.5 0.5 0.8 0.35 0.5"
    corners = np.array(lines[2].split()[1:], float).reshape(4, 2) * (20, 10)
    wanted = np.array(quad).reshape(4, 2)
    assert all(np.abs(corners - corner).sum(axis=1).min() < 1e-3 for corner in wanted)
    assert len(export.notes.suspicious) == 2


def test_what_cannot_be_written_is_counted(tmp_path):
    mask = encode_mask(np.ones((10, 20)))
    objects = [
        Annotation("cat", (1, 2, 5, 8), iscrowd=True),
        Annotation("cat", (1, 2, 5, 8), mask, keypoints=[1, 1, 2], attributes={"age": 3}),
        Annotation("cat"),
    ]
    export, lines, _ = exported(tmp_path, objects, task="detect")
    assert len(lines) == 1
    assert {kind.partition(" (")[0]: n.count for kind, n in export.notes.dropped.items()} == {
        "crowd": 1,
        "attribute age": 1,
        "mask": 1,
        "keypoints": 1,
        "object without a box": 1,
    }
    (tmp_path / "out/data.yaml").unlink()
    export, lines, _ = exported(tmp_path / "again", objects, task="segment", crowds="keep")
    assert len(lines) == 2


def test_images_that_would_share_a_label_file_are_refused(tmp_path):
    for name in ("a.jpg", "a.png"):
        picture(tmp_path / "photos" / name)
    images = [Image(name, 20, 10) for name in ("a.jpg", "a.png")]
    write_coco(tmp_path / "all.json", images, [Category("cat")], {"image_root": "photos"})
    with pytest.raises(InputError, match=r"a\.jpg and a\.png would have the same label file"):
        export_dataset("yolo", {None: tmp_path / "all.json"}, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_json_of_a_rotated_box_is_plain(tmp_path):
    converted("yolo", bare(tmp_path / "in", SQUARE), tmp_path / "out")
    content = json.loads((tmp_path / "out/all.json").read_text())
    assert all(isinstance(v, float) for v in content["annotations"][0]["attributes"]["rbox"])
