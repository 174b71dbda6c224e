"""The trainer as a whole, in this process."""

import json

import torch
from detectron2.checkpoint import DetectionCheckpointer

from seriatim.engine.checkpointer import load_evaluated_weights
from seriatim.engine.trainer import Trainer

from .support import load, write_config


def train(cfg, resume=False):
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=resume)
    trainer.train()
    return trainer


def test_a_run_leaves_what_it_promises(tmp_path):
    cfg = load(write_config(tmp_path, SERIATIM__SOLVER__EMA_DECAY=0.9, TEST__EVAL_PERIOD=3))
    trainer = train(cfg)
    output = tmp_path / "output"
    assert (output / "last_checkpoint").read_text() == "model_0000005.pth"
    lines = [json.loads(line) for line in (output / "metrics.json").read_text().splitlines()]
    names = {name for line in lines for name in line}
    assert {
        "total_loss",
        "loss_cls",
        "lr",
        "gradient_norm",
        "bbox/AP",
        "memory_mib",
        "images_per_second",
        "data_time_share",
        "update_ratio/backbone.bottom_up",
    } <= names
    # model_final.pth is the averaged weights, and Detectron2's own checkpointer reads it.
    final = torch.load(output / "model_final.pth", weights_only=True)["model"]
    average = trainer.average.model.state_dict()
    assert all(torch.equal(final[name], average[name]) for name in average)
    assert not all(
        torch.equal(final[name], value) for name, value in trainer.bare_model.state_dict().items()
    )
    plain = Trainer.build_model(cfg)
    DetectionCheckpointer(plain).load(str(output / "model_final.pth"))
    assert all(torch.equal(plain.state_dict()[name], average[name]) for name in average)
    # A training checkpoint is evaluated by its average too.
    again = Trainer.build_model(cfg)
    load_evaluated_weights(again, output / "model_0000005.pth")
    assert all(torch.equal(again.state_dict()[name], average[name]) for name in average)


def test_a_resumed_run_equals_an_unbroken_one(tmp_path):
    """In one process; test_resume.py kills a real one."""
    keys = {
        "SERIATIM__SOLVER__EMA_DECAY": 0.9,
        "SERIATIM__SOLVER__ACCUMULATE": 2,
        "SERIATIM__HOOKS__VALIDATION_LOSS_PERIOD": 2,
        "SERIATIM__HOOKS__PICTURE_PERIOD": 2,
        "MODEL__TIMM__DROP_PATH": 0.2,  # draws numbers in every step
        "TEST__EVAL_PERIOD": 2,
        "TEST__PRECISE_BN__ENABLED": True,
        "TEST__PRECISE_BN__NUM_ITER": 2,
    }
    path = write_config(tmp_path, **keys)
    whole = train(load(path, "OUTPUT_DIR", str(tmp_path / "whole")))
    folder = tmp_path / "broken"
    first = Trainer(load(path, "OUTPUT_DIR", str(folder)))
    first.resume_or_load(resume=False)
    first.max_iter = 3  # as a kill: the schedule is that of six steps
    first.train()
    (folder / "model_0000002.pth").unlink()
    (folder / "last_checkpoint").write_text("model_0000001.pth")
    second = Trainer(load(path, "OUTPUT_DIR", str(folder), "--resume"))
    second.resume_or_load(resume=True)
    assert second.start_iter == 2
    second.train()
    for a, b in (
        (whole.bare_model.state_dict(), second.bare_model.state_dict()),
        (whole.average.model.state_dict(), second.average.model.state_dict()),
    ):
        assert all(torch.equal(a[name], b[name]) for name in a)
    assert whole.bare_model.loss_normalizer == second.bare_model.loss_normalizer
    states = [
        torch.load(tmp_path / name / "model_0000005.pth", weights_only=True)["trainer"]["hooks"]
        for name in ("whole", "broken")
    ]
    assert same(*states)


def same(one, other) -> bool:
    """Whether two nested states are equal, tensors bit for bit."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


def test_hooks_can_end_the_training(tmp_path):
    cfg = load(
        write_config(tmp_path),
        *("TEST.EVAL_PERIOD", "1", "SERIATIM.HOOKS.EARLY_STOPPING_PATIENCE", "2"),
        *("SOLVER.BASE_LR", "1e-12", "SOLVER.MAX_ITER", "20"),
    )
    trainer = train(cfg)
    assert trainer.iter == trainer.max_iter == 3  # the first is a best, or never a number
    assert (tmp_path / "output" / "model_final.pth").exists()
    assert (tmp_path / "output" / "last_checkpoint").read_text() == "model_0000002.pth"
    # Resumed, it knows that it had stopped.
    assert train(cfg, resume=True).iter == 3
