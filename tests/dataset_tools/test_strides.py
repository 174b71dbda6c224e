"""Strides read from a config alone are those that Seriatim's own reading of it gives."""

from pathlib import Path

import pytest

from dataset_tools.errors import InputError
from dataset_tools.strides import parse_strides, strides_of_config
from tests.dataset_tools.makers import text

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.mark.parametrize(
    "name",
    [
        "Trees-TaskAligned",
        "BCCD-TaskAligned",
        "BCCD-RetinaNet-Lite0-FPN",
        "Nuclei-MaskRCNN-Lite0-FPN",
        "RotatedFasterRCNN-R50-FPN",
        "BCCD-FasterRCNN-R50-FPN",
        "BCCD-RetinaNet-R50-FPN",
    ],
)
def test_the_project_s_own_configs(name):
    pytest.importorskip("detectron2")
    from seriatim.config import load_config

    path = CONFIGS / f"{name}.yaml"
    model = load_config(path, []).MODEL
    group = {"TaskAlignedDetector": "TASK_ALIGNED", "RetinaNet": "RETINANET"}
    levels = model[group.get(model.META_ARCHITECTURE, "RPN")].IN_FEATURES
    assert strides_of_config(path) == [2 ** int(level[-1]) for level in levels]


def test_defaults_are_seriatim_s():
    pytest.importorskip("detectron2")
    from dataset_tools.strides import _LEVELS
    from seriatim.config import get_cfg

    for group, default in _LEVELS.values():
        if default:
            assert tuple(get_cfg().MODEL[group].IN_FEATURES) == default


def test_what_cannot_be_known(tmp_path):
    base = text(tmp_path / "base.yaml", "MODEL:\n  RPN:\n    IN_FEATURES: [p2, p3]\n")
    config = text(tmp_path / "a.yaml", "_BASE_: base.yaml\nMODEL:\n  MASK_ON: True\n")
    assert strides_of_config(config) == [4, 8]
    base.write_text("_BASE_: base.yaml\n")
    with pytest.raises(InputError, match="is no config"):
        strides_of_config(config)
    for content, message in (
        ("_BASE_: COCO-Detection/mine_R_50_1x.yaml", "--strides 8,16,32"),
        ("MODEL: {META_ARCHITECTURE: FCOSDetector, FCOS: {IN_FEATURES: [x]}}", "--strides"),
        ("[1, 2]", "is no config"),
        ("a: [", "no YAML"),
    ):
        with pytest.raises(InputError, match=message):
            strides_of_config(text(tmp_path / "b.yaml", content))
    with pytest.raises(InputError, match="There is no config"):
        strides_of_config(tmp_path / "none.yaml")


def test_strides_in_words():
    assert parse_strides("32, 8,16,8") == [8, 16, 32]
    for wrong in ("", "8,", "0", "8,x", "-4", "1.5"):
        with pytest.raises(InputError, match="whole numbers"):
            parse_strides(wrong)


@pytest.mark.parametrize(
    "name",
    [
        "COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml",
        "COCO-Detection/faster_rcnn_R_50_C4_1x.yaml",
        "COCO-Detection/retinanet_R_50_FPN_1x.yaml",
        "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x.yaml",
        "COCO-Detection/rpn_R_50_FPN_1x.yaml",
    ],
)
def test_names_of_the_model_zoo_say_what_its_configs_say(tmp_path, name):
    from detectron2.model_zoo import get_config
    from detectron2.modeling import build_backbone

    cfg = get_config(name)
    retinanet = cfg.MODEL.META_ARCHITECTURE == "RetinaNet"
    levels = cfg.MODEL.RETINANET.IN_FEATURES if retinanet else cfg.MODEL.RPN.IN_FEATURES
    shapes = build_backbone(cfg).output_shape()
    (tmp_path / "mine.yaml").write_text(f"_BASE_: [{name}, other.yaml]\nSEED: 1\n")
    assert strides_of_config(tmp_path / "mine.yaml") == [shapes[level].stride for level in levels]
