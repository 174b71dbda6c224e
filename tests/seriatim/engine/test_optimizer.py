"""Optimizer, clipping and learning-rate scaling."""

import pytest
import torch
from detectron2.layers import FrozenBatchNorm2d
from torch import nn

from dataset_tools.errors import InputError
from seriatim.config import get_cfg
from seriatim.engine.optimizer import (
    build_clipper,
    build_optimizer,
    parameter_groups,
    scale_learning_rate,
)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), FrozenBatchNorm2d(4))
        self.head = nn.Sequential(nn.Conv2d(4, 4, 1), nn.GroupNorm(2, 4))
        self.scale = nn.Parameter(torch.ones(1))
        self.frozen = nn.Parameter(torch.ones(2, 2), requires_grad=False)
        self.tied = self.head[0]


@pytest.fixture
def cfg():
    cfg = get_cfg()
    cfg.SOLVER.BASE_LR, cfg.SOLVER.WEIGHT_DECAY = 0.01, 0.05
    return cfg


def by_name(cfg, model):
    names = {p: name for name, p in model.named_parameters()}
    return {
        names[p]: (group["lr"], group["weight_decay"])
        for group in parameter_groups(cfg, model)
        for p in group["params"]
    }


def test_weight_decay_falls_on_weights_alone(cfg):
    cfg.SERIATIM.SOLVER.BACKBONE_MULTIPLIER = 0.1
    cfg.SOLVER.BIAS_LR_FACTOR = 2.0
    groups = by_name(cfg, Net())
    assert groups == {
        "backbone.0.weight": (pytest.approx(0.001), 0.05),
        "backbone.0.bias": (pytest.approx(0.002), 0.0),
        "backbone.1.weight": (pytest.approx(0.001), 0.0),
        "backbone.1.bias": (pytest.approx(0.002), 0.0),
        "head.0.weight": (0.01, 0.05),
        "head.0.bias": (0.02, 0.0),
        "head.1.weight": (0.01, 0.0),
        "head.1.bias": (0.02, 0.0),
        "scale": (0.01, 0.0),
    }


def test_the_decays_of_norms_and_biases_can_be_set(cfg):
    cfg.SOLVER.WEIGHT_DECAY_NORM, cfg.SOLVER.WEIGHT_DECAY_BIAS = 0.3, 0.2
    groups = by_name(cfg, Net())
    assert groups["head.1.weight"][1] == 0.3
    assert groups["head.0.bias"][1] == 0.2


@pytest.mark.parametrize("name", ["AdamW", "SGD"])
def test_one_step_is_torchs_own(cfg, name):
    cfg.SERIATIM.SOLVER.OPTIMIZER = name
    cfg.SOLVER.MOMENTUM, cfg.SOLVER.NESTEROV = 0.9, True
    model = nn.Linear(3, 2, bias=False)
    reference = nn.Linear(3, 2, bias=False)
    reference.load_state_dict(model.state_dict())
    if name == "AdamW":
        plain = torch.optim.AdamW(reference.parameters(), lr=0.01, weight_decay=0.05, fused=False)
    else:
        plain = torch.optim.SGD(
            reference.parameters(), lr=0.01, momentum=0.9, nesterov=True, weight_decay=0.05
        )
    ours = build_optimizer(cfg, model)
    for _ in range(3):
        for m, optimizer in ((model, ours), (reference, plain)):
            optimizer.zero_grad()
            m(torch.ones(1, 3)).pow(2).sum().backward()
            optimizer.step()
    torch.testing.assert_close(model.weight, reference.weight)


def test_nothing_to_train_is_an_error(cfg):
    with pytest.raises(InputError, match="frozen"):
        build_optimizer(cfg, nn.Linear(2, 2).requires_grad_(False))


@pytest.mark.parametrize(
    "kind, expected",
    [
        ("value", [[1.0, 1.0], [1.0, 0.1]]),
        ("norm", [[0.6, 0.8], [0.6, 0.8]]),  # each by its own norm: 5 and 1
        ("full_model", [[3 / 26**0.5, 4 / 26**0.5], [0.6 / 26**0.5, 0.8 / 26**0.5]]),
    ],
)
def test_clipping_kinds(cfg, kind, expected):
    clip = cfg.SOLVER.CLIP_GRADIENTS
    clip.ENABLED, clip.CLIP_TYPE, clip.CLIP_VALUE = True, kind, 1.0
    parameters = [nn.Parameter(torch.zeros(2)) for _ in range(2)]
    second = [0.6, 0.8] if kind != "value" else [1.5, 0.1]
    for p, gradient in zip(parameters, ([3.0, 4.0], second), strict=True):
        p.grad = torch.tensor(gradient)
    build_clipper(cfg)(parameters)
    torch.testing.assert_close(
        torch.stack([p.grad for p in parameters]), torch.tensor(expected), atol=1e-4, rtol=0
    )


def test_clipping_off_and_unknown(cfg):
    assert build_clipper(cfg) is None
    cfg.SOLVER.CLIP_GRADIENTS.ENABLED = True
    cfg.SOLVER.CLIP_GRADIENTS.CLIP_TYPE = "global"
    with pytest.raises(InputError, match="full_model"):
        build_clipper(cfg)


def test_the_learning_rate_follows_the_batch(cfg, caplog):
    cfg.SOLVER.IMS_PER_BATCH, cfg.SERIATIM.SOLVER.ACCUMULATE = 8, 4
    cfg.SERIATIM.SOLVER.REFERENCE_BATCH = 16
    scale_learning_rate(cfg)
    assert pytest.approx(0.02) == cfg.SOLVER.BASE_LR
    scale_learning_rate(cfg)  # the config that is saved is not scaled once more
    assert pytest.approx(0.02) == cfg.SOLVER.BASE_LR
