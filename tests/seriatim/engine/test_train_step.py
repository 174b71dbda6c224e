"""One step of training, against plain torch."""

import copy

import pytest
import torch
from detectron2.utils.events import EventStorage
from torch import nn

from seriatim.engine.state import seed_everything
from seriatim.engine.train_step import NonFiniteError, TrainLoader, TrainStep


class Regression(nn.Module):
    """A mean squared error over the images of a batch, split into two losses."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 1)

    def forward(self, batch):
        error = (self.linear(torch.stack([x["image"] for x in batch])) - 1) ** 2
        return {"loss_a": 0.25 * error.mean(), "loss_b": 0.75 * error.mean()}


def images(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [
        {"image": torch.randn(3, generator=generator), "image_id": i, "file_name": f"{i}.png"}
        for i in range(count)
    ]


def make_step(batches, model=None, **kwargs):
    model = model or Regression()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    step = TrainStep(model, TrainLoader(lambda start: iter(batches[start:])), optimizer, **kwargs)
    step.iter = 0
    return step


def test_accumulated_micro_batches_equal_one_large_batch():
    model = Regression()
    reference = copy.deepcopy(model)
    data = images(6)
    step = make_step([data[:2], data[2:4], data[4:]], model, accumulate=3)
    with EventStorage() as storage:
        step.run_step()
    loss = sum(reference(data).values())
    loss.backward()
    with torch.no_grad():
        for p in reference.parameters():
            p -= 0.1 * p.grad
    for a, b in zip(model.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(a, b)
    latest = {name: value for name, (value, _) in storage.latest().items()}
    assert latest["total_loss"] == pytest.approx(loss.item())
    assert latest["loss_a"] == pytest.approx(0.25 * loss.item())
    norm = torch.cat([p.grad.flatten() for p in reference.parameters()]).norm().item()
    assert latest["gradient_norm"] == pytest.approx(norm)
    assert step.images_last_step == 6


def test_gradients_of_one_step_do_not_leak_into_the_next():
    data = images(2)
    step = make_step([data, data])
    with EventStorage():
        step.run_step()
        before = [p.detach().clone() for p in step.model.parameters()]
        reference = copy.deepcopy(step.model)
        reference.zero_grad()
        sum(reference(data).values()).backward()
        step.run_step()
    for p, old, r in zip(step.model.parameters(), before, reference.parameters(), strict=True):
        torch.testing.assert_close(p.detach(), old - 0.1 * r.grad)


def test_clipping_acts_before_the_step():
    step = make_step([images(4)], clip=lambda ps: nn.utils.clip_grad_norm_(ps, 1e-3))
    before = torch.cat([p.detach().flatten().clone() for p in step.model.parameters()])
    with EventStorage() as storage:
        step.run_step()
    after = torch.cat([p.detach().flatten() for p in step.model.parameters()])
    assert (after - before).norm().item() == pytest.approx(0.1 * 1e-3, rel=1e-3)
    assert storage.latest()["gradient_norm"][0] > 1e-3  # as it was before clipping


def test_bfloat16_computes_in_it_and_keeps_float32_weights():
    seen = []
    model = Regression()
    model.linear.register_forward_hook(lambda m, i, output: seen.append(output.dtype))
    step = make_step([images(4)], model, precision=torch.bfloat16)
    with EventStorage():
        step.run_step()
    assert seen == [torch.bfloat16]
    assert model.linear.weight.dtype == torch.float32


def test_a_loss_that_is_not_finite_names_the_images_and_changes_nothing():
    data = images(3)
    data[1]["image"][0] = float("nan")
    step = make_step([data])
    before = copy.deepcopy(step.model.state_dict())
    with EventStorage(), pytest.raises(NonFiniteError) as caught:
        step.run_step()
    message = str(caught.value)
    assert "loss_a nan" in message and "1 (1.png)" in message and "SOLVER.BASE_LR" in message
    assert isinstance(caught.value, FloatingPointError)  # as Detectron2's own trainer raises
    assert all(torch.equal(before[k], v) for k, v in step.model.state_dict().items())


def test_a_gradient_that_is_not_finite_stops_too():
    class Root(Regression):
        def forward(self, batch):
            return {"loss": (self.linear.weight - self.linear.weight.detach()).sum().sqrt()}

    step = make_step([images(1)], Root())
    with EventStorage(), pytest.raises(NonFiniteError, match="gradient"):
        step.run_step()


def test_a_model_in_evaluation_mode_is_our_fault():
    step = make_step([images(1)])
    step.model.eval()
    with EventStorage(), pytest.raises(RuntimeError, match="evaluation mode"):
        step.run_step()


def test_starting_the_loader_draws_no_numbers():
    """A DataLoader draws its workers' seed when its iterator is made."""
    loader = TrainLoader(lambda start: torch.utils.data.DataLoader(range(5)[start:]))
    seed_everything(1)
    expected = torch.rand(1)
    seed_everything(1)
    loader.start = 3
    batches = list(loader)
    assert torch.equal(torch.rand(1), expected)
    assert [int(b) for b in batches] == [3, 4]


def test_optimizer_state_takes_the_layout_of_its_parameter():
    """Fused kernels walk parameter and state in memory order."""
    conv = nn.Conv2d(4, 6, 3).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(conv.parameters(), fused=True)
    step = TrainStep(conv, [], optimizer)
    step.iter = 0
    conv(torch.randn(1, 4, 5, 5)).sum().backward()
    optimizer.step()
    state = step.state_dict()
    for value in state["optimizer"]["state"].values():
        value["exp_avg"] = value["exp_avg"].contiguous()
    step.load_state_dict(state)
    loaded = optimizer.state[conv.weight]["exp_avg"]
    assert loaded.stride() == conv.weight.stride()
    assert torch.equal(loaded, state["optimizer"]["state"][0]["exp_avg"])
