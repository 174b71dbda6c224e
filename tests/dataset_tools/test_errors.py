"""What a person sees, and the exit code, for each kind of failure."""

import errno
import functools
import re

import pytest

from dataset_tools.errors import GateFailed, InputError, run
from dataset_tools.files import write_json


def _raise(error):
    def main():
        raise error

    return main


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (InputError("labels.xml, line 3: no <name>."), 2, "labels.xml, line 3"),
        (GateFailed("AP is 3, 99 was expected."), 3, "AP is 3"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (OSError(errno.ENOSPC, "No space left on device", "out.json"), 2, "The disk is full"),
        (
            PermissionError(errno.EACCES, "Permission denied", "/root/x"),
            2,
            "No permission for /root",
        ),
        (
            FileNotFoundError(errno.ENOENT, "No such file or directory", "a.jpg"),
            2,
            "Check the path",
        ),
        (ModuleNotFoundError("No module", name="detectron2.data"), 2, "seriatim.doctor"),
    ],
)
def test_a_users_mistake_is_one_paragraph_without_traceback(error, code, words, capsys):
    assert run(_raise(error)) == code
    printed = capsys.readouterr().err
    assert words in " ".join(printed.split())
    assert "Traceback" not in printed


def test_our_own_fault_keeps_its_traceback(tmp_path, capsys):
    assert run(functools.partial(write_json, tmp_path / "x.json", object())) == 1
    printed = capsys.readouterr().err
    assert "Traceback" in printed
    assert "fault of Seriatim" in " ".join(printed.split())


@pytest.mark.parametrize(
    "error", [ValueError("what?"), ModuleNotFoundError("No module", name="seriatim.gone")]
)
def test_an_error_of_a_users_own_code_is_told_with_its_line(error, capsys):
    assert run(_raise(error)) == 1
    printed = capsys.readouterr().err
    assert "Traceback" in printed
    assert re.search(r"in your own code, \S*test_errors.py:\d+;", " ".join(printed.split()))


def test_success_and_a_code_of_ones_own():
    assert run(lambda: None) == 0
    assert run(lambda: 2) == 2


def test_the_word_error_stays_beside_a_path_longer_than_the_line(capsys):
    path = "/" + "very_long_folder_name/" * 8 + "labels.json"
    run(_raise(InputError(f"{path} holds no images.")))
    assert capsys.readouterr().err.startswith(f"error: {path}")


def test_links_in_a_ring_are_the_users(tmp_path, capsys):
    ring = tmp_path / "ring.json"
    ring.symlink_to(ring)
    assert run(lambda: ring.resolve() and 0) == 2
    assert "ring.json" in capsys.readouterr().err
