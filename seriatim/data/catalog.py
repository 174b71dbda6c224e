"""Datasets by config: what SERIATIM.DATASETS names becomes known to Detectron2's catalogs.

An entry is one of
  NAME, IMAGES, JSON                           boxes; masks, keypoints, rotated boxes if it has them
    the same with ROTATED: True                rotated boxes: the annotations' attributes.rbox, as
                                               converted DOTA files have them beside upright ones
  NAME, IMAGES, PANOPTIC_JSON, PANOPTIC_ROOT   panoptic, Detectron2's "standard" form
    the same with JSON and SEM_SEG_ROOT        the "separated" form, which PanopticFPN takes
  NAME, IMAGES, SEM_SEG_ROOT, STUFF_CLASSES    semantic: an 8-bit PNG of labels for every image
IMAGES can be left out where the JSON remembers its folder (info.image_root), as ours do. With
keypoints, KEYPOINT_FLIP_MAP: [[name, name], …] serves where their names have no left and right.
"""

from __future__ import annotations

import colorsys
import difflib
import logging
import math
import os
import pickle
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode

from dataset_tools.coco import (
    Annotation,
    Category,
    annotation_box,
    image_root,
    load_coco,
    read_json,
)
from dataset_tools.errors import InputError
from dataset_tools.rotated import with_rotated_boxes

logger = logging.getLogger(__name__)

Record = dict[str, Any]  # one image in Detectron2's standard format


@dataclass(frozen=True)
class Entry:
    """One mapping in SERIATIM.DATASETS, paths expanded."""

    name: str
    images: Path
    json: Path | None = None
    panoptic_json: Path | None = None
    panoptic_root: Path | None = None
    sem_seg_root: Path | None = None
    stuff_classes: tuple[str, ...] = ()
    keypoint_flip_map: tuple[tuple[str, str], ...] = ()
    rotated: bool = False


@dataclass(frozen=True)
class Facts:
    """What a registered dataset holds. Crowd regions are counted apart and nowhere else.

    Attributes:
        kind: "instances", "rotated", "panoptic", "panoptic_separated" or "semantic".
        empty_images: images without an annotation.
        polygons, rles, keypoints: annotations that have such.
        left_out: boxes without area, which no training can use.
        keypoint_names: of the categories, if they agree in them.
    """

    kind: str
    images: int = 0
    empty_images: int = 0
    annotations: int = 0
    crowds: int = 0
    polygons: int = 0
    rles: int = 0
    keypoints: int = 0
    left_out: int = 0
    keypoint_names: tuple[str, ...] = ()
    per_category: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class _Registered:
    entry: Entry
    stamp: tuple[tuple[str, int, int], ...]  # path, mtime and size of its JSON files
    facts: Facts


_registered: dict[str, _Registered] = {}


def register_datasets(cfg: CfgNode) -> list[str]:
    """Register SERIATIM.DATASETS in DatasetCatalog and MetadataCatalog; their names.

    Registering the same again changes nothing; if its file has changed, it is read anew.

    Raises:
        InputError: an entry is wrong, a file or image is missing, or a name is taken by other data.
    """
    entries = [_parse_entry(value, i) for i, value in enumerate(cfg.SERIATIM.DATASETS)]
    for name, count in Counter(entry.name for entry in entries).items():
        if count > 1:
            raise InputError(f"SERIATIM.DATASETS names {name} {count} times. Rename one.")
    for entry in entries:
        _register(entry)
    return [entry.name for entry in entries]


def unregister_datasets(names: Iterable[str]) -> None:
    """Forget datasets that `register_datasets` made known."""
    for name in names:
        del _registered[name]
        DatasetCatalog.pop(name)
        MetadataCatalog.pop(name)


def dataset_facts(name: str) -> Facts | None:
    """What a dataset from SERIATIM.DATASETS holds; None for any other dataset."""
    return _registered[name].facts if name in _registered else None


