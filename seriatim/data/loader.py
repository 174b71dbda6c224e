"""Loaders whose k-th batch depends on the seed and k alone.

The stream of training samples is a function: position p of the run → (index of a record, seed of
its augmentations). A batch is a slice of positions, a process takes its part of that slice, and a
worker seeds the generators from the position before it maps a record. So it makes no difference how
many workers and processes there are, or whether the run was interrupted: batch k is batch k.
"""

from __future__ import annotations

import itertools
import logging
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.utils.data as torchdata
from detectron2.config import CfgNode
from detectron2.data import (
    DatasetCatalog,
    DatasetFromList,
    MetadataCatalog,
    get_detection_dataset_dicts,
)
from detectron2.data.build import (
    load_proposals_into_dataset,
    print_instances_class_histogram,
    trivial_batch_collator,
)
from detectron2.data.samplers import InferenceSampler, RepeatFactorTrainingSampler
from detectron2.utils import comm
from detectron2.utils.file_io import PathManager

from dataset_tools.errors import InputError
from seriatim.checkpoint import load_arrays
from seriatim.data.build import Mapper, build_mapper, classifies
from seriatim.data.classification.dataset import LabelledDataset
from seriatim.data.classification.draw import draw
from seriatim.data.mapper import SeriatimMapper
from seriatim.data.packed import PackedDataset, Selection

logger = logging.getLogger(__name__)

Record = dict[str, Any]
SAMPLERS = (
    "TrainingSampler",
    "RepeatFactorTrainingSampler",
    "ClassBalancedTrainingSampler",
    "RandomSubsetTrainingSampler",
)


@dataclass(frozen=True)
class Stream:
    """An endless sequence of record indices, epoch after epoch.

    Attributes:
        repeat: (N,) how often each record appears in an epoch; a fraction is its probability of one
            more.
        seed: of the order.
        shuffle: False gives the records in their own order.
    """

    repeat: np.ndarray
    seed: int
    shuffle: bool = True

    def epoch(self, number: int) -> np.ndarray:
        """The indices of one epoch; every epoch can be computed without the ones before."""
        rng = np.random.default_rng((self.seed, number))
        whole = np.floor(self.repeat)
        times = whole + (rng.random(len(self.repeat)) < self.repeat - whole)
        indices = np.repeat(np.arange(len(self.repeat)), times.astype(np.int64))
        return rng.permutation(indices) if self.shuffle else indices

    def start_at(self, position: int) -> Iterator[tuple[int, int]]:
        """(position, index) from `position` on."""
        first = 0
        for number in itertools.count():
            indices = self.epoch(number)
            if first + len(indices) > position:
                skip = max(0, position - first)
                yield from enumerate(indices[skip:].tolist(), first + skip)
            first += len(indices)


