import random

import pytest

from dataset_tools.crc32c import crc32c, masked_crc32c


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        # RFC 3720, B.4, and the check value of the catalogue of CRCs.
        (b"", 0),
        (b"\0" * 32, 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(range(31, -1, -1)), 0x113FDB5C),
        (b"123456789", 0xE3069283),
    ],
)
def test_published_values(data, expected):
    assert crc32c(data) == expected


def by_bits(data):
    """Bit by bit, as the definition has it."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


@pytest.mark.parametrize("size", [1, 255, 2047, 2048, 2049, 4096, 9999, 30011])
def test_long_texts_by_rows_are_as_bit_by_bit(size):
    data = random.Random(size).randbytes(size)
    assert crc32c(data) == by_bits(data)
    assert crc32c(data[:-1] + bytes([data[-1] ^ 1])) != crc32c(data)


def test_the_mask_of_tfrecord_files():
    crc = crc32c(b"123456789")
    unmasked = (masked_crc32c(b"123456789") - 0xA282EAD8) & 0xFFFFFFFF
    assert ((unmasked >> 17) | (unmasked << 15)) & 0xFFFFFFFF == crc
