"""Convert labels of any known format to COCO JSON, one file for each split.

`convert_dataset` is the same for Python.
"""

from __future__ import annotations

import argparse
import gc
import os
import shlex
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Self

from dataset_tools import __version__, parallel
from dataset_tools.arguments import positive
from dataset_tools.coco import IMAGES_AT_ONCE, CocoWriter, Image, Summary
from dataset_tools.errors import InputError
from dataset_tools.files import atomic_path
from dataset_tools.formats import Format, Plan, get_format, recognise
from dataset_tools.images import walk_files
from dataset_tools.notes import Notes
from dataset_tools.parallel import default_workers, ordered_map
from dataset_tools.progress import track
from dataset_tools.table import text_table

if TYPE_CHECKING:
    from dataset_tools.coco_lines import Encoded

EPILOG = """\
examples:
  python -m dataset_tools convert auto my_labels -o datasets/mine
  python -m dataset_tools convert voc VOC2007 -o datasets/voc --split train=0.8,val=0.2
  python -m dataset_tools convert voc --help     (options of one format)
  python -m dataset_tools formats                (all formats)
"""

UNSPLIT = "all"  # file name for images without a split, if none has one
REST = "rest"  # and if others have
EMBEDDED_IMAGES = "images"  # folder for images that the labels hold
_SPLIT_ORDER = {"train": 0, "val": 1, "test": 2}


@dataclass
class Conversion:
    """What `convert_dataset` wrote and noticed."""

    format: Format
    plan: Plan
    files: dict[str, Summary]  # by split
    notes: Notes
    evidence: str = ""  # why the format was taken, if it was recognised


