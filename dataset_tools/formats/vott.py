"""VoTT 2 (Microsoft's Visual Object Tagging Tool): its JSON export, and its *-asset.json files.

By its source (github.com/microsoft/VoTT, `models/applicationState.ts`): a region has a boundingBox
(left, top, width, height) and points, in px of the asset, and any number of tags. An asset that was
never looked at has state 0. Frames of videos are assets called VIDEO#t=SECONDS.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from dataset_tools import json_fields
from dataset_tools.coco import Annotation, Category, Image, read_json
from dataset_tools.errors import InputError
from dataset_tools.formats.base import (
    Evidence,
    Format,
    Glimpse,
    Plan,
    root_of,
    sorted_categories,
    split_of_folders,
)
from dataset_tools.formats.locate import locate
from dataset_tools.formats.reading import note_empty
from dataset_tools.images import ImageIndex, walk_files
from dataset_tools.notes import Notes
from dataset_tools.shapes import points_annotation, polygon_annotation

_BOXES = ("RECTANGLE", "SQUARE")
_ASSET = re.compile(r'"asset"\s*:\s*\{')
_EXPORT = re.compile(r'"assets"\s*:\s*\{')
_OWN = re.compile(r'"(videoSettings|securityToken|exportFormat|sourceConnection)"\s*:')


@dataclass(frozen=True)
class Item:
    """An asset with its regions, and where that is said."""

    entry: dict[str, Any]
    place: str
    file: str  # relative to the dataset


def plan(path: Path, notes: Notes, images: Path | None = None) -> Plan:
    """Plan to read an export, or a folder with *-asset.json files or exports."""
    base = path if path.is_dir() else path.parent
    items: dict[str, Item] = {}  # by asset: its own file and an export may both hold it
    tags: dict[str, None] = {}
    for name in walk_files(path) if path.is_dir() else [path.name]:
        if not name.lower().endswith((".json", ".vott")):
            continue
        content = read_json(base / name)
        if not isinstance(content, dict) or not {"asset", "assets"} & content.keys():
            notes.drop("JSON file that is not VoTT's", str(base / name))
            continue
        for tag in json_fields.objects(content, "tags", str(base / name)):
            tags[json_fields.text(tag, "name", f"{base / name}: tags")] = None
        for item in _items(content, base / name, name, notes):
            asset = json_fields.mapped(item.entry, "asset", item.place)
            key = str(asset.get("id") or item.place)
            if key in items:
                notes.suspect("asset that is there twice (one taken)", item.place)
            items[key] = item
    if not items:
        raise InputError(
            f"{path}: there is no asset of VoTT. Give its export, or *-asset.json files."
        )
    root = root_of(path, images)
    return Plan(
        image_root=root,
        items=list(items.values()),
        read=_Reader(ImageIndex(root)),
        categories=_TagsFirst(tuple(tags)),
        parallel=False,
    )


def recognise(glimpse: Glimpse) -> Evidence | None:
    """JSON of an asset with regions, or of assets with what only VoTT says of a project."""
    for name in glimpse.with_suffix(".json", ".vott")[:20]:
        head = glimpse.head(name)
        if not head.lstrip().startswith("{"):
            continue
        one = _ASSET.search(head) and '"regions"' in head and '"size"' in head
        if one or (_EXPORT.search(head) and _OWN.search(head)):
            return Evidence(f"{name} is JSON with assets and regions as VoTT has them")
    return None


@dataclass(frozen=True)
class _TagsFirst:
    """Categories: a project's tags in their order, then others that were seen."""

    tags: tuple[str, ...]

    def __call__(self, seen: set[str]) -> list[Category]:
        declared = [Category(tag) for tag in self.tags]
        return [*declared, *sorted_categories(seen - set(self.tags))]


