"""SVHN and USPS."""

import bz2
import sys

import h5py
import numpy as np
import pytest
from scipy.io import savemat

from dataset_tools.errors import InputError
from dataset_tools.formats import recognise
from tests.dataset_tools.formats.packed import random_pixels, read
from tests.dataset_tools.makers import converted, picture

RGB = random_pixels(3, 32, 32, 3)


def classes(found, split):
    return [labels for _, labels in found[split].values()]


@pytest.mark.parametrize("compressed", [False, True])
def test_cropped_digits_and_the_label_10(tmp_path, compressed):
    (tmp_path / "in").mkdir()
    for split, count in (("train", 3), ("extra", 1)):
        content = {"X": RGB[:count].transpose(1, 2, 3, 0), "y": np.array([[10], [1], [9]])[:count]}
        savemat(tmp_path / f"in/{split}_32x32.mat", content, do_compression=compressed)
    assert [f.name for f, _ in recognise(tmp_path / "in")] == ["svhn"]
    _, found = read("svhn", tmp_path / "in", tmp_path / "out")
    assert list(found) == ["train", "extra"]
    assert classes(found, "train") == [["0"], ["1"], ["9"]]
    assert np.array_equal([pixels for pixels, _ in found["train"].values()], RGB)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"X": RGB.transpose(1, 2, 3, 0), "y": np.array([11, 1, 2])}, r"y\[0\]: the label is 11"),
        ({"X": RGB.transpose(1, 2, 3, 0), "y": np.array([1, 2])}, "3 images, but 2 labels"),
        ({"X": RGB, "y": np.array([1, 2, 3])}, "not H×W×3×N"),
        ({"X": RGB.astype(float), "y": np.array([1, 2, 3])}, "X is double"),
        ({"X": RGB}, "not a file of SVHN's"),
    ],
)
def test_broken_cropped_digits(tmp_path, content, message):
    savemat(tmp_path / "train_32x32.mat", content)
    with pytest.raises(InputError, match=message):
        read("svhn", tmp_path, tmp_path / "out")


def test_a_damaged_mat_file(tmp_path):
    file = tmp_path / "train_32x32.mat"
    savemat(file, {"X": RGB.transpose(1, 2, 3, 0), "y": np.array([1, 2, 3])})
    file.write_bytes(file.read_bytes()[:-2000])
    with pytest.raises(InputError, match="not a file of SVHN's cropped digits"):
        read("svhn", file, tmp_path / "out")


