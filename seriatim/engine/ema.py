"""Exponential moving average of the weights (Polyak averaging), evaluated and saved beside them."""

from __future__ import annotations

from typing import Any

import torch
from detectron2.engine import HookBase
from torch import nn
from torch.optim.swa_utils import AveragedModel


class WeightAverage:
    """The moving average of a model's parameters and floating-point buffers (BatchNorm statistics).

    Update t (from 1) uses the decay `decay` × min(1, (t - 1) / warmup): the average starts as the
    weights themselves, so that the initialisation has no part in it, and reaches its full memory
    of 1 / (1 - decay) steps after `warmup` updates.
    """

    def __init__(self, model: nn.Module, decay: float, warmup: int) -> None:
        self._live = model
        self._decay, self._warmup = decay, max(1, warmup)
        self.averaged = AveragedModel(model, multi_avg_fn=self._average, use_buffers=True)

    @property
    def model(self) -> nn.Module:
        """A model of its own with the averaged weights."""
        return self.averaged.module

    @property
    def updates(self) -> int:
        return int(self.averaged.n_averaged)

    def start(self) -> None:
        """Before the first update the average is the model, with the weights loaded meanwhile."""
        if self.updates == 0:
            self.model.load_state_dict(self._live.state_dict())

    def update(self) -> None:
        self.averaged.update_parameters(self._live)

    def decay_at(self, updates: int) -> float:
        """The decay that the update after `updates` others uses."""
        return self._decay * min(1.0, updates / self._warmup)

    @torch.no_grad()
    def _average(
        self, averages: list[torch.Tensor], weights: list[torch.Tensor], updates: Any
    ) -> None:
        if averages[0].is_floating_point():
            torch._foreach_lerp_(averages, weights, 1 - self.decay_at(int(updates)))
        else:
            torch._foreach_copy_(averages, weights)

    def state_dict(self) -> dict[str, Any]:
        return {"model": self.model.state_dict(), "updates": self.updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.averaged.n_averaged.fill_(state["updates"])


class EMAHook(HookBase):
    """Update the average after every step. It belongs before every hook that saves or evaluates."""

    def __init__(self, average: WeightAverage) -> None:
        self._average = average

    def before_train(self) -> None:
        self._average.start()

    def after_step(self) -> None:
        self._average.update()
