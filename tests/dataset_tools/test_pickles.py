import contextlib
import os
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataset_tools.errors import InputError
from dataset_tools.pickles import load_pickle

DATA = np.arange(12, dtype=np.uint8).reshape(3, 4)


@pytest.mark.parametrize("protocol", range(6))
def test_arrays_containers_numbers_and_texts_in_all_protocols(tmp_path, protocol):
    value = {
        b"data": DATA,
        "by columns": np.asfortranarray(DATA.astype(">f4")),
        "scalar": [np.int64(7)],
        "mixed": [1, -(2**70), 2.5, "ä", b"\xff", None, True, (1, 2), {"a": []}],
    }
    (tmp_path / "x").write_bytes(pickle.dumps(value, protocol))
    found = load_pickle(tmp_path / "x")
    assert list(found) == ["data", "by columns", "scalar", "mixed"]
    assert np.array_equal(found["data"], DATA) and found["data"].dtype == np.uint8
    assert np.array_equal(found["by columns"], DATA) and found["by columns"].dtype == ">f4"
    assert found["scalar"] == [7] and found["mixed"] == value["mixed"]


def test_a_pickle_of_python_2_has_bytes(tmp_path):
    # {'data': array of 2 bytes, 'labels': [6]} as cPickle of Python 2 writes it with protocol 2
    content = (
        b"\x80\x02}q\x01(U\x04dataq\x02cnumpy.core.multiarray\n_reconstruct\nq\x03cnumpy\nndarray\n"
        b"q\x04K\x00\x85U\x01bq\x05\x87Rq\x06(K\x01K\x01K\x02\x86cnumpy\ndtype\nq\x07U\x02u1K\x00"
        b"K\x01\x87Rq\x08(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U\x02\xfe\x01"
        b"tbU\x06labelsq\x09]q\x0aK\x06au."
    )
    assert pickle.loads(content, encoding="bytes")[b"labels"] == [6]
    (tmp_path / "x").write_bytes(content)
    found = load_pickle(tmp_path / "x")
    assert found["data"].tolist() == [[254, 1]] and found["labels"] == [6]


class Call:
    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        return self.call


REFUSED = {
    "a command": Call(os.system, ("touch ran",)),
    "eval": Call(eval, ("1",)),
    "an object": Call(object, ()),
    "numpy's loader": Call(np.load, ("x",)),
    "a type": np.ndarray.__mro__[1],
    "array of objects": np.array([[], {}], object),
    "array of records": np.zeros(2, [("a", "i4")]),
    "encoding": Call(__import__("codecs").encode, ("x", "rot13")),
}


@pytest.mark.parametrize("protocol", [0, 2, 5])
@pytest.mark.parametrize("name", REFUSED)
def test_nothing_is_run_and_what_asks_for_it_is_named(tmp_path, monkeypatch, name, protocol):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x").write_bytes(pickle.dumps({"a": REFUSED[name]}, protocol))
    with pytest.raises(InputError, match=r"x: this pickle asks for|x: not a whole pickle"):
        load_pickle(tmp_path / "x")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a whole pickle"),
        (pickle.dumps({"a": DATA})[:-20], "not a whole pickle"),
        (pickle.dumps([1]), "a pickled list, not a dictionary"),
        (b"}r\xff\xff\xff\x7f.", "more memory than it needs"),
        (b"(i__builtin__\neval\n.", "the operation INST"),
        (b"Pid\n.", "the operation PERSID"),
        (b"\x82\x01.", "the operation EXT1"),
    ],
)
def test_broken_and_hostile_pickles(tmp_path, content, message):
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(InputError, match=message):
        load_pickle(tmp_path / "x")


@given(st.binary(max_size=60) | st.binary(max_size=20).map(lambda b: pickle.dumps(DATA) + b))
def test_any_bytes_give_an_input_error_or_data(tmp_path_factory, content):
    file = tmp_path_factory.mktemp("pickles") / "x"
    file.write_bytes(content)
    with contextlib.suppress(InputError):
        load_pickle(file)
