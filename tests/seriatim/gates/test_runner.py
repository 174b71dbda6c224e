import json
import logging
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import BACKBONE_REGISTRY, META_ARCH_REGISTRY
from detectron2.utils.events import get_event_storage

from dataset_tools.errors import GateFailed, InputError
from seriatim import gates
from seriatim.engine.state import plain_numbers
from seriatim.gates import blind, lr, overfit
from seriatim.gates.base import Gate
from seriatim.gates.context import Context
from seriatim.gates.fingerprint import sources, unchanged
from seriatim.gates.runner import choose, make_gate, require
from seriatim.gates.testing import assert_gates
from seriatim.gates.verdict import Cause, Finding, Status, Verdict

from ..engine.support import ROOT, command, load, write_config
from .pipelines import pipeline
from .test_inputs import OtherChannels
from .test_oracle import trainer_with


def test_gates_run_in_their_order_whatever_the_order_they_are_named_in():
    assert choose("overfit1,data,lr") == ["data", "overfit1", "lr"]
    assert choose("all") == list(gates.ORDER) and choose("off") == []
    assert set(choose("fast")) < set(gates.ORDER)
    with pytest.raises(InputError, match=r"oracel.*Give all"):
        choose("oracel")


def test_every_gate_says_what_it_asks():
    for name in gates.ORDER:
        gate = make_gate(name)
        assert gate.name == name and gate.question.endswith("?")


def test_a_verdict_is_remembered_until_something_it_depends_on_changes(tmp_path):
    cfg = load(write_config(tmp_path))
    first = gates.run(cfg, "data,oracle")
    assert [v.cached for v in first] == [False, False]
    assert [v.cached for v in gates.run(cfg, "data,oracle")] == [True, True]
    assert [v.cached for v in gates.run(cfg, "data", fresh=True)] == [False]
    slower = load(write_config(tmp_path, SOLVER__BASE_LR=0.01))
    assert all(v.cached for v in gates.run(slower, "data,oracle"))
    larger = load(write_config(tmp_path, INPUT__MIN_SIZE_TEST=96))
    assert [v.cached for v in gates.run(larger, "data,oracle")] == [True, False]
    labels = tmp_path / "val" / "shapes.json"
    content = json.loads(labels.read_text())
    content["annotations"][0]["bbox"][2] += 1
    labels.write_text(json.dumps(content))
    again = load(write_config(tmp_path, INPUT__MIN_SIZE_TEST=96))
    assert not any(v.cached for v in gates.run(again, "data,oracle"))


@pytest.mark.slow
def test_a_verdict_is_remembered_by_another_process(tmp_path):
    config = write_config(tmp_path)
    words = [sys.executable, "-m", "seriatim.gates", "--config-file", config, "--gates", "oracle"]
    first, second = (
        subprocess.run(words, cwd=ROOT, capture_output=True, text=True).stdout for _ in range(2)
    )
    assert "known" not in first and "known" in second
    cfg = load(config)  # this process has other modules loaded, and another main program
    assert gates.run(cfg, "oracle")[0].cached


# What each gate's verdict depends on, and what not. Nobody declares it: keys are seen to be read.
MODEL = ["MODEL.TIMM.NAME", "MODEL.FPN.OUT_CHANNELS", "MODEL.RETINANET.PRIOR_PROB"]
TRAINING = ["SOLVER.BASE_LR", "SERIATIM.SOLVER.OPTIMIZER", "SOLVER.WEIGHT_DECAY", *MODEL]
DEPENDS = {
    "data": (
        ["DATASETS.TEST"],
        ["SOLVER.BASE_LR", "INPUT.MIN_SIZE_TRAIN", "SERIATIM.AUG.HFLIP", *MODEL],
    ),
    "oracle": (
        ["INPUT.MIN_SIZE_TEST", "TEST.DETECTIONS_PER_IMAGE", "SERIATIM.EVAL.MAX_DETECTIONS"],
        ["SOLVER.BASE_LR", "SOLVER.MAX_ITER", "SERIATIM.AUG.HFLIP"],
    ),
    "inputs": (
        ["INPUT.FORMAT", "INPUT.MIN_SIZE_TRAIN", "MODEL.PIXEL_MEAN", "SERIATIM.AUG.ENABLED"],
        ["SOLVER.BASE_LR", "SOLVER.MAX_ITER", "SERIATIM.EVAL.MAX_DETECTIONS"],
    ),
    "init": (MODEL, ["SOLVER.BASE_LR", "SOLVER.MAX_ITER", "SERIATIM.EVAL.MAX_DETECTIONS"]),
    "independence": (MODEL, ["SOLVER.BASE_LR", "SERIATIM.EVAL.MAX_DETECTIONS"]),
    "gradients": ([*TRAINING, "SOLVER.MAX_ITER"], ["SERIATIM.EVAL.MAX_DETECTIONS"]),
    "repeat": ([*TRAINING, "SERIATIM.EVAL.MAX_DETECTIONS"], []),
    "blind": (TRAINING, ["SOLVER.MAX_ITER", "SERIATIM.AUG.HFLIP"]),
    "overfit1": (TRAINING, ["SOLVER.MAX_ITER", "SERIATIM.AUG.HFLIP", "SOLVER.IMS_PER_BATCH"]),
    "overfit10": (TRAINING, ["SOLVER.MAX_ITER", "SERIATIM.AUG.HFLIP", "SOLVER.IMS_PER_BATCH"]),
    "lr": (TRAINING, ["SOLVER.MAX_ITER", "SERIATIM.AUG.HFLIP", "SOLVER.IMS_PER_BATCH"]),
}
INDIFFERENT = ["OUTPUT_DIR", "DATALOADER.NUM_WORKERS", "SERIATIM.HOOKS.LOG_PERIOD"]


