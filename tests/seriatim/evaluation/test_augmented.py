"""Test-time augmentation: a mirrored image must give mirrored detections, which a model alone
does not.
"""

from pathlib import Path

import pytest
import torch
from detectron2.modeling import build_model

import seriatim.modeling  # noqa: F401 — registers the backbones
from dataset_tools.errors import InputError
from seriatim.config import load_config
from seriatim.evaluation.augmented import wrap_augmented

CONFIGS = Path(__file__).parents[3] / "configs"


def _model(config: str, **keys):
    cfg = load_config(CONFIGS / f"{config}.yaml", ["TEST.AUG.ENABLED", "True"])
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = cfg.MODEL.TASK_ALIGNED.NUM_CLASSES = 2
    cfg.TEST.AUG.MIN_SIZES = (96,)
    for key, value in keys.items():
        cfg.TEST.AUG[key] = value
    torch.manual_seed(0)
    return cfg, build_model(cfg).eval()


def _detect(model, image: torch.Tensor) -> torch.Tensor:
    """(5, 5): XYXY and score of the best five."""
    with torch.no_grad():
        found = model([{"image": image, "height": 96, "width": 96}])[0]["instances"]
    return torch.cat([found.pred_boxes.tensor, found.scores[:, None]], 1)[:5]


def _mirrored(rows: torch.Tensor) -> torch.Tensor:
    x0, y0, x1, y1, score = rows.unbind(1)
    return torch.stack([96 - x1, y0, 96 - x0, y1, score], 1)


@pytest.mark.parametrize(("flip", "equivariant"), [(True, True), (False, False)])
def test_mirroring_the_image_mirrors_the_detections(flip, equivariant):
    cfg, bare = _model("Base-FasterRCNN-Lite0-FPN", FLIP=flip)
    model = wrap_augmented(cfg, bare)
    image = torch.randint(0, 256, (3, 96, 96), generator=torch.Generator().manual_seed(1))
    image = image.to(torch.uint8)
    straight, turned = _detect(model, image), _mirrored(_detect(model, image.flip(-1)))
    assert len(straight) == len(turned) == 5
    assert torch.allclose(straight, turned, atol=0.05) == equivariant


def test_off_it_is_the_model_itself():
    cfg, bare = _model("Base-FasterRCNN-Lite0-FPN", ENABLED=False)
    assert wrap_augmented(cfg, bare) is bare


def test_a_model_that_detectron2_cannot_augment_is_named():
    cfg, bare = _model("Base-TaskAligned")
    with pytest.raises(InputError, match="TaskAlignedDetector"):
        wrap_augmented(cfg, bare)
