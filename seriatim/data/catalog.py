"""Datasets by config: what SERIATIM.DATASETS names becomes known to Detectron2's catalogs.

An entry is one of
  NAME, IMAGES, JSON                           boxes; masks, keypoints, rotated boxes if it has them
    the same with ROTATED: True                rotated boxes: the annotations' attributes.rbox, as
                                               converted DOTA files have them beside upright ones
  NAME, IMAGES, PANOPTIC_JSON, PANOPTIC_ROOT   panoptic, Detectron2's "standard" form
    the same with JSON and SEM_SEG_ROOT        the "separated" form, which PanopticFPN takes
  NAME, IMAGES, SEM_SEG_ROOT, STUFF_CLASSES    semantic: an 8-bit PNG of labels for every image
  NAME, IMAGES, JSON, CLASSIFICATION: True     classification: annotations of whole images
  NAME, LABELS, SPLIT                          classification: CIFAR, IDX (MNIST), SVHN, npz, USPS,
                                               ImageFolder … as they are, a file or a folder
    the same with FORMAT, OPTIONS, IMAGES      as `dataset_tools convert` takes them
    the same with FRACTIONS: {train: 0.8, …}   splits for data that has none, by a hash
IMAGES can be left out where the JSON remembers its folder (info.image_root), as ours do. With
keypoints, KEYPOINT_FLIP_MAP: [[name, name], …] serves where their names have no left and right.
"""

from __future__ import annotations

import logging
import pickle
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog

from dataset_tools.errors import InputError
from seriatim.data.classification.dataset import LabelledDataset
from seriatim.data.classification.draw import draw
from seriatim.data.classification.sources import (
    labelled_facts,
    labelled_metadata,
    load_labelled,
)
from seriatim.data.classification.storage import Storage
from seriatim.data.entries import Entry, parse_entry
from seriatim.data.instances import load_instances
from seriatim.data.packed import PackedDataset
from seriatim.data.panoptic import load_panoptic, load_semantic
from seriatim.data.records import Facts, Record, check_files_exist
from seriatim.data.rotated import has_rotated_boxes, load_rotated

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Registered:
    entry: Entry
    stamp: tuple[Any, ...]  # of what it was read from, and how: see `_stamp`
    facts: Facts


_registered: dict[str, _Registered] = {}


def register_datasets(cfg: CfgNode) -> list[str]:
    """Register SERIATIM.DATASETS in DatasetCatalog and MetadataCatalog; their names.

    Registering the same again changes nothing; if its file has changed, it is read anew.

    Raises:
        InputError: an entry is wrong, a file or image is missing, or a name is taken by other data.
    """
    entries = [parse_entry(value, i) for i, value in enumerate(cfg.SERIATIM.DATASETS)]
    for name, count in Counter(entry.name for entry in entries).items():
        if count > 1:
            raise InputError(f"SERIATIM.DATASETS names {name} {count} times. Rename one.")
    storage = Storage.from_config(cfg)
    for entry in entries:
        _register(entry, storage)
    names = [entry.name for entry in entries]
    if cfg.SERIATIM.SEMI.VALIDATION_PER_CLASS > 0:
        names += [_register_validation(cfg, n) for n in cfg.DATASETS.TRAIN if n in names]
    return names


def unregister_datasets(names: Iterable[str]) -> None:
    """Forget datasets that `register_datasets` made known."""
    for name in names:
        del _registered[name]
        DatasetCatalog.pop(name)
        MetadataCatalog.pop(name)


def dataset_facts(name: str) -> Facts | None:
    """What a dataset from SERIATIM.DATASETS holds; None for any other dataset."""
    return _registered[name].facts if name in _registered else None


def dataset_stamp(name: str) -> tuple[Any, ...]:
    """Path, time and size of the files that a dataset from SERIATIM.DATASETS was read from; () for
    any other dataset."""
    return _registered[name].stamp if name in _registered else ()


def is_classification(name: str) -> bool:
    """Whether a registered dataset has labels of whole images."""
    return MetadataCatalog.get(name).get("evaluator_type") == "classification"


