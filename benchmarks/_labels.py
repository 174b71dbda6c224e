"""Labels made up for the benchmarks: seeded, so that they are the same in every run.

Boxes, polygons and names are random, their number per image is not. Images are 640 × 480 and all
the same few files, hard-linked, so that a hundred thousand of them take no space.
"""

from __future__ import annotations

import json
import math
import os
import random
from collections.abc import Iterator
from pathlib import Path

WIDTH, HEIGHT = 640, 480
CLASSES = tuple(f"class {number:02d}" for number in range(20))
_MOST_LINKS = 30_000  # of one file; file systems have limits

Box = tuple[int, int, int, int]  # XYXY px


def images(folder: Path, count: int) -> list[str]:
    """Make `count` JPEG images in `folder`; their names."""
    from PIL import Image

    folder.mkdir(parents=True)
    names = [f"{number:06d}.jpg" for number in range(count)]
    for start in range(0, count, _MOST_LINKS):
        first, *others = names[start : start + _MOST_LINKS]
        Image.new("RGB", (WIDTH, HEIGHT), (start % 255, 90, 60)).save(folder / first)
        for name in others:
            os.link(folder / first, folder / name)
    return names


def voc(folder: Path, count: int, seed: int, objects: int = 10) -> None:
    """Pascal VOC: Annotations/*.xml with `objects` boxes each, JPEGImages/, and the list of the
    split train in ImageSets/Main/ and labelmap.txt, without which Datumaro does not take it."""
    rng = random.Random(seed)
    (folder / "Annotations").mkdir(parents=True)
    (folder / "ImageSets" / "Main").mkdir(parents=True)
    names = images(folder / "JPEGImages", count)
    stems = "".join(f"{name.removesuffix('.jpg')}\n" for name in names)
    (folder / "ImageSets" / "Main" / "train.txt").write_text(stems)
    classes = "".join(f"{name}:::\n" for name in ("background", *CLASSES))
    (folder / "labelmap.txt").write_text(f"# label:color_rgb:parts:actions\n{classes}")
    for name in names:
        text = "".join(
            f"""\t<object>
\t\t<name>{rng.choice(CLASSES)}</name>
\t\t<pose>Unspecified</pose>
\t\t<truncated>{rng.randrange(2)}</truncated>
\t\t<difficult>0</difficult>
\t\t<bndbox>
\t\t\t<xmin>{left}</xmin>
\t\t\t<ymin>{top}</ymin>
\t\t\t<xmax>{right}</xmax>
\t\t\t<ymax>{bottom}</ymax>
\t\t</bndbox>
\t</object>
"""
            for left, top, right, bottom in _boxes(rng, objects)
        )
        (folder / "Annotations" / name.replace(".jpg", ".xml")).write_text(
            f"""<annotation>
\t<folder>JPEGImages</folder>
\t<filename>{name}</filename>
\t<source>
\t\t<database>Unknown</database>
\t</source>
\t<size>
\t\t<width>{WIDTH}</width>
\t\t<height>{HEIGHT}</height>
\t\t<depth>3</depth>
\t</size>
\t<segmented>0</segmented>
{text}</annotation>
"""
        )


def yolo(folder: Path, count: int, seed: int, objects: int = 7) -> None:
    """YOLO: data.yaml, images/train/ and labels/train/*.txt with `objects` lines each."""
    rng = random.Random(seed)
    labels = folder / "labels" / "train"
    labels.mkdir(parents=True)
    names = "\n".join(f"  {number}: {name}" for number, name in enumerate(CLASSES))
    (folder / "data.yaml").write_text(f"path: .\ntrain: images/train\nnc: 20\nnames:\n{names}\n")
    for name in images(folder / "images" / "train", count):
        lines = [
            f"{rng.randrange(len(CLASSES))} {(left + right) / 2 / WIDTH:.6f} "
            f"{(top + bottom) / 2 / HEIGHT:.6f} {(right - left) / WIDTH:.6f} "
            f"{(bottom - top) / HEIGHT:.6f}\n"
            for left, top, right, bottom in _boxes(rng, objects)
        ]
        (labels / name.replace(".jpg", ".txt")).write_text("".join(lines))


