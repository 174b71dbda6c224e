"""Tiles cover the image, overlap as asked, and stay inside."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataset_tools.tiles import tile_origins


@given(st.integers(1, 5000), st.integers(1, 1500), st.floats(0, 0.9))
def test_tiles_cover_the_image_with_the_overlap_asked_for(length, tile, overlap):
    if length / tile > 500:
        return
    origins = tile_origins(length, tile, overlap)
    assert origins[0] == 0
    assert origins[-1] == max(0, length - tile)
    for left, right in itertools.pairwise(origins):
        assert left < right <= left + tile
        # one px of tolerance: origins are whole pixels
        assert left + tile - right >= min(overlap * tile, tile - 1) - 1


def test_an_image_no_larger_than_a_tile_is_one_tile():
    assert tile_origins(100, 100, 0.5) == [0]
    assert tile_origins(1, 640, 0.25) == [0]


def test_no_more_tiles_than_needed():
    assert tile_origins(1000, 500, 0.0) == [0, 500]
    assert tile_origins(1001, 500, 0.0) == [0, 250, 501]


@pytest.mark.parametrize("arguments", [(0, 10, 0.1), (10, 0, 0.1), (10, 10, 1.0), (10, 10, -0.1)])
def test_impossible_geometry_is_refused(arguments):
    with pytest.raises(ValueError):
        tile_origins(*arguments)
