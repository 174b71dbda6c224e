"""Convert a damaged dataset, and see that what must hold does.

- The conversion succeeds or raises InputError; it ends within the limit.
- Nothing is written outside of the output folder.
- After an error nothing is in the output folder; after a success whole COCO files are, and no
  file of another kind but images.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from types import FrameType

from dataset_tools.coco import load_coco
from dataset_tools.convert import convert_dataset
from dataset_tools.errors import InputError
from tests.fuzz.damage import PLANTED, do_damage
from tests.fuzz.fixtures import OPTIONS, Fixture

SECONDS = 20  # of the processor that a conversion of a few small files may take
WAITING = 10  # times as long on a busy machine


@dataclass
class Trial:
    """One case: what was done and what came of it."""

    format: str
    seed: str
    damage: list[str] = field(default_factory=list)
    outcome: str = ""  # "converted" or "refused"
    faults: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        told = f"{self.format}, {self.seed}: {'; '.join(self.damage)}"
        return "\n".join([told, *(f"    {line}" for f in self.faults for line in f.splitlines())])


class Hang(BaseException):
    """It took too long. No Exception, lest a reader catch it."""


def run_trial(fixture: Fixture, seed: str, folder: Path) -> Trial:
    """Damage a copy of the fixture and convert it, or run its tool, in the new `folder`."""
    random = Random(seed)
    trial = Trial(fixture.format, seed)
    source, output = folder / "deep/down/in", folder / "deep/down/out"
    shutil.copytree(fixture.folder, source, symlinks=True)
    trial.damage = do_damage(source, random)
    path = source
    labels = [file for file in sorted(source.rglob("*")) if file.is_file()]
    if labels and random.random() < 0.2:
        path = random.choice(labels)
    name = "auto" if random.random() < 0.1 else fixture.format
    skip = random.random() < 0.5
    before = _snapshot(folder, output)
    with _watched(output) as strays:
        try:
            with _limited(SECONDS):
                if fixture.run is None:
                    options = OPTIONS.get(name, {})
                    convert_dataset(name, path, output, skip_errors=skip, **options)
                else:
                    output.mkdir()
                    fixture.run(source, output / "new")  # which may appear by a rename
            trial.outcome = "converted"
        except InputError as error:
            trial.outcome = "refused"
            if not str(error).strip():
                trial.faults.append("an InputError that says nothing")
        except Hang:
            trial.faults.append(f"not done after {SECONDS} s\n{traceback.format_exc(limit=-4)}")
        except BaseException:
            trial.faults.append(traceback.format_exc(limit=-5))
    trial.faults += sorted(strays)
    trial.faults += [f"changed: {path}" for path in before ^ _snapshot(folder, output)]
    done = trial.outcome == "converted"
    trial.faults += _faults_of_output(output, done, is_dataset=fixture.run is None)
    return trial


def _faults_of_output(output: Path, converted: bool, is_dataset: bool) -> Iterator[str]:
    files = [path for path in output.rglob("*") if not path.is_dir()] if output.exists() else []
    for path in files:
        if not converted:
            yield f"left behind after an error: {path.relative_to(output)}"
        elif path.is_symlink() or path.name.startswith("."):
            yield f"not whole: {path.relative_to(output)}"
        elif path.parent == output and is_dataset:
            try:
                load_coco(path)
            except Exception:
                yield f"{path.name} cannot be read again: {traceback.format_exc(limit=-2)}"
    if converted and is_dataset and not any(path.parent == output for path in files):
        yield "nothing was written"


def _snapshot(folder: Path, output: Path) -> set[tuple[str, int, int]]:
    """Everything in a folder but the output: names, sizes and times of change."""
    found = set()
    for place, folders, files in os.walk(folder):
        if Path(place) == output:
            folders.clear()
            continue
        for name in files:
            status = os.lstat(os.path.join(place, name))
            found.add((os.path.join(place, name), status.st_size, status.st_mtime_ns))
    for stray in (Path("/tmp") / f"{PLANTED}.jpg", Path("/tmp") / PLANTED, Path.cwd() / PLANTED):
        if stray.exists():
            found.add((str(stray), 0, 0))
            stray.unlink()
    return found


@contextmanager
def _limited(seconds: int) -> Iterator[None]:
    def stop(_: int, frame: FrameType | None) -> None:
        raise Hang

    timers = {
        signal.ITIMER_PROF: (signal.SIGPROF, seconds),
        signal.ITIMER_REAL: (signal.SIGALRM, seconds * WAITING),
    }
    previous = {number: signal.signal(number, stop) for number, _ in timers.values()}
    for timer, (_, length) in timers.items():
        signal.setitimer(timer, length)
    try:
        yield
    finally:
        for timer in timers:
            signal.setitimer(timer, 0)
        for number, handler in previous.items():
            signal.signal(number, handler)


# An audit hook cannot be taken away again: there is one, which watches when it is told to.
_watch: tuple[str, set[str]] | None = None
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_CHANGES = {"os.rename": 2, "os.mkdir": 1, "os.symlink": 2, "os.remove": 1,
            "os.truncate": 1, "os.chmod": 1, "os.rmdir": 1}  # fmt: skip
_FORBIDDEN = ("os.system", "subprocess.Popen", "os.exec", "os.posix_spawn", "socket.connect")


@contextmanager
def _watched(output: Path) -> Iterator[set[str]]:
    """Gather what is opened for writing, moved or made outside of `output`, and programs run."""
    global _watch
    strays: set[str] = set()
    _watch = (os.path.realpath(output), strays)
    try:
        yield strays
    finally:
        _watch = None


def _audit(event: str, arguments: tuple) -> None:
    if _watch is None:
        return
    if event in _FORBIDDEN:
        _watch[1].add(f"{event}{arguments!r}")
    paths: tuple = ()
    if event == "open" and isinstance(arguments[2], int) and arguments[2] & _WRITING:
        paths = arguments[:1]
    elif event in _CHANGES:
        paths = arguments[: _CHANGES[event]]
    elif event == "os.link":  # what it leads to stays as it is
        paths = arguments[1:2]
    for path in paths:
        if isinstance(path, bytes):
            path = os.fsdecode(path)
        if not isinstance(path, str) or path == os.devnull:
            continue
        real = os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))
        # What a folder descriptor is the start of has a bare name: that is tidying up a folder.
        bare = event in ("os.remove", "os.rmdir") and not os.path.dirname(path)
        if not bare and not (real + os.sep).startswith(_watch[0] + os.sep):
            _watch[1].add(f"{event} outside of the output: {path}")


sys.addaudithook(_audit)