def coco(folder: Path, count: int, annotations: int, seed: int) -> Path:
    """COCO: annotations/instances_train.json with `annotations` polygons over `count` images in
    images/."""
    rng = random.Random(seed)
    names = images(folder / "images", count)
    (folder / "annotations").mkdir()
    path = folder / "annotations" / "instances_train.json"
    with open(path, "w") as file:
        categories = [
            {"id": i, "name": name, "supercategory": ""} for i, name in enumerate(CLASSES, 1)
        ]
        file.write(
            '{"info": {"image_root": "../images"}, "licenses": [], "categories": '
            + json.dumps(categories)
        )
        file.write(', "images": [')
        for number, name in enumerate(names):
            file.write(", " if number else "")
            file.write(
                f'{{"license": 1, "file_name": "{name}", "height": {HEIGHT}, "width": {WIDTH}, '
                f'"date_captured": "2013-11-14 17:02:52", "id": {number * 3 + 9}}}'
            )
        file.write('], "annotations": [')
        for number in range(annotations):
            polygon = _polygon(rng)
            xs, ys = polygon[0::2], polygon[1::2]
            box = [min(xs), min(ys), round(max(xs) - min(xs), 2), round(max(ys) - min(ys), 2)]
            file.write(", " if number else "")
            file.write(
                f'{{"segmentation": [{polygon}], "area": {box[2] * box[3] * 0.7:.4f}, '
                '"iscrowd": 0, '
                f'"image_id": {rng.randrange(count) * 3 + 9}, "bbox": {box}, '
                f'"category_id": {rng.randrange(len(CLASSES)) + 1}, "id": {number + 1}}}'
            )
        file.write("]}")
    return path


def labelme(folder: Path, count: int, seed: int, objects: int = 10) -> None:
    """LabelMe: a JSON file with `objects` polygons beside each image."""
    rng = random.Random(seed)
    for name in images(folder, count):
        shapes = [
            {
                "label": rng.choice(CLASSES),
                "points": list(map(list, zip(*[iter(_polygon(rng))] * 2, strict=True))),
                "group_id": None,
                "shape_type": "polygon",
                "flags": {},
            }
            for _ in range(objects)
        ]
        content = {
            "version": "5.2.1",
            "flags": {},
            "shapes": shapes,
            "imagePath": name,
            "imageData": None,
            "imageHeight": HEIGHT,
            "imageWidth": WIDTH,
        }
        (folder / name.replace(".jpg", ".json")).write_text(json.dumps(content, indent=2))


def csv(folder: Path, rows: int, seed: int, per_image: int = 5) -> Path:
    """CSV with a header, `rows` boxes, `per_image` of them in each image, and images/."""
    rng = random.Random(seed)
    names = images(folder / "images", -(-rows // per_image))
    path = folder / "labels.csv"
    with open(path, "w") as file:
        file.write("filename,width,height,class,xmin,ymin,xmax,ymax\n")
        for number, (left, top, right, bottom) in enumerate(_boxes(rng, rows)):
            file.write(
                f"{names[number // per_image]},{WIDTH},{HEIGHT},{rng.choice(CLASSES)},"
                f"{left},{top},{right},{bottom}\n"
            )
    return path


def cvat(folder: Path, count: int, seed: int, objects: int = 5) -> Path:
    """CVAT for images 1.1: one XML file with `objects` boxes in each of `count` images."""
    rng = random.Random(seed)
    names = images(folder / "images", count)
    path = folder / "annotations.xml"
    labels = "".join(
        f"<label><name>{name}</name><attributes></attributes></label>" for name in CLASSES
    )
    with open(path, "w") as file:
        file.write(
            '<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n  <version>1.1</version>\n'
            f"  <meta><task><name>made up</name><size>{count}</size><mode>annotation</mode>"
            f"<labels>{labels}</labels></task></meta>\n"
        )
        for number, name in enumerate(names):
            file.write(f'  <image id="{number}" name="{name}" width="{WIDTH}" height="{HEIGHT}">\n')
            for left, top, right, bottom in _boxes(rng, objects):
                file.write(
                    f'    <box label="{rng.choice(CLASSES)}" source="manual" occluded="0" '
                    f'xtl="{left}.50" ytl="{top}.25" xbr="{right}.75" ybr="{bottom}.00" '
                    'z_order="0">\n    </box>\n'
                )
            file.write("  </image>\n")
        file.write("</annotations>\n")
    return path


def _boxes(rng: random.Random, count: int) -> Iterator[Box]:
    for _ in range(count):
        left, top = rng.randrange(1, WIDTH - 60), rng.randrange(1, HEIGHT - 60)
        yield left, top, left + rng.randrange(8, 60), top + rng.randrange(8, 60)


def _polygon(rng: random.Random) -> list[float]:
    """A star-shaped polygon of 6 to 20 corners: COCO's have about that many."""
    corners = rng.randrange(6, 21)
    x, y, radius = (
        rng.randrange(60, WIDTH - 60),
        rng.randrange(60, HEIGHT - 60),
        rng.randrange(5, 60),
    )
    return [
        coordinate
        for i in range(corners)
        for coordinate in (
            round(x + radius * _COSINES[i * 60 // corners] * (0.6 + 0.4 * rng.random()), 2),
            round(
                y + radius * _COSINES[(i * 60 // corners + 45) % 60] * (0.6 + 0.4 * rng.random()), 2
            ),
        )
    ]


_COSINES = tuple(math.cos(math.tau * i / 60) for i in range(60))
