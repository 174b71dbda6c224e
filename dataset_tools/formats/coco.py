"""COCO JSON: instances, keypoints, stuff, panoptic, captions and results; normalised on the way.

The files are described at https://cocodataset.org/#format-data and #format-results. Of a folder,
those that say different things of the same images (instances_train2017.json,
person_keypoints_train2017.json, stuff_…, captions_…) are joined by the images' ids.

Boxes are XYWH in continuous 0-based pixels. Panoptic PNGs hold a segment's id as R + 256 G + 65536
B, 0 where there is none; every segment becomes an instance with an RLE.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dataset_tools.coco import (
    Annotation,
    Category,
    Dataset,
    Image,
    image_root,
    read_box,
    read_json,
)
from dataset_tools.coco_quick import read_quickly
from dataset_tools.errors import InputError
from dataset_tools.formats.base import (
    SPLIT_NAMES,
    Evidence,
    Format,
    Glimpse,
    Option,
    Plan,
    root_of,
    split_of_folders,
)
from dataset_tools.formats.coco_join import join, parse_with_captions, results_content
from dataset_tools.formats.coco_write import PREFIXES, UNSPLIT, write
from dataset_tools.images import ImageIndex
from dataset_tools.notes import Notes
from dataset_tools.rle import Box

if TYPE_CHECKING:
    import numpy as np

_ITEMS = re.compile(r'"items"\s*:\s*\[')
_TOP_KEY = re.compile(r'"(images|annotations|categories|info|licenses)"\s*:')
_KINDS = re.compile(
    r"^(instances|person_keypoints|keypoints|panoptic|stuff|captions|image_info|results)_"
)
_JOINED = ("instances", "person_keypoints", "keypoints", "stuff", "captions", "image_info")


@dataclass(frozen=True)
class Item:
    """An image with its annotations; for panoptic files also its segments, their PNG and names."""

    image: Image
    near: str  # folder that images of this file are likely in
    segments: list[Any] | None = None
    png: Path | None = None
    names: dict[int | None, str] = field(default_factory=dict)


def plan(
    path: Path,
    notes: Notes,
    images: Path | None = None,
    panoptic_images: str | None = None,
    ids: str = "new",
    results_of: str | None = None,
) -> Plan:
    """Plan to read a COCO file, or all of those in a folder (instances_train2017.json: split
    train)."""
    groups = [[path]] if path.is_file() else _files_by_split(path)
    datasets: list[Dataset] = []
    items: list[Item] = []
    remarks: list[str] = []
    for first, *others in groups:
        dataset, panoptic = _dataset_of(first, results_of, notes, keep_texts=not others)
        for file in others:
            join(dataset, parse_with_captions(file, read_json(file), notes), file)
            remarks.append(f"{file.name} is joined to {first.name}, by the ids of their images")
        datasets.append(dataset)
        split = _split_name(path, first) if path.is_dir() else None
        near = _KINDS.sub("", first.stem)
        names = {category.id: category.name for category in dataset.categories}
        for image in dataset.images:
            image.split = split
            _name_looked_for(image, names)
        if panoptic is not None:
            folder = Path(panoptic_images) if panoptic_images else first.with_suffix("")
            items += _panoptic_items(first, panoptic, dataset, folder, near, notes)
        else:
            items += [Item(image, near) for image in dataset.images]
    root = images or (path if path.is_dir() else _likely_root(path, datasets[0]))
    categories = _joined_categories(datasets)
    return Plan(
        image_root=root_of(path, root),
        items=items,
        read=_Reader(root),
        categories=lambda _: categories,
        info={"source_info": datasets[0].info} if datasets[0].info else {},
        licenses=datasets[0].licenses,
        remarks=remarks,
        keep_ids=ids == "keep",
        parallel=any(item.png for item in items),
    )


def _dataset_of(
    file: Path, results_of: str | None, notes: Notes, keep_texts: bool
) -> tuple[Dataset, dict[str, Any] | None]:
    """What a file says; of a panoptic one without its segments, and with its content."""
    dataset = read_quickly(file, keep_texts)
    # A category 0 may be Roboflow's.
    if dataset is not None and all(category.id for category in dataset.categories):
        return dataset, None
    content = _with_file_names(_without_project(read_json(file)))
    if isinstance(content, list):
        content = results_content(file, content, results_of)
    panoptic = _is_panoptic(content)
    labels = {**content, "annotations": []} if panoptic else content
    return parse_with_captions(file, labels, notes), content if panoptic else None


def recognise(glimpse: Glimpse) -> Evidence | None:
    """JSON objects that begin with COCO's lists and their typical entries."""
    names = [
        name for name in glimpse.with_suffix(".json")[:20] if _looks_like_coco(glimpse.head(name))
    ]
    if not names:
        return None
    keys = sorted(set(_TOP_KEY.findall(glimpse.head(names[0]))))
    return Evidence(f"{names[0]} is JSON with COCO's {', '.join(keys)}")


