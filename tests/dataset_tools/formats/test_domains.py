"""Sets of several domains: DigitFive, DomainNet's lists, Amazon's reviews, in small."""

import json

import numpy as np
import pytest
from scipy.io import savemat

from dataset_tools.errors import InputError
from dataset_tools.formats import recognise
from dataset_tools.formats.amazon_reviews import WORDS
from dataset_tools.formats.amazon_reviews import load as load_reviews
from dataset_tools.formats.amazon_reviews import plan as plan_reviews
from dataset_tools.notes import Notes
from seriatim.testing.domains import write_amazon, write_digitfive, write_domainnet
from tests.dataset_tools.formats.packed import read
from tests.dataset_tools.makers import converted, picture


def classes(found, split):
    return [labels for _, labels in found[split].values()]


@pytest.mark.parametrize(
    ("domain", "shape"),
    [
        ("mnist", (32, 32)),
        ("mnistm", (28, 28, 3)),
        ("svhn", (32, 32, 3)),
        ("syn", (32, 32, 3)),
        ("usps", (28, 28)),
    ],
)
def test_digitfive(tmp_path, domain, shape):
    known = write_digitfive(tmp_path / "in", train=12, test=6)
    assert [f.name for f, _ in recognise(tmp_path / "in")] == ["digitfive"]
    _, found = read("digitfive", tmp_path / "in", tmp_path / "out", domain=domain)
    assert list(found) == ["train", "test"]
    for split in found:
        images, labels = known[domain, split]
        assert classes(found, split) == [[str(label)] for label in labels]
        pixels = np.stack([pixels for pixels, _ in found[split].values()])
        assert pixels.shape[1:] == shape
        # USPS is kept from 0 to 1 in its file.
        assert np.abs(pixels.astype(int) - images).max() <= (1 if domain == "usps" else 0)


def test_synthetic_digits_as_svhn_has_them(tmp_path):
    known = write_digitfive(tmp_path / "in", train=5, test=3)
    (tmp_path / "in" / "syn_number.mat").unlink()
    for split in ("train", "test"):
        images, labels = known["syn", split]
        content = {"X": images.transpose(1, 2, 3, 0), "y": np.where(labels == 0, 10, labels)}
        savemat(tmp_path / f"in/synth_{split}_32x32.mat", content)
    _, found = read("digitfive", tmp_path / "in", tmp_path / "out", domain="syn")
    assert classes(found, "train") == [[str(label)] for label in known["syn", "train"][1]]


def test_one_file_of_digitfive_needs_no_domain(tmp_path):
    known = write_digitfive(tmp_path / "in", train=5, test=3)
    _, found = read("digitfive", tmp_path / "in" / "svhn_test_32x32.mat", tmp_path / "out")
    assert list(found) == ["test"]
    assert classes(found, "test") == [[str(label)] for label in known["svhn", "test"][1]]


def digit_12():
    cell = np.empty((2, 2), object)
    for row in range(2):
        cell[row, 0], cell[row, 1] = np.zeros((1, 1, 28, 28)), np.array([[12]])
    return cell


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "usps_28x28.mat").unlink(), "say by --domain"),
        (lambda folder: savemat(folder / "usps_28x28.mat", {"data": [1]}), "has no dataset"),
        (lambda folder: (folder / "usps_28x28.mat").write_bytes(b"MATLAB "), "not a file of Dig"),
        (lambda folder: savemat(folder / "usps_28x28.mat", {"dataset": digit_12()}), "label is 12"),
    ],
)
def test_broken_digitfive(tmp_path, spoil, message):
    write_digitfive(tmp_path / "in", train=4, test=2)
    spoil(tmp_path / "in")
    with pytest.raises(InputError, match=message):
        read("digitfive", tmp_path / "in", tmp_path / "out", domain="usps")


