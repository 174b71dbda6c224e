"""Normalisation measured from the training images: per channel, and ZCA whitening."""

from __future__ import annotations

import hashlib
import io
import logging
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from detectron2.config import CfgNode
from detectron2.utils import comm

from dataset_tools.errors import InputError
from dataset_tools.files import atomic_path
from seriatim.data.build import build_mapper, classifies
from seriatim.data.classification.storage import cache_folder
from seriatim.data.image import record_image
from seriatim.data.loader import training_records, unlabelled_records
from seriatim.data.records import Record

logger = logging.getLogger(__name__)

CHOICES = ("", "measured", "zca")
MOST_FILES = 1000  # image files that are decoded to measure their channels
MOST_FITTED = 20_000  # images that ZCA is fitted to
LARGEST = 3 * 64 * 64  # numbers in an input that ZCA is fitted to: its matrix is that, squared


def resolve_normalisation(cfg: CfgNode) -> None:
    """Set MODEL.PIXEL_MEAN and PIXEL_STD, and MODEL.WHITENING, as SERIATIM.DATA.NORMALISE says.

    Only training images count, those without a label too, and not the validation set. Of more than
    `MOST_FILES` image files, or `MOST_FITTED` images for ZCA, so many are drawn.

    Raises:
        InputError: there is no such choice, nothing to train on, or images too large for ZCA.
    """
    choice = cfg.SERIATIM.DATA.NORMALISE
    if choice not in CHOICES:
        raise InputError(
            f"SERIATIM.DATA.NORMALISE is {choice!r}; it is one of {', '.join(map(repr, CHOICES))}."
        )
    if not choice:
        return
    records = _training_images(cfg)
    mean, std = measure_channels(_images(_drawn(records, MOST_FILES), cfg.INPUT.FORMAT))
    cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD = mean, std
    logger.info(f"MODEL.PIXEL_MEAN {mean} and PIXEL_STD {std} are measured")
    if choice == "zca":
        cfg.MODEL.WHITENING = str(fitted_whitening(cfg, records))


def _training_images(cfg: CfgNode) -> Sequence[Record]:
    records = training_records(cfg)[1]
    others = unlabelled_records(cfg) if classifies(cfg) else None
    return records if others is None else records.followed_by(others)


def _drawn(records: Sequence[Record], most: int) -> Iterator[Record]:
    """All records whose pixels are at hand, else a draw of so many; always the same."""
    if len(records) <= most or (most == MOST_FILES and "pixels" in records[0]):
        return iter(records)
    chosen = np.random.default_rng(0).choice(len(records), most, replace=False)
    return (records[i] for i in np.sort(chosen).tolist())


def _images(records: Iterable[Record], image_format: str) -> Iterator[np.ndarray]:
    return (record_image(record, image_format) for record in records)


def measure_channels(images: Iterable[np.ndarray]) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel over all pixels of (H, W, C) uint8 images.

    They are exact: the sums are whole numbers.
    """
    count, sums, squares = 0, 0, 0
    for image in images:
        pixels = image.reshape(-1, image.shape[2]).astype(np.int64)
        count += len(pixels)
        sums = sums + pixels.sum(0)
        squares = squares + (pixels**2).sum(0)
    mean = sums / count
    std = np.sqrt(np.maximum(squares / count - mean**2, 0))
    # A channel that never changes stays what it is.
    return mean.round(4).tolist(), np.where(std > 0, std, 1).round(4).tolist()


# ZCA


def fitted_whitening(cfg: CfgNode, records: Sequence[Record]) -> Path:
    """The file with the whitening of the training images, fitted now if it is not in the cache.

    It is called by a hash of the inputs that it is fitted to and of ZCA_EPSILON.
    """
    inputs = _inputs(cfg, records)
    epsilon = cfg.SERIATIM.DATA.ZCA_EPSILON
    mark = hashlib.blake2b(inputs.tobytes(), digest_size=16)
    about = (inputs.shape, cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD, epsilon)
    mark.update(repr(about).encode())
    path = cache_folder(cfg) / f"{mark.hexdigest()}.zca.npz"
    if comm.is_main_process() and not path.is_file():
        logger.info(f"Fitting ZCA whitening to {len(inputs):,} images")
        centre, spread = (
            np.array(numbers, np.float32).reshape(-1, 1, 1)
            for numbers in (cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD)
        )
        normalised = (inputs - centre) / spread
        mean, matrix = fit_zca(normalised.reshape(len(inputs), -1), epsilon)
        content = io.BytesIO()
        np.savez(content, shape=inputs.shape[1:], mean=mean, matrix=matrix)
        with atomic_path(path) as temporary:
            temporary.write_bytes(content.getvalue())
    comm.synchronize()
    return path


def _inputs(cfg: CfgNode, records: Sequence[Record]) -> np.ndarray:
    """(N, C, H, W) uint8, as the model gets them in testing."""
    mapper = build_mapper(cfg, is_train=False)
    first = mapper(records[0])["image"]
    if first.numel() > LARGEST:
        raise InputError(
            f"SERIATIM.DATA.NORMALISE zca: inputs of {'×'.join(map(str, first.shape))} would need a"
            f" matrix of {first.numel():,}² numbers. It is meant for images of up to 64×64 px; take"
            " measured."
        )
    chosen = _drawn(records, MOST_FITTED)
    return np.stack([mapper(record)["image"].numpy() for record in chosen])


def fit_zca(samples: np.ndarray, epsilon: float) -> tuple[np.ndarray, np.ndarray]:
    """Mean (D,) and matrix (D, D), symmetric, of the map that decorrelates `samples` (N, D) with
    the least change: (x - mean) @ matrix (Bell 1997, "The independent components of natural scenes
    are edge filters").

    Args:
        epsilon: added to the eigenvalues of the covariance, as a share of their mean.

    Returns:
        both float32.
    """
    mean = samples.mean(0, dtype=np.float64)
    centred = samples - mean.astype(samples.dtype)
    covariance = (centred.T @ centred).astype(np.float64) / (len(samples) - 1)
    values, vectors = np.linalg.eigh(covariance)
    values = np.maximum(values, 0) + epsilon * values.mean()
    # Directions without any variance stay 0 where nothing is added.
    scale = np.divide(1, np.sqrt(values), out=np.zeros_like(values), where=values > 0)
    matrix = (vectors * scale) @ vectors.T
    return mean.astype(np.float32), matrix.astype(np.float32)