@dataclass
class _Reader:
    root: Path

    @cached_property
    def index(self) -> ImageIndex:
        return ImageIndex(self.root)

    def __call__(self, item: Item, notes: Notes) -> Iterator[Image]:
        image = item.image
        image.file_name = self._file_name(item, notes)
        if item.png is not None:
            image.annotations = list(_segments(item, notes))
        yield image

    def _file_name(self, item: Item, notes: Notes) -> str:
        name = item.image.file_name.replace("\\", "/")
        parts = name.split("/")
        safe = ".." not in parts and not name.startswith("/") and ":" not in parts[0]
        for place in (name, f"{item.near}/{name}"):
            if safe and os.path.isfile(os.path.join(self.root, place)):
                return place
        found = self.index.find(name, near=f"{item.near}/")
        if found:
            return found
        place = f"{item.image.source}: {name}"
        if safe:
            notes.suspect("image file that is missing (kept)", place)
            return name
        notes.suspect("missing image outside the image root (its folder removed)", place)
        return parts[-1]


def _segments(item: Item, notes: Notes) -> Iterator[Annotation]:
    import numpy as np

    from dataset_tools.rle import encode_mask

    ids = _segment_ids(item)
    for number, segment in enumerate(item.segments or []):
        place = f"{item.image.source} segments_info[{number}]"
        try:
            segment_id, category_id, box = _segment_fields(segment)
        except ValueError as fault:
            notes.drop(f"segment {fault}", place)
            continue
        if category_id not in item.names:
            notes.drop("segment whose category_id no category has", place)
            continue
        mask = ids == segment_id
        if not mask.any():
            notes.drop("segment without a pixel in its PNG", place)
            continue
        ids[mask] = 0
        yield Annotation(
            item.names[category_id],
            bbox=box,
            segmentation=encode_mask(mask),
            iscrowd=bool(segment.get("iscrowd")),
            source=place,
        )
    for segment_id in np.unique(ids[ids != 0]).tolist():
        notes.drop("segment in a PNG that segments_info does not name", f"{item.png}: {segment_id}")


def _segment_fields(segment: Any) -> tuple[int, int, Box | None]:
    """Id, category id and box of an entry of segments_info; ValueError if it has none."""
    if not isinstance(segment, dict):
        raise ValueError("that is not an object in braces")
    fields = (segment.get("id"), segment.get("category_id"))
    if not all(type(value) is int for value in fields) or not 0 < fields[0] < 2**24:
        raise ValueError("without a valid id and category_id")
    return (*fields, read_box(segment.get("bbox")))


def _segment_ids(item: Item) -> np.ndarray:
    """The HW int64 array of segment ids in the panoptic PNG. InputError if it does not fit."""
    import numpy as np
    from PIL import Image as Pillow

    try:
        with Pillow.open(item.png) as png:
            colours = np.asarray(png.convert("RGB"), dtype=np.int64)
    except FileNotFoundError as error:
        raise InputError(
            f"{item.png}: this panoptic PNG is missing. Give their folder by --panoptic-images."
        ) from error
    except (OSError, SyntaxError, ValueError, Pillow.DecompressionBombError) as error:
        raise InputError(f"{item.png}: cannot be read as an image: {error}") from error
    if colours.shape[:2] != (item.image.height, item.image.width):
        height, width = colours.shape[:2]
        raise InputError(
            f"{item.png}: is {width}×{height}, but its image is recorded as "
            f"{item.image.width}×{item.image.height}."
        )
    return colours @ np.array([1, 256, 65536])


