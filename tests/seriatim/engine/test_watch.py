"""What is noticed while training: watchers on numbers with a known answer, the hook on a run."""

import json
import logging
import math
from collections import deque

import numpy as np
import pytest
import torch
from torch import nn

from seriatim.engine.train_step import NonFiniteError
from seriatim.engine.trainer import Trainer
from seriatim.engine.watchers import (
    DeadUnits,
    Gap,
    ImageLosses,
    Plateau,
    Spikes,
    Starvation,
    Step,
    UpdateRatios,
    is_rectified,
)

from .support import load, write_config


def step(number, loss=1.0, batches=(), rate=1.0, last=False, **scalars):
    """A step in which `scalars` (with __ for a slash) were put."""
    latest = {k.replace("__", "/"): (v, number - 1) for k, v in scalars.items()}
    return Step(number, last, loss, batches, latest, rate)


def said(watcher, steps):
    """The steps at which the watcher spoke."""
    return [s.number for s in steps if watcher.look(s)]


def noisy(count, mean=1.0, seed=0, spread=0.3):
    return mean * np.exp(spread * np.random.default_rng(seed).standard_normal(count))


# Loss spikes


def test_a_jump_of_the_loss_is_a_spike_and_noise_is_none():
    losses = noisy(400)
    assert said(Spikes(), [step(i + 1, x) for i, x in enumerate(losses)]) == []
    losses[300] = 12.0
    watcher = Spikes()
    assert said(watcher, [step(i + 1, x) for i, x in enumerate(losses)]) == [301]


def test_a_spike_names_the_images_of_its_step():
    watcher = Spikes()
    for i in range(100):
        assert watcher.look(step(i + 1, 1.0 + i % 3 / 10)) is None
    noticed = watcher.look(step(101, 40.0, [([{"file_name": "a.jpg"}], 40.0)]))
    assert "40" in noticed.text and noticed.images[0][0] == "a.jpg"


def test_a_resumed_watcher_remembers_the_losses():
    first = Spikes()
    for i in range(100):
        first.look(step(i + 1, 1.0))
    second = Spikes()
    second.load_state_dict(first.state_dict())
    assert second.look(step(101, 30.0))
    assert Spikes().look(step(101, 30.0)) is None


# Plateau


def test_a_loss_that_stands_still_is_a_plateau_after_six_periods():
    losses = noisy(1000, spread=0.05)
    assert said(Plateau(100), [step(i + 1, x) for i, x in enumerate(losses)])[0] == 600


def test_a_plateau_is_not_told_before_the_noise_allows_it():
    losses = noisy(6000)  # its standard error over 300 steps is 1.7 %
    assert 1000 < said(Plateau(100), [step(i + 1, x) for i, x in enumerate(losses)])[0] < 6000


@pytest.mark.parametrize(
    "losses, rate",
    [
        (noisy(1200) * np.linspace(2, 1, 1200), 1.0),  # it falls
        (noisy(1200), 0.05),  # the rate is lowered already
    ],
)
def test_no_plateau_where_the_loss_falls_or_the_rate_is_low(losses, rate):
    assert said(Plateau(100), [step(i + 1, x, rate=rate) for i, x in enumerate(losses)]) == []


def test_a_plateau_goes_on_when_resumed():
    losses = [step(i + 1, x) for i, x in enumerate(noisy(1000, spread=0.05))]
    whole, first, second = Plateau(100), Plateau(100), Plateau(100)
    expected = said(whole, losses)
    said(first, losses[:450])
    second.load_state_dict(first.state_dict())
    assert said(second, losses[450:]) == expected
    assert second.state_dict() == whole.state_dict()


# Dead units


class Dying(nn.Module):
    """Of 8 channels behind the ReLU so many are always zero."""

    def __init__(self, dead):
        super().__init__()
        self.conv, self.act = nn.Conv2d(1, 8, 1), nn.ReLU(inplace=True)
        with torch.no_grad():
            self.conv.weight.fill_(1.0)
            self.conv.bias.copy_(torch.tensor([-100.0] * dead + [1.0] * (8 - dead)))

    def forward(self, x):
        return self.act(self.conv(x))


@pytest.mark.parametrize("dead, expected", [(3, []), (4, [20, 40]), (8, [20, 40])])
def test_half_of_the_channels_dead(dead, expected):
    model = Dying(dead)
    watcher = DeadUnits(model, 20)
    spoke = []
    for number in range(1, 41):
        watcher.before(number)
        model(torch.rand(2, 1, 4, 4))
        if noticed := watcher.look(step(number)):
            spoke.append(number)
            assert f"act {dead / 8:.0%}" in noticed.text
    assert spoke == expected
    assert not model.act._forward_hooks


