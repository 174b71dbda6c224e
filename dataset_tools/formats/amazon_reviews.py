"""Amazon's product reviews as a bag of words: `amazon.npz`, one sparse matrix for four domains.

In this form (made for Chen et al., "Marginalized denoising autoencoders for domain adaptation",
ICML 2012, from the Multi-Domain Sentiment Dataset) they come with MDAN and many others that adapt
to domains:

    xx_data, xx_row, xx_col   a sparse matrix, words by reviews; xx_shape has its size
    yy                        (reviews, 1): -1 for a bad review, 1 for a good one
    offset                    where each domain begins: books, dvd, electronics, kitchen

The first 5,000 words are taken, which are the most frequent. A review is no image, but it is kept
as one: a grey row of 5,000 px, each of which is how often its word is there.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dataset_tools.arrays import Arrays, Source, plan_arrays
from dataset_tools.coco import Category
from dataset_tools.errors import InputError
from dataset_tools.formats.base import Evidence, Format, Glimpse, Option, Plan
from dataset_tools.notes import Notes
from dataset_tools.unpack import check_size

if TYPE_CHECKING:
    import numpy as np

DOMAINS = ("books", "dvd", "electronics", "kitchen")
CLASSES = ("negative", "positive")
WORDS = 5000
TRAINING = 2000  # reviews of each domain that are for training
_KEYS = frozenset(("xx_data", "xx_row", "xx_col", "xx_shape", "yy", "offset"))
_SEED = 0


@dataclass(frozen=True)
class Part:
    file: Path
    domain: str
    split: str


def plan(path: Path, notes: Notes, images: Path | None = None, domain: str | None = None) -> Plan:
    """Plan to read a domain of the file, or of the one in a folder."""
    file = path / "amazon.npz" if path.is_dir() else path
    if not file.is_file():
        raise InputError(f"{path}: there is no amazon.npz in it.")
    if domain is None:
        raise InputError(f"{path}: say by --domain which to read: {', '.join(DOMAINS)}.")
    sources = [Source(Part(file, domain, split), split) for split in ("train", "test")]
    return plan_arrays(path, sources, load, lambda seen: [Category(name) for name in CLASSES])


def recognise(glimpse: Glimpse) -> Evidence | None:
    """An archive of just these arrays."""
    import zipfile

    for name in glimpse.with_suffix(".npz")[:5]:
        if "/" in name or not glimpse.head_bytes(name).startswith(b"PK"):
            continue
        path = glimpse.path if glimpse.is_file else glimpse.path / name
        try:
            with zipfile.ZipFile(path) as archive:
                arrays = {entry.removesuffix(".npy") for entry in archive.namelist()}
        except (OSError, zipfile.BadZipFile):
            continue
        if arrays >= _KEYS:
            return Evidence(f"{name} has the arrays xx_data, xx_row, xx_col, yy and offset")
    return None


def load(part: Part) -> Arrays:
    """The reviews of a split of a domain, the training ones drawn by a fixed seed."""
    import numpy as np

    where = f"{part.file} ({part.domain}, {part.split})"
    try:
        words, labels, most = _domain(part.file, DOMAINS.index(part.domain))
        order = np.random.default_rng(_SEED).permutation(len(labels))
        kept = order[:TRAINING] if part.split == "train" else order[TRAINING:]
        pixels, remarks = _as_bytes(words[kept].toarray(), most)
    except (InputError, MemoryError):
        raise
    except Exception as error:  # a damaged or hostile file may raise nearly anything
        raise InputError(f"{part.file}: not a file of Amazon's reviews: {error!r}.") from error
    named = [(CLASSES[int(label > 0)],) for label in labels[kept]]
    return Arrays(pixels[:, None, :], named, where, remarks=remarks)


def _domain(file: Path, number: int):
    """(reviews, WORDS) as a sparse matrix, (reviews,) labels, and what a word of any domain weighs
    at most."""
    import numpy as np
    from scipy.sparse import coo_matrix

    with np.load(file, allow_pickle=False) as content:
        rows, columns, values = (content[key].ravel() for key in ("xx_row", "xx_col", "xx_data"))
        shape = tuple(int(n) for n in content["xx_shape"].ravel())
        labels = content["yy"].ravel()
        edges = [int(n) for n in content["offset"].ravel()]
    check_size(file, shape[1] * WORDS)
    if len(edges) != len(DOMAINS) + 1 or edges[-1] > shape[1] or len(labels) != shape[1]:
        raise ValueError(f"{shape[1]} reviews, {len(labels)} labels, domains begin at {edges}")
    matrix = coo_matrix((values, (columns, rows)), shape=shape[::-1]).tocsr()[:, :WORDS]
    part = slice(edges[number], edges[number + 1])
    counts = not np.any(matrix.data % 1)
    return matrix[part], labels[part], 255.0 if counts and matrix.max() <= 255 else matrix.max()


def _as_bytes(values: np.ndarray, most: float) -> tuple[np.ndarray, list[str]]:
    """Counts as they are; if the heaviest word is no count up to 255, all are scaled, and told."""
    import numpy as np

    if values.min(initial=0) < 0:
        raise ValueError(f"a word is there {values.min():g} times")
    if most == 255:
        return values.astype(np.uint8), []
    told = f"words weigh 0 to {most:g}; 8 bits of that are kept, as 0 to 255"
    return np.rint(values * (255 / most)).astype(np.uint8), [told]


FORMAT = Format(
    name="amazon-reviews",
    title="Amazon's reviews as a bag of words (amazon.npz)",
    layout="amazon.npz, or the folder of it",
    carries=("labels", "splits"),
    loses="words beyond the first 5,000",
    recognise=recognise,
    plan=plan,
    conventions="A review is a grey row of 5,000 px: how often each word is there. 2,000 reviews "
    "of a domain, drawn by a fixed seed, are for training, all others for testing.",
    options=(Option("--domain", "which of the four to read", choices=DOMAINS),),
)
