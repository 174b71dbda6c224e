"""What the image files themselves say: decoded by threads, or their headers read by processes."""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING

from dataset_tools.checks.report import Severity, rule, rule_across
from dataset_tools.checks.subject import ImageRow, Subject
from dataset_tools.errors import InputError
from dataset_tools.images import image_size, is_image_name, is_mask_name, walk_files
from dataset_tools.parallel import default_workers, ordered_map
from dataset_tools.progress import track

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from PIL import Image as PillowImage

THUMBNAIL = 32  # px, the side of the square grey picture that look-alikes are found by
FEWEST_HEADERS = 40_000  # are read by one process in the time that others take to start
_EXIF_ORIENTATION = 0x0112
_TURNS = {  # EXIF orientation → the transposition that makes the picture upright
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}


class State(StrEnum):
    """How far an image file could be read."""

    FINE = "fine"
    MISSING = "missing"
    UNREADABLE = "unreadable"
    TRUNCATED = "truncated"


@dataclass(slots=True)
class Probe:
    """What an image file says.

    Attributes:
        state: how far it could be read.
        detail: the reader's complaint, if any.
        size: (width, height) px after EXIF orientation is applied, as
            `detectron2.data.detection_utils.read_image` gives it; None if the header is unreadable.
        digest: of the file's bytes; None without decoding.
        thumbnail: (THUMBNAIL, THUMBNAIL) uint8 grey, oriented; None without decoding.
    """

    state: State
    detail: str = ""
    size: tuple[int, int] | None = None
    digest: bytes | None = None
    thumbnail: np.ndarray | None = None


def probe_images(
    paths: Iterable[str], decode: bool = True, progress: bool = False, workers: int | None = None
) -> dict[str, Probe]:
    """Look at every image file once; with `decode` its pixels too, else only its header.

    Args:
        paths: of the files; equal ones count once.
        decode: as above.
        progress: show a progress bar if there is a terminal.
        workers: threads that decode, which Pillow does without Python's lock, or processes that
            read headers, which is Python's work. None: one for each processor.
    """
    paths = list(dict.fromkeys(paths))
    workers = workers or default_workers()
    probes = _all_decoded(paths, workers) if decode else _all_headers(paths, workers)
    return dict(zip(paths, track(probes, len(paths), "images", progress), strict=True))


def probe_image(path: str, decode: bool = True) -> Probe:
    """Look at one image file."""
    if not decode:
        try:
            return Probe(State.FINE, size=image_size(path))
        except InputError as error:
            complaint = str(error).removeprefix(f"{path}: ")
    if not os.path.isfile(path):
        is_folder = os.path.isdir(path)
        return Probe(State.UNREADABLE, "a folder") if is_folder else Probe(State.MISSING)
    if os.path.getsize(path) == 0:
        return Probe(State.UNREADABLE, "an empty file")
    return _decoded(path) if decode else Probe(State.UNREADABLE, complaint)


def _all_decoded(paths: Sequence[str], workers: int) -> Iterator[Probe]:
    with _without_warnings(), ThreadPoolExecutor(workers) as pool:
        yield from pool.map(probe_image, paths)


def _all_headers(paths: Sequence[str], workers: int) -> Iterator[Probe]:
    workers = workers if len(paths) >= FEWEST_HEADERS else 1
    for probes in ordered_map(_headers, paths, workers, chunk=512):
        yield from probes


def _headers(paths: Sequence[str]) -> list[Probe]:
    with _without_warnings():
        return [probe_image(path, decode=False) for path in paths]


