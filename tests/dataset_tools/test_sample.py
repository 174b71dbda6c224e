"""Rare categories get as many images as frequent ones, as far as there are any."""

import json
import random

import pytest

from dataset_tools.cli import main
from dataset_tools.coco import Annotation, Category, Dataset, Image
from dataset_tools.errors import InputError
from dataset_tools.sample import sample_images
from seriatim.testing.shapes import make_shapes


def long_tailed(seed=0):
    """500 images; of categories a to e about 90, 45, 22, 11 and 5 percent have one, some none."""
    draw = random.Random(seed)
    images = []
    for number in range(500):
        names = [name for i, name in enumerate("abcde") if draw.random() < 0.9 / 2**i]
        found = [Annotation(name, (0, 0, 5, 5)) for name in names for _ in range(2)]
        images.append(Image(f"{number}.png", 10, 10, found))
    return Dataset(images, [Category(name) for name in "abcdef"])


def test_every_category_gets_its_share():
    dataset = long_tailed()
    found = sample_images(dataset, 40)
    counts = {name: taken for name, (taken, _) in found.images_per_category.items()}
    assert counts.pop("f") == 0
    assert len(found.dataset.images) == 40
    # Forty images taken blindly show a 36 times and e twice.
    assert min(counts.values()) >= 8 and max(counts.values()) <= 20
    for name, (taken, everything) in found.annotations_per_category.items():
        assert taken == sum(
            a.category == name for image in found.dataset.images for a in image.annotations
        )
        assert everything == sum(
            a.category == name for image in dataset.images for a in image.annotations
        )


def test_the_seed_decides_and_the_order_of_images_does_not():
    dataset = long_tailed()
    chosen = {i.file_name for i in sample_images(dataset, 20, seed=3).dataset.images}
    dataset.images.reverse()
    assert {i.file_name for i in sample_images(dataset, 20, seed=3).dataset.images} == chosen
    assert {i.file_name for i in sample_images(dataset, 20, seed=4).dataset.images} != chosen


def test_more_than_there_are():
    dataset = long_tailed()
    found = sample_images(dataset, 10_000)
    assert found.dataset.images == [image for image in dataset.images if image.annotations]
    only_e = sample_images(dataset, 10_000, categories=["e"])
    taken, everything = only_e.images_per_category["e"]
    assert taken == everything == len(only_e.dataset.images)
    with pytest.raises(InputError, match="no category 'z'"):
        sample_images(dataset, 3, categories=["z"])
    with pytest.raises(InputError, match="No image shows"):
        sample_images(dataset, 3, categories=["f"])


def test_the_command(tmp_path, capsys):
    file = make_shapes(tmp_path, num_images=8)
    out = tmp_path / "some.json"
    assert main(["sample", str(file), "-o", str(out), "-n", "2"]) == 0
    assert "2 of 8 images" in capsys.readouterr().out
    whole, part = (json.loads(path.read_text()) for path in (file, out))
    assert all(image["id"] in {i["id"] for i in whole["images"]} for image in part["images"])
    assert len(part["images"]) == 2 and part["categories"] == whole["categories"]
    assert main(["sample", str(file), "-o", str(out), "-n", "99"]) == 0
    assert "fewer than the 99" in capsys.readouterr().out
    assert main(["sample", str(file), "-o", str(file), "-n", "2"]) == 2