def test_a_channel_that_lives_once_in_a_period_is_not_dead():
    model = Dying(8)
    watcher = DeadUnits(model, 20)
    for number in range(1, 21):
        watcher.before(number)
        model(torch.full((1, 1, 2, 2), 200.0 if number == 7 else 0.0))
        assert watcher.look(step(number)) is None


def test_one_relu_that_serves_layers_of_two_widths_is_watched_at_both():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.wide, self.narrow = nn.Conv2d(1, 16, 1), nn.Conv2d(16, 8, 1)
            self.act = nn.ReLU()
            nn.init.constant_(self.narrow.bias, -1e3)

        def forward(self, x):
            return self.act(self.narrow(self.act(self.wide(x))))

    model = Shared()
    watcher = DeadUnits(model, 20)
    for number in range(1, 21):
        watcher.before(number)
        model(torch.randn(4, 1, 4, 4))
        noticed = watcher.look(step(number))
    assert "act (8 channels) 100%" in noticed.text and "1 of 2 layers" in noticed.text


def test_functional_relus_of_detectron2_are_watched():
    from detectron2.layers import Conv2d
    from detectron2.modeling.backbone.resnet import BasicBlock
    from torch.nn import functional as F

    assert is_rectified(Conv2d(1, 1, 1, activation=F.relu))
    assert not is_rectified(Conv2d(1, 1, 1))
    assert is_rectified(BasicBlock(4, 4))
    assert is_rectified(nn.ReLU6()) and not is_rectified(nn.GELU())


# Update ratios


def ratios(values, rate=1.0):
    return [step(20 * (i + 1), rate=rate, update_ratio__head=v) for i, v in enumerate(values)]


@pytest.mark.parametrize(
    "values, rate, expected",
    [
        ([0.2] * 6, 1.0, [100, 120]),
        ([0.2, 0.2, 1e-3, 0.2, 0.2, 0.2], 1.0, []),
        ([0.0] * 5, 1.0, [100]),
        ([1e-3] * 8, 1.0, []),
        ([5e-7] * 8, 1e-3, []),  # at the end of a cosine schedule: healthy at the peak
        ([5e-10] * 5, 1e-3, [100]),
        ([0.0] * 8, 0.0, []),  # the first steps of a warm-up from 0
    ],
)
def test_update_ratio_out_of_range(values, rate, expected):
    assert said(UpdateRatios(), ratios(values, rate)) == expected


def test_steps_without_a_measurement_do_not_count():
    stale = Step(7, False, 1.0, (), {"update_ratio/head": (0.5, 3)}, 1.0)
    watcher = UpdateRatios()
    assert all(watcher.look(stale) is None for _ in range(20))


# Data, gap


@pytest.mark.parametrize("waited, expected", [(0.3, [40, 60]), (0.2, [])])
def test_waiting_for_data(waited, expected):
    steps = [step(i, data_time=5.0 if i < 5 else waited, time=1.0) for i in range(1, 61)]
    spoke = said(Starvation(20), steps)
    assert [n for n in spoke if n > 20] == expected
    assert (20 in spoke) == bool(expected)  # the slow first steps do not count


def curve(validation, train):
    """A validation loss every 10 steps, known from the next step on."""
    latest = {}
    for i, (v, t) in enumerate(zip(validation, train, strict=True)):
        for number in range(10 * i + 1, 10 * i + 11):
            yield Step(number, False, t, (), dict(latest), 1.0)
        latest["validation/total_loss"] = (v, 10 * i + 9)
    yield Step(10 * len(train) + 1, False, train[-1], (), dict(latest), 1.0)


def test_a_gap_that_grows_is_overfitting():
    falling = np.linspace(2, 1, 7)
    assert said(Gap(), curve([3, 2, 1.5, 1.6, 1.7, 1.8, 1.9], falling)) == [61, 71]
    assert said(Gap(), curve([3, 2, 1.5, 1.6, 1.52, 1.6, 1.52], falling)) == []
    assert said(Gap(), curve([3, 2, 1.5, 1.6, 1.7, 1.8, 1.9], falling[::-1])) == []


# Images


