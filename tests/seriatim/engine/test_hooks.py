"""The hooks, each on a trainer that is just big enough."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from detectron2.utils.events import EventStorage, get_event_storage
from torch import nn

from dataset_tools.errors import InputError
from seriatim.engine import hooks
from seriatim.engine.hooks.metric import is_better
from seriatim.engine.hooks.statistics import memory_mib
from seriatim.engine.hooks.validation_loss import loss_mode, mean_losses
from seriatim.engine.state import rng_state


class FakeTrainer:
    """Runs hooks without training anything, and notes what they ask for."""

    def __init__(self, *hooks, max_iter=6, start_iter=0):
        self.iter = self.start_iter = start_iter
        self.max_iter = max_iter
        self.saved, self.exported = [], []
        self.last_saved = -1
        self.cfg = SimpleNamespace(OUTPUT_DIR="output")
        self.model = nn.Linear(1, 1)
        self.hooks = hooks
        for hook in hooks:
            hook.trainer = self

    @property
    def finished(self):
        return self.iter >= self.max_iter

    def save_checkpoint(self):
        self.saved.append(self.iter)
        self.last_saved = self.iter

    def export(self, name, **extra):
        self.exported.append((name, extra))
        return f"{name}.pth"

    def run(self):
        with EventStorage(self.start_iter) as self.storage:
            self._all("before_train")
            while self.iter < self.max_iter:
                self.storage.iter = self.iter
                self._all("before_step")
                self._all("after_step")
                self.iter += 1
            self.storage.iter = self.iter
            self._all("after_train")
        return self

    def _all(self, name):
        for hook in self.hooks:
            getattr(hook, name)()


class Listener:
    def __init__(self):
        self.heard = []

    def on_evaluation(self, metrics, steps):
        self.heard.append((steps, metrics))


def evaluation(values, period=2, listeners=()):
    values = iter(values)
    return hooks.Evaluation(period, lambda: {"bbox": {"AP": next(values)}}, listeners)


# Evaluation


def test_evaluation_at_its_period_and_once_at_the_end():
    listener = Listener()
    trainer = FakeTrainer(evaluation([1, 2, 3], listeners=[listener]), max_iter=6).run()
    assert listener.heard == [(2, {"bbox/AP": 1}), (4, {"bbox/AP": 2}), (6, {"bbox/AP": 3})]
    assert trainer.storage.latest()["bbox/AP"] == (3, 6)
    assert trainer.last_results == {"bbox": {"AP": 3}}


def test_a_period_of_zero_evaluates_at_the_end_only():
    listener = Listener()
    FakeTrainer(evaluation([1], period=0, listeners=[listener])).run()
    assert [steps for steps, _ in listener.heard] == [6]


def test_an_evaluation_that_a_kill_prevented_is_made_up_for():
    listener = Listener()
    hook = evaluation([1, 2], listeners=[listener])
    FakeTrainer(hook, start_iter=4).run()
    assert [steps for steps, _ in listener.heard] == [4, 6]


def test_an_evaluation_that_was_done_is_not_repeated():
    listener = Listener()
    hook = evaluation([1, 2], listeners=[listener])
    hook.load_state_dict({"evaluated": 4})
    FakeTrainer(hook, start_iter=4).run()
    assert [steps for steps, _ in listener.heard] == [6]


# Best checkpoint and early stopping


def test_the_best_is_exported_and_remembered():
    best = hooks.BestCheckpoint("bbox/AP", "max")
    nan = float("nan")
    trainer = FakeTrainer(best, evaluation([nan, 5, 4, 6, 6], listeners=[best]), max_iter=10).run()
    assert trainer.exported == [
        ("model_best", {"iteration": 3, "metric": {"bbox/AP": 5}}),
        ("model_best", {"iteration": 7, "metric": {"bbox/AP": 6}}),
    ]
    resumed = hooks.BestCheckpoint("bbox/AP", "max")
    resumed.load_state_dict(best.state_dict())
    trainer = FakeTrainer(resumed, evaluation([5.5], listeners=[resumed]), max_iter=2).run()
    assert trainer.exported == []


def test_a_wrong_metric_names_the_right_ones():
    best = hooks.BestCheckpoint("bbox/mAP", "max")
    trainer = FakeTrainer(best, evaluation([1], listeners=[best]), max_iter=2)
    with pytest.raises(InputError, match="bbox/AP"):
        trainer.run()


@pytest.mark.parametrize(
    "value, best, mode, delta, expected",
    [
        (1.0, None, "max", 0.0, True),
        (1.0, 1.0, "max", 0.0, False),
        (1.4, 1.0, "max", 0.5, False),
        (1.6, 1.0, "max", 0.5, True),
        (0.4, 1.0, "min", 0.5, True),
        (0.6, 1.0, "min", 0.5, False),
        (float("nan"), None, "max", 0.0, False),
        (float("-inf"), 1.0, "min", 0.0, False),
    ],
)
def test_is_better(value, best, mode, delta, expected):
    assert is_better(value, best, mode, delta) is expected


def test_early_stopping_waits_for_its_patience():
    stop = hooks.EarlyStopping("bbox/AP", "max", patience=2, min_delta=1.0)
    trainer = FakeTrainer(
        stop, evaluation([5, 5.5, 6.5, 7.0, 7.2, 9], listeners=[stop]), max_iter=20
    )
    trainer.run()
    assert trainer.iter == 10  # 6.5 was an improvement by more than 1, 7.0 and 7.2 were none
    assert trainer.saved == [9]
    resumed = hooks.EarlyStopping("bbox/AP", "max", patience=2)
    resumed.load_state_dict(stop.state_dict())
    assert FakeTrainer(resumed, start_iter=10, max_iter=20).run().iter == 10


# Checkpoints and writers


def test_checkpoints_at_their_period_and_at_the_end():
    trainer = FakeTrainer(hooks.Checkpoint(4), max_iter=6).run()
    assert trainer.saved == [3, 5]
    assert trainer.exported == [("model_final", {"iteration": 5})]
    assert FakeTrainer(hooks.Checkpoint(0), max_iter=6).run().saved == [5]


def test_an_interrupt_saves_once_and_stops(capsys):
    import signal

    hook = hooks.Interrupt()
    trainer = FakeTrainer(hook)
    before = signal.getsignal(signal.SIGTERM)

    class Press:
        def before_train(self): ...
        def before_step(self): ...
        def after_train(self): ...
        def after_step(self):
            if trainer.iter == 2:
                signal.raise_signal(signal.SIGTERM)

    trainer.hooks = (Press(), hook)
    with pytest.raises(KeyboardInterrupt):
        trainer.run()
    hook.after_train()
    assert trainer.saved == [2]
    assert signal.getsignal(signal.SIGTERM) is before


def test_metrics_after_the_resumed_step_are_dropped(tmp_path):
    path = tmp_path / "metrics.json"
    lines = [json.dumps({"iteration": i}) for i in range(5)]
    path.write_text("\n".join(lines) + '\n{"iterat')
    hooks.drop_later_metrics(path, 3)
    assert path.read_text().splitlines() == lines[:3]
    hooks.drop_later_metrics(tmp_path / "none.json", 3)


# Validation loss


class Lossy(nn.Module):
    """Has everything that a loss in training mode could disturb."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(2)
        self.drop = nn.Dropout(0.5)
        self.linear = nn.Linear(2, 1)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, batch):
        assert self.training
        self.calls += 1
        self.loss_normalizer = 0.9 * getattr(self, "loss_normalizer", 1.0) + 0.1
        get_event_storage().put_scalar("inner", 1.0)
        x = torch.stack([item["image"] for item in batch])
        noise = torch.rand(())
        return {"loss": self.linear(self.drop(self.norm(x))).mean() + noise, "other": x.mean()}


