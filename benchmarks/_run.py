"""One conversion in a process of its own: `_run.py WHO FORMAT PATH OUTPUT`.

Prints [processor seconds, peak MB beyond the imports, seconds by the clock]. Runs in the peers'
environment too, so it imports nothing of the project unless WHO is the project.
"""

from __future__ import annotations

import glob
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from _memory import peak_of

Run = Callable[[Path, Path], object]  # from the labels to a COCO file in the folder


def main() -> None:
    who, format_, path, output = sys.argv[1:]
    run = RUNS[who](format_)
    if run is None:
        sys.exit(1)
    start, clock = time.process_time(), time.perf_counter()
    peak = peak_of(lambda: run(Path(path), Path(output)))
    print(json.dumps([time.process_time() - start, peak, time.perf_counter() - clock]))


def dataset_tools(format_: str, workers: int = 1) -> Run:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from dataset_tools.convert import convert_dataset

    return lambda path, output: convert_dataset(format_, path, output, workers=workers)


def dataset_tools_all_cores(format_: str) -> Run:
    """As the command does it, unless it is told otherwise by -j."""
    return dataset_tools(format_, os.cpu_count() or 1)


def parse(format_: str) -> Run:
    """Read and parse every byte by the fastest library there is, and throw the result away."""
    pattern, parser = {
        "voc": ("Annotations/*.xml", _xml),
        "cvat": ("", _xml),
        "labelme": ("*.json", _json),
        "coco": ("", _json),
        "yolo": ("labels/train/*.txt", lambda: lambda content: list(map(float, content.split()))),
        "csv": ("", _csv),
    }[format_]
    parse_one = parser()

    def run(path: Path, _: Path) -> None:
        for name in glob.iglob(str(path / pattern)) if pattern else [str(path)]:
            with open(name, "rb") as file:
                parse_one(file.read())

    return run


def _xml() -> Callable[[bytes], object]:
    try:
        from lxml import etree
    except ImportError:
        from xml.etree import ElementTree as etree  # noqa: N813
    return etree.fromstring


def _json() -> Callable[[bytes], object]:
    import msgspec

    return msgspec.json.decode


def _csv() -> Callable[[bytes], object]:
    import csv
    import io

    try:
        import pyarrow
        from pyarrow.csv import read_csv
    except ImportError:
        return lambda content: list(csv.reader(io.StringIO(content.decode())))
    pyarrow.set_cpu_count(1)
    return lambda content: read_csv(io.BytesIO(content))


def globox(format_: str) -> Run | None:
    from globox import AnnotationSet

    readers = {
        "voc": lambda path: AnnotationSet.from_pascal_voc(path / "Annotations"),
        "yolo": lambda path: AnnotationSet.from_yolo_v5(
            path / "labels/train", image_folder=path / "images/train"
        ),
        "coco": AnnotationSet.from_coco,
        "labelme": lambda path: AnnotationSet.from_labelme(path, include_poly=True),
        "cvat": AnnotationSet.from_cvat,
    }
    read = readers.get(format_)
    return read and (lambda path, output: read(path).save_coco(output / "all.json", auto_ids=True))


def supervision(format_: str) -> Run | None:
    from supervision import DetectionDataset

    readers = {
        "voc": lambda path: DetectionDataset.from_pascal_voc(
            str(path / "JPEGImages"), str(path / "Annotations")
        ),
        "yolo": lambda path: DetectionDataset.from_yolo(
            str(path / "images/train"), str(path / "labels/train"), str(path / "data.yaml")
        ),
        "coco": lambda path: DetectionDataset.from_coco(str(path.parents[1] / "images"), str(path)),
        "labelme": lambda path: DetectionDataset.from_labelme(str(path), str(path)),
    }
    read = readers.get(format_)
    return read and (
        lambda path, output: read(path).as_coco(annotations_path=str(output / "all.json"))
    )


def datumaro(format_: str) -> Run | None:
    from datumaro import Dataset

    name = {"voc": "voc_detection", "coco": "coco_instances", "cvat": "cvat"}.get(format_)
    name = {"labelme": None, "yolo": "yolo", "csv": None}.get(format_, name)
    return name and (
        lambda path, output: Dataset.import_from(
            str(path.parents[format_ == "coco"] if path.is_file() else path), name
        ).export(str(output / "out"), "coco_instances")
    )


def pylabel(format_: str) -> Run | None:
    from pylabel import importer

    readers = {
        "voc": lambda path: importer.ImportVOC(str(path / "Annotations")),
        "coco": lambda path: importer.ImportCoco(str(path)),
        "yolo": lambda path: importer.ImportYoloV5(
            str(path / "labels/train"), path_to_images=str(path / "images/train")
        ),
    }
    read = readers.get(format_)
    return read and (lambda path, output: read(path).export.ExportToCoco(str(output / "all.json")))


RUNS = {
    run.__name__: run
    for run in (
        dataset_tools,
        dataset_tools_all_cores,
        parse,
        globox,
        supervision,
        datumaro,
        pylabel,
    )
}

if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
