"""The moving average of the weights."""

import torch
from torch import nn

from seriatim.engine.ema import WeightAverage


def test_it_follows_its_formula_buffers_included():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    average = WeightAverage(model, decay=0.9, warmup=4)
    expected = None
    for t in range(8):
        with torch.no_grad():
            for p in model.parameters():
                p += torch.randn_like(p)
        model(torch.randn(5, 3))  # moves the running statistics
        average.update()
        now = {k: v.double().clone() for k, v in model.state_dict().items()}
        decay = 0.9 * min(1.0, t / 4)
        if expected is None:
            expected = now
        expected = {k: decay * expected[k] + (1 - decay) * now[k] for k in now}
    for name, value in average.model.state_dict().items():
        if name.endswith("num_batches_tracked"):
            assert value == 8  # a count is copied
        else:
            torch.testing.assert_close(value.double(), expected[name], rtol=1e-5, atol=1e-6)
    assert average.updates == 8


def test_before_its_first_update_it_is_the_model_as_loaded():
    model = nn.Linear(2, 2)
    average = WeightAverage(model, 0.9, 10)
    nn.init.constant_(model.weight, 3.0)
    average.start()
    assert (average.model.weight == 3).all()
    average.update()
    nn.init.constant_(model.weight, 5.0)
    average.start()
    assert (average.model.weight == 3).all()


def test_its_state_goes_through_a_file(tmp_path):
    model = nn.Linear(2, 2)
    average = WeightAverage(model, 0.9, 10)
    for _ in range(3):
        nn.init.normal_(model.weight)
        average.update()
    torch.save(average.state_dict(), tmp_path / "ema.pth")
    other = WeightAverage(nn.Linear(2, 2), 0.9, 10)
    other.load_state_dict(torch.load(tmp_path / "ema.pth", weights_only=True))
    assert torch.equal(other.model.weight, average.model.weight)
    assert other.updates == 3
