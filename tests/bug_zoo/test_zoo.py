"""A handful of the zoo, and the form of its page. `make zoo` runs it all."""

import re

import pytest

from seriatim.gates.runner import ORDER
from tests.bug_zoo.pipeline import FAST, ask_gates
from tests.bug_zoo.registry import bugs, healthy
from tests.bug_zoo.report import PAGE, markdown
from tests.bug_zoo.runner import Result, Watching
from tests.seriatim.gates.pipelines import KINDS

QUICK = ["labels of the next image", "channels reversed in the mapper"]


@pytest.mark.parametrize("name", QUICK)
def test_a_bug_is_caught_for_the_right_reason(name):
    outcome = ask_gates(bugs()[name], FAST)
    assert not outcome["error"]
    assert outcome["gate"] in bugs()[name].gates
    assert outcome["right"], outcome["cause"]


def test_the_same_pipeline_without_a_bug_is_not_accused():
    outcome = ask_gates(healthy()["RetinaNet"], ("data", "oracle", "inputs"))
    assert (outcome["gate"], outcome["error"]) == ("", "")


def test_every_bug_is_documented():
    for bug in bugs().values():
        assert bug.kind in KINDS
        assert bug.what.endswith(".") and bug.causes
        assert bug.gates and set(bug.gates) <= set(ORDER)
        assert bug.changes or bug.trainer or bug.files or bug.catalog
        assert all(re.fullmatch(r"[\w.-]+/[\w.-]+#\d+", thread) for thread in bug.seen), bug.seen


def test_page_of_results():
    bug = next(iter(bugs().values()))
    right = {"gate": "data", "cause": "a | b", "right": True, "warnings": {}, "error": ""}
    results = [
        Result(bug, {**right, "seconds": {"data": 1.4}}, Watching(1.0, 0.9, 1.1)),
        Result(healthy()["RetinaNet"], {**right, "gate": "", "seconds": {"data": 2.0}}),
    ]
    page = markdown(results)
    row = f"| {bug.name} | {bug.area} | data | yes | 1 | not noticed | {bug.half} |"
    assert row in page
    assert f"| caught for the right reason, {bug.half} half | 1 of 1 |" in page
    assert "| false alarms on healthy pipelines | 0 of 1 |" in page


def test_the_page_in_the_documentation_is_whole():
    page = PAGE.read_text(encoding="utf-8")
    tables = re.findall(r"(?:^\|.*\|\n)+", page, flags=re.M)
    assert len(tables) >= 4
    for rows in tables:
        lines = rows.splitlines()
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines}) == 1, lines[0]
    told = re.findall(r"^- \*\*(.+?)\*\* \(", page, flags=re.M)
    assert len(told) == len(set(told)) > 0