class TrainingBatches(torchdata.Sampler):
    """This process's part of every batch from `start` on, endlessly: lists of (position, index).

    Args:
        batch_size: images per batch over all processes.
        group: for each record a label; the records of a batch all have the same one. None: any.
    """

    def __init__(
        self,
        stream: Stream,
        batch_size: int,
        start: int = 0,
        group: np.ndarray | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if batch_size % world_size:
            raise InputError(
                f"SOLVER.IMS_PER_BATCH {batch_size} cannot be shared evenly by {world_size}"
                " processes."
            )
        self._stream, self._batch_size, self._start, self._group = stream, batch_size, start, group
        share = batch_size // world_size
        self._mine = slice(rank * share, (rank + 1) * share)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        batches = self._any() if self._group is None else self._grouped()
        for batch in batches:
            yield batch[self._mine]

    def _any(self) -> Iterator[list[tuple[int, int]]]:
        stream = self._stream.start_at(self._start * self._batch_size)
        while True:
            yield list(itertools.islice(stream, self._batch_size))

    def _grouped(self) -> Iterator[list[tuple[int, int]]]:
        """What waits in a group depends on all before: a resumed run replays the indices."""
        waiting: dict[Any, list[tuple[int, int]]] = {}
        done = 0
        for position, index in self._stream.start_at(0):
            batch = waiting.setdefault(self._group[index], [])
            batch.append((position, index))
            if len(batch) == self._batch_size:
                del waiting[self._group[index]]
                done += 1
                if done > self._start:
                    yield batch


class PairedBatches(torchdata.Sampler):
    """Batches of two streams: first those of `labelled`, then those of `unlabelled`, whose indices
    go on from `offset` and whose keys end in 1, so that they are not augmented alike."""

    def __init__(self, labelled: TrainingBatches, unlabelled: TrainingBatches, offset: int) -> None:
        self._labelled, self._unlabelled, self._offset = labelled, unlabelled, offset

    def __iter__(self) -> Iterator[list[tuple[int, ...]]]:
        for first, second in zip(self._labelled, self._unlabelled, strict=False):
            yield [*first, *((position, self._offset + index, 1) for position, index in second)]


class MappedDataset(torchdata.Dataset):
    """Maps records; a key (position, index), or (position, index, stream), first seeds the
    generators by its position and stream.

    Workers hand an InputError on as a value, because torch would put a traceback into its message.
    """

    def __init__(self, records: Sequence[Record], mapper: Mapper, seed: int = 0) -> None:
        self.records = records
        self._mapper = mapper
        self._seed = seed

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, key: int | tuple[int, ...]) -> Record | InputError:
        return self.__getitems__([key])[0]

    def __getitems__(self, keys: Sequence[int | tuple[int, ...]]) -> list[Record | InputError]:
        """torch asks for a batch at once: the generators are put back only once."""
        if not isinstance(keys[0], tuple):
            return [self._mapped(key) for key in keys]
        records = []
        with preserved_generators():
            for position, index, *stream in keys:
                seed_generators(self._seed, position, *stream)
                records.append(self._mapped(index))
        return records

    def _mapped(self, index: int) -> Record | InputError:
        try:
            return self._mapper(self.records[index])
        except InputError as error:
            return error


@contextmanager
def seeded(*key: int) -> Iterator[None]:
    """Seed Python's, NumPy's and torch's CPU generators by `key`; put them back afterwards."""
    with preserved_generators():
        seed_generators(*key)
        yield


@contextmanager
def preserved_generators() -> Iterator[None]:
    """Put Python's, NumPy's and torch's CPU generators back afterwards."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])


def seed_generators(*key: int) -> None:
    """Seed Python's, NumPy's and torch's CPU generators by `key`."""
    words = np.random.SeedSequence(key).generate_state(4)
    random.seed(int(words[0]))
    np.random.seed(words[1:3])
    torch.random.default_generator.manual_seed(int(words[3]))


class Loader(torchdata.DataLoader):
    """A DataLoader of lists of mapped records that raises an InputError of a worker as it is."""

    def __init__(self, dataset: MappedDataset, num_workers: int, **kwargs: Any) -> None:
        super().__init__(
            dataset,
            num_workers=num_workers,
            collate_fn=pack if num_workers else trivial_batch_collator,
            worker_init_fn=_start_worker,
            **kwargs,
        )

    def __iter__(self) -> Iterator[list[Record]]:
        for batch in super().__iter__():
            batch = unpack(batch)
            for record in batch:
                if isinstance(record, InputError):
                    raise record
            yield batch


@dataclass(frozen=True)
class Packed:
    """A batch on its way from a worker: each tensor by itself would cost more than its mapping.

    Attributes:
        records: without their images, and with the number of their views.
        images: (N, C, H, W), those of the records one after the other, each with its views behind.
    """

    records: list[Record]
    images: torch.Tensor


def pack(batch: list[Record]) -> list[Record] | Packed:
    """Records with a label and images of one size as `Packed`; others as they are."""
    if any(isinstance(record, InputError) or "label" not in record for record in batch):
        return batch
    images = [image for r in batch for image in (r["image"], *r.get("views", ()))]
    if len({image.shape for image in images}) > 1:
        return batch
    records = []
    for record in batch:
        views = {"views": len(record["views"])} if "views" in record else {}
        records.append({**record, **views, "image": None})
    return Packed(records, torch.stack(images))


def unpack(batch: list[Record] | Packed) -> list[Record]:
    """What `pack` was given."""
    if not isinstance(batch, Packed):
        return batch
    images = iter(batch.images.unbind())
    for record in batch.records:
        record["image"] = next(images)
        if "views" in record:
            record["views"] = list(itertools.islice(images, record["views"]))
    return batch.records


def _start_worker(_: int) -> None:
    cv2.setNumThreads(0)  # workers are processes already


