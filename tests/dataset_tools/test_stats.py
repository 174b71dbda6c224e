"""Counts are those of a plain count of the file."""

import json

import numpy as np
import pytest
from PIL import Image as Pillow

from dataset_tools.cli import main
from dataset_tools.coco import load_coco
from dataset_tools.stats import QUANTILES, dataset_statistics
from seriatim.testing.shapes import make_shapes


@pytest.fixture(scope="module")
def coco(tmp_path_factory):
    return make_shapes(tmp_path_factory.mktemp("shapes"), num_images=8)


def test_numbers(coco):
    content = json.loads(coco.read_text())
    annotations = content["annotations"]
    found = dataset_statistics(load_coco(coco))
    assert (found.images, found.annotations) == (8, len(annotations))
    assert found.empty_images == 8 - len({a["image_id"] for a in annotations})
    assert found.crowds == sum(a["iscrowd"] for a in annotations)
    assert found.with_mask == len(annotations)
    names = {category["id"]: category["name"] for category in content["categories"]}
    for identity, name in names.items():
        mine = [a for a in annotations if a["category_id"] == identity]
        assert found.per_category[name] == len(mine)
        assert found.images_per_category[name] == len({a["image_id"] for a in mine})
    areas = np.array([a["area"] for a in annotations])
    assert found.by_area == {
        "small": (areas < 1024).sum(),
        "medium": ((areas >= 1024) & (areas < 9216)).sum(),
        "large": (areas >= 9216).sum(),
    }
    sides = np.array([a["bbox"][2:] for a in annotations], dtype=float)
    assert found.size == pytest.approx(np.quantile(np.sqrt(sides.prod(1)), QUANTILES), abs=1e-3)
    ratios = np.quantile(sides[:, 0] / sides[:, 1], QUANTILES)
    assert found.aspect_ratio == pytest.approx(ratios, abs=1e-3)
    assert found.image_sizes == {"128×96": 8}
    assert found.skipped == 0


def test_broken_boxes_are_counted_but_not_measured(coco, tmp_path):
    content = json.loads(coco.read_text())
    for annotation, box in zip(content["annotations"], ([1, 1, 0, 5], [1, 1, -2, 5]), strict=False):
        annotation["bbox"] = box
    path = tmp_path / "broken.json"
    path.write_text(json.dumps(content))
    found = dataset_statistics(load_coco(path))
    assert found.skipped == 2 and found.annotations == len(content["annotations"])


def test_the_command(coco, tmp_path, capsys):
    picture = tmp_path / "stats.png"
    assert main(["stats", str(coco), str(coco), "-o", str(picture)]) == 0
    shown = capsys.readouterr().out
    assert "circle" in shown and "128×96 (8)" in shown
    assert min(Pillow.open(picture).size) > 500
    assert main(["stats", str(coco), "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)["files"].values()
    assert found["images"] == 8


def test_a_dataset_without_objects(tmp_path, capsys):
    path = tmp_path / "empty.json"
    path.write_text('{"images": [], "annotations": [], "categories": []}')
    assert main(["stats", str(path), "-o", str(tmp_path / "empty.png")]) == 0
    assert main(["stats", str(path), "-o", str(tmp_path / "empty.doc")]) == 2
    assert ".png" in capsys.readouterr().err
