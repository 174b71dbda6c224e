"""The vote beside a loop over samples, its game beside votes among each coalition, Shapley beside
all orders."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from kd3a.averaging import average
from kd3a.focus import (
    SampledOrders,
    all_but_one,
    all_coalitions,
    domain_weights,
    leave_one_out,
    shapley_values,
)
from kd3a.vote import UNSURE_WEIGHT, coalition_values, knowledge_vote


def probabilities(images: int, sources: int, classes: int, seed: int, sharp: float = 3.0):
    generator = torch.Generator().manual_seed(seed)
    shape = (images, sources, classes)
    common = torch.randn(images, 1, classes, generator=generator, dtype=torch.float64)
    own = torch.randn(shape, generator=generator, dtype=torch.float64)
    return (sharp * (common + own)).softmax(-1)


def vote_one_by_one(votes, gate):
    """(class, support, weight) of an image by the public code's rules; `votes` is (K, C)."""
    best = [max(range(len(row)), key=row.__getitem__) for row in votes]
    sure = [votes[k][best[k]] > gate for k in range(len(votes))]
    support = {}
    for k, c in enumerate(best):
        if sure[k] or not any(sure):
            support[c] = support.get(c, 0.0) + votes[k][c]
    winner = max(support, key=lambda c: (support[c], -c))
    return winner, support[winner] if any(sure) else 0.0, float(any(sure))


@pytest.mark.parametrize("gate", [0.0, 0.6, 0.9, 0.999])
def test_vote_is_the_loop_over_samples(gate):
    p = probabilities(60, 4, 5, seed=1)
    found = knowledge_vote(p, gate)
    for n, rows in enumerate(p.tolist()):
        winner, support, weight = vote_one_by_one(rows, gate)
        assert found.targets[n].argmax() == winner and found.targets[n].sum() == 1
        assert found.support[n].item() == pytest.approx(support, abs=1e-12)
        assert found.weights[n] == weight


def test_paper_vote_by_hand():
    p = torch.tensor(
        [
            [[0.90, 0.05, 0.05], [0.80, 0.10, 0.10], [0.05, 0.90, 0.05]],  # two against one
            [[0.50, 0.30, 0.20], [0.20, 0.50, 0.30], [0.40, 0.30, 0.30]],  # nobody is sure
        ],
        dtype=torch.float64,
    )
    found = knowledge_vote(p, 0.75, "paper")
    torch.testing.assert_close(found.targets[0], torch.tensor([0.85, 0.075, 0.075]).double())
    torch.testing.assert_close(found.targets[1], p[1].mean(0))
    assert found.weights.tolist() == [2, UNSURE_WEIGHT]
    assert found.support[0].item() == pytest.approx(2 * 0.85)
    assert found.coverage == 0.5


@pytest.mark.parametrize("variant", ["code", "paper"])
@pytest.mark.parametrize("sources", [1, 2, 4])
def test_worth_of_a_coalition_is_that_of_its_own_vote(variant, sources):
    p = probabilities(50, sources, 6, seed=sources)
    members = all_coalitions(sources)
    worth = coalition_values(p, 0.7, members, variant)
    assert worth[0] == 0
    for coalition, value in zip(members[1:], worth[1:], strict=True):
        alone = knowledge_vote(p[:, coalition], 0.7, variant)
        assert value.item() == pytest.approx(alone.support.sum().item(), abs=1e-9)


def test_worth_adds_up_over_batches_and_chunks(monkeypatch):
    p = probabilities(64, 5, 10, seed=3)
    members = all_coalitions(5)
    whole = coalition_values(p, 0.8, members)
    parts = sum(coalition_values(part, 0.8, members) for part in p.split(10))
    torch.testing.assert_close(whole, parts, atol=1e-9, rtol=0)
    monkeypatch.setattr("kd3a.vote._CHUNK", 64 * 5 * 3)
    torch.testing.assert_close(coalition_values(p, 0.8, members), whole, atol=1e-12, rtol=0)


def shapley_by_orders(values, sources):
    added = [0.0] * sources
    for order in itertools.permutations(range(sources)):
        coalition = 0
        for source in order:
            added[source] += values[coalition | 1 << source] - values[coalition]
            coalition |= 1 << source
    return [a / math.factorial(sources) for a in added]


@pytest.mark.parametrize("sources", [1, 2, 3, 4, 6])
def test_shapley_is_the_mean_over_all_orders(sources):
    worth = coalition_values(probabilities(40, sources, 4, seed=7), 0.7, all_coalitions(sources))
    expected = torch.tensor(shapley_by_orders(worth.tolist(), sources), dtype=torch.float64)
    torch.testing.assert_close(shapley_values(worth), expected, atol=1e-9, rtol=0)


