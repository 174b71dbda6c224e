"""visualize.py explain from the command line to its pictures."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.structures import Boxes, Instances
from PIL import Image
from torch import nn

from seriatim.data.catalog import unregister_datasets
from seriatim.testing.shapes import make_shapes
from seriatim.visualization.cli import main
from seriatim.visualization.heat import draw_heat


@META_ARCH_REGISTRY.register()
class BrightLeft(nn.Module):
    """Finds the left half of every image; its score is how bright that is."""

    def __init__(self, cfg: CfgNode):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.0))

    def forward(self, inputs):
        return [{"instances": self.look(i)} for i in inputs]

    def look(self, given):
        height, width = given["height"], given["width"]
        image = given["image"].float() / 255
        found = Instances((height, width))
        found.pred_boxes = Boxes(torch.tensor([[0.0, 0.0, width / 2, height]]))
        found.scores = self.scale * image[:, :, : image.shape[2] // 2].mean()[None]
        found.pred_classes = torch.tensor([1])
        return found


@pytest.fixture
def config(tmp_path):
    shapes = make_shapes(tmp_path / "shapes", 4)
    weights = tmp_path / "model.pth"
    torch.save({"model": {"scale": torch.tensor(1.0)}}, weights)
    path = tmp_path / "config.yaml"
    path.write_text(
        f"""
MODEL: {{META_ARCHITECTURE: BrightLeft, WEIGHTS: {weights}}}
SERIATIM:
  DATASETS:
    - {{NAME: explained, JSON: {shapes}, IMAGES: {shapes.parent / "images"}}}
DATASETS: {{TRAIN: [explained], TEST: [explained]}}
INPUT: {{FORMAT: RGB}}
OUTPUT_DIR: {tmp_path / "run"}
SEED: 0
"""
    )
    yield str(path)
    unregister_datasets(["explained"])


def explain(config, output, *more):
    method = ("--method", "integrated-gradients", "--threshold", "0.1")
    return main(["explain", "--config-file", config, "-o", str(output), *method, *more])


def test_each_image_of_the_dataset_has_a_picture(config, tmp_path):
    assert explain(config, tmp_path / "out", "--num", "3", "SEED", "1") == 0
    written = sorted((tmp_path / "out").glob("*.jpg"))
    assert len(written) == 3 + 1
    picture = np.asarray(Image.open(next(p for p in written if p.stem != "sheet"))).astype(int)
    colour = np.ptp(picture[: picture.shape[0] // 2], axis=2)
    width = colour.shape[1]
    assert colour[:, 20 : width // 2 - 20].mean() > 30 > 5 > colour[:, width // 2 + 20 :].mean()


def test_files_and_classes_can_be_chosen(config, tmp_path, capsys):
    folder = tmp_path / "shapes" / "images"
    assert (
        explain(config, tmp_path / "a", "--class", "square", "--input", str(folder), "--num", "2")
        == 0
    )
    assert len(list((tmp_path / "a").glob("*.jpg"))) == 3
    assert explain(config, tmp_path / "b", "--class", "circle") == 0
    assert "4 of 4 images have no detection" in capsys.readouterr().out
    assert explain(config, tmp_path / "c", "--class", "heptagon") == 2
    assert "triangle" in capsys.readouterr().err


def test_gradcam_without_a_map_names_the_other_method(config, tmp_path, capsys):
    assert explain(config, tmp_path / "d", "--method", "gradcam") == 2
    assert "integrated-gradients" in capsys.readouterr().err


def test_heat_is_red_for_and_blue_against():
    image = np.full((20, 30, 3), 128, np.uint8)
    heat = np.zeros((20, 30), np.float32)
    heat[2:8, 2:8], heat[12:18, 20:28] = 1.0, -2.0
    red, green, blue = draw_heat(image, heat).astype(int).transpose(2, 0, 1)
    assert (red - blue)[4, 4] > 80 and (blue - red)[15, 24] > 150
    assert red[10, 15] == green[10, 15] == blue[10, 15]
    assert draw_heat(image, 0 * heat, scale=2).shape == (40, 60, 3)
