"""Balancing of losses beside its formulas, behind a toy model and behind detectors by config."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from detectron2.utils.events import EventStorage
from torch import nn

from dataset_tools.errors import InputError
from seriatim.config import get_cfg
from seriatim.modeling.balance import (
    FixedWeights,
    GradNorm,
    UncertaintyWeights,
    balance,
    gradnorm_step,
)


class TwoTasks(nn.Module):
    """Two regressions on one shared weight, the second a thousand times as steep."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Linear(4, 4, bias=False)
        self.heads = nn.ModuleList(nn.Linear(4, 1, bias=False) for _ in range(2))

    def forward(self, x):
        hidden = self.backbone(x)
        a, b = (head(hidden) for head in self.heads)
        if not self.training:
            return [a, b]
        return {"loss_a": (a - 1).square().mean(), "loss_b": 1000 * (b + 1).square().mean()}


def config(name: str, weights=(("loss_a", 1.0), ("loss_b", 1.0)), **keys):
    cfg = get_cfg()
    options = cfg.SERIATIM.LOSS_BALANCE
    options.NAME, options.WEIGHTS = name, [list(pair) for pair in weights]
    options.update(keys)
    return cfg


def run(model, x):
    with EventStorage() as storage:
        losses = model(x)
    return losses, {name: value for name, (value, _) in storage.latest().items()}


X = torch.randn(16, 4, generator=torch.Generator().manual_seed(0))


def test_without_a_name_the_model_is_left_alone():
    model = TwoTasks()
    assert balance(get_cfg(), model) is model and not hasattr(model, "loss_balance")


def test_fixed_weights_multiply_and_leave_others_alone():
    torch.manual_seed(0)
    plain = TwoTasks()
    wanted = plain(X)
    model = balance(config("fixed", [("loss_b", 0.25)]), copy.deepcopy(plain))
    losses, told = run(model, X)
    assert losses["loss_b"].item() == pytest.approx(0.25 * wanted["loss_b"].item())
    assert losses["loss_a"].item() == wanted["loss_a"].item()
    assert told == {"loss_weight/loss_b": 0.25}
    assert isinstance(model.eval()(X), list)


def test_uncertainty_is_kendalls_formula_and_its_gradient():
    weights = UncertaintyWeights({"a": 1.0, "b": 4.0})
    losses = {"a": torch.tensor(3.0), "b": torch.tensor(0.2)}
    found = weights(losses)
    for name, start in (("a", 0.0), ("b", -math.log(4))):
        value = float(losses[name])
        assert found[name].item() == pytest.approx(math.exp(-start) * value)
    sum(found.values()).backward()
    for name, s in weights.log_variance.items():
        slope = -math.exp(-s.item()) * losses[name].item() + 0.5
        assert s.grad.item() == pytest.approx(slope)
    with torch.no_grad():
        weights.log_variance["a"].add_(0.6)
    assert weights(losses)["a"].item() == pytest.approx(math.exp(-0.6) * 3.0 + 0.3)


def test_a_constant_loss_ends_at_the_weight_that_the_formula_has_its_minimum_at():
    weights = UncertaintyWeights({"a": 1.0})
    optimizer = torch.optim.SGD(weights.parameters(), lr=0.2)
    for _ in range(300):
        optimizer.zero_grad()
        weights({"a": torch.tensor(4.0)})["a"].backward()
        optimizer.step()
    assert weights.current()["a"] == pytest.approx(1 / 8, rel=1e-3)


