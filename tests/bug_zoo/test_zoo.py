"""A handful of the zoo, and the form of its page. `make zoo` runs it all."""

import re

import pytest

from seriatim.gates.runner import ORDER
from tests.bug_zoo import runner
from tests.bug_zoo.pipeline import FAST, ask_gates
from tests.bug_zoo.registry import bugs, healthy
from tests.bug_zoo.report import PAGE, markdown
from tests.bug_zoo.runner import Result, Watching
from tests.seriatim.gates.pipelines import CLASSIFIER, KINDS

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
        assert bug.kind in {*KINDS, CLASSIFIER}
        assert bug.what.endswith(".") and bug.causes
        assert bug.gates and set(bug.gates) <= set(ORDER)
        assert bug.changes or bug.trainer or bug.files or bug.catalog
        assert all(re.fullmatch(r"[\w.-]+/[\w.-]+#\d+", thread) for thread in bug.seen), bug.seen


def test_page_of_results():
    bug = next(iter(bugs().values()))
    right = {"gate": "data", "cause": "a | b", "right": True, "warnings": {}, "error": ""}
    first = {"gate": "", "right": False}
    results = [
        Result(bug, {**right, "seconds": {"data": 1.4}}, Watching(1.0, 0.9, 1.1), first),
        Result(healthy()["RetinaNet"], {**right, "gate": "", "seconds": {"data": 2.0}}),
    ]
    page = markdown(results)
    row = f"| {bug.name} | {bug.area} | data | yes | 1 | not noticed | — | {bug.group} |"
    assert row in page
    score = f"| {bug.group} | 1 | 0 of 1 | 0 of 1 | 1 of 1 | 1 of 1 | 0 of 1 |"
    assert score in page
    assert "False alarms on healthy pipelines: **0 of 1**." in page
    assert "None." in page.split("## Missed")[1].split("##")[0]


def test_a_missed_bug_is_named_with_what_was_warned_of():
    bug = next(iter(bugs().values()))
    missed = {"gate": "", "cause": "", "right": False, "seconds": {"data": 1.0}, "error": ""}
    page = markdown([Result(bug, {**missed, "warnings": {"data": "two boxes differ"}})])
    assert f"- {bug.name} ({bug.area}): {bug.what} *data warns: two boxes differ*" in page


def test_a_first_run_is_never_overwritten(tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "FIRST_RUN", tmp_path / "first_run.json")
    bug = next(iter(bugs().values()))
    runner._remember_first(bug, {"gate": "", "right": False, "error": ""})
    runner._remember_first(bug, {"gate": "data", "right": True, "error": ""})
    assert runner._first_runs() == {bug.name: {"gate": "", "right": False}}


def test_the_page_in_the_documentation_is_whole():
    page = PAGE.read_text(encoding="utf-8")
    tables = re.findall(r"(?:^\|.*\|\n)+", page, flags=re.M)
    assert len(tables) >= 4
    for rows in tables:
        lines = rows.splitlines()
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines}) == 1, lines[0]
    told = re.findall(r"^- \*\*(.+?)\*\* \(", page, flags=re.M)
    assert len(told) == len(set(told)) > 0


def test_cases_that_were_not_asked_are_told_and_do_not_count():
    asked, other = list(bugs().values())[:2]
    first = {"gate": "", "right": False}
    found = {"gate": "data", "cause": "a", "right": True, "warnings": {}, "error": ""}
    results = [
        Result(asked, {**found, "seconds": {"data": 1.0}}, first=first),
        Result(other, runner._broken(""), first=first),
    ]
    page = markdown(results)
    assert "**1 of the 2 cases were asked**" in page
    assert re.search(rf"^\| {re.escape(other.name)} \| {other.area} \| not asked \|", page, re.M)
    assert "None." in page.split("## Missed")[1].split("##")[0]
    assert f"**{other.name}**" in page