def _register(entry: Entry) -> None:
    known = _registered.get(entry.name)
    stamp = _stamp(entry)
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
    records, metadata, facts = _load(entry)
    _check_images_exist(entry, records)
    # Pickled, the records take a fraction of the memory, and every caller gets a copy of its own.
    frozen = pickle.dumps(records, protocol=pickle.HIGHEST_PROTOCOL)
    DatasetCatalog.register(entry.name, lambda: pickle.loads(frozen))
    MetadataCatalog.get(entry.name).set(image_root=str(entry.images), **metadata)
    _registered[entry.name] = _Registered(entry, stamp, facts)
    if facts.left_out:
        logger.warning(
            f"{entry.name}: {facts.left_out} boxes without area are left out; `python -m"
            f" dataset_tools check {entry.json}` names them"
        )


def _load(entry: Entry) -> tuple[list[Record], dict[str, Any], Facts]:
    if entry.panoptic_json is not None:
        return _load_panoptic(entry)
    if entry.json is None:
        return _load_semantic(entry)
    if entry.rotated or _has_rotated_boxes(entry.json):
        return _load_rotated(entry)
    return _load_instances(entry)


# Reading an entry


_KEYS = {f.name.upper(): f.name for f in fields(Entry)}
_FILES = ("json", "panoptic_json")
_FOLDERS = ("images", "panoptic_root", "sem_seg_root")


def _parse_entry(value: Any, index: int) -> Entry:
    where = f"SERIATIM.DATASETS[{index}]"
    if not isinstance(value, Mapping):
        raise InputError(f"{where} is a mapping with NAME, JSON and IMAGES, not {value!r}.")
    for key in value:
        if key not in _KEYS:
            near = difflib.get_close_matches(str(key).upper(), _KEYS, n=1)
            hint = f" Did you mean {near[0]}?" if near else f" There are {', '.join(_KEYS)}."
            raise InputError(f"{where} has an unknown key {key}.{hint}")
    given = {_KEYS[key]: item for key, item in value.items() if item not in (None, "", [], ())}
    if not isinstance(given.get("name"), str):
        raise InputError(f"{where} has no NAME.")
    where = f"{where} ({given['name']})"
    for key in _FILES + _FOLDERS:
        if key in given:
            given[key] = _path(given[key], f"{where}: {key.upper()}", folder=key in _FOLDERS)
    if "images" not in given:
        given["images"] = _recorded_images(given.get("json") or given.get("panoptic_json"), where)
    kinds = given.keys() & {"json", "panoptic_json", "panoptic_root", "sem_seg_root"}
    if kinds not in _COMBINATIONS:
        raise InputError(
            f"{where} has {', '.join(sorted(k.upper() for k in kinds)) or 'no labels'}. Give JSON;"
            " or PANOPTIC_JSON and PANOPTIC_ROOT, with or without JSON and SEM_SEG_ROOT; or"
            " SEM_SEG_ROOT and STUFF_CLASSES."
        )
    if kinds == {"sem_seg_root"} and "stuff_classes" not in given:
        raise InputError(f"{where} has SEM_SEG_ROOT but no STUFF_CLASSES, the names of its labels.")
    if not isinstance(given.get("rotated", False), bool):
        raise InputError(f"{where}: ROTATED is True or False, not {given['rotated']!r}.")
    if given.get("rotated") and kinds != {"json"}:
        raise InputError(f"{where}: ROTATED goes with JSON alone.")
    try:
        given["stuff_classes"] = tuple(map(str, given.get("stuff_classes", ())))
        pairs = given.get("keypoint_flip_map", ())
        given["keypoint_flip_map"] = tuple((str(a), str(b)) for a, b in pairs)
    except (TypeError, ValueError):
        raise InputError(
            f"{where}: STUFF_CLASSES is a list of names, KEYPOINT_FLIP_MAP one of pairs of names."
        ) from None
    return Entry(**given)


_COMBINATIONS = (
    {"json"},
    {"panoptic_json", "panoptic_root"},
    {"panoptic_json", "panoptic_root", "json", "sem_seg_root"},
    {"sem_seg_root"},
)


