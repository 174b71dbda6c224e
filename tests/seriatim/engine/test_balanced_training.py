"""Detectors whose losses are balanced by config train, and resume bit for bit."""

from __future__ import annotations

import pytest
import torch

from seriatim.engine.trainer import Trainer

from .support import load, write_config

WEIGHTS = [["loss_cls", 1.0], ["loss_box_reg", 1.0]]


@pytest.mark.parametrize("name", ["fixed", "uncertainty", "gradnorm"])
def test_a_detector_trains_and_resumes_with_balanced_losses(tmp_path, name):
    config = write_config(
        tmp_path,
        SERIATIM__LOSS_BALANCE={"NAME": name, "WEIGHTS": WEIGHTS},
        MODEL__RETINANET={"NUM_CONVS": 1, "IN_FEATURES": ["p3", "p4", "p5"]},
        TEST__EVAL_PERIOD=0,
        DATASETS__TEST=[],
        SOLVER__MAX_ITER=4,
    )

    def trained(folder, steps, resume=False):
        trainer = Trainer(load(config, "OUTPUT_DIR", str(tmp_path / folder)))
        trainer.resume_or_load(resume=resume)
        trainer.max_iter = steps
        trainer.train()
        return trainer.model.state_dict(), trainer.model.loss_balance.current()

    whole, weights = trained("whole", 4)
    trained("broken", 2)
    resumed, again = trained("broken", 4, resume=True)
    assert weights == again
    assert (weights == {"loss_cls": 1.0, "loss_box_reg": 1.0}) == (name == "fixed")
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)