@contextmanager
def _without_warnings() -> Iterator[None]:
    """Pillow warns of large images and odd EXIF; what matters of that is found by the rules."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _decoded(path: str) -> Probe:
    from PIL import Image, UnidentifiedImageError

    try:
        content = Path(path).read_bytes()
    except OSError as error:
        return Probe(State.UNREADABLE, error.strerror or str(error))
    probe = Probe(State.FINE, digest=blake2b(content, digest_size=16).digest())
    # Pillow's readers raise nearly anything at bytes that are not what they should be.
    try:
        image = Image.open(io.BytesIO(content))
    except UnidentifiedImageError:
        return Probe(
            State.UNREADABLE, "not an image, or its header is damaged", digest=probe.digest
        )
    except Exception as error:
        return Probe(State.UNREADABLE, str(error), digest=probe.digest)
    probe.size = image.size
    try:
        # A JPEG decoded at an eighth of its size still has every byte of its data read, in half the
        # time; other formats ignore this.
        image.draft("L", (2 * THUMBNAIL, 2 * THUMBNAIL))
        image.load()
        probe.thumbnail = _thumbnail(image)
    except Exception as error:
        probe.state = State.TRUNCATED if _is_truncation(error) else State.UNREADABLE
        probe.detail = str(error)
    # Only now: for a PNG, asking for EXIF decodes the pixels.
    if _orientation(image) >= 5:
        probe.size = probe.size[::-1]
    return probe


def _thumbnail(image: PillowImage.Image) -> np.ndarray:
    import numpy as np
    from PIL import Image

    side = (THUMBNAIL, THUMBNAIL)
    small = _grey(image).resize(side, Image.Resampling.LANCZOS, reducing_gap=3.0)
    turn = _TURNS.get(_orientation(image))
    if turn is not None:
        small = small.transpose(Image.Transpose[turn])
    return np.asarray(small, dtype=np.uint8)


def _grey(image: PillowImage.Image) -> PillowImage.Image:
    """An "L" image; 16- and 32-bit ones are stretched over their range instead of being cut at
    255."""
    import numpy as np
    from PIL import Image

    if not image.mode.startswith(("I", "F")):
        return image.convert("L")
    values = np.nan_to_num(np.asarray(image, dtype=np.float32))
    low, high = values.min(), values.max()
    scaled = (values - low) * (255 / max(high - low, 1e-6))
    return Image.fromarray(scaled.astype(np.uint8))


def _orientation(image: PillowImage.Image) -> int:
    try:
        value = image.getexif().get(_EXIF_ORIENTATION, 1)
    except Exception:  # broken EXIF counts as none, in Detectron2 too
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _is_truncation(error: Exception) -> bool:
    message = str(error).lower()
    return any(word in message for word in ("truncated", "broken data stream", "incomplete"))


def probe_subjects(
    subjects: Sequence[Subject],
    decode: bool,
    progress: bool = False,
    workers: int | None = None,
) -> int:
    """Fill in the probe of every image of the subjects that have an image root; how many files
    that were. The other arguments are those of `probe_images`."""
    rows: list[tuple[ImageRow, str]] = [
        (row, os.path.join(subject.root, row.file_name))
        for subject in subjects
        if subject.root is not None
        for row in subject.images
        if row.file_name is not None
    ]
    probes = probe_images((path for _, path in rows), decode, progress, workers)
    for row, path in rows:
        row.probe = probes[path]
    return len(probes)


@rule(Severity.ERROR)
def missing_image(subject: Subject) -> Iterator[str]:
    """A training run stops at an image that is not there, perhaps hours after its start."""
    listing: dict[str, str] | None = None
    for row in subject.images:
        if row.probe is None or row.probe.state is not State.MISSING:
            continue
        if listing is None:
            listing = {name.casefold(): name for name in _image_names(subject.root)}
        other = listing.get(row.file_name.replace("\\", "/").casefold())
        yield row.place + (f": but there is {other}" if other else "")


@rule(Severity.ERROR)
def unreadable_image(subject: Subject) -> Iterator[str]:
    """A training run stops at a file that cannot be decoded."""
    yield from _in_state(subject, State.UNREADABLE)


@rule(Severity.ERROR)
def truncated_image(subject: Subject) -> Iterator[str]:
    """The end of the file is missing, as after a broken download: decoding it stops the training,
    or gives grey where objects are labelled."""
    yield from _in_state(subject, State.TRUNCATED)


@rule(
    Severity.ERROR, mend="the file's size is recorded, where all boxes lie in it and refute no less"
)
def wrong_image_size(subject: Subject) -> Iterator[str]:
    """Boxes refer to pixels of the recorded size: if the file has another (after EXIF orientation
    is applied), the image was resized or rotated and its labels were not, or the record is
    wrong."""
    for row in subject.images:
        if row.probe is None or row.probe.size is None or None in (row.width, row.height):
            continue
        if row.probe.size != (row.width, row.height):
            real = "×".join(map(str, row.probe.size))
            yield f"{row.place}: recorded {row.width}×{row.height}, the file has {real}"


@rule_across(Severity.NOTE)
def unreferenced_image(subjects: Sequence[Subject]) -> Iterator[str]:
    """An image in the folder that no file names is not trained on: its labels may have been
    lost."""
    for root in dict.fromkeys(subject.root for subject in subjects if subject.root is not None):
        named = {
            os.path.normpath(subject.root / row.file_name)
            for subject in subjects
            if subject.root is not None
            for row in subject.images
            if row.file_name is not None
        }
        for name in _image_names(root):
            if os.path.normpath(root / name) not in named and not is_mask_name(name):
                yield name


def _in_state(subject: Subject, state: State) -> Iterator[str]:
    for row in subject.images:
        if row.probe is not None and row.probe.state is state:
            yield f"{row.place}: {row.probe.detail}"


def _image_names(root: Path) -> Iterator[str]:
    """POSIX paths, relative to `root`, of the image files under it, in order."""
    return filter(is_image_name, walk_files(root))