def _items(content: dict[str, Any], path: Path, file: str, notes: Notes) -> Iterator[Item]:
    if "asset" in content:
        yield Item(content, str(path), file)
        return
    assets = json_fields.mapped(content, "assets", str(path))
    for key in assets:
        place = f"{path}: asset {key!r}"
        entry = json_fields.mapped(assets, key, place)
        if "asset" in entry:
            yield Item(entry, place, file)
        elif path.suffix.lower() != ".vott":  # the project itself has no regions, its assets have
            notes.drop("asset without regions of its own (a project, not its export)", place)


@dataclass
class _Reader:
    index: ImageIndex

    def __call__(self, item: Item, notes: Notes) -> Iterator[Image]:
        place = item.place
        asset = json_fields.mapped(item.entry, "asset", place)
        if asset.get("state") == 0:
            notes.drop("asset that was never looked at", place)
            return
        name = json_fields.text(asset, "name", place)
        path = unquote(str(asset.get("path") or "")).removeprefix("file:").replace("\\", "/")
        extent = json_fields.mapped(asset, "size", place)
        sides = [json_fields.number(extent, key, place, None) for key in ("width", "height")]
        size = (int(sides[0]), int(sides[1])) if all(sides) else None
        names = [*([path] if path else []), unquote(name), name, unquote(name)]
        found = locate(self.index, names, size, place, notes, near=item.file)
        if found is None:
            return
        image = Image(found[0], *found[1], source=place)
        image.split = split_of_folders(image.file_name)
        parent = json_fields.mapped(asset, "parent", place)
        if parent:
            image.attributes["video"] = unquote(json_fields.text(parent, "name", place))
            image.attributes["timestamp"] = json_fields.number(asset, "timestamp", place, None)
        for index, region in enumerate(json_fields.objects(item.entry, "regions", place)):
            image.annotations += _annotations(region, f"{place} regions[{index}]", notes)
        yield image


def _annotations(region: dict[str, Any], place: str, notes: Notes) -> Iterator[Annotation]:
    """One for each tag of a region."""
    tags = json_fields.listed(region, "tags", place)
    if not tags:
        notes.drop("region without a tag", place)
    if len(tags) > 1:
        notes.suspect("region of several tags (an object for each)", place)
    for tag in tags:
        name = json_fields.text({"tag": tag}, "tag", place)
        found = _annotation(name, region, place, notes)
        if found is not None:
            yield found


def _annotation(name: str, region: dict[str, Any], place: str, notes: Notes) -> Annotation | None:
    kind = str(region.get("type") or "RECTANGLE").upper()
    points = json_fields.points(region, "points", place)
    if kind in _BOXES:
        box = json_fields.mapped(region, "boundingBox", place)
        if box:
            left, top, width, height = (
                json_fields.number(box, key, place) for key in ("left", "top", "width", "height")
            )
            corners = (left, top, left + width, top + height)
        elif points:
            xs, ys = points[0::2], points[1::2]
            corners = (min(xs), min(ys), max(xs), max(ys))
        else:
            notes.drop("region without a place", place)
            return None
        note_empty(corners, place, notes)
        return Annotation(name, corners, source=place)
    if kind == "POLYGON" and len(points) >= 6:
        return polygon_annotation(name, points, source=place)
    if kind in ("POINT", "POLYLINE") and points:
        return points_annotation(
            name, points, "line" if kind == "POLYLINE" else "point", source=place
        )
    notes.drop(f"region of a shape that is not known, or too few points ({kind})", place)
    return None


FORMAT = Format(
    name="vott",
    title="VoTT JSON (Microsoft)",
    layout="the JSON of an export, or a folder with *-asset.json files; images beside it or by "
    "--images",
    carries=("boxes", "masks", "attributes", "splits"),
    loses="ids and colours of tags",
    recognise=recognise,
    plan=plan,
    conventions="Boxes by left, top, width and height in px. A region with several tags becomes an "
    "object for each. Assets that were never looked at (state 0) are left out, for that nothing is "
    "labelled there means nothing. Frames of videos have video and timestamp as attributes.",
)