def _path(value: Any, where: str, folder: bool) -> Path:
    path = Path(os.path.expandvars(str(value))).expanduser()
    if folder and not path.is_dir():
        raise InputError(f"{where}: there is no folder {path}{_relative(path)}.")
    if not folder and not path.is_file():
        raise InputError(f"{where}: there is no file {path}{_relative(path)}.")
    return path


def _recorded_images(labels: Path | None, where: str) -> Path:
    """The image folder that a converted JSON remembers."""
    content = read_json(labels) if labels else {}
    info = content.get("info") if isinstance(content, dict) else None
    root = image_root(labels, info) if isinstance(info, dict) else None
    if root is None:
        raise InputError(
            f"{where} has no IMAGES, the folder that file names start from, and its JSON does not"
            " remember one (info.image_root)."
        )
    return _path(root, f"{where}: the image folder that {labels} remembers", folder=True)


def _relative(path: Path) -> str:
    return "" if path.is_absolute() else f" in {Path.cwd()}"


def _stamp(entry: Entry) -> tuple[tuple[str, int, int], ...]:
    paths = [path for path in (entry.json, entry.panoptic_json) if path is not None]
    return tuple((str(p), p.stat().st_mtime_ns, p.stat().st_size) for p in paths)


def _difference(a: Entry, b: Entry) -> str:
    names = [f.name for f in fields(Entry) if getattr(a, f.name) != getattr(b, f.name)]
    return ", ".join(f"{n.upper()} {getattr(a, n)} and {getattr(b, n)}" for n in names)


# Instances


def _load_instances(entry: Entry) -> tuple[list[Record], dict[str, Any], Facts]:
    dataset = load_coco(entry.json)
    if not dataset.images:
        raise InputError(f"{entry.json} holds no images: there is nothing to train or evaluate on.")
    categories = sorted(dataset.categories, key=lambda category: category.id)
    if not categories:
        raise InputError(f"{entry.json} declares no categories.")
    index = {category.name: i for i, category in enumerate(categories)}
    counts: Counter[str] = Counter()
    per_category: Counter[str] = Counter()
    records = []
    for image in sorted(dataset.images, key=lambda image: image.id):
        record = _image_record(entry, image.file_name, image.id, image.height, image.width)
        for annotation in image.annotations:
            box = annotation_box(annotation)
            if box is None or not all(map(math.isfinite, box)):
                raise InputError(
                    f"{annotation.source}: the annotation has no box, or one that is not finite."
                    f" `python -m dataset_tools check {entry.json} --fix …` removes such."
                )
            if box[2] <= box[0] or box[3] <= box[1]:
                counts["left_out"] += 1
                continue
            item = {
                "id": annotation.id,
                # Detectron2's transforms would truncate a box of integers to integers.
                "bbox": [float(value) for value in box],
                "bbox_mode": BoxMode.XYXY_ABS,
                "category_id": index[annotation.category],
                "iscrowd": int(annotation.iscrowd),
            }
            segmentation = _usable_segmentation(annotation.segmentation)
            if segmentation:
                item["segmentation"] = segmentation
            if annotation.keypoints is not None:
                _check_keypoints(annotation, categories[index[annotation.category]])
                item["keypoints"] = _keypoint_coordinates(annotation.keypoints)
            record["annotations"].append(item)
            _count(counts, item)
            if not annotation.iscrowd:
                per_category[annotation.category] += 1
        records.append(record)
    metadata = _instance_metadata(entry, categories)
    facts = _facts("instances", records, counts, per_category, metadata)
    return records, metadata, facts


def _image_record(entry: Entry, file_name: str, image_id: int, height: int, width: int) -> Record:
    path = str(entry.images / file_name)
    return {
        "file_name": path,
        "image_id": image_id,
        "height": height,
        "width": width,
        "annotations": [],
    }


def _usable_segmentation(segmentation: Any) -> Any:
    """RLE as it is; of polygons those that have an inside."""
    if isinstance(segmentation, list):
        return [polygon for polygon in segmentation if len(polygon) >= 6]
    return segmentation


