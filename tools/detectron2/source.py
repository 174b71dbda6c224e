"""Fetches Detectron2's sources once, verifies them, and keeps them under the checkout."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
import tarfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
REQUIREMENTS = HERE / "requirements.txt"
CACHE = HERE.parents[1] / ".cache" / "detectron2"
ARCHIVE = "pb1-detectron2-0.6.tar.gz"


class SourceError(Exception):
    """The sources cannot be had, or are not the bytes that were asked for."""


def pinned_sha256() -> str:
    """The hash in requirements.txt, in hexadecimal."""
    return re.search(r"--hash=sha256:([0-9a-f]{64})", REQUIREMENTS.read_text())[1]


def fetch(cache: Path = CACHE) -> Path:
    """The verified source archive; downloaded through pip only when `cache` does not hold it yet.

    Raises:
        SourceError: pip failed, or the archive in the cache has another hash.
    """
    archive = cache / ARCHIVE
    if not archive.is_file():
        cache.mkdir(parents=True, exist_ok=True)
        _download(cache)
    found = hashlib.sha256(archive.read_bytes()).hexdigest()
    if found != pinned_sha256():
        raise SourceError(
            f"{archive} has sha256 {found} where {pinned_sha256()} is pinned in {REQUIREMENTS}."
            f" Delete the file and run this again."
        )
    return archive


def _download(cache: Path) -> None:
    # No build isolation: for a source archive pip runs its setup.py to learn the metadata, and that
    # one imports torch, which is in this environment and would otherwise be downloaded once more.
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    command += ["--no-deps", "--no-binary", ":all:", "--no-build-isolation", "--require-hashes"]
    command += ["--requirement", str(REQUIREMENTS), "--dest", str(cache)]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        raise SourceError(
            f"pip could not fetch {ARCHIVE}: {result.stderr.strip()[-800:]}\n"
            f"This step needs the package index once, and torch and setuptools here;"
            f" the archive is kept in {cache}, so that later runs need no network."
        )


def unpack(archive: Path, folder: Path) -> Path:
    """Unpack `archive` into `folder` and give the path of the source tree in it."""
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    return folder / ARCHIVE.removesuffix(".tar.gz")