def test_the_validation_loss_leaves_no_trace_and_repeats():
    torch.manual_seed(0)
    model = Lossy()
    model.linear.eval()
    batches = [[{"image": torch.randn(2)} for _ in range(n)] for n in (1, 3)]
    state = {k: v.clone() for k, v in model.state_dict().items()}
    modes = [m.training for m in model.modules()]

    def compute(model, batch):
        return model(batch)

    with EventStorage() as storage:
        first = mean_losses(model, batches, compute)
        second = mean_losses(model, batches, compute)
        assert storage.latest() == {}
    assert first == second
    assert all(torch.equal(state[k], v) for k, v in model.state_dict().items())
    assert [m.training for m in model.modules()] == modes
    assert not hasattr(model, "loss_normalizer")
    assert all(p.grad is None for p in model.parameters())
    # The mean is over images, not over batches.
    other = torch.cat([torch.stack([x["image"] for x in b]) for b in batches]).mean()
    assert first["other"] == pytest.approx(other.item())
    assert first["total_loss"] == pytest.approx(first["loss"] + first["other"])


def test_the_validation_hook_keeps_the_generators():
    hook = hooks.ValidationLoss(2, lambda: [[{"image": torch.rand(2)}]])
    trainer = FakeTrainer(hook, max_iter=2)
    trainer.evaluation_model = Lossy()
    trainer.compute_losses = lambda model, batch: model(batch)
    before = rng_state()["torch"]
    trainer.run()
    assert torch.equal(rng_state()["torch"], before)
    assert {"validation/loss", "validation/total_loss"} <= trainer.storage.latest().keys()


