"""Installs Detectron2 into the running environment, unless one is there already."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import subprocess
import sys
import tempfile
from pathlib import Path

from . import source, wheel


def installed() -> str | None:
    """Version of the detectron2 in this environment ("unknown" without metadata), or None."""
    # A folder of that name on the path, such as this one, is no package: it has no origin.
    spec = importlib.util.find_spec("detectron2")
    if spec is None or spec.origin is None:
        return None
    try:
        return importlib.metadata.version("detectron2")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def is_outdated(version: str | None) -> bool:
    """Whether `version` is a wheel of ours from other mends than the present ones."""
    return version is not None and "+seriatim" in version and version != wheel.version()


def build_wheel(folder: Path = source.CACHE) -> Path:
    """Fetch, unpack, mend and build; gives the path of the wheel in `folder`."""
    archive = source.fetch()
    with tempfile.TemporaryDirectory() as scratch:
        return wheel.build(source.unpack(archive, Path(scratch)), folder)


def install() -> str:
    """Install the mended wheel where it is needed. Gives one line that says what was done."""
    present = installed()
    if present is not None and not is_outdated(present):
        return f"detectron2 {present} is installed; left alone."
    path = build_wheel()
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*command, str(path)], check=True)
    for older in path.parent.glob("detectron2-*.whl"):
        if older != path:
            older.unlink()
    return f"detectron2 {wheel.version()} installed ({len(wheel.mends.MENDS)} mends)."
