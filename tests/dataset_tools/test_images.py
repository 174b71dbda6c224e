import os

import pytest
from PIL import Image

from dataset_tools.errors import InputError
from dataset_tools.formats import Glimpse
from dataset_tools.images import ImageIndex, image_size, read_picture, walk_files
from tests.dataset_tools.makers import picture, text


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
def test_sizes_are_those_that_detectron2_reads(tmp_path, suffix):
    detection_utils = pytest.importorskip("detectron2.data.detection_utils")
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[274] = orientation
        path = picture(tmp_path / f"{orientation}.{suffix}", 20, 10, exif=exif)
        height, width, _ = detection_utils.read_image(str(path), "RGB").shape
        assert image_size(path) == (width, height), orientation


def test_exif_behind_the_pixels_of_a_png(tmp_path):
    exif = Image.Exif()
    exif[274] = 6
    content = picture(tmp_path / "a.png", 20, 10, exif=exif).read_bytes()
    start = content.index(b"eXIf") - 4
    length = int.from_bytes(content[start : start + 4], "big") + 12
    chunk = content[start : start + length]
    end = content.index(b"IEND") - 4
    late = content[:start] + content[start + length : end] + chunk + content[end:]
    text(tmp_path / "late.png", late)
    assert image_size(tmp_path / "late.png") == (10, 20)


def test_pixels_are_not_decoded(tmp_path):
    content = picture(tmp_path / "a.png", 3000, 2000).read_bytes()
    text(tmp_path / "cut.png", content[:100])
    assert image_size(tmp_path / "cut.png") == (3000, 2000)


@pytest.mark.parametrize("content", [b"", b"no image", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0"])
def test_broken_images_are_named(tmp_path, content):
    with pytest.raises(InputError, match=r"a\.png"):
        image_size(text(tmp_path / "a.png", content))
    with pytest.raises(InputError, match="missing"):
        image_size(tmp_path / "gone.png")


@pytest.fixture
def index(tmp_path):
    for name in (
        "one/a.jpg",
        "two/a.jpg",
        "one/B.JPG",
        "c.2020.01.png",
        "x/e.png",
        ".hidden/f.png",
    ):
        text(tmp_path / name, b"")
    return ImageIndex(tmp_path)


@pytest.mark.parametrize(
    ("name", "near", "found"),
    [
        ("one/a.jpg", "", "one/a.jpg"),
        ("a.jpg", "two/a.xml", "two/a.jpg"),
        ("a", "one/labels/a.xml", "one/a.jpg"),
        ("D:\\data\\two\\a.jpg", "", "two/a.jpg"),
        ("/home/me/one/a.jpg", "", "one/a.jpg"),
        ("b.jpg", "", "one/B.JPG"),
        ("b", "", "one/B.JPG"),
        ("c.2020.01", "", "c.2020.01.png"),
        ("e.jpg", "", "x/e.png"),
        ("../../x/e.png", "", "x/e.png"),
        ("f.png", "", None),
        ("", "", None),
    ],
)
def test_images_are_found_again(index, name, near, found):
    assert index.find(name, near) == found


def test_two_images_that_fit_equally_are_not_guessed_at(index):
    with pytest.raises(InputError, match=r"may be one/a\.jpg or two/a\.jpg|two/a.jpg or one/a.jpg"):
        index.find("a.jpg")


def test_only_regular_files_are_listed(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")  # reading it would never end
    assert list(walk_files(tmp_path)) == []


def test_loops_of_links_end(tmp_path):
    text(tmp_path / "a/x.txt", "")
    (tmp_path / "a/loop").symlink_to(tmp_path)
    assert list(walk_files(tmp_path)) == ["a/x.txt"]


def test_of_equal_names_the_one_beside_the_label_is_found(tmp_path):
    for name in ("0.jpg", "a/0.jpg"):
        picture(tmp_path / name)
    index = ImageIndex(tmp_path)
    assert index.find("0", near="0.json") == "0.jpg"
    assert index.find("0", near="a/0.json") == "a/0.jpg"


def test_links_in_a_ring_and_to_nowhere_are_no_files(tmp_path):
    picture(tmp_path / "a.png")
    (tmp_path / "self.png").symlink_to("self.png")
    (tmp_path / "one").symlink_to(tmp_path / "two")
    (tmp_path / "two").symlink_to(tmp_path / "one")
    (tmp_path / "nowhere.png").symlink_to("there")
    assert list(walk_files(tmp_path)) == ["a.png"]
    assert Glimpse(tmp_path).files == ["a.png"]


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"comment": b"c"}, {"exif": True}])
@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_sizes_of_jpegs_are_pillows(tmp_path, options, mode):
    if "exif" in options:
        exif = Image.Exif()
        exif[274] = 6
        options = {"exif": exif}
    Image.new(mode, (30, 20)).save(tmp_path / "a.jpg", **options)
    content = (tmp_path / "a.jpg").read_bytes()
    assert image_size(tmp_path / "a.jpg") == ((20, 30) if "exif" in options else (30, 20))
    for end in (2, 20):  # no image
        (tmp_path / "a.jpg").write_bytes(content[:end])
        with pytest.raises(InputError):
            image_size(tmp_path / "a.jpg")


def test_a_pipe_is_no_picture(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(InputError, match="There is no image"):
        read_picture(tmp_path / "a.png", (2, 2))
