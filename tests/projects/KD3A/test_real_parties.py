"""Parties that are processes: what they reach, what crosses, and what happens when they break.

One network of a SuperLink and three parties serves all tests of this file. Each test says what goes
wrong in which round, and compares what was reached with the same rounds in this process.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog
from flwr.supercore.inflatable.inflatable_object import get_object_type_from_object_content
from kd3a.app import build_strategy, initial_weights, open_party
from kd3a.federation import run_rounds
from kd3a.messages import TRAIN, answer, read

from seriatim.data.catalog import unregister_datasets
from seriatim.engine.setup import setup
from tests.projects.KD3A.local import LocalGrid
from tests.projects.KD3A.real import CHECKPOINT, config, history, open_place, weights
from tests.projects.KD3A.recorder import objects
from tests.projects.KD3A.spoilt_app.spoilt.app import spoilt

pytestmark = [pytest.mark.slow, pytest.mark.processes, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    with open_place(tmp_path_factory.mktemp("real")) as found:
        yield found


@pytest.fixture(autouse=True)
def _threads():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def here(place, folder: Path, faults: dict[int, dict[str, str]] | None = None, **keys):
    """The weights of the same federation in this process; `faults` are by round and party: "dead",
    "late", or one of the spoilt app's."""
    folder.mkdir()
    path = folder / "config.json"
    path.write_text(json.dumps(config(folder, place.names, place.names, place.folder, **keys)))
    sets = [str(tuple(f"{n}_{split}" for n in place.names)) for split in ("train", "test")]
    opts = ["DATASETS.TRAIN", sets[0], "DATASETS.TEST", sets[1]]
    cfg = setup(argparse.Namespace(config_file=str(path), opts=opts))

    def fault_of(name, request):
        if request.metadata.message_type != TRAIN:
            return None
        return (faults or {}).get(read(request).round, {}).get(name)

    def hears(name, request):
        return fault_of(name, request) != "dead"

    def spoil(name, request, reply):
        fault = fault_of(name, request)
        if fault is None:
            return reply
        return None if fault == "late" else answer(request, spoilt(read(reply), fault))

    try:
        strategy = build_strategy(cfg)
        grid = LocalGrid([open_party(cfg, name) for name in place.names], spoil, hears)
        result = run_rounds(strategy, strategy, grid, initial_weights(cfg), cfg.KD3A.EPOCHS)
        return result.arrays.to_torch_state_dict()
    finally:
        unregister_datasets(
            {f"{n}_{s}" for n in place.names for s in ("train", "test")}
            & set(DatasetCatalog.list())
        )


def assert_same(found, expected):
    """Bit by bit: the same steps on the same machine, one thread each."""
    assert found.keys() == expected.keys()
    assert [name for name in found if not torch.equal(found[name], expected[name])] == []


def test_kd3a_reaches_the_very_weights_and_nothing_but_weights_crosses(place, tmp_path):
    keys = {"STRATEGY": "kd3a", "TARGET": "c", "GATE": [0.2, 0.3]}
    output = place.fresh(**keys)
    place.recorder.streams.clear()
    lines = place.finish(output)
    assert [line["faults"] for line in lines] == [[], []]
    assert sum(lines[-1]["shares"].values()) == pytest.approx(1)
    assert_same(weights(output), here(place, tmp_path / "here", **keys))
    check_traffic(place, objects(place.recorder), weights(output))


def check_traffic(place, found, model):
    """Every array is one of the model's, every list has a number for each source, and neither an
    image nor a label vector is among the bytes."""
    shapes = {tuple(value.shape) for value in model.values()}
    images = {name: dict(np.load(place.folder / name / "own.npz")) for name in place.names}
    arrays = 0
    for who in ("party", "coordinator"):
        kinds = {get_object_type_from_object_content(content) for content in found[who]}
        assert kinds <= {
            *("Message", "RecordDict", "Array", "ArrayChunk", "ArrayRecord"),
            *("MetricRecord", "ConfigRecord"),
        }
        for content in found[who]:
            body = content.partition(b"\x00")[2]
            kind = get_object_type_from_object_content(content)
            if kind == "Array":
                arrays += 1
                assert tuple(json.loads(body)["shape"]) in shapes
            if kind == "MetricRecord":
                check_numbers(body, len(place.names) - 1)
            if kind == "ConfigRecord":
                assert len(body) < 200
            for own in images.values():
                assert own["images"][0].tobytes() not in content
                assert (own["images"][0] / 255).astype(np.float32).tobytes() not in content
                for dtype in (np.uint8, np.int32, np.int64, np.float32):
                    # Sixteen labels in a row: in a model they would be there by no accident.
                    assert own["labels"][:16].astype(dtype).tobytes() not in content
    # Two rounds; in each, two sources and the target send a model.
    assert arrays > 2 * 3 * len(model)


