"""The wheel: what is in it, and that the installer leaves alone what it should."""

import hashlib
import importlib.metadata
import subprocess
import sys
import zipfile
from base64 import urlsafe_b64encode

import pytest

from tools.detectron2 import install, source, wheel


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    return wheel.build(source.unpack(source.fetch(), folder), folder / "dist")


def test_the_wheel_holds_the_package_its_configs_projects_and_our_extension(built):
    with zipfile.ZipFile(built) as archive:
        names = set(archive.namelist())
    assert built.name == f"detectron2-{wheel.version()}-py3-none-any.whl"
    assert "detectron2/model_zoo/configs/COCO-Detection/retinanet_R_50_FPN_1x.yaml" in names
    assert "detectron2/model_zoo/configs/common/models/fcos.py" in names
    assert "detectron2/_C/__init__.py" in names
    for project in ("point_rend", "deeplab", "panoptic_deeplab"):
        assert f"detectron2/projects/{project}/__init__.py" in names
    assert sum(n.endswith(".yaml") for n in names) > 80


def test_the_record_lists_every_file_with_its_hash(built):
    with zipfile.ZipFile(built) as archive:
        info = f"detectron2-{wheel.version()}.dist-info"
        record = dict(
            line.split(",", 1) for line in archive.read(f"{info}/RECORD").decode().splitlines()
        )
        assert set(record) == set(archive.namelist())
        for name, entry in record.items():
            if name != f"{info}/RECORD":
                content = archive.read(name)
                digest = urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
                assert entry == f"sha256={digest},{len(content)}"


def test_the_metadata_asks_for_nothing_that_cannot_be_had(built):
    with zipfile.ZipFile(built) as archive:
        metadata = archive.read(f"detectron2-{wheel.version()}.dist-info/METADATA").decode()
    assert f"Version: {wheel.version()}\n" in metadata
    for unwanted in ("black", "future", "pydot", "<0.1.10"):
        assert unwanted not in metadata


def test_the_same_sources_give_the_same_bytes(built, tmp_path):
    again = wheel.build(source.unpack(source.fetch(), tmp_path), tmp_path / "dist")
    assert again.read_bytes() == built.read_bytes()


@pytest.mark.slow
def test_pip_installs_the_wheel_and_python_imports_its_extension(built, tmp_path):
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*command, "--no-compile", "--target", str(tmp_path), str(built)], check=True)
    code = "import detectron2._C as c; print(c.__file__); print(c.get_compiler_version())"
    result = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": str(tmp_path), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.startswith(str(tmp_path / "detectron2" / "_C"))
    assert "pure Python" in result.stdout


def test_an_importable_detectron2_is_left_alone(monkeypatch):
    monkeypatch.setattr(install, "build_wheel", lambda: pytest.fail("built for nothing"))
    for version in ("0.6", "0.6+abc1234", "unknown", wheel.version()):
        monkeypatch.setattr(install, "installed", lambda version=version: version)
        assert "left alone" in install.install()


def test_an_outdated_wheel_of_ours_is_replaced():
    assert install.is_outdated("0.6+seriatim.m00000000")
    assert not install.is_outdated(None)


def test_the_installed_version_is_found():
    assert install.installed() == importlib.metadata.version("detectron2")


def test_other_bytes_in_the_cache_are_refused(tmp_path):
    (tmp_path / source.ARCHIVE).write_bytes(b"not the sources")
    with pytest.raises(source.SourceError, match="Delete the file"):
        source.fetch(tmp_path)


def test_without_network_pips_own_words_are_shown(tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(
        source.SourceError, match=r"(?s)pip could not fetch .*No matching distribution"
    ):
        source.fetch(tmp_path)
