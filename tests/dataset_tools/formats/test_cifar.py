import json
import pickle

import numpy as np
import pytest

from dataset_tools.errors import InputError
from dataset_tools.formats import recognise
from tests.dataset_tools.formats.packed import random_pixels, read
from tests.dataset_tools.makers import text

PIXELS = random_pixels(4, 32, 32, 3)
# Red, then green, then blue, each row by row.
ROWS = np.stack([np.concatenate([image[..., c].ravel() for c in range(3)]) for image in PIXELS])


def python_10(folder):
    folder.mkdir()
    for name, rows, labels in (
        ("data_batch_1", ROWS[:2], [1, 0]),
        ("data_batch_2", ROWS[2:3], [1]),
        ("test_batch", ROWS[3:], [0]),
    ):
        content = {
            b"batch_label": b"x",
            b"labels": labels,
            b"data": rows,
            b"filenames": [b"%s_%d.png" % (name.encode(), i) for i in range(len(rows))],
        }
        (folder / name).write_bytes(pickle.dumps(content, 2))
    meta = {b"label_names": [b"airplane", b"automobile"], b"num_vis": 3072}
    (folder / "batches.meta").write_bytes(pickle.dumps(meta, 2))
    return folder


def python_100(folder):
    folder.mkdir()
    content = {b"fine_labels": [2, 0, 1, 0], b"coarse_labels": [1, 0, 1, 0], b"data": ROWS}
    (folder / "train").write_bytes(pickle.dumps(content, 2))
    meta = {
        b"fine_label_names": [b"apple", b"bear", b"wolf"],
        b"coarse_label_names": [b"fruit", b"carnivores"],
    }
    (folder / "meta").write_bytes(pickle.dumps(meta, 2))
    return folder


def binary_100(folder):
    labels = np.array([[1, 2], [0, 0], [1, 1], [0, 0]], np.uint8)
    folder.mkdir()
    np.hstack([labels, ROWS]).tofile(folder / "train.bin")
    text(folder / "fine_label_names.txt", "apple\nbear\nwolf\n")
    text(folder / "coarse_label_names.txt", "fruit\ncarnivores\n")
    return folder


def test_cifar_10(tmp_path):
    source = python_10(tmp_path / "in")
    assert [f.name for f, _ in recognise(source)] == ["cifar"]
    conversion, found = read("cifar", source, tmp_path / "out")
    assert [labels for _, labels in found["train"].values()] == [
        ["automobile"],
        ["airplane"],
        ["automobile"],
    ]
    assert list(found["train"])[2] == "train/00002.png"
    pictures = [*found["train"].values(), *found["test"].values()]
    assert np.array_equal([pixels for pixels, _ in pictures], PIXELS)
    images = json.loads(conversion.files["train"].path.read_text())["images"]
    assert images[2]["attributes"] == {"original_name": "data_batch_2_0.png"}


@pytest.mark.parametrize("make", [python_100, binary_100])
def test_cifar_100_has_coarse_labels_as_supercategories(tmp_path, make):
    source = make(tmp_path / "in")
    assert [f.name for f, _ in recognise(source)] == ["cifar"]
    conversion, found = read("cifar", source, tmp_path / "out")
    assert [labels[0] for _, labels in found["train"].values()] == [
        "wolf",
        "apple",
        "bear",
        "apple",
    ]
    assert np.array_equal([pixels for pixels, _ in found["train"].values()], PIXELS)
    categories = json.loads(conversion.files["train"].path.read_text())["categories"]
    assert [(c["name"], c["supercategory"]) for c in categories] == [
        ("apple", "fruit"),
        ("bear", "carnivores"),
        ("wolf", "carnivores"),
    ]


def test_binary_cifar_10_and_one_without_names(tmp_path):
    source = tmp_path / "in"
    source.mkdir()
    np.hstack([np.array([[1], [0], [1], [0]], np.uint8), ROWS]).tofile(source / "test_batch.bin")
    with pytest.raises(InputError, match=r"do not say which they are of"):
        read("cifar", source, tmp_path / "out")
    text(source / "batches.meta.txt", "airplane\nautomobile\n\n")
    _, found = read("cifar", source, tmp_path / "out")
    assert np.array_equal([pixels for pixels, _ in found["test"].values()], PIXELS)
    with open(source / "test_batch.bin", "ab") as file:
        file.write(b"x")
    with pytest.raises(InputError, match="not a multiple of 3073"):
        read("cifar", source, tmp_path / "out")


def test_without_names_classes_are_called_by_their_numbers(tmp_path):
    source = python_10(tmp_path / "in")
    (source / "batches.meta").unlink()
    conversion, _ = read("cifar", source, tmp_path / "out")
    assert list(conversion.files["train"].per_category) == ["0", "1"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"data": ROWS[:, :3071], "labels": [0] * 4}, "not an array of N×3072 bytes"),
        ({"data": ROWS.tolist(), "labels": [0] * 4}, "not an array of"),
        ({"data": ROWS, "labels": [0] * 3}, "4 images, but 3 labels"),
        ({"data": ROWS, "labels": [0, 1, 2, 0]}, "the label 2 has no name"),
        ({"data": ROWS}, "`labels` is not a list of numbers"),
        ({"data": ROWS, "labels": [0] * 4, "x": print}, "asks for builtins.print"),
    ],
)
def test_broken_batches(tmp_path, content, message):
    source = python_10(tmp_path / "in")
    (source / "data_batch_2").write_bytes(pickle.dumps(content))
    with pytest.raises(InputError, match=message):
        read("cifar", source, tmp_path / "out")