@pytest.mark.parametrize("beside", [True, False])
def test_domainnet(tmp_path, beside):
    folder = write_domainnet(tmp_path / "in", lists="" if beside else "splits_mini")
    lists = folder if beside else folder / "splits_mini"
    assert [f.name for f, _ in recognise(lists)] == ["image-list"]
    given = lists / "sketch_train.txt"
    conversion, found = converted("image-list", given, tmp_path / "out")
    named = {name: [o[0] for o in image["objects"]] for name, image in found["train"].items()}
    assert list(found) == ["train"]
    assert named == {"sketch/ant/0.png": ["ant"], "sketch/wasp/1.png": ["wasp"]}
    # sketch has no bee; its wasp keeps the number that it has in clipart.
    content = json.loads(conversion.files["train"].path.read_text())
    assert [c["name"] for c in content["categories"]] == ["ant", "bee", "wasp"]


def test_lists_of_a_folder_by_domain(tmp_path):
    folder = write_domainnet(tmp_path / "in")
    with pytest.raises(InputError, match="--domain which lists to read: clipart, sketch"):
        converted("image-list", folder, tmp_path / "out")
    _, found = converted("image-list", folder, tmp_path / "out", domain="clipart")
    assert {split: len(images) for split, images in found.items()} == {"train": 4, "test": 2}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("clipart/ant/0.png", "3: .* is no image and number"),
        ("clipart/ant/0.png 1", "3: class 1 lies in the folder ant, before in bee"),
        ("clipart/ant/none.png 0", "3: there is no image"),
        ("../clipart/ant/0.png 0", "leads out"),
    ],
)
def test_broken_lists(tmp_path, line, message):
    folder = write_domainnet(tmp_path / "in")
    file = folder / "sketch_train.txt"
    file.write_text(file.read_text() + line + "\n")
    with pytest.raises(InputError, match=message):
        converted("image-list", file, tmp_path / "out")


def test_images_that_are_elsewhere(tmp_path):
    picture(tmp_path / "in" / "x" / "a.png")
    (tmp_path / "in" / "train.txt").write_text("ant/a.png 0\n")
    with pytest.raises(InputError, match="by --images"):
        converted("image-list", tmp_path / "in" / "train.txt", tmp_path / "out")


@pytest.mark.parametrize("domain", ["books", "kitchen"])
def test_amazon(tmp_path, domain):
    matrix, labels, offset = write_amazon(tmp_path, reviews=2010)
    assert [f.name for f, _ in recognise(tmp_path)] == ["amazon-reviews"]
    plan = plan_reviews(tmp_path, Notes(), domain=domain)
    assert [c.name for c in plan.categories(set())] == ["negative", "positive"]
    parts = {item.source.split: load_reviews(item.source.key) for item in plan.items}
    assert len(parts["train"].images) == 2000 and len(parts["test"].images) == 10
    start = offset[("books", "dvd", "electronics", "kitchen").index(domain)]
    own = matrix[:WORDS, start : start + 2010].toarray().T
    found = np.concatenate([part.images[:, 0] for part in parts.values()])
    named = [name for part in parts.values() for (name,) in part.labels]
    # Reviews are drawn; each is there once, with its label.
    rows = sorted((row.nonzero()[0].tolist(), name) for row, name in zip(found, named, strict=True))
    expected = sorted(
        (row.nonzero()[0].tolist(), "positive" if label > 0 else "negative")
        for row, label in zip(own, labels[start : start + 2010, 0], strict=True)
    )
    assert rows == expected and found.sum() == own.sum()


def test_weights_that_are_no_counts_are_scaled_alike(tmp_path):
    write_amazon(tmp_path, reviews=2010, scale=0.37)
    plan = plan_reviews(tmp_path, Notes(), domain="dvd")
    parts = [load_reviews(item.source.key) for item in plan.items]
    assert max(part.images.max() for part in parts) <= 255
    assert "8 bits" in parts[0].remarks[0] and parts[0].remarks == parts[1].remarks


def test_broken_amazon(tmp_path):
    with pytest.raises(InputError, match=r"no amazon\.npz"):
        plan_reviews(tmp_path, Notes(), domain="dvd")
    write_amazon(tmp_path, reviews=2010)
    with pytest.raises(InputError, match="--domain"):
        plan_reviews(tmp_path, Notes())
    with np.load(tmp_path / "amazon.npz") as content:
        arrays = dict(content)
    np.savez(tmp_path / "amazon.npz", **{**arrays, "offset": np.array([0, 5])})
    with pytest.raises(InputError, match="domains begin at"):
        plan_reviews(tmp_path, Notes(), domain="dvd")
