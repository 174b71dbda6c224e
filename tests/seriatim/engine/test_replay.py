"""Steps that are not finite: the dump, and what replaying it says."""

import os
import subprocess
import sys

import pytest
import torch

from dataset_tools.errors import InputError
from seriatim.engine.dump import Dump
from seriatim.engine.train_step import NonFiniteError
from seriatim.engine.trainer import Trainer
from seriatim.replay import replay, restore

from .support import ROOT, load, write_config

FAILING = 3  # the step that fails


def train_until_it_fails(folder, fault, trainer_class=Trainer, **changes):
    """The trainer, the error and the dump of a training to which `fault` (trainer) is done."""
    config = write_config(folder, SOLVER__CHECKPOINT_PERIOD=0, **changes)

    class Faulty(trainer_class):
        def before_step(self):
            if self.iter == FAILING:
                fault(self)
            super().before_step()

    trainer = Faulty(load(config))
    with pytest.raises(NonFiniteError) as caught:
        trainer.train()
    path = folder / "output" / "watch" / f"step_{FAILING:07d}.pth"
    assert f"python -m seriatim.replay {path}" in str(caught.value)
    return trainer, caught.value, path


def overflow(module):
    """Finite weights whose output is not finite."""

    def fault(trainer):
        with torch.no_grad():
            trainer.bare_model.get_submodule(module).weight.fill_(1e38)

    return fault


def test_a_module_that_overflows_is_named(tmp_path):
    module = "head.cls_subnet.0"
    _, error, path = train_until_it_fails(tmp_path, overflow(module))
    assert "loss_cls" in str(error) and "Images of the batch" in str(error)
    found = replay(Dump.load(path))
    assert found.failed
    assert f"first module whose output is not finite is {module} (Conv2d)" in found.lines[0]
    assert any("loss_cls" in line for line in found.lines)
    assert "bit for bit" in found.lines[-1]


def test_weights_that_were_not_finite_before_are_told_apart(tmp_path):
    def fault(trainer):
        with torch.no_grad():
            trainer.bare_model.get_parameter("head.bbox_pred.bias")[0] = float("nan")

    _, _, path = train_until_it_fails(tmp_path, fault)
    found = replay(Dump.load(path))
    assert "head.bbox_pred.bias" in found.lines[0] and "earlier step" in found.lines[0]


def test_an_image_that_is_not_finite_is_named(tmp_path):
    class Bright(Trainer):
        @classmethod
        def build_train_loader(cls, cfg, start_iteration=0):
            for number, batch in enumerate(super().build_train_loader(cfg, start_iteration)):
                if number == FAILING:
                    batch[1]["image"] = batch[1]["image"].float()
                    batch[1]["image"][0, 0, 0] = float("inf")
                yield batch

    _, _, path = train_until_it_fails(tmp_path, lambda trainer: None, Bright)
    dump = Dump.load(path)
    name = dump.batches[0][1]["file_name"]
    assert f"the image of {name} is not finite" in replay(dump).lines[0]


def test_a_gradient_that_is_not_finite_with_finite_losses(tmp_path):
    class Root(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):
            return gradient * float("inf")

    def fault(trainer):
        layer = trainer.bare_model.get_submodule("head.bbox_pred")
        layer.register_forward_hook(lambda module, inputs, output: Root.apply(output))

    _, error, path = train_until_it_fails(tmp_path, fault)
    assert "gradient became" in str(error)

    class Again(Trainer):
        @classmethod
        def build_model(cls, cfg):
            model = super().build_model(cfg)
            model.get_submodule("head.bbox_pred").register_forward_hook(
                lambda module, inputs, output: Root.apply(output)
            )
            return model

    found = replay(Dump.load(path), Again)
    assert found.failed and "the losses are finite" in found.lines
    assert any("backwards" in line and "head.bbox_" in line for line in found.lines)
    assert any(line.startswith("the step was finite") for line in replay(Dump.load(path)).lines)


def test_the_step_is_restored_to_the_last_bit(tmp_path):
    """Dropped paths, BatchNorm, the loss normaliser and the optimizer: as the step found them."""
    kept = {}

    def fault(trainer):
        kept["model"] = {k: v.clone() for k, v in trainer.bare_model.state_dict().items()}
        kept["normalizer"] = trainer.bare_model.loss_normalizer
        kept["optimizer"] = [s["exp_avg"].clone() for s in trainer.optimizer.state.values()]
        trainer.train_step.compute_losses = poisoned(trainer.train_step.compute_losses)

    def poisoned(compute):
        def losses(model, batch):
            found = compute(model, batch)
            kept["losses"] = {k: v.detach().clone() for k, v in found.items()}
            return found | {"loss_poison": torch.tensor(float("nan"))}

        return losses

    _, _, path = train_until_it_fails(
        tmp_path, fault, MODEL__TIMM__DROP_PATH=0.3, SERIATIM__SOLVER__ACCUMULATE=1
    )
    torch.manual_seed(99)
    dump = Dump.load(path)
    trainer = restore(dump)
    state = trainer.bare_model.state_dict()
    assert all(torch.equal(state[name], kept["model"][name]) for name in state)
    assert trainer.bare_model.loss_normalizer == kept["normalizer"]
    moments = [s["exp_avg"] for s in trainer.optimizer.state.values()]
    assert all(map(torch.equal, moments, kept["optimizer"]))
    from detectron2.utils.events import EventStorage

    with EventStorage(FAILING):
        losses = trainer.compute_losses(trainer.model, dump.batches[0])
    assert losses.keys() == {"loss_cls", "loss_box_reg"}
    assert all(torch.equal(losses[k], kept["losses"][k]) for k in losses)
    found = replay(dump)  # the poison was not the model's
    assert not found.failed and "finite this time" in found.lines[-1]


def test_a_model_that_stops_by_itself_leaves_a_dump_too(tmp_path):
    def fault(trainer):
        def stop(module, inputs):
            raise FloatingPointError("Predicted boxes or scores contain Inf/NaN.")

        trainer.bare_model.register_forward_pre_hook(stop)

    _, error, path = train_until_it_fails(tmp_path, fault)
    assert "Predicted boxes" in str(error) and "Images of the batch" in str(error)
    assert Dump.load(path).losses == [None]


def test_the_command(tmp_path):
    _, _, path = train_until_it_fails(tmp_path, overflow("head.bbox_subnet.0"))
    command = [sys.executable, "-m", "seriatim.replay"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}

    def run(*words):
        return subprocess.run(
            [*command, *words], cwd=ROOT, env=environment, capture_output=True, text=True
        )

    done = run(str(path))
    assert done.returncode == 0, done.stderr
    assert "head.bbox_subnet.0 (Conv2d)" in done.stdout and f"step {FAILING}" in done.stdout
    bad = tmp_path / "bad.pth"
    torch.save({"x": subprocess.Popen}, bad)
    for words in ([str(tmp_path / "none.pth")], [str(bad)], [str(path), "--trainer", "nowhere:X"]):
        done = run(*words)
        assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr


def test_a_dump_of_another_model_is_refused(tmp_path):
    _, _, path = train_until_it_fails(tmp_path, overflow("head.bbox_subnet.0"))
    dump = Dump.load(path)
    del dump.model["head.bbox_pred.bias"]
    with pytest.raises(InputError, match="bbox_pred"):
        replay(dump)