def _with_file_names(content: Any) -> Any:
    """LVIS 1 has no `file_name`: folder and file of `coco_url` are that."""
    images = content.get("images") if isinstance(content, dict) else None
    for image in images if isinstance(images, list) else ():
        if isinstance(image, dict) and "file_name" not in image:
            url = image.get("coco_url")
            if isinstance(url, str):
                image["file_name"] = "/".join(url.split("/")[-2:])
    return content


def _name_looked_for(image: Image, names: Mapping[int | None, str]) -> None:
    """LVIS's lists of category ids as lists of names, for categories may get other ids."""
    for kind in ("neg", "not_exhaustive"):
        ids = image.attributes.pop(f"{kind}_category_ids", None)
        if ids is None:
            continue
        if not isinstance(ids, list) or not all(
            type(number) is int and number in names for number in ids
        ):
            raise InputError(
                f"{image.source}: {kind}_category_ids is not a list of ids that categories have."
            )
        image.attributes[f"{kind}_categories"] = [names[number] for number in ids]


def _panoptic_items(
    file: Path, content: dict, dataset: Dataset, folder: Path, near: str, notes: Notes
) -> Iterator[Item]:
    names = {category.id: category.name for category in dataset.categories}
    entries = {str(entry.get("image_id")): entry for entry in content["annotations"]}
    for image in dataset.images:
        entry = entries.pop(str(image.id), None)
        if entry is None:
            yield Item(image, near)
            continue
        segments = entry.get("segments_info")
        if not isinstance(segments, list) or not isinstance(entry.get("file_name"), str):
            raise InputError(
                f"{file}: the annotation of image {image.id} has no segments or no PNG."
            )
        yield Item(image, near, segments, _inside(folder, entry["file_name"]), names)
    for image_id in entries:
        notes.drop("panoptic annotation of no image", f"{file}: image_id {image_id}")


def _inside(folder: Path, name: str) -> Path:
    """The file of that name in the folder, or of its last part where it would lead out of it."""
    path = Path(name.replace("\\", "/"))
    plain = not path.is_absolute() and ".." not in path.parts
    return folder / path if plain and os.path.isfile(folder / path) else folder / path.name


def _is_panoptic(content: Any) -> bool:
    annotations = content.get("annotations") if isinstance(content, dict) else None
    return (
        isinstance(annotations, list)
        and bool(annotations)
        and all(isinstance(entry, dict) and "segments_info" in entry for entry in annotations)
    )


def _without_project(content: Any) -> Any:
    """The content without the category 0 that Roboflow adds: the project's name, which no
    annotation has and all other categories name as their super-category. They may share the name.
    """
    categories = content.get("categories") if isinstance(content, dict) else None
    annotations = content.get("annotations") if isinstance(content, dict) else None
    if not isinstance(categories, list) or not isinstance(annotations, list):
        return content
    if not all(isinstance(entry, dict) for entry in (*categories, *annotations)):
        return content
    first, *others = categories or [{}]
    project = first.get("name")
    if (
        others
        and first.get("id") == 0
        and first.get("supercategory") == "none"
        and all(category.get("supercategory") == project for category in others)
        and not any(annotation.get("category_id") == 0 for annotation in annotations)
    ):
        return {**content, "categories": others}
    return content


def _looks_like_coco(head: str) -> bool:
    keys = set(_TOP_KEY.findall(head))
    if _ITEMS.search(head) and '"images"' not in head:
        return False  # Datumaro, whose items have annotations
    entries = '"image_id"' in head or ('"file_name"' in head and '"id"' in head)
    return head.lstrip().startswith("{") and bool(keys) and (entries or len(keys) > 2)