def shorten(monkeypatch):
    """The gates that train, in a few steps."""
    for gate in (overfit.Overfit1Gate, overfit.Overfit10Gate):
        monkeypatch.setattr(gate, "steps", 1)
    monkeypatch.setattr(overfit, "LOOK_EVERY", 1)
    monkeypatch.setattr(blind, "STEPS", (2,))
    monkeypatch.setattr(lr, "STEPS", 9)


@pytest.mark.parametrize("name", gates.ORDER)
def test_keys_that_invalidate_a_verdict_and_keys_that_do_not(tmp_path, name, monkeypatch):
    shorten(monkeypatch)
    gates.run(load(write_config(tmp_path, SOLVER__BASE_LR=0.01)), name)
    read = json.loads((tmp_path / "output" / "gates" / "gates.json").read_text())[name]["config"]
    yes, no = DEPENDS[name]
    assert set(yes) <= set(read)
    assert not set(read) & {*no, *INDIFFERENT}


def test_the_source_of_a_user_s_module_counts(tmp_path, monkeypatch):
    module = tmp_path / "my_own_mapper.py"
    module.write_text("FLIP = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    import my_own_mapper  # noqa: F401

    inputs, data = sources(make_gate("inputs")), sources(make_gate("data"))
    assert str(module) in inputs and unchanged(inputs)
    module.write_text("FLIP = 2\n")
    assert not unchanged(inputs)
    assert str(module) in data
    del sys.modules["my_own_mapper"]


def test_after_a_failure_the_later_gates_are_not_asked(tmp_path):
    context = pipeline(tmp_path, "retinanet", trainer_with(OtherChannels))
    verdicts = gates.run(context.cfg, "inputs,init", trainer_class=context.trainer_class)
    assert [v.status for v in verdicts] == [Status.FAIL, Status.SKIP]
    assert "inputs failed" in verdicts[1].summary
    page = (tmp_path / "output" / "gates" / "index.html").read_text()
    assert "channels" in page and "data:image/png;base64," in page
    assert "Gate <b>inputs</b> failed" in page and "Every box must lie on its object" in page
    with pytest.raises(GateFailed, match=r"(?s)Measured.*Expected.*likeliest causes.*inputs.png"):
        require(verdicts, tmp_path / "output" / "gates")


def test_a_failed_verdict_is_not_remembered(tmp_path):
    context = pipeline(tmp_path, "retinanet", trainer_with(OtherChannels))
    for _ in range(2):
        verdict = gates.run(context.cfg, "inputs", trainer_class=context.trainer_class)[0]
        assert verdict.status is Status.FAIL and not verdict.cached


def test_assertion_for_a_project_s_own_tests(tmp_path):
    assert_gates(write_config(tmp_path), "data,oracle", output=tmp_path / "gates_output")
    with pytest.raises(AssertionError, match="channels"):
        assert_gates(
            tmp_path / "config.yaml",
            "inputs",
            output=tmp_path / "gates_output",
            trainer_class=trainer_with(OtherChannels),
        )


def test_json_gives_a_verdict_back():
    finding = Finding(
        "measured", "expected", [Cause("what", "where"), Cause("else")], pictures=["a.png"]
    )
    verdict = Verdict("data", "q?", Status.FAIL, "s", [finding], {"n": 1.5}, ["a.png"], 2.0)
    assert Verdict.from_dict(json.loads(json.dumps(verdict.as_dict()))) == verdict


class LeavesTraces(Gate):
    name = "data"
    question = "does it leave traces?"

    def examine(self, context, folder):
        for seed in (random.seed, np.random.seed, torch.manual_seed):
            seed(99)
        torch.backends.cudnn.benchmark = not torch.backends.cudnn.benchmark
        torch.backends.cudnn.deterministic = not torch.backends.cudnn.deterministic
        torch.use_deterministic_algorithms(True)
        context.dataset_of(context.train_records[:1], context.cfg.DATASETS.TRAIN[0], "left")
        MetadataCatalog.get("left behind")
        return "done"


def a_storage_is_open():
    try:
        return bool(get_event_storage())
    except AssertionError:
        return False


def everything_global():
    """What a gate could change behind the back of the training that follows."""
    _, keys, *rest = np.random.get_state()
    cudnn = torch.backends.cudnn
    return {
        "python": random.getstate(),
        "numpy": (keys.tolist(), rest),
        "torch": torch.get_rng_state().tolist(),
        "flags": (cudnn.benchmark, cudnn.deterministic, cudnn.enabled, torch.is_grad_enabled()),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "numbers": (
            torch.get_default_dtype(),
            torch.get_num_threads(),
            torch.is_inference_mode_enabled(),
        ),
        "catalogs": (sorted(DatasetCatalog.list()), sorted(MetadataCatalog.list())),
        "metadata": {n: repr(MetadataCatalog.get(n).as_dict()) for n in MetadataCatalog.list()},
        "registries": [
            sorted(name for name, _ in registry)
            for registry in (META_ARCH_REGISTRY, BACKBONE_REGISTRY)
        ],
        "storage": a_storage_is_open(),
        "logging": logging.root.manager.disable,
        "environment": dict(os.environ),
    }


class Breaks(Gate):
    name = "data"
    question = "does it break?"

    def examine(self, context, folder):
        return [][1]


def test_a_gate_that_breaks_says_so_and_does_not_stop_the_training(tmp_path):
    verdict = Breaks().run(Context(load(write_config(tmp_path))), tmp_path)
    assert verdict.status is Status.WARN and "IndexError" in verdict.summary
    assert "examine" in (tmp_path / "traceback.txt").read_text()


def test_what_gates_do_leaves_no_trace(tmp_path):
    context = Context(load(write_config(tmp_path)))
    before = everything_global()
    LeavesTraces().run(context, tmp_path)
    assert everything_global() == before


def test_no_gate_leaves_a_trace(tmp_path, monkeypatch):
    shorten(monkeypatch)
    context = Context(load(write_config(tmp_path, SOLVER__BASE_LR=0.01)))
    before = everything_global()
    for name in gates.ORDER:
        make_gate(name).run(context, tmp_path)
        assert everything_global() == before, name


@pytest.mark.parametrize("name", ["init", "independence", "gradients"])
def test_a_model_is_as_before(tmp_path, name):
    """Weights, statistics, modes and plain attributes, such as a normaliser of the loss."""
    context = Context(load(write_config(tmp_path)))
    model = context._pristine
    state = {key: value.clone() for key, value in model.state_dict().items()}
    plain, modes = dict(plain_numbers(model)), [m.training for m in model.modules()]
    make_gate(name).run(context, tmp_path)
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert dict(plain_numbers(model)) == plain
    assert [m.training for m in model.modules()] == modes


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_training_is_the_same_with_gates_and_without(tmp_path):
    config = write_config(tmp_path, SOLVER__MAX_ITER=3, DATALOADER__NUM_WORKERS=0)
    weights = []
    for which in ("off", "fast"):
        output = tmp_path / which
        words = ["--config-file", config, "--gates", which, "OUTPUT_DIR", output]
        done = subprocess.run(command(words), cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        weights.append(torch.load(output / "model_final.pth", weights_only=True)["model"])
    assert (tmp_path / "fast" / "gates" / "gates.json").exists()
    for name, value in weights[0].items():
        assert torch.equal(value, weights[1][name]), name


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_failed_gate_stops_train_net_with_exit_code_3(tmp_path):
    config = write_config(tmp_path, MODEL__PIXEL_MEAN=[0.5] * 3, MODEL__PIXEL_STD=[0.2] * 3)
    words = ["--config-file", config, "--gates", "inputs"]
    done = subprocess.run(command(words), cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 3, done.stdout + done.stderr
    assert "Traceback" not in done.stderr and "PIXEL_MEAN" in done.stderr
    assert not (tmp_path / "output" / "model_final.pth").exists()


def test_a_gate_is_written_with_what_its_modules_import():
    def used(name):
        return {Path(file).stem for file in sources(make_gate(name)) if "seriatim/gates" in file}

    assert {"gradients", "updates", "steps", "context", "base"} <= used("gradients")
    assert {"inputs", "arrivals", "samples", "geometry"} <= used("inputs")
    assert not {"lr", "overfit", "inputs"} & used("gradients")
    assert not {"gradients", "oracle", "practice"} & used("data")
