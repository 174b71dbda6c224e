"""Look-alikes are found whatever was done to the copy, and different pictures are not taken for
them."""

import io
import itertools

import imagehash
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps
from scipy.fft import idctn

from dataset_tools.check import check_dataset
from dataset_tools.checks.pictures import _thumbnail, probe_image
from dataset_tools.checks.twins import RADIUS, near_pairs, perceptual_hashes, twin_groups
from dataset_tools.files import write_json
from seriatim.testing.shapes import draw_scene

SIZE = (240, 320)


def scene(seed):
    """A picture with few large random patches: what differs between photographs."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize(SIZE[::-1], Image.Resampling.BICUBIC), dtype=float)
    return Image.fromarray((smooth + rng.normal(0, 4, smooth.shape)).clip(0, 255).astype(np.uint8))


def recompressed(image, quality=40):
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=quality)
    return Image.open(stream)


COPIES = {
    "resized": lambda image: image.resize((131, 97)),
    "enlarged": lambda image: image.resize((640, 480)),
    "recompressed": recompressed,
    "mirrored": ImageOps.mirror,
    "mirrored, resized, recompressed": lambda image: recompressed(
        ImageOps.mirror(image.resize((160, 120)))
    ),
    "brighter": lambda image: image.point(lambda value: min(255, int(1.1 * value + 8))),
    "grey": lambda image: image.convert("L"),
    "16 bit": lambda image: Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257),
}


def thumbnails(images):
    return np.stack([_thumbnail(image) for image in images])


@pytest.mark.parametrize("copy", COPIES)
def test_a_copy_is_found_among_others(copy):
    images = [scene(seed) for seed in range(6)]
    images.append(COPIES[copy](images[2]))
    assert twin_groups(thumbnails(images)) == [[2, 6]]


def test_other_pictures_are_no_twins():
    assert twin_groups(thumbnails([scene(seed) for seed in range(150)])) == []


def test_pictures_of_one_place_with_other_objects_are_no_twins():
    shapes = [
        Image.fromarray(draw_scene(0, index, SIZE)[0]) for index in range(16) if index % 8 != 5
    ]
    assert twin_groups(thumbnails(shapes)) == []


def test_pictures_of_one_hash_need_not_be_twins():
    """The hash knows signs only: frequencies of the same signs and other strengths share it."""
    rng = np.random.default_rng(0)
    signs = rng.permutation([-1, 1] * 32).reshape(8, 8)
    strengths = rng.exponential(1500, (2, 8, 8))
    frequencies = np.zeros((2, 32, 32))
    frequencies[:, :8, :8] = signs * strengths
    pictures = (128 + idctn(frequencies, axes=(1, 2))).clip(0, 255).astype(np.uint8)
    first, second = perceptual_hashes(pictures)[0]
    assert int(first ^ second).bit_count() <= RADIUS
    assert twin_groups(pictures) == []


def test_even_pictures_show_nothing_to_compare():
    rng = np.random.default_rng(0)
    even = [Image.fromarray(rng.integers(100, 104, (50, 60), dtype=np.uint8)) for _ in range(4)]
    assert twin_groups(thumbnails([*even, even[0]])) == []


def test_likeness_is_passed_on_within_a_group():
    images = [
        scene(0),
        scene(1),
        recompressed(scene(0)),
        ImageOps.mirror(scene(0)),
        scene(1).resize((99, 70)),
    ]
    assert twin_groups(thumbnails(images)) == [[0, 2, 3], [1, 4]]


def test_the_hash_is_that_of_the_imagehash_package():
    images = [
        Image.fromarray(picture) for picture in thumbnails([scene(seed) for seed in range(20)])
    ]
    ours, mirrored = perceptual_hashes(np.stack([np.asarray(image) for image in images]))
    for image, hash_, other in zip(images, ours, mirrored, strict=True):
        for picture, value in ((image, hash_), (ImageOps.mirror(image), other)):
            theirs = np.packbits(imagehash.phash(picture).hash).view(np.uint64)[0]
            # Rounding may swap the two coefficients next to the median.
            assert int(theirs ^ value).bit_count() <= 2


@settings(deadline=None)
@given(
    st.lists(st.integers(0, 5), min_size=2, max_size=40),
    st.integers(0, 2**32 - 1),
    st.integers(0, 12),
)
def test_near_pairs_are_those_of_brute_force(origins, seed, flips):
    rng = np.random.default_rng(seed)
    centres = rng.integers(0, 2**64, 6, dtype=np.uint64)
    hashes = []
    for origin in origins:
        bits = rng.choice(64, size=rng.integers(0, flips + 1), replace=False).astype(np.uint64)
        hashes.append(
            centres[origin] ^ np.bitwise_or.reduce(np.uint64(1) << bits, initial=np.uint64(0))
        )
    found = [tuple(pair) for pairs in near_pairs(np.array(hashes)) for pair in pairs.tolist()]
    expected = {
        (first, second)
        for first, second in itertools.combinations(range(len(hashes)), 2)
        if int(hashes[first] ^ hashes[second]).bit_count() <= RADIUS
    }
    assert len(found) == len(set(found))
    assert set(found) == expected


def test_near_pairs_of_more_hashes_than_one_block_holds():
    same = np.full(1200, 0xABCD, np.uint64)
    pairs = np.concatenate(list(near_pairs(same)))
    assert len(np.unique(pairs, axis=0)) == len(pairs) == 1200 * 1199 // 2


@pytest.mark.parametrize("orientation", range(1, 9))
def test_thumbnails_are_upright(tmp_path, orientation):
    image = scene(3)
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(tmp_path / "turned.jpg", exif=exif, quality=95)
    upright = ImageOps.exif_transpose(Image.open(tmp_path / "turned.jpg"))
    probe = probe_image(tmp_path / "turned.jpg")
    assert probe.size == upright.size
    difference = probe.thumbnail.astype(float) - _thumbnail(upright)
    assert abs(difference).mean() < 2


# ---- through the rules ----


def write(folder, name, files):
    images = []
    for index, (file, image) in enumerate(files.items(), start=1):
        (folder / "images").mkdir(exist_ok=True)
        image.save(folder / "images" / file)
        images.append(
            {"id": index, "file_name": file, "width": image.width, "height": image.height}
        )
    box = {"bbox": [10, 10, 20, 20], "area": 400, "iscrowd": 0, "category_id": 1}
    annotations = [{"id": image["id"], "image_id": image["id"], **box} for image in images]
    path = folder / f"{name}.json"
    categories = [{"id": 1, "name": "thing"}]
    write_json(path, {"images": images, "annotations": annotations, "categories": categories})
    return path


def findings(folder, paths):
    return {f.rule: f.places for f in check_dataset(paths, folder / "images").findings}


def test_twins_within_a_file(tmp_path):
    files = {
        "a.png": scene(0),
        "b.png": scene(1),
        "c.jpg": scene(0).resize((160, 120)),
        "d.png": scene(1),
    }
    found = findings(tmp_path, write(tmp_path, "all", files))
    assert found == {"near-duplicate-image": ["a.png ~ c.jpg"], "copied-image": ["b.png ~ d.png"]}


def test_twins_across_files(tmp_path):
    train = write(tmp_path, "train", {"a.png": scene(0), "b.png": scene(1), "c.png": scene(4)})
    val = write(
        tmp_path, "val", {"d.png": scene(2), "e.png": ImageOps.mirror(scene(1)), "f.png": scene(4)}
    )
    found = findings(tmp_path, [train, val])
    assert found == {
        "image-in-two-splits": ["train.json: c.png ~ val.json: f.png"],
        "near-duplicate-across-splits": ["train.json: b.png ~ val.json: e.png"],
    }