def convert_dataset(
    format_name: str,
    path: str | Path,
    output: str | Path,
    *,
    images: str | Path | None = None,
    fractions: Mapping[str, float] | None = None,
    seed: int = 0,
    workers: int = 1,
    skip_errors: bool = False,
    **options: Any,
) -> Conversion:
    """Convert the labels at `path` to COCO files in the folder `output`: all of them or none.

    Args:
        format_name: a name of `formats.NAMES`, or "auto".
        path: what the format's `layout` says.
        output: folder for train.json, val.json, … (all.json without splits).
        images: image root, if the images are not where the labels are.
        fractions: share of each new split, by hash of the file name; None keeps the source's.
        seed: of that hash.
        workers: processes to read with. The result does not depend on it.
        skip_errors: leave out (and note) label files that cannot be read, instead of stopping.
        options: of the format.

    Raises:
        InputError: the labels cannot be read, or nothing is in them.
    """
    path, output = Path(path), Path(output)
    if not path.is_file() and not path.is_dir():
        raise InputError(f"There is no file or folder {path}. Check the path.")
    if output.exists() and not output.is_dir():
        raise InputError(f"{output} is a file. Give a folder by -o.")
    chosen, evidence = _choose(format_name, path)
    notes = Notes()
    with _without_collector():
        plan = chosen.plan(path, notes, images=Path(images) if images else None, **options)
    if plan.embedded:
        plan.image_root = output / EMBEDDED_IMAGES
    reader = _Reader.of(plan, skip_errors, fractions, seed)
    parts = _read(plan, notes, workers, reader)
    info = {
        "description": f"made from {chosen.title} by dataset_tools",
        "format": chosen.name,
        "source": _relative(path, output),
        "image_root": _relative(plan.image_root, output),
        "version": __version__,
        **({"options": {k: str(v) for k, v in options.items()}} if options else {}),
        **plan.info,
    }
    if fractions:
        info["split"] = {"fractions": dict(fractions), "seed": seed}
        parts = _once(parts)
    with _without_collector():
        files = _write(parts, plan, output, info, notes)
    return Conversion(chosen, plan, files, notes, evidence)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments that all formats take."""
    parser.usage = "%(prog)s FORMAT PATH -o DIR [options]"
    add = parser.add_argument
    add("format", metavar="FORMAT", help="name of the format, or auto")
    add("path", metavar="PATH", type=Path, help="file or folder of the labels")
    add("-o", "--output", metavar="DIR", type=Path, required=True, help="folder of the COCO files")
    add("--images", metavar="DIR", type=Path, help="image root, if not beside the labels")
    add(
        "--split",
        metavar="NAME=SHARE,…",
        type=_fractions,
        help="divide anew, by hash of the file name",
    )
    add("--seed", type=int, default=0, help="of --split (default: %(default)s)")
    add("-j", "--workers", metavar="N", type=positive, default=default_workers(), help="processes")
    add(
        "--on-error",
        choices=("stop", "skip"),
        default="stop",
        help="what to do with a label file that cannot be read (default: stop)",
    )


def add_more_arguments(parser: argparse.ArgumentParser, argv: Sequence[str]) -> None:
    """The options of the format that the command line names."""
    name = next((word for word in argv if not word.startswith("-")), "auto")
    if name == "auto":
        return
    chosen = get_format(name)
    group = parser.add_argument_group(f"options of {chosen.name}: {chosen.title}")
    for option in chosen.options:
        option.add_to(group)


def run(args: argparse.Namespace) -> int:
    """Convert and print what was written, dropped and found suspicious."""
    options: dict[str, Any] = {}
    if args.format != "auto":
        chosen = get_format(args.format).options
        options = {option.name: getattr(args, option.name) for option in chosen}
        options = {
            option.name: options[option.name]
            for option in chosen
            if options[option.name] != option.default
        }
    conversion = convert_dataset(
        args.format,
        args.path,
        args.output,
        images=args.images,
        fractions=args.split,
        seed=args.seed,
        workers=args.workers,
        skip_errors=args.on_error == "skip",
        **options,
    )
    print(format_conversion(conversion, args.path))
    return 0


def format_conversion(conversion: Conversion, path: Path) -> str:
    """The summary that the command prints."""
    files = conversion.files
    parts = [f"{conversion.format.title}: {path}"]
    if conversion.evidence:
        parts.append(f"recognised as {conversion.format.name}: {conversion.evidence}")
    parts += conversion.plan.remarks
    images = [(name, f.images, f.empty_images, f.annotations) for name, f in files.items()]
    parts += ["", text_table(("split", "images", "of them empty", "annotations"), images), ""]
    totals: Counter[str] = Counter()
    for summary in files.values():
        totals.update(summary.per_category)
    rows = [
        (name, *(summary.per_category[name] for summary in files.values()), total)
        for name, total in totals.items()
    ]
    parts += [text_table(("category", *files, "total"), rows), ""]
    parts += conversion.notes.lines()
    written = [str(summary.path) for summary in files.values()]
    parts += ["written:", *(f"  {file}" for file in written)]
    root = Path(os.path.relpath(conversion.plan.image_root))
    parts += [f"image root: {root}", "next:"]
    parts.append(f"  python -m dataset_tools check {shlex.join(written)}")
    return "\n".join(parts)


def _choose(name: str, path: Path) -> tuple[Format, str]:
    if name != "auto":
        return get_format(name), ""
    found = recognise(path)
    if len(found) == 1:
        return found[0][0], found[0][1].text
    if not found:
        raise InputError(
            f"{path} is of no format that is known from its content. Name the format if it is one "
            "of those that `python -m dataset_tools formats` lists."
        )
    candidates = "\n".join(f"  {format_.name:<8} {evidence.text}" for format_, evidence in found)
    raise InputError(
        f"{path} may be of several formats. Name the one that is meant instead of "
        f"auto:\n{candidates}"
    )


def _read(plan: Plan, notes: Notes, workers: int, reader: _Reader) -> Iterator[Encoded]:
    """The lines of all images, read (and encoded) by several processes where that helps."""
    chunk = max(1, IMAGES_AT_ONCE // plan.images_per_item)
    if plan.embedded:
        chunk = 1  # image files, unlike labels, fill the memory
    fewest = parallel.FEWEST_ITEMS // plan.images_per_item
    workers = workers if plan.parallel else 1

    def parts() -> Iterator[Encoded]:
        if plan.streams and not reader.skip_errors:
            for item in plan.items:
                yield from reader.stream(item, notes)
            return
        for part, found in ordered_map(reader, plan.items, workers, chunk, fewest):
            notes.merge(found)
            yield part

    return track(parts(), -(-len(plan.items) // chunk), "reading")


@dataclass
class _Reader:
    """Reads some items of a plan; depends on nothing but them, in whichever process it runs."""

    read: Callable[[Any, Notes], Iterable[Image]]
    keep_ids: bool
    skip_errors: bool
    assign: Callable[[str], str] | None  # the new split of a file name; None: the source's

    @classmethod
    def of(
        cls, plan: Plan, skip_errors: bool, fractions: Mapping[str, float] | None, seed: int
    ) -> Self:
        """For a plan, by the arguments of `convert_dataset`."""
        assign = None
        if fractions:
            from dataset_tools.split import assign_split

            assign = partial(assign_split, fractions=fractions, seed=seed)
        return cls(plan.read, plan.keep_ids, skip_errors, assign)

    def __call__(self, items: Sequence[Any]) -> tuple[Encoded, Notes]:
        notes = Notes()
        images: list[Image] = []
        with _without_collector():
            for item in items:
                try:
                    # A list first: of an item that fails half-way nothing is taken.
                    images += list(self.read(item, notes))
                except InputError as error:
                    if not self.skip_errors:
                        raise
                    notes.drop("item that cannot be read (--on-error skip)", str(error))
            return self._encoded(images), notes

    def stream(self, item: Any, notes: Notes) -> Iterator[Encoded]:
        """What is in an item that may be as large as the dataset."""
        images = iter(self.read(item, notes))
        while some := list(islice(images, IMAGES_AT_ONCE)):
            yield self._encoded(some)

    def _encoded(self, images: list[Image]) -> Encoded:
        from dataset_tools.coco_lines import encode_images

        if self.assign is not None:
            for image in images:
                image.split = self.assign(image.file_name)
        return encode_images(images, self.keep_ids)


def _once(parts: Iterable[Encoded]) -> Iterator[Encoded]:
    """A reader yields an image of several splits once for each: of those all but the first are left
    out."""
    seen: set[int] = set()
    for part in parts:
        for split, lines in part.splits.items():
            keys = list(map(hash, zip(lines.names, lines.places, strict=True)))
            again = {i for i, key in enumerate(keys) if key in seen or seen.add(key)}
            if again:
                part.splits[split] = lines.without(again)
        yield part


@contextmanager
def _without_collector() -> Iterator[None]:
    """Records are many, and no two of them hold each other: to look for such takes a fifth of the
    time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _write(
    parts: Iterable[Encoded], plan: Plan, output: Path, info: dict[str, Any], notes: Notes
) -> dict[str, Summary]:
    """Write a file for each split; none appears before all are whole."""
    with ExitStack() as stack:
        writers: dict[str | None, CocoWriter] = {}
        embedded = stack.enter_context(_ImageFiles(output / EMBEDDED_IMAGES))
        for part in parts:
            for split, lines in part.splits.items():
                if split not in writers:
                    writer = CocoWriter(output, keep_ids=plan.keep_ids)
                    writers[split] = stack.enter_context(writer)
                writers[split].add(lines)
            for image in part.files:
                embedded.add(image)
        if not writers:
            reasons = "; ".join(f"{n.count} × {n.kind}" for n in notes.dropped.values())
            raise InputError(f"No image is left to be written{f': {reasons}' if reasons else ''}.")
        for writer in writers.values():
            # One image, two label files: both are kept, for which one is right we cannot know.
            for place in writer.repeated():
                notes.suspect("image that is there twice (kept twice)", place)
        names = set().union(*(writer.category_names for writer in writers.values()))
        categories = plan.categories(names)
        files: dict[str, Summary] = {}
        for split in sorted(writers, key=_split_order):
            name = split or (UNSPLIT if len(writers) == 1 else REST)
            target = output / f"{_safe_name(name)}.json"
            temporary = stack.enter_context(atomic_path(target))
            files[name] = writers[split].write(
                temporary, categories, {**info, "split_name": name}, plan.licenses
            )
            files[name].path = target
        embedded.publish()
        if len(writers) > 1 and None in writers:
            count = files[REST].images
            notes.suspect(f"{count} images in no split (written to {REST}.json)", str(output))
    return files