def _files_by_split(folder: Path) -> list[list[Path]]:
    """The files of each split; of several the one with the objects first."""
    glimpse = Glimpse(folder)
    splits: dict[str | None, list[str]] = {}
    for name in glimpse.with_suffix(".json"):
        if _looks_like_coco(glimpse.head(name)):
            splits.setdefault(_split_name(folder, folder / name), []).append(name)
    if not splits:
        raise InputError(
            f"{folder}: there is no COCO file (*.json with images and annotations) in it."
        )
    for split, names in splits.items():
        if len(names) == 1:
            continue
        kinds = [_kind_of(name) for name in names]
        if None in kinds or len(set(kinds)) < len(kinds):
            raise InputError(
                f"{folder}: {' and '.join(names)} are both of split {split}. Convert one of them, "
                "by its path."
            )
        names.sort(key=lambda name: _JOINED.index(_kind_of(name)))
    order = {"train": 0, "val": 1, "test": 2}
    ordered = sorted(splits, key=lambda name: (order.get(name, 3), name or ""))
    return [[folder / name for name in splits[split]] for split in ordered]


def _kind_of(name: str) -> str | None:
    """What a file says of its images, by its name, if it can be joined to others."""
    kind = _KINDS.match(name.rpartition("/")[2])
    return kind[1] if kind is not None and kind[1] in _JOINED else None


def _split_name(folder: Path, file: Path) -> str | None:
    """Split that a file's folder or name stands for, else its whole name; None: `all`."""
    of_folder = split_of_folders(file.relative_to(folder).as_posix())
    words = [re.sub(r"\d+$", "", word) for word in re.split(r"[_\-. ]", file.stem.lower())]
    of_name = next((SPLIT_NAMES[word] for word in words if word in SPLIT_NAMES), None)
    name = _KINDS.sub("", file.stem)
    return of_folder or of_name or (None if name == UNSPLIT else name)


def _likely_root(file: Path, dataset: Dataset) -> Path:
    """Folder in which the first images are, tried near the file; the file's own if nowhere."""
    here, above, split = file.parent, file.resolve().parent.parent, _KINDS.sub("", file.stem)
    recorded = image_root(file, dataset.info)
    candidates = [
        *([recorded] if recorded else []),
        *(here, here / "images", here / split),
        *(above, above / "images", above / split, above / "images" / split),
    ]
    names = [image.file_name for image in dataset.images[:3]]
    for candidate in candidates:
        if names and all(os.path.isfile(candidate / name) for name in names):
            return candidate
    return here


def _joined_categories(datasets: list[Dataset]) -> list[Category]:
    """Categories of all files by ascending id, those of the first file first, each name once."""
    joined: dict[str, Category] = {}
    for dataset in datasets:
        for category in sorted(dataset.categories, key=lambda category: category.id or 0):
            joined.setdefault(category.name, replace(category))
    return list(joined.values())


FORMAT = Format(
    name="coco",
    title="COCO JSON (instances, keypoints, stuff, panoptic, captions, results)",
    layout="a JSON file, or a folder with some for each split (instances_train2017.json, …)",
    carries=("boxes", "masks", "keypoints", "attributes", "splits"),
    loses="panoptic segments become instances (isthing stays with the category)",
    recognise=recognise,
    plan=plan,
    conventions="0-based continuous XYWH. Keys that COCO does not know are kept under attributes. "
    "Uncompressed RLEs are compressed; categories are renumbered in the order of their ids. "
    "Captions are kept with their image, results with their score.",
    options=(
        Option(
            "--ids",
            "keep: ids of images, annotations and categories stay as they are",
            default="new",
            choices=("new", "keep"),
        ),
        Option(
            "--panoptic-images",
            "folder of the panoptic PNGs (default: named like the JSON file)",
            metavar="DIR",
        ),
        Option(
            "--results-of",
            "for a list of results: the COCO file with its images and categories",
            metavar="FILE",
        ),
    ),
    write=write,
    write_options=(
        Option(
            "--kinds",
            f"files to write, of {', '.join(PREFIXES)}; auto: instances (with keypoints, if any) "
            "and captions, if any",
            default="auto",
            metavar="KIND,…",
        ),
        Option(
            "--attributes",
            "drop: only keys that COCO knows",
            default="keep",
            choices=("keep", "drop"),
        ),
        Option(
            "--photos",
            "link: put the images into a folder for each split; none: write labels alone",
            default="link",
            choices=("link", "none"),
        ),
    ),
    write_loses="nothing of instances; panoptic has no attributes, keypoints or overlaps, results "
    "have scores and no other attributes",
)