def test_loss_mode_puts_batch_norm_and_dropout_aside():
    model = Lossy().eval()
    with loss_mode(model):
        assert model.training and not model.norm.training and not model.drop.training
    assert not model.training


# Statistics, progress, pictures


def test_update_ratio_and_histograms():
    hook = hooks.Statistics(period=2, histogram_period=2)
    trainer = FakeTrainer(hook, max_iter=2)
    model = nn.ModuleDict(
        {"backbone": nn.ModuleDict({"stem": nn.Linear(3, 4)}), "head": nn.Linear(4, 1)}
    )
    trainer.bare_model = model
    trainer.images_last_step = 8

    class Step:
        def before_train(self): ...
        def after_train(self): ...
        def before_step(self): ...
        def after_step(self):
            with torch.no_grad():
                for p in model.backbone.parameters():
                    p *= 1.01
            trainer.storage.put_scalars(time=2.0, data_time=0.5)
            assert trainer.storage is get_event_storage()

    trainer.hooks = (Step(), hook)
    trainer.run()
    latest = {name: value for name, (value, _) in trainer.storage.latest().items()}
    assert latest["update_ratio/backbone.stem"] == pytest.approx(0.01, rel=1e-3)
    assert latest["update_ratio/head.weight"] == 0
    assert latest["images_per_second"] == 4
    assert latest["data_time_share"] == 0.25
    assert 10 < latest["memory_mib"] == pytest.approx(memory_mib(), rel=0.5)
    names = {histogram["tag"] for histogram in trainer.storage._histograms}
    assert "weights/backbone.stem.weight" in names


def test_progress_degrades_to_log_lines(caplog):
    import logging

    hook = hooks.Progress(period=3)
    trainer = FakeTrainer(hook, max_iter=7)

    class Losses:
        def before_train(self): ...
        def after_train(self): ...
        def before_step(self): ...
        def after_step(self):
            trainer.storage.put_scalars(total_loss=1.5, lr=0.01, time=2.0, data_time=1.0)

    trainer.hooks = (Losses(), hook)
    with caplog.at_level(logging.INFO, logger="seriatim"):
        trainer.run()
    lines = [r.getMessage() for r in caplog.records]
    assert [line.split()[1] for line in lines] == ["3/7", "6/7", "7/7"]
    assert "eta 0:00:08" in lines[0] and "total_loss 1.5" in lines[0] and "data 50%" in lines[0]


def test_progress_draws_a_bar_on_a_terminal(monkeypatch, capsys):
    import sys

    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    FakeTrainer(hooks.Progress(period=3), max_iter=4).run()
    assert "4/4" in capsys.readouterr().out


def test_pictures_are_of_the_same_images_every_time(tmp_path):
    from detectron2.data import DatasetCatalog
    from detectron2.structures import Boxes, Instances

    from seriatim.data.catalog import unregister_datasets

    from .support import load, write_config

    cfg = load(write_config(tmp_path))
    name = cfg.DATASETS.TEST[0]

    def predict(item):
        assert set(item) == {"image"}
        return {
            "instances": Instances(
                (64, 64),
                pred_boxes=Boxes(torch.tensor([[5.0, 5, 30, 30]])),
                scores=torch.tensor([0.9]),
                pred_classes=torch.tensor([0]),
            )
        }

    hook = hooks.Pictures(2, name, 2, lambda record: {"image": record["file_name"]}, predict)
    trainer = FakeTrainer(hook, max_iter=4).run()
    pictures = trainer.storage._vis_data
    assert [tag for tag, _, _ in pictures] == [tag for tag, _, _ in pictures[:2]] * 2
    picture = np.asarray(pictures[0][1])
    assert picture.dtype == np.uint8 and picture.shape[0] == 3
    assert len(DatasetCatalog.get(name)) == 4
    unregister_datasets([*cfg.DATASETS.TRAIN, name])
