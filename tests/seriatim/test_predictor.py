"""The predictor gives a model what training gave it, whatever the image is."""

import numpy as np
import pytest
import torch
from detectron2.modeling import META_ARCH_REGISTRY
from PIL import Image
from torch import nn

from dataset_tools.errors import InputError
from seriatim.config import get_cfg
from seriatim.predictor import Predictor


@META_ARCH_REGISTRY.register()
class TellsWhatItSees(nn.Module):
    """Gives its input back, with the weight that it was loaded with."""

    def __init__(self, cfg):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.0))

    def forward(self, inputs):
        assert not self.training
        return [{"sem_seg": i["image"], "panoptic_seg": (self.weight, dict(i))} for i in inputs]


@pytest.fixture
def cfg(tmp_path):
    cfg = get_cfg()
    cfg.MODEL.META_ARCHITECTURE = "TellsWhatItSees"
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.WEIGHTS = str(tmp_path / "model.pth")
    cfg.INPUT.MIN_SIZE_TEST = 0  # pixels stay as they are
    torch.save({"model": {"weight": torch.tensor(3.0)}}, cfg.MODEL.WEIGHTS)
    return cfg


def pixels(output):
    return output["sem_seg"].numpy().transpose(1, 2, 0)


PHOTO = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)


@pytest.mark.parametrize("order", ["RGB", "BGR"])
def test_an_array_and_a_file_reach_the_model_alike_in_its_channel_order(cfg, tmp_path, order):
    cfg.INPUT.FORMAT = order
    predictor = Predictor(cfg)
    Image.fromarray(PHOTO).save(tmp_path / "photo.png")
    expected = PHOTO if order == "RGB" else PHOTO[:, :, ::-1]
    assert (pixels(predictor(PHOTO)) == expected).all()
    assert (pixels(predictor.predict_file(tmp_path / "photo.png")) == expected).all()


def test_grey_and_deep_images_alike(cfg, tmp_path):
    deep = np.linspace(100, 4000, 600).astype(np.uint16).reshape(20, 30)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    predictor = Predictor(cfg)
    seen = pixels(predictor(deep))
    assert seen.shape == (20, 30, 3) and seen.min() == 0 and seen.max() == 255
    assert (seen == pixels(predictor.predict_file(tmp_path / "deep.png"))).all()
    cfg.INPUT.FORMAT = "L"
    assert pixels(Predictor(cfg)(PHOTO)).shape == (20, 30, 1)


def test_the_orientation_in_exif_is_applied(cfg, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    Image.fromarray(PHOTO).save(tmp_path / "turned.png", exif=exif)
    cfg.INPUT.FORMAT = "RGB"
    seen = pixels(Predictor(cfg).predict_file(tmp_path / "turned.png"))
    assert (seen == np.rot90(PHOTO, -1)).all()


def test_the_output_size_is_the_images_and_the_averaged_weights_are_taken(cfg):
    cfg.INPUT.MIN_SIZE_TEST = 40
    averaged = {"model": {"weight": torch.tensor(5.0)}}
    torch.save({"model": {"weight": torch.tensor(3.0)}, "ema": averaged}, cfg.MODEL.WEIGHTS)
    weight, given = Predictor(cfg)(PHOTO)["panoptic_seg"]
    assert (given["height"], given["width"]) == (20, 30)
    assert given["image"].shape[1:] == (40, 60)
    assert weight == 5


def test_no_weights_are_named(cfg, tmp_path):
    cfg.MODEL.WEIGHTS, cfg.OUTPUT_DIR = "", str(tmp_path / "none")
    with pytest.raises(InputError, match="no weights"):
        Predictor(cfg)
