"""Rounds over parties in this process, beside the same rounds as a plain loop; faults."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass, field

import pytest
import torch
from flwr.app import ArrayRecord, Message, RecordDict
from flwr.app.error import Error
from flwr.common.constant import SUPERLINK_NODE_ID
from flwr.serverapp.strategy import FedMedian, FedTrimmedAvg
from kd3a.averaging import average
from kd3a.federation import CHECKPOINT, HISTORY, Federation, Settings, run_rounds
from kd3a.focus import domain_weights
from kd3a.messages import SOURCE, TARGET, Introduction, Work, answer, read, requests
from kd3a.strategies import KD3A, FedProx, Robust

from dataset_tools.errors import InputError
from tests.projects.KD3A.local import LocalGrid


def model(value: float = 0.0) -> dict[str, torch.Tensor]:
    return {"weight": torch.full((3,), value), "batches": torch.tensor(0)}


@dataclass
class Counter:
    """A party whose model moves halfway to its own number in a round."""

    introduction: Introduction
    number: float
    asked: list[str] = field(default_factory=list)

    def train(self, work: Work):
        self.asked.append(f"train {work.round} {sorted(work.scalars)}")
        moved = work.weights["weight"] * 0.5 + self.number * 0.5
        loss = float((work.weights["weight"] - self.number).abs().mean())
        return {"weight": moved, "batches": work.weights["batches"] + 1}, {"loss": loss}

    def distil(self, work: Work):
        self.asked.append(f"distil {work.round} {work.scalars['gate']:.3f}")
        close = [1 / (1 + abs(float(s["weight"][0]) - self.number)) for s in work.sources.values()]
        mean = torch.stack([s["weight"] for s in work.sources.values()]).mean(0)
        return (
            {"weight": mean, "batches": work.weights["batches"] + 1},
            {
                "coverage": 0.5,
                "focus": close,
            },
            {},
        )

    def evaluate(self, work: Work):
        return {"distance": float((work.weights["weight"] - self.number).abs().mean())}


def parties() -> list[Counter]:
    return [
        Counter(Introduction("a", SOURCE, 10), 1.0),
        Counter(Introduction("b", SOURCE, 30), 5.0),
        Counter(Introduction("c", SOURCE, 20), -2.0),
        Counter(Introduction("t", TARGET, 40), 4.0),
    ]


def settings(folder, **changes) -> Settings:
    return Settings(**{"parties": "abct", "folder": folder, "deadline": 0.5} | changes)


def run(strategy, members, rounds, spoil=None):
    grid = LocalGrid(members, spoil)
    result = run_rounds(strategy, strategy, grid, ArrayRecord(model()), rounds)
    return result.arrays.to_torch_state_dict()


def lines(folder):
    return [json.loads(line) for line in (folder / HISTORY).read_text().splitlines()]


def test_fedavg_is_the_plain_loop(tmp_path):
    found = run(Federation(settings(tmp_path)), parties(), 3)
    weight = torch.zeros(3, dtype=torch.float64)
    for _ in range(3):
        moved = [weight * 0.5 + n * 0.5 for n in (1.0, 5.0, -2.0)]
        weight = (moved[0] * 10 + moved[1] * 30 + moved[2] * 20) / 60
    torch.testing.assert_close(found["weight"].double(), weight, atol=1e-6, rtol=0)
    assert found["batches"] == 3
    assert lines(tmp_path)[-1]["metrics"]["t/distance"] == pytest.approx(abs(4 - weight[0].item()))
    assert lines(tmp_path)[0]["parties"]["b"] == {"loss": 5.0, "num-examples": 30}


def test_kd3a_is_the_plain_loop(tmp_path):
    members = parties()
    found = run(KD3A(settings(tmp_path), gate=(0.9, 0.95), rounds=5), members, 3)
    state, shares = model(), None
    for _ in range(3):
        sources = {m.introduction.name: m.train(Work(1, state, {}, {}))[0] for m in parties()[:3]}
        student, scalars, _ = parties()[3].distil(Work(1, state, {"gate": 0.9}, sources))
        focus = torch.tensor(scalars["focus"], dtype=torch.float64)
        shares = domain_weights(focus, scalars["coverage"], shares)
        state = average([student, *sources.values()], shares)
    torch.testing.assert_close(found["weight"], state["weight"], atol=1e-6, rtol=0)
    assert list(lines(tmp_path)[-1]["shares"].values()) == pytest.approx(shares.tolist())
    assert members[3].asked == ["distil 1 0.900", "distil 2 0.910", "distil 3 0.920"]
    assert lines(tmp_path)[-1]["shares"]["b"] > lines(tmp_path)[-1]["shares"]["c"]


def test_what_voting_made_of_a_source_is_what_is_averaged(tmp_path):
    def distil(target, work):
        weights, scalars, _ = Counter.distil(target, work)
        return weights, scalars, {"a": {"weight": torch.full((3,), 100.0)}}

    found, plain = [], []
    for folder, how in ((tmp_path / "a", distil), (tmp_path / "b", Counter.distil)):
        folder.mkdir()
        members = parties()
        members[3].distil = functools.partial(how, members[3])
        found.append(run(KD3A(settings(folder), (0.9, 0.95), 1), members, 1)["weight"])
        plain.append(lines(folder)[0]["shares"]["a"])
    assert plain[0] == plain[1]
    # In the plain run a's weight was 0.5, halfway from 0 to its own number.
    torch.testing.assert_close(found[0], found[1] + plain[0] * (100 - 0.5))


@pytest.mark.parametrize("changed", [torch.full((3,), float("nan")), torch.zeros(2)])
def test_what_voting_made_of_a_source_is_checked(tmp_path, changed):
    members = parties()
    weights, scalars, _ = members[3].distil(
        Work(1, model(), {"gate": 0.9}, {name: model() for name in "abc"})
    )
    members[3].distil = lambda work: (weights, scalars, {"a": {"weight": changed}})
    with pytest.raises(InputError, match="t: what voting made of a: weight"):
        run(KD3A(settings(tmp_path), (0.9, 0.95), 1), members, 1)


def test_messages_of_a_round_share_what_they_hold():
    sent = requests("train", [1, 2, 3], Work(1, model(), {}, {}))
    assert [message.metadata.dst_node_id for message in sent] == [1, 2, 3]
    assert sent[0].content is sent[1].content is sent[2].content


def test_fedprox_sends_its_term(tmp_path):
    members = parties()
    run(FedProx(settings(tmp_path), mu=0.1), members, 1)
    assert members[0].asked == ["train 1 ['proximal-mu']"]


def test_robust_averages_bear_one_wild_party(tmp_path):
    wild = [*parties(), Counter(Introduction("w", SOURCE, 10), 1e6)]
    rules = [FedMedian(), FedTrimmedAvg(beta=0.34)]
    for i, rule in enumerate(rules):
        (tmp_path / str(i)).mkdir()
        strategy = Robust(settings(tmp_path / str(i), parties="abctw"), rule)
        found = run(strategy, wild, 1)
        assert found["weight"].abs().max() < 3
        assert found["weight"].dtype == torch.float32 and found["batches"].dtype == torch.int64
        assert found["batches"] == 1
    assert run(Federation(settings(tmp_path, parties="abctw")), wild, 1)["weight"].max() > 1000


@pytest.mark.parametrize("killed_after", [0, 1, 2, 3])
@pytest.mark.parametrize("kind", ["train", "evaluate"])
def test_killed_coordinator_goes_on_to_the_same_weights(tmp_path, killed_after, kind):
    def strategy(folder):
        return KD3A(settings(folder), gate=(0.9, 0.95), rounds=4)

    (tmp_path / "straight").mkdir(), (tmp_path / "killed").mkdir()
    straight = run(strategy(tmp_path / "straight"), parties(), 4)

    class KilledError(Exception):
        pass

    def kill(name, request, reply):
        if request.metadata.message_type == kind and read(request).round > killed_after:
            raise KilledError
        return reply

    with pytest.raises(KilledError):
        run(strategy(tmp_path / "killed"), parties(), 4, kill)
    resumed = run(strategy(tmp_path / "killed"), parties(), 4)
    assert all(torch.equal(straight[name], resumed[name]) for name in straight)
    told = [
        [{k: v for k, v in line.items() if k != "seconds"} for line in lines(tmp_path / name)]
        for name in ("straight", "killed")
    ]
    # A round that was saved but not evaluated is not in the history.
    assert [line for line in told[0] if line["round"] in {x["round"] for x in told[1]}] == told[1]
    assert (tmp_path / "killed" / CHECKPOINT).exists()


def changed(**changes):
    def spoil(request, reply):
        work = read(reply)
        return answer(request, Work(**{**vars(work), **changes}))

    return spoil


def lost(request):
    """What a SuperLink answers for a node without a heartbeat: it comes from the SuperLink."""
    found = Message(Error(5, "Error: Node Unavailable"), reply_to=request)
    found.metadata.__dict__["_src_node_id"] = SUPERLINK_NODE_ID
    return found


SPOILT = {
    "no answer": (lambda request, reply: None, "no answer within"),
    "a node that the SuperLink has lost": (
        lambda request, reply: lost(request),
        "no answer within",
    ),
    "an exception": (
        lambda request, reply: Message(Error(20, "out of memory"), reply_to=request),
        "out of memory",
    ),
    "NaN": (changed(weights={**model(float("nan"))}), "NaN"),
    "another shape": (changed(weights={**model(), "weight": torch.zeros(4)}), "weight is"),
    "an empty update": (changed(weights={}), "lacks"),
    "another round": (changed(round=7), "of round 7"),
    "no metrics record": (
        lambda request, reply: Message(RecordDict(), reply_to=request),
        "the message has no",
    ),
}


@pytest.mark.parametrize("what", SPOILT)
def test_a_broken_party_is_named_and_its_update_not_used(tmp_path, what):
    spoil, words = SPOILT[what]

    def break_b(name, request, reply):
        broken = name == "b" and request.metadata.message_type == "train"
        return spoil(request, reply) if broken else reply

    strategy = Federation(settings(tmp_path))
    found = run(strategy, parties(), 2, break_b)
    weight = 0.0
    for _ in range(2):
        weight = ((weight * 0.5 + 0.5) * 10 + (weight * 0.5 - 1.0) * 20) / 30
    torch.testing.assert_close(found["weight"], torch.full((3,), weight))
    assert {fault.party for fault in strategy.faults} == {"b"}
    assert words in str(strategy.faults[0])
    assert [fault["party"] for fault in lines(tmp_path)[1]["faults"]] == ["b"]


def test_without_a_target_nothing_is_averaged(tmp_path):
    def break_target(name, request, reply):
        return None if request.metadata.message_type == "train.distil" else reply

    strategy = KD3A(settings(tmp_path), gate=(0.9, 0.95), rounds=2)
    with pytest.raises(InputError, match=r"no valid update of the target.*t: no answer"):
        run(strategy, parties(), 2, break_target)
    assert not (tmp_path / CHECKPOINT).exists()


def test_too_few_sources_end_the_run(tmp_path):
    def break_two(name, request, reply):
        return None if name in "ab" and request.metadata.message_type == "train" else reply

    strategy = Federation(settings(tmp_path, fewest_sources=2))
    with pytest.raises(InputError, match="1 valid updates of sources, and needs 2: round 1: a:"):
        run(strategy, parties(), 2, break_two)


def test_parties_that_do_not_come(tmp_path):
    with pytest.raises(InputError, match="parties b, c have not come"):
        run(Federation(settings(tmp_path)), [parties()[0], parties()[3]], 1)


def test_a_stranger_is_not_asked(tmp_path):
    stranger = Counter(Introduction("x", SOURCE, 1000), 99.0)
    strategy = Federation(settings(tmp_path))
    run(strategy, [*parties(), stranger], 1)
    assert stranger.asked == []
    assert ["x is none of the parties" in str(fault) for fault in strategy.faults] == [True]


def test_a_party_that_dies_and_comes_back_under_another_node(tmp_path):
    members = parties()
    grid = LocalGrid(members)

    def script(name, request, reply):
        kind = request.metadata.message_type
        if kind == "evaluate" and name == "a":
            number = read(request).round
            if number == 1:
                del grid.parties[101]  # b dies after the first round
            if number == 2:
                grid.parties[500] = members[1]
        return reply

    grid.spoil = script
    strategy = Federation(settings(tmp_path))
    run_rounds(strategy, strategy, grid, ArrayRecord(model()), 3)
    assert members[1].asked == ["train 1 []", "train 3 []"]
    assert [sorted(line["shares"]) for line in lines(tmp_path)] == [
        ["a", "b", "c"],
        ["a", "c"],
        ["a", "b", "c"],
    ]


def test_the_node_that_a_party_has_left_is_not_asked_again(tmp_path):
    """A SuperLink gives up a node a minute after it was last heard of."""
    members = parties()
    grid = LocalGrid(members)
    met = []

    def script(name, request, reply):
        node, kind = request.metadata.dst_node_id, request.metadata.message_type
        if kind == "query":
            met.append(node)
        if kind == "train" and node == 101:
            grid.parties[500] = members[1]  # b comes back while its dead node is asked
        return None if 500 in grid.parties and node == 101 else reply

    grid.spoil = script
    strategy = Federation(settings(tmp_path))
    run_rounds(strategy, strategy, grid, ArrayRecord(model()), 4)
    assert met == [100, 101, 102, 103, 500]
    assert [sorted(line["shares"]) for line in lines(tmp_path)[1:]] == [["a", "b", "c"]] * 3