def digit_struct(path, entries):
    """As MATLAB 7.3 writes it: one digit is a number, several are references to one each."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w", userblock_size=512) as file:
        references = file.create_group("#refs#")
        names, boxes = [], []
        for index, (name, digits) in enumerate(entries):
            codes = np.array([[ord(letter)] for letter in name], np.uint16)
            names.append([references.create_dataset(f"n{index}", data=codes).ref])
            group = references.create_group(f"b{index}")
            for side, values in zip(
                ("left", "top", "width", "height", "label"), zip(*digits, strict=True), strict=True
            ):
                if len(values) == 1:
                    group[side] = np.array([[float(values[0])]])
                    continue
                kept = [
                    [references.create_dataset(f"v{index}{side}{i}", data=[[float(value)]]).ref]
                    for i, value in enumerate(values)
                ]
                group.create_dataset(side, data=kept, dtype=h5py.ref_dtype)
            boxes.append([group.ref])
        struct = file.create_group("digitStruct")
        struct.create_dataset("name", data=names, dtype=h5py.ref_dtype)
        struct.create_dataset("bbox", data=boxes, dtype=h5py.ref_dtype)
    with open(path, "r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file")
    return path


def test_whole_numbers_have_a_box_for_each_digit(tmp_path):
    one, two = [(2, 3, 6, 4, 10)], [(0, 1, 5, 9, 1), (5, 1, 5, 9, 7)]
    digit_struct(tmp_path / "in/train/digitStruct.mat", [("1.png", one), ("2.png", two)])
    picture(tmp_path / "in/train/1.png")
    picture(tmp_path / "in/train/2.png")
    assert [f.name for f, _ in recognise(tmp_path / "in")] == ["svhn"]
    _, splits = converted("svhn", tmp_path / "in", tmp_path / "out")
    first, second = (image["objects"] for image in splits["train"].values())
    assert list(splits["train"]) == ["train/1.png", "train/2.png"]
    assert [entry[:2] for entry in first] == [("0", [2, 3, 6, 4])]
    assert [entry[:2] for entry in second] == [("1", [0, 1, 5, 9]), ("7", [5, 1, 5, 9])]


def test_broken_whole_numbers_and_a_missing_package(tmp_path, monkeypatch):
    file = digit_struct(tmp_path / "in/digitStruct.mat", [("../1.png", [(2, 3, 6, 4, 1)])])
    with pytest.raises(InputError, match="leads out of the folder"):
        converted("svhn", file, tmp_path / "out")
    digit_struct(file, [("1.png", [(2, 3, 6, 4, 1)])])
    with pytest.raises(InputError, match=r"1\.png: this image file is missing"):
        converted("svhn", file, tmp_path / "out")
    file.write_bytes(file.read_bytes()[:2000])
    with pytest.raises(InputError, match="not a whole HDF5 file"):
        converted("svhn", file, tmp_path / "out")
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(InputError, match="`pip install h5py`"):
        converted("svhn", file, tmp_path / "out")
    with pytest.raises(InputError, match="but there is neither"):
        (tmp_path / "empty").mkdir()
        converted("svhn", tmp_path / "empty", tmp_path / "out")


LINES = (
    "7 " + " ".join(f"{i}:{-1 if i < 17 else 0.5}" for i in range(1, 257)) + " \n10 1:1 256:-0.25\n"
)


@pytest.mark.parametrize("packed", [True, False])
def test_usps_as_text_of_libsvm(tmp_path, packed):
    (tmp_path / "in").mkdir()
    for name in ("usps", "usps.t"):
        content = bz2.compress(LINES.encode()) if packed else LINES.encode()
        (tmp_path / "in" / (name + ".bz2" * packed)).write_bytes(content)
    assert [f.name for f, _ in recognise(tmp_path / "in")] == ["usps"]
    _, found = read("usps", tmp_path / "in", tmp_path / "out")
    assert list(found) == ["train", "test"]
    assert classes(found, "test") == [["6"], ["9"]]
    (first, _), (second, _) = found["train"].values()
    # (-1 + 1) × 127.5 = 0; (0.5 + 1) × 127.5 = 191.25; what is left out is 0, so 127.5 → 128
    assert first[0].tolist() == [0] * 16 and (first[1:] == 191).all()
    assert second[0, :2].tolist() == [255, 128] and second[15, 15] == 96


@pytest.mark.parametrize("line", ["0 1:1", "1 257:1", "1 1:2", "1 1", "cat 1:1", "1 1:nan"])
def test_broken_lines_of_usps(tmp_path, line):
    (tmp_path / "usps").write_text(f"7 1:1\n{line}\n")
    with pytest.raises(InputError, match=r"usps:2: not a line of USPS"):
        read("usps", tmp_path / "usps", tmp_path / "out")


def test_usps_as_hdf5(tmp_path):
    pixels = random_pixels(2, 16, 16)
    with h5py.File(tmp_path / "usps.h5", "w") as file:
        for split in ("train", "test"):
            file[f"{split}/data"] = pixels.reshape(2, 256) / np.float32(255)
            file[f"{split}/target"] = np.array([3, 0])
    assert [f.name for f, _ in recognise(tmp_path)] == ["usps"]
    _, found = read("usps", tmp_path, tmp_path / "out")
    assert classes(found, "test") == [["3"], ["0"]]
    assert np.array_equal([image for image, _ in found["train"].values()], pixels)


def test_a_bomb_ends_at_the_limit(tmp_path, monkeypatch):
    monkeypatch.setattr("dataset_tools.formats.usps.MOST_TEXT", 1 << 20)
    (tmp_path / "usps.bz2").write_bytes(bz2.compress(b"1 1:1\n" * 10**6))
    with pytest.raises(InputError, match="which is the limit"):
        read("usps", tmp_path / "usps.bz2", tmp_path / "out")
