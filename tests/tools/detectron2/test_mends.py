"""Each mend changes what it says, as often as it says, in the pinned sources."""

import ast

import pytest

from tools.detectron2 import mends, source
from tools.detectron2.mends import MENDS, Mend, MendError


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """The unpacked sources; from the cache of the checkout, or through pip."""
    return source.unpack(source.fetch(), tmp_path_factory.mktemp("detectron2"))


@pytest.fixture
def small(tmp_path):
    (tmp_path / "a.py").write_text("x = 1\ny = 1\n")
    return tmp_path


def test_a_mend_replaces_every_occurrence(small):
    Mend("a.py", "= 1", "= 2", 2, "why").apply(small)
    assert (small / "a.py").read_text() == "x = 2\ny = 2\n"


def test_a_mend_that_occurs_another_number_of_times_stops_and_changes_nothing(small):
    with pytest.raises(MendError, match=r"a\.py has 2 times '= 1' where 1 are expected"):
        Mend("a.py", "= 1", "= 2", 1, "why").apply(small)
    with pytest.raises(MendError, match="has 0 times"):
        Mend("a.py", "= 3", "= 2", 1, "why").apply(small)
    assert (small / "a.py").read_text() == "x = 1\ny = 1\n"


def test_a_missing_file_is_named(small):
    with pytest.raises(MendError, match=r"b\.py is not in"):
        Mend("b.py", "= 1", "= 2", 1, "why").apply(small)


def test_all_mends_apply_to_the_pinned_sources_once_only(tree):
    untouched = {p: p.read_text() for p in tree.rglob("*.py")}
    mends.apply(tree)
    changed = {p.relative_to(tree).as_posix() for p, t in untouched.items() if p.read_text() != t}
    assert changed == {mend.file for mend in MENDS}
    for name in changed:
        ast.parse((tree / name).read_text())
    with pytest.raises(MendError):
        mends.apply(tree)


def test_the_table_has_a_line_for_each_mend():
    lines = mends.table().splitlines()
    assert len(lines) == 2 + len(MENDS)
    # Pipes in code are escaped, so that every line has the same number of cells.
    assert {line.replace("\\|", "").count("|") for line in lines} == {6}
    assert all(mend.why for mend in MENDS)


def test_the_documentation_shows_the_present_mends():
    page = (source.HERE.parents[1] / "docs" / "detectron2.md").read_text()
    assert mends.table() in page, (
        "run: python -m tools.detectron2 table, and paste it into the page"
    )
