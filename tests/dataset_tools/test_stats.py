"""Counts are those of a plain count of the file."""

import base64
import io
import json
import re

import numpy as np
import pytest
from PIL import Image as Pillow

from dataset_tools.cli import main
from dataset_tools.coco import Dataset, Image, load_coco
from dataset_tools.errors import EXIT_BAD_INPUT
from dataset_tools.stats import QUANTILES, dataset_statistics
from dataset_tools.stats_page import mean_brightness
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


def pictures_of(page):
    """All pictures in the page, decoded."""
    found = re.findall(r"src='data:image/png;base64,([^']+)'", page)
    return [Pillow.open(io.BytesIO(base64.b64decode(content))) for content in found]


def test_the_page_holds_all_that_it_needs(coco, tmp_path, capsys):
    page = tmp_path / "stats.html"
    names = tmp_path / "names.json"
    content = json.loads(coco.read_text())
    content["categories"][0]["name"] = "<b>$x^2 & y$</b>"
    names.write_text(json.dumps(content))
    images = str(coco.parent / "images")
    arguments = ["stats", str(coco), str(names), "--html", str(page), "--strides", "4,20"]
    assert main([*arguments, "--images", images]) == 0
    text = page.read_text()
    assert len(pictures_of(text)) == 11 and min(pictures_of(text)[0].size) > 500
    assert not re.search(r"https?://|<script|<link", text)
    assert "&lt;b&gt;$x^2 &amp; y$&lt;/b&gt;" in text and "<b>" not in text
    assert "20 px" in text and "of 16 images" in text
    sides = np.array([a["bbox"][2:] for a in content["annotations"]]).min(axis=1)
    assert f"{(sides < 20).mean():.1%}" in text and f"{(sides < 20).mean():.1%}" in (
        capsys.readouterr().out
    )
    # Without the images there is no brightness, which is said.
    assert main(arguments) == 0
    assert len(pictures_of(page.read_text())) == 10 and "No brightness" in page.read_text()
    assert main([*arguments[:-2], "--strides", "a"]) == 2
    assert main(["stats", str(coco), "--html", str(tmp_path / "a.pdf")]) == 2


def test_brightness_is_the_mean_grey(tmp_path):
    for name, grey in (("a.png", 10), ("b.png", 200)):
        Pillow.new("L", (50, 40), grey).save(tmp_path / name)
    (tmp_path / "c.png").write_text("no picture")
    images = [Image(f"{name}.png", 50, 40) for name in "abcd"]
    assert sorted(mean_brightness(Dataset(images, []), tmp_path)) == [10, 200]


def test_a_page_of_nothing(tmp_path):
    path = tmp_path / "empty.json"
    path.write_text('{"images": [], "annotations": [], "categories": []}')
    assert main(["stats", str(path), "--html", str(tmp_path / "empty.html")]) == 0


def test_an_image_root_that_is_not_there_is_told(coco, tmp_path, capsys):
    assert main(["stats", str(coco), "--images", str(tmp_path / "nowhere")]) == EXIT_BAD_INPUT
    assert "There is no folder of images" in capsys.readouterr().err
