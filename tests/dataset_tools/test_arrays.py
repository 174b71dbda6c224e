import numpy as np
import pytest

from dataset_tools.arrays import as_pictures
from dataset_tools.errors import InputError
from tests.dataset_tools.formats.packed import random_pixels

RGB = random_pixels(2, 5, 4, 3)
GREY = random_pixels(2, 4, 4)


@pytest.mark.parametrize(
    ("values", "expected", "remark"),
    [
        (RGB, RGB, ""),
        (RGB.transpose(0, 3, 1, 2), RGB, "channels stand before"),
        (GREY, GREY, ""),
        (GREY[..., None], GREY, ""),
        (GREY[:, None], GREY, "before the rows"),
        (GREY.reshape(2, 16), GREY, "rows of 16 taken as 4×4 px"),
        (GREY.astype(np.int64), GREY, ""),
        (GREY.astype(np.float32), GREY, ""),
        (GREY.astype(np.float64) / 255, GREY, "0 to 1 became 0 to 255"),
        (GREY.astype(np.float64) / 127.5 - 1, GREY, "-1 to 1 became 0 to 255"),
        (GREY > 127, (GREY > 127) * np.uint8(255), "true is white"),
    ],
)
def test_forms_of_images(values, expected, remark):
    pixels, remarks = as_pictures(values, "x")
    assert pixels.dtype == np.uint8 and np.array_equal(pixels, expected)
    assert len(remarks) == bool(remark) and all(remark in told for told in remarks)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.zeros((2, 15)), "2×15 is none of images"),
        (np.zeros((2, 5, 5, 2)), "none of images"),
        (np.zeros(3), "none of images"),
        (np.zeros((2, 0, 4)), "have no pixel"),
        (np.full((1, 2, 2), 4095, np.uint16), "go from 4095 to 4095"),
        (np.full((1, 2, 2), -1, np.int32), "go from -1 to -1"),
        (np.full((1, 2, 2), np.nan), "go from nan to nan"),
        (np.zeros((1, 2, 2), complex), "complex128, not numbers"),
    ],
)
def test_what_is_no_image(values, message):
    with pytest.raises(InputError, match=message):
        as_pictures(values, "x")
