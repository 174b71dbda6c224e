"""Pictures that are (nearly) the same: resized, recompressed, or mirrored copies.

A 64-bit perceptual hash (the signs of the 8×8 lowest frequencies of a 32×32 grey picture about
their median: "pHash", Zauner 2010) proposes pairs; the correlation of the two grey pictures
decides.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dataset_tools.checks.report import Severity, rule, rule_across
from dataset_tools.checks.subject import ImageRow, Subject

if TYPE_CHECKING:
    import numpy as np

RADIUS = 7  # bits of 64 that may differ; one less than the 8 bytes that `near_pairs` looks at
CORRELATION = 0.95  # of the grey pictures: copies have more, other scenes less
FLATTEST = 3.0  # grey levels of standard deviation below which a picture shows nothing to compare
_BLOCK = 512  # hashes compared with each other at once: more do not fit into the cache


def perceptual_hashes(thumbnails: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Hashes of pictures and of their mirror images.

    Args:
        thumbnails: (N, 32, 32) grey.

    Returns:
        Two (N,) uint64 arrays.
    """
    import numpy as np
    from scipy.fft import dctn

    low = dctn(thumbnails.astype(np.float32), axes=(1, 2))[:, :8, :8]
    # Mirroring a picture turns the sign of the odd horizontal frequencies, and nothing else.
    signs = np.where(np.arange(8) % 2, -1, 1)
    return _signs_about_median(low), _signs_about_median(low * signs)


def near_pairs(hashes: np.ndarray) -> Iterator[np.ndarray]:
    """All pairs of hashes that differ in at most RADIUS bits, each pair once.

    Two hashes that differ in at most 7 bits are equal in at least one of their 8 bytes, so only
    those with an equal byte are compared: N²/32 comparisons for random hashes, none of them in
    Python.

    Args:
        hashes: (N,) uint64.

    Yields:
        (M, 2) int64 arrays of indices, the smaller first.
    """
    import numpy as np

    parts = np.ascontiguousarray(hashes).view(np.uint8).reshape(-1, 8)
    for byte in range(8):
        order = np.argsort(parts[:, byte], kind="stable")
        bounds = np.flatnonzero(np.diff(parts[order, byte], prepend=-1, append=256).astype(bool))
        for start, end in itertools.pairwise(bounds):
            for rows, columns in _blocks(order[start:end]):
                distance = np.bitwise_count(hashes[rows, None] ^ hashes[None, columns])
                near = distance <= RADIUS
                if rows is columns:
                    near = np.triu(near, 1)
                row, column = np.nonzero(near)
                first, second = rows[row], columns[column]
                # A pair that an earlier byte brought together was yielded there.
                fresh = ~(parts[first, :byte] == parts[second, :byte]).any(axis=1)
                if fresh.any():
                    yield np.sort(np.stack([first[fresh], second[fresh]], axis=1), axis=1)


def twin_groups(thumbnails: np.ndarray) -> list[list[int]]:
    """Groups of two or more look-alikes (mirrored or not) among pictures, by index.

    Args:
        thumbnails: (N, 32, 32) uint8 grey.

    Returns:
        Sorted lists of indices, those with the smallest first index first. Likeness is passed on:
        in a group each picture resembles another one, but not necessarily all.
    """
    import numpy as np
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    count = len(thumbnails)
    if count < 2:
        return []
    pictures = thumbnails.reshape(count, -1).astype(np.float32)
    pictures -= pictures.mean(axis=1, keepdims=True)
    # A picture that is too even to show anything comes out too short to correlate with any other.
    deviation = np.maximum(pictures.std(axis=1, keepdims=True), FLATTEST)
    pictures /= deviation * np.sqrt(pictures.shape[1])
    mirrored = pictures.reshape(thumbnails.shape)[:, :, ::-1].reshape(count, -1)
    twins = [np.empty((0, 2), np.int64)]
    for pairs in near_pairs(np.concatenate(perceptual_hashes(thumbnails))):
        first, second = pairs.T
        # A pair of two mirrored pictures, or a picture and its own mirror image, says nothing new.
        pairs = pairs[(first < count) & (first != second - count)]
        if not len(pairs):
            continue
        first, second = pairs.T
        other = np.where(
            (second < count)[:, None], pictures[second % count], mirrored[second % count]
        )
        likeness = np.einsum("ij,ij->i", pictures[first], other)
        twins.append(pairs[likeness >= CORRELATION] % count)
    first, second = np.concatenate(twins).T
    graph = coo_array((np.ones(len(first), bool), (first, second)), shape=(count, count))
    groups = defaultdict(list)
    for index, label in enumerate(connected_components(graph, directed=False)[1]):
        groups[label].append(index)
    return [group for group in groups.values() if len(group) > 1]


