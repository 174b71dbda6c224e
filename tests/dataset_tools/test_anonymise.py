"""What is labelled loses its detail; everything else stays as it is, to the last bit."""

import json

import numpy as np
import pytest
from PIL import Image as Pillow

from dataset_tools import anonymise
from dataset_tools.anonymise import BLOCKS, Region, anonymise_dataset, hide, region_of
from dataset_tools.cli import main
from dataset_tools.coco import Annotation
from dataset_tools.errors import InputError

NOISE = np.random.default_rng(0).integers(0, 256, (80, 100, 3), np.uint8)
FACE = (20, 10, 60, 50)  # XYXY
TRIANGLE = [20, 10, 60, 10, 20, 50]


def detail(pixels):
    """Mean square difference of neighbours: what a smooth or blocky picture has little of."""
    pixels = pixels.astype(float)
    return np.mean(np.diff(pixels, axis=0) ** 2) + np.mean(np.diff(pixels, axis=1) ** 2)


def dataset(folder, name="a.png", pixels=NOISE, **save):
    (folder / "in/images").mkdir(parents=True, exist_ok=True)
    picture = Pillow.fromarray(pixels)
    picture.save(folder / "in/images" / name, **save)
    turned = save.get("exif", {}).get(274, 1) >= 5
    width, height = picture.size[::-1] if turned else picture.size
    x0, y0, x1, y1 = FACE
    face = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [x0, y0, x1 - x0, y1 - y0]}
    content = {
        "info": {"image_root": "images"},
        "images": [{"id": 1, "file_name": name, "width": width, "height": height,
                    "coco_url": "http://example.com/original.jpg"}],
        "annotations": [
            face | {"segmentation": [TRIANGLE]},
            face | {"id": 2, "category_id": 2, "bbox": [70, 60, 20, 10]},
        ],
        "categories": [{"id": 1, "name": "face"}, {"id": 2, "name": "tree"}],
    }  # fmt: skip
    path = folder / "in/all.json"
    path.write_text(json.dumps(content))
    return path


def pixels_of(path):
    with Pillow.open(path) as picture:
        return np.asarray(picture)


@pytest.mark.parametrize("method", ["pixelate", "blur"])
@pytest.mark.parametrize("name", ["a.png", "sub/b.bmp", "c.tif", "d.webp"])
def test_pixels_under_the_box_lose_detail_and_no_others_change(tmp_path, method, name):
    (tmp_path / "in/images/sub").mkdir(parents=True)
    save = {"lossless": True} if name.endswith("webp") else {}
    path = dataset(tmp_path, name, **save)
    done = anonymise_dataset(path, tmp_path / "out", ["face"], method=method, grow=0)
    assert done.hidden == {"face": 1} and done.images_changed == 1
    after = pixels_of(tmp_path / "out/images" / name)
    x0, y0, x1, y1 = FACE
    inside = np.zeros(NOISE.shape[:2], bool)
    inside[y0:y1, x0:x1] = True
    assert (after[~inside] == NOISE[~inside]).all()
    face = after[y0:y1, x0:x1]
    assert detail(face) < 0.02 * detail(NOISE[y0:y1, x0:x1])
    if method == "pixelate":
        assert len(np.unique(face.reshape(-1, 3), axis=0)) == BLOCKS**2
    # The mean colour is that of before: it is an average, not a black box.
    assert face.mean() == pytest.approx(NOISE[y0:y1, x0:x1].mean(), abs=2)
    assert list((tmp_path / "out").iterdir())


@pytest.mark.parametrize("method", ["pixelate", "blur"])
def test_only_the_mask_and_what_it_grows_by(tmp_path, method):
    path = dataset(tmp_path)
    anonymise_dataset(path, tmp_path / "out", ["face"], shape="mask", grow=0, method=method)
    after = pixels_of(tmp_path / "out/images/a.png")
    rows, columns = np.mgrid[:80, :100]
    # Pixel centres, a pixel from the edge: how its own pixels are counted is not the point here.
    reach = (columns - 20) + (rows - 10)
    outside = (reach > 41) | (columns < 20) | (rows < 10)
    inside = (reach < 38) & (columns >= 20) & (rows >= 10)
    assert (after[outside] == NOISE[outside]).all()
    assert (after[inside] != NOISE[inside]).any(axis=1).mean() > 0.95
    anonymise_dataset(path, tmp_path / "more", ["face"], shape="mask", grow=0.1, method=method)
    more = (pixels_of(tmp_path / "more/images/a.png") != NOISE).any(axis=2)
    assert more[(reach < 43) & (columns >= 20) & (rows >= 10)].mean() > 0.95
    assert not more[reach > 40 + 2 * 4 + 2].any() and not more[:, :16].any()


def test_the_box_grows_outwards_to_whole_pixels_within_the_image():
    face = Annotation("face", (10.4, 20.0, 30.4, 40.0))
    assert region_of(face, (100, 100)).box == (10, 20, 31, 40)
    assert region_of(face, (100, 100), grow=0.5).box == (0, 10, 41, 50)
    assert region_of(face, (35, 45), grow=0.5).box == (0, 10, 35, 45)
    assert region_of(face, (5, 5)) is None
    assert region_of(Annotation("face", None, [TRIANGLE]), (100, 100)).box == (20, 10, 60, 50)
    for box in (None, (5, 5, 5, 9), (9, 5, 5, 9), (0, 0, float("nan"), 5)):
        with pytest.raises(InputError, match="cannot be hidden"):
            region_of(Annotation("face", box, source="all.json:annotations[3]"), (100, 100))


