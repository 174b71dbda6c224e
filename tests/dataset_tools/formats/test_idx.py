import gzip

import numpy as np
import pytest

from dataset_tools.errors import InputError
from dataset_tools.formats import recognise
from dataset_tools.formats.idx import FASHION_MNIST, read_idx
from tests.dataset_tools.formats.packed import idx, random_pixels, read, write_idx
from tests.dataset_tools.makers import text


@pytest.mark.parametrize("packed", [False, True])
def test_images_and_labels_of_both_splits(tmp_path, packed):
    train, test = random_pixels(3, 5, 4), random_pixels(2, 5, 4, seed=1)
    source = write_idx(tmp_path / "in", train, [7, 0, 10], packed=packed)
    write_idx(source, test, [1, 1], "t10k", packed)
    assert [f.name for f, _ in recognise(source)] == ["idx"]
    conversion, found = read("idx", source, tmp_path / "out")
    assert list(found) == ["train", "test"]
    assert list(found["train"]) == [f"train/0000{i}.png" for i in range(3)]
    for split, pixels in (("train", train), ("test", test)):
        assert all(
            np.array_equal(f[0], p) for f, p in zip(found[split].values(), pixels, strict=True)
        )
    assert [labels for _, labels in found["train"].values()] == [["7"], ["0"], ["10"]]
    assert list(conversion.files["train"].per_category) == ["0", "1", "7", "10"]


def test_one_file_and_names_of_fashion_mnist_letters_upright_and_qmnist(tmp_path):
    pixels = random_pixels(2, 3, 4)
    source = write_idx(tmp_path / "fashion", pixels, [9, 0])
    _, found = read("idx", source / "train-images-idx3-ubyte", tmp_path / "out")
    assert [labels for _, labels in found["train"].values()] == [["Ankle boot"], ["T-shirt/top"]]
    assert len(FASHION_MNIST) == 10

    letters = write_idx(tmp_path / "in", pixels, [1, 2], "emnist-letters-train")
    text(letters / "emnist-letters-mapping.txt", "1 65 97\n2 66 98\n")
    _, found = read("idx", letters, tmp_path / "out2")
    (upright, label), _ = found["train"].values()
    assert label == ["Aa"] and np.array_equal(upright, pixels[0].T)
    _, found = read("idx", letters, tmp_path / "out3", transpose="no")
    assert np.array_equal(found["train"]["train/00000.png"][0], pixels[0])

    many = np.array([[5, 1, 2], [6, 3, 4]], np.int32)
    (tmp_path / "q").mkdir()
    (tmp_path / "q/qmnist-test-images-idx3-ubyte").write_bytes(idx(pixels, 8))
    (tmp_path / "q/qmnist-test-labels-idx2-int").write_bytes(idx(many, 0x0C))
    _, found = read("idx", tmp_path / "q", tmp_path / "out4")
    assert [labels for _, labels in found["test"].values()] == [["5"], ["6"]]


@pytest.mark.parametrize(
    ("code", "dtype"),
    [(8, "u1"), (9, "i1"), (0x0B, "i2"), (0x0C, "i4"), (0x0D, "f4"), (0x0E, "f8")],
)
def test_all_types_of_numbers_are_big_endian(tmp_path, code, dtype):
    values = np.array([[1, 2, 100], [0, 7, 3]], dtype)
    (tmp_path / "x").write_bytes(idx(values, code))
    found = read_idx(tmp_path / "x")
    assert found.dtype.newbyteorder("=") == np.dtype(dtype) and np.array_equal(found, values)


def good():
    return idx(random_pixels(2, 3, 3), 8)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"begins with the bytes \(none\)"),
        (b"\1\0\x08\3" + good()[4:], "begins with the bytes 01 00 08 03"),
        (b"\0\0\x0a\3" + good()[4:], "not an IDX file"),
        (good()[:9], "cut off or damaged"),
        (good()[:-1], "18 bytes should follow for 2×3×3 numbers, but there are 17"),
        (good() + b"x", "but there are more"),
        (gzip.compress(good(), mtime=0)[:-9], "damaged or cut off"),
        (b"\x1f\x8b" + b"\0" * 30, "damaged or cut off"),
        (b"\0\0\x08\3" + b"\xff" * 12, "more than 4 GiB, which is the limit"),
        (gzip.compress(good() + b"\0" * 10**7, mtime=0), "but there are more"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",  # bytes would name the tests
)
def test_broken_files(tmp_path, content, message):
    source = write_idx(tmp_path / "in", random_pixels(2, 3, 3), [1, 2])
    (source / "train-images-idx3-ubyte").write_bytes(content)
    with pytest.raises(InputError, match=message):
        read("idx", source, tmp_path / "out")


def test_files_that_do_not_fit_together(tmp_path):
    source = write_idx(tmp_path / "in", random_pixels(2, 3, 3), [1, 2, 3])
    with pytest.raises(InputError, match="2 images, but 3 labels"):
        read("idx", source, tmp_path / "out")
    write_idx(source, random_pixels(2, 3, 3), [1, 2])
    names = text(tmp_path / "names.txt", "one\ntwo\n")
    with pytest.raises(InputError, match="the label 2 has no name: there are 2"):
        read("idx", source, tmp_path / "out", names=str(names))
    write_idx(source, random_pixels(2, 3, 3), [1, 2], "other-train")
    with pytest.raises(InputError, match="are both train images"):
        read("idx", source, tmp_path / "out")
    (source / "train-labels-idx1-ubyte").unlink()
    with pytest.raises(InputError, match="no file is its labels"):
        read("idx", source / "train-images-idx3-ubyte", tmp_path / "out")