class _ImageFiles:
    """Files of images that the labels hold: gathered in a hidden folder, put in place when all is
    well."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._hidden: tempfile.TemporaryDirectory[str] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._hidden is not None:
            self._hidden.cleanup()

    def add(self, image: Image) -> None:
        """Keep the image's file. InputError if its name leads out of the folder."""
        name = PurePosixPath(image.file_name)
        if name.is_absolute() or ".." in name.parts or "\\" in image.file_name:
            raise InputError(
                f"{image.source}: the image's name {image.file_name!r} is no plain one."
            )
        if self._hidden is None:
            self._hidden = tempfile.TemporaryDirectory(prefix=".images.", dir=self._folder.parent)
        target = Path(self._hidden.name) / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(image.content or b"")

    def publish(self) -> None:
        """Move the files to where the COCO files say they are."""
        if self._hidden is None:
            return
        for name in walk_files(self._hidden.name):
            target = self._folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(os.path.join(self._hidden.name, name), target)


def _split_order(split: str | None) -> tuple[int, str]:
    return (99, "") if split is None else (_SPLIT_ORDER.get(split, 3), split)


def _safe_name(split: str) -> str:
    name = split.replace("\\", "/").rpartition("/")[2].strip(". ")
    if not name:
        raise InputError(f"A split cannot be called {split!r}: it is to name a file.")
    return name


def _relative(path: Path, folder: Path) -> str:
    """`path` seen from `folder`, so that both can move together."""
    try:
        return Path(os.path.relpath(path.resolve(), folder.resolve())).as_posix()
    except ValueError:  # on different drives
        return path.resolve().as_posix()


def _fractions(text: str) -> dict[str, float]:
    """`train=0.8,val=0.2` as a dict."""
    fractions: dict[str, float] = {}
    for part in text.split(","):
        name, equals, share = part.partition("=")
        try:
            value = float(share)
        except ValueError:
            equals = ""
        if not name.strip() or not equals or not 0 <= value <= 1 or name.strip() in fractions:
            raise argparse.ArgumentTypeError(f"{text!r} is not like train=0.8,val=0.2")
        fractions[name.strip()] = value
    if abs(sum(fractions.values()) - 1) > 1e-6:
        raise argparse.ArgumentTypeError(f"the shares in {text!r} do not add up to 1")
    return fractions
