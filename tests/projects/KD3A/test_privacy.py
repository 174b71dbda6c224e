"""Noise and clipping beside their definitions; the secure sum beside the plain one."""

from __future__ import annotations

import io
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord
from kd3a.app import build_strategy, check_config
from kd3a.averaging import average
from kd3a.config import STRATEGIES
from kd3a.federation import run_rounds
from kd3a.local import InProcessGrid
from kd3a.messages import SOURCE, TARGET, Introduction, Work
from kd3a.privacy import privacy_mods, with_privacy

from dataset_tools.errors import InputError
from seriatim.config import load_config

CONFIG = Path(__file__).parents[3] / "projects/KD3A/configs/Base-KD3A.yaml"
SIZE = 4000


def model() -> dict[str, torch.Tensor]:
    return {
        "layer.weight": torch.zeros(SIZE),
        "norm.running_var": torch.ones(SIZE),
        "norm.num_batches_tracked": torch.tensor(3),
    }


class Mover:
    """A party whose update is `step` in all weights."""

    def __init__(self, name: str, step: float, images: int = 10, role: str = SOURCE) -> None:
        self.introduction = Introduction(name, role, images)
        self.step = step
        self.got: list[Work] = []

    def train(self, work):
        self.got.append(work)
        counts = torch.as_tensor(work.weights.get("norm.num_batches_tracked", 0))
        weights = {
            "layer.weight": work.weights["layer.weight"] + self.step,
            "norm.running_var": work.weights["norm.running_var"],
            "norm.num_batches_tracked": counts + 2,
        }
        return weights, {"loss": self.step}

    def distil(self, work):
        weights, scalars = self.train(work)
        statistics = {
            name: {"norm.running_var": state["norm.running_var"] + 5}
            for name, state in work.sources.items()
        }
        focus = [1.0] * len(work.sources)
        return weights, {**scalars, "coverage": 0.5, "focus": focus}, statistics

    def evaluate(self, work):
        return {"mean": float(work.weights["layer.weight"].mean())}


def movers():
    return [Mover("a", 1.0), Mover("b", 2.0, 30), Mover("c", 4.0), Mover("t", 3.0, role=TARGET)]


def config(tmp_path, **keys):
    cfg = load_config(CONFIG)
    cfg.OUTPUT_DIR = str(tmp_path)
    cfg.KD3A.PARTIES, cfg.KD3A.TARGET, cfg.KD3A.EPOCHS = list("abct"), "t", 1
    cfg.KD3A.STRATEGY = keys.pop("STRATEGY", "fedavg")
    for key, value in keys.items():
        cfg.KD3A[key] = value
    return cfg


def run(cfg, parties=None, rounds=1):
    grid = InProcessGrid(parties or movers(), privacy_mods(cfg))
    strategy = build_strategy(cfg)
    outer = with_privacy(cfg, strategy)
    result = run_rounds(outer, strategy, grid, ArrayRecord(model()), rounds)
    return result.arrays.to_torch_state_dict(), strategy


def test_central_noise_is_that_of_an_average_of_clipped_updates(tmp_path):
    cfg = config(tmp_path, PRIVACY="central", CLIPPING_NORM=3.0, NOISE_MULTIPLIER=0.5)
    found, strategy = run(cfg)
    # Each update is longer than 3 and points the same way: all are scaled to the norm 3.
    mean, std = 3 / math.sqrt(SIZE), 0.5 * 3 / 3
    weight = found["layer.weight"]
    assert weight.std().item() == pytest.approx(std, rel=0.1)
    assert weight.mean().item() == pytest.approx(mean, abs=5 * std / math.sqrt(SIZE))
    assert found["norm.num_batches_tracked"] == 5
    assert strategy.faults == []


def test_local_noise_is_added_by_each_party(tmp_path):
    cfg = config(tmp_path, PRIVACY="local", CLIPPING_NORM=0.5, EPSILON=2.0, DELTA=1e-4)
    found, _ = run(cfg)
    # What Dwork and Roth's Gaussian mechanism asks for, of three parties with shares .2, .6, .2.
    std = 2 * 0.5 * math.sqrt(2 * math.log(1.25 / 1e-4)) / 2.0
    expected = std * math.sqrt(0.2**2 + 0.6**2 + 0.2**2)
    assert found["layer.weight"].std().item() == pytest.approx(expected, rel=0.1)
    assert found["norm.running_var"].min() >= 0  # noise would have made some negative


def test_noise_cannot_be_foreseen(tmp_path):
    cfg = config(tmp_path, PRIVACY="local")
    weights = []
    for name in ("one", "two"):
        np.random.seed(0)
        (tmp_path / name).mkdir()
        cfg.OUTPUT_DIR = str(tmp_path / name)
        weights.append(run(cfg)[0]["layer.weight"])
    assert not torch.equal(*weights)