def training_of(bad, epochs, seed=0, images=48, batch=4):
    """Batches of images of which those of `bad` have four times the loss of the others."""
    random = np.random.default_rng(seed)
    own = np.exp(0.2 * random.standard_normal(images))
    own[bad] *= 4
    number, total = 0, epochs * images // batch
    for _ in range(epochs):
        for chosen in random.permutation(images).reshape(-1, batch):
            number += 1
            fall = 1 + 5 * math.exp(-number / 30)
            loss = fall * own[chosen].mean() * float(noisy(1, seed=number, spread=0.1)[0])
            inputs = [{"file_name": f"{i}.jpg"} for i in chosen]
            yield step(number, loss, [(inputs, loss)], last=number == total)


def test_images_with_wrong_labels_are_found_from_the_losses_of_batches():
    bad = [3, 17, 30]
    watcher = ImageLosses(60)
    last = [noticed for s in training_of(bad, 20) if (noticed := watcher.look(s))][-1]
    assert {name for name, _ in last.images} == {f"{i}.jpg" for i in bad}


def test_images_that_are_all_alike_are_not_told():
    watcher = ImageLosses(60)
    assert [s.number for s in training_of([], 20) if watcher.look(s)] == []


def test_image_losses_go_on_when_resumed():
    steps = list(training_of([5], 8))
    whole, first, second = ImageLosses(60), ImageLosses(60), ImageLosses(60)
    expected = said(whole, steps)
    said(first, steps[:50])
    second.load_state_dict(first.state_dict())
    assert said(second, steps[50:]) == [n for n in expected if n > 50]
    assert torch.equal(second.state_dict()["values"], whole.state_dict()["values"])


# The hook


class Told(logging.Handler):
    def __init__(self):
        super().__init__()
        self.texts = deque()

    def emit(self, record):
        self.texts.append(record.getMessage())


@pytest.fixture
def told():
    handler = Told()
    logger = logging.getLogger("seriatim.engine.hooks.watch")
    logger.addHandler(handler)
    yield handler.texts
    logger.removeHandler(handler)


def test_a_spike_is_told_once_with_a_picture_and_not_again_when_resumed(
    tmp_path, told, monkeypatch
):
    monkeypatch.setattr("seriatim.engine.watchers.SPIKE_STEPS", 3)
    config = write_config(
        tmp_path, SOLVER__MAX_ITER=10, SERIATIM__HOOKS__WATCH_PERIOD=4, SOLVER__CHECKPOINT_PERIOD=8
    )
    cfg = load(config)

    class Jumpy(Trainer):
        """Its loss jumps in the steps 5, 6 and 9."""

        def run_step(self):
            super().run_step()
            if self.iter in (5, 6, 9):
                self.storage.put_scalar("total_loss", 1e6)

    trainer = Jumpy(cfg)
    trainer.train()
    spikes = [text for text in told if "watch, spike" in text]
    assert len(spikes) == 1 and "step 6" in spikes[0]
    folder = tmp_path / "output" / "watch"
    assert (folder / "spike.jpg").stat().st_size > 1000
    assert list(folder.glob("events.out.tfevents.*"))
    entry = next(e for e in json.loads((folder / "told.json").read_text()) if e["what"] == "spike")
    assert entry["steps"] == 6
    (tmp_path / "output" / "last_checkpoint").write_text("model_0000007.pth")
    told.clear()
    resumed = Jumpy(cfg)
    resumed.resume_or_load(resume=True)
    resumed.train()
    assert resumed.start_iter == 8 and not [text for text in told if "spike" in text]


def test_it_can_be_turned_off(tmp_path):
    from seriatim.engine.hooks import Watch

    trainers = [
        Trainer(load(write_config(tmp_path, SERIATIM__HOOKS__WATCH=on))) for on in (True, False)
    ]
    assert [sum(isinstance(h, Watch) for h in t._hooks) for t in trainers] == [1, 0]


def test_training_with_it_is_the_same_to_the_last_bit(tmp_path):
    ends = []
    for on in (True, False):
        config = write_config(
            tmp_path,
            SERIATIM__HOOKS__WATCH=on,
            SERIATIM__HOOKS__WATCH_PERIOD=2,
            OUTPUT_DIR=str(tmp_path / f"output_{on}"),
        )
        trainer = Trainer(load(config))
        trainer.train()
        ends.append(trainer.bare_model.state_dict())
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


def test_an_error_without_a_watch_is_as_it_was(tmp_path):
    trainer = Trainer(load(write_config(tmp_path, SERIATIM__HOOKS__WATCH=False)))
    with torch.no_grad():
        next(trainer.model.parameters()).fill_(float("nan"))
    with pytest.raises(NonFiniteError) as caught:
        trainer.train()
    assert "replay" not in str(caught.value)
