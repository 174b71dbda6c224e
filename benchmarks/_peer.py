"""What another tool reads of labels, in its own environment: `_peer.py WHO FORMAT PATH IMAGES`.

Prints JSON: by the name of the image without folders and suffix, [class, XYXY box, RLE or None] of
each object. Imports nothing of the project.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
from pathlib import Path
from typing import Any

Found = dict[str, list[list[Any]]]

# Our name of a format → Datumaro's.
DATUMARO = {
    "coco": "coco_instances",
    "coco-panoptic": "coco_panoptic",
    "voc": "voc_detection",
    "yolo": "yolo",
    "cvat": "cvat",
    "datumaro": "datumaro",
    "dota": "dota",
    "kitti": "kitti_detection",
    "mot": "mot_seq",
    "widerface": "wider_face",
    "createml": "roboflow_create_ml",
}


def main() -> None:
    who, format_, path, images = sys.argv[1:]
    if format_ not in {"datumaro": DATUMARO, "pylabel": PYLABEL}[who]:
        sys.exit(3)
    read = {"datumaro": datumaro, "pylabel": pylabel}[who]
    with contextlib.redirect_stdout(io.StringIO()):
        found = read(format_, Path(path), Path(images))
    print(json.dumps(found))


def datumaro(format_: str, path: Path, images: Path) -> Found:
    from datumaro import Dataset
    from datumaro.components.annotation import AnnotationType as Type

    dataset = Dataset.import_from(str(path), DATUMARO[format_])
    labels = dataset.categories()[Type.label]
    found: Found = {}
    for item in dataset:
        objects: dict[object, list[Any]] = {}
        for number, entry in enumerate(item.annotations):
            if entry.type == Type.label:  # what WIDER FACE calls its folders
                continue
            # The box and the mask of an object are two annotations of one group.
            one = objects.setdefault(entry.group or f"#{number}", [None, None, None])
            one[0] = None if entry.label is None else labels[entry.label].name
            if entry.type == Type.mask:
                one[2] = _rle(entry.image)
            elif entry.type == Type.polygon:
                one[2] = _drawn(entry, *item.media.size)
            if one[1] is None or entry.type == Type.bbox:
                one[1] = _corners(entry.get_bbox())
        name = Path(item.id).name
        found[f"{int(name):06}" if format_ == "mot" else name] = list(objects.values())
    return found


def _corners(box: Any) -> list[float]:
    x, y, width, height = map(float, box)
    return [x, y, x + width, y + height]


def _rle(mask: Any) -> dict[str, Any]:
    import numpy as np
    from pycocotools import mask as coco_mask

    rle = coco_mask.encode(np.asfortranarray(mask, np.uint8))
    return {"size": [int(side) for side in rle["size"]], "counts": rle["counts"].decode()}


def _drawn(polygon: Any, height: int, width: int) -> dict[str, Any]:
    """RLE of a polygon, by pycocotools as the tool does it."""
    from pycocotools import mask as coco_mask

    rle = coco_mask.merge(coco_mask.frPyObjects([polygon.points], height, width))
    return {"size": [height, width], "counts": rle["counts"].decode()}


PYLABEL = {"coco", "voc", "yolo"}


def pylabel(format_: str, path: Path, images: Path) -> Found:
    import yaml
    from pylabel import importer

    if format_ == "coco":
        read = importer.ImportCoco(str(next(path.rglob("instances*.json"))), str(images))
    elif format_ == "voc":
        read = importer.ImportVOC(str(next(path.rglob("*.xml")).parent), str(images))
    else:
        labels = str(next(path.rglob("labels/*/*.txt")).parent)
        names = [str(n) for n in yaml.safe_load((path / "data.yaml").read_text())["names"].values()]
        read = importer.ImportYoloV5(labels, "png", names, os.path.relpath(images, labels))
    found: Found = {}
    for _, row in read.df.iterrows():
        entries = found.setdefault(Path(row["img_filename"]).stem, [])
        if row["cat_name"]:
            sides = ("ann_bbox_xmin", "ann_bbox_ymin", "ann_bbox_xmax", "ann_bbox_ymax")
            entries.append([str(row["cat_name"]), [float(row[side]) for side in sides], None])
    return found


if __name__ == "__main__":
    main()