def test_shapley_of_any_game():
    values = torch.rand(1 << 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = shapley_values(values)
    expected = torch.tensor(shapley_by_orders(values.tolist(), 5), dtype=torch.float64)
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)
    assert found.sum().item() == pytest.approx((values[-1] - values[0]).item())


def test_drawn_orders_come_within_their_error():
    sources = 8
    p = probabilities(100, sources, 10, seed=5)
    exact = shapley_values(coalition_values(p, 0.7, all_coalitions(sources)))
    orders = SampledOrders(sources, pairs=400, seed=0)
    found = orders.estimate(coalition_values(p, 0.7, orders.members))
    assert ((found.values - exact).abs() < 4 * found.errors + 1e-9).all()
    assert found.values.sum().item() == pytest.approx(exact.sum().item())
    # A quarter of the orders, twice the error.
    few = SampledOrders(sources, pairs=100, seed=1)
    coarse = few.estimate(coalition_values(p, 0.7, few.members))
    ratio = (coarse.errors / found.errors).mean().item()
    assert 1.5 < ratio < 2.7


def test_leaving_one_out():
    p = probabilities(30, 3, 4, seed=2)
    found = leave_one_out(coalition_values(p, 0.7, all_but_one(3)))
    whole = knowledge_vote(p, 0.7).support.sum()
    for source in range(3):
        rest = [k for k in range(3) if k != source]
        expected = whole - knowledge_vote(p[:, rest], 0.7).support.sum()
        assert found[source].item() == pytest.approx(expected.item(), abs=1e-9)


def test_weights_of_domains():
    focus = torch.tensor([3.0, 1.0, 0.0])
    weights = domain_weights(focus, coverage=0.8)
    torch.testing.assert_close(weights, torch.tensor([0.2, 0.6, 0.2, 0.0]).double())
    later = domain_weights(torch.tensor([0.0, 0.0, 5.0]), 1.0, previous=weights)
    torch.testing.assert_close(
        later, 0.9 * weights + 0.1 * torch.tensor([0.25, 0, 0, 0.75]).double()
    )
    assert later.sum().item() == pytest.approx(1, abs=1e-15)
    torch.testing.assert_close(
        domain_weights(torch.zeros(4), 0.0), torch.tensor([0, 0.25, 0.25, 0.25, 0.25]).double()
    )
    assert domain_weights(torch.tensor([2.0, -1.0]), 0.5)[2] == 0
    by_size = domain_weights(torch.ones(2), 0.0, samples=torch.tensor([30, 10]))
    torch.testing.assert_close(by_size, torch.tensor([0, 0.75, 0.25]).double())


def test_average_of_models_takes_statistics_along():
    def model(seed):
        torch.manual_seed(seed)
        net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
        for _ in range(seed + 1):
            net(torch.randn(2, 3, 8, 8))
        return net.state_dict()

    states, weights = [model(0), model(1), model(2)], torch.tensor([0.5, 0.3, 0.2])
    found = average(states, weights)
    for name, value in found.items():
        assert value.dtype == states[0][name].dtype
        if name.endswith("num_batches_tracked"):
            assert value == 3
            continue
        expected = sum(w * s[name].double() for w, s in zip(weights.tolist(), states, strict=True))
        torch.testing.assert_close(value, expected.float())
    assert all(
        torch.equal(average(states, torch.tensor([1.0, 0, 0]))[n], states[0][n])
        for n in found
        if not n.endswith("tracked")
    )


@pytest.mark.parametrize(
    "spoil, words",
    [
        (lambda s: s.pop("1.bias"), "lacks"),
        (lambda s: s.update({"0.weight": s["0.weight"][:2]}), "0.weight is"),
        (lambda s: s["0.bias"].fill_(float("nan")), "NaN"),
        (lambda s: s.update({"0.bias": s["0.bias"].half()}), "float16"),
    ],
)
def test_a_spoilt_model_is_refused_by_name(spoil, words):
    def state():
        net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
        return {k: v.clone() for k, v in net.state_dict().items()}

    other = state()
    spoil(other)
    with pytest.raises(ValueError, match="model 1.*" + words):
        average([state(), other], torch.tensor([0.5, 0.5]))


@pytest.mark.parametrize("weights", [[0.5, 0.6], [-0.5, 1.5], [float("nan"), 1.0], [1.0]])
def test_weights_that_are_no_shares(weights):
    state = {"a": torch.ones(2)}
    with pytest.raises(ValueError, match="weights"):
        average([state, state], torch.tensor(weights))
