"""A few damaged datasets of every format, in a process of its own: it is limited in memory."""

import os
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest

from dataset_tools.errors import InputError
from tests.fuzz import trial as trial_module
from tests.fuzz.damage import KINDS, PLANTED, do_damage
from tests.fuzz.fixtures import Fixture, make_fixtures
from tests.fuzz.trial import run_trial

ROOT = Path(__file__).parents[2]
CASES = os.environ.get("FUZZ_CASES", "4")  # of each format; the documentation says how many more


@pytest.mark.slow
def test_damaged_labels_are_converted_or_refused():
    command = [sys.executable, "-m", "tests.fuzz", "--cases", CASES]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]


def test_every_format_has_a_fixture_and_every_damage_does_some(tmp_path):
    fixtures = make_fixtures(tmp_path)  # KeyError if a format has none
    for kind in set(KINDS):
        for number, fixture in enumerate(fixtures):
            before = content(fixture.folder)
            if kind(fixture.folder, Random(number)) and content(fixture.folder) != before:
                break
        else:
            pytest.fail(f"{kind.__name__} has nothing to do")


def content(folder):
    return {p: p.read_bytes() if p.is_file() else p.is_symlink() for p in folder.rglob("*")}


def test_damage_is_the_same_for_the_same_seed(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.json").write_text('{"a": [1, 2, {"b": "c.jpg"}]}')
    told = [do_damage(tmp_path / folder, Random("seed")) for folder in ("a", "b")]
    assert told[0] == told[1]


@pytest.mark.parametrize(
    ("does", "fault"),
    [
        (lambda source, output: 1 / 0, "ZeroDivisionError"),
        (lambda source, output: (source / "x").write_text(""), "outside of the output"),
        (lambda source, output: (source.parents[2] / "x").mkdir(), "os.mkdir outside"),
        (lambda source, output: os.system(f": {PLANTED}"), "os.system"),
        (lambda source, output: (output / "x").write_text("") and None, "cannot be read again"),
        (lambda source, output: None, "nothing was written"),
        (lambda source, output: half(output), "left behind after an error: x.json"),
        (lambda source, output: endless(), "not done after 1 s"),
    ],
)
def test_a_trial_sees_what_must_not_be(tmp_path, monkeypatch, does, fault):
    (tmp_path / "fixture").mkdir()
    (tmp_path / "fixture/a.txt").write_text("0 1")

    def convert(name, path, output, skip_errors):
        output.mkdir(parents=True)
        does(path if path.is_dir() else path.parent, output)

    monkeypatch.setattr(trial_module, "convert_dataset", convert)
    monkeypatch.setattr(trial_module, "SECONDS", 1)
    found = run_trial(Fixture("yolo", tmp_path / "fixture"), "1", tmp_path / "case")
    assert any(fault in told for told in found.faults), found.faults


def half(output):
    (output / "x.json").write_text("{")
    raise InputError("no")


def endless():
    while True:
        pass
