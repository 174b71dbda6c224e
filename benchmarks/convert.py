"""Labels to COCO JSON: this project, other converters, and a loop that parses and does no more.

    python benchmarks/convert.py                   the full size, for a quarter of an hour
    python benchmarks/convert.py --scale 0.02      a first impression
    python benchmarks/convert.py --peers output/peers      beside datumaro, globox, supervision and
                                                   pylabel, in an environment that is made there

Everything runs in a process of its own, one at a time, with one thread. Times are processor seconds
of the best of three runs, of one that takes half a minute of one run; imports are left out. What a
peer cannot read is a dash, what takes it longer than --limit is told as such, what takes more than
12 GiB is left out. "all cores" is ours by the clock with as many processes as there are cores, as
the command does it; none of the peers uses more than one. Its ratio compares clocks.

They do not do the same work. This project checks every number, name and image file, streams, and
keeps boxes, polygons, attributes and the place of each record for messages. Globox keeps boxes and
classes alone (of polygons the box around them) and looks at images for YOLO only; supervision opens
each image with its pixels for YOLO, and makes masks of polygons; Datumaro keeps all; pylabel makes
a data frame. "parse only" opens the label files, parses them and throws the result away: it does
not look at images, and writes nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import venv
from dataclasses import astuple, dataclass
from pathlib import Path
from resource import RLIMIT_AS, RLIMIT_CPU, setrlimit
from signal import SIGXCPU

import _labels
from _arguments import scaled
from _machine import describe_machine

from dataset_tools import errors
from dataset_tools.formats import NAMES
from dataset_tools.table import text_table

PEERS = ("datumaro", "globox", "supervision", "pylabel")
MEMORY = 12 << 30  # bytes that a peer gets
LONG = 30  # s: a peer's runs that take longer together are not repeated
RUNNER = Path(__file__).with_name("_run.py")
REQUIREMENTS = (*PEERS, "lxml", "orjson", "msgspec", "pyarrow")


@dataclass(frozen=True)
class Cost:
    """Of one conversion: processor seconds, peak MB beyond the imports, seconds by the clock."""

    seconds: float
    peak: float
    clock: float


@dataclass(frozen=True)
class Task:
    """A dataset to convert.

    Attributes:
        format: our name of it.
        images: how many, at full size.
        make: writes it into a folder, with so many images.
        path: what is given to the converters, seen from that folder.
    """

    format: str
    images: int
    make: object
    path: str = "."


TASKS = (
    Task("voc", 20_000, lambda folder, n: _labels.voc(folder, n, 1)),
    Task("yolo", 118_000, lambda folder, n: _labels.yolo(folder, n, 2)),
    Task(
        "coco",
        118_000,
        lambda folder, n: _labels.coco(folder, n, n * 860 // 118, 3),
        "annotations/instances_train.json",
    ),
    Task("labelme", 5_000, lambda folder, n: _labels.labelme(folder, n, 4)),
    Task("csv", 20_000, lambda folder, n: _labels.csv(folder, n * 5, 5), "labels.csv"),
    Task("cvat", 20_000, lambda folder, n: _labels.cvat(folder, n, 6), "annotations.xml"),
)


def main() -> int:
    args = parse()
    print(describe_machine(), flush=True)
    peers = environment(args.peers)
    if peers is None:
        print("no peers: give --peers DIR, an environment that is made there if it is not")
    rows = []
    for task in TASKS:
        if task.format not in (args.only or NAMES) or task.format not in NAMES:
            continue
        with tempfile.TemporaryDirectory(dir=args.folder) as folder:
            rows.append(compare(task, Path(folder) / "in", args, peers))
        print(".", end="", flush=True, file=sys.stderr)
    headings = ("", "images", "ours", "µs/image", "peak MB", "all cores", "parse only", *PEERS)
    print(text_table((*headings, "× fastest", "× by clock", "× parse"), rows))
    return 0


def parse() -> argparse.Namespace:
    parser = scaled(__doc__)
    parser.add_argument("--limit", type=int, default=120, help="processor seconds of a peer's run")
    parser.add_argument("--only", nargs="+", metavar="FORMAT")
    parser.add_argument(
        "--beside", nargs="+", choices=PEERS, default=PEERS, help="these peers only"
    )
    parser.add_argument("--peers", type=Path, metavar="DIR", help="environment with the peers")
    return parser.parse_args()


def environment(folder: Path | None) -> Path | None:
    """The Python of the peers' environment, which is made if it is not there."""
    if folder is None:
        return None
    python = folder / "bin" / "python"
    if not python.exists():
        venv.create(folder, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *REQUIREMENTS], check=True)
    return python.absolute()