def build_train_loader(
    cfg: CfgNode, mapper: Mapper | None = None, start_iteration: int = 0, seed: int | None = None
) -> Loader:
    """The batches of DATASETS.TRAIN from batch `start_iteration` on, without end.

    Each batch is a list of SOLVER.IMS_PER_BATCH / processes mapped records, and depends on the seed
    and on its number only. Where SERIATIM.SEMI leaves some labels out, those records are followed
    by UNLABELED_RATIO times as many unlabelled ones.

    Args:
        mapper: a function of a record; default `build_mapper(cfg, is_train=True)`. Its randomness
            comes from the global generators.
        start_iteration: number of the first batch. A step that accumulates takes several batches.
        seed: default cfg.SEED, or where that is negative one that the processes agree on.

    Raises:
        InputError: a dataset is unknown or empty, or the datasets do not go together.
    """
    names = list(cfg.DATASETS.TRAIN)
    sizes, records = training_records(cfg)
    if seed is None:
        seed = cfg.SEED if cfg.SEED >= 0 else comm.shared_random_seed()

    def batches_of(repeat: np.ndarray, size: int, group: np.ndarray | None) -> TrainingBatches:
        stream = Stream(repeat, seed, shuffle=not cfg.SERIATIM.DETERMINISTIC_DEBUG)
        rank, processes = comm.get_rank(), comm.get_world_size()
        return TrainingBatches(stream, size, start_iteration, group, rank, processes)

    batches = batches_of(
        _repeat_factors(cfg, names, sizes, records, seed),
        cfg.SOLVER.IMS_PER_BATCH,
        _orientations(records) if cfg.DATALOADER.ASPECT_RATIO_GROUPING else None,
    )
    unlabelled = unlabelled_records(cfg)
    if unlabelled is not None:
        size = cfg.SOLVER.IMS_PER_BATCH * cfg.SERIATIM.SEMI.UNLABELED_RATIO
        others = batches_of(np.ones(len(unlabelled)), size, None)
        batches = PairedBatches(batches, others, offset=len(records))
        records = records.followed_by(unlabelled)
    if mapper is None:
        mapper = build_mapper(cfg, is_train=True)
    stored = _stored(records)
    if isinstance(mapper, SeriatimMapper):
        mapper.use_pool(stored)
    return Loader(
        MappedDataset(stored, mapper, seed),
        cfg.DATALOADER.NUM_WORKERS,
        batch_sampler=batches,
    )


def build_test_loader(
    cfg: CfgNode, name: str, mapper: Mapper | None = None, batch_size: int | None = None
) -> Loader:
    """All images of dataset `name` once, shared among the processes, in lists of `batch_size`
    (default: by SERIATIM.EVAL.BATCH_SIZE)."""
    _check_known(name)
    records = DatasetCatalog.get(name)
    if not records:
        raise InputError(f"The dataset {name} has no images: there is nothing to evaluate on.")
    if cfg.MODEL.LOAD_PROPOSALS:
        records = list(records)
        number = [*cfg.DATASETS.TEST, name].index(name)
        _add_proposals(records, cfg.DATASETS.PROPOSAL_FILES_TEST, number)
    if mapper is None:
        mapper = build_mapper(cfg, is_train=False)
    if batch_size is None:
        automatic = max(1, cfg.SOLVER.IMS_PER_BATCH) if classifies(cfg) else 1
        batch_size = cfg.SERIATIM.EVAL.BATCH_SIZE or automatic
    stored = _stored(records)
    return Loader(
        MappedDataset(stored, mapper),
        cfg.DATALOADER.NUM_WORKERS,
        sampler=InferenceSampler(len(stored)),
        batch_size=batch_size,
    )


def _stored(records: Sequence[Record]) -> Sequence[Record]:
    """The records in a form that workers share instead of making copies."""
    if isinstance(records, PackedDataset | LabelledDataset | Selection):
        return records
    return DatasetFromList(records, copy=False)  # one block of bytes


