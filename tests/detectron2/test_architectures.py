"""Detectron2's architectures and ours: build, two steps of training, inference."""

from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2 import model_zoo
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Boxes, Instances, Keypoints, RotatedBoxes
from detectron2.utils.events import EventStorage

import seriatim.modeling  # noqa: F401  registers FCOSDetector
from seriatim.config import load_config

from .flavour import without_deprecated_calls

pytestmark = without_deprecated_calls()

CONFIGS = Path(__file__).parents[2] / "configs"
CLASSES, SIZE = 3, 128
ZOO = {
    "retinanet": "COCO-Detection/retinanet_R_50_FPN_1x.yaml",
    "faster_rcnn": "COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml",
    "mask_rcnn": "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml",
    "keypoint_rcnn": "COCO-Keypoints/keypoint_rcnn_R_50_FPN_1x.yaml",
    "panoptic_fpn": "COCO-PanopticSegmentation/panoptic_fpn_R_50_1x.yaml",
    "semantic_fpn": "Misc/semantic_R_50_FPN_1x.yaml",
    "rotated_faster_rcnn": CONFIGS / "RotatedFasterRCNN-R50-FPN.yaml",
    # RetinaNet's backbone under our name for FCOS.
    "fcos": "COCO-Detection/retinanet_R_50_FPN_1x.yaml",
}
LOSSES = {
    "retinanet": {"loss_cls", "loss_box_reg"},
    "faster_rcnn": {"loss_rpn_cls", "loss_rpn_loc", "loss_cls", "loss_box_reg"},
    "mask_rcnn": {"loss_rpn_cls", "loss_rpn_loc", "loss_cls", "loss_box_reg", "loss_mask"},
    "keypoint_rcnn": {
        "loss_rpn_cls",
        "loss_rpn_loc",
        "loss_cls",
        "loss_box_reg",
        "loss_keypoint",
    },
    "panoptic_fpn": {
        "loss_rpn_cls",
        "loss_rpn_loc",
        "loss_cls",
        "loss_box_reg",
        "loss_mask",
        "loss_sem_seg",
    },
    "semantic_fpn": {"loss_sem_seg"},
    "rotated_faster_rcnn": {"loss_rpn_cls", "loss_rpn_loc", "loss_cls", "loss_box_reg"},
    "fcos": {"loss_fcos_cls", "loss_fcos_loc", "loss_fcos_ctr"},
}


def _config(name):
    overrides = {
        "MODEL.DEVICE": "cpu",
        "MODEL.WEIGHTS": "",
        # Frozen norms belong to pretrained weights; these here are random.
        "MODEL.RESNETS.NORM": "BN",
        "MODEL.ROI_HEADS.NUM_CLASSES": CLASSES,
        "MODEL.RETINANET.NUM_CLASSES": CLASSES,
        "MODEL.FCOS.NUM_CLASSES": CLASSES,
        "MODEL.SEM_SEG_HEAD.NUM_CLASSES": CLASSES,
        "MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS": 17,
        "MODEL.RPN.PRE_NMS_TOPK_TRAIN": 100,
        "MODEL.RPN.POST_NMS_TOPK_TRAIN": 40,
        "MODEL.RPN.PRE_NMS_TOPK_TEST": 100,
        "MODEL.RPN.POST_NMS_TOPK_TEST": 20,
        "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": 16,
        # A network that knows nothing has low scores; its detections shall be seen all the same.
        "MODEL.ROI_HEADS.SCORE_THRESH_TEST": 0.0,
        "TEST.DETECTIONS_PER_IMAGE": 5,
        "MODEL.RETINANET.SCORE_THRESH_TEST": 0.0,
        "MODEL.FCOS.SCORE_THRESH_TEST": 0.0,
    }
    if name == "fcos":
        overrides["MODEL.META_ARCHITECTURE"] = "FCOSDetector"
    return load_config(ZOO[name], [str(word) for pair in overrides.items() for word in pair])


