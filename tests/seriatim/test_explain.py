"""Explanations beside their formulas, on networks small enough to work them out by hand."""

from __future__ import annotations

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances, RotatedBoxes
from torch import nn

import seriatim.modeling  # noqa: F401 (registers our architectures)
from dataset_tools.errors import InputError
from seriatim.config import get_cfg
from seriatim.explain import Explainer, Target

HEIGHT, WIDTH = 12, 16


class Linear(nn.Module):
    """Logits are sums of weighted pixels."""

    def __init__(self, classes: int = 3):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weight = nn.Parameter(torch.randn(classes, 3, HEIGHT, WIDTH, generator=generator))
        self.register_buffer("pixel_mean", torch.tensor([10.0, 20.0, 30.0]).view(3, 1, 1))

    def forward(self, batch):
        logits = [torch.einsum("kchw,chw->k", self.weight, i["image"].float()) for i in batch]
        return [{"scores": z.softmax(0), "logits": z} for z in logits]


class Network(nn.Module):
    """A convolution, an activation that overwrites it, mean over places, one linear layer."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.backbone = nn.Sequential(
            nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.ReLU(inplace=True), nn.Conv2d(4, 5, 3)
        )
        self.act = nn.LeakyReLU(inplace=True)
        self.fc = nn.Linear(5, 3)

    def forward(self, batch):
        x = torch.stack([i["image"].float() / 255 for i in batch])
        logits = self.fc(self.act(self.backbone(x)).mean((2, 3)))
        return [{"scores": z.softmax(0), "logits": z} for z in logits]


class Detector(nn.Module):
    """Two classes, each with one box; its score is the mean brightness inside of the box."""

    boxes = ((1.0, 1.0, 5.0, 5.0), (8.0, 4.0, 14.0, 10.0))

    def __init__(self, rotated: bool = False, blind: bool = False):
        super().__init__()
        self.test_score_thresh = 0.5
        self.rotated, self.blind = rotated, blind

    def forward(self, batch):
        return [{"instances": self.look(item["image"].float() / 255)} for item in batch]

    def look(self, image):
        means = [image[:, int(b) : int(d), int(a) : int(c)].mean() for a, b, c, d in self.boxes]
        scores = torch.stack(means)
        scores = scores.detach() if self.blind else scores
        boxes = Boxes(torch.tensor(self.boxes))
        if self.rotated:
            centres, sides = boxes.get_centers(), boxes.tensor[:, 2:] - boxes.tensor[:, :2]
            turns = torch.full((2, 1), 90.0)
            boxes = RotatedBoxes(torch.cat([centres, sides, turns], 1))
        found = Instances(
            (HEIGHT, WIDTH), pred_boxes=boxes, scores=scores, pred_classes=torch.tensor([0, 1])
        )
        return found[scores > self.test_score_thresh]


def given(value: int | None = None):
    generator = torch.Generator().manual_seed(2)
    image = torch.randint(256, (3, HEIGHT, WIDTH), generator=generator, dtype=torch.uint8)
    if value is not None:
        image.fill_(value)
    return {"image": image, "height": HEIGHT, "width": WIDTH, "file_name": "a.png"}


def test_integrated_gradients_of_a_linear_model_are_weights_times_pixels():
    model = Linear()
    heat = Explainer(model).explain(given(), Target(2, 0.5), "integrated-gradients")
    change = given()["image"].float() - model.pixel_mean
    expected = (model.weight[2] * change).sum(0).detach()
    torch.testing.assert_close(torch.from_numpy(heat), expected, rtol=1e-3, atol=1e-2)


def test_integrated_gradients_add_up_to_what_the_picture_changes():
    model, one = Network(), given()
    heat = Explainer(model).explain(one, Target(1, 0.5), "integrated-gradients")
    with torch.no_grad():
        full = model([one])[0]["logits"][1]
        empty = model([{"image": torch.zeros_like(one["image"])}])[0]["logits"][1]
    assert heat.sum() == pytest.approx((full - empty).item(), rel=0.02)


def test_gradcam_by_its_formula():
    model, one = Network(), given()
    heat = Explainer(model).explain(one, Target(1, 0.5), "gradcam")
    maps = model.backbone(one["image"].float()[None] / 255).detach().requires_grad_()
    model.fc(nn.functional.leaky_relu(maps).mean((2, 3)))[0, 1].backward()
    coarse = (maps * maps.grad.mean((2, 3), keepdim=True)).sum(1, keepdim=True).relu()
    size = (HEIGHT, WIDTH)
    expected = nn.functional.interpolate(coarse, size, mode="bilinear", align_corners=False)
    torch.testing.assert_close(torch.from_numpy(heat), expected[0, 0].detach())


def test_a_layer_can_be_chosen_and_a_wrong_one_names_those_there_are():
    one, target = given(), Target(0, 0.5)
    first = Explainer(Network(), "backbone.0").explain(one, target, "gradcam")
    assert (first != Explainer(Network()).explain(one, target, "gradcam")).any()
    with pytest.raises(InputError, match=r"backbone\.2"):
        Explainer(Network(), "backbone.9").explain(one, target, "gradcam")
    with pytest.raises(InputError, match="integrated-gradients"):
        Explainer(Linear()).explain(one, target, "gradcam")
    with pytest.raises(InputError, match="lime"):
        Explainer(Linear()).explain(one, target, "lime")


def test_targets_of_a_classifier():
    explainer, one = Explainer(Network()), given()
    scores = explainer.model([one])[0]["scores"]
    (best,) = explainer.targets(one, 0.9, None, 1)
    assert best.category == int(scores.argmax()) and best.box is None
    assert [t.category for t in explainer.targets(one, 0.9, None, 3)] == scores.argsort(
        descending=True
    ).tolist()
    assert [t.category for t in explainer.targets(one, 0.9, 2, 1)] == [2]


@pytest.mark.parametrize("rotated", [False, True])
def test_a_detection_is_explained_by_what_is_in_its_box(rotated):
    explainer, one = Explainer(Detector(rotated)), given(200)
    targets = explainer.targets(one, 0.6, None, 5)
    assert {t.category for t in targets} == {0, 1}
    for target in targets:
        a, b, c, d = map(int, Detector.boxes[target.category])
        assert target.box == pytest.approx(Detector.boxes[target.category], abs=1e-4)
        heat = explainer.explain(one, target, "integrated-gradients")
        assert heat[b:d, a:c].sum() == pytest.approx(200 / 255, abs=0.05)
        heat[b:d, a:c] = 0
        assert not heat.any()
    assert explainer.model.test_score_thresh == 0.5
    assert [t.category for t in explainer.targets(one, 0.6, 1, 5)] == [1]
    assert not explainer.targets(one, 0.9, None, 5)


def test_a_model_that_lets_no_gradient_through_is_told():
    with pytest.raises(InputError, match="Detector lets no gradient"):
        Explainer(Detector(blind=True)).explain(
            given(200), Target(0, 0.8, Detector.boxes[0]), "integrated-gradients"
        )


@pytest.mark.slow
@pytest.mark.parametrize(
    "architecture",
    ["RetinaNet", "FCOSDetector", "GeneralizedRCNN", "TaskAlignedDetector", "ImageClassifier"],
)
@pytest.mark.parametrize("method", ["gradcam", "integrated-gradients"])
def test_every_architecture_can_be_explained(architecture, method):
    cfg = get_cfg()
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.META_ARCHITECTURE = architecture
    cfg.MODEL.BACKBONE.NAME = "build_timm_fpn_backbone"
    cfg.MODEL.TIMM.NAME = "resnet10t"
    cfg.MODEL.RESNETS.OUT_FEATURES = cfg.MODEL.FPN.IN_FEATURES = ["res2", "res3", "res4", "res5"]
    cfg.MODEL.FPN.OUT_CHANNELS = 16
    cfg.MODEL.FPN.TOP_BLOCK = "maxpool"
    cfg.MODEL.FCOS.NORM = ""
    if architecture in ("RetinaNet", "FCOSDetector"):
        cfg.MODEL.FPN.IN_FEATURES = ["res3", "res4", "res5"]
        cfg.MODEL.FPN.TOP_BLOCK = "p6p7"
        cfg.MODEL.RETINANET.IN_FEATURES = ["p3", "p4", "p5", "p6", "p7"]
    cfg.MODEL.RPN.IN_FEATURES = ["p2", "p3", "p4", "p5", "p6"]
    cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[16], [32], [64], [96], [128]]
    cfg.MODEL.ROI_HEADS.NAME = "StandardROIHeads"
    cfg.MODEL.ROI_HEADS.IN_FEATURES = ["p2", "p3", "p4", "p5"]
    cfg.MODEL.ROI_BOX_HEAD.NAME = "FastRCNNConvFCHead"
    cfg.MODEL.ROI_BOX_HEAD.NUM_FC = 1
    cfg.MODEL.ROI_BOX_HEAD.FC_DIM = 16
    for group in ("RETINANET", "FCOS", "ROI_HEADS", "TASK_ALIGNED", "CLASSIFIER"):
        cfg.MODEL[group].NUM_CLASSES = 2
        if "SCORE_THRESH_TEST" in cfg.MODEL[group]:
            cfg.MODEL[group].SCORE_THRESH_TEST = 0.0
    torch.manual_seed(0)
    explainer = Explainer(build_model(cfg))
    # A classifier takes images as they are, detectors pad them to what their pyramid divides by.
    size = (64, 96) if architecture == "ImageClassifier" else (70, 90)
    image = torch.randint(256, (3, *size), dtype=torch.uint8)
    one = {"image": image, "height": 140, "width": 180, "file_name": "a.png"}
    (target,) = explainer.targets(one, 0.0, None, 1)
    heat = explainer.explain(one, target, method)
    assert heat.shape == size and torch.from_numpy(heat).isfinite().all() and heat.any()