@pytest.mark.parametrize("side", [1, 2, 3, 5, 9])
def test_small_regions_lose_their_detail_too(side):
    for method in ("pixelate", "blur"):
        picture = Pillow.fromarray(NOISE)
        hide(picture, Region((7, 7, 7 + side, 7 + side)), method)
        colours = np.unique(np.asarray(picture)[7 : 7 + side, 7 : 7 + side].reshape(-1, 3), axis=0)
        assert len(colours) == 1 if side < 8 else len(colours) <= side * side / 2


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "CMYK", "I;16", "F", "I"])
def test_pictures_of_any_kind(mode):
    if mode == "I;16":
        picture = Pillow.fromarray(NOISE[..., 0].astype(np.uint16) * 200)
    else:
        picture = Pillow.fromarray(NOISE).convert(mode)
    before = np.asarray(picture).copy()
    hide(picture, Region((20, 10, 60, 50)), "blur")
    after = np.asarray(picture)
    assert picture.mode == mode
    assert (after != before).any() and (after[50:] == before[50:]).all()
    assert detail(after[10:50, 20:60]) < 0.02 * detail(before[10:50, 20:60])


def metadata():
    exif = Pillow.Exif()
    exif[271] = "the camera"
    exif[274] = 6  # turn by 90° clockwise
    return exif


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp", "a.tif"])
def test_metadata_goes_and_orientation_is_applied(tmp_path, name):
    save = {"exif": metadata()}
    if name == "a.jpg":
        save |= {"quality": 90, "comment": b"the owner"}
    path = dataset(tmp_path, name, **save)
    assert main(["anonymise", str(path), "-o", str(tmp_path / "out"), "--categories", "face"]) == 0
    written = tmp_path / "out/images" / name
    content = written.read_bytes()
    assert b"the camera" not in content and b"the owner" not in content and b"Exif" not in content
    with Pillow.open(written) as picture:
        assert picture.size == (80, 100) and not picture.getexif().get(274)
        if name == "a.png":
            upright = np.rot90(NOISE, -1)
            assert (np.asarray(picture)[:, 70:] == upright[:, 70:]).all()
    after = json.loads((tmp_path / "out/all.json").read_text())
    assert "coco_url" not in after["images"][0]
    assert main(["check", str(tmp_path / "out/all.json"), "--fast"]) == 0


def test_palettes_and_images_without_anything_to_hide(tmp_path):
    path = dataset(tmp_path)
    picture = Pillow.fromarray(NOISE).quantize(16)
    picture.save(tmp_path / "in/images/a.png")
    colours = np.asarray(picture.convert("RGB"))
    done = anonymise_dataset(path, tmp_path / "out", ["tree"], grow=0)
    after = pixels_of(tmp_path / "out/images/a.png")
    assert (after[:60] == colours[:60]).all() and (
        after[60:70, 70:90] != colours[60:70, 70:90]
    ).any()
    assert done.links == 1


def test_jpeg_keeps_its_tables(tmp_path):
    path = dataset(tmp_path, "a.jpg", np.full_like(NOISE, 90), quality=37, subsampling=2)
    anonymise_dataset(path, tmp_path / "out", ["face"])
    one, other = (Pillow.open(tmp_path / folder / "images/a.jpg") for folder in ("in", "out"))
    with one, other:
        assert one.quantization == other.quantization and one.layer == other.layer


def test_nothing_is_overwritten_or_left_behind(tmp_path, capsys, monkeypatch):
    path = dataset(tmp_path)
    out = tmp_path / "out"
    command = ["anonymise", str(path), "-o", str(out), "--categories"]
    assert main([*command, "fase"]) == 2
    assert main([*command, "face", "--grow", "-1"]) == 2
    content = json.loads(path.read_text())
    content["images"][0]["file_name"] = "../images/a.png"
    path.write_text(json.dumps(content))
    assert main([*command, "face"]) == 2
    content["images"][0] |= {"file_name": "a.png", "width": 99}
    path.write_text(json.dumps(content))
    assert main([*command, "face"]) == 2
    assert "is recorded" in capsys.readouterr().err
    content["images"][0] |= {"width": 100}
    path.write_text(json.dumps(content))

    def full_disk(*_):
        raise OSError(28, "No space left on device", "x")

    with monkeypatch.context() as patch:
        patch.setattr(anonymise, "_save", full_disk)
        assert main([*command, "face"]) == 2
    assert [file.name for file in tmp_path.iterdir()] == ["in"]
    assert main([*command, "face"]) == 0
    before = (out / "images/a.png").read_bytes()
    assert main([*command, "tree"]) == 2
    assert "is there already" in capsys.readouterr().err
    assert (out / "images/a.png").read_bytes() == before


def test_one_image_in_two_entries_is_hidden_by_both(tmp_path):
    path = dataset(tmp_path)
    content = json.loads(path.read_text())
    content["images"].append(content["images"][0] | {"id": 2})
    content["annotations"][1] |= {"image_id": 2, "category_id": 1}
    path.write_text(json.dumps(content))
    anonymise_dataset(path, tmp_path / "out", ["face"], grow=0)
    changed = (pixels_of(tmp_path / "out/images/a.png") != NOISE).any(axis=2)
    assert changed[60:70, 70:90].mean() > 0.9 and changed[10:50, 20:60].mean() > 0.9