@pytest.mark.parametrize("privacy", ["local", "central"])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_strategy_runs_with_noise(tmp_path, strategy, privacy):
    cfg = config(
        tmp_path, STRATEGY=strategy, PRIVACY=privacy, CLIPPING_NORM=1e-3, BAD_PARTIES=0, EPSILON=8.0
    )
    found, core = run(cfg, rounds=2)
    assert core.faults == [] and core.progress.round == 2
    assert all(torch.isfinite(value).all() for value in found.values())
    assert 0 < found["layer.weight"].std() < 1


def test_the_target_is_clipped_with_what_it_says_of_its_sources(tmp_path):
    cfg = config(tmp_path, STRATEGY="kd3a", PRIVACY="central", NOISE_MULTIPLIER=0.0)
    cfg.KD3A.CLIPPING_NORM = 1.0
    found, _ = run(cfg)
    # Without clipping the target alone moves weights by 3 and statistics by 5.
    moved = found["layer.weight"].norm(), (found["norm.running_var"] - 1).norm()
    assert max(moved) <= 1.0 + 1e-4


def test_without_privacy_nothing_changes(tmp_path):
    cfg = config(tmp_path)
    assert privacy_mods(cfg) == []
    strategy = build_strategy(cfg)
    assert with_privacy(cfg, strategy) is strategy


def test_secure_sum_is_the_average(tmp_path):
    parties = movers()
    cfg = config(tmp_path, SECURE_AGGREGATION=True)
    found, strategy = run(cfg, parties, rounds=2)
    shares = torch.tensor([0.2, 0.6, 0.2], dtype=torch.float64)
    expected = average([p.train(Work(1, model(), {}, {}))[0] for p in movers()[:3]], shares)
    second = 2 * expected["layer.weight"]
    # Integers of 2^22 steps over the reach, twice rounded.
    torch.testing.assert_close(found["layer.weight"], second, atol=4 * 64 / 2**22, rtol=0)
    assert found["norm.num_batches_tracked"] == 3  # counts do not travel
    assert strategy.progress.shares == pytest.approx({"a": 0.2, "b": 0.6, "c": 0.2})
    assert strategy.measured["c"] == {"loss": 4.0} and strategy.faults == []
    assert parties[0].got[1].round == 2


def test_the_coordinator_gets_no_update_in_clear(tmp_path):
    seen = []

    class Seeing(InProcessGrid):
        def _ask(self, message):
            reply = super()._ask(message)
            seen.append(reply)
            return reply

    cfg = config(tmp_path, SECURE_AGGREGATION=True)
    strategy = build_strategy(cfg)
    grid = Seeing(movers(), privacy_mods(cfg))
    run_rounds(strategy, strategy, grid, ArrayRecord(model()), 1)
    masked = 0
    for reply in seen:
        assert not any(len(arrays) for arrays in reply.content.array_records.values())
        for record in reply.content.config_records.values():
            for vector in record.get("masked_params", []):
                masked += 1
                values = np.load(io.BytesIO(vector))
                # An update is the same in all weights; masked, no two values are near.
                assert values.size < SIZE or np.unique(values).size > 0.9 * SIZE
    assert masked >= 3 * 2


class Broken(Mover):
    def train(self, work):
        raise MemoryError("out of memory")


def test_a_source_that_breaks_during_a_secure_round_is_named(tmp_path):
    parties = [*movers()[:2], Broken("c", 4.0), movers()[3]]
    cfg = config(tmp_path, SECURE_AGGREGATION=True)
    found, strategy = run(cfg, parties)
    assert [fault.party for fault in strategy.faults] == ["c"]
    assert "out of memory" in strategy.faults[0].what
    expected = (10 * 1.0 + 30 * 2.0) / 40
    assert found["layer.weight"].mean().item() == pytest.approx(expected, abs=1e-3)


def test_nan_does_not_leave_its_party(tmp_path):
    parties = [*movers()[:2], Mover("c", math.nan), movers()[3]]
    found, strategy = run(config(tmp_path, SECURE_AGGREGATION=True), parties)
    assert "NaN" in strategy.faults[0].what and torch.isfinite(found["layer.weight"]).all()


def test_too_few_for_a_secure_sum(tmp_path):
    parties = [movers()[0], Broken("b", 1.0), Broken("c", 4.0), movers()[3]]
    with pytest.raises(InputError, match="too few sources for a secure sum: round 1: b"):
        run(config(tmp_path, SECURE_AGGREGATION=True), parties)


@pytest.mark.parametrize("strategy", [s for s in STRATEGIES if s != "fedavg"])
def test_secure_aggregation_is_refused_for_all_but_fedavg(tmp_path, strategy):
    words = "each model in clear" if strategy == "kd3a" else "fedavg alone"
    with pytest.raises(InputError, match=words):
        check_config(config(tmp_path, STRATEGY=strategy, SECURE_AGGREGATION=True))


def test_a_mode_that_is_none(tmp_path):
    with pytest.raises(InputError, match=r"KD3A\.PRIVACY is 'global'"):
        check_config(config(tmp_path, PRIVACY="global"))
    with pytest.raises(InputError, match=r"CLIPPING_NORM"):
        check_config(config(tmp_path, PRIVACY="local", CLIPPING_NORM=0.0))