def _check_keypoints(annotation: Annotation, category: Category) -> None:
    found, named = len(annotation.keypoints) // 3, len(category.keypoints)
    if named and found != named:
        raise InputError(
            f"{annotation.source}: the annotation has {found} keypoints, but its category"
            f" {category.name} names {named}."
        )


def _keypoint_coordinates(keypoints: Sequence[float]) -> list[float]:
    """COCO's keypoints are indices of pixels; coordinates are half a pixel more."""
    return [v if i % 3 == 2 else v + 0.5 for i, v in enumerate(keypoints)]


def _count(counts: Counter[str], item: Record) -> None:
    if item["iscrowd"]:
        counts["crowds"] += 1
        return
    counts["annotations"] += 1
    segmentation = item.get("segmentation")
    counts["polygons"] += isinstance(segmentation, list)
    counts["rles"] += isinstance(segmentation, dict)
    counts["keypoints"] += "keypoints" in item


def _facts(
    kind: str,
    records: list[Record],
    counts: Mapping[str, int],
    per_category: Mapping[str, int],
    metadata: Mapping[str, Any],
) -> Facts:
    return Facts(
        kind,
        images=len(records),
        empty_images=sum(not record.get("annotations", True) for record in records),
        keypoint_names=tuple(metadata.get("keypoint_names", ())),
        per_category={name: per_category[name] for name in metadata.get("thing_classes", ())},
        **counts,
    )


def _instance_metadata(entry: Entry, categories: Sequence[Category]) -> dict[str, Any]:
    """`categories` in the order of their contiguous ids."""
    metadata: dict[str, Any] = {
        "json_file": str(entry.json),
        "evaluator_type": "coco",
        "thing_classes": [category.name for category in categories],
        "thing_dataset_id_to_contiguous_id": {c.id: i for i, c in enumerate(categories)},
    }
    with_keypoints = [category for category in categories if category.keypoints]
    if len({category.keypoints for category in with_keypoints}) == 1:
        metadata |= _keypoint_metadata(entry, with_keypoints[0])
    return metadata


def _keypoint_metadata(entry: Entry, category: Category) -> dict[str, Any]:
    names = category.keypoints
    unknown = sorted({n for pair in entry.keypoint_flip_map for n in pair} - set(names))
    if unknown:
        raise InputError(
            f"KEYPOINT_FLIP_MAP of {entry.name} has {', '.join(unknown)}; the keypoints in"
            f" {entry.json} are {', '.join(names)}."
        )
    rules = []
    for i, (a, b) in enumerate(category.skeleton):
        if not (0 < a <= len(names) and 0 < b <= len(names)):
            raise InputError(
                f"{entry.json}: the skeleton of {category.name} joins {a} and {b}, but its"
                f" keypoints are numbered from 1 to {len(names)}."
            )
        rgb = colorsys.hsv_to_rgb(i / len(category.skeleton), 0.8, 1.0)
        rules.append((names[a - 1], names[b - 1], tuple(round(255 * v) for v in rgb)))
    return {
        "keypoint_names": list(names),
        "keypoint_flip_map": list(entry.keypoint_flip_map or _mirror_pairs(names)),
        "keypoint_connection_rules": rules,
    }


def _mirror_pairs(names: Sequence[str]) -> list[tuple[str, str]]:
    """Names that differ in left and right only: left_eye and right_eye, HipLeft and HipRight."""
    pairs = []
    for name in names:
        for left, right in (("left", "right"), ("Left", "Right"), ("LEFT", "RIGHT")):
            if left in name and (other := name.replace(left, right)) in names:
                pairs.append((name, other))
    return pairs


# Rotated boxes


def _has_rotated_boxes(path: Path) -> bool:
    """Whether the first box in the file has five numbers. The file is not parsed for that."""
    match = re.search(rb'"bbox"\s*:\s*\[([^\]]*)\]', path.read_bytes())
    return match is not None and match[1].count(b",") == 4