@rule(Severity.WARNING)
def copied_image(subject: Subject) -> Iterator[str]:
    """The same bytes under several names: the picture counts more than others, and labels that
    differ between the copies contradict each other."""
    for group in _copies([subject]):
        yield _name_all(group, [subject])


@rule_across(Severity.ERROR)
def image_in_two_splits(subjects: Sequence[Subject]) -> Iterator[str]:
    """The very same image in training and validation: the measured AP is then memory, not skill."""
    for group in _copies(subjects):
        if len({id(subject) for subject, _ in group}) > 1:
            yield _name_all(group, subjects)


@rule(Severity.WARNING)
def near_duplicate_image(subject: Subject) -> Iterator[str]:
    """Resized, recompressed or mirrored copies: split such a dataset at random, and they leak."""
    for group in _look_alikes([subject]):
        yield _name_all(group, [subject])


@rule_across(Severity.WARNING)
def near_duplicate_across_splits(subjects: Sequence[Subject]) -> Iterator[str]:
    """A look-alike of a training image in validation lets memory pass for skill. Look at the
    pictures: frames of one scene look alike too."""
    for group in _look_alikes(subjects) if len(subjects) > 1 else ():
        if len({id(subject) for subject, _ in group}) > 1:
            yield _name_all(group, subjects)


Member = tuple[Subject, ImageRow]


def _copies(subjects: Sequence[Subject]) -> list[list[Member]]:
    """Groups of two or more rows whose files are the same path or have the same bytes."""
    groups: dict[Path | bytes, list[Member]] = defaultdict(list)
    for subject in subjects:
        for row in _distinct_files(subject):
            digest = row.probe.digest if row.probe is not None else None
            root = subject.root if subject.root is not None else Path()
            groups[digest or root / row.file_name].append((subject, row))
    return [group for group in groups.values() if len(group) > 1]


def _look_alikes(subjects: Sequence[Subject]) -> Iterator[list[Member]]:
    """Groups of look-alikes that are not all copies of each other."""
    import numpy as np

    members: list[Member] = [
        (subject, row)
        for subject in subjects
        for row in _distinct_files(subject)
        if row.probe is not None and row.probe.thumbnail is not None
    ]
    # Copies are other rules' work. One of each (per file) is enough here.
    unlike = list(
        {(id(subject), row.probe.digest): (subject, row) for subject, row in members}.values()
    )
    if len(unlike) < 2:
        return
    for group in twin_groups(np.stack([row.probe.thumbnail for _, row in unlike])):
        found = [unlike[index] for index in group]
        if len({row.probe.digest for _, row in found}) > 1:
            yield found


def _distinct_files(subject: Subject) -> list[ImageRow]:
    rows = {row.file_name: row for row in subject.images if row.file_name is not None}
    return list(rows.values())


def _name_all(group: list[Member], subjects: Sequence[Subject]) -> str:
    def name(member: Member) -> str:
        subject, row = member
        return f"{subject.path.name}: {row.file_name}" if len(subjects) > 1 else row.file_name

    shown = " ~ ".join(map(name, group[:4]))
    return shown + (f" and {len(group) - 4} more" if len(group) > 4 else "")


def _signs_about_median(low: np.ndarray) -> np.ndarray:
    import numpy as np

    flat = low.reshape(len(low), 64)
    bits = flat > np.median(flat, axis=1, keepdims=True)
    return np.packbits(bits, axis=1).view(np.uint64).ravel()


def _blocks(indices: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Blocks whose products cover every unordered pair of `indices` once."""
    chunks = [indices[start : start + _BLOCK] for start in range(0, len(indices), _BLOCK)]
    for position, rows in enumerate(chunks):
        for columns in chunks[position:]:
            yield rows, columns
