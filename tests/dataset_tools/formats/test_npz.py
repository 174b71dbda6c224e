import zipfile

import numpy as np
import pytest

from dataset_tools.errors import InputError
from dataset_tools.formats import recognise
from tests.dataset_tools.formats.packed import random_pixels, read
from tests.dataset_tools.makers import text

PIXELS = random_pixels(3, 4, 4)


def npz(folder, name="digits.npz", **arrays):
    folder.mkdir(exist_ok=True)
    np.savez_compressed(folder / name, **arrays)
    return folder / name


def classes(found, split="all"):
    return [labels for _, labels in found[split].values()]


@pytest.mark.parametrize(
    ("images", "labels"),
    [("images", "labels"), ("X", "y"), ("arr_0", "arr_1"), ("data", "target"), ("image", "label")],
)
def test_usual_names_of_arrays(tmp_path, images, labels):
    file = npz(tmp_path / "in", **{images: PIXELS, labels: np.array([7, 0, 10], np.uint8)})
    for path in (file, file.parent):
        assert [f.name for f, _ in recognise(path)] == ["npz"]
        conversion, found = read("npz", path, tmp_path / "out")
        assert np.array_equal([pixels for pixels, _ in found["all"].values()], PIXELS)
        assert classes(found) == [["7"], ["0"], ["10"]]
        assert f"images {images!r}, labels {labels!r}" in conversion.plan.remarks[0]


def test_splits_in_a_file_and_files_that_are_splits(tmp_path):
    labels = np.array([0, 1, 1])
    keras = npz(
        tmp_path / "a", x_train=PIXELS, y_train=labels, x_test=PIXELS[:1], y_test=labels[:1]
    )
    _, found = read("npz", keras, tmp_path / "out")
    assert {split: classes(found, split) for split in found} == {
        "train": [["0"], ["1"], ["1"]],
        "test": [["0"]],
    }
    medmnist = npz(tmp_path / "b", val_images=PIXELS, val_labels=labels[:, None])
    assert list(read("npz", medmnist, tmp_path / "out2")[1]) == ["val"]
    npz(tmp_path / "c", "valid.npz", x=PIXELS, y=labels)
    npz(tmp_path / "c", "train.npz", x=PIXELS, y=labels)
    assert list(read("npz", tmp_path / "c", tmp_path / "out3")[1]) == ["train", "val"]


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (np.eye(3)[[2, 0, 1]], [["2"], ["0"], ["1"]]),
        (np.array([[1, 0, 1], [0, 0, 0], [0, 1, 0]]), [["0", "2"], [], ["1"]]),
        (np.array(["cat", "dog", "ä"]), [["cat"], ["dog"], ["ä"]]),
        (np.array([b"cat", b"dog", b"x"]), [["cat"], ["dog"], ["x"]]),
        (np.array([1.0, 2.0, 0.0]), [["1"], ["2"], ["0"]]),
        (np.array([True, False, True]), [["1"], ["0"], ["1"]]),
    ],
)
def test_forms_of_labels(tmp_path, labels, expected):
    _, found = read("npz", npz(tmp_path / "in", images=PIXELS, labels=labels), tmp_path / "out")
    assert classes(found) == expected


def test_names_from_the_archive_or_a_file_and_further_arrays(tmp_path):
    file = npz(
        tmp_path / "in",
        images=PIXELS,
        labels=np.array([1, 0, 1]),
        class_names=np.array(["zebra", "cat"]),
        weights=np.ones(3),
    )
    conversion, found = read("npz", file, tmp_path / "out")
    assert classes(found) == [["cat"], ["zebra"], ["cat"]]
    assert list(conversion.files["all"].per_category) == ["zebra", "cat"]
    (note,) = conversion.notes.dropped.values()
    assert note.places == [f"{file}: weights"]
    names = text(tmp_path / "names.txt", "one\ntwo\n")
    _, found = read("npz", file, tmp_path / "out2", names=str(names))
    assert classes(found) == [["two"], ["one"], ["two"]]


def test_arrays_named_by_the_user(tmp_path):
    file = npz(tmp_path / "in", pictures=PIXELS, what=np.array([1, 0, 1]))
    assert recognise(file) == []
    with pytest.raises(InputError, match="Say it by --keys"):
        read("npz", file, tmp_path / "out")
    with pytest.raises(InputError, match="should be two of pictures, what"):
        read("npz", file, tmp_path / "out", keys="pictures,which")
    _, found = read("npz", file, tmp_path / "out", keys="pictures,what")
    assert classes(found) == [["1"], ["0"], ["1"]]


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": PIXELS, "labels": np.array([1, 2])}, "3 images, but 2 labels"),
        ({"images": PIXELS, "labels": np.array([1, None, {}])}, "an array of Python objects"),
        ({"images": PIXELS, "labels": np.array([0.5, 1, 2])}, "no whole numbers"),
        ({"images": PIXELS, "labels": np.ones((3, 2)) * 5}, "not of 0 and 1 alone"),
        ({"images": PIXELS[:0], "labels": np.ones(0)}, "there is no image in it"),
    ],
)
def test_arrays_that_do_not_fit(tmp_path, arrays, message):
    with pytest.raises(InputError, match=message):
        read("npz", npz(tmp_path / "in", **arrays), tmp_path / "out")


def header(shape):
    text_ = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\1\0" + len(text_).to_bytes(2, "little") + text_


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (header((10**12, 4, 4)), "more than 4 GiB, which is the limit"),
        (header((10, 4, 4)) + b"x", "160 bytes are declared, but others there"),
        (b"what", "not a numpy array"),
        (header((3, 4, 4))[:-9], "not a numpy array"),
    ],
)
def test_headers_are_not_believed(tmp_path, content, message):
    file = npz(tmp_path / "in", labels=np.array([1]))
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr("images.npy", content)
    with pytest.raises(InputError, match=message):
        read("npz", file, tmp_path / "out")


def test_a_file_that_is_cut_off(tmp_path):
    file = npz(tmp_path / "in", images=PIXELS, labels=np.array([1, 2, 3]))
    file.write_bytes(file.read_bytes()[:-30])
    with pytest.raises(InputError, match="not a whole npz file"):
        read("npz", file, tmp_path / "out")
