"""What the README shows works as it stands there."""

import re
from pathlib import Path

import pytest
import torch
from detectron2.modeling import META_ARCH_REGISTRY, build_model
from detectron2.structures import Boxes, Instances

import seriatim.modeling  # noqa: F401 — registers the backbones
from seriatim.config import load_config

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def one_scale():
    """The meta-architecture of the README, from its text."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    (source,) = (block for block in blocks if "META_ARCH_REGISTRY" in block)
    exec(compile(source, "README.md", "exec"), {"__name__": "readme"})
    yield "OneScale"
    META_ARCH_REGISTRY._obj_map.pop("OneScale")


def _inputs() -> list[dict]:
    torch.manual_seed(0)
    items = []
    for corner in (10.0, 30.0):
        truth = Instances((96, 96))
        truth.gt_boxes = Boxes(torch.tensor([[corner, 20.0, corner + 30, 60.0]]))
        truth.gt_classes = torch.tensor([1])
        image = torch.randint(0, 256, (3, 96, 96), dtype=torch.uint8)
        items.append({"image": image, "instances": truth, "height": 192, "width": 192})
    return items


def test_the_meta_architecture_of_the_readme_learns(one_scale):
    cfg = load_config(
        ROOT / "configs/Base-TaskAligned.yaml", ["MODEL.META_ARCHITECTURE", one_scale]
    )
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.TASK_ALIGNED.NUM_CLASSES = 2
    model = build_model(cfg).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    history = []
    for _ in range(25):
        losses = model(_inputs())
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
        history.append(sum(losses.values()).item())
    assert history[-1] < 0.5 * history[0]
    model.eval()
    with torch.no_grad():
        found = model(_inputs())[0]["instances"]
    assert found.image_size == (192, 192) and 0 < len(found) <= 100


def test_every_page_and_file_that_the_readme_names_exists():
    text = (ROOT / "README.md").read_text()
    for target in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (ROOT / target).exists(), target
