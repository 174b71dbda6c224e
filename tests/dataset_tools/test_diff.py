"""Changes made by hand are found again, each as what it is."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image as Pillow

from dataset_tools.cli import main
from dataset_tools.coco import Annotation, Category, Dataset, Image
from dataset_tools.diff import compare
from seriatim.testing.shapes import make_shapes


def dataset(objects, categories=("cat", "dog")):
    """One image of 100×100 for each file name with its (category, XYXY box)es."""
    images = [
        Image(name, 100, 100, [Annotation(category, box) for category, box in found])
        for name, found in objects.items()
    ]
    return Dataset(images, [Category(name) for name in categories])


def test_every_kind_of_change_of_an_annotation():
    old = dataset({"a": [
        ("cat", (0, 0, 10, 10)),  # stays
        ("cat", (20, 0, 30, 10)),  # moves by one: IoU 90 / 110
        ("dog", (40, 0, 50, 10)),  # becomes a cat
        ("dog", (60, 0, 70, 10)),  # gets an attribute
        ("dog", (80, 0, 90, 10)),  # goes
    ]})  # fmt: skip
    new = dataset({"a": [
        ("dog", (0, 50, 10, 60)),  # comes
        ("dog", (60, 0, 70, 10)),
        ("cat", (40, 0, 50, 10)),
        ("cat", (21, 0, 31, 10)),
        ("cat", (0, 0, 10, 10)),
    ]})  # fmt: skip
    new.images[0].annotations[1].attributes |= {"occluded": True, "difficult": False}
    found = compare(old, new)
    kinds = {kind: [str(change) for change in changes] for kind, changes in found.changes()}
    assert kinds == {
        "added": ["a dog [0, 50, 10, 10]"],
        "removed": ["a dog [80, 0, 10, 10]"],
        "moved": ["a cat [21, 0, 10, 10] IoU 0.82"],
        "relabelled": ["a dog → cat [40, 0, 10, 10]"],
        "edited": ["a dog [60, 0, 10, 10] (occluded)"],
    }
    assert found.moved[0].iou == pytest.approx(90 / 110)
    assert found.unchanged == 1 and found.images_unchanged == 0
    assert found.class_changes == {("dog", "cat"): 1}
    assert found.per_category == {"cat": (2, 3), "dog": (3, 2)}


def test_pairs_have_the_best_total_and_the_same_category_first():
    # The first old box overlaps both new ones; to take the nearer one would leave the second alone.
    old = dataset({"a": [("cat", (0, 0, 10, 10)), ("cat", (1, 0, 11, 10))]})
    new = dataset({"a": [("cat", (1.2, 0, 11.2, 10)), ("cat", (3, 0, 13, 10))]})
    found = compare(old, new)
    assert len(found.moved) == 2 and not found.added
    # An equal box of another category does not win against a moved one of the same.
    old = dataset({"a": [("cat", (0, 0, 10, 10))]})
    new = dataset({"a": [("dog", (0, 0, 10, 10)), ("cat", (1, 0, 11, 10))]})
    found = compare(old, new)
    assert (len(found.moved), len(found.added), len(found.relabelled)) == (1, 1, 0)
    assert len(compare(old, new, min_iou=0.9).relabelled) == 1


def test_equal_annotations_are_counted_as_often_as_they_are_there():
    twice = [("cat", (0, 0, 10, 10))] * 2
    found = compare(dataset({"a": twice}), dataset({"a": twice[:1]}))
    assert (found.unchanged, len(found.removed), found.added) == (1, 1, [])
    nothing = dataset({"a": [("cat", None), ("cat", (5, 5, 5, 5))]})
    assert compare(nothing, nothing).unchanged == 2


def test_categories():
    old, new = dataset({}, ("cat", "dog")), dataset({}, ("cat", "cow"))
    old.categories[0].id, new.categories[0].id = 1, 2
    new.categories[0].keypoints = ("nose",)
    found = compare(old, new)
    assert found.categories_added == ["cow"] and found.categories_removed == ["dog"]
    assert found.categories_changed == ["cat: id 1 → 2", "cat: keypoints"]


@pytest.fixture
def versions(tmp_path):
    """Two versions with images: one renamed, one gone, one new, one annotation gone."""
    old = make_shapes(tmp_path / "old", num_images=6)
    shutil.copytree(old.parent, tmp_path / "new")
    new = tmp_path / "new/shapes.json"
    content = json.loads(new.read_text())
    folder = tmp_path / "new/images"
    first, second = content["images"][:2]
    (folder / first["file_name"]).rename(folder / "renamed.png")
    first["file_name"] = "renamed.png"
    second["file_name"] = "other.png"  # not the same picture
    Pillow.fromarray(np.zeros((96, 128, 3), np.uint8)).save(folder / "other.png")
    content["annotations"].pop()
    for key in ("images", "annotations"):
        content[key].reverse()
    new.write_text(json.dumps(content))
    return old, new


def test_the_command(versions, capsys, tmp_path):
    old, new = map(str, versions)
    roots = ["--images", *(str(path.parent / "images") for path in versions)]
    sheet = tmp_path / "sheet.png"
    assert main(["diff", old, new, *roots, "--json", "--sheet", str(sheet)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["images_renamed"] == [["0000.png", "renamed.png"]]
    assert (found["images_removed"], found["images_added"]) == (["0001.png"], ["other.png"])
    content = json.loads(versions[0].read_text())
    second = sum(a["image_id"] == content["images"][1]["id"] for a in content["annotations"])
    assert found["counts"]["added"] == second
    assert found["counts"]["removed"] == second + 1
    assert found["counts"]["unchanged"] == len(content["annotations"]) - second - 1
    assert found["counts"]["moved"] == found["counts"]["relabelled"] == 0
    assert Pillow.open(sheet).width > 1000
    # Without the images a renamed one is one gone and one new, which is said.
    assert main(["diff", old, new]) == 0
    told = capsys.readouterr().out
    assert "renamed images were not looked for" in told and "images removed          " in told
    assert main(["diff", old, old]) == 0
    told = capsys.readouterr().out
    assert "annotations unchanged" in told and "category" not in told
    assert main(["diff", old, new, "--iou", "0"]) == 2
    assert main(["diff", old, new, "--images", "nowhere"]) == 2
    assert main(["diff", old, new, "--sheet", "a.doc"]) == 2
