"""Find faults in COCO datasets before a training run does, and mend those that can be mended.

`check_dataset` is the same for Python. The rules are in `dataset_tools.checks`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

from dataset_tools.arguments import positive
from dataset_tools.checks import geometry, pictures, structure, twins  # noqa: F401 (the rules)
from dataset_tools.checks.mend import Mend, mend
from dataset_tools.checks.pictures import probe_subjects
from dataset_tools.checks.report import RULES, Finding, Report, Severity
from dataset_tools.checks.subject import Subject, parse, read_subject
from dataset_tools.coco import image_root
from dataset_tools.errors import EXIT_BAD_INPUT, InputError
from dataset_tools.files import atomic_path
from dataset_tools.parallel import default_workers
from dataset_tools.provenance import derived_info

EPILOG = """\
examples:
  python -m dataset_tools check datasets/mine/all.json
  python -m dataset_tools check train.json val.json --images photos   (finds leaks between them,
  too) python -m dataset_tools check all.json --images photos --fix -o mended.json

The exit code is 2 if an error remains, else 0.
"""

_COLOURS = {Severity.ERROR: "31", Severity.WARNING: "33", Severity.NOTE: "36"}
_PLACES_IN_SHORT = 3


def check_dataset(
    paths: str | Path | Sequence[str | Path],
    images: str | Path | Sequence[str | Path] | None = None,
    *,
    decode: bool = True,
    tolerance: float = 1.0,
    progress: bool = False,
) -> Report:
    """Hold one or several COCO files (the splits of one dataset) against all rules.

    Args:
        paths: the annotation files.
        images: the folder that file names are relative to, or one for each annotation file. None:
        where
            the files themselves say; what needs images is left out if they do not.
        decode: decode the images' pixels and look for look-alikes; else only headers are read.
        tolerance: px that a coordinate may be off.
        progress: show a progress bar if there is a terminal.

    Raises:
        InputError: an annotation file or a folder is not there.
    """
    subjects = _read(_as_paths(paths), _as_paths(images), tolerance)
    probe_subjects(subjects, decode, progress)
    return _judge(subjects, decode)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    add = parser.add_argument
    add("json", nargs="+", type=Path, metavar="JSON", help="COCO files: the splits of one dataset")
    add("--images", nargs="+", type=Path, metavar="DIR", help="image root, or one for each file")
    add("--tolerance", type=float, default=1.0, metavar="PX",
        help="how far coordinates may be off (default: %(default)s)")  # fmt: skip
    add("--fast", action="store_true", help="read image headers only: no decoding, no look-alikes")
    add("--fix", action="store_true", help="write a mended copy, by mends that lose nothing")
    add(
        "-o",
        dest="output",
        type=Path,
        metavar="OUT",
        help="for --fix: a file (a folder for several)",
    )
    add(
        "--all", action="store_true", help="say why each finding matters, and show ten places of it"
    )
    add("-j", "--workers", metavar="N", type=positive, default=default_workers(),
        help="threads to decode, or processes to read headers (default: %(default)s)")  # fmt: skip
    add("--json", dest="as_json", action="store_true", help="print JSON, for machines")


def run(args: argparse.Namespace) -> int:
    """Check, perhaps mend, and print what was found."""
    outputs = _outputs(args)
    decode = not args.fast
    subjects = _read(args.json, args.images or [], args.tolerance)
    start = time.perf_counter()
    probed = probe_subjects(subjects, decode, progress=True, workers=args.workers)
    speed = _format_speed(probed, time.perf_counter() - start, decode)
    report = _judge(subjects, decode)
    text = [format_report(report, args.all, _wants_colour()) + speed]
    result = report.as_dict()
    if args.fix:
        with ExitStack() as stack:  # all files or none
            files = [stack.enter_context(atomic_path(output)) for output in outputs]
            pairs = zip(subjects, outputs, files, strict=True)
            mended, done = zip(*(_fix(*pair) for pair in pairs), strict=True)
        report = _judge(mended, decode)
        text += [_format_mends(*pair) for pair in zip(outputs, done, strict=True)]
        text += ["After mending:", format_report(report, args.all, _wants_colour())]
        result["mends"] = {
            str(path): [asdict(one) for one in mends]
            for path, mends in zip(outputs, done, strict=True)
        }
        result["after_mending"] = report.as_dict()
    print(json.dumps(result, indent=1, ensure_ascii=False) if args.as_json else "\n\n".join(text))
    return EXIT_BAD_INPUT if report.errors else 0


def format_report(report: Report, every: bool = False, colour: bool = False) -> str:
    """The report for people: one paragraph a finding, the worst first.

    Args:
        report: what to tell.
        every: all places that are kept, and why each finding matters; else the first few.
        colour: with ANSI colours.
    """
    lines = [
        f"{_files(report.files)}: {report.images:,} images, {report.annotations:,} annotations, "
        f"{report.categories:,} categories"
    ]
    for finding in report.findings:
        lines += _format_finding(finding, every, colour)
    lines += [f"not looked at: {limit}" for limit in report.limits]
    counts = ", ".join(
        _plural(sum(finding.severity is severity for finding in report.findings), severity)
        for severity in Severity
    )
    lines.append(counts if report.findings else "nothing found")
    return "\n".join(lines)


def _format_speed(images: int, seconds: float, decode: bool) -> str:
    """A line of its own, if there were images."""
    if not images:
        return ""
    what = "images decoded" if decode else "image headers read"
    return f"\n{images:,} {what} in {seconds:.1f} s: {images / seconds:,.0f} images/s"


def _format_finding(finding: Finding, every: bool, colour: bool) -> Iterator[str]:
    severity = finding.severity.value
    if colour:
        severity = f"\033[{_COLOURS[finding.severity]}m{severity}\033[0m"
    mend = f"   --fix: {finding.mend}" if finding.mend else ""
    yield f"{severity} {finding.rule} ×{finding.count:,}{mend}"
    if every:
        yield f"    {finding.why}"
    shown = finding.places if every else finding.places[:_PLACES_IN_SHORT]
    yield from (f"    {place}" for place in shown)
    if finding.count > len(shown):
        yield f"    … and {finding.count - len(shown):,} more"


def _format_mends(path: Path, mends: Sequence[Mend]) -> str:
    lines = [f"Written: {path}" + ("" if mends else " (nothing to mend in it)")]
    for one in mends:
        lines.append(f"  {one.what}: {one.count:,}")
        lines += [f"    {place}" for place in one.places]
        if one.count > len(one.places):
            lines.append(f"    … and {one.count - len(one.places):,} more")
    return "\n".join(lines)


def _files(files: Sequence[str]) -> str:
    paths = [Path(file) for file in files]
    folders = {path.parent for path in paths}
    if len(paths) == 1 or len(folders) > 1:
        return ", ".join(files)
    return f"{folders.pop()}: {', '.join(path.name for path in paths)}"


def _plural(count: int, word: str) -> str:
    return f"{count} {word}" + ("" if count == 1 else "s")


def _judge(subjects: Sequence[Subject], decode: bool) -> Report:
    found = (rule.finding(subjects) for rule in RULES)
    order = list(Severity)
    return Report(
        files=[str(subject.path) for subject in subjects],
        images=sum(len(subject.images) for subject in subjects),
        annotations=sum(len(subject.annotations) for subject in subjects),
        categories=len({row.name for subject in subjects for row in subject.categories}),
        findings=sorted(filter(None, found), key=lambda finding: order.index(finding.severity)),
        limits=list(_limits(subjects, decode)),
    )


def _limits(subjects: Sequence[Subject], decode: bool) -> Iterator[str]:
    for subject in subjects:
        if subject.root is None:
            yield f"the images of {subject.path}: say where they are with --images"
        elif not decode:
            yield f"pixels and look-alikes in {subject.root}: --fast reads headers only"


def _read(paths: Sequence[Path], roots: Sequence[Path], tolerance: float) -> list[Subject]:
    if len(roots) not in (0, 1, len(paths)):
        raise InputError(
            f"{len(roots)} image folders were given for {len(paths)} annotation files. Give one "
            "for all of them, or one for each."
        )
    if not 0 <= tolerance < float("inf"):
        raise InputError(f"The tolerance is a number of pixels, not {tolerance}.")
    for root in roots:
        if not root.is_dir():
            raise InputError(f"There is no folder of images {root}. Check --images.")
    subjects = []
    for index, path in enumerate(paths):
        subject = read_subject(path, roots[index % len(roots)] if roots else None)
        subject.tolerance = tolerance
        subject.root = subject.root or _recorded_root(subject)
        subjects.append(subject)
    return subjects


def _recorded_root(subject: Subject) -> Path | None:
    info = subject.content.get("info")
    root = image_root(subject.path, info) if isinstance(info, dict) else None
    return root if root is not None and root.is_dir() else None


def _fix(subject: Subject, output: Path, file: Path) -> tuple[Subject, list[Mend]]:
    """Write what a file is after mending, which is to become `output`, to `file`."""
    content, mends = mend(subject)
    info = content.get("info")
    step = {"command": "check --fix", "mends": {one.what: one.count for one in mends}}
    content["info"] = derived_info(
        info if isinstance(info, dict) else {}, step, subject.root, output
    )
    try:
        text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except ValueError as error:
        raise InputError(
            f"{subject.path}: NaN or infinity stands where no mend reaches; see not-a-number in "
            "the report. Mend it by hand first."
        ) from error
    file.write_text(text + "\n", encoding="utf-8")
    mended = parse(output, subject.root, content)
    mended.tolerance = subject.tolerance
    probes = {row.file_name: row.probe for row in subject.images}
    for row in mended.images:
        row.probe = probes.get(row.file_name)
    return mended, mends


def _outputs(args: argparse.Namespace) -> list[Path]:
    if args.fix != (args.output is not None):
        raise InputError("--fix and -o OUT go together: a mend goes to a new file, never to yours.")
    if not args.fix:
        return []
    several = len(args.json) > 1
    outputs = [args.output / path.name if several else args.output for path in args.json]
    if len(set(outputs)) < len(outputs):
        raise InputError("Two of the files have the same name: mend them one by one.")
    inputs = {path.resolve() for path in args.json}
    for output in outputs:
        if output.resolve() in inputs:
            raise InputError(f"{output} is one of the files to mend. Give -o another name.")
        if output.is_dir():
            raise InputError(f"{output} is a folder. Give -o the name of a file.")
    return outputs


def _as_paths(paths: str | Path | Sequence[str | Path] | None) -> list[Path]:
    if paths is None:
        return []
    return [Path(paths)] if isinstance(paths, str | Path) else [Path(path) for path in paths]


def _wants_colour() -> bool:
    return sys.stdout.isatty() and "NO_COLOR" not in os.environ