def check_numbers(body: bytes, sources: int) -> None:
    from flwr.proto.recorddict_pb2 import MetricRecord

    for item in MetricRecord.FromString(body).items:
        kind = item.value.WhichOneof("value")
        if kind.endswith("list"):
            assert len(getattr(item.value, kind).vals) <= sources, item.key


def test_spoilt_updates_are_named_and_not_used(place, tmp_path):
    faults = {
        1: {"b": "NaN", "c": "another shape"},
        2: {"a": "another round", "b": "an empty update"},
    }
    output = place.fresh()
    for name in "abc":
        place.tell(name, {number: who[name] for number, who in faults.items() if name in who})
    lines = place.finish(output)
    said = [{fault["party"]: fault["what"] for fault in line["faults"]} for line in lines]
    assert said[0].keys() == {"b", "c"} and said[1].keys() == {"a", "b"}
    assert "NaN" in said[0]["b"] and "classifier.bias" in said[0]["c"]
    assert "of round 1" in said[1]["a"] and "lacks" in said[1]["b"]
    assert_same(weights(output), here(place, tmp_path / "here", faults))


def absent(lines, what):
    """What was wrong with whom, by round: `what` with those that have no share in the average."""
    return {line["round"]: {n: what for n in {*"abc"} - line["shares"].keys()} for line in lines}


def named(line):
    return {fault["party"] for fault in line["faults"]}


def test_a_party_that_is_slow_beyond_the_deadline_is_named_and_its_late_answer_not_used(
    place, tmp_path
):
    deadline = place.deadline()
    output = place.fresh(DEADLINE=deadline)
    place.tell("b", {1: "wait"})
    with place.run(output) as run:
        place.wait_for(lambda: history(output), "round 1", run)
        assert place.was_asked("b", 1)
        place.release("b")  # its answer of round 1 comes while round 2 is on
        lines = place.finished(output, run, 2)
    told = {fault["party"]: fault["what"] for fault in lines[0]["faults"]}
    assert told["b"].startswith(f"no answer within {deadline} s")
    assert lines[1]["shares"].keys() == {*"abc"} and lines[1]["faults"] == []
    assert_same(weights(output), here(place, tmp_path / "here", absent(lines, "late")))


def test_a_party_that_dies_in_mid_round_is_named_and_taken_in_again_when_it_comes_back(
    place, tmp_path
):
    output = place.fresh(EPOCHS=4, EVALUATE_EVERY=4, DEADLINE=place.deadline())
    place.tell("c", {2: "wait"})
    with place.run(output) as run:
        place.wait_for(lambda: place.was_asked("c", 2), "round 2 of c", run)
        place.parties["c"].kill()
        place.tell("c", {})
        place.start("c")
        lines = place.finished(output, run, 4)
    assert named(lines[0]) == set()
    assert "c" in named(lines[1]) and "c" not in lines[1]["shares"]
    assert named(lines[3]) == set() and lines[3]["shares"].keys() == {*"abc"}
    expected = here(place, tmp_path / "here", absent(lines, "dead"), EPOCHS=4, EVALUATE_EVERY=4)
    assert_same(weights(output), expected)


def test_a_coordinator_that_is_killed_goes_on_from_its_checkpoint(place, tmp_path):
    output = place.fresh(EPOCHS=3, EVALUATE_EVERY=3)
    place.tell("a", {2: "wait"})
    with place.run(output) as run:
        place.wait_for(lambda: place.was_asked("a", 2), "round 2 of a", run)
        place.kill_coordinator(run)
    assert torch.load(output / CHECKPOINT, weights_only=True)["round"] == 1
    before = history(output)
    place.tell("a", {})
    place.start_coordinator()
    lines = place.finish(output, rounds=3)
    assert lines[:1] == before  # which tells its seconds: it is not done again
    assert [line["faults"] for line in lines] == [[], [], []]
    assert_same(weights(output), here(place, tmp_path / "here", EPOCHS=3, EVALUATE_EVERY=3))
