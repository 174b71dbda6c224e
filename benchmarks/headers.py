"""Reading image headers, as `check --fast` does: this project, Pillow and imagesize side by side.

    python benchmarks/headers.py                   118,000 images, three JPEG to one PNG
    python benchmarks/headers.py --scale 0.1

The images are tiny, and links of a few files, so that the disk is not what is measured; of several
runs the best counts. Seconds are those of the processor, of all processes together. imagesize is a
dash if it is not installed. It and Pillow's `size` do not look at EXIF orientation, which we do.
"""

from __future__ import annotations

import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from _arguments import scaled

from dataset_tools import errors
from dataset_tools.checks.pictures import State, probe_images
from dataset_tools.parallel import default_workers
from dataset_tools.table import text_table

IMAGES = 118_000
WIDTH, HEIGHT = 64, 48
_MOST_LINKS = 30_000  # of one file; file systems have limits


def main() -> int:
    from _machine import describe_machine  # brings torch, which the processes have no use for

    args = scaled(__doc__).parse_args()
    print(describe_machine(), flush=True)
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        paths = make_images(Path(folder), round(IMAGES * args.scale))
        rows = [row(name, read, paths, args.repeat) for name, read in readers().items()]
    print(text_table(("", "seconds", "images/s by the processor", "images/s by the clock"), rows))
    return 0


def make_images(folder: Path, count: int) -> list[str]:
    """`count` image files in `folder`, every fourth a PNG; their paths."""
    from PIL import Image

    paths: list[str] = []
    sources: dict[str, Path] = {}
    for number in range(count):
        suffix = "png" if number % 4 == 3 else "jpg"
        path = folder / f"{number:06d}.{suffix}"
        if suffix not in sources or number % _MOST_LINKS < 4:
            Image.new("RGB", (WIDTH, HEIGHT), (200, 90, 60)).save(path)
            sources[suffix] = path
        else:
            os.link(sources[suffix], path)
        paths.append(str(path))
    return paths


def readers() -> dict[str, Callable[[Sequence[str]], None]]:
    workers = default_workers()
    found = {f"ours, {n} processes": ours(n) for n in sorted({1, workers})} | {"Pillow": pillow}
    return found | {"imagesize": imagesize}


def ours(workers: int) -> Callable[[Sequence[str]], None]:
    def read(paths: Sequence[str]) -> None:
        for probe in probe_images(paths, decode=False, workers=workers).values():
            assert probe.state is State.FINE
            assert probe.size == (WIDTH, HEIGHT)

    return read


def pillow(paths: Sequence[str]) -> None:
    from PIL import Image

    for path in paths:
        with Image.open(path) as image:
            assert image.size == (WIDTH, HEIGHT)


def imagesize(paths: Sequence[str]) -> None:
    from imagesize import get

    for path in paths:
        assert get(path) == (WIDTH, HEIGHT)


def row(
    name: str, read: Callable[[Sequence[str]], None], paths: Sequence[str], repeat: int
) -> tuple[str, ...]:
    try:
        read(paths[:100])
    except ImportError:
        return name, "–", "–", "–"
    runs = []
    for _ in range(repeat):
        before, start = _processor_seconds(), time.perf_counter()
        read(paths)
        runs.append((_processor_seconds() - before, time.perf_counter() - start))
    busy, waited = map(min, zip(*runs, strict=True))
    return name, f"{busy:.2f}", f"{len(paths) / busy:,.0f}", f"{len(paths) / waited:,.0f}"


def _processor_seconds() -> float:
    """Of this process and of those that it started and that have ended."""
    usages = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


if __name__ == "__main__":
    sys.exit(errors.run(main))