def _load_rotated(entry: Entry) -> tuple[list[Record], dict[str, Any], Facts]:
    """Boxes of [centre x, centre y, width, height, degrees counter-clockwise]."""
    content = read_json(entry.json)
    try:
        if entry.rotated:
            content = with_rotated_boxes(content)
        categories = [Category(c["name"], id=c["id"]) for c in content["categories"]]
        categories.sort(key=lambda category: category.id)
        index = {category.id: i for i, category in enumerate(categories)}
        records = {
            image["id"]: _image_record(
                entry, image["file_name"], image["id"], image["height"], image["width"]
            )
            for image in sorted(content["images"], key=lambda image: image["id"])
        }
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise InputError(f"{entry.json}: not a COCO file: {error!r}.") from None
    if not records:
        raise InputError(f"{entry.json} holds no images: there is nothing to train or evaluate on.")
    annotations = content.get("annotations", ())
    if entry.rotated and not any((a.get("attributes") or {}).get("rbox") for a in annotations):
        raise InputError(
            f"{entry.name} is to be ROTATED, but no annotation in {entry.json} has a rotated box"
            " (attributes.rbox). Leave ROTATED out, or convert from a format that has such."
        )
    counts: Counter[str] = Counter()
    per_category: Counter[str] = Counter()
    for i, annotation in enumerate(annotations):
        try:
            box = [float(v) for v in annotation["bbox"]]
            category, record = index[annotation["category_id"]], records[annotation["image_id"]]
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"{entry.json}: annotations[{i}] is not valid: {error!r}.") from None
        if len(box) != 5 or not all(map(math.isfinite, box)):
            who = "its entry" if entry.rotated else "the first annotation"
            raise InputError(
                f"{entry.json}: annotations[{i}] has the box {box}, but {who} says that boxes are"
                " rotated: [centre x, centre y, width, height, angle in degrees]."
            )
        if box[2] <= 0 or box[3] <= 0:
            counts["left_out"] += 1
            continue
        item = {
            "id": annotation.get("id", i + 1),
            "bbox": box,
            "bbox_mode": BoxMode.XYWHA_ABS,
            "category_id": category,
            "iscrowd": int(annotation.get("iscrowd", 0)),
        }
        record["annotations"].append(item)
        _count(counts, item)
        per_category[categories[category].name] += not item["iscrowd"]
    metadata = _instance_metadata(entry, categories) | {
        "evaluator_type": "rotated_coco",
        "boxes_are_rbox": entry.rotated,  # in the JSON file, for the evaluator
    }
    ordered = list(records.values())
    return ordered, metadata, _facts("rotated", ordered, counts, per_category, metadata)


# Panoptic and semantic


def _load_panoptic(entry: Entry) -> tuple[list[Record], dict[str, Any], Facts]:
    content = read_json(entry.panoptic_json)
    try:
        categories = sorted(content["categories"], key=lambda category: category["id"])
        things = [c for c in categories if c.get("isthing", 1)]
        stuff = [c for c in categories if not c.get("isthing", 1)]
        segments = {
            a["image_id"]: (a["file_name"], a["segments_info"]) for a in content["annotations"]
        }
        names = {image["id"]: image for image in content["images"]}
        common = {
            "panoptic_json": str(entry.panoptic_json),
            "panoptic_root": str(entry.panoptic_root),
            "evaluator_type": "coco_panoptic_seg",
            "ignore_label": 255,
            "label_divisor": 1000,
        }
        if entry.json is not None:
            return _load_separated(entry, stuff, common)
        classes = [c["name"] for c in categories]
        index = {c["id"]: i for i, c in enumerate(categories)}
        metadata = common | {
            "json_file": None,
            "thing_classes": classes,
            "stuff_classes": classes,
            "thing_dataset_id_to_contiguous_id": {c["id"]: index[c["id"]] for c in things},
            "stuff_dataset_id_to_contiguous_id": {c["id"]: index[c["id"]] for c in stuff},
        }
        isthing = {c["id"]: bool(c.get("isthing", 1)) for c in categories}
        records = []
        for image_id, (png, infos) in sorted(segments.items()):
            image = names[image_id]
            record = _image_record(
                entry, image["file_name"], image_id, image["height"], image["width"]
            )
            del record["annotations"]
            record["pan_seg_file_name"] = str(entry.panoptic_root / png)
            record["segments_info"] = [
                {
                    **info,
                    "category_id": index[info["category_id"]],
                    "isthing": isthing[info["category_id"]],
                }
                for info in infos
            ]
            records.append(record)
    except (KeyError, TypeError) as error:
        raise InputError(
            f"{entry.panoptic_json} is not a panoptic COCO file: {error!r} is missing or has"
            " another type."
        ) from None
    if not records:
        raise InputError(f"{entry.panoptic_json} holds no annotations.")
    _check_files_exist([r["pan_seg_file_name"] for r in records], f"PANOPTIC_ROOT of {entry.name}")
    return records, metadata, Facts("panoptic", images=len(records))


