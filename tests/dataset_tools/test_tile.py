"""Tiles show every pixel and every object that fits, with annotations where the pixels are."""

import json
import math

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as Pillow

from dataset_tools.cli import main
from dataset_tools.coco import Annotation, Image, load_coco, write_coco
from dataset_tools.errors import InputError
from dataset_tools.rle import decode_mask, encode_mask, polygons_area
from dataset_tools.tile import Tile, clip_annotation, tile_dataset, tile_name, tiles_of
from seriatim.testing.shapes import make_shapes
from tests.dataset_tools.makers import picture

SIDES = st.integers(1, 400)
TILES = st.integers(8, 120)
OVERLAPS = st.floats(0, 0.8)


# ---- where the tiles lie ----


@settings(deadline=None)
@given(SIDES, SIDES, TILES, OVERLAPS)
def test_tiles_cover_the_image_and_stay_inside(width, height, size, overlap):
    covered = np.zeros((height, width), bool)
    for left, top, right, bottom in tiles_of(width, height, size, overlap):
        assert 0 <= left < right <= width and 0 <= top < bottom <= height
        assert right - left == min(size, width) and bottom - top == min(size, height)
        covered[top:bottom, left:right] = True
    assert covered.all()


@settings(deadline=None)
@given(SIDES, SIDES, TILES, OVERLAPS, st.data())
def test_a_box_no_larger_than_the_overlap_is_whole_in_some_tile(width, height, size, overlap, data):
    longest = size * overlap

    def interval(length):
        side = data.draw(st.floats(0, min(longest, length)))
        start = data.draw(st.floats(0, length - side))
        return start, min(start + side, length)

    (x0, x1), (y0, y1) = interval(width), interval(height)
    assert any(
        left <= x0 and top <= y0 and x1 <= right and y1 <= bottom
        for left, top, right, bottom in tiles_of(width, height, size, overlap)
    )


@settings(deadline=None)
@given(SIDES, SIDES, TILES, OVERLAPS, st.data())
def test_no_part_of_a_box_is_lost(width, height, size, overlap, data):
    def interval(length):
        return sorted(data.draw(st.sets(st.integers(0, length), min_size=2, max_size=2)))

    (x0, x1), (y0, y1) = interval(width), interval(height)
    shown = np.zeros((height, width), bool)
    for tile in tiles_of(width, height, size, overlap):
        part = clip_annotation(Annotation("a", (x0, y0, x1, y1)), tile, 0)
        if part is not None:
            left, top, right, bottom = map(int, part.bbox)
            shown[top + tile.top : bottom + tile.top, left + tile.left : right + tile.left] = True
    assert shown.sum() == shown[y0:y1, x0:x1].sum() == (x1 - x0) * (y1 - y0)


# ---- what a tile shows of an annotation ----

TILE = Tile(10, 20, 50, 60)


@pytest.mark.parametrize(
    ("box", "share", "expected"),
    [
        ((12, 22, 20, 30), 1, (2, 2, 10, 10)),
        ((0, 20, 20, 30), 0.5, (0, 0, 10, 10)),
        ((0, 20, 20, 30), 0.51, None),
        ((45, 55, 55, 65), 0.25, (35, 35, 40, 40)),
        ((50, 20, 60, 30), 0, None),
        ((0, 0, 100, 100), 0.16, (0, 0, 40, 40)),
        ((12, 22, 12, 30), 0, None),
    ],
)
def test_boxes(box, share, expected):
    part = clip_annotation(Annotation("a", box), TILE, share)
    assert (part and part.bbox) == expected
    if part:
        assert part.area == (expected[2] - expected[0]) * (expected[3] - expected[1])


def test_the_default_share_keeps_every_box_whose_centre_is_shown():
    rng = np.random.default_rng(0)
    for _ in range(300):
        centre = rng.uniform((10, 20), (50, 60))
        half = rng.uniform(0.5, 40, 2)
        assert clip_annotation(Annotation("a", (*(centre - half), *(centre + half))), TILE) or (
            # A box larger than twice the tile is shown as far as the tile goes.
            (half > 20).any()
        )


