"""Parties that really train, beside trainers run by hand; exact resumption; what crosses."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog
from flwr.app import ArrayRecord
from kd3a.app import build_strategy, initial_weights, open_party
from kd3a.averaging import average
from kd3a.federation import run_rounds
from kd3a.messages import DISTIL, QUERY, Work, read
from kd3a.party import add_proximal_term

from seriatim.config import load_config
from seriatim.data.catalog import unregister_datasets
from seriatim.testing.labelled import make_labelled
from tests.projects.KD3A.local import LocalGrid

PARTIES = ("a", "b", "t")
CONFIG = Path(__file__).parents[3] / "projects/KD3A/configs/Base-KD3A.yaml"


def write_data(folder: Path, shuffle_target: bool = False) -> None:
    for seed, name in enumerate(PARTIES):
        images, labels = make_labelled(64, size=32, channels=1, seed=seed)
        if shuffle_target and name == "t":
            labels = np.roll(labels, 7)
        np.savez(folder / f"{name}.npz", images=images, labels=labels)


def config(data: Path, output: Path, **keys):
    cfg = load_config(CONFIG)
    cfg.SERIATIM.DATASETS = [
        {
            "NAME": f"{name}_{split}",
            "LABELS": str(data / f"{name}.npz"),
            "SPLIT": split,
            "FRACTIONS": {"train": 0.75, "test": 0.25},
        }
        for name in PARTIES
        for split in ("train", "test")
    ]
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.CLASSIFIER.NUM_CLASSES = 10
    cfg.SOLVER.IMS_PER_BATCH = 8
    cfg.KD3A.PARTIES, cfg.KD3A.TARGET = list(PARTIES), "t"
    cfg.KD3A.EPOCH_IMAGES, cfg.KD3A.EPOCHS = 24, 3
    cfg.KD3A.GATE = (0.2, 0.3)
    cfg.OUTPUT_DIR = str(output)
    for key, value in keys.items():
        cfg.KD3A[key] = value
    output.mkdir(parents=True, exist_ok=True)
    return cfg


@pytest.fixture(autouse=True)
def _forget_datasets():
    yield
    names = {f"{name}_{split}" for name in PARTIES for split in ("train", "test")}
    unregister_datasets(names & set(DatasetCatalog.list()))


def run(cfg, rounds=3, spoil=None):
    strategy = build_strategy(cfg)
    grid = LocalGrid([open_party(cfg, name) for name in PARTIES], spoil)
    result = run_rounds(strategy, strategy, grid, initial_weights(cfg), rounds)
    return result.arrays.to_torch_state_dict(), strategy


def test_fedavg_is_the_average_of_trainers_run_by_hand(tmp_path):
    write_data(tmp_path)
    found, strategy = run(config(tmp_path, tmp_path / "fed", STRATEGY="fedavg"), rounds=2)
    cfg = config(tmp_path, tmp_path / "hand", STRATEGY="fedavg")
    state = initial_weights(cfg).to_torch_state_dict()
    parties = [open_party(cfg, name) for name in ("a", "b")]
    for number in (1, 2):
        states = [party.train(Work(number, state, {}, {}))[0] for party in parties]
        sizes = torch.tensor([p.introduction.images for p in parties], dtype=torch.float64)
        state = average(states, sizes / sizes.sum())
    assert all(torch.equal(found[name], state[name]) for name in state)
    assert strategy.faults == []
    start = initial_weights(cfg).to_torch_state_dict()
    assert not torch.equal(found["classifier.weight"], start["classifier.weight"])


@pytest.mark.parametrize("variant", ["code", "paper"])
def test_killed_federation_goes_on_bit_for_bit(tmp_path, variant):
    write_data(tmp_path)
    straight, strategy = run(config(tmp_path, tmp_path / "straight", VARIANT=variant))
    assert sum(strategy.progress.shares.values()) == pytest.approx(1)

    class KilledError(Exception):
        pass

    def kill(name, request, reply):
        # After the sources have trained the second round: they will do it again.
        if request.metadata.message_type == DISTIL and read(request).round == 2:
            raise KilledError
        return reply

    cfg = config(tmp_path, tmp_path / "killed", VARIANT=variant)
    with pytest.raises(KilledError):
        run(cfg, spoil=kill)
    resumed, _ = run(cfg)
    assert all(torch.equal(straight[name], resumed[name]) for name in straight)


def test_labels_of_the_target_change_nothing(tmp_path):
    weights = []
    for name, shuffle in (("one", False), ("two", True)):
        write_data(tmp_path, shuffle)
        weights.append(run(config(tmp_path, tmp_path / name), rounds=2)[0])
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_nothing_but_weights_and_scalars_crosses(tmp_path):
    write_data(tmp_path)
    cfg = config(tmp_path, tmp_path / "out")
    own = {tuple(value.shape) for value in initial_weights(cfg).to_torch_state_dict().values()}
    crossed = []

    def record(name, request, reply):
        crossed.extend([request, reply])
        return reply

    run(cfg, rounds=1, spoil=record)
    images = 48  # of a party
    for message in crossed:
        assert len(message.content.config_records) <= 1
        for arrays in message.content.array_records.values():
            for name, array in arrays.items():
                assert tuple(array.shape) in own, name
                assert array.shape[:1] not in ([images], [16]), name
        for metrics in message.content.metric_records.values():
            for name, value in metrics.items():
                assert isinstance(value, int | float) or len(value) <= len(PARTIES), name
        if message.metadata.message_type != QUERY:
            assert set(message.content.config_records["config"]) == {"round"}


def test_proximal_term(tmp_path):
    torch.manual_seed(0)

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(3, 2)

        def forward(self, x):
            return {"loss": self.layer(x).square().sum()} if self.training else self.layer(x)

    model, x = Model(), torch.randn(4, 3)
    plain = copy.deepcopy(model)
    add_proximal_term(model, mu=0.5)
    assert model(x)["loss_proximal"] == 0
    with torch.no_grad():
        for a, b in zip(model.parameters(), plain.parameters(), strict=True):
            shift = torch.randn_like(a)
            a += shift
            b += shift
            b.shift = shift
    sum(model(x).values()).backward()
    plain(x)["loss"].backward()
    for a, b in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad + 0.5 * b.shift)
    assert isinstance(model.eval()(x), torch.Tensor)


def test_a_party_takes_over_what_the_variant_shares(tmp_path):
    write_data(tmp_path)
    seen = {}
    for variant in ("code", "paper"):
        cfg = config(tmp_path, tmp_path / variant, VARIANT=variant)
        party = open_party(cfg, "a")
        start = initial_weights(cfg).to_torch_state_dict()
        party.train(Work(1, start, {}, {}))
        other = {name: torch.zeros_like(value) for name, value in start.items()}
        model = party._model_of(other, round_=2)
        seen[variant] = model.classifier.weight.abs().sum().item()
        assert all(p.abs().sum() == 0 for p in model.backbone.parameters())
    assert seen["code"] > 0 and seen["paper"] == 0


def test_mistakes_in_the_config_are_named(tmp_path):
    from dataset_tools.errors import InputError

    write_data(tmp_path)
    for keys, words in [
        ({"STRATEGY": "kd4"}, "KD3A.STRATEGY is 'kd4'"),
        ({"VARIANT": "x"}, "KD3A.VARIANT"),
        ({"TARGET": "zz"}, "none of KD3A.PARTIES"),
        ({"PARTIES": ["a", "a"]}, "different domains"),
    ]:
        with pytest.raises(InputError, match=words):
            build_strategy(config(tmp_path, tmp_path / "out", **keys))
    with pytest.raises(InputError, match="datasets q_test and q_train"):
        open_party(config(tmp_path, tmp_path / "out"), "q")
    for name in PARTIES:
        open_party(config(tmp_path, tmp_path / "out"), name)
    assert isinstance(initial_weights(config(tmp_path, tmp_path / "out")), ArrayRecord)
