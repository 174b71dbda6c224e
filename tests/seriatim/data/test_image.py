"""Reading images of any depth and orientation, against plain arrays."""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from detectron2.data import transforms as T
from detectron2.data.detection_utils import read_image as detectron2_read_image
from PIL import Image

from dataset_tools.errors import InputError
from seriatim.data.image import ImageCache, full_size, read_image, read_labels
from seriatim.data.resize import ResizeShortestEdge


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


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK", "YCbCr"])
@pytest.mark.parametrize("options", [{"quality": 60}, {"quality": 95, "subsampling": 0}])
@pytest.mark.parametrize("image_format", ["BGR", "RGB", "L"])
def test_jpeg_has_pillows_pixels_to_the_bit(tmp_path, mode, options, image_format):
    path = tmp_path / "a.jpg"
    photo(61, 83).convert(mode).save(path, progressive=mode == "RGB", **options)
    expected = detectron2_read_image(str(path), image_format)
    np.testing.assert_array_equal(read_image(path, image_format), expected)


def photo(height, width):
    """Smooth and sharp parts, as photographs have them."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (height // 20 + 2, width // 20 + 2, 3), dtype=np.uint8)
    image = Image.fromarray(coarse).resize((width, height), Image.BICUBIC)
    pixels = np.asarray(image).astype(int) + rng.normal(0, 4, (height, width, 3))
    pixels[height // 3 : height // 2, width // 4 : width // 2] = (250, 20, 60)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def save_turned(path, orientation, height=600, width=808):
    exif = Image.Exif()
    exif[0x0112] = orientation
    photo(height, width).save(path, exif=exif, quality=92)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(("edge", "factor"), [(400, 1), (290, 2), (150, 4), (70, 8)])
def test_what_is_decoded_smaller_becomes_the_same_picture(tmp_path, orientation, edge, factor):
    path = tmp_path / "a.jpg"
    save_turned(path, orientation)
    whole = detectron2_read_image(str(path), "BGR")
    ours, theirs = ResizeShortestEdge(edge, 2000), T.ResizeShortestEdge(edge, 2000)
    image = read_image(path, "BGR", ours)
    assert full_size(image) == whole.shape[:2]
    assert image.shape[:2] == tuple(side // factor for side in whole.shape[:2])
    a, b = T.AugInput(image), T.AugInput(whole)
    by_ours, by_theirs = ours(a), theirs(b)
    corners = np.random.default_rng(1).uniform(0, 600, (50, 2))
    np.testing.assert_array_equal(
        by_ours.apply_coords(corners.copy()), by_theirs.apply_coords(corners.copy())
    )
    apart = np.abs(a.image.astype(int) - b.image)
    # Decoded whole: within rounding. Smaller: JPEG's own filter instead of half of Pillow's.
    assert apart.max() <= 1 if factor == 1 else (apart.mean() < 2.5 and apart.max() < 60)


def test_an_image_that_must_not_shrink_is_decoded_whole(tmp_path, picture):
    path = tmp_path / "a.jpg"
    save_turned(path, 6)
    assert read_image(path, "RGB", ResizeShortestEdge(302, 2000)).shape == (808, 600, 3)
    assert read_image(path, "RGB", ResizeShortestEdge([100, 302], 2000)).shape == (808, 600, 3)
    assert read_image(path, "RGB", ResizeShortestEdge(0, 2000)).shape == (808, 600, 3)
    save_turned(path, 6, 601, 808)  # half of it would cover a row that is not there
    assert read_image(path, "RGB", ResizeShortestEdge(70, 2000)).shape == (808, 601, 3)
    Image.fromarray(picture).save(tmp_path / "a.png")  # only JPEG can do it
    assert read_image(tmp_path / "a.png", "RGB", ResizeShortestEdge(4, 10)).shape == picture.shape


@pytest.fixture
def decoded(monkeypatch):
    """Names of the files that are decoded."""
    seen = []

    def read(path, *options):
        seen.append(Path(path).name)
        return read_image(path, *options)

    monkeypatch.setattr("seriatim.data.image.read_image", read)
    return seen


def test_the_cache_survives_and_keeps_within_its_room(tmp_path, picture, decoded):
    paths = [tmp_path / f"{i}.png" for i in range(4)]
    for i, path in enumerate(paths):
        Image.fromarray(picture + i).save(path)
    folder = tmp_path / "cache"
    for _ in range(2):  # the second as in another run
        cache = ImageCache(folder, 3.5 * picture.nbytes / 2**20)
        for i, path in enumerate(paths):
            np.testing.assert_array_equal(cache.read(path, "RGB"), picture + i)
        assert sum(f.stat().st_size for f in folder.iterdir()) <= 3.5 * picture.nbytes
    assert [decoded.count(path.name) for path in paths] == [1, 1, 1, 2]
    np.testing.assert_array_equal(cache.read(paths[0], "BGR"), picture[:, :, ::-1])


def test_the_cache_sees_that_an_image_has_changed(tmp_path, picture):
    path, cache = tmp_path / "a.png", ImageCache(tmp_path / "cache", 1)
    Image.fromarray(picture).save(path)
    cache.read(path, "RGB")
    np.testing.assert_array_equal(cache.read(path, "RGB"), picture)
    Image.fromarray(picture[::-1]).save(path)
    os.utime(path, ns=(1, 1))
    np.testing.assert_array_equal(cache.read(path, "RGB"), picture[::-1])
    path.unlink()
    with pytest.raises(InputError, match="does not exist"):
        cache.read(path, "RGB")


def test_the_cache_keeps_the_size_of_what_was_decoded_smaller(tmp_path, decoded):
    path, cache = tmp_path / "a.jpg", ImageCache(tmp_path / "cache", 10)
    save_turned(path, 6)
    step = ResizeShortestEdge(100, 2000)
    images = [cache.read(path, "RGB", step) for _ in range(2)]
    assert [full_size(image) for image in images] == [(808, 600)] * 2
    np.testing.assert_array_equal(*images)
    assert cache.read(path, "RGB").shape == (808, 600, 3)
    assert decoded == ["a.jpg"] * 2


def read_all(paths, folder, results):
    cache = ImageCache(folder, 10)
    results.put([int(cache.read(path, "RGB").astype(int).sum()) for path in paths * 3])


def test_several_processes_fill_one_cache(tmp_path, picture):
    paths = [tmp_path / f"{i}.png" for i in range(6)]
    for i, path in enumerate(paths):
        Image.fromarray(picture // 2 + i).save(path)
    context = multiprocessing.get_context("fork")
    results = context.SimpleQueue()
    job = (paths, tmp_path / "cache", results)
    processes = [context.Process(target=read_all, args=job) for _ in range(3)]
    for process in processes:
        process.start()
    expected = [int((picture // 2 + i).astype(int).sum()) for i in range(6)] * 3
    assert [results.get() for _ in processes] == [expected] * 3
    for process in processes:
        process.join()
    assert len(list((tmp_path / "cache").iterdir())) == 6  # and nothing temporary


def test_a_cache_that_cannot_be_written_is_told(tmp_path, picture):
    path = tmp_path / "a.png"
    Image.fromarray(picture).save(path)
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"CACHE_DIR"):
        ImageCache(tmp_path / "file" / "cache", 1).read(path, "RGB")