def _load_separated(
    entry: Entry, stuff: Sequence[Mapping[str, Any]], common: dict[str, Any]
) -> tuple[list[Record], dict[str, Any], Facts]:
    """Things from the instances JSON, stuff from grey PNGs in which 0 means any thing."""
    records, metadata, facts = _load_instances(entry)
    for record in records:
        relative = Path(record["file_name"]).relative_to(entry.images)
        record["sem_seg_file_name"] = str((entry.sem_seg_root / relative).with_suffix(".png"))
    _check_files_exist([r["sem_seg_file_name"] for r in records], f"SEM_SEG_ROOT of {entry.name}")
    metadata |= common | {
        "sem_seg_root": str(entry.sem_seg_root),
        "stuff_classes": ["things", *(c["name"] for c in stuff)],
        "stuff_dataset_id_to_contiguous_id": {0: 0, **{c["id"]: i for i, c in enumerate(stuff, 1)}},
    }
    values = {f.name: getattr(facts, f.name) for f in fields(Facts)}
    return records, metadata, Facts(**values | {"kind": "panoptic_separated"})


def _load_semantic(entry: Entry) -> tuple[list[Record], dict[str, Any], Facts]:
    labels = {p.relative_to(entry.sem_seg_root).with_suffix("") for p in _files(entry.sem_seg_root)}
    records, without = [], []
    for path in _files(entry.images):
        relative = path.relative_to(entry.images)
        if path.suffix.lower() not in _IMAGE_SUFFIXES:
            continue
        if relative.with_suffix("") not in labels:
            without.append(str(relative))
            continue
        png = (entry.sem_seg_root / relative).with_suffix(".png")
        records.append(
            {"file_name": str(path), "image_id": str(relative), "sem_seg_file_name": str(png)}
        )
    if not records:
        raise InputError(
            f"{entry.name}: no image in {entry.images} has a label PNG of the same name in"
            f" {entry.sem_seg_root}."
        )
    if without:
        logger.warning(
            f"{entry.name}: {len(without)} images have no label PNG and are left out:"
            f" {', '.join(without[:5])}{' …' if len(without) > 5 else ''}"
        )
    metadata = {
        "sem_seg_root": str(entry.sem_seg_root),
        "stuff_classes": list(entry.stuff_classes),
        "stuff_dataset_id_to_contiguous_id": {i: i for i in range(len(entry.stuff_classes))},
        "evaluator_type": "sem_seg",
        "ignore_label": 255,
    }
    return records, metadata, Facts("semantic", images=len(records))


_IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"}


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _check_images_exist(entry: Entry, records: Sequence[Record]) -> None:
    _check_files_exist([record["file_name"] for record in records], f"IMAGES of {entry.name}")


def _check_files_exist(paths: Sequence[str], what: str) -> None:
    """One listing per folder: a hundred thousand files take a fraction of a second."""
    listings: dict[str, set[str]] = {}
    missing = []
    for path in paths:
        folder, name = os.path.split(path)
        if folder not in listings:
            try:
                listings[folder] = {item.name for item in os.scandir(folder)}
            except OSError:
                listings[folder] = set()
        if name not in listings[folder]:
            missing.append(path)
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise InputError(
            f"{what}: {len(missing)} of {len(paths)} files are missing:"
            f" {', '.join(missing[:3])}{more}. Check the folder, or remove them from the dataset"
            " by `python -m dataset_tools check --fix`."
        )
