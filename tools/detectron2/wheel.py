"""Builds the wheel `detectron2` from a source tree: an archive of Python files.

A wheel without compiled parts is simple enough to be written directly (PEP 427); no build backend
has to be there, nothing of the original setup.py runs, and the same sources give the same bytes.
"""

from __future__ import annotations

import base64
import hashlib
import zipfile
from collections.abc import Iterator
from pathlib import Path

from . import mends, source

REPLACEMENT = source.HERE / "replacement"
# Where Detectron2's own setup.py installs the projects that are part of the package.
PROJECTS = {
    "detectron2/projects/point_rend": "projects/PointRend/point_rend",
    "detectron2/projects/deeplab": "projects/DeepLab/deeplab",
    "detectron2/projects/panoptic_deeplab": "projects/Panoptic-DeepLab/panoptic_deeplab",
}
# v0.6 also asks for black==21.4b2 (pretty-prints exported LazyConfigs; optional in the code), for
# iopath<0.1.10 (which has no wheel for today's Python), and for future and pydot (Caffe2 only).
REQUIRES = (
    "torch",
    "torchvision",
    "numpy",
    "Pillow>=9.1",
    "matplotlib",
    "pycocotools>=2.0.2",
    "termcolor>=1.1",
    "yacs>=0.1.8",
    "tabulate",
    "cloudpickle",
    "tqdm>4.29.0",
    "tensorboard",
    "fvcore>=0.1.5,<0.1.6",
    "iopath>=0.1.7",
    "omegaconf>=2.1",
    "hydra-core>=1.1",
)


def version() -> str:
    """`0.6+seriatim.m…`: the local part is a digest of all that is done to the sources.

    Any change to the mends or to the replacement gives another version, so that the installer sees
    an outdated wheel of ours.
    """
    digest = hashlib.sha256()
    for path in sorted([source.HERE / "mends.py", source.HERE / "wheel.py", *_replacement_files()]):
        digest.update(path.name.encode() + path.read_bytes())
    digest.update(source.pinned_sha256().encode())
    return f"0.6+seriatim.m{digest.hexdigest()[:8]}"


def build(tree: Path, folder: Path) -> Path:
    """Write the wheel of the unpacked and mended source `tree` into `folder`; gives its path."""
    mends.apply(tree)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"detectron2-{version()}-py3-none-any.whl"
    info = f"detectron2-{version()}.dist-info"
    files = [*_package_files(tree), *_metadata_files(tree, info)]
    record = [_record_line(name, content) for name, content in files] + [f"{info}/RECORD,,"]
    files.append((f"{info}/RECORD", ("\n".join(record) + "\n").encode()))
    with zipfile.ZipFile(path, "w") as wheel:
        for name, content in files:
            # A fixed date makes the wheel reproducible.
            entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            entry.external_attr = 0o644 << 16
            wheel.writestr(entry, content, zipfile.ZIP_DEFLATED)
    return path


def _replacement_files() -> list[Path]:
    return sorted(REPLACEMENT.rglob("*.py"))


def _package_files(tree: Path) -> Iterator[tuple[str, bytes]]:
    for path in sorted((tree / "detectron2").rglob("*")):
        if path.suffix in {".py", ".yaml"}:
            yield path.relative_to(tree).as_posix(), path.read_bytes()
    for target, origin in PROJECTS.items():
        for path in sorted((tree / origin).rglob("*.py")):
            yield f"{target}/{path.relative_to(tree / origin).as_posix()}", path.read_bytes()
    for path in _replacement_files():
        yield f"detectron2/{path.relative_to(REPLACEMENT).as_posix()}", path.read_bytes()


def _metadata_files(tree: Path, info: str) -> Iterator[tuple[str, bytes]]:
    lines = [
        "Metadata-Version: 2.1",
        "Name: detectron2",
        f"Version: {version()}",
        "Summary: Detectron2 0.6 without compiled parts, for current PyTorch, NumPy and Pillow",
        "Home-page: https://github.com/facebookresearch/detectron2",
        "Author: FAIR",
        "License: Apache-2.0",
        "License-File: LICENSE",
        "Requires-Python: >=3.11",
        *(f"Requires-Dist: {requirement}" for requirement in REQUIRES),
    ]
    yield f"{info}/METADATA", ("\n".join(lines) + "\n").encode()
    wheel = "Wheel-Version: 1.0\nGenerator: seriatim\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    yield f"{info}/WHEEL", wheel.encode()
    yield f"{info}/top_level.txt", b"detectron2\n"
    yield f"{info}/LICENSE", (tree / "LICENSE").read_bytes()


def _record_line(name: str, content: bytes) -> str:
    digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
    return f"{name},sha256={digest},{len(content)}"
