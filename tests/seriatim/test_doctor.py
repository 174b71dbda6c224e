"""The report: all is well here; and each thing that is wrong comes with a command."""

import subprocess
import sys

import pytest

from seriatim import doctor
from seriatim.doctor import Finding, examine, report


@pytest.fixture(scope="module")
def findings():
    return {finding.name: finding for finding in examine()}


def test_this_environment_is_well(findings, capsys):
    assert [f for f in findings.values() if f.problem] == []
    assert report(list(findings.values())) == 0
    assert "All is well." in capsys.readouterr().out


def test_it_names_versions_devices_and_which_detectron2(findings):
    for name in ("Python", "torch", "torchvision", "numpy", "Pillow", "Device cpu", "Cores"):
        assert findings[name].value
    assert "bfloat16" in findings["Device cpu"].value
    kind = findings["Detectron2"].value
    assert ("mended 0.6" in kind) == ("+seriatim" in kind)
    assert "compiler" in findings["Detectron2's extension"].value


def test_a_missing_package_is_named_with_the_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "shapely", None)
    found = {f.name: f for f in doctor._packages()}
    assert found["shapely"].problem
    assert found["shapely"].mend.endswith("-m pip install shapely")
    assert not found["rich"].problem


@pytest.mark.parametrize(
    ("missing", "value", "command"),
    [
        ("detectron2", "missing", "-m tools.detectron2"),
        ("pkg_resources", "broken", "pip install 'setuptools<81'"),
        ("fvcore", "broken", "-m tools.detectron2"),
    ],
)
def test_a_detectron2_that_cannot_be_imported_has_its_command(missing, value, command, monkeypatch):
    def absent(name, *args, **kwargs):
        if name.partition(".")[0] == "detectron2":
            raise ModuleNotFoundError(f"No module named {missing!r}", name=missing)
        return real(name, *args, **kwargs)

    real = __import__
    monkeypatch.setattr("builtins.__import__", absent)
    (finding,) = doctor._detectron2()
    assert finding.value == value
    assert finding.mend.endswith(command)


def test_a_check_that_breaks_is_a_finding(monkeypatch):
    def _devices():
        raise RuntimeError("driver too old")

    monkeypatch.setattr(doctor, "_devices", _devices)
    broken = [f for f in examine() if f.problem]
    assert [(f.name, f.problem) for f in broken] == [("devices", "RuntimeError: driver too old")]


def test_problems_are_printed_with_their_mends_and_exit_code_2():
    lines = []
    code = report(
        [Finding("a", "1"), Finding("b", "old", "too old", "pip install b")], lines.append
    )
    assert code == 2
    assert lines[1].startswith("! b")
    assert "\nb: too old." in lines
    assert "  pip install b" in lines


def test_importing_it_loads_neither_torch_nor_detectron2():
    code = "import sys, seriatim.doctor; assert not {'torch', 'detectron2'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
