"""The parts of Detectron2 beside its models, on today's NumPy, Pillow, OpenCV and matplotlib."""

import json

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog, transforms
from detectron2.data.build import print_instances_class_histogram
from detectron2.data.datasets.pascal_voc import load_voc_instances
from detectron2.data.transforms.transform import ExtentTransform
from detectron2.evaluation import SemSegEvaluator
from detectron2.structures import BitMasks, Boxes, Instances, PolygonMasks
from detectron2.utils.collect_env import collect_env_info
from detectron2.utils.video_visualizer import VideoVisualizer
from detectron2.utils.visualizer import ColorMode, Visualizer
from PIL import Image

from .flavour import without_deprecated_calls

pytestmark = without_deprecated_calls()

METADATA = {"thing_classes": ["a", "b"], "stuff_classes": ["things", "sky"]}


@pytest.fixture
def metadata():
    name = "test_library_of_detectron2"
    yield MetadataCatalog.get(name).set(**METADATA)
    MetadataCatalog.remove(name)


def _predictions():
    masks = torch.zeros(2, 40, 60, dtype=torch.bool)
    masks[0, 5:20, 5:30] = True
    masks[1, 15:35, 25:55] = True
    return Instances(
        (40, 60),
        pred_boxes=Boxes(torch.tensor([[5.0, 5, 30, 20], [25, 15, 55, 35]])),
        pred_masks=masks,
        pred_classes=torch.tensor([0, 1]),
        scores=torch.tensor([0.9, 0.4]),
    )


def test_visualizer_draws_instances_panoptic_and_semantic(metadata):
    image = np.full((40, 60, 3), 127, np.uint8)
    for mode in ColorMode:
        drawn = Visualizer(image, metadata, instance_mode=mode).draw_instance_predictions(
            _predictions()
        )
        assert drawn.get_image().shape == (40, 60, 3)
        assert (drawn.get_image() != 127).any()
    segments = torch.zeros(40, 60, dtype=torch.int32)
    segments[:, 30:] = 1
    info = [{"id": 1, "isthing": True, "category_id": 0, "score": 0.5}]
    Visualizer(image, metadata).draw_panoptic_seg_predictions(segments, info)
    semantic = np.zeros((40, 60), np.int64)
    semantic[:20] = 1
    Visualizer(image, metadata).draw_sem_seg(semantic)
    VideoVisualizer(metadata).draw_instance_predictions(image, _predictions())


def test_augmentations_resize_crop_and_extend():
    image = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    augmentations = [
        transforms.ResizeShortestEdge([32], 64, "choice"),
        transforms.RandomFlip(prob=1.0),
        transforms.RandomBrightness(0.9, 1.1),
        transforms.RandomRotation([10, 20]),
        transforms.RandomExtent((0.8, 1.2), (0.1, 0.1)),
        transforms.ResizeScale(0.5, 1.5, 48, 48),
        transforms.FixedSizeCrop((48, 48)),
    ]
    applied = transforms.AugmentationList(augmentations)(transforms.AugInput(image))
    assert applied.apply_image(image).shape[:2] == (48, 48)
    whole = ExtentTransform((0, 0, 60, 40), (40, 60)).apply_image(image)
    np.testing.assert_array_equal(whole, image)


def test_masks_become_boxes_and_back():
    polygons = PolygonMasks([[np.array([5.0, 5, 30, 5, 30, 20, 5, 20])]])
    bitmasks = BitMasks.from_polygon_masks(polygons, 40, 60)
    assert bitmasks.get_bounding_boxes().tensor.tolist() == [[5, 5, 30, 20]]
    assert polygons.nonempty().tolist() == [True]
    cropped = polygons.crop_and_resize(torch.tensor([[5.0, 5, 30, 20]]), 14)
    assert cropped.float().mean() > 0.9


def test_semantic_evaluator_finds_perfect_predictions_perfect(tmp_path, metadata):
    truth = np.zeros((40, 60), np.uint8)
    truth[:, 30:] = 1
    Image.fromarray(truth).save(tmp_path / "truth.png")
    Image.fromarray(truth).save(tmp_path / "image.png")
    name = metadata.name
    record = {
        "file_name": str(tmp_path / "image.png"),
        "sem_seg_file_name": str(tmp_path / "truth.png"),
    }
    metadata.set(ignore_label=255)
    DatasetCatalog.register(name, lambda: [record])
    try:
        evaluator = SemSegEvaluator(name, distributed=False, output_dir=str(tmp_path))
        evaluator.reset()
        logits = torch.from_numpy(np.stack([truth == 0, truth == 1]).astype(np.float32))
        evaluator.process([record], [{"sem_seg": logits}])
        assert evaluator.evaluate()["sem_seg"]["mIoU"] == pytest.approx(100)
        assert json.loads((tmp_path / "sem_seg_predictions.json").read_text())
    finally:
        DatasetCatalog.remove(name)


def test_pascal_voc_reader_and_class_histogram(tmp_path):
    for folder in ("Annotations", "ImageSets/Main", "JPEGImages"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "ImageSets/Main/train.txt").write_text("one\ntwo\n")
    for stem in ("one", "two"):
        (tmp_path / f"Annotations/{stem}.xml").write_text(
            "<annotation><size><width>60</width><height>40</height></size><object><name>a</name>"
            "<bndbox><xmin>6</xmin><ymin>6</ymin><xmax>30</xmax><ymax>20</ymax></bndbox>"
            "</object></annotation>"
        )
    records = load_voc_instances(str(tmp_path), "train", ["a", "b"])
    assert [r["image_id"] for r in records] == ["one", "two"]
    print_instances_class_histogram(records, ["a", "b"])


def test_environment_report_names_the_extension():
    assert "Compiler" in collect_env_info()
