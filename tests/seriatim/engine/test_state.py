"""State outside of state_dict."""

import io
import random

import numpy as np
import pytest
import torch
from detectron2.modeling.meta_arch.dense_detector import DenseDetector
from torch import nn

from seriatim.engine.state import (
    PlainState,
    preserve_plain_state,
    preserve_rng,
    rng_state,
    seed_everything,
    set_rng_state,
)


def draw():
    return (
        [random.random() for _ in range(3)],
        np.random.random(3).tolist(),
        np.random.normal(),  # NumPy keeps every second normal number for later
        torch.rand(3).tolist(),
        torch.randn(1).item(),
    )


def test_generators_survive_a_file_that_loads_as_data():
    seed_everything(3)
    np.random.normal()
    buffer = io.BytesIO()
    torch.save(rng_state(), buffer)
    expected = draw()
    seed_everything(99)
    buffer.seek(0)
    set_rng_state(torch.load(buffer, weights_only=True))
    assert draw() == expected


def test_preserve_rng_hides_draws_and_errors():
    seed_everything(3)
    expected = draw()
    seed_everything(3)
    with pytest.raises(ValueError), preserve_rng():
        draw()
        raise ValueError
    assert draw() == expected


class Dense(DenseDetector):
    """What RetinaNet and FCOS inherit their running normaliser from."""

    def __init__(self):
        nn.Module.__init__(self)
        self.head = nn.Linear(2, 2)
        self.threshold = 0.5


def test_the_loss_normalizer_of_detectron2_is_state():
    model = Dense()
    state = PlainState(nn.ModuleDict({"detector": model}))
    assert state.state_dict() == {}
    value = model._ema_update("loss_normalizer", 10.0, 100.0)
    assert state.state_dict() == {"detector.loss_normalizer": value}
    fresh = Dense()
    PlainState(nn.ModuleDict({"detector": fresh})).load_state_dict(state.state_dict())
    assert fresh.loss_normalizer == value
    assert fresh._ema_update("loss_normalizer", 7.0, 100.0) == pytest.approx(
        0.9 * value + 0.1 * 7.0
    )


def test_what_a_config_sets_is_not_state():
    model = Dense()
    state = PlainState(model)
    model.loss_normalizer = 3.0
    assert "threshold" not in state.state_dict()


def test_preserve_plain_state_puts_back_and_removes():
    model = Dense()
    model.count = 1
    with preserve_plain_state(model):
        model.count = 5
        model.head.extra = 2.0
    assert model.count == 1
    assert not hasattr(model.head, "extra")
