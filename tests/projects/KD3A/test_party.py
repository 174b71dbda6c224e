"""Parties that really train, beside trainers run by hand; exact resumption; what crosses."""

from __future__ import annotations

import copy
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog
from flwr.app import ArrayRecord
from kd3a.app import build_strategy, initial_weights, open_party, party_config
from kd3a.averaging import average
from kd3a.command import history
from kd3a.federation import run_rounds
from kd3a.messages import DISTIL, QUERY, Work, read
from kd3a.party import PartyTrainer, add_proximal_term
from kd3a.pictures import vote_lines
from kd3a.results import DOMAINS
from kd3a.student import Teachers
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from seriatim.config import load_config
from seriatim.data.catalog import unregister_datasets
from seriatim.data.loader import training_records
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


def write_digits(folder: Path) -> None:
    """What prepare_digits.py makes, with 60 drawn images a domain."""
    (folder / "datasets" / "digits").mkdir(parents=True)
    for seed, name in enumerate(DOMAINS):
        images, labels = make_labelled(60, size=32, channels=1, seed=seed)
        np.savez(folder / "datasets" / "digits" / f"{name}.npz", images=images, labels=labels)


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
    cfg.KD3A.GATE, cfg.KD3A.VOTE_PICTURES = (0.2, 0.3), 0
    cfg.OUTPUT_DIR = str(output)
    for key, value in keys.items():
        cfg.KD3A[key] = value
    output.mkdir(parents=True, exist_ok=True)
    return cfg


@pytest.fixture(autouse=True)
def _forget_datasets():
    yield
    names = {f"{n}_{split}" for n in (*PARTIES, *DOMAINS) for split in ("train", "test")}
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
    own = {n: tuple(v.shape) for n, v in initial_weights(cfg).to_torch_state_dict().items()}
    crossed = []

    def record(name, request, reply):
        crossed.extend([request, reply])
        return reply

    run(cfg, rounds=1, spoil=record)
    for message in crossed:
        assert len(message.content.config_records) <= 1
        for arrays in message.content.array_records.values():
            for name, array in arrays.items():
                assert tuple(array.shape) == own[name], name
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
        model = party.model_of(other, round_=2)
        seen[variant] = model.classifier.weight.abs().sum().item()
        assert all(p.abs().sum() == 0 for p in model.backbone.parameters())
    assert seen["code"] > 0 and seen["paper"] == 0


def labels_seen(cfg) -> dict[int, int]:
    mapper = PartyTrainer.build_mapper(cfg, is_train=True)
    return {r["image_id"]: mapper(r)["label"] for r in training_records(cfg)[1]}


def test_a_source_that_lies_calls_the_same_share_of_images_by_the_next_class(tmp_path):
    write_data(tmp_path)
    keys = {"ATTACK_DOMAIN": "a", "ATTACK_LEVEL": 0.25}
    seen = {}
    for name in ("a", "b"):
        open_party(config(tmp_path, tmp_path / name, **keys), name)
        seen[name] = [
            labels_seen(party_config(config(tmp_path, tmp_path / name, **k), name))
            for k in ({}, keys, keys)
        ]
        assert seen[name][1] == seen[name][2]
    right, wrong, _ = seen["a"]
    changed = [image for image in right if right[image] != wrong[image]]
    assert len(changed) == round(0.25 * len(right))
    assert all(wrong[image] == (right[image] + 1) % 10 for image in changed)
    assert seen["b"][0] == seen["b"][1]
    cfg = party_config(config(tmp_path, tmp_path / "a", **keys), "a")
    record = next(r for r in training_records(cfg)[1] if r["image_id"] in changed)
    assert PartyTrainer.build_mapper(cfg, False)(record)["label"] == right[record["image_id"]]


