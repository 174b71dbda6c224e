"""Packed sequences against lists and dicts."""

import pickle

from hypothesis import given
from hypothesis import strategies as st

from dataset_tools.packed import Mapped, PackedIndex, PackedStrings


@given(st.lists(st.text(), max_size=20), st.slices(20))
def test_packed_strings_are_the_strings(strings, part):
    packed = pickle.loads(pickle.dumps(PackedStrings(strings)))
    assert list(packed) == strings
    assert [packed[-i - 1] for i in range(len(packed))] == strings[::-1]
    assert packed[part] == strings[part]


def test_names_that_are_no_text_survive():
    assert list(PackedStrings(["a\udcff.jpg"])) == ["a\udcff.jpg"]


@given(st.lists(st.sampled_from("abcdefgh") | st.text(max_size=3), max_size=30))
def test_positions_by_key(keys):
    index = PackedIndex(keys)
    for key in {*keys, "not there"}:
        found = [i for i in index.positions(key) if keys[i] == key]
        assert found == [i for i, other in enumerate(keys) if other == key]


def test_what_is_mapped_is_made_on_demand():
    mapped = Mapped(str, range(5))
    assert (mapped[1], mapped[3:], list(mapped)) == ("1", ["3", "4"], ["0", "1", "2", "3", "4"])
