import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pycocotools import mask as coco_mask
from scipy import ndimage

from dataset_tools import rle
from dataset_tools.errors import InputError

masks = arrays(bool, st.tuples(st.integers(1, 12), st.integers(1, 12)))


@settings(max_examples=150, deadline=None)
@given(masks)
def test_run_lengths_area_and_box(mask):
    code = rle.encode_mask(mask)
    assert (rle.decode_mask(code) == mask).all()
    assert rle.compress_runs(rle.run_lengths(code["counts"]), *mask.shape) == code
    rle.check_rle(code)
    assert rle.rle_area(code) == mask.sum()
    rows, columns = np.nonzero(mask)
    if len(rows) == 0:
        assert rle.rle_box(code) is None
    else:
        edges = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        assert rle.rle_box(code) == edges


@settings(max_examples=200, deadline=None)
@given(
    arrays(
        st.sampled_from([np.uint8, np.int32, np.uint32]),
        st.tuples(st.integers(1, 9), st.integers(1, 9)),
        elements=st.sampled_from([0, 1, 2, 77, 255]),
    )
)
def test_all_values_of_a_map_are_coded_as_each_by_itself(values):
    expected = [(value, rle.encode_mask(values == value)) for value in np.unique(values).tolist()]
    assert list(rle.encode_values(values)) == expected


@settings(max_examples=300, deadline=None)
@given(masks, st.integers(-14, 14), st.integers(-14, 14), st.integers(1, 12), st.integers(1, 12))
def test_a_patch_is_coded_as_the_whole_image_is(patch, left, top, width, height):
    whole = np.zeros((height, width), bool)
    for y, x in np.argwhere(patch):
        if 0 <= y + top < height and 0 <= x + left < width:
            whole[y + top, x + left] = True
    code, is_cut = rle.encode_patch(patch, left, top, width, height, "x")
    assert code == rle.encode_mask(whole)
    assert is_cut == (whole.sum() < patch.sum())


def test_an_image_of_a_label_file_is_no_larger_than_any():
    with pytest.raises(InputError, match=r"a\.json: no image has 2147483648×9 px"):
        rle.encode_patch(np.ones((1, 1), bool), 0, 0, 2**31, 9, "a.json")


def test_long_runs():
    mask = np.zeros((2000, 1500), bool)
    mask[5:1990, 10:1400] = True
    code = rle.encode_mask(mask)
    assert rle.rle_area(code) == mask.sum()
    assert rle.rle_box(code) == (10, 5, 1400, 1990)


@settings(max_examples=300, deadline=None)
@given(masks)
def test_polygons_cover_exactly_the_pixels(mask):
    polygons = rle.mask_to_polygons(mask)
    outside = ndimage.label(~np.pad(mask, 1), structure=np.ones((3, 3)))[1]
    assert (polygons is None) == (outside > 1)
    if polygons:
        assert len(polygons) == ndimage.label(mask)[1]
        assert rle.polygons_area(polygons) == mask.sum()
        codes = coco_mask.frPyObjects(polygons, *mask.shape)
        assert (coco_mask.decode(coco_mask.merge(codes)) == mask).all()
        # A rasteriser of our own: a pixel is in if its centre is, by the even-odd rule.
        rows, columns = np.indices(mask.shape) + 0.5
        inside = np.zeros(mask.shape, bool)
        for polygon in polygons:
            corners = np.array(polygon).reshape(-1, 2)
            for (x0, y0), (x1, y1) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
                crosses = (y0 > rows) != (y1 > rows)
                inside ^= crosses & (columns < x0) & (x0 == x1)
        assert (inside == mask).all()


@pytest.mark.parametrize("counts", ["\x00", "é", "P", "0o", "O1", " "])
def test_broken_texts_are_refused(counts):
    with pytest.raises(ValueError):
        rle.check_rle({"size": [3, 3], "counts": counts})


@pytest.mark.parametrize("runs", [[], [8], [10], [-1, 10], [4.5, 4.5], ["9"]])
def test_runs_that_do_not_fill_the_image_are_refused(runs):
    with pytest.raises(ValueError):
        rle.compress_runs(runs, 3, 3)


def test_area_and_box_of_polygons():
    square, triangle = [0, 0, 4, 0, 4, 4, 0, 4], [10, 10, 10, 14, 12, 10]
    assert rle.polygons_area([square, triangle]) == 20
    assert rle.polygons_box([square, triangle]) == (0, 0, 12, 14)
    assert rle.polygons_box([]) is None
