"""Exported models answer as those that they were made from, whatever the image's size."""

import json

import numpy as np
import pytest
import torch
from detectron2.modeling import RetinaNet, build_model
from PIL import Image

import seriatim.modeling  # noqa: F401 (registers our architectures and backbones)
from dataset_tools.errors import InputError
from seriatim.config import get_cfg
from seriatim.data.classification.augmentations import FitCrop
from seriatim.export import ExportedPredictor, runtimes
from seriatim.export.write import export
from seriatim.predictor import ImagePredictor, Predictor

FORMATS = ("onnx", "openvino", "torchscript")


def config(architecture, **options):
    cfg = get_cfg()
    cfg.MODEL.META_ARCHITECTURE = architecture
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.TIMM.NAME = "resnet10t"
    cfg.MODEL.BACKBONE.NAME = "build_timm_fpn_backbone"
    cfg.MODEL.FPN.IN_FEATURES = ["res3", "res4", "res5"]
    cfg.MODEL.FPN.OUT_CHANNELS = 16
    cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST = 96, 128
    if architecture == "TaskAlignedDetector":
        cfg.MODEL.BACKBONE.NAME = "build_timm_pan_backbone"
        cfg.MODEL.TASK_ALIGNED.NUM_CLASSES = 2
        cfg.MODEL.TASK_ALIGNED.CHANNELS = 16
        cfg.MODEL.TASK_ALIGNED.SCORE_THRESH_TEST = 0.003
    elif architecture == "FCOSDetector":
        cfg.MODEL.FPN.OUT_CHANNELS = 32
        cfg.MODEL.FCOS.NUM_CLASSES = 2
        cfg.MODEL.FCOS.IN_FEATURES = ["p3", "p4", "p5"]
        cfg.MODEL.FCOS.SCORE_THRESH_TEST = 0.003
        cfg.MODEL.FCOS.TOPK_CANDIDATES_TEST = 50
    elif architecture == "RetinaNet":
        cfg.MODEL.RETINANET.NUM_CLASSES = 2
        cfg.MODEL.RETINANET.IN_FEATURES = ["p3", "p4", "p5"]
        cfg.MODEL.RETINANET.SCORE_THRESH_TEST = 0.003
        cfg.MODEL.RETINANET.TOPK_CANDIDATES_TEST = 50
        cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[32], [64], [128]]
    elif architecture == "ImageClassifier":
        cfg.MODEL.BACKBONE.NAME = "build_timm_classifier_backbone"
        cfg.MODEL.CLASSIFIER.NUM_CLASSES = 7
        cfg.SERIATIM.CLASSIFICATION.SIZE = (64, 64)
    for key, value in options.items():
        cfg.merge_from_list([key.replace("__", "."), value])
    return cfg


def random_model(cfg, folder):
    """Weights under which scores differ from place to place, as of a trained model."""
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    for name, parameter in model.named_parameters():
        if name.endswith(("cls_logits.weight", "cls_score.weight", "bbox_pred.weight")):
            torch.nn.init.normal_(parameter, std=0.3)
    cfg.MODEL.WEIGHTS = str(folder / "model.pth")
    torch.save({"model": model.state_dict()}, cfg.MODEL.WEIGHTS)
    return model


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 128, (12, 23, 3), dtype=np.uint8)
    path = tmp_path_factory.mktemp("photos") / "photo.png"
    fine = rng.integers(0, 128, (120, 230, 3), dtype=np.uint8)
    Image.fromarray(coarse.repeat(10, 0).repeat(10, 1) + fine).save(path)
    return path


CASES = [("TaskAlignedDetector", f) for f in FORMATS] + [
    ("RetinaNet", "onnx"),
    ("FCOSDetector", "onnx"),
    ("ImageClassifier", "onnx"),
    ("ImageClassifier", "openvino"),
]


@pytest.mark.parametrize(("architecture", "format"), CASES)
def test_it_answers_as_the_model_does(architecture, format, tmp_path, photo):
    cfg = config(architecture)
    model = random_model(cfg, tmp_path)
    path = export(cfg, model, tmp_path / "exported", format)
    assert path.is_file()
    predictor = Predictor(cfg)
    if architecture == "ImageClassifier":  # there is no dataset that says so
        predictor = ImagePredictor(model, cfg.INPUT.FORMAT, [FitCrop((64, 64), 1.0)])
    expected = predictor.predict_file(photo)
    got = ExportedPredictor(tmp_path / "exported").predict_file(photo)
    if architecture == "ImageClassifier":
        assert torch.allclose(expected["logits"], got["logits"], atol=1e-3)
        assert (expected["classes"] == got["classes"]).all()
        return
    expected, got = expected["instances"], got["instances"]
    assert len(expected) > 20
    assert got.image_size == expected.image_size == (120, 230)
    # Tolerance: 1e-4 of a score, 0.02 px of a side; detections of equal score may change places.
    assert abs(len(expected) - len(got)) <= 1
    assert np.allclose(*(sorted(x.scores.numpy())[-20:] for x in (expected, got)), atol=1e-4)
    near = (expected.pred_boxes.tensor[:, None] - got.pred_boxes.tensor[None]).abs().amax(-1) < 0.02
    near &= expected.pred_classes[:, None] == got.pred_classes[None]
    near &= (expected.scores[:, None] - got.scores[None]).abs() < 1e-4
    assert near.any(1).sum() >= len(expected) - 1


def test_what_cannot_be_exported_is_refused_and_leaves_nothing(tmp_path):
    two_stages = get_cfg()
    two_stages.MODEL.DEVICE = "cpu"
    two_stages.MODEL.ROI_HEADS.NUM_CLASSES = 2
    with pytest.raises(InputError, match=r"GeneralizedRCNN .*not exported.*TaskAlignedDetector"):
        export(two_stages, build_model(two_stages).eval(), tmp_path / "no")
    cfg = config("TaskAlignedDetector", SERIATIM__EVAL__TILE=64)
    with pytest.raises(InputError, match=r"TILE"):
        export(cfg, build_model(cfg).eval(), tmp_path / "no")
    assert not (tmp_path / "no").exists()


class OnlyThree(RetinaNet):
    def forward_inference(self, *given):
        return [found[:3] for found in super().forward_inference(*given)]


def test_a_model_that_chooses_otherwise_is_noticed(tmp_path):
    cfg = config("RetinaNet")
    model = random_model(cfg, tmp_path)
    model.__class__ = OnlyThree
    with pytest.raises(InputError, match=r"does not answer as OnlyThree.*instead of 3"):
        export(cfg, model, tmp_path / "no", "torchscript")
    assert not list(tmp_path.glob("no/*"))


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(runtimes.importlib.util, "find_spec", lambda name: None)
    cfg = config("RetinaNet")
    with pytest.raises(InputError, match=r"onnx and onnxruntime.*seriatim\[export\]"):
        export(cfg, build_model(cfg).eval(), tmp_path / "no")


def test_a_folder_that_holds_no_export(tmp_path):
    with pytest.raises(InputError, match=r"no exported model"):
        ExportedPredictor(tmp_path)
    (tmp_path / "export.json").write_text(json.dumps({"format": "onnx"}))
    with pytest.raises(InputError, match=r"export\.json"):
        ExportedPredictor(tmp_path)