def test_what_is_measured_is_told_and_shown(tmp_path):
    write_data(tmp_path)
    cfg = config(tmp_path, tmp_path / "out", VOTE_PICTURES=12, EVALUATE_EVERY=2)
    run(cfg, rounds=3)
    told = history(tmp_path / "out")
    assert [bool(line["metrics"]) for line in told] == [False, True, True]
    assert set(told[0]["parties"]) == set(PARTIES)
    target = told[0]["parties"]["t"]
    assert 0 <= target["coverage"] <= 1 and len(target["focus"]) == 2

    def curve(folder, tag):
        events = EventAccumulator(str(folder)).Reload()
        return [(e.step, e.value) for e in events.Scalars(tag)]

    shares = [(line["round"], line["shares"]["a"]) for line in told]
    assert curve(tmp_path / "out", "share/a") == [(n, pytest.approx(v)) for n, v in shares]
    coverage = [(line["round"], line["parties"]["t"]["coverage"]) for line in told]
    assert curve(tmp_path / "out", "coverage/t") == [(n, pytest.approx(v)) for n, v in coverage]
    top1 = [(line["round"], line["metrics"]["b/top1"]) for line in told[1:]]
    assert curve(tmp_path / "out", "top1/b") == [(n, pytest.approx(v)) for n, v in top1]
    # A round is three steps of a party: 0, 1, 2; 3, 4, 5; …
    own = [(3 * number - 1, pytest.approx(value)) for number, value in top1]
    assert curve(tmp_path / "out/parties/b", "global/top1") == own

    folder = tmp_path / "out/parties/t"
    events = EventAccumulator(str(folder)).Reload()
    assert [image.step for image in events.Images("votes")] == [2, 5, 8]
    assert {event.step for event in events.Scalars("vote/coverage")} & {6, 7, 8}
    with Image.open(folder / "votes.png") as picture:
        shown = Image.open(io.BytesIO(events.Images("votes")[-1].encoded_image_string))
        assert np.array_equal(np.asarray(picture), np.asarray(shown))


def test_a_picture_of_votes_says_who_is_sure():
    class Source(torch.nn.Module):
        def __init__(self, logits):
            super().__init__()
            self._logits = torch.tensor(logits)

        def logits(self, images):
            return self._logits

    sources = [Source([[9.0, 0.0], [0.0, 0.1]]), Source([[0.0, 9.0], [0.1, 0.0]])]
    teachers = Teachers([*sources, sources[1]], 0.9, "code")
    texts = vote_lines(teachers, torch.zeros(2, 1), ["a", "b", "c"], ["no", "yes"])
    assert texts[0] == ["→ yes", "a no 100%", "b yes 100%", "c yes 100%"]
    assert texts[1] == ["no consensus", "(a yes 52%)", "(b no 52%)", "(c no 52%)"]
    assert teachers.images == 0


def test_mistakes_in_the_config_are_named(tmp_path):
    from dataset_tools.errors import InputError

    write_data(tmp_path)
    for keys, words in [
        ({"STRATEGY": "kd4"}, "KD3A.STRATEGY is 'kd4'"),
        ({"VARIANT": "x"}, "KD3A.VARIANT"),
        ({"TARGET": "zz"}, "none of KD3A.PARTIES"),
        ({"ATTACK_DOMAIN": "zz"}, "ATTACK_DOMAIN is 'zz'"),
        ({"ATTACK_LEVEL": 2.0}, "ATTACK_LEVEL"),
        ({"EVALUATE_EVERY": 0}, "EVALUATE_EVERY"),
        ({"PARTIES": ["a", "a"]}, "different domains"),
    ]:
        with pytest.raises(InputError, match=words):
            build_strategy(config(tmp_path, tmp_path / "out", **keys))
    with pytest.raises(InputError, match="datasets q_test and q_train"):
        open_party(config(tmp_path, tmp_path / "out"), "q")
    for name in PARTIES:
        open_party(config(tmp_path, tmp_path / "out"), name)
    assert isinstance(initial_weights(config(tmp_path, tmp_path / "out")), ArrayRecord)
