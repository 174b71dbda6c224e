"""Two processes must do what one does; what is planted must show for its reason."""

import pytest
import torch
from detectron2.utils import comm

from seriatim.engine.trainer import Trainer
from seriatim.gates import processes
from seriatim.gates.processes import in_processes

from .pipelines import pipeline


def causes(context):
    with context.untouched():
        found = processes.findings(context)
    return [str(cause) for finding in found for cause in finding.causes[:2]]


def test_processes_form_a_group():
    def work(rank):
        return rank, comm.get_world_size(), comm.all_gather(rank)

    assert in_processes(2, work) == [(0, 2, [0, 1]), (1, 2, [0, 1])]


def test_a_process_that_fails_is_told():
    assert "division" in in_processes(2, lambda rank: 1 // 0)


@pytest.mark.parametrize("kind", ["retinanet", "task_aligned"])
def test_a_healthy_pipeline_is_not_accused(tmp_path, kind):
    assert causes(pipeline(tmp_path, kind)) == []


class SumsGradients(Trainer):
    def __init__(self, cfg):
        super().__init__(cfg)
        compute = self._trainer.compute_losses
        self._trainer.compute_losses = lambda model, batch: {
            name: loss * comm.get_world_size() for name, loss in compute(model, batch).items()
        }


class SameImages(Trainer):
    @classmethod
    def build_train_loader(cls, cfg, start_iteration=0):
        loader = super().build_train_loader(cfg, start_iteration)
        loader.batch_sampler._mine = slice(0, cfg.SOLVER.IMS_PER_BATCH // comm.get_world_size())
        return loader


class Bypasses(Trainer):
    def __init__(self, cfg):
        super().__init__(cfg)
        compute = self._trainer.compute_losses
        self._trainer.compute_losses = lambda model, batch: compute(
            getattr(model, "module", model), batch
        )


@pytest.mark.parametrize(
    ("trainer", "words"),
    [
        (SumsGradients, "gradients are the sum of those of 2 processes"),
        (SameImages, "does not know the rank"),
        (Bypasses, "gradients are not exchanged"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, trainer, words):
    assert any(words in cause for cause in causes(pipeline(tmp_path, "retinanet", trainer)))


def test_nothing_is_left_behind(tmp_path):
    context = pipeline(tmp_path, "retinanet")
    state = torch.get_rng_state()
    causes(context)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.distributed.is_initialized()