def star(centre, radius, count):
    """A polygon that is not convex, so that it may fall into pieces."""
    angles = np.arange(2 * count) * math.pi / count
    radii = np.where(np.arange(2 * count) % 2, radius * 0.3, radius)
    points = centre + radii[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    return points.reshape(-1).tolist()


@settings(deadline=None)
@given(st.floats(0, 80), st.floats(0, 80), st.floats(2, 60), st.integers(3, 9))
def test_polygons_are_cut_as_geometry_says(x, y, radius, count):
    polygon = star((x, y), radius, count)
    points = np.reshape(polygon, (-1, 2))
    whole = shapely.Polygon(points)
    expected = shapely.intersection(whole, shapely.box(*TILE))
    part = clip_annotation(Annotation("a", None, [polygon]), TILE, 0)
    if part is None:
        assert expected.area < 1e-9
        return
    assert polygons_area(part.segmentation) == pytest.approx(expected.area)
    assert part.area == pytest.approx(expected.area)
    left, top, right, bottom = expected.bounds
    assert part.bbox == pytest.approx((left - 10, top - 20, right - 10, bottom - 20), abs=1e-6)
    share = expected.area / whole.area
    if share < 0.99:
        assert clip_annotation(Annotation("a", None, [polygon]), TILE, share + 0.001) is None


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_masks_are_cut_as_arrays_are(seed):
    rng = np.random.default_rng(seed)
    mask = np.zeros((70, 90), bool)
    top, left = rng.integers(0, 60, 2)
    mask[top : top + 30, left : left + 30] = rng.random((min(30, 70 - top), 30)) < 0.5
    annotation = Annotation("a", None, encode_mask(mask))
    inside = mask[20:60, 10:50]
    part = clip_annotation(annotation, TILE, 0)
    if part is None:
        assert not inside.any()
        return
    assert (decode_mask(part.segmentation) == inside).all()
    assert part.area == inside.sum()
    rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
    box = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
    assert part.bbox == box
    share = inside.sum() / mask.sum()
    assert (clip_annotation(annotation, TILE, 0.3) is None) == (share < 0.3)


def test_a_polygon_that_crosses_itself_becomes_a_mask_of_the_tiles_size():
    eight = [12, 22, 40, 50, 40, 22, 12, 50]
    part = clip_annotation(Annotation("a", None, [eight]), TILE)
    mask = decode_mask(part.segmentation)
    assert mask.shape == (40, 40)
    assert mask[15, 5] and mask[15, 27] and not mask[4, 16]


def test_keypoints_outside_are_not_labelled():
    keypoints = [10, 20, 2, 49.5, 59.5, 1, 50, 30, 2, 9, 30, 2, 20, 30, 0]
    part = clip_annotation(Annotation("a", (12, 22, 40, 50), keypoints=keypoints), TILE)
    assert part.keypoints == [0, 0, 2, 39.5, 39.5, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]


def test_any_part_of_a_crowd_is_kept():
    box = (0, 0, 11, 21)
    assert clip_annotation(Annotation("a", box), TILE) is None
    assert clip_annotation(Annotation("a", box, iscrowd=True), TILE).bbox == (0, 0, 1, 1)


def test_a_whole_object_keeps_its_recorded_box_and_area():
    annotation = Annotation("a", (12, 22, 30, 40), [[13, 23, 28, 23, 28, 39]], area=100)
    part = clip_annotation(annotation, TILE)
    assert (part.bbox, part.area) == ((2, 2, 20, 20), 100)


# ---- through the files ----


@pytest.fixture
def drawn(tmp_path):
    return make_shapes(tmp_path / "drawn", num_images=6)


def test_each_tile_is_the_part_of_the_picture_that_it_says(drawn, tmp_path):
    tiling = tile_dataset(
        drawn, tmp_path / "tiles", images=drawn.parent / "images", size=50, keep_empty=True
    )
    tiles = load_coco(tmp_path / "tiles" / "shapes.json").images
    assert tiling.summary.images == len(tiles) == 6 * len(tiles_of(128, 96, 50, 0.2))
    for tile in tiles:
        place = tile.attributes["tile"]
        source = np.asarray(Pillow.open(drawn.parent / "images" / place["source"]))
        picture = np.asarray(Pillow.open(tmp_path / "tiles" / "images" / tile.file_name))
        x, y = place["x"], place["y"]
        assert tile.file_name == tile_name(place["source"], x, y)
        assert picture.shape[:2] == (tile.height, tile.width) == (50, 50)
        assert (picture == source[y : y + 50, x : x + 50]).all()


@pytest.mark.parametrize("rle", [False, True])
def test_tiles_pass_check_and_lose_nothing(tmp_path, rle, capsys):
    path = make_shapes(tmp_path / "drawn", num_images=6, rle=rle)
    output = tmp_path / "tiles"
    command = ["tile", str(path), "-o", str(output), "--images", str(path.parent / "images")]
    assert main([*command, "--size", "64", "--overlap", "0.5"]) == 0
    told = capsys.readouterr().out
    assert "dropped" not in told and "tiles without objects: not written" in told
    content = json.loads((output / "shapes.json").read_text())
    names = {image["file_name"] for image in content["images"]}
    assert names == {file.name for file in (output / "images").iterdir()}
    assert {a["image_id"] for a in content["annotations"]} == {i["id"] for i in content["images"]}
    assert main(["check", str(output / "shapes.json"), "--json"]) == 0
    found = {finding["rule"] for finding in json.loads(capsys.readouterr().out)["findings"]}
    # Tiles of one image overlap, so they may look alike.
    assert found <= {"near-duplicate-image"}


def test_a_jpeg_stays_one_upright_and_close(tmp_path):
    path = make_shapes(tmp_path / "drawn", num_images=1, size=(300, 400))
    root = path.parent / "images"
    upright = Pillow.open(root / "0000.png").convert("RGB")
    exif = Pillow.Exif()
    exif[0x0112] = 6
    upright.transpose(Pillow.Transpose.ROTATE_90).save(root / "0000.jpg", exif=exif, quality=98)
    path.write_text(path.read_text().replace("0000.png", "0000.jpg"))
    tile_dataset(path, tmp_path / "tiles", images=root, size=200, keep_empty=True)
    for tile in load_coco(tmp_path / "tiles" / "shapes.json").images:
        picture = Pillow.open(tmp_path / "tiles" / "images" / tile.file_name)
        assert picture.format == "JPEG" and picture.getexif().get(0x0112, 1) == 1
        x, y = tile.attributes["tile"]["x"], tile.attributes["tile"]["y"]
        expected = np.asarray(upright.crop((x, y, x + 200, y + 200)), dtype=float)
        assert abs(np.asarray(picture) - expected).mean() < 6


@pytest.mark.parametrize("mode", ["I;16", "L", "P", "RGBA"])
def test_other_modes_keep_their_values(tmp_path, mode):
    path = make_shapes(tmp_path / "drawn", num_images=1)
    file = path.parent / "images" / "0000.png"
    picture = Pillow.open(file)
    if mode == "I;16":
        picture = Pillow.fromarray(np.asarray(picture.convert("L")).astype(np.uint16) * 200)
    else:
        picture = picture.convert(mode)
    picture.save(file)
    tile_dataset(path, tmp_path / "tiles", images=file.parent, size=64, keep_empty=True)
    first = Pillow.open(tmp_path / "tiles" / "images" / "0000_0_0.png")
    assert first.mode == mode
    assert (np.asarray(first) == np.asarray(picture)[:64, :64]).all()


def test_what_no_tile_shows_enough_of_is_named(tmp_path, capsys):
    path = make_shapes(tmp_path / "drawn", num_images=1)
    content = json.loads(path.read_text())
    content["annotations"] = [
        {"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 128, 96], "iscrowd": 0},
        {"id": 2, "image_id": 1, "category_id": 1, "bbox": [0, 0, 10, 10], "iscrowd": 0},
    ]
    path.write_text(json.dumps(content))
    root = path.parent / "images"
    command = ["tile", str(path), "-o", str(tmp_path / "t"), "--images", str(root)]
    assert main([*command, "--size", "32"]) == 0
    told = capsys.readouterr().out
    assert "dropped: 1 annotations that no tile shows enough of" in told
    assert "annotations[0]" in told


@pytest.mark.parametrize("spoil", ["missing", "damaged", "size", "names"])
def test_bad_input_is_told_and_writes_no_labels(drawn, tmp_path, spoil, capsys):
    root = drawn.parent / "images"
    content = json.loads(drawn.read_text())
    if spoil == "missing":
        (root / "0001.png").unlink()
    elif spoil == "damaged":
        (root / "0001.png").write_bytes((root / "0001.png").read_bytes()[:3000])
    elif spoil == "size":
        content["images"][1]["width"] = 120
    else:
        content["images"][1]["file_name"] = "0000.tif"
    drawn.write_text(json.dumps(content))
    output = tmp_path / "tiles"
    command = ["tile", str(drawn), "-o", str(output), "--images", str(root), "--keep-empty"]
    assert main([*command, "--size", "64"]) == 2
    error = capsys.readouterr().err
    assert "0000.tif" in error if spoil == "names" else "0001.png" in error
    assert not (output / "shapes.json").exists()


def test_nothing_is_left_of_a_tiling_that_fails(tmp_path):
    for name in "ab":
        picture(tmp_path / f"photos/{name}.png", 40, 20)
    images = [Image(f"{n}.png", 40, 20, [Annotation("cat", (1, 1, 39, 19))]) for n in "ab"]
    write_coco(tmp_path / "all.json", images, None, {"image_root": "photos"})
    (tmp_path / "photos/b.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"b\.png"):
        tile_dataset(tmp_path / "all.json", tmp_path / "out", size=16)
    assert [path for path in (tmp_path / "out").rglob("*") if path.is_file()] == []
    picture(tmp_path / "photos/b.png", 40, 20)
    tile_dataset(tmp_path / "all.json", tmp_path / "out", size=16)
    found = load_coco(tmp_path / "out/all.json").images
    assert all((tmp_path / "out/images" / image.file_name).is_file() for image in found)
