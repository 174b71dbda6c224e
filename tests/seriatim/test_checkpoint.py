"""Checkpoints: what loads, what is said about it, and what must never run."""

from __future__ import annotations

import logging
import os
import pickle
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling.backbone import build_resnet_backbone
from torch import nn

from dataset_tools.errors import InputError
from seriatim.checkpoint import SafeCheckpointer, group_names, read_checkpoint


class Model(nn.Module):
    """A thin ResNet-50 with Detectron2's names, deep inside a model, and a head."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        cfg = get_cfg()
        cfg.MODEL.RESNETS.STEM_OUT_CHANNELS = cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 8
        cfg.MODEL.RESNETS.WIDTH_PER_GROUP = 2
        cfg.MODEL.RESNETS.NORM = "BN"
        self.backbone = nn.Module()
        self.backbone.bottom_up = build_resnet_backbone(cfg, ShapeSpec(channels=3))
        self.head = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, classes))
        self.register_buffer("pixel_mean", torch.ones(3))


def c2_name(name: str) -> str:
    """Detectron2's name of a ResNet's tensor as Caffe2 had it."""
    kind = {"weight": "w", "bias": "b", "running_mean": "rm", "running_var": "riv"}
    parts = name.split(".")
    suffix = kind[parts[-1]]
    if "norm" in parts:
        suffix = f"bn_{'s' if suffix == 'w' else suffix}"
    if parts[0] == "stem":
        return f"conv1_{suffix}" if "norm" not in parts else f"res_conv1_{suffix}"
    branch = {"shortcut": "branch1", "conv1": "branch2a", "conv2": "branch2b", "conv3": "branch2c"}
    return f"{parts[0]}_{parts[1]}_{branch[parts[2]]}_{suffix}"


def c2_weights(seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    weights = {}
    for name, tensor in Model().backbone.bottom_up.state_dict().items():
        if not name.endswith(("num_batches_tracked", "running_mean", "running_var")):
            weights[c2_name(name)] = rng.normal(size=tensor.shape).astype(np.float32)
    weights["fc1000_w"] = rng.normal(size=(1000, 64)).astype(np.float32)
    weights["conv1_w_momentum"] = np.zeros(1, np.float32)
    return weights


def dump(path, value, protocol=2):
    path.write_bytes(pickle.dumps(value, protocol=protocol))
    return path


def complaint(path, model=None, **checkpointables):
    with pytest.raises(InputError) as error:
        SafeCheckpointer(model or Model(), **checkpointables).load(str(path))
    assert str(path) in str(error.value)
    return str(error.value)


# The zoo's pickles


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize("blobs", [False, True])
def test_caffe2_weights_find_their_places(tmp_path, protocol, blobs, caplog):
    weights = c2_weights()
    content = {"blobs": weights, "cfg": "text"} if blobs else weights
    path = dump(tmp_path / "R-50.pkl", content, protocol)
    model, theirs = Model(), Model()
    checkpointer = SafeCheckpointer(model)
    with caplog.at_level(logging.INFO):
        checkpointer.load(str(path))
    DetectionCheckpointer(theirs).load(str(path))
    matched = set(checkpointer.report.matched)
    assert len(matched) == len(weights) - 2
    for name, tensor in theirs.state_dict().items():
        if name in matched:
            assert torch.equal(tensor, model.state_dict()[name]), name
    stem = model.state_dict()["backbone.bottom_up.stem.conv1.weight"]
    np.testing.assert_array_equal(stem.numpy(), weights["conv1_w"])
    assert checkpointer.report.unused == ("fc1000.weight",)
    assert "head.0.weight" in checkpointer.report.initial
    assert not checkpointer.report.reshaped
    assert "head.* (4 tensors)" in caplog.text
    assert "Names in Model" not in caplog.text


def test_detectron2_s_own_pickles(tmp_path):
    source = Model()
    weights = {k: v.numpy() for k, v in source.state_dict().items()}
    content = {"model": weights, "__author__": "someone", "iteration": 5}
    model = Model()
    checkpointer = SafeCheckpointer(model)
    rest = checkpointer.load(str(dump(tmp_path / "final.pkl", content)))
    assert rest["iteration"] == 5
    assert checkpointer.report.complete
    assert checkpointer.report.share == 1
    for name, tensor in source.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor)


def test_shape_mismatch_by_heuristics_is_reported(tmp_path):
    weights = c2_weights()
    weights["conv1_w"] = np.zeros((8, 4, 7, 7), np.float32)
    checkpointer = SafeCheckpointer(Model())
    checkpointer.load(str(dump(tmp_path / "a.pkl", weights)))
    expected = ("backbone.bottom_up.stem.conv1.weight", (8, 4, 7, 7), (8, 3, 7, 7))
    assert checkpointer.report.reshaped == (expected,)
    assert expected[0] not in checkpointer.report.initial + checkpointer.report.matched


# What is more than data


class Evil:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("place", ["value", "key", "array", "author"])
def test_pickles_that_run_code_are_refused(tmp_path, place):
    target = tmp_path / "broken"
    evil = Evil(target)
    contents = {
        "value": {"a_w": evil},
        "key": {"model": {("a", evil): 1}, "__author__": "x"},
        "array": {"a_w": np.array([evil], dtype=object)},
        "author": {"model": {"a": np.zeros(2)}, "__author__": evil},
    }
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps(contents[place], protocol=2))
    assert "mkdir" in complaint(path)
    torch.save(contents[place], tmp_path / "a.pth")
    assert "refused" in complaint(tmp_path / "a.pth")
    assert not target.exists()


@pytest.mark.parametrize(
    "reduce",
    [
        b"cbuiltins\neval\n(S'1'\ntR.",
        b"cnumpy\nload\n(S'x'\ntR.",
        b"c_codecs\nencode\n(X\x01\x00\x00\x00aX\x03\x00\x00\x00hextR.",
        b"\x80\x04\x8c\x05numpy\x8c\x10core.records.open\x93.",
        b"\x80\x02cnumpy.core.multiarray\n__builtins__\n.",
    ],
)
def test_other_globals_are_refused(tmp_path, reduce):
    path = tmp_path / "a.pkl"
    path.write_bytes(reduce)
    assert "refused" in complaint(path)


def test_arrays_of_every_kind_load(tmp_path):
    model = OrderedDict(
        a=np.arange(6, dtype=np.float16).reshape(2, 3),
        b=np.asfortranarray(np.ones((3, 2))),
        c=np.array(3, dtype=np.int64),
        d=np.zeros((0, 4), dtype=bool),
    )
    for protocol in range(2, 6):
        path = dump(tmp_path / "a.pkl", {"model": model, "__author__": "me"}, protocol)
        loaded = read_checkpoint(path)["model"]
        for name, value in model.items():
            np.testing.assert_array_equal(loaded[name], value)
            assert loaded[name].dtype == value.dtype


# What is no checkpoint, or not a whole one


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.pth", b"", "is empty"),
        ("a.pth", b"<!DOCTYPE html>", "web page"),
        ("a.pkl", b"version https://git-lfs.github.com/spec/v1", "Git LFS"),
        ("a.pth", b"\x89PNG\r\n", "no checkpoint"),
        ("a.safetensors", b'\x10\0\0\0\0\0\0\0{"a": {}}', "safetensors"),
        ("a.pth", pickle.dumps([1, 2]), "cut off or damaged"),
    ],
)
def test_other_files_are_called_by_their_name(tmp_path, name, content, words):
    path = tmp_path / name
    path.write_bytes(content)
    message = complaint(path)
    assert words in message
    assert "\n" not in message


@pytest.mark.parametrize("share", [0.02, 0.5, 0.999])
@pytest.mark.parametrize("name", ["a.pth", "old.pth", "a.pkl"])
def test_truncated_files(tmp_path, name, share):
    path = tmp_path / name
    if name == "a.pkl":
        dump(path, c2_weights())
    else:
        state = {"model": Model().state_dict()}
        torch.save(state, path, _use_new_zipfile_serialization=name == "a.pth")
        if name == "old.pth":
            SafeCheckpointer(Model()).load(str(path))
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    message = complaint(path)
    assert "cut off or damaged" in message
    assert "\n" not in message


def test_a_file_that_is_not_there(tmp_path):
    assert "no checkpoint" in complaint(tmp_path / "none.pth")
    with pytest.raises(InputError, match="cannot be fetched"):
        SafeCheckpointer(Model()).load("detectron2://no/such.pkl?x://")


@pytest.mark.parametrize("content", [[1, 2], {"model": {}}, {"model": {"a": "text"}}, {"epoch": 3}])
def test_files_without_weights(tmp_path, content):
    torch.save(content, tmp_path / "a.pth")
    message = complaint(tmp_path / "a.pth")
    assert "holds" in message


def test_a_checkpoint_of_another_model(tmp_path):
    torch.save({"model": nn.Conv2d(1, 1, 1).state_dict()}, tmp_path / "a.pth")
    message = complaint(tmp_path / "a.pth")
    assert "another model: none of its 2 tensors (such as weight)" in message
    dump(tmp_path / "b.pkl", {"other_w": np.zeros(3, np.float32)})
    assert "another model" in complaint(tmp_path / "b.pkl")


# Fine-tuning and resuming


def test_fine_tuning_with_other_classes(tmp_path, caplog):
    torch.save({"model": Model(classes=80).state_dict()}, tmp_path / "a.pth")
    model = Model(classes=3)
    before = model.head[1].weight.clone()
    checkpointer = SafeCheckpointer(model)
    with caplog.at_level(logging.INFO):
        checkpointer.load(str(tmp_path / "a.pth"), checkpointables=[])
    report = checkpointer.report
    assert report.reshaped == (
        ("head.1.weight", (80, 8), (3, 8)),
        ("head.1.bias", (80,), (3,)),
    )
    assert torch.equal(model.head[1].weight, before)
    assert not report.initial
    assert not report.unused
    assert "head.1.weight: (80, 8) in the file, (3, 8) here" in caplog.text
    numbers = sum(t.numel() for t in model.state_dict().values())
    assert report.share == pytest.approx(1 - 27 / numbers)


@pytest.mark.parametrize("key", ["state_dict", "model_state_dict"])
def test_weights_under_other_names(tmp_path, key):
    torch.save({key: Model().state_dict(), "epoch": 3}, tmp_path / "a.pth")
    checkpointer = SafeCheckpointer(Model())
    checkpointer.load(str(tmp_path / "a.pth"))
    assert checkpointer.report.complete


def test_weights_of_a_distributed_model(tmp_path):
    state = {f"module.{k}": v for k, v in Model().state_dict().items()}
    torch.save({"model": state}, tmp_path / "a.pth")
    checkpointer = SafeCheckpointer(Model())
    checkpointer.load(str(tmp_path / "a.pth"))
    assert checkpointer.report.complete


def save(tmp_path, model):
    optimizer = torch.optim.AdamW(model.parameters())
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    SafeCheckpointer(model, str(tmp_path), optimizer=optimizer).save("last", iteration=7)
    return optimizer


def test_resuming_brings_everything_back(tmp_path):
    model = Model()
    optimizer = save(tmp_path, model)
    other = Model()
    fresh = torch.optim.AdamW(other.parameters())
    checkpointer = SafeCheckpointer(other, str(tmp_path), optimizer=fresh)
    rest = checkpointer.resume_or_load("", resume=True)
    assert rest["iteration"] == 7
    for name, tensor in model.state_dict().items():
        assert torch.equal(other.state_dict()[name], tensor)
    a, b = optimizer.state_dict()["state"], fresh.state_dict()["state"]
    assert all(torch.equal(a[i]["exp_avg"], b[i]["exp_avg"]) for i in a)


def test_resuming_another_model_is_refused(tmp_path):
    save(tmp_path, Model(classes=80))
    path = tmp_path / "last.pth"
    model = Model(classes=3)
    message = complaint(path, model, optimizer=torch.optim.AdamW(model.parameters()))
    assert "cannot be resumed" in message
    assert "head.1.weight" in message
    # Its weights may still be a start.
    SafeCheckpointer(model).load(str(path), checkpointables=[])


def test_resuming_another_optimizer_is_refused(tmp_path):
    save(tmp_path, Model())
    model = Model()
    optimizer = torch.optim.AdamW(list(model.parameters())[:5])
    message = complaint(tmp_path / "last.pth", model, optimizer=optimizer)
    assert "state of the optimizer does not fit" in message


def test_no_weights_is_no_error():
    checkpointer = SafeCheckpointer(Model())
    assert checkpointer.load("") == {}


def test_groups_are_whole_modules_only():
    universe = ["a.b.x", "a.b.y", "a.c", "d"]
    assert group_names(["a.b.x", "a.b.y"], universe) == ["a.b.* (2 tensors)"]
    assert group_names(["a.b.x"], universe) == ["a.b.x"]
    assert group_names(["a.b.x", "a.b.y", "a.c", "d"], universe) == ["a.* (3 tensors)", "d"]


def test_fine_tuning_from_a_path_object(tmp_path):
    torch.save({"model": Model().state_dict()}, tmp_path / "a.pth")
    SafeCheckpointer(Model()).load(Path(tmp_path / "a.pth"))