def compare(
    task: Task, folder: Path, args: argparse.Namespace, peers: Path | None
) -> tuple[str, ...]:
    """A row of the table."""
    count = max(1, round(task.images * args.scale))
    task.make(folder, count)
    path = folder / task.path
    ours = best(Path(sys.executable), "dataset_tools", task.format, path, args.repeat)
    cores = best(Path(sys.executable), "dataset_tools_all_cores", task.format, path, args.repeat)
    loop = best(peers or Path(sys.executable), "parse", task.format, path, args.repeat)
    others = [
        best(peers, peer, task.format, path, args.repeat, args.limit)
        if peers and peer in args.beside
        else None
        for peer in PEERS
    ]
    if ours is None or cores is None or loop is None:
        raise errors.InputError(f"{task.format} could not be converted; see above.")
    done = [other for other in others if other and other.seconds < args.limit]
    fastest = min((other.seconds for other in done), default=None)
    soonest = min((other.clock for other in done), default=None)
    return (
        task.format,
        f"{count:,}",
        f"{ours.seconds:.2f}",
        f"{ours.seconds / count * 1e6:.0f}",
        f"{ours.peak:.0f}",
        f"{cores.clock:.2f}",
        f"{loop.seconds:.2f}",
        *(_seconds(other, args.limit) for other in others),
        f"{fastest / ours.seconds:.1f}" if fastest else "–",
        f"{soonest / cores.clock:.1f}" if soonest else "–",
        f"{ours.seconds / loop.seconds:.1f}",
    )


def _seconds(run: Cost | None, limit: int) -> str:
    if run is None:
        return "–"
    return f"{run.seconds:.2f}" if run.seconds < limit else f"> {limit}"


def best(
    python: Path, who: str, format_: str, path: Path, repeat: int, limit: int | None = None
) -> Cost | None:
    """The least of several runs; None if it cannot be done. With a `limit` that is all the seconds
    that a run gets, and long ones are not repeated."""
    runs: list[Cost] = []
    while len(runs) < repeat and not (limit and sum(run.seconds for run in runs) > LONG):
        with tempfile.TemporaryDirectory() as output:
            # Not the project's folder: peers must not find anything of ours.
            done = subprocess.run(
                [python, RUNNER, who, format_, path.absolute(), output],
                capture_output=True,
                text=True,
                env=os.environ | {"OMP_NUM_THREADS": "1"},
                preexec_fn=limit and (lambda: _hold_to(limit)),
            )
        if limit and done.returncode == -SIGXCPU:
            return Cost(limit, 0, limit)
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or ["no reader of this format"])[-1]
            print(f"{who}, {format_}: left out: {reason[:200]}", file=sys.stderr)
            return None
        runs.append(Cost(*json.loads(done.stdout.splitlines()[-1])))
    return Cost(*(min(column) for column in zip(*map(astuple, runs), strict=True)))


def _hold_to(seconds: int) -> None:
    setrlimit(RLIMIT_CPU, (seconds, seconds + 5))
    setrlimit(RLIMIT_AS, (MEMORY, MEMORY))


if __name__ == "__main__":
    sys.exit(errors.run(main))