def _register(entry: Entry, storage: Storage) -> None:
    known = _registered.get(entry.name)
    stamp = _stamp(entry, storage)
    if known is None and entry.name in DatasetCatalog.list():
        raise InputError(
            f"SERIATIM.DATASETS: the name {entry.name} belongs to a dataset that Detectron2 or"
            " other code has registered. Choose another NAME."
        )
    if known is not None:
        if known.entry != entry:
            raise InputError(
                f"SERIATIM.DATASETS: {entry.name} is already registered with other values:"
                f" {_difference(known.entry, entry)}. Choose another NAME."
            )
        if known.stamp == stamp:
            return
        unregister_datasets([entry.name])
    records, metadata, facts = _load(entry, storage)
    if not isinstance(records, LabelledDataset):
        check_files_exist(_file_names(records), f"IMAGES of {entry.name}")
    if entry.images is not None:
        metadata["image_root"] = str(entry.images)
    _enter(records, metadata, _Registered(entry, stamp, facts))
    if facts.left_out:
        logger.warning(
            f"{entry.name}: {facts.left_out} boxes without area are left out; `python -m"
            f" dataset_tools check {entry.json}` names them"
        )


def _enter(records: Sequence[Record], metadata: dict[str, Any], registered: _Registered) -> None:
    name = registered.entry.name
    DatasetCatalog.register(name, _source(records))
    MetadataCatalog.get(name).set(**metadata)
    _registered[name] = registered


def _register_validation(cfg: CfgNode, name: str) -> str:
    """Make what `draw` keeps from the training set `name` a dataset of its own; its name."""
    semi, base = cfg.SERIATIM.SEMI, _registered[name]
    if base.facts.kind != "classification":
        raise InputError(
            f"SERIATIM.SEMI.VALIDATION_PER_CLASS draws from images with a class; {name} has none."
        )
    entry = replace(base.entry, name=f"{name}_validation")
    stamp = (*base.stamp, semi.VALIDATION_PER_CLASS, semi.SEED)
    known = _registered.get(entry.name)
    if known is not None and known.stamp == stamp:
        return entry.name
    if known is not None:
        unregister_datasets([entry.name])
    elif entry.name in DatasetCatalog.list():
        raise InputError(f"The name {entry.name} is taken by other data: rename {name}.")
    dataset = DatasetCatalog.get(name)
    kept = dataset.subset(draw(cfg, name, dataset).validation)
    _enter(kept, labelled_metadata(kept, entry), _Registered(entry, stamp, labelled_facts(kept)))
    return entry.name


def _load(entry: Entry, storage: Storage) -> tuple[Sequence[Record], dict[str, Any], Facts]:
    if entry.labels is not None or entry.classification:
        return load_labelled(entry, storage)
    if entry.panoptic_json is not None:
        return load_panoptic(entry)
    if entry.json is None:
        return load_semantic(entry)
    if entry.rotated or has_rotated_boxes(entry.json):
        return load_rotated(entry)
    return load_instances(entry)


def _source(records: Sequence[Record]) -> Callable[[], Sequence[Record]]:
    """What the catalog calls: every caller gets records of its own, which it may change."""
    if isinstance(records, PackedDataset | LabelledDataset):
        return lambda: records  # makes records when they are asked for
    frozen = pickle.dumps(records, protocol=pickle.HIGHEST_PROTOCOL)
    return lambda: pickle.loads(frozen)


def _file_names(records: Sequence[Record]) -> Sequence[str]:
    if isinstance(records, PackedDataset):
        return records.file_names()
    return [record["file_name"] for record in records]


def _stamp(entry: Entry, storage: Storage) -> tuple[Any, ...]:
    """Path, mtime and size of the files that labels are in; of packed pixels also their storage."""
    paths = [path for path in (entry.json, entry.panoptic_json) if path is not None]
    if entry.labels is not None:
        folder = entry.labels
        paths += sorted(p for p in folder.iterdir() if p.is_file()) if folder.is_dir() else [folder]
    files = tuple((str(p), p.stat().st_mtime_ns, p.stat().st_size) for p in paths)
    return (*files, storage) if entry.labels is not None or entry.classification else files


def _difference(a: Entry, b: Entry) -> str:
    names = [f.name for f in fields(Entry) if getattr(a, f.name) != getattr(b, f.name)]
    return ", ".join(f"{n.upper()} {getattr(a, n)} and {getattr(b, n)}" for n in names)
