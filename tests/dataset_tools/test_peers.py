"""The same label files read by others give the same boxes, or a reason is told why they do not.

Globox and supervision read boxes alone of most formats, so boxes and the names of their categories
are compared, for each image and in any order.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dataset_tools.coco import (
    Annotation,
    annotation_area,
    annotation_box,
    load_coco,
    write_coco,
)
from dataset_tools.convert import convert_dataset
from dataset_tools.export import export_dataset
from dataset_tools.images import is_image_name
from dataset_tools.instance_map import segmentation_mask
from dataset_tools.rle import decode_mask, encode_mask
from seriatim.testing.shapes import make_shapes
from tests.dataset_tools.makers import picture, text

Boxes = dict[str, list[tuple[str, list[float]]]]  # by the name of the image without its folders
Found = list[tuple[str, tuple[str, Any]]]

# Between what a peer rounds to (float32, or 6 digits of a share) and a mistake of half a pixel.
TOLERANCE = 0.01

VOC = """<annotation><folder>VOC2007</folder><filename>a.jpg</filename>
<source><database>The VOC2007 Database</database></source>
<size><width>20</width><height>10</height><depth>3</depth></size>
<object><name>dog</name><difficult>0</difficult>
<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>20</xmax><ymax>10</ymax></bndbox></object></annotation>
"""


def ours(name: str, path: Path, output: Path, **options: Any) -> Boxes:
    """What `convert` reads, in all splits."""
    conversion = convert_dataset(name, path, output, **options)
    return {
        Path(image.file_name).name: [
            (annotation.category, list(annotation_box(annotation) or ()))
            for annotation in image.annotations
        ]
        for summary in conversion.files.values()
        for image in load_coco(summary.path).images
    }


def of_globox(annotations: Any, names: list[str] | None = None) -> Boxes:
    """Boxes of a globox.AnnotationSet; `names` are those of its class numbers."""
    return {
        Path(annotation.image_id).name: [
            (names[int(box.label)] if names else box.label, list(box.ltrb))
            for box in annotation.boxes
        ]
        for annotation in annotations
    }


def of_supervision(dataset: Any) -> Boxes:
    """Boxes of a supervision.DetectionDataset."""
    return {
        Path(path).name: [
            (dataset.classes[number], box.tolist())
            for number, box in zip(found.class_id, found.xyxy, strict=True)
        ]
        for path, found in dataset.annotations.items()
    }


def assert_same(first: Boxes, second: Boxes) -> None:
    """The same boxes, up to `TOLERANCE`, in any order."""
    assert sum(map(len, first.values())) > 0
    assert first.keys() == second.keys()
    for name, boxes in first.items():
        pairs = zip(_sorted(boxes), _sorted(second[name]), strict=True)
        for (category, box), (other, its_box) in pairs:
            assert category == other
            assert box == pytest.approx(its_box, abs=TOLERANCE)


def _sorted(boxes: list[tuple[str, list[float]]]) -> list[tuple[str, list[float]]]:
    return sorted(boxes, key=lambda pair: (pair[0], [round(side, 1) for side in pair[1]]))


@pytest.fixture(scope="module")
def coco(tmp_path_factory):
    """Boxes and polygons."""
    return make_shapes(tmp_path_factory.mktemp("shapes"), num_images=6, seed=3)


@pytest.fixture(scope="module")
def boxes(coco):
    """The same, boxes alone, with corners between pixels; beside the same images."""
    dataset = load_coco(coco)
    for image in dataset.images:
        image.annotations = [
            Annotation(
                a.category, (a.bbox[0] + 0.25, a.bbox[1], a.bbox[2] - 0.5, a.bbox[3] - 0.125)
            )
            for a in image.annotations
        ]
    write_coco(coco.parent / "boxes.json", dataset.images, dataset.categories, {})
    return coco.parent / "boxes.json"


def exported(name: str, coco: Path, folder: Path, **options: Any) -> tuple[Path, Path]:
    """Write a COCO file in a format; give the new folder, and in it that of the images."""
    export_dataset(name, {None: coco}, folder, images=coco.parent / "images", **options)
    return folder, next(p for p in folder.rglob("*") if is_image_name(p.name)).parent


def test_coco(coco, tmp_path):
    globox, supervision = pytest.importorskip("globox"), pytest.importorskip("supervision")
    found = ours("coco", coco, tmp_path / "out")
    assert_same(found, of_globox(globox.AnnotationSet.from_coco(coco)))
    theirs = supervision.DetectionDataset.from_coco(str(coco.parent / "images"), str(coco))
    assert_same(found, of_supervision(theirs))


def test_voc_with_corners_from_0(boxes, tmp_path):
    """Supervision takes all files for the challenge's, whoever wrote them: LabelImg's boxes, which
    are corners as drawn, are a pixel too large for it. Told so, we read the same."""
    globox, supervision = pytest.importorskip("globox"), pytest.importorskip("supervision")
    folder, photos = exported("voc", boxes, tmp_path / "in")
    labels = next(folder.rglob("*.xml")).parent
    found = ours("voc", folder, tmp_path / "out")
    assert_same(found, of_globox(globox.AnnotationSet.from_pascal_voc(labels)))
    theirs = supervision.DetectionDataset.from_pascal_voc(str(photos), str(labels))
    found = ours("voc", folder, tmp_path / "from_1", pixel_origin="1")
    assert_same(found, of_supervision(theirs))


def test_voc_of_the_challenge(tmp_path):
    """Its pixels are numbered from 1, so that (1, 1, 20, 10) is all of 20 × 10 pixels (see
    `formats/voc.py`). Globox takes the numbers for corners, and loses a column and a row."""
    globox, supervision = pytest.importorskip("globox"), pytest.importorskip("supervision")
    picture(tmp_path / "in/JPEGImages/a.jpg", 20, 10)
    text(tmp_path / "in/Annotations/a.xml", VOC)
    found = ours("voc", tmp_path / "in", tmp_path / "out")
    assert found == {"a.jpg": [("dog", [0, 0, 20, 10])]}
    labels = tmp_path / "in/Annotations"
    photos = tmp_path / "in/JPEGImages"
    theirs = supervision.DetectionDataset.from_pascal_voc(str(photos), str(labels))
    assert of_supervision(theirs) == found
    less = {"a.jpg": [("dog", [1, 1, 20, 10])]}
    assert of_globox(globox.AnnotationSet.from_pascal_voc(labels)) == less
    assert ours("voc", tmp_path / "in", tmp_path / "from_0", pixel_origin="0") == less


@pytest.mark.parametrize("task", ["detect", "segment"])
def test_yolo(coco, tmp_path, task):
    globox, supervision = pytest.importorskip("globox"), pytest.importorskip("supervision")
    folder, photos = exported("yolo", coco, tmp_path / "in", task=task)
    found = ours("yolo", folder, tmp_path / "out")
    labels = next(folder.rglob("labels/**/*.txt")).parent
    theirs = supervision.DetectionDataset.from_yolo(
        str(photos), str(labels), str(folder / "data.yaml")
    )
    assert_same(found, of_supervision(theirs))
    names = [category.name for category in load_coco(coco).categories]
    suffix = next(photos.iterdir()).suffix
    peer = globox.AnnotationSet
    read = peer.from_yolo_v5 if task == "detect" else peer.from_yolo_seg
    theirs = read(labels, image_folder=photos, image_extension=suffix)
    assert_same(found, of_globox(theirs, names))


def test_masks(coco, tmp_path):
    """The pixels of RLEs are the same. Polygons are COCO's by definition, and drawn as pycocotools
    does it (`annToMask`); supervision fills them by OpenCV, and so adds pixels along the edges."""
    supervision = pytest.importorskip("supervision")
    from pycocotools.coco import COCO

    export_dataset("coco", {"a": coco}, tmp_path / "in", images=coco.parent / "images")
    reference = COCO(str(tmp_path / "in/annotations/instances_a.json"))
    drawn = load_coco(coco)
    for image in drawn.images:
        for annotation in image.annotations:
            mask = segmentation_mask(annotation.segmentation, image.height, image.width)
            annotation.segmentation = encode_mask(mask)
            annotation.bbox = annotation.area = None
    write_coco(coco.parent / "rle.json", drawn.images, drawn.categories, {})
    photos = str(coco.parent / "images")
    theirs = supervision.DetectionDataset.from_coco(
        photos, str(coco.parent / "rle.json"), force_masks=True
    )
    outlines = supervision.DetectionDataset.from_coco(photos, str(coco), force_masks=True)
    added = []
    for image in reference.dataset["images"]:
        path = str(coco.parent / "images" / Path(image["file_name"]).name)
        entries = reference.imgToAnns[image["id"]]
        if not entries:
            continue
        masks = [reference.annToMask(entry).astype(bool) for entry in entries]
        for entry, ours in zip(_by_name(drawn, path).annotations, masks, strict=True):
            assert (decode_mask(entry.segmentation) == ours).all()
            assert annotation_area(entry) == ours.sum()
            rows, columns = np.nonzero(ours)
            edges = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
            assert annotation_box(entry) == edges
        assert (theirs.annotations[path].mask == np.array(masks)).all()
        added += [
            (filled & ~ours).sum() - (ours & ~filled).sum()
            for ours, filled in zip(masks, outlines.annotations[path].mask, strict=True)
        ]
    assert min(added) >= 0 and sum(added) > 0


def _by_name(dataset, path):
    return next(i for i in dataset.images if Path(i.file_name).name == Path(path).name)


def test_labelme(boxes, tmp_path):
    globox, supervision = pytest.importorskip("globox"), pytest.importorskip("supervision")
    folder, photos = exported("labelme", boxes, tmp_path / "in")
    found = ours("labelme", folder, tmp_path / "out")
    labels = next(folder.rglob("*.json")).parent
    assert_same(found, of_globox(globox.AnnotationSet.from_labelme(labels)))
    theirs = supervision.DetectionDataset.from_labelme(str(photos), str(labels))
    assert_same(found, of_supervision(theirs))


def test_cvat(boxes, tmp_path):
    globox = pytest.importorskip("globox")
    folder, _ = exported("cvat", boxes, tmp_path / "in")
    found = ours("cvat", folder, tmp_path / "out")
    (labels,) = folder.glob("*.xml")
    assert_same(found, of_globox(globox.AnnotationSet.from_cvat(labels)))


def test_createml(boxes, tmp_path):
    supervision = pytest.importorskip("supervision")
    folder, photos = exported("createml", boxes, tmp_path / "in")
    found = ours("createml", folder, tmp_path / "out")
    (labels,) = folder.rglob("*.json")
    theirs = supervision.DetectionDataset.from_createml(str(photos), str(labels))
    assert_same(found, of_supervision(theirs))