def training_records(cfg: CfgNode) -> tuple[list[int], Sequence[Record]]:
    """The records that training draws from, and how many of them each of DATASETS.TRAIN gives.

    Images without objects are left out where DATALOADER.FILTER_EMPTY_ANNOTATIONS says so. Of images
    with a label as a whole these are the ones that keep it; `unlabelled_records` gives the others.
    """
    if not cfg.DATASETS.TRAIN:
        raise InputError("DATASETS.TRAIN is empty: name a dataset of SERIATIM.DATASETS there.")
    for name in cfg.DATASETS.TRAIN:
        _check_known(name)
    datasets = [DatasetCatalog.get(name) for name in cfg.DATASETS.TRAIN]
    min_keypoints = 0
    if cfg.MODEL.KEYPOINT_ON:
        min_keypoints = cfg.MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE
    if any(isinstance(d, LabelledDataset) for d in datasets):
        return _labelled_training_records(cfg, datasets)
    if not cfg.MODEL.LOAD_PROPOSALS and all(isinstance(d, PackedDataset) for d in datasets):
        return _packed_training_records(cfg, datasets, min_keypoints)
    sizes: list[int] = []
    records: list[Record] = []
    for i, name in enumerate(cfg.DATASETS.TRAIN):
        try:
            found = get_detection_dataset_dicts(
                name,
                filter_empty=cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS,
                min_keypoints=min_keypoints,
            )
        except AssertionError:
            found = []
        _check_usable(name, len(found))
        if cfg.MODEL.LOAD_PROPOSALS:
            _add_proposals(found, cfg.DATASETS.PROPOSAL_FILES_TRAIN, i)
        sizes.append(len(found))
        records += found
    return sizes, records


def _packed_training_records(
    cfg: CfgNode, datasets: Sequence[PackedDataset], min_keypoints: int
) -> tuple[list[int], Selection]:
    """What `get_detection_dataset_dicts` chooses, without making a record."""
    kept = []
    for name, dataset in zip(cfg.DATASETS.TRAIN, datasets, strict=True):
        usable = np.ones(len(dataset), bool)
        if cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS or min_keypoints:
            usable = dataset.usable(cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS, min_keypoints)
        _check_usable(name, np.count_nonzero(usable))
        logger.info(f"{name}: {np.count_nonzero(usable)} of {len(dataset)} images are used")
        kept.append(usable)
        classes = MetadataCatalog.get(name).thing_classes
        print_instances_class_histogram(Selection.of([dataset], [usable]).classes(), classes)
    return [int(np.count_nonzero(usable)) for usable in kept], Selection.of(datasets, kept)


def _labelled_training_records(
    cfg: CfgNode, datasets: Sequence[Sequence[Record]]
) -> tuple[list[int], Selection]:
    """The records that keep their label, by SERIATIM.SEMI."""
    parts = []
    for name, dataset in zip(cfg.DATASETS.TRAIN, datasets, strict=True):
        if not isinstance(dataset, LabelledDataset):
            raise InputError(
                f"DATASETS.TRAIN: {name} has objects, other datasets have labels of whole images:"
                " they cannot be trained on together."
            )
        parts.append(dataset.subset(draw(cfg, name, dataset).labelled))
        if not len(parts[-1]):
            raise InputError(f"The training set {name} has no image with a label.")
        logger.info(f"{name}: {len(parts[-1])} of {len(dataset)} images are used with their label")
    return [len(part) for part in parts], _all_of(parts)


def unlabelled_records(cfg: CfgNode) -> Selection | None:
    """The records of DATASETS.TRAIN that SERIATIM.SEMI leaves without a label, or that have none;
    None if there are none, or UNLABELED_RATIO is 0."""
    if cfg.SERIATIM.SEMI.UNLABELED_RATIO <= 0:
        return None
    parts = []
    for name in cfg.DATASETS.TRAIN:
        dataset = DatasetCatalog.get(name)
        if isinstance(dataset, LabelledDataset):
            parts.append(dataset.subset(draw(cfg, name, dataset).unlabelled, labelled=False))
    return _all_of(parts) if any(map(len, parts)) else None


def _all_of(parts: Sequence[LabelledDataset]) -> Selection:
    return Selection.of(parts, [np.ones(len(part), bool) for part in parts])


def _check_usable(name: str, count: int) -> None:
    if not count:
        raise InputError(
            f"The training set {name} has no image that can be used: it has none, or"
            " DATALOADER.FILTER_EMPTY_ANNOTATIONS leaves out those without objects."
        )


