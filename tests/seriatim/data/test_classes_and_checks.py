"""What a config takes from the data, and what it is told when the two do not fit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from detectron2.data import MetadataCatalog
from PIL import Image

from dataset_tools.errors import InputError
from seriatim.config import get_cfg, load_config
from seriatim.data.catalog import register_datasets
from seriatim.data.checks import check_data
from seriatim.data.classes import resolve_num_classes


def complaint(function, cfg):
    with pytest.raises(InputError) as error:
        function(cfg)
    assert "\n" not in str(error.value)
    return str(error.value)


def edit(entry, change):
    path = Path(entry["JSON"])
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    return entry


# Classes


def test_every_head_gets_its_number(config, panoptic_entries):
    cfg = config(panoptic_entries["separated"])
    resolve_num_classes(cfg)
    model = cfg.MODEL
    assert model.RETINANET.NUM_CLASSES == model.ROI_HEADS.NUM_CLASSES == 3
    assert model.TASK_ALIGNED.NUM_CLASSES == model.FCOS.NUM_CLASSES == 3
    assert model.SEM_SEG_HEAD.NUM_CLASSES == 3  # things, sky, ground


def test_semantic_and_standard_panoptic(config, panoptic_entries):
    cfg = config(panoptic_entries["standard"])
    resolve_num_classes(cfg)
    assert cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES == 5
    cfg = config(panoptic_entries["semantic"])
    resolve_num_classes(cfg)
    assert cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES == 3
    assert cfg.MODEL.ROI_HEADS.NUM_CLASSES == 0


@pytest.mark.parametrize(
    ("architecture", "group"),
    [
        ("RetinaNet", "RETINANET"),
        ("GeneralizedRCNN", "ROI_HEADS"),
        ("TaskAlignedDetector", "TASK_ALIGNED"),
        ("FCOSDetector", "FCOS"),
    ],
)
def test_a_contradiction_counts_where_it_is_read(config, architecture, group):
    cfg = config()
    cfg.MODEL.META_ARCHITECTURE = architecture
    cfg.MODEL[group].NUM_CLASSES = 80
    message = complaint(resolve_num_classes, cfg)
    assert f"MODEL.{group}.NUM_CLASSES is 80" in message
    assert "circle, square, triangle" in message
    cfg.MODEL.META_ARCHITECTURE = "ProposalNetwork"
    resolve_num_classes(cfg)
    assert cfg.MODEL[group].NUM_CLASSES == 80


def test_names_that_are_unknown(config):
    cfg = config()
    cfg.DATASETS.TEST = ("shape",)
    assert "Did you mean shapes" in complaint(resolve_num_classes, cfg)
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = ()
    assert "empty" in complaint(resolve_num_classes, cfg)


def test_evaluation_needs_no_training_set(config):
    cfg = config()
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = (), ("shapes",)
    resolve_num_classes(cfg)
    assert cfg.MODEL.RETINANET.NUM_CLASSES == 3


def test_a_dataset_of_detectron2_that_is_not_there():
    cfg = load_config("COCO-Detection/retinanet_R_50_FPN_1x.yaml")
    assert "DETECTRON2_DATASETS" in complaint(resolve_num_classes, cfg)


def test_training_and_test_set_with_other_categories(config, entry):
    def rename(content):
        content["categories"][1]["name"] = "cube"

    cfg = config(entry("a"), edit(entry("b"), rename))
    message = complaint(resolve_num_classes, cfg)
    assert "only the first has square" in message
    assert "only the second has cube" in message

    def swap(content):
        names = [c["name"] for c in content["categories"]]
        for category, name in zip(content["categories"], names[::-1], strict=True):
            category["name"] = name

    cfg = config(entry("c"), edit(entry("d"), swap))
    assert "the order is" in complaint(resolve_num_classes, cfg)


def test_keypoints(config):
    cfg = config()
    resolve_num_classes(cfg)
    assert cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS == 0
    cfg.MODEL.KEYPOINT_ON = True
    resolve_num_classes(cfg)
    assert cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS == 4
    assert len(cfg.TEST.KEYPOINT_OKS_SIGMAS) == 4
    cfg.TEST.KEYPOINT_OKS_SIGMAS = [0.1] * 5
    assert "5 numbers for 4" in complaint(resolve_num_classes, cfg)
    cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS = 17
    assert "NUM_KEYPOINTS is 17" in complaint(resolve_num_classes, cfg)


# Checks


def test_what_fits_is_not_complained_about(config, panoptic_entries):
    cfg = config()
    cfg.MODEL.MASK_ON = cfg.MODEL.KEYPOINT_ON = True
    check_data(cfg)
    for name, architecture in (
        ("separated", "PanopticFPN"),
        ("separated", "RetinaNet"),
        ("semantic", "SemanticSegmentor"),
        ("standard", "SemanticSegmentor"),
    ):
        cfg = config(panoptic_entries[name])
        cfg.MODEL.META_ARCHITECTURE = architecture
        check_data(cfg)


@pytest.mark.parametrize(
    ("name", "architecture"),
    [
        ("semantic", "RetinaNet"),
        ("standard", "GeneralizedRCNN"),
        ("standard", "PanopticFPN"),
        ("semantic", "PanopticFPN"),
    ],
)
def test_labels_of_another_kind(config, panoptic_entries, name, architecture):
    cfg = config(panoptic_entries[name])
    cfg.MODEL.META_ARCHITECTURE = architecture
    assert f"{architecture} cannot use {name}" in complaint(check_data, cfg)


def test_masks_and_keypoints_that_are_not_there(config, entry):
    def strip(content):
        for annotation in content["annotations"][:2]:
            del annotation["segmentation"]
        for annotation in content["annotations"]:
            annotation.pop("keypoints", None)

    cfg = config(edit(entry(), strip))
    check_data(cfg)
    cfg.MODEL.MASK_ON = True
    assert "2 of the 22 objects in shapes have none" in complaint(check_data, cfg)
    cfg.MODEL.MASK_ON, cfg.MODEL.KEYPOINT_ON = False, True
    assert "KEYPOINT_ON needs keypoints" in complaint(check_data, cfg)


def test_bitmaps_are_no_polygons(config):
    cfg = config(rle=True)
    cfg.MODEL.MASK_ON = True
    assert "INPUT.MASK_FORMAT to bitmask" in complaint(check_data, cfg)
    cfg.INPUT.MASK_FORMAT = "bitmask"
    check_data(cfg)


def test_rotated_boxes_and_upright_models(config, entry):
    def rotate(content):
        for annotation in content["annotations"]:
            annotation["bbox"] = [*annotation["bbox"], 0.0]

    cfg = config(edit(entry(), rotate))
    assert "are rotated" in complaint(check_data, cfg)
    cfg.MODEL.PROPOSAL_GENERATOR.NAME = "RRPN"
    check_data(cfg)
    cfg.MODEL.META_ARCHITECTURE = "RetinaNet"
    assert "labels are rotated" in complaint(check_data, cfg)
    cfg = config(entry("upright"))
    cfg.MODEL.PROPOSAL_GENERATOR.NAME = "RRPN"
    assert "are upright" in complaint(check_data, cfg)


def test_a_training_set_without_objects(config, entry):
    cfg = config(edit(entry(), lambda content: content["annotations"].clear()))
    assert "not one object" in complaint(check_data, cfg)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("INPUT.FORMAT", "CMYK", "BGR, RGB"),
        ("INPUT.FORMAT", "L", "1 channels"),
        ("INPUT.MASK_FORMAT", "rle", "polygon and bitmask"),
        ("SERIATIM.AUG.HFLIP", 1.5, "between 0 and 1"),
        ("SERIATIM.AUG.CONTRAST", 1.0, "below 1"),
        ("SERIATIM.AUG.SIZE", (0, 10), "above 0"),
        ("SERIATIM.AUG.SCALE", (1.0,), "two numbers"),
        ("SERIATIM.AUG.SCALE", (2.0, 1.0), "smaller number"),
    ],
)
def test_values_that_mean_nothing(key, value, words):
    cfg = get_cfg()
    cfg.SERIATIM.AUG.ENABLED = True
    cfg.merge_from_list([key, value])
    assert words in complaint(check_data, cfg)


def test_copy_paste_makes_bitmaps(config, entry):
    cfg = config()
    cfg.SERIATIM.AUG.ENABLED, cfg.SERIATIM.AUG.COPY_PASTE = True, 0.5
    check_data(cfg)
    cfg.MODEL.MASK_ON = True
    assert "bitmask" in complaint(check_data, cfg)

    def strip(content):
        for annotation in content["annotations"]:
            annotation.pop("segmentation", None)

    cfg = config(edit(entry("b"), strip))
    cfg.SERIATIM.AUG.ENABLED, cfg.SERIATIM.AUG.COPY_PASTE = True, 0.5
    assert "COPY_PASTE needs masks" in complaint(check_data, cfg)


def test_the_least_that_a_file_can_say(tmp_path):
    """No masks, no iscrowd, categories out of order, ids that start anywhere."""
    images = tmp_path / "images"
    images.mkdir()
    Image.new("RGB", (64, 48)).save(images / "a.jpg")
    content = {
        "images": [{"id": 5, "file_name": "a.jpg", "width": 64, "height": 48}],
        "annotations": [
            {"id": 1, "image_id": 5, "category_id": 2, "bbox": [1, 2, 30, 40], "area": 1200}
        ],
        "categories": [{"id": 2, "name": "WBC"}, {"id": 1, "name": "RBC"}],
    }
    (tmp_path / "cells.json").write_text(json.dumps(content))
    cfg = get_cfg()
    cfg.SERIATIM.DATASETS = [
        {"NAME": "cells", "JSON": str(tmp_path / "cells.json"), "IMAGES": str(images)}
    ]
    cfg.DATASETS.TRAIN = ("cells",)
    register_datasets(cfg)
    resolve_num_classes(cfg)
    check_data(cfg)
    assert MetadataCatalog.get("cells").thing_classes == ["RBC", "WBC"]
    assert cfg.MODEL.ROI_HEADS.NUM_CLASSES == 2
