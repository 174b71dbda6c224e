"""A list read in pieces against the whole file read by the standard library."""

import json
from typing import Any

import msgspec
import pytest

from dataset_tools import json_stream
from dataset_tools.json_stream import PLACEHOLDER, ListReader


class Member(msgspec.Struct):
    id: int
    more: Any = None


MORE = [
    None,
    "}, {",
    '"}], {"',
    "]}",
    [{"a": 1}, {"b": [{}, {"c": 2}]}],
    {"d": {"e": "\\"}},
    [[1, 2]],
]
REST = {"info": {"note": '"annotations": ['}, "other": [{"id": 1}, {"id": 2}], "last": None}


@pytest.fixture(params=[5, 64, 200, 1 << 20])
def at_once(request, monkeypatch):
    """Pieces as small as they may be."""
    monkeypatch.setattr(json_stream, "_AT_ONCE", request.param)


def written(folder, content, **how):
    path = folder / "a.json"
    path.write_text(json.dumps(content, **how))
    return path


@pytest.mark.parametrize("how", [{}, {"indent": 2}, {"separators": (",", ":")}])
@pytest.mark.parametrize("last", [False, True])
def test_all_members_and_the_rest(tmp_path, how, last):
    members = [{"id": i, "more": MORE[i % len(MORE)]} for i in range(300)]
    content = {**REST, "annotations": members} if last else {"annotations": members, **REST}
    reader = ListReader(written(tmp_path, content, **how), "annotations", Member)
    found = [member for some in reader for member in some]
    assert [{"id": m.id, "more": m.more} for m in found] == members
    assert json.loads(reader.rest) == {**content, "annotations": PLACEHOLDER}


def test_small_pieces(tmp_path, at_once):
    members = [{"id": i} for i in range(100)]
    reader = ListReader(
        written(tmp_path, {"a": 1, "annotations": members, **REST}), "annotations", Member
    )
    assert [member.id for some in reader for member in some] == list(range(100))
    assert json.loads(reader.rest) == {"a": 1, **REST, "annotations": PLACEHOLDER}


@pytest.mark.parametrize(
    "text", ['{"annotations": []}', '{"x": 1, "annotations" : [ \n] , "y": 2}']
)
def test_no_members(tmp_path, text):
    path = tmp_path / "a.json"
    path.write_text(text)
    reader = ListReader(path, "annotations", Member)
    assert list(reader) == [[]]
    assert json.loads(reader.rest) == {**json.loads(text), "annotations": PLACEHOLDER}


def test_a_list_of_that_name_elsewhere_is_not_taken_for_it(tmp_path):
    path = written(tmp_path, {"info": {"annotations": [{"id": 1}]}, "annotations": [{"id": 2}]})
    reader = ListReader(path, "annotations", Member)
    assert [member.id for some in reader for member in some] == [1]
    # Whoever reads the rest sees it: the list at the top is still there.
    assert json.loads(reader.rest)["annotations"] == [{"id": 2}]


@pytest.mark.parametrize(
    "text",
    [
        '{"annotations": [{"id": 1}, {"id": 2}',
        '{"annotations": [{"id": 1}, {"id": 2]}',
        '{"annotations": [{"id": 1}, {"id": 2},]}',
        '{"annotations": [{"id": 1} {"id": 2}]}',
        '{"annotations": [{"id": "1"}]}',
        '{"annotations": [1, 2]}',
        '{"annotations": 7}',
        '{"others": []}',
        "",
    ],
)
def test_whatever_is_no_such_list(tmp_path, text):
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises((ValueError, msgspec.MsgspecError)):
        list(ListReader(path, "annotations", Member))