def _inputs(name):
    """Two images, of different size; the second one has no instance."""
    generator = torch.Generator().manual_seed(0)
    sizes = ((SIZE, SIZE), (96, SIZE))
    inputs = []
    for (height, width), count in zip(sizes, (3, 0), strict=True):
        image = torch.randint(0, 256, (3, height, width), generator=generator, dtype=torch.uint8)
        sem_seg = torch.zeros(height, width, dtype=torch.int64)
        sem_seg[: height // 2] = 1
        inputs.append(
            {
                "image": image,
                "height": height,
                "width": width,
                "instances": _instances(name, height, width, count),
                "sem_seg": sem_seg,
            }
        )
    return inputs


def _instances(name, height, width, count):
    boxes = torch.tensor([[10.0, 12, 60, 70], [40, 30, 100, 90], [5, 60, 35, 95]])[:count]
    instances = Instances((height, width), gt_classes=torch.tensor([0, 1, 2])[:count])
    if name == "rotated_faster_rcnn":
        centre, size = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
        angle = torch.tensor([[0.0], [30.0], [-75.0]])[:count]
        instances.gt_boxes = RotatedBoxes(torch.cat([centre, size, angle], dim=1))
        return instances
    instances.gt_boxes = Boxes(boxes)
    masks = np.zeros((count, height, width), dtype=bool)
    for mask, (x0, y0, x1, y1) in zip(masks, boxes.int().tolist(), strict=True):
        mask[y0:y1, x0:x1] = True
    instances.gt_masks = BitMasks(torch.from_numpy(masks))
    if name == "keypoint_rcnn":
        along = torch.linspace(0.1, 0.9, 17)[None, :, None]
        points = boxes[:, None, :2] + along * (boxes[:, 2:] - boxes[:, :2])[:, None]
        instances.gt_keypoints = Keypoints(torch.cat([points, torch.full((count, 17, 1), 2.0)], 2))
    return instances


@pytest.mark.parametrize("name", list(ZOO))
def test_builds_trains_two_steps_and_infers(name):
    torch.manual_seed(0)
    model = build_model(_config(name))
    inputs = _inputs(name)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    before = {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}
    totals = []
    with EventStorage() as storage:
        for _ in range(2):
            losses = model(inputs)
            assert set(losses) == LOSSES[name]
            total = sum(losses.values())
            assert torch.isfinite(total), losses
            optimizer.zero_grad()
            total.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            storage.step()
            totals.append(total.item())
    after = dict(model.named_parameters())
    changed = [n for n, p in before.items() if not torch.equal(p, after[n])]
    assert len(changed) > 0.8 * len(before), sorted(set(before) - set(changed))
    assert totals[0] != totals[1]

    model.eval()
    with torch.no_grad():
        outputs = model([{"image": i["image"], "height": 200, "width": 150} for i in inputs])
    assert len(outputs) == len(inputs)
    _check_output(name, outputs[0])


def _check_output(name, output):
    if name in ("semantic_fpn", "panoptic_fpn"):
        assert output["sem_seg"].shape == (CLASSES, 200, 150)
    if name == "panoptic_fpn":
        assert output["panoptic_seg"][0].shape == (200, 150)
    if name == "semantic_fpn":
        return
    instances = output["instances"]
    assert instances.image_size == (200, 150)
    assert len(instances) > 0
    assert torch.isfinite(instances.pred_boxes.tensor).all()
    assert instances.pred_boxes.tensor.shape[1] == (5 if name == "rotated_faster_rcnn" else 4)
    assert (instances.scores.diff() <= 0).all() or name == "keypoint_rcnn"
    assert set(instances.pred_classes.tolist()) <= set(range(CLASSES))
    if name in ("mask_rcnn", "panoptic_fpn"):
        assert instances.pred_masks.shape == (len(instances), 200, 150)
    if name == "keypoint_rcnn":
        assert instances.pred_keypoints.shape == (len(instances), 17, 3)


def test_fcos_learns_that_an_empty_image_is_background():
    torch.manual_seed(0)
    model = build_model(_config("fcos"))
    with EventStorage():
        losses = model(_inputs("fcos")[1:])
    assert losses["loss_fcos_cls"] > 0
    assert losses["loss_fcos_loc"] == 0
    assert losses["loss_fcos_ctr"] == 0


def _zoo_configs(suffix):
    folder = Path(model_zoo.__file__).parent / "configs"
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob(f"*{suffix}"))


def test_every_yaml_config_of_the_model_zoo_resolves_without_unsafe_loading():
    names = _zoo_configs(".yaml")
    assert len(names) > 80
    for name in names:
        ours = load_config(name)
        assert ours.MODEL.META_ARCHITECTURE, name


def test_safe_loading_gives_what_detectron2s_own_loader_gives():
    name = ZOO["retinanet"]  # its anchors are computed by !!python/object/apply:eval
    ours, theirs = load_config(name), model_zoo.get_config(name)
    assert ours.MODEL.ANCHOR_GENERATOR == theirs.MODEL.ANCHOR_GENERATOR
    assert ours.SOLVER.STEPS == theirs.SOLVER.STEPS


def test_python_configs_of_the_model_zoo_resolve():
    names = [n for n in _zoo_configs(".py") if not n.startswith("common/")]
    assert any("fcos" in n for n in names)
    for name in names:
        assert model_zoo.get_config(name).model, name
