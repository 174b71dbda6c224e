import subprocess
import sys
from pathlib import Path

import pytest

from dataset_tools import list_formats
from dataset_tools.cli import COMMANDS, main
from dataset_tools.errors import EXIT_BAD_INPUT
from dataset_tools.formats import all_formats

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "torchvision", "detectron2", "seriatim", "numpy", "cv2", "PIL", "rich", "yaml")


@pytest.mark.parametrize("arguments", [["--help"], ["convert", "voc", "--help"], ["formats"]])
def test_starting_imports_nothing_heavy(arguments):
    code = (
        "import sys\n"
        "from dataset_tools.cli import main\n"
        f"try: main({arguments!r})\n"
        "except SystemExit: pass\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.splitlines()[-1] == "[]"


def test_no_module_of_the_package_imports_the_library():
    for file in (ROOT / "dataset_tools").rglob("*.py"):
        for line in file.read_text(encoding="utf-8").splitlines():
            words = line.split()
            if words[:1] in (["import"], ["from"]):
                package = words[1].split(".")[0]
                assert package not in ("torch", "torchvision", "detectron2", "seriatim"), file


def test_help_without_a_command_and_a_hint_for_a_wrong_one(capsys):
    with pytest.raises(SystemExit) as stopped:
        main([])
    assert stopped.value.code == 0
    printed = capsys.readouterr().out
    assert all(f"  {name}" in printed for name in COMMANDS)
    assert main(["konvert"]) == EXIT_BAD_INPUT
    assert "Did you mean 'convert'" in capsys.readouterr().err


@pytest.mark.parametrize(
    "command", [*([name] for name in COMMANDS), *(["convert", f.name] for f in all_formats())]
)
def test_help_fits_on_a_screen_and_has_an_example(capsys, monkeypatch, command):
    monkeypatch.setenv("COLUMNS", "100")
    with pytest.raises(SystemExit):
        main([*command, "--help"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 40
    assert max(map(len, lines)) <= 100
    assert any("example" in line for line in lines)


def test_formats_are_listed_and_described(capsys):
    assert main(["formats"]) == 0
    listed = capsys.readouterr().out
    for format_ in all_formats():
        assert format_.title in listed
        assert main(["formats", format_.name]) == 0
        described = " ".join(capsys.readouterr().out.split())
        assert format_.layout in described
        assert all(option.flag in described for option in format_.options)
    assert main(["formats", "vocc"]) == EXIT_BAD_INPUT


def test_the_page_about_formats_is_current():
    page = (ROOT / "docs/formats.md").read_text(encoding="utf-8")
    assert page == list_formats.markdown(all_formats()), (
        "run: python -m dataset_tools formats --markdown > docs/formats.md"
    )


@pytest.mark.parametrize("workers", ["0", "-2", "x"])
def test_workers_are_a_positive_number(tmp_path, capsys, workers):
    with pytest.raises(SystemExit) as stopped:
        main(["convert", "voc", str(tmp_path), "-o", str(tmp_path / "out"), "-j", workers])
    assert stopped.value.code == EXIT_BAD_INPUT
    assert "positive whole number" in capsys.readouterr().err


@pytest.mark.parametrize(("name", "told"), [("auto", "to recognise"), ("kitti", "read only")])
def test_what_cannot_be_exported_to_is_told_with_what_can(tmp_path, capsys, name, told):
    assert main(["export", name, "all.json", "-o", str(tmp_path / "out")]) == EXIT_BAD_INPUT
    message = " ".join(capsys.readouterr().err.split())
    assert told in message and "There are writers for: coco, voc" in message
