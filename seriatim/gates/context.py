"""What gates have in hand: the config and, made from it as training would, data and models."""

from __future__ import annotations

import copy
import itertools
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data import transforms as T
from detectron2.structures import Boxes
from detectron2.utils.events import EventStorage
from torch import nn

from seriatim.data.classification.dataset import UNLABELLED
from seriatim.data.loader import seeded, training_records
from seriatim.engine.state import preserve_plain_state, preserve_rng
from seriatim.gates.labelled import as_dataset, has_labels
from seriatim.gates.modes import evaluating
from seriatim.gates.reads import NotingConfig, Reads, shared

if TYPE_CHECKING:
    from seriatim.engine.trainer import Trainer

TRIALS = 8  # of a mapper, for randomness: a coin's toss, as a flip is, agrees once in 128 times
Record = dict[str, Any]
Batch = list[dict[str, Any]]


class Context:
    """The pipeline that a config and a trainer class describe.

    Whatever it gives is made by the trainer's own `build_*` methods, so that a user's overrides are
    tested as they are. What gates do with models, generators and catalogs leaves no trace.

    Args:
        cfg: resolved and frozen, as `seriatim.engine.setup.setup` gives it.
        trainer_class: the trainer whose `build_*` methods make the parts.
        processes: that will train together.

    Attributes:
        plain: the config as it was given.
        cfg: the same; which of its keys are read is noted in `reads`.
    """

    SEED = 7  # of everything random in a gate: a verdict must not depend on luck

    def __init__(
        self, cfg: CfgNode, trainer_class: type[Trainer] | None = None, processes: int = 1
    ) -> None:
        if trainer_class is None:
            from seriatim.engine.trainer import Trainer as trainer_class  # noqa: N813
        self.plain = cfg
        self.reads = Reads()
        self.cfg = NotingConfig.of(cfg, self.reads)
        self.trainer_class = trainer_class
        self.processes = processes

    # Nothing is left behind

    @contextmanager
    def untouched(self) -> Iterator[None]:
        """Random generators, cuDNN's and determinism's flags and the catalogs are put back."""
        cudnn = torch.backends.cudnn
        flags = (cudnn.benchmark, cudnn.deterministic)
        deterministic = torch.are_deterministic_algorithms_enabled()
        warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
        names, described = set(DatasetCatalog.list()), set(MetadataCatalog.list())
        with preserve_rng():
            try:
                torch.manual_seed(self.SEED)
                yield
            finally:
                cudnn.benchmark, cudnn.deterministic = flags
                torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)
                for name in set(DatasetCatalog.list()) - names:
                    DatasetCatalog.remove(name)
                for name in set(MetadataCatalog.list()) - described:
                    MetadataCatalog.remove(name)

    # Config

    def variant(self, *overrides: Any) -> CfgNode:
        """The config with KEY, VALUE, KEY, VALUE … changed; a scratch folder as OUTPUT_DIR."""
        cfg = self.plain.clone()
        cfg.defrost()
        cfg.OUTPUT_DIR = self.scratch
        cfg.merge_from_list(list(overrides))
        cfg.freeze()
        return NotingConfig.of(cfg, self.reads, ("OUTPUT_DIR", *overrides[::2]))

    @cached_property
    def _scratch(self) -> tempfile.TemporaryDirectory:
        return tempfile.TemporaryDirectory(prefix="seriatim_gates_")

    @property
    def scratch(self) -> str:
        """A folder for what trainers and evaluators write; gone with the context."""
        return self._scratch.name

    # Data

    @shared
    def train_records(self) -> list[Record]:
        """The records that training draws from."""
        return training_records(self.cfg)[1]

    @shared
    def test_records(self) -> list[Record]:
        """The records of the first of DATASETS.TEST; [] if there is none."""
        names = self.cfg.DATASETS.TEST
        return DatasetCatalog.get(names[0]) if names else []

    def covering(self, records: Sequence[Record], count: int) -> list[Record]:
        """`count` records that show as many classes as can be, those with few objects first."""
        pool = [record for record in records if classes_of(record)]
        pool.sort(key=lambda record: (abs(len(objects_of(record)) - 6), record["file_name"]))
        chosen: list[Record] = []
        seen: set[int] = set()
        while pool and len(chosen) < count:
            best = max(pool, key=lambda record: len(classes_of(record) - seen))
            if not classes_of(best) - seen and seen:
                seen = set()  # all that can be covered is: begin anew with what is left
                best = max(pool, key=lambda record: len(classes_of(record)))
            seen |= classes_of(best)
            pool = [record for record in pool if record is not best]  # == would compare pixels
            chosen.append(best)
        return chosen

    def dataset_of(self, records: Sequence[Record], like: str, name: str) -> str:
        """Register `records` under a name of the gates' own, with the metadata of `like`.

        Its metadata has no json_file: an evaluator makes its own from the records.
        """
        name = f"__gates_{name}"
        if name in DatasetCatalog.list():
            DatasetCatalog.remove(name)
            MetadataCatalog.pop(name, None)
        kept = {k: v for k, v in MetadataCatalog.get(like).as_dict().items() if k not in _OF_FILES}
        if has_labels(records):
            dataset = as_dataset(name, kept["thing_classes"], records)
            DatasetCatalog.register(name, lambda: dataset)
        else:
            DatasetCatalog.register(name, lambda: copy.deepcopy(list(records)))
        MetadataCatalog.get(name).set(**{**kept, "name": name})
        return name

    def train_mapper(self, augment: bool = True):
        """The trainer's mapper for training; without `augment` images are resized as in testing."""
        from seriatim.data.build import fixed_augmentations

        mapper = self.trainer_class.build_mapper(self.cfg, is_train=True)
        if not augment and hasattr(mapper, "augmentations"):
            mapper.augmentations = T.AugmentationList(fixed_augmentations(self.cfg))
            if hasattr(mapper, "recompute_boxes"):
                mapper.recompute_boxes = False  # that is for crops, of which there are none now
        return mapper

    @shared
    def restless(self) -> bool:
        """Whether the mapper augments by itself: though its augmentations are taken away, one
        record comes in several ways."""
        records = [r for r in self.train_records[:1] if not has_labels([r])]
        if not records:
            return False
        mapper = self.train_mapper(augment=False)
        images = []
        for number in range(TRIALS):
            with seeded(self.SEED, number):
                images.append(mapper(copy.deepcopy(records[0]))["image"])
        first = images[0]
        return any(i.shape != first.shape or not torch.equal(i, first) for i in images[1:])

    def inputs(
        self, records: Sequence[Record], augment: bool = False, short_edge: int | None = None
    ) -> Batch:
        """`records` mapped for training, each with a seed of its own.

        A `short_edge` in px replaces the size that they are resized to without `augment`, unless
        they have labels as a whole: classifiers have a size of their own.
        """
        mapper = self.train_mapper(augment)
        resizable = hasattr(mapper, "augmentations") and not has_labels(records)
        if short_edge is not None and resizable:
            resize = T.ResizeShortestEdge(short_edge, self.cfg.INPUT.MAX_SIZE_TEST)
            mapper.augmentations = T.AugmentationList([resize])
        mapped = []
        for position, record in enumerate(records):
            with seeded(self.SEED, position):
                mapped.append(mapper(copy.deepcopy(record)))
        return mapped

    def batches(self, count: int, cfg: CfgNode | None = None) -> list[Batch]:
        """The first batches of the trainer's loader, read in this process."""
        cfg = (cfg or self.cfg).clone()
        cfg.defrost()
        cfg.DATALOADER.NUM_WORKERS = 0
        cfg.freeze()
        return list(itertools.islice(self.trainer_class.build_train_loader(cfg), count))

    # Models

    @shared
    def _pristine(self) -> nn.Module:
        with preserve_rng():
            torch.manual_seed(self.SEED)
            model = self.trainer_class.build_model(self.cfg)
        if hasattr(model, "mixer"):
            model.mixer = None  # gates ask of single images; a mixture is of two
        return model

    def new_model(self) -> nn.Module:
        """A model of one's own, as training builds it, without MODEL.WEIGHTS; in training mode.

        One that mixes its samples does not here.
        """
        return copy.deepcopy(self._pristine).train()

    def starting_model(self) -> nn.Module:
        """As `new_model`, with MODEL.WEIGHTS loaded."""
        from seriatim.checkpoint import SafeCheckpointer

        model = self.new_model()
        if self.cfg.MODEL.WEIGHTS:
            SafeCheckpointer(model).load(self.cfg.MODEL.WEIGHTS)
        return model.train()

    def losses(
        self, model: nn.Module, batch: Batch, storage: EventStorage | None = None
    ) -> dict[str, torch.Tensor]:
        """The loss dict of `model`, with generators seeded and its plain numbers put back after.

        What it logs goes into `storage`, if that is given.
        """
        with storage or EventStorage(), preserve_rng(), preserve_plain_state(model):
            torch.manual_seed(self.SEED)
            with torch.jit.optimized_execution(False):
                losses = model(copy.deepcopy(batch))
        return losses if isinstance(losses, dict) else {"total_loss": losses}

    def detections(self, model: nn.Module, inputs: Batch) -> list[dict[str, Any]]:
        """What `model` gives in evaluation mode for test inputs, in one batch."""
        with evaluating(model):
            return model(copy.deepcopy(inputs))


# Metadata that speaks of files which the gates' own datasets do not have.
_OF_FILES = ("name", "json_file", "image_root")


def is_upright(boxes: Boxes) -> bool:
    """Whether they are XYXY. (RotatedBoxes are `Boxes` to Python.)"""
    return boxes.tensor.shape[-1] == 4


def objects_of(record: Record) -> list[Record]:
    """The annotations of a record that are no crowds."""
    return [a for a in record.get("annotations", ()) if not a.get("iscrowd", 0)]


def numbers_of(record: Record) -> list[int]:
    """The contiguous class number of each object, or of the image as a whole."""
    if "label" in record:
        return [record["label"]] if record["label"] != UNLABELLED else []
    return [annotation["category_id"] for annotation in objects_of(record)]


def classes_of(record: Record) -> set[int]:
    """The contiguous class numbers that a record shows."""
    return set(numbers_of(record))