def _add_proposals(records: list[Record], files: Sequence[str], number: int) -> None:
    """Put the precomputed proposals of dataset `number` into its records."""
    if number >= len(files):
        raise InputError(
            "MODEL.LOAD_PROPOSALS needs a file of proposals for each dataset, in"
            " DATASETS.PROPOSAL_FILES_TRAIN and PROPOSAL_FILES_TEST."
        )
    path = Path(PathManager.get_local_path(files[number]))
    if not path.is_file():
        raise InputError(f"There is no file of proposals {path}. Check DATASETS.PROPOSAL_FILES_….")
    load_arrays(path)  # Detectron2 unpickles it without asking: it must hold nothing but arrays
    load_proposals_into_dataset(records, str(path))


def _check_known(name: str) -> None:
    if name not in DatasetCatalog.list():
        raise InputError(f"There is no dataset {name}. Describe it in SERIATIM.DATASETS.")


def _repeat_factors(
    cfg: CfgNode, names: Sequence[str], sizes: Sequence[int], records: Sequence[Record], seed: int
) -> np.ndarray:
    """How often each record appears per epoch, by SAMPLER_TRAIN and DATASET_WEIGHTS."""
    repeat = np.ones(len(records))
    sampler = cfg.DATALOADER.SAMPLER_TRAIN
    if sampler in ("RepeatFactorTrainingSampler", "ClassBalancedTrainingSampler"):
        packed = isinstance(records, Selection)
        if not packed and any("annotations" not in record for record in records):
            raise InputError(f"DATALOADER.SAMPLER_TRAIN {sampler} needs data with objects.")
        classes = records.classes() if packed else records
        if sampler == "ClassBalancedTrainingSampler":
            repeat = class_aware_factors(classes)
        else:
            repeat = RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(
                classes, cfg.DATALOADER.REPEAT_THRESHOLD
            ).numpy()
    elif sampler == "RandomSubsetTrainingSampler":
        count = max(1, int(len(records) * cfg.DATALOADER.RANDOM_SUBSET_RATIO))
        repeat = np.zeros(len(records))
        repeat[np.random.default_rng(seed).permutation(len(records))[:count]] = 1
    elif sampler != "TrainingSampler":
        raise InputError(
            f"DATALOADER.SAMPLER_TRAIN is {sampler}; there are {', '.join(SAMPLERS)}. Datasets are"
            " weighted by SERIATIM.DATASET_WEIGHTS."
        )
    weights = cfg.SERIATIM.DATASET_WEIGHTS
    if not weights:
        return repeat
    if len(weights) != len(names) or any(weight < 0 for weight in weights) or not sum(weights):
        raise InputError(
            f"SERIATIM.DATASET_WEIGHTS {tuple(weights)} needs one weight of at least 0 for each of"
            f" the {len(names)} datasets in DATASETS.TRAIN ({', '.join(names)}), not all of them 0."
        )
    # An epoch keeps its length; a dataset's share of it is its share of the weights.
    parts = np.split(repeat, np.cumsum(sizes)[:-1])
    total = repeat.sum() / sum(weights)
    return np.concatenate(
        [
            part * (total * w / max(part.sum(), 1e-12))
            for part, w in zip(parts, weights, strict=True)
        ]
    )


def class_aware_factors(records: Iterable[Record]) -> np.ndarray:
    """(N,) how often each record appears if a class is drawn, all equally often, and then an image
    that shows it (Shen 2016, arXiv 1512.05830); those that show none appear once."""
    shown = [
        {a["category_id"] for a in record["annotations"] if not a.get("iscrowd", 0)}
        for record in records
    ]
    counts = Counter(itertools.chain.from_iterable(shown))
    shares = np.array([sum(1 / counts[c] for c in classes) for classes in shown])
    empty = np.array([not classes for classes in shown])
    return np.where(empty, 1.0, shares * ((~empty).sum() / max(len(counts), 1)))


def _orientations(records: Sequence[Record]) -> np.ndarray:
    """Detectron2's two groups: landscape images, and all others."""
    if isinstance(records, Selection):
        return records.landscape()
    try:
        return np.array([record["width"] > record["height"] for record in records])
    except KeyError:
        raise InputError(
            "DATALOADER.ASPECT_RATIO_GROUPING needs the size of every image in its record, which"
            " this dataset does not have. Set it to False."
        ) from None
