"""Reading images of any depth and orientation, against plain arrays."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from detectron2.data.detection_utils import read_image as detectron2_read_image
from PIL import Image

from dataset_tools.errors import InputError
from seriatim.data.image import ImageCache, read_image, read_labels


@pytest.fixture
def picture():
    return np.random.default_rng(0).integers(0, 256, (24, 31, 3), dtype=np.uint8)


@pytest.mark.parametrize("image_format", ["BGR", "RGB", "L"])
@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "1"])
def test_8_bit_as_detectron2_reads_it(tmp_path, picture, image_format, mode):
    path = tmp_path / "a.png"
    Image.fromarray(picture).convert(mode).save(path)
    image = read_image(path, image_format)
    assert image.dtype == np.uint8
    assert image.flags.c_contiguous
    np.testing.assert_array_equal(image, detectron2_read_image(str(path), image_format))


def test_channel_order(tmp_path, picture):
    path = tmp_path / "a.png"
    Image.fromarray(picture).save(path)
    np.testing.assert_array_equal(read_image(path, "RGB"), picture)
    np.testing.assert_array_equal(read_image(path, "BGR"), picture[:, :, ::-1])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path, picture, orientation):
    path = tmp_path / "a.jpg"
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(picture).save(path, exif=exif, quality=95)
    np.testing.assert_array_equal(read_image(path, "BGR"), detectron2_read_image(str(path), "BGR"))
    assert (read_image(path, "RGB").shape[0] == 31) == (orientation > 4)


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("colour", [False, True])
def test_12_bit_in_16_is_not_black(tmp_path, suffix, colour):
    shape = (40, 50, 3) if colour else (40, 50)
    deep = np.random.default_rng(1).integers(0, 4096, shape, dtype=np.uint16)
    path = tmp_path / f"a.{suffix}"
    cv2.imwrite(str(path), deep)  # BGR
    image = read_image(path, "BGR")
    assert image.dtype == np.uint8
    assert image.shape == (40, 50, 3)
    expected = deep if colour else np.stack([deep] * 3, axis=2)
    low, high = np.percentile(deep, (0.5, 99.5))
    scaled = ((expected - low) / (high - low)).clip(0, 1) * 255
    assert np.abs(image - scaled).max() <= 1


def test_float_tiff(tmp_path):
    values = np.linspace(0, 1, 600, dtype=np.float32).reshape(20, 30)
    Image.fromarray(values).save(tmp_path / "a.tif")
    image = read_image(tmp_path / "a.tif", "L")
    assert np.abs(image[:, :, 0] - values * 255).max() <= 1


def test_files_that_are_wrong(tmp_path, picture):
    with pytest.raises(InputError, match="does not exist"):
        read_image(tmp_path / "none.png", "BGR")
    path = tmp_path / "a.jpg"
    Image.fromarray(picture).save(path)
    whole = path.read_bytes()
    for content in (b"", b"no image", whole[: len(whole) // 2]):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"a\.jpg cannot be read"):
            read_image(path, "BGR")
    with pytest.raises(InputError, match="cannot be read"):
        read_labels(path)


def test_labels_are_indices_not_colours(tmp_path):
    labels = np.arange(12, dtype=np.uint8).reshape(3, 4)
    image = Image.fromarray(labels).convert("P")
    image.putpalette([7] * 768)
    image.save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_labels(tmp_path / "a.png"), labels)
    Image.fromarray(labels.astype(np.uint16)).save(tmp_path / "b.png")
    with pytest.raises(InputError, match="8-bit"):
        read_labels(tmp_path / "b.png")


def test_cache_keeps_the_latest_within_its_room(tmp_path, picture):
    paths = [tmp_path / f"{i}.png" for i in range(4)]
    for i, path in enumerate(paths):
        Image.fromarray(picture + i).save(path)
    cache = ImageCache(2.5 * picture.nbytes / 2**20)  # room for two
    kept = [cache.read(path, "RGB") for path in paths[:2]]
    assert cache.read(paths[0], "RGB") is kept[0]
    cache.read(paths[2], "RGB")  # the least recently used one, number 1, goes
    assert cache.read(paths[0], "RGB") is kept[0]
    assert cache.read(paths[1], "RGB") is not kept[1]
    np.testing.assert_array_equal(cache.read(paths[3], "BGR"), (picture + 3)[:, :, ::-1])
    assert not cache.read(paths[3], "BGR").flags.writeable
