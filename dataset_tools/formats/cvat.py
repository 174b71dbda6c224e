"""CVAT for images 1.1: one XML file with an <image> for each image, of a task or a whole project.

See `cvat_elements` for what the shapes mean. The file is read as a stream, image by image. Images
are looked for where CVAT's export with images puts them: in images/, for projects in a folder for
each subset.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dataset_tools.coco import Image
from dataset_tools.errors import InputError
from dataset_tools.formats.base import SPLIT_NAMES, Evidence, Format, Glimpse, Plan, root_of
from dataset_tools.formats.cvat_elements import (
    CONVENTIONS,
    Meta,
    annotation,
    declared,
    is_part,
    number,
    read_meta,
)
from dataset_tools.formats.cvat_quick import QuickImages
from dataset_tools.formats.cvat_write import write
from dataset_tools.formats.groups import join_groups
from dataset_tools.formats.locate import locate
from dataset_tools.images import ImageIndex, walk_files
from dataset_tools.notes import Notes
from dataset_tools.xml_parts import Part, Rest, parts_of
from dataset_tools.xml_tree import Node, stream_xml_quickly

_IMAGES_PER_PART = 256  # about so many
_ROOT = re.compile(r"<annotations[\s>]")


def plan(path: Path, notes: Notes, images: Path | None = None) -> Plan:
    """Plan to read an XML file, or all those of CVAT in a folder."""
    files, metas = xml_files(path, notes)
    root = root_of(path, images)
    parts = [parts_of(file, "image") for file in files]
    items = [item for file, some in zip(files, parts, strict=True) for item in some or [file]]
    return Plan(
        image_root=root,
        items=items,
        read=_Reader(ImageIndex(root), metas),
        categories=declared(metas.values()),
        streams=not any(parts),
        parallel=len(items) > 1,
        images_per_item=_IMAGES_PER_PART if any(parts) else 1,
    )


def recognise(glimpse: Glimpse) -> Evidence | None:
    """XML with <annotations> and an <image> in it."""
    for name in glimpse.with_suffix(".xml")[:5]:
        head = glimpse.head(name)
        mode = "<mode>annotation</mode>" in head and "<track" not in head
        if _ROOT.search(head) and (mode or re.search(r"<image\s[^>]*\bname=", head)):
            return Evidence(f"{name} is XML with <annotations> and images as CVAT has them")
    return None


def xml_files(path: Path, notes: Notes) -> tuple[list[Path], dict[Path, Meta]]:
    """The files of CVAT at a path, with what each declares. InputError if there are none."""
    names = walk_files(path) if path.is_dir() else [path.name]
    base = path if path.is_dir() else path.parent
    metas: dict[Path, Meta] = {}
    for name in names:
        if not name.lower().endswith(".xml"):
            continue
        root, meta = read_meta(base / name)
        if root.tag == "annotations":
            metas[base / name] = meta
        else:
            notes.drop("XML file that is not CVAT's", f"{base / name}: its root is <{root.tag}>")
    if not metas:
        raise InputError(f"{path}: there is no XML file of CVAT, with <annotations>.")
    return list(metas), metas


@dataclass
class _Reader:
    index: ImageIndex
    metas: dict[Path, Meta]

    def __call__(self, item: Path | Part | Rest, notes: Notes) -> Iterator[Image]:
        path, content = (item, None) if isinstance(item, Path) else (item.path, item.content())
        meta, name = self.metas[path], str(path)
        quick = QuickImages(name, lambda node: self._image(node, name, meta, notes))
        for node in stream_xml_quickly(path, "image", quick, content):
            if isinstance(node, Image):
                yield node
            elif node.tag == "image":
                image = self._image(node, name, meta, notes)
                if image is not None:
                    yield image
            elif node.tag == "track":
                notes.drop("track (read as format cvat-video)", f"{path}:{node.line}")

    def _image(self, node: Node, path: str, meta: Meta, notes: Notes) -> Image | None:
        place = f"{path}:{node.line}"
        attributes = node.attributes
        name = attributes.get("name", "").strip().replace("\\", "/")
        if not name:
            raise InputError(f"{place}: this <image> has no name. Mend or remove it.")
        size = None
        if "width" in attributes and "height" in attributes:
            size = int(number(node, "width", path)), int(number(node, "height", path))
        subset = attributes.get("subset", "").strip()
        found = locate(self.index, self._names(name, subset), size, place, notes)
        if found is None:
            return None
        image = Image(found[0], *found[1], split=_split(subset), source=place)
        task = meta.tasks.get(attributes.get("task_id", ""))
        if task:
            image.attributes["task"] = task
        if node.children:
            shapes = (annotation(child, image, path, meta, notes) for child in node.children)
            image.annotations = join_groups(
                [shape for shape in shapes if shape is not None], image, notes, is_part
            )
        return image

    def _names(self, name: str, subset: str) -> list[str]:
        """Where the image may be, surest first; its name at last."""
        if ".." in name.split("/") or name.startswith("/"):
            return [name]
        places = [f"images/{subset}/{name}"] if subset else []
        places.append(f"images/{name}")
        if subset:
            places.append(f"{subset}/{name}")
        return [place for place in places if place in self.index] + [name]


def _split(subset: str) -> str | None:
    if subset.lower() in ("", "default"):
        return None
    return SPLIT_NAMES.get(subset.lower(), subset)


FORMAT = Format(
    name="cvat",
    title="CVAT for images 1.1 XML",
    layout="annotations.xml of a task or project, or a folder with such files; images beside it in "
    "images/ or by --images",
    carries=("boxes", "masks", "keypoints", "rotation", "labels", "attributes", "splits"),
    loses="drawing order of equal z_order; cuboids become boxes, their corners an attribute",
    recognise=recognise,
    plan=plan,
    conventions=f"{CONVENTIONS} Polygons and masks of one label and group_id are one instance. "
    "Subsets are splits; Default is none.",
    write=write,
    write_loses="boxes and areas that are not those of masks or keypoints, attributes of images "
    "but task, lists and objects as attributes (written as JSON), rotation by 0, "
    "supercategories, ids",
)