def test_a_step_of_gradnorm_follows_the_gradient_of_its_own_loss():
    """The paper's loss, differentiated by torch, with the target held fixed."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(40):
        logs = torch.rand(3, generator=generator).requires_grad_()
        weights = logs.exp()
        norms = torch.rand(3, generator=generator) * 10
        ratios = torch.rand(3, generator=generator) + 0.1
        mean = (weights * norms).mean().detach()
        target = mean * (ratios / ratios.mean()) ** 1.5
        (((weights * norms - target).abs()).sum() / mean).backward()
        moved = (logs - 0.02 * logs.grad).exp().detach()
        wanted = moved * weights.detach().sum() / moved.sum()
        got = gradnorm_step(weights.detach(), norms, ratios, 1.5, 0.02)
        torch.testing.assert_close(got, wanted)


def test_gradnorm_measures_the_gradients_of_each_loss_by_the_shared_weight():
    torch.manual_seed(0)
    model = balance(config("gradnorm"), TwoTasks())
    before = model.loss_balance.weights.clone()
    bare = copy.deepcopy(model)
    bare._forward_hooks.clear()
    norms = torch.stack(
        [torch.autograd.grad(v, bare.backbone.weight, retain_graph=True)[0].norm()
         for v in bare(X).values()]
    )  # fmt: skip
    run(model, X)
    wanted = gradnorm_step(before, norms, torch.ones(2), 1.5, 0.025)
    torch.testing.assert_close(model.loss_balance.weights, wanted)
    torch.testing.assert_close(
        model.loss_balance.initial, torch.stack(list(bare(X).values())).detach()
    )


def test_gradnorm_evens_out_gradients_that_are_a_thousand_times_apart():
    torch.manual_seed(0)
    model = balance(config("gradnorm", ALPHA=0.0), TwoTasks())
    for _ in range(300):
        run(model, X)
    weights = model.loss_balance.current()
    assert weights["loss_a"] > 100 * weights["loss_b"]
    assert sum(weights.values()) == pytest.approx(2.0, rel=1e-4)


def test_gradnorm_does_not_move_where_no_gradient_is_taken():
    model = balance(config("gradnorm"), TwoTasks())
    with torch.no_grad():
        run(model, X)
    assert model.loss_balance.current() == {"loss_a": 1.0, "loss_b": 1.0}
    assert not model.loss_balance.initial.any()


def test_gradnorm_of_a_copy_looks_at_the_copys_weight():
    model = balance(config("gradnorm"), TwoTasks())
    copied = copy.deepcopy(model)
    assert copied.loss_balance._shared[0] is copied.backbone.weight


def test_the_weights_survive_a_state_dict():
    torch.manual_seed(0)
    for name in ("uncertainty", "gradnorm"):
        model = balance(config(name), TwoTasks())
        losses, _ = run(model, X)
        sum(losses.values()).backward()
        torch.optim.SGD(model.parameters(), lr=1e-4).step()
        other = balance(config(name), TwoTasks())
        other.load_state_dict(model.state_dict())
        assert other.loss_balance.current() == model.loss_balance.current()
        assert other.loss_balance.current() != {"loss_a": 1.0, "loss_b": 1.0}


@pytest.mark.parametrize(
    ("cfg", "said"),
    [
        (config("magic"), "LOSS_BALANCE.NAME"),
        (config("fixed", []), "WEIGHTS is empty"),
        (config("uncertainty", [("loss_a", 0.0)]), "above 0"),
        (config("gradnorm", SHARED="backbone.bias"), "no trained parameter"),
        (config("fixed", [("loss_a", "heavy")]), "list of pairs"),
    ],
)
def test_what_cannot_be_balanced_is_told(cfg, said):
    with pytest.raises(InputError, match=said):
        balance(cfg, TwoTasks())


def test_a_loss_that_is_not_there_is_told_with_those_that_are():
    model = balance(config("fixed", [("loss_c", 1.0)]), TwoTasks())
    with pytest.raises(InputError, match="loss_c, but the losses are loss_a, loss_b"):
        run(model, X)


def test_current_weights_of_fixed_ones_are_those_given():
    assert FixedWeights({"a": 3.0}).current() == {"a": 3.0}
    assert GradNorm({"a": 2.0}, nn.Parameter(torch.ones(1)), 1.0, 0.1).current() == {"a": 2.0}
